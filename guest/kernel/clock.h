/* SPDX-License-Identifier: BSD-2-Clause */
/* Monotonic time in ns, by kvmclock where there is one, by the TSC otherwise, and its gaps. */
#ifndef GUEST_CLOCK_H
#define GUEST_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define SECOND_NS 1000000000ul

struct cpu;

/* Starts the clock of @cpu, on which this must run. The boot CPU chooses the source. */
void clock_init(struct cpu *cpu);

/* Time since boot on this CPU. It is checked here that it never goes back: fail() if it does. */
uint64_t clock_ns(void);

/* Since 1970, as the host says; 0 without kvmclock. */
uint64_t clock_wall_ns(void);

uint64_t clock_tsc_hz(void);

/* "kvmclock", "tsc" */
const char *clock_name(void);

/* The host promises that the clocks of all CPUs agree. */
bool clock_shared(void);

/* How often the host told by PVCLOCK_GUEST_STOPPED that it had paused this CPU. */
unsigned clock_stopped(void);

void clock_delay(uint64_t ns);

/* The largest time between two looks at the clock: what the guest sees of a pause. */
struct gap {
	uint64_t last, max;
};

static inline uint64_t gap_look(struct gap *gap)
{
	uint64_t now = clock_ns();

	if (gap->last && now - gap->last > gap->max)
		gap->max = now - gap->last;
	gap->last = now;
	return now;
}

/*
 * How long something has been waited for, by time this CPU has seen pass: a pause is one step and
 * counts for a millisecond at most, so what a host lost over it is told from what it held up.
 */
struct patience {
	uint64_t last, spent;
};

#define PATIENCE_STEP_NS 1000000

static inline bool patience_over(struct patience *p, uint64_t limit)
{
	uint64_t now = clock_ns(), step = p->last ? now - p->last : 0;

	p->last = now;
	p->spent += step < PATIENCE_STEP_NS ? step : PATIENCE_STEP_NS;
	return p->spent > limit;
}

#endif
