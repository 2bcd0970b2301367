/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM that changes hands by its memfd, without a byte of it being moved.
 *
 * Two processes have it mapped for a while, and only one may write to it. Whose turn it is follows
 * the hand-over of the guest; that the other one cannot is left to the MMU, not to our diligence:
 * what is adopted is mapped for reading only, and what was given away is made so.
 */
#include "vmm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Without these its owner could cut it short under us, and every access would be a SIGBUS. */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int refuse(struct error *err, int code, const char *field, const char *expected,
		  const char *got)
{
	return error_set(err, code, "load", "RAM", field, expected, "%s", got);
}

/* hugetlbfs has seals, too, but its pages may run out when they are touched. */
static int check_kind(int fd, struct error *err)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return refuse(err, -errno, "descriptor", "a memfd", strerror(errno));
	if (fs.f_type != TMPFS_MAGIC || fcntl(fd, F_GET_SEALS) < 0)
		return refuse(err, -EINVAL, "descriptor", "a memfd", "something else");
	return 0;
}

static int check(const struct memory *mem, int fd, struct error *err)
{
	struct stat st;
	int ret = check_kind(fd, err);

	if (ret < 0)
		return ret;
	if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS)
		return refuse(err, -EPERM, "seals", "F_SEAL_SHRINK and F_SEAL_GROW",
			      "a memfd without them");
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != mem->size) {
		error_set(err, -EINVAL, "load", "RAM", "size", "", "%lld bytes",
			  (long long)st.st_size);
		error_expected(err, "%llu bytes", (unsigned long long)mem->size);
		return -EINVAL;
	}
	/* Seals against writing, or a descriptor without the right to, show now and not later. */
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR ||
	    (fcntl(fd, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
		return refuse(err, -EACCES, "descriptor", "one that can be written to",
			      "one that cannot");
	return 0;
}

static int protect(struct memory *mem, int prot)
{
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		if (mprotect(mem->regions[i].hva, mem->regions[i].size, prot) < 0)
			return -errno;
	}
	return 0;
}

int memory_adopt(struct memory *mem, int fd, struct error *err)
{
	off_t offset = 0;
	int ret = 0;

	if (mem->backing != MEMORY_SHARED || mem->adopted)
		ret = refuse(err, -EINVAL, "descriptor",
			     "one, and a machine whose RAM is shared memory",
			     mem->adopted ? "one more" : "a machine with other RAM");
	ret = ret < 0 ? ret : check(mem, fd, err);
	for (unsigned int i = 0; i < mem->n_regions && ret == 0; i++) {
		struct memory_region *r = &mem->regions[i];

		/* In the same place, where KVM's slots lead already. */
		if (mmap(r->hva, r->size, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd,
			 offset) == MAP_FAILED)
			ret = refuse(err, -errno, "descriptor", "to be mapped", strerror(errno));
		offset += (off_t)r->size;
	}
	if (ret < 0) {
		close(fd);
		return ret;
	}
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		madvise(mem->regions[i].hva, mem->regions[i].size, MADV_HUGEPAGE);
		madvise(mem->regions[i].hva, mem->regions[i].size, MADV_DONTDUMP);
	}
	close(mem->fd);
	mem->fd = fd;
	mem->adopted = true;
	return 0;
}

int memory_take_over(struct memory *mem, struct error *err)
{
	int ret = mem->adopted ? protect(mem, PROT_READ | PROT_WRITE) : 0;

	if (ret < 0)
		return refuse(err, ret, "", "to be written to", strerror(-ret));
	mem->adopted = false;
	return 0;
}

void memory_give_up(struct memory *mem)
{
	if (mem->given)
		protect(mem, PROT_READ);
}

int memory_check_given(const struct memory *mem, struct error *err)
{
	if (!mem->given)
		return 0;
	return error_set(
		err, -EPERM, "claim", "RAM", "", "RAM that is ours alone",
		"RAM that was handed over, and that the other side may have written to, "
		"or may still fetch (postcopy: until migrate_cancel force=true has ended it)");
}
