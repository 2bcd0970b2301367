/* SPDX-License-Identifier: BSD-2-Clause */
/* The parts of a machine and how they come and go; vm_realize() is declared in vmm/vm.h. */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

struct vm;

/* Bring devices and vCPUs to their reset state. Paused. Loop thread. */
void machine_reset(struct vm *vm);
/* Let go of devices, vCPUs, memory and KVM; the machine is empty again. Paused. Loop thread. */
void machine_unrealize(struct vm *vm);

#endif
