/* SPDX-License-Identifier: BSD-2-Clause */
/* What loaders have in common at their end: where files go, and the registers to enter with. */
#ifndef VMM_X86_ENTRY_H
#define VMM_X86_ENTRY_H

#include <stdint.h>

#include "vmm/error.h"

struct vm;

/* Copy @size bytes to a page boundary as high as possible in RAM, above @floor and below *top,
 * which becomes where they are. -ENOSPC names @what. Loop thread. */
int entry_place(struct vm *vm, const void *data, uint64_t size, uint64_t floor, uint64_t *top,
		const char *what, struct error *err);

/* The first vCPU begins in flat 32-bit protected mode without paging, at @eip. Loop thread. */
int entry_protected(struct vm *vm, uint32_t eip, uint32_t esp, uint32_t eax, uint32_t ebx,
		    struct error *err);
/* … in 16-bit real mode at the linear address @start, which is below 1 MiB; the stack grows down
 * from @sp, segments but CS are 0. */
int entry_real(struct vm *vm, uint32_t start, uint16_t sp, struct error *err);

#endif
