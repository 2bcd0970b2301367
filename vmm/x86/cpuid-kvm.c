/* SPDX-License-Identifier: BSD-2-Clause */
/* The CPU model and KVM: what this host offers, what the guest gets, each vCPU's table. */
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/device.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"
#include "vmm/x86/model.h"
#include "vmm/x86/x86.h"

#define PROP_TSC	       "ferry,tsc-khz"
#define CPUID_1_ECX_DEADLINE   (1U << 24)
#define CPUID_1_ECX_HYPERVISOR (1U << 31)

int x86_cpuid_host(int kvm_fd, struct cpuid_table *table, struct error *err)
{
	struct kvm_cpuid_entry2 *leaf1;

	memset(table, 0, sizeof(*table));
	table->head.nent = CPUID_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, table) < 0)
		return error_set(err, -errno, "kvm", "cpus", "CPUID", "KVM's table", "%m");
	leaf1 = cpuid_find(table, 1, 0);
	if (!leaf1)
		return error_set(err, -ENOTSUP, "kvm", "cpus", "CPUID", "leaf 1", "none");
	/* KVM leaves these two to the VMM: the guest finds kvmclock only with the first. */
	leaf1->ecx |= CPUID_1_ECX_HYPERVISOR;
	if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		leaf1->ecx |= CPUID_1_ECX_DEADLINE;
	/* KVM tells of the CPU that it was asked on; a model is that of every vCPU. */
	cpuid_set_topology(table, 0, 1);
	return 0;
}

/* A destination builds the guest's CPUs from this instead of from its own. */
static int to_tree(struct vm *vm, const struct x86_vm *x86, struct error *err)
{
	size_t size = fdt_totalsize(vm->tree) + cpuid_tree_room(&x86->cpuid) + 256;
	void *tree = realloc(vm->tree, size);
	int ret;

	if (!tree)
		return error_set(err, -ENOMEM, "realize", "cpus", "", "memory", "none");
	vm->tree = tree;
	ret = fdt_open_into(tree, tree, (int)size);
	ret = ret ? ret
		  : fdt_setprop_u32(tree, fdt_path_offset(tree, "/cpus"), PROP_TSC, x86->tsc_khz);
	ret = ret ? ret : cpuid_to_tree(&x86->cpuid, tree);
	ret = ret ? ret : fdt_pack(tree);
	if (ret)
		return error_set(err, -EINVAL, "realize", "cpus", "CPUID", "room in the tree", "%s",
				 fdt_strerror(ret));
	return 0;
}

/* The guest's table: that of the tree, else the model which the tree names, made of the host's. */
static int guest_table(struct vm *vm, const struct cpuid_table *host, struct cpuid_table *guest,
		       struct error *err)
{
	const char *name =
		device_node_string(vm->tree, fdt_path_offset(vm->tree, "/cpus"), PROP_CPU_MODEL);
	int ret = cpuid_from_tree(vm->tree, guest, err);

	if (ret == 0)
		return cpuid_fits(guest, host, "the guest", err);
	if (ret != -ENOENT)
		return ret;
	ret = model_build(name ? name : "host", host, guest, err);
	return ret ? ret : cpuid_check(guest, err);
}

int x86_cpuid_init(struct vm *vm, struct error *err)
{
	struct x86_vm *x86 = vm->arch;
	struct cpuid_table *host = calloc(1, sizeof(*host));
	const fdt32_t *khz;
	int len, host_khz, ret;

	if (!host)
		return error_set(err, -ENOMEM, "realize", "cpus", "", "memory", "none");
	ret = x86_cpuid_host(vm->kvm_fd, host, err);
	ret = ret ? ret : guest_table(vm, host, &x86->cpuid, err);
	free(host);
	if (ret < 0)
		return ret;
	khz = fdt_getprop(vm->tree, fdt_path_offset(vm->tree, "/cpus"), PROP_TSC, &len);
	if (khz && len == 4) {
		x86->tsc_khz = fdt32_ld(khz);
		return 0;
	}
	host_khz = ioctl(vm->fd, KVM_GET_TSC_KHZ, 0);
	x86->tsc_khz = host_khz > 0 ? (uint32_t)host_khz : 0;
	return to_tree(vm, x86, err);
}

int x86_cpuid_set(struct vcpu *vcpu, unsigned int n_vcpus, struct error *err)
{
	const struct x86_vm *x86 = vcpu->vm->arch;
	struct cpuid_table *table = malloc(sizeof(*table));
	int ret = 0;

	if (!table)
		return error_set(err, -ENOMEM, "realize", "cpus", "", "memory", "none");
	*table = x86->cpuid;
	cpuid_set_topology(table, vcpu->index, n_vcpus);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, table) < 0)
		ret = error_set(err, -errno, "realize", "cpus", "CPUID", "a table that KVM takes",
				"%m");
	free(table);
	return ret;
}
