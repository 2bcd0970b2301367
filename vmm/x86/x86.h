/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of vmm/x86/ share. */
#ifndef VMM_X86_X86_H
#define VMM_X86_X86_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/device.h"
#include "vmm/error.h"
#include "vmm/x86/cpuid.h"

struct vm;
struct vcpu;

#define MSR_MAX 256
/* Room for the largest XSAVE area there is, with AMX tiles. */
#define XSAVE_MAX 12288

/* vm->arch */
struct x86_vm {
	struct cpuid_table cpuid;
	uint32_t msrs[MSR_MAX]; /* that this host lets us read and a migration must carry */
	uint32_t n_msrs;
	uint32_t tsc_khz;
	uint32_t xsave_size; /* bytes KVM_GET_XSAVE2 writes; 4096 with KVM_GET_XSAVE */
	bool xsave2;
};

/* What KVM on this host can give a guest; @kvm_fd is /dev/kvm. */
int x86_cpuid_host(int kvm_fd, struct cpuid_table *table, struct error *err);
/* The CPU model: into vm->arch, from the tree when it has one, else the model that the tree names,
 * made of the host's features, and then into the tree. A feature that the tree asks for and the
 * host lacks is an error that names it. */
int x86_cpuid_init(struct vm *vm, struct error *err);
/* Give a vCPU its table: the model plus what differs per vCPU (APIC ids, topology). */
int x86_cpuid_set(struct vcpu *vcpu, unsigned int n_vcpus, struct error *err);

struct x86_msr {
	uint32_t index;
	uint64_t value;
};

/* Fill x86_vm.msrs by asking @vcpu_fd for each. */
int x86_msr_probe(struct x86_vm *x86, int kvm_fd, int vcpu_fd, struct error *err);
int x86_msr_get(int vcpu_fd, struct x86_msr *msrs, uint32_t n, struct error *err,
		const char *device);
/* Some hosts refuse an MSR that they list; that is an error only when the value is not there
 * already. So it is with one that only the other host has: a guest that was shown nothing which
 * uses it leaves it at 0. */
int x86_msr_set(int vcpu_fd, const struct x86_msr *msrs, uint32_t n, struct error *err,
		const char *device);

#define MSR_TSC		 0x10
#define MSR_TSC_DEADLINE 0x6e0

/* ns of CLOCK_REALTIME: what guest clocks are advanced by between saving and loading. */
uint64_t x86_realtime_ns(void);
/* ns since @saved, 0 when the clock of this host is behind. */
uint64_t x86_elapsed_ns(uint64_t saved);

#endif
