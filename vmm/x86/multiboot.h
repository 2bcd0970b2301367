/* SPDX-License-Identifier: BSD-2-Clause */
/* The part of the multiboot loader that needs no KVM, so that tests can feed it hostile files. */
#ifndef VMM_X86_MULTIBOOT_H
#define VMM_X86_MULTIBOOT_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/error.h"
#include "vmm/loader.h"

struct vm;

/* Is there a multiboot header where the specification has it? */
bool multiboot_has_header(const struct boot_file *kernel);

/* Put image, modules, command line and information into guest RAM; *entry becomes the gpa to enter
 * at, which is in RAM. After an error RAM holds part of it. Loop thread. */
int multiboot_place(struct vm *vm, const struct boot_image *image, uint32_t *entry,
		    struct error *err);

#endif
