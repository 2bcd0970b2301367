/* SPDX-License-Identifier: BSD-2-Clause */
/* A CPU's block, the instructions C has no word for, and the system calls into ring 0. */
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "layout.h"

/* Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW */
struct pvclock {
	uint32_t version; /* odd while the host writes */
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

struct cpu {
	volatile uint64_t irqs[VECTOR_COUNT]; /* by vector - VECTOR_FIRST, counted in entry.S */
	uint8_t tss[104];
	uint32_t id; /* 0 is the boot CPU */
	uint32_t apic_id;
	volatile bool online;
	volatile struct pvclock clock __attribute__((aligned(32)));
	uint64_t last_ns; /* of the clock's readings on this CPU */
	/* the ring-0 stack follows up to CPU_KSTACK, the ring-3 stack up to CPU_SIZE */
};

_Static_assert(offsetof(struct cpu, tss) == CPU_TSS, "layout.h has another place for the TSS");
_Static_assert(sizeof(struct cpu) < CPU_KSTACK - 1024, "no room for the ring-0 stack");

extern struct cpu cpu0; /* the boot CPU's block */

/* The CPU this runs on. */
static inline struct cpu *this_cpu(void)
{
	uintptr_t rsp;

	__asm__ volatile("mov %%rsp, %0" : "=r"(rsp));
	return (struct cpu *)(rsp & -(uintptr_t)CPU_SIZE);
}

static inline uint64_t irq_count(const struct cpu *cpu, unsigned vector)
{
	return cpu->irqs[vector - VECTOR_FIRST];
}

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* Device registers: one access of exactly 32 bits by a plain mov, which every KVM can emulate. */
static inline uint32_t mmio_read(uintptr_t address)
{
	uint32_t value;

	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void mmio_write(uintptr_t address, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static inline void cpu_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* One trap into ring 0 (layout.h names the calls); *fault is set when an MSR gave a #GP. */
static inline uint64_t syscall(uint64_t number, uint64_t a, uint64_t b, uint64_t c, bool *fault)
{
	__asm__ volatile("int %[vector]"
			 : "+a"(number), "+d"(c)
			 : [vector] "i"(VECTOR_SYSCALL), "D"(a), "S"(b)
			 : "rcx", "r8", "memory", "cc");
	if (fault)
		*fault = c != 0;
	return number;
}

/* Sleeps until an interrupt, unless the count of @vector on this CPU has left @seen already. */
static inline void irq_wait(unsigned vector, uint64_t seen)
{
	syscall(SYS_WAIT, (uintptr_t)&this_cpu()->irqs[vector - VECTOR_FIRST], seen, 0, NULL);
}

/* False, and 0 in *value, when the MSR is not there. */
static inline bool msr_read(uint32_t msr, uint64_t *value)
{
	bool fault;

	*value = syscall(SYS_RDMSR, msr, 0, 0, &fault);
	return !fault;
}

static inline bool msr_write(uint32_t msr, uint64_t value)
{
	bool fault;

	syscall(SYS_WRMSR, msr, value, 0, &fault);
	return !fault;
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

/* From ring 0, where every KVM answers with the guest's table and not with the host's. */
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid out;

	syscall(SYS_CPUID, leaf, subleaf, (uintptr_t)&out, NULL);
	return out;
}

/* trap.c: fills the IDT; nothing may trap before. */
void trap_init(void);

/* trap.c: entry.S enters here in ring 3 after an exception. */
__attribute__((noreturn)) void trap_report(uint64_t vector, uint64_t error, uint64_t rip,
					   uint64_t cs, uint64_t rsp, uint64_t cr2);

#endif
