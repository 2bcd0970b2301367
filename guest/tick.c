/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tick: timer interrupts and a clock that is looked at all the time. The clock may not go back
 * (clock_ns sees to that), a timer may not fall silent, and the largest gaps are told.
 */
#include "kernel/clock.h"
#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/program.h"

struct tick {
	struct timer timer;
	struct gap clock, ticks;
	uint64_t seen; /* interrupts */
	struct patience silent;
};

static void report(struct tick *t, uint64_t now)
{
	print("tick n=%lu gap_us=%lu tick_gap_us=%lu now_ns=%lu wall_ns=%lu stopped=%u\n", t->seen,
	      t->clock.max / 1000, t->ticks.max / 1000, now, clock_wall_ns(), clock_stopped());
	t->clock.last = clock_ns(); /* the line itself took long */
}

static uint64_t look(struct tick *t, bool idle)
{
	if (idle)
		irq_wait(t->timer.vector, t->seen);
	uint64_t now = gap_look(&t->clock);
	uint64_t count = irq_count(&cpu0, t->timer.vector);
	if (count != t->seen) {
		t->seen = count;
		t->silent.spent = 0;
		gap_look(&t->ticks);
		timer_next(&t->timer);
	} else if (patience_over(&t->silent, SECOND_NS)) {
		fail("no interrupt of timer %s after %lu", t->timer.name, t->seen);
	}
	return now;
}

static void tick(void)
{
	struct tick t = { 0 };
	uint64_t hz = option_number("hz", 100), seconds = option_number("seconds", 0);
	bool idle = option_number("idle", 0);
	int command = 0;

	if (hz < 1 || hz > 10000)
		fail("option hz: 1 to 10000 is expected, not %lu", hz);
	timer_start(&t.timer, (unsigned)hz);
	print("tick ready timer=%s clock=%s hz=%lu\n", t.timer.name, clock_name(), hz);
	uint64_t start = clock_ns(), next = start + SECOND_NS, now = start;
	while (command != 'q' && (!seconds || now < start + seconds * SECOND_NS)) {
		now = look(&t, idle);
		command = console_command(now);
		if (command == 'r')
			t.clock.max = t.ticks.max = 0;
		if (command == 's' || now >= next) {
			report(&t, now);
			if (command != 's')
				next += (now - next) / SECOND_NS * SECOND_NS + SECOND_NS;
		}
	}
	report(&t, now);
	if (!t.seen)
		fail("not one interrupt of timer %s", t.timer.name);
}

PROGRAM(tick, "timer interrupts, monotonic time: hz=100 seconds=0 idle=0 "
	      "timer=deadline|lapic|oneshot|pit");
