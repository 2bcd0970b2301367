/* SPDX-License-Identifier: BSD-2-Clause */
/* What the loaders share: the memory map that guests are told, and where there is room in it. */
#ifndef VMM_X86_MEMMAP_H
#define VMM_X86_MEMMAP_H

#include <stdint.h>

#include "vmm/error.h"

struct memory;

/* Types of ACPI 15, "System Address Map Interfaces", which all boot protocols use. */
#define MEMMAP_RAM	1
#define MEMMAP_RESERVED 2
#define MEMMAP_MAX	4

struct memmap_range {
	uint64_t gpa, size;
	uint32_t type;
};

/* Fill @ranges, which has room for MEMMAP_MAX, in ascending order; returns how many there are. */
unsigned int x86_memmap(const struct memory *mem, struct memmap_range *ranges);

/* Find room for @size bytes in RAM below the hole, page aligned, as high as possible below *top
 * and not below @floor; *top becomes its gpa. An error names @what. */
int x86_memmap_place(const struct memory *mem, uint64_t size, uint64_t floor, uint64_t *top,
		     const char *what, struct error *err);

#endif
