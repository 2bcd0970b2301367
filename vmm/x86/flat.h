/* SPDX-License-Identifier: BSD-2-Clause */
/* The part of the loader of flat binaries that needs no KVM, so that tests can use it. */
#ifndef VMM_X86_FLAT_H
#define VMM_X86_FLAT_H

#include "vmm/error.h"
#include "vmm/loader.h"

struct vm;

/* Below this address a flat binary is entered in 16-bit real mode, else in 32-bit protected mode.
 */
#define FLAT_REAL_END 0x100000ULL
#define FLAT_STACK    0x7c00

/* Copy the image to its address, where it also begins. Loop thread. */
int flat_place(struct vm *vm, const struct boot_image *image, struct error *err);

#endif
