/* SPDX-License-Identifier: BSD-2-Clause */
/* The part of the bzImage loader that needs no KVM, so that tests can feed it hostile files. */
#ifndef VMM_X86_BZIMAGE_H
#define VMM_X86_BZIMAGE_H

#include <stdint.h>

#include "vmm/error.h"
#include "vmm/loader.h"

struct vm;

/* Put kernel, initrd, command line, tree, "zero page", page tables and GDT into guest RAM; *entry
 * becomes the gpa of the 64-bit entry, which is in RAM. After an error RAM holds part of it. Loop
 * thread. */
int bzimage_place(struct vm *vm, const struct boot_image *image, uint64_t *entry,
		  struct error *err);

#endif
