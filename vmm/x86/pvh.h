/* SPDX-License-Identifier: BSD-2-Clause */
/* The part of the PVH loader that needs no KVM, so that tests can feed it hostile files. */
#ifndef VMM_X86_PVH_H
#define VMM_X86_PVH_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/error.h"
#include "vmm/loader.h"

struct vm;

/* Is this an ELF with a PVH note? Then it is booted by that, whatever else it has. */
bool pvh_has_note(const struct boot_file *kernel);

/* Put image, initrd, command line, tree and start info into guest RAM; *entry becomes the gpa to
 * enter at, which is in RAM. After an error RAM holds part of it. Loop thread. */
int pvh_place(struct vm *vm, const struct boot_image *image, uint64_t *entry, struct error *err);

#endif
