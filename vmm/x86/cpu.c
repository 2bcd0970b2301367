/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU as a device of the machine tree: its registers as state.
 *
 * The order of applying them matters (KVM API 4.x of each): special registers first, since they
 * hold the APIC base and the mode the others are read in; the TSC before the timer that compares
 * with it; the local APIC before its deadline MSR; events after what could raise them; the run
 * state last.
 */
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/vcpu.h"
#include "vmm/vm.h"
#include "vmm/x86/x86.h"

struct x86_cpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	uint32_t mp_state;
	uint64_t tsc, tsc_realtime; /* ns: when tsc was read */
	uint64_t tsc_deadline;
	uint32_t n_msrs;
	struct x86_msr msrs[MSR_MAX];
	uint32_t n_xsave;
	uint8_t xsave[XSAVE_MAX];
};

struct x86_cpu {
	struct device dev;
	struct vcpu *vcpu;
	struct x86_cpu_state state;
	struct x86_cpu_state at_reset; /* as KVM creates a vCPU */
};

static const struct field segment_fields[] = {
	FIELD_ANY(struct kvm_segment, base),
	FIELD_ANY(struct kvm_segment, limit),
	FIELD_ANY(struct kvm_segment, selector),
	FIELD_INT(struct kvm_segment, type, 0, 15),
	FIELD_BOOL(struct kvm_segment, present),
	FIELD_INT(struct kvm_segment, dpl, 0, 3),
	FIELD_BOOL(struct kvm_segment, db),
	FIELD_BOOL(struct kvm_segment, s),
	FIELD_BOOL(struct kvm_segment, l),
	FIELD_BOOL(struct kvm_segment, g),
	FIELD_BOOL(struct kvm_segment, avl),
	FIELD_BOOL(struct kvm_segment, unusable),
	FIELDS_END,
};

static const struct field msr_fields[] = {
	FIELD_ANY(struct x86_msr, index),
	FIELD_ANY(struct x86_msr, value),
	FIELDS_END,
};

#define REG(m) FIELD_ANY(struct x86_cpu_state, m)

static const struct field cpu_fields[] = {
	REG(regs.rip),
	REG(regs.rflags),
	REG(regs.rax),
	REG(regs.rbx),
	REG(regs.rcx),
	REG(regs.rdx),
	REG(regs.rsi),
	REG(regs.rdi),
	REG(regs.rsp),
	REG(regs.rbp),
	REG(regs.r8),
	REG(regs.r9),
	REG(regs.r10),
	REG(regs.r11),
	REG(regs.r12),
	REG(regs.r13),
	REG(regs.r14),
	REG(regs.r15),
	REG(sregs.cr0),
	REG(sregs.cr2),
	REG(sregs.cr3),
	REG(sregs.cr4),
	REG(sregs.cr8),
	REG(sregs.efer),
	REG(sregs.apic_base),
	REG(sregs.gdt.base),
	REG(sregs.gdt.limit),
	REG(sregs.idt.base),
	REG(sregs.idt.limit),
	FIELD_ARRAY(struct x86_cpu_state, sregs.interrupt_bitmap, 0, UINT64_MAX),
	FIELD_RAW(struct x86_cpu_state, debugregs),
	FIELD_RAW(struct x86_cpu_state, xcrs),
	FIELD_RAW(struct x86_cpu_state, events),
	FIELD_RAW(struct x86_cpu_state, lapic),
	FIELD_INT(struct x86_cpu_state, mp_state, KVM_MP_STATE_RUNNABLE,
		  KVM_MP_STATE_SIPI_RECEIVED),
	REG(tsc),
	REG(tsc_realtime),
	REG(tsc_deadline),
	FIELD_INT(struct x86_cpu_state, n_msrs, 0, MSR_MAX),
	FIELD_INT(struct x86_cpu_state, n_xsave, sizeof(struct kvm_xsave), XSAVE_MAX),
	FIELD_RAW_N(struct x86_cpu_state, xsave, n_xsave),
	/* cs, ds, es, fs, gs, ss, tr and ldt stand in a row. */
	{ .name = "segment",
	  .type = FIELD_STRUCT,
	  .since = 1,
	  .offset = offsetof(struct x86_cpu_state, sregs.cs),
	  .size = sizeof(struct kvm_segment),
	  .count = 8,
	  .count_offset = NO_COUNT,
	  .sub = segment_fields },
	FIELD_STRUCTS_N(struct x86_cpu_state, msrs, msr_fields, n_msrs),
	FIELDS_END,
};

