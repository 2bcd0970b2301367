/* SPDX-License-Identifier: BSD-2-Clause */
/* Stand-ins for parts of the machine that have not been written yet; gone once they are. */
#include <libfdt.h>

#include "vmm/arch.h"
#include "vmm/vm.h"

__attribute__((weak)) int arch_tree(void *fdt, unsigned int cpus)
{
	(void)cpus;
	return fdt_add_subnode(fdt, 0, "cpus") < 0 ? -FDT_ERR_NOSPACE : 0;
}

__attribute__((weak)) void vm_request(struct vm *vm, unsigned int request)
{
	vm->requests |= request;
}

__attribute__((weak)) void vm_request_exit(struct vm *vm, int status)
{
	vm->exit_status = status;
	vm_request(vm, VM_REQUEST_EXIT);
}
