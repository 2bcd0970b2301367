/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest RAM: mapping it, the one checked way to it, and the log of our own writes. */
#include "vmm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE (2UL << 20)
#define MIB  (1UL << 20)

static int map_failed(const struct memory *mem, enum memory_backing backing, struct error *err)
{
	int code = -errno;

	if (backing == MEMORY_HUGETLB)
		error_set(err, code, "memory", "RAM", "hugetlb", "", "%m");
	else
		error_set(err, code, "memory", "RAM", "size", "", "%m");
	if (backing == MEMORY_HUGETLB)
		error_expected(err, "%llu free pages of 2 MiB (see /proc/sys/vm/nr_hugepages)",
			       (unsigned long long)(mem->size / HUGE));
	else
		error_expected(err, "%llu MiB of address space",
			       (unsigned long long)(mem->size / MIB));
	return code;
}

/*
 * Map a region on a 2 MiB boundary, which huge pages need: reserve too much, map inside it, and
 * give back what is around. RAM that the guest never touches costs nothing (MAP_NORESERVE), except
 * with hugetlb, where a lack of pages must show now and not as a SIGBUS later.
 */
static int map_region(struct memory *mem, struct memory_region *region, enum memory_backing backing,
		      uint64_t file_offset, struct error *err)
{
	int flags = backing == MEMORY_ANON ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
		    : backing == MEMORY_HUGETLB
			    ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT)
			    : MAP_SHARED | MAP_NORESERVE;
	size_t reserve = region->size + HUGE;
	char *base, *start;

	base = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return map_failed(mem, backing, err);
	start = base + (HUGE - (uintptr_t)base % HUGE) % HUGE;
	if (mmap(start, region->size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, mem->fd,
		 (off_t)file_offset) == MAP_FAILED) {
		map_failed(mem, backing, err);
		munmap(base, reserve);
		return -ENOMEM;
	}
	if (start > base)
		munmap(base, (size_t)(start - base));
	munmap(start + region->size, reserve - region->size - (size_t)(start - base));
	region->hva = start;

	/* Both are wishes: a kernel without huge pages or without core dumps is fine. */
	if (backing != MEMORY_HUGETLB)
		madvise(start, region->size, MADV_HUGEPAGE);
	madvise(start, region->size, MADV_DONTDUMP);
	return 0;
}

static int add_region(struct memory *mem, uint64_t gpa, uint64_t size, enum memory_backing backing,
		      uint64_t file_offset, struct error *err)
{
	struct memory_region *region = &mem->regions[mem->n_regions];
	size_t words = (size / PAGE_SIZE + 63) / 64;
	int ret;

	region->gpa = gpa;
	region->size = size;
	region->slot = mem->n_regions;
	mem->n_regions++;
	ret = map_region(mem, region, backing, file_offset, err);
	if (ret < 0)
		return ret;
	region->own = calloc(words, sizeof(*region->own));
	if (!region->own)
		return error_set(err, -ENOMEM, "memory", "RAM", "log", "memory", "none");
	return 0;
}

static int check_size(uint64_t size, enum memory_backing backing, uint64_t hole_end,
		      struct error *err)
{
	uint64_t unit = backing == MEMORY_HUGETLB ? HUGE : PAGE_SIZE;

	if (size >= MEMORY_MIN && size % unit == 0 && size < INT64_MAX - hole_end)
		return 0;
	error_set(err, -EINVAL, "memory", "RAM", "size", "", "%llu bytes",
		  (unsigned long long)size);
	error_expected(err, "at least %lu MiB, in steps of %llu KiB", MEMORY_MIN / MIB,
		       (unsigned long long)unit / 1024);
	return -EINVAL;
}