/* One register set by one ioctl. */
static int reg_ioctl(struct x86_cpu *cpu, unsigned long request, void *arg, const char *phase,
		     const char *what, struct error *err)
{
	if (ioctl(cpu->vcpu->fd, request, arg) < 0)
		return error_set(err, -errno, phase, cpu->dev.name, what, "KVM to take it", "%m");
	return 0;
}

static int get_tsc(struct x86_cpu *cpu, struct x86_cpu_state *s, struct error *err)
{
	struct x86_msr msr = { .index = MSR_TSC };
	int ret = x86_msr_get(cpu->vcpu->fd, &msr, 1, err, cpu->dev.name);

	s->tsc_realtime = x86_realtime_ns();
	s->tsc = msr.value;
	msr.index = MSR_TSC_DEADLINE;
	ret = ret ? ret : x86_msr_get(cpu->vcpu->fd, &msr, 1, err, cpu->dev.name);
	s->tsc_deadline = msr.value;
	return ret;
}

/* The TSC went on while the guest was under way. */
static int set_tsc(struct x86_cpu *cpu, const struct x86_cpu_state *s, struct error *err)
{
	const struct x86_vm *x86 = cpu->dev.vm->arch;
	unsigned __int128 ticks = (unsigned __int128)x86_elapsed_ns(s->tsc_realtime) * x86->tsc_khz;
	struct x86_msr msr = { MSR_TSC, s->tsc + (uint64_t)(ticks / 1000000) };

	return x86_msr_set(cpu->vcpu->fd, &msr, 1, err, cpu->dev.name);
}

static int get_state(struct x86_cpu *cpu, struct x86_cpu_state *s, struct error *err)
{
	const struct x86_vm *x86 = cpu->dev.vm->arch;
	struct kvm_mp_state mp;
	int ret;

	/* Reading the run state can turn a pending INIT or SIPI into registers, so it comes first.
	 */
	if ((ret = reg_ioctl(cpu, KVM_GET_MP_STATE, &mp, "save", "run state", err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_GET_REGS, &s->regs, "save", "registers", err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_GET_SREGS, &s->sregs, "save", "special registers", err)) <
		    0 ||
	    (ret = reg_ioctl(cpu, x86->xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, s->xsave, "save",
			     "XSAVE area", err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_GET_XCRS, &s->xcrs, "save", "XCRs", err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_GET_LAPIC, &s->lapic, "save", "local APIC", err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_GET_DEBUGREGS, &s->debugregs, "save", "debug registers",
			     err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_GET_VCPU_EVENTS, &s->events, "save", "events", err)) < 0)
		return ret;
	s->mp_state = mp.mp_state;
	s->n_xsave = x86->xsave_size;
	s->n_msrs = x86->n_msrs;
	for (uint32_t i = 0; i < x86->n_msrs; i++)
		s->msrs[i].index = x86->msrs[i];
	ret = x86_msr_get(cpu->vcpu->fd, s->msrs, s->n_msrs, err, cpu->dev.name);
	return ret ? ret : get_tsc(cpu, s, err);
}

static int set_state(struct x86_cpu *cpu, struct x86_cpu_state *s, bool with_tsc, struct error *err)
{
	struct kvm_mp_state mp = { .mp_state = s->mp_state };
	struct x86_msr deadline = { MSR_TSC_DEADLINE, s->tsc_deadline };
	int fd = cpu->vcpu->fd, ret;

	if ((ret = reg_ioctl(cpu, KVM_SET_SREGS, &s->sregs, "load", "special registers", err)) <
		    0 ||
	    (ret = reg_ioctl(cpu, KVM_SET_XCRS, &s->xcrs, "load", "XCRs", err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_SET_XSAVE, s->xsave, "load", "XSAVE area", err)) < 0 ||
	    (ret = with_tsc ? set_tsc(cpu, s, err) : 0) < 0 ||
	    (ret = x86_msr_set(fd, s->msrs, s->n_msrs, err, cpu->dev.name)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_SET_LAPIC, &s->lapic, "load", "local APIC", err)) < 0 ||
	    (ret = x86_msr_set(fd, &deadline, 1, err, cpu->dev.name)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_SET_REGS, &s->regs, "load", "registers", err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_SET_DEBUGREGS, &s->debugregs, "load", "debug registers",
			     err)) < 0 ||
	    (ret = reg_ioctl(cpu, KVM_SET_VCPU_EVENTS, &s->events, "load", "events", err)) < 0)
		return ret;
	return reg_ioctl(cpu, KVM_SET_MP_STATE, &mp, "load", "run state", err);
}

