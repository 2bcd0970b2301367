/* SPDX-License-Identifier: BSD-2-Clause */
/* Interrupts: the local APIC and its timer, the I/O APIC, and the PIC for the old timer. */
#ifndef GUEST_LAPIC_H
#define GUEST_LAPIC_H

#include <stdint.h>

struct cpu;

enum {
	IPI_FIXED = 0x4000, /* | vector: edge, assert */
	IPI_INIT = 0x4500,
	IPI_STARTUP = 0x4600, /* | page */
};

/* Enables the local APIC of this CPU, notes its id, and masks the PIC when it is the first. */
void lapic_init(struct cpu *cpu);

uint32_t lapic_id(void);

void lapic_ipi(uint32_t apic_id, uint32_t command);

/* Routes a GSI below 24 to @vector of the boot CPU, edge-triggered. */
void ioapic_route(uint32_t gsi, unsigned vector);

/*
 * Timer interrupts on the boot CPU. timer=deadline|lapic|oneshot|pit chooses what makes them; the
 * TSC deadline is the default where CPUID offers it. Interrupts are on afterwards.
 */
struct timer {
	const char *name;
	unsigned vector;
	uint64_t period;   /* in ticks of what makes them */
	uint64_t deadline; /* the next one, of the TSC */
};

void timer_start(struct timer *timer, unsigned hz);

/* To be called after each interrupt: the next one, for the timers that fire once. */
void timer_next(struct timer *timer);

#endif
