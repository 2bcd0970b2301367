/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include "vmm/error.h"

struct vm;

/* Read the files named in /chosen of the machine tree and let the loader that knows the kernel's
 * format place them. Devices and vCPUs have been reset. Loop thread. */
int boot_load(struct vm *vm, struct error *err);

#endif
