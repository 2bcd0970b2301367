/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include <stdbool.h>

#include "vmm/error.h"

struct vm;

/* Open /dev/kvm and check that it is what this build needs. The error says why it is not, and what
 * to do about it. Returns the descriptor. */
int kvm_open(struct error *err);

/* KVM_CREATE_VM and the memory slots of vm->memory. */
int kvm_create_vm(struct vm *vm, struct error *err);

/* KVM_CHECK_EXTENSION on the VM: 0 when absent. */
int kvm_extension(const struct vm *vm, unsigned long cap);

/* How many vCPUs this VM may have, VM_MAX_VCPUS at most. */
unsigned int kvm_max_vcpus(const struct vm *vm);

/* Switch the dirty log of all memory slots on or off. */
int kvm_set_slots(struct vm *vm, bool log_dirty, struct error *err);

#endif
