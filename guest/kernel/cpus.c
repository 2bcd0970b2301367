/* SPDX-License-Identifier: BSD-2-Clause */
/* Starting the other CPUs, one after the other: Intel SDM volume 3, 9.4.4 (INIT, SIPI). */
#include "clock.h"
#include "cpus.h"
#include "lapic.h"
#include "machine.h"
#include "program.h"
#include "ram.h"

/* What entry.S gives to the CPU that is starting. */
extern struct cpu *volatile starting_cpu;
extern void (*starting_entry)(struct cpu *cpu);
extern uint32_t starting_tss;
extern const char trampoline[], trampoline_end[];

struct cpu *cpus[MAX_CPUS] = { &cpu0 };

static void (*cpus_run)(struct cpu *cpu);

static void cpu_main(struct cpu *cpu)
{
	lapic_init(cpu);
	clock_init(cpu);
	syscall(SYS_IRQ_ON, 0, 0, 0, NULL);
	cpu->online = true;
	cpus_run(cpu);
	syscall(SYS_HALT, 0, 0, 0, NULL);
}

static void start(struct cpu *cpu, uint32_t apic_id)
{
	struct patience wait = { 0 };

	starting_tss = SEL_TSS + 16 * cpu->id;
	starting_cpu = cpu;
	lapic_ipi(apic_id, IPI_INIT);
	clock_delay(SECOND_NS / 1000);
	lapic_ipi(apic_id, IPI_STARTUP | TRAMPOLINE >> 12);
	while (!cpu->online)
		if (patience_over(&wait, 2 * SECOND_NS))
			fail("CPU with APIC id %u does not start", apic_id);
	if (cpu->apic_id != apic_id)
		fail("CPU %u has APIC id %u, expected %u", cpu->id, cpu->apic_id, apic_id);
}

void cpus_start(void (*run)(struct cpu *cpu))
{
	unsigned id = 1;

	cpus_run = run;
	starting_entry = cpu_main;
	memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	for (unsigned i = 0; i < machine.cpu_count; i++) {
		if (machine.apic_id[i] == cpu0.apic_id)
			continue;
		if (id == machine.cpu_count)
			fail("no CPU has the APIC id %u of this one", cpu0.apic_id);
		cpus[id] = ram_alloc(CPU_SIZE / PAGE, CPU_SIZE);
		cpus[id]->id = id;
		start(cpus[id++], machine.apic_id[i]);
	}
}