static int open_memfd(struct memory *mem, struct error *err)
{
	mem->fd = memfd_create("ferry-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* Whoever it is handed over to wants to be sure that it stays as long as it is. */
	if (mem->fd < 0 || ftruncate(mem->fd, (off_t)mem->size) < 0 ||
	    fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return error_set(err, -errno, "memory", "RAM", "shared", "a memfd of that size",
				 "%m");
	return 0;
}

int memory_alloc(struct memory *mem, uint64_t size, enum memory_backing backing,
		 uint64_t hole_start, uint64_t hole_end, struct error *err)
{
	uint64_t low = size < hole_start ? size : hole_start;
	int ret;

	memset(mem, 0, sizeof(*mem));
	mem->fd = -1;
	ret = check_size(size, backing, hole_end, err);
	if (ret < 0)
		return ret;
	mem->size = size;
	mem->backing = backing;
	if (backing == MEMORY_SHARED && (ret = open_memfd(mem, err)) < 0)
		return ret;
	ret = add_region(mem, 0, low, backing, 0, err);
	if (ret == 0 && size > low)
		ret = add_region(mem, hole_end, size - low, backing, low, err);
	return ret;
}

void memory_free(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		struct memory_region *region = &mem->regions[i];

		if (region->hva)
			munmap(region->hva, region->size);
		free(region->own);
	}
	/* All zeros is an empty memory too, so 0 need not be a descriptor of ours. */
	if (mem->size && mem->fd >= 0)
		close(mem->fd);
	memset(mem, 0, sizeof(*mem));
	mem->fd = -1;
}

/* The region that holds all of [gpa, gpa + len), which may not be empty. */
static const struct memory_region *find_region(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		const struct memory_region *region = &mem->regions[i];
		uint64_t offset = gpa - region->gpa;

		if (gpa >= region->gpa && offset < region->size)
			return len && len <= region->size - offset ? region : NULL;
	}
	return NULL;
}

void *memory_hva(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	const struct memory_region *region = find_region(mem, gpa, len);

	return region ? (char *)region->hva + (gpa - region->gpa) : NULL;
}

int memory_read(const struct memory *mem, uint64_t gpa, void *buf, size_t len)
{
	const void *hva = memory_hva(mem, gpa, len);

	if (!hva)
		return -EFAULT;
	memcpy(buf, hva, len);
	return 0;
}

int memory_write(const struct memory *mem, uint64_t gpa, const void *buf, size_t len)
{
	void *hva = memory_hva(mem, gpa, len);

	if (!hva)
		return -EFAULT;
	memcpy(hva, buf, len);
	memory_mark_dirty(mem, gpa, len);
	return 0;
}

/* The bits [from, to) of a word, 0 <= from < to <= 64. */
static uint64_t bits(unsigned int from, unsigned int to)
{
	return (~0ULL >> (64 - (to - from))) << from;
}

void memory_mark_dirty(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	const struct memory_region *region = find_region(mem, gpa, len);
	uint64_t page, end;

	if (!region)
		return;
	page = (gpa - region->gpa) >> PAGE_SHIFT;
	end = ((gpa - region->gpa + len - 1) >> PAGE_SHIFT) + 1;
	while (page < end) {
		uint64_t word = page / 64, next = (word + 1) * 64;
		unsigned int to = end < next ? end % 64 : 64;

		/*
		 * Also when the bits look set already: only a read-modify-write is sure to come
		 * after the write it reports, and so to be seen or to find the bit still there.
		 */
		atomic_fetch_or(&region->own[word], bits(page % 64, to));
		page = next;
	}
}

int memory_discard(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	/* Of a file the mapping is only a view: a hole has to be made in the file (madvise(2)). */
	int advice = mem->backing == MEMORY_SHARED ? MADV_REMOVE : MADV_DONTNEED;
	void *hva = memory_hva(mem, gpa, len);

	if (!hva)
		return -EFAULT;
	if (gpa % PAGE_SIZE || len % PAGE_SIZE)
		return -EINVAL;
	/* Of a private view of a file what would come back is what the file has. */
	if (mem->backing == MEMORY_HUGETLB || mem->backing == MEMORY_FILE || mem->keep)
		return -EOPNOTSUPP;
	if (madvise(hva, len, advice) < 0)
		return -errno;
	memory_mark_dirty(mem, gpa, len);
	return 0;
}

void memory_fetch_own(struct memory_region *region, uint64_t first, uint64_t n, uint64_t *bitmap)
{
	uint64_t words = (n + 63) / 64;

	for (uint64_t i = first / 64; i < first / 64 + words; i++) {
		if (atomic_load_explicit(&region->own[i], memory_order_relaxed))
			bitmap[i] |= atomic_exchange(&region->own[i], 0);
	}
}
