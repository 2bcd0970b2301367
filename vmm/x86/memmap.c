/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The memory map of a PC: RAM, with what firmware has its tables in from the extended BIOS data
 * area to 1 MiB, and the hole below 4 GiB. The text screen in there is plain RAM, but reserved.
 */
#include "vmm/x86/memmap.h"

#include <errno.h>

#include "vmm/memory.h"
#include "vmm/x86/platform.h"

static unsigned int add(struct memmap_range *ranges, unsigned int n, uint64_t from, uint64_t to,
			uint32_t type)
{
	if (from < to)
		ranges[n++] = (struct memmap_range){ from, to - from, type };
	return n;
}

unsigned int x86_memmap(const struct memory *mem, struct memmap_range *ranges)
{
	unsigned int n = 0;

	n = add(ranges, n, 0, EBDA_START, MEMMAP_RAM);
	n = add(ranges, n, EBDA_START, HIGH_RAM_START, MEMMAP_RESERVED);
	n = add(ranges, n, HIGH_RAM_START, mem->regions[0].size, MEMMAP_RAM);
	if (mem->n_regions > 1)
		n = add(ranges, n, HOLE_END, HOLE_END + mem->regions[1].size, MEMMAP_RAM);
	return n;
}

int x86_memmap_place(const struct memory *mem, uint64_t size, uint64_t floor, uint64_t *top,
		     const char *what, struct error *err)
{
	uint64_t end = *top < mem->regions[0].size ? *top : mem->regions[0].size;
	uint64_t gpa = size < end ? (end - size) & ~(PAGE_SIZE - 1) : 0;

	if (gpa == 0 || gpa < floor) {
		error_set(err, -ENOSPC, "boot", what, "size", "", "%llu bytes",
			  (unsigned long long)size);
		error_expected(err, "at most %llu bytes, what RAM has left beside the kernel",
			       (unsigned long long)(end > floor ? end - floor : 0));
		return -ENOSPC;
	}
	*top = gpa;
	return 0;
}
