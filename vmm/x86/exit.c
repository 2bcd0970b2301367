/* SPDX-License-Identifier: BSD-2-Clause */
/* Exits of KVM_RUN on x86, and the report when one of them is the guest's last. */
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/arch.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"
#include "vmm/x86/x86.h"

static void handle_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (write)
			bus_write(&vcpu->vm->pio, run->io.port, data, run->io.size);
		else
			bus_read(&vcpu->vm->pio, run->io.port, data, run->io.size);
		vcpu_trace_access(vcpu, run->io.port, data, run->io.size, write);
	}
}

static int handle_system_event(struct vcpu *vcpu)
{
	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vm_request_exit(vcpu->vm, 0);
		return 0;
	case KVM_SYSTEM_EVENT_RESET:
		vm_request(vcpu->vm, VM_REQUEST_RESET);
		return 0;
	default:
		return 1;
	}
}

int arch_vcpu_exit(struct vcpu *vcpu)
{
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		return 0;
	case KVM_EXIT_SYSTEM_EVENT:
		return handle_system_event(vcpu);
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return 0;
	default:
		return 1;
	}
}

static void print_cause(const struct kvm_run *run, FILE *out)
{
	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		fprintf(out,
			"Triple fault: an exception came while a double fault was being "
			"delivered. Usually the IDT, the stack or the page tables are wrong.\n");
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fprintf(out,
			"The processor refused to enter the guest (hardware reason 0x%" PRIx64
			"). Usually the registers contradict each other.\n",
			(uint64_t)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		fprintf(out, "KVM gave up (suberror %u). ", run->internal.suberror);
		if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
			fprintf(out, "It had to emulate an instruction that it does not know: "
				     "usually code run from device memory, or one that this "
				     "host's KVM lacks.\n");
		else if (run->internal.suberror == KVM_INTERNAL_ERROR_DELIVERY_EV)
			fprintf(out, "An exception hit while an event was being delivered: "
				     "usually a stack or IDT that is not mapped.\n");
		else
			fprintf(out, "Usually a fault of the host's kernel.\n");
		break;
	default:
		fprintf(out, "ferry has no answer to exit %u (%s, 0x%" PRIx64 ").\n",
			run->exit_reason, vcpu_exit_name(run->exit_reason),
			(uint64_t)run->hw.hardware_exit_reason);
	}
}

static void print_segment(FILE *out, const char *name, const struct kvm_segment *s)
{
	fprintf(out, "  %-3s %04x base %016" PRIx64 " limit %08x type %x dpl %u%s%s%s\n", name,
		s->selector, (uint64_t)s->base, s->limit, s->type, s->dpl,
		s->present ? " present" : "", s->l ? " 64-bit" : "", s->db ? " 32-bit" : "");
}

static void print_registers(FILE *out, const struct kvm_regs *r, const struct kvm_sregs *s)
{
	const struct {
		const char *name;
		uint64_t value;
	} regs[] = {
		{ "rip", r->rip },	{ "rflags", r->rflags }, { "rsp", r->rsp },
		{ "rbp", r->rbp },	{ "rax", r->rax },	 { "rbx", r->rbx },
		{ "rcx", r->rcx },	{ "rdx", r->rdx },	 { "rsi", r->rsi },
		{ "rdi", r->rdi },	{ "r8", r->r8 },	 { "r9", r->r9 },
		{ "r10", r->r10 },	{ "r11", r->r11 },	 { "r12", r->r12 },
		{ "r13", r->r13 },	{ "r14", r->r14 },	 { "r15", r->r15 },
		{ "cr0", s->cr0 },	{ "cr2", s->cr2 },	 { "cr3", s->cr3 },
		{ "cr4", s->cr4 },	{ "efer", s->efer },	 { "gdt", s->gdt.base },
		{ "idt", s->idt.base },
	};

	for (unsigned int i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
		fprintf(out, "  %-6s %016" PRIx64 "%s", regs[i].name, regs[i].value,
			i % 4 == 3 ? "\n" : "");
	fprintf(out, "\n");
	print_segment(out, "cs", &s->cs);
	print_segment(out, "ss", &s->ss);
	print_segment(out, "ds", &s->ds);
	print_segment(out, "tr", &s->tr);
}

/* The bytes at rip, as far as they are mapped: at most 15 make an instruction (SDM 2.3.11). */
static void print_code(struct vcpu *vcpu, FILE *out, uint64_t linear)
{
	fprintf(out, "  code  ");
	for (unsigned int i = 0; i < 15; i++) {
		struct kvm_translation t = { .linear_address = linear + i };
		uint8_t byte;

		if (ioctl(vcpu->fd, KVM_TRANSLATE, &t) < 0 || !t.valid ||
		    memory_read(&vcpu->vm->memory, t.physical_address, &byte, 1) < 0) {
			fprintf(out, " (not in memory)");
			break;
		}
		fprintf(out, " %02x", byte);
	}
	fprintf(out, "\n");
}

void arch_vcpu_report(struct vcpu *vcpu, FILE *out)
{
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };

	flockfile(out);
	fprintf(out, "ferry: vCPU %u has crashed: %s\n", vcpu->index,
		vcpu_exit_name(vcpu->run->exit_reason));
	print_cause(vcpu->run, out);
	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) == 0 &&
	    ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) == 0) {
		print_registers(out, &regs, &sregs);
		print_code(vcpu, out,
			   sregs.efer & 0x400 && sregs.cs.l ? regs.rip : sregs.cs.base + regs.rip);
	}
	fprintf(out, "Exits before it, oldest first:\n");
	vcpu_trace_print(vcpu, out);
	funlockfile(out);
}