static int cpu_pre_save(struct device *dev, struct error *err)
{
	struct x86_cpu *cpu = (struct x86_cpu *)dev;

	return get_state(cpu, &cpu->state, err);
}

static int cpu_check(struct device *dev, const void *staged, struct error *err)
{
	const struct x86_vm *x86 = dev->vm->arch;
	const struct x86_cpu_state *s = staged;

	if (s->n_xsave != x86->xsave_size) {
		error_set(err, -EINVAL, "load", dev->name, "n_xsave", "", "%u bytes", s->n_xsave);
		error_expected(err, "%u bytes, the size of this host", x86->xsave_size);
		return -EINVAL;
	}
	return 0;
}

static int cpu_post_load(struct device *dev, struct error *err)
{
	struct x86_cpu *cpu = (struct x86_cpu *)dev;

	return set_state(cpu, &cpu->state, true, err);
}

static void cpu_reset(struct device *dev)
{
	struct x86_cpu *cpu = (struct x86_cpu *)dev;
	struct error err = { 0 };

	cpu->state = cpu->at_reset;
	if (set_state(cpu, &cpu->state, false, &err) < 0) {
		error_print(&err);
		vm_request(dev->vm, VM_REQUEST_CRASH);
	}
}

/* A guest's TSC must go on at the rate it had; scaling is the processor's, if it has it. */
static int set_tsc_rate(struct x86_cpu *cpu, struct error *err)
{
	struct x86_vm *x86 = cpu->dev.vm->arch;
	int khz = ioctl(cpu->vcpu->fd, KVM_GET_TSC_KHZ, 0);
	uint64_t wants = x86->tsc_khz;

	/* Linux before 5.19 answers for a vCPU only. */
	if (wants == 0 && khz > 0)
		x86->tsc_khz = (uint32_t)khz;
	/* NTP copes with 250 parts per million. */
	if (wants == 0 || khz <= 0 || llabs((long long)wants - khz) * 4000 <= (long long)wants)
		return 0;
	if (ioctl(cpu->vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)wants) < 0) {
		error_set(err, -ENOTSUP, "realize", cpu->dev.name, "TSC frequency", "", "%d kHz",
			  khz);
		error_expected(err, "%llu kHz or a CPU that can scale to it",
			       (unsigned long long)wants);
		return -ENOTSUP;
	}
	return 0;
}

static int cpu_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct x86_cpu *cpu = (struct x86_cpu *)dev;
	struct x86_vm *x86 = dev->vm->arch;
	const fdt32_t *reg;
	int len, ret;

	reg = fdt_getprop(fdt, node, "reg", &len);
	if (!reg || len != 4 || fdt32_ld(reg) >= dev->vm->n_vcpus)
		return error_set(err, -EINVAL, "realize", dev->name, "reg", "the number of a vCPU",
				 "another");
	cpu->vcpu = dev->vm->vcpus[fdt32_ld(reg)];
	if ((ret = set_tsc_rate(cpu, err)) < 0 ||
	    (ret = x86_cpuid_set(cpu->vcpu, dev->vm->n_vcpus, err)) < 0)
		return ret;
	if (x86->n_msrs == 0 && (ret = x86_msr_probe(x86, dev->vm->kvm_fd, cpu->vcpu->fd, err)) < 0)
		return ret;
	return get_state(cpu, &cpu->at_reset, err);
}

static const struct device_class cpu_class = {
	.name = "cpu",
	.compatible = "ferry,x86-cpu",
	.stage = STAGE_CPU,
	.size = sizeof(struct x86_cpu),
	.state_offset = offsetof(struct x86_cpu, state),
	.state_size = sizeof(struct x86_cpu_state),
	.fields = cpu_fields,
	.realize = cpu_realize,
	.reset = cpu_reset,
	.pre_save = cpu_pre_save,
	.check = cpu_check,
	.post_load = cpu_post_load,
};
DEVICE_CLASS(cpu_class);
