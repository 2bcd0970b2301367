/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <stddef.h>

#include "vmm/error.h"

struct vm;
struct boot_file;

/* What an image that no loader knows looks like, in words; returns @buf. Any thread. */
const char *boot_guess(const struct boot_file *file, char *buf, size_t size);

/* Read the files named in /chosen of the machine tree and let the loader that knows the kernel's
 * format place them. Devices and vCPUs have been reset. Loop thread. */
int boot_load(struct vm *vm, struct error *err);

#endif
