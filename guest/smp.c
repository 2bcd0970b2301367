/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * smp: a token goes round all CPUs by inter-processor interrupts, then all meet at a barrier. The
 * token carries the time, so a CPU whose clock is behind its neighbour's is seen. All but the boot
 * CPU halt while they wait; idle=0 lets them spin.
 */
#include "kernel/clock.h"
#include "kernel/cpus.h"
#include "kernel/lapic.h"
#include "kernel/machine.h"
#include "kernel/program.h"

#define PATIENCE_NS (5 * SECOND_NS)

static struct {
	bool idle;
	volatile bool stop;
	volatile uint64_t token_ns; /* written by who holds the token */
	volatile uint64_t arrived;  /* at all barriers so far */
	volatile uint64_t passed[MAX_CPUS];
	uint64_t backward_ns; /* most that one clock was behind another */
} smp;

static void take_token(struct cpu *cpu)
{
	uint64_t now = clock_ns(), sent = smp.token_ns;

	if (lapic_id() != cpu->apic_id)
		fail("CPU %u had APIC id %u and has %u now", cpu->id, cpu->apic_id, lapic_id());
	if (now < sent && clock_shared())
		fail("the clock of CPU %u is %lu ns behind CPU %u", cpu->id, sent - now,
		     (cpu->id ? cpu->id : machine.cpu_count) - 1);
	if (now < sent && sent - now > smp.backward_ns)
		smp.backward_ns = sent - now;
	smp.passed[cpu->id]++;
}

static void pass_token(struct cpu *cpu)
{
	smp.token_ns = clock_ns();
	lapic_ipi(cpus[(cpu->id + 1) % machine.cpu_count]->apic_id, IPI_FIXED | VECTOR_IPI);
}

static void barrier(void)
{
	struct patience wait = { 0 };
	uint64_t n = machine.cpu_count;
	uint64_t full = (__atomic_fetch_add(&smp.arrived, 1, __ATOMIC_SEQ_CST) / n + 1) * n;

	while (smp.arrived < full) {
		cpu_relax();
		if (patience_over(&wait, PATIENCE_NS))
			fail("%lu of %lu CPUs came to the barrier", smp.arrived - (full - n), n);
	}
}

static void other_cpu(struct cpu *cpu)
{
	uint64_t seen = 0;

	for (;;) {
		while (irq_count(cpu, VECTOR_IPI) == seen)
			if (smp.idle)
				irq_wait(VECTOR_IPI, seen);
			else
				cpu_relax();
		if (irq_count(cpu, VECTOR_IPI) != ++seen)
			fail("CPU %u: %lu interrupts, %lu were sent", cpu->id,
			     irq_count(cpu, VECTOR_IPI), seen);
		bool last = smp.stop;
		take_token(cpu);
		pass_token(cpu);
		barrier();
		if (last)
			return;
	}
}

static void round(uint64_t n, struct gap *gap)
{
	struct patience wait = { 0 };

	pass_token(&cpu0);
	while (irq_count(&cpu0, VECTOR_IPI) == n) {
		gap_look(gap);
		if (!patience_over(&wait, PATIENCE_NS))
			continue;
		unsigned i = 1;
		while (i < machine.cpu_count && smp.passed[i] > n)
			i++;
		fail("round %lu: the token was lost on the way to CPU %u", n,
		     i % machine.cpu_count);
	}
	take_token(&cpu0);
	barrier();
	for (unsigned i = 0; i < machine.cpu_count; i++)
		if (smp.passed[i] != n + 1)
			fail("CPU %u had the token %lu times in %lu rounds", i, smp.passed[i],
			     n + 1);
}

static void status(uint64_t rounds, struct gap *gap)
{
	print("smp cpus=%u rounds=%lu ipis=%lu gap_us=%lu backward_ns=%lu now_ns=%lu\n",
	      machine.cpu_count, rounds, rounds * machine.cpu_count, gap->max / 1000,
	      smp.backward_ns, gap->last);
	gap->max = gap->last = 0;
}

static void smp_run(void)
{
	uint64_t rounds = option_number("rounds", 100), seconds = option_number("seconds", 0);
	uint64_t rate = option_number("rate", 0), n = 0;
	struct gap gap = { 0 };
	int command = 0;

	smp.idle = option_number("idle", 1);
	cpus_start(other_cpu);
	syscall(SYS_IRQ_ON, 0, 0, 0, NULL);
	uint64_t now = gap_look(&gap), start = now;
	print("smp ready cpus=%u clocks=%s\n", machine.cpu_count,
	      clock_shared() ? "shared" : "separate");
	while (!smp.stop) {
		do {
			now = gap_look(&gap);
			command = command ? command : console_command(now);
		} while (rate && now < start + n * SECOND_NS / rate);
		smp.stop = command == 'q' ||
			   (seconds ? now >= start + seconds * SECOND_NS : n + 1 == rounds);
		round(n++, &gap);
		if (command == 's')
			status(n, &gap);
		else if (command == 'r')
			gap.max = gap.last = 0;
		command = 0;
	}
	status(n, &gap);
}

PROGRAM_NAMED(smp, smp_run,
	      "all CPUs pass a token by interrupts: rounds=100 seconds=0 rate=0 (Hz) idle=1");
