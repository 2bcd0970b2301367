/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tables of CPUID leaves, without KVM: reading and checking them, the machine tree's form of them,
 * and whether a host can give what one promises. All functions are pure; any thread.
 */
#ifndef VMM_X86_CPUID_H
#define VMM_X86_CPUID_H

#include <linux/kvm.h>
#include <stdint.h>

#include "vmm/error.h"

#define CPUID_MAX 128

/* As KVM takes it: entries[0] to entries[head.nent - 1]. */
struct cpuid_table {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[CPUID_MAX];
};

/* The entry that answers a guest's CPUID, NULL when there is none. Of a checked table only one
 * can. */
struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t function, uint32_t index);
const struct kvm_cpuid_entry2 *cpuid_entry(const struct cpuid_table *table, uint32_t function,
					   uint32_t index);
/* A register, 0 to 3 for eax to edx, of an entry. */
uint32_t *cpuid_reg(struct kvm_cpuid_entry2 *e, unsigned int reg);

/* Refuse what two readers could read differently: an answer that is there twice, a leaf with and
 * without significant index, unknown flags. The error names the leaf. */
int cpuid_check(const struct cpuid_table *table, struct error *err);

/* The property ferry,cpuid of /cpus; what is read is checked. -ENOENT, without an error recorded,
 * when the tree has none. */
int cpuid_from_tree(const void *fdt, struct cpuid_table *table, struct error *err);
/* Returns 0 or a libfdt error; @fdt has room. */
int cpuid_to_tree(const struct cpuid_table *table, void *fdt);
/* Bytes that a tree must have room for. */
size_t cpuid_tree_room(const struct cpuid_table *table);

/* Can a host whose KVM offers @host run what @guest promises? If not, the error names vendor,
 * features or XSAVE component; @whose says whose promise it was ("the guest", "x86-64-v2"). */
int cpuid_fits(const struct cpuid_table *guest, const struct cpuid_table *host, const char *whose,
	       struct error *err);

/* What differs per vCPU: one package, a core a vCPU, APIC id = @id, of @n vCPUs. */
void cpuid_set_topology(struct cpuid_table *table, uint32_t id, uint32_t n);

#endif
