/* SPDX-License-Identifier: BSD-2-Clause */
/* What an architecture's folder (vmm/x86/) provides to the rest of vmm/. */
#ifndef VMM_ARCH_H
#define VMM_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vmm/error.h"

struct vm;
struct vcpu;
struct machine_tree;

/* The root's "compatible": names machine type and architecture. */
const char *arch_machine(void);

/* Tell the processor that the thread waits for a change of memory. */
void arch_relax(void);

/* Where RAM must leave room for devices. */
void arch_memory_hole(uint64_t *start, uint64_t *end);
/* Registers and interrupt of the @i-th MMIO device; -ENOSPC when the machine has no more. */
int arch_mmio_slot(unsigned int i, uint64_t *gpa, uint64_t *size, uint32_t *gsi);

/* Nodes below the root that every machine of this architecture has: vCPUs, interrupt controllers,
 * clock. Appended to the root of @fdt, which has room; returns 0 or a libfdt error. */
int arch_tree(void *fdt, unsigned int cpus);

/* Say in the tree that the guest is handed what kernels of this architecture look for in one. @fdt
 * has room for arch_guest_tree_room() more bytes; returns 0 or a libfdt error. */
size_t arch_guest_tree_room(const void *fdt);
int arch_guest_tree(void *fdt);

/*
 * CPU models. What --cpu takes, for the help; putting such a @model into the finished @fdt, which
 * has @room bytes; and `ferry cpu`: print what this host offers, or with @n > 0 the largest model
 * common to the outputs of that in @files.
 */
const char *arch_cpu_help(void);
int arch_tree_cpu(void *fdt, size_t room, const char *model, struct error *err);
int arch_cpu_describe(const char *const *files, unsigned int n, FILE *out, struct error *err);

/* In-kernel interrupt controllers, the CPU model: after KVM_CREATE_VM, before vCPUs. What a tree
 * from options leaves open (the table of CPU features) is filled in vm->tree; what a tree from a
 * stream asks for and this host lacks is an error that names it. */
int arch_vm_init(struct vm *vm, struct error *err);
void arch_vm_free(struct vm *vm);

/* Put what firmware would tell the guest of its machine into guest RAM, made from vm->tree. At each
 * reset, before the boot image is placed. Loop thread. */
int arch_boot_tables(struct vm *vm, struct error *err);

/* One exit that is not MMIO. 0: handled; 1: the vCPU has crashed and was reported. vCPU thread. */
int arch_vcpu_exit(struct vcpu *vcpu);
/* Before the first vCPU runs again after a pause. Loop thread or a migration's. */
void arch_resume(struct vm *vm);

/* The guest has crashed: print what happened and what it usually means, registers, instruction
 * bytes, the exits before. vCPU thread. */
void arch_vcpu_report(struct vcpu *vcpu, FILE *out);

#endif
