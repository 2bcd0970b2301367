/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flat binaries: put at an address and entered at their first byte, in real mode below 1 MiB, as a
 * boot sector is, else in flat 32-bit protected mode. There is no BIOS, and nothing is handed over:
 * no command line, no memory map. The stack grows down from 0x7c00.
 */
#include "vmm/x86/flat.h"

#include <errno.h>

#include "vmm/vm.h"
#include "vmm/x86/entry.h"

/* Only by --flat: any file could be one. */
static bool flat_probe(const struct boot_file *kernel)
{
	(void)kernel;
	return false;
}

int flat_place(struct vm *vm, const struct boot_image *image, struct error *err)
{
	const struct boot_file *kernel = &image->kernel;

	if (image->initrd.data || image->cmdline[0])
		return error_set(err, -EINVAL, "boot", kernel->path,
				 image->initrd.data ? "--initrd" : "--cmdline",
				 "none, as a flat binary is handed nothing", "one");
	if (image->flat_address > UINT32_MAX ||
	    memory_write(&vm->memory, image->flat_address, kernel->data, kernel->size) < 0) {
		error_set(err, -ENOEXEC, "boot", kernel->path, "--flat", "", "0x%llx",
			  (unsigned long long)image->flat_address);
		error_expected(err, "an address below 4 GiB that has %zu bytes of RAM",
			       kernel->size);
		return -ENOEXEC;
	}
	return 0;
}

static int flat_load(struct vm *vm, const struct boot_image *image, struct error *err)
{
	int ret = flat_place(vm, image, err);

	if (ret < 0)
		return ret;
	if (image->flat_address < FLAT_REAL_END)
		return entry_real(vm, (uint32_t)image->flat_address, FLAT_STACK, err);
	return entry_protected(vm, (uint32_t)image->flat_address, FLAT_STACK, 0, 0, err);
}

static const struct loader flat_loader = {
	.name = "flat",
	.flat = true,
	.probe = flat_probe,
	.load = flat_load,
};
LOADER(flat_loader);
