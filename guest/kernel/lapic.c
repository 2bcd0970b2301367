/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Intel SDM volume 3, chapter 11 (local APIC, 11.5.4 its timer); 82093AA I/O APIC data sheet;
 * 8259A data sheet. All by MMIO and port I/O from ring 3; the EOI alone is in entry.S.
 */
#include "clock.h"
#include "cpu.h"
#include "lapic.h"
#include "program.h"

enum {
	LAPIC_ID = 0x20,
	LAPIC_TPR = 0x80,
	LAPIC_SVR = 0xf0,
	LAPIC_ICR_LOW = 0x300,
	LAPIC_ICR_HIGH = 0x310,
	LAPIC_LVT_TIMER = 0x320,
	LAPIC_LVT_LINT0 = 0x350,
	LAPIC_TIMER_INITIAL = 0x380,
	LAPIC_TIMER_CURRENT = 0x390,
	LAPIC_TIMER_DIVIDE = 0x3e0,
	SVR_ENABLE = 0x100,
	ICR_PENDING = 1 << 12,
	LVT_MASKED = 1 << 16,
	LVT_PERIODIC = 1 << 17,
	LVT_TSC_DEADLINE = 2 << 17,
	LVT_EXTINT = 0x700,
	DIVIDE_BY_1 = 0xb,
	MSR_TSC_DEADLINE = 0x6e0,
	CPUID_TSC_DEADLINE = 1 << 24,
	IOAPIC_BASE = 0xfec00000u,
	IOAPIC_DATA = 0x10,
	IOAPIC_TABLE = 0x10, /* register of pin 0, two a pin */
	PIC1 = 0x20,
	PIC2 = 0xa0,
	PIT_CHANNEL0 = 0x40,
	PIT_COMMAND = 0x43,
	PIT_RATE_GENERATOR = 0x34,
	PIT_HZ = 1193182,
};

static uint32_t lapic_read(unsigned reg)
{
	return mmio_read(LAPIC_BASE + reg);
}

static void lapic_write(unsigned reg, uint32_t value)
{
	mmio_write(LAPIC_BASE + reg, value);
}

uint32_t lapic_id(void)
{
	return lapic_read(LAPIC_ID) >> 24;
}

/* Vectors from VECTOR_FIRST on, automatic end of interrupt, @mask of IRQ 0 to 7. */
static void pic_init(uint8_t mask)
{
	static const uint8_t icw[] = { 0x11, VECTOR_FIRST, 4, 3 };

	outb(PIC1, icw[0]);
	outb(PIC2, icw[0]);
	outb(PIC1 + 1, icw[1]);
	outb(PIC2 + 1, icw[1] + 8);
	outb(PIC1 + 1, icw[2]);
	outb(PIC2 + 1, 2);
	outb(PIC1 + 1, icw[3]);
	outb(PIC2 + 1, icw[3]);
	outb(PIC1 + 1, mask);
	outb(PIC2 + 1, 0xff);
}

void lapic_init(struct cpu *cpu)
{
	if (cpu->id == 0)
		pic_init(0xff);
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	lapic_write(LAPIC_SVR, SVR_ENABLE | VECTOR_SPURIOUS);
	cpu->apic_id = lapic_id();
}

void lapic_ipi(uint32_t apic_id, uint32_t command)
{
	lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
	lapic_write(LAPIC_ICR_LOW, command);
	while (lapic_read(LAPIC_ICR_LOW) & ICR_PENDING)
		cpu_relax();
}

void ioapic_route(uint32_t gsi, unsigned vector)
{
	mmio_write(IOAPIC_BASE, IOAPIC_TABLE + gsi * 2 + 1);
	mmio_write(IOAPIC_BASE + IOAPIC_DATA, cpu0.apic_id << 24);
	mmio_write(IOAPIC_BASE, IOAPIC_TABLE + gsi * 2);
	mmio_write(IOAPIC_BASE + IOAPIC_DATA, vector);
}

/* Ticks of the LAPIC timer a second, by the clock. */
static uint64_t lapic_timer_hz(void)
{
	lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
	uint64_t start = clock_ns();
	lapic_write(LAPIC_TIMER_INITIAL, 0xffffffff);
	clock_delay(SECOND_NS / 100);
	uint64_t ticks = 0xffffffff - lapic_read(LAPIC_TIMER_CURRENT);
	return ticks * SECOND_NS / (clock_ns() - start);
}

static void start_lapic(struct timer *timer, unsigned hz, uint32_t mode)
{
	timer->period = lapic_timer_hz() / hz;
	lapic_write(LAPIC_LVT_TIMER, mode | VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_INITIAL, (uint32_t)timer->period);
}

static void start_deadline(struct timer *timer, unsigned hz)
{
	timer->period = clock_tsc_hz() / hz;
	timer->deadline = rdtsc();
	lapic_write(LAPIC_LVT_TIMER, LVT_TSC_DEADLINE | VECTOR_TIMER);
	timer_next(timer);
}

static void start_pit(struct timer *timer, unsigned hz)
{
	timer->vector = VECTOR_FIRST;
	timer->period = PIT_HZ / hz > 0xffff ? 0 : PIT_HZ / hz;
	outb(PIT_COMMAND, PIT_RATE_GENERATOR);
	outb(PIT_CHANNEL0, (uint8_t)timer->period);
	outb(PIT_CHANNEL0, (uint8_t)(timer->period >> 8));
	pic_init(0xfe);
	lapic_write(LAPIC_LVT_LINT0, LVT_EXTINT);
}

void timer_start(struct timer *timer, unsigned hz)
{
	bool deadline = cpuid(1, 0).ecx & CPUID_TSC_DEADLINE;

	*timer = (struct timer){ .name = deadline ? "deadline" : "lapic", .vector = VECTOR_TIMER };
	if (option_is("timer", "pit", false))
		timer->name = "pit";
	else if (option_is("timer", "lapic", false))
		timer->name = "lapic";
	else if (option_is("timer", "oneshot", false))
		timer->name = "oneshot";
	if (strcmp(timer->name, "pit") == 0)
		start_pit(timer, hz);
	else if (strcmp(timer->name, "deadline") == 0)
		start_deadline(timer, hz);
	else
		start_lapic(timer, hz, strcmp(timer->name, "lapic") == 0 ? LVT_PERIODIC : 0);
	syscall(SYS_IRQ_ON, 0, 0, 0, NULL);
}

void timer_next(struct timer *timer)
{
	if (strcmp(timer->name, "oneshot") == 0) {
		lapic_write(LAPIC_TIMER_INITIAL, (uint32_t)timer->period);
	} else if (strcmp(timer->name, "deadline") == 0) {
		timer->deadline += timer->period;
		if (timer->deadline < rdtsc()) /* the CPU was away: no burst to catch up */
			timer->deadline = rdtsc() + timer->period;
		msr_write(MSR_TSC_DEADLINE, timer->deadline);
	}
}
