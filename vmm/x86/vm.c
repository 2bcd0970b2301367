/* SPDX-License-Identifier: BSD-2-Clause */
/* The x86 parts of a machine that are not one vCPU's: in-kernel chips, CPU model, tree nodes. */
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "vmm/arch.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/x86.h"

static int add_cpus(void *fdt, unsigned int cpus)
{
	int ret, node = fdt_add_subnode(fdt, 0, "cpus");

	if (node < 0)
		return node;
	ret = fdt_setprop_u32(fdt, node, "#address-cells", 1);
	ret = ret ? ret : fdt_setprop_u32(fdt, node, "#size-cells", 0);
	/* fdt_add_subnode puts a node in front of its siblings. */
	for (unsigned int i = cpus; i-- > 0 && ret == 0;) {
		char name[16];
		int cpu;

		snprintf(name, sizeof(name), "cpu@%x", i);
		cpu = fdt_add_subnode(fdt, node, name);
		if (cpu < 0)
			return cpu;
		ret = fdt_setprop_u32(fdt, cpu, "reg", i);
		ret = ret ? ret : fdt_setprop_string(fdt, cpu, "compatible", "ferry,x86-cpu");
		ret = ret ? ret : fdt_setprop_string(fdt, cpu, "device_type", "cpu");
	}
	return ret;
}

int arch_tree(void *fdt, unsigned int cpus)
{
	static const char *const fixed[][2] = {
		{ "clock", "ferry,x86-clock" },
		{ "timer", "ferry,x86-pit" },
		{ "interrupt-controller", "ferry,x86-irqchip" },
	};
	int ret = 0;

	for (unsigned int i = 0; i < sizeof(fixed) / sizeof(fixed[0]) && ret == 0; i++) {
		int node = fdt_add_subnode(fdt, 0, fixed[i][0]);

		if (node < 0)
			return node;
		ret = fdt_setprop(fdt, node, "compatible", fixed[i][1],
				  (int)strlen(fixed[i][1]) + 1);
	}
	return ret ? ret : add_cpus(fdt, cpus);
}

static int create_chips(struct vm *vm, struct error *err)
{
	struct kvm_pit_config pit = { 0 };
	uint64_t idmap = KVM_IDMAP_BASE;

	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &idmap) < 0 ||
	    ioctl(vm->fd, KVM_SET_TSS_ADDR, (unsigned long)KVM_TSS_BASE) < 0)
		return error_set(err, -errno, "kvm", "VM", "TSS address", "to be accepted", "%m");
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return error_set(err, -errno, "kvm", "VM", "interrupt controllers", "in the kernel",
				 "%m");
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
		return error_set(err, -errno, "kvm", "VM", "PIT", "in the kernel", "%m");
	return 0;
}

static int size_xsave(struct vm *vm, struct x86_vm *x86, struct error *err)
{
	int size = kvm_extension(vm, KVM_CAP_XSAVE2);

	x86->xsave2 = size > 0;
	x86->xsave_size = x86->xsave2 ? (uint32_t)size : (uint32_t)sizeof(struct kvm_xsave);
	if (x86->xsave_size > XSAVE_MAX)
		return error_set(err, -ENOTSUP, "kvm", "VM", "XSAVE area", "at most 12288 bytes",
				 "%u bytes", x86->xsave_size);
	return 0;
}

int arch_vm_init(struct vm *vm, struct error *err)
{
	struct x86_vm *x86 = calloc(1, sizeof(*x86));
	int ret;

	vm->arch = x86;
	if (!x86)
		return error_set(err, -ENOMEM, "realize", "machine", "", "memory", "none");
	ret = create_chips(vm, err);
	ret = ret ? ret : size_xsave(vm, x86, err);
	return ret ? ret : x86_cpuid_init(vm, err);
}

void arch_vm_free(struct vm *vm)
{
	free(vm->arch);
	vm->arch = NULL;
}

int arch_boot_tables(struct vm *vm, struct error *err)
{
	int ret = acpi_write(vm, err);

	return ret ? ret : mptable_write(vm, err);
}

void arch_resume(struct vm *vm)
{
	/* Tells the guest's watchdogs of the pause; refused while the guest has no kvmclock, which
	 * is then as it should be (KVM API 4.70). */
	for (unsigned int i = 0; i < vm->n_vcpus; i++)
		ioctl(vm->vcpus[i]->fd, KVM_KVMCLOCK_CTRL, 0);
}

uint64_t x86_realtime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t x86_elapsed_ns(uint64_t saved)
{
	uint64_t now = x86_realtime_ns();

	return now > saved ? now - saved : 0;
}
