/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What reading the dirty log costs in user space, without KVM: a bitmap as dirty_log_fetch() and
 * ram_save_fetch() go through it, by the size of RAM, and the entries of a ring. CPU time of the
 * thread. What the kernel adds is a copy of the bitmap, which is in here, too, and the same work a
 * page on both ways, to make it read-only again.
 */
#include <err.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vmm/dirty-ring.h"
#include "vmm/memory.h"

#define RUNS	21
#define ENTRIES 4096U
#define GIB	(1ULL << 30)

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void print(const char *what, uint64_t *ns, double unit)
{
	qsort(ns, RUNS, sizeof(*ns), by_size);
	printf("%s: %.3f (%.3f–%.3f)\n", what, (double)ns[RUNS / 2] / unit, (double)ns[0] / unit,
	       (double)ns[RUNS - 1] / unit);
}

static void bitmap(uint64_t gib)
{
	size_t words = gib * (GIB >> PAGE_SHIFT) / 64;
	uint64_t *kernel = malloc(words * 8), *to_send = malloc(words * 8), ns[RUNS];
	uint64_t dirty = 0;
	char what[64];

	memset(kernel, 0x10, words * 8);
	memset(to_send, 0, words * 8);
	for (unsigned int run = 0; run < RUNS; run++) {
		uint64_t start = cpu_ns(), *fetched = calloc(words, 8);

		memcpy(fetched, kernel, words * 8);
		for (size_t i = 0; i < words; i++)
			to_send[i] |= fetched[i];
		free(fetched);
		for (size_t i = 0; i < words; i++)
			dirty += (uint64_t)__builtin_popcountll(to_send[i]);
		ns[run] = cpu_ns() - start;
	}
	if (dirty == 0)
		errx(1, "nothing was dirty");
	snprintf(what, sizeof(what), "bitmap of %llu GiB, ms", (unsigned long long)gib);
	print(what, ns, 1e6);
	free(kernel);
	free(to_send);
}

static int ring(void)
{
	struct kvm_dirty_gfn *entries = calloc(ENTRIES, sizeof(*entries));
	uint64_t ns[RUNS], random = 1;
	struct error err = { 0 };
	struct memory mem;

	if (memory_alloc(&mem, 64 * GIB, MEMORY_ANON, 3 * GIB, 4 * GIB, &err) < 0) {
		error_print(&err);
		return 1;
	}
	for (unsigned int run = 0; run < RUNS; run++) {
		uint32_t next = 0;
		uint64_t start;

		for (unsigned int i = 0; i < ENTRIES; i++) {
			random = random * 6364136223846793005ULL + 1442695040888963407ULL;
			entries[i] = (struct kvm_dirty_gfn){ KVM_DIRTY_GFN_F_DIRTY, 1,
							     (random >> 33) % (61 * GIB >> 12) };
		}
		start = cpu_ns();
		dirty_ring_read(&mem, entries, ENTRIES, &next);
		ns[run] = cpu_ns() - start;
	}
	print("ring, ns an entry (random pages of 64 GiB)", ns, ENTRIES);
	memory_free(&mem);
	free(entries);
	return 0;
}

int main(void)
{
	for (uint64_t gib = 1; gib <= 256; gib *= 4)
		bitmap(gib);
	return ring();
}
