/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * kvmclock (Linux Documentation/virt/kvm/x86/msr.rst and cpuid.rst), read in ring 3; without it
 * the TSC with the frequency that CPUID tells or the PIT measures (Intel 8254 data sheet).
 */
#include "clock.h"
#include "cpu.h"
#include "program.h"

enum {
	KVM_LEAF = 0x40000000,
	KVM_FEATURE_CLOCKSOURCE2 = 1 << 3,
	MSR_WALL_CLOCK = 0x4b564d00,
	MSR_SYSTEM_TIME = 0x4b564d01,
	PVCLOCK_TSC_STABLE = 1,
	PVCLOCK_GUEST_STOPPED = 2,
	PIT_CHANNEL0 = 0x40,
	PIT_COMMAND = 0x43,
	PIT_RATE_GENERATOR = 0x34, /* channel 0, low then high byte, mode 2 */
	PIT_LATCH = 0x00,
	PIT_HZ = 1193182,
	CALIBRATE_TICKS = PIT_HZ / 100,
};

static struct {
	bool kvm;
	uint64_t hz, start, mul; /* of the TSC; ns = ticks * mul >> 32 */
	unsigned stopped;
} clock;

static bool have_kvmclock(void)
{
	struct cpuid id = cpuid(KVM_LEAF, 0);

	return id.ebx == 0x4b4d564b && id.ecx == 0x564b4d56 && id.edx == 0x4d && /* KVMKVMKVM */
	       cpuid(KVM_LEAF + 1, 0).eax & KVM_FEATURE_CLOCKSOURCE2;
}

static uint16_t pit_count(void)
{
	outb(PIT_COMMAND, PIT_LATCH);
	uint8_t low = inb(PIT_CHANNEL0);
	return (uint16_t)(inb(PIT_CHANNEL0) << 8 | low);
}

/* 0 when the PIT does not count. */
static uint64_t tsc_hz_by_pit(void)
{
	outb(PIT_COMMAND, PIT_RATE_GENERATOR);
	outb(PIT_CHANNEL0, 0);
	outb(PIT_CHANNEL0, 0);
	uint16_t first = pit_count(), passed = 0;
	uint64_t start = rdtsc();
	for (unsigned tries = 0; passed < CALIBRATE_TICKS; tries++) {
		passed = (uint16_t)(first - pit_count());
		if (tries > 1000 && !passed)
			return 0;
	}
	return (rdtsc() - start) * PIT_HZ / passed;
}

static uint64_t tsc_hz_by_cpuid(void)
{
	uint32_t leaves = cpuid(0, 0).eax;
	struct cpuid id = leaves >= 0x15 ? cpuid(0x15, 0) : (struct cpuid){ 0 };

	if (id.eax && id.ebx && id.ecx)
		return (uint64_t)id.ecx * id.ebx / id.eax;
	return leaves >= 0x16 ? (cpuid(0x16, 0).eax & 0xffff) * 1000000ull : 0;
}

void clock_init(struct cpu *cpu)
{
	if (cpu->id == 0)
		clock.kvm = have_kvmclock();
	if (clock.kvm && msr_write(MSR_SYSTEM_TIME, (uintptr_t)&cpu->clock | 1))
		return;
	if (cpu->id != 0)
		return;
	clock.kvm = false;
	clock.hz = tsc_hz_by_cpuid();
	if (!clock.hz)
		clock.hz = tsc_hz_by_pit();
	if (!clock.hz) {
		print("clock: the TSC's frequency is not known, 1 GHz is assumed\n");
		clock.hz = SECOND_NS;
	}
	clock.start = rdtsc();
	clock.mul = (SECOND_NS << 32) / clock.hz;
}

static uint64_t scale(uint64_t ticks, int shift, uint64_t mul)
{
	ticks = shift < 0 ? ticks >> -shift : ticks << shift;
	return (uint64_t)((unsigned __int128)ticks * mul >> 32);
}

static uint64_t kvmclock_ns(struct cpu *cpu)
{
	volatile struct pvclock *c = &cpu->clock;
	uint32_t version;
	uint64_t ns;
	uint8_t flags;

	do {
		version = c->version;
		ns = c->system_time +
		     scale(rdtsc() - c->tsc_timestamp, c->tsc_shift, c->tsc_to_system_mul);
		flags = c->flags;
	} while (version & 1 || version != c->version);
	if (flags & PVCLOCK_GUEST_STOPPED) {
		__atomic_and_fetch(&c->flags, (uint8_t)~PVCLOCK_GUEST_STOPPED, __ATOMIC_RELAXED);
		__atomic_add_fetch(&clock.stopped, 1, __ATOMIC_RELAXED);
	}
	return ns;
}

uint64_t clock_ns(void)
{
	struct cpu *cpu = this_cpu();
	uint64_t ns = clock.kvm ? kvmclock_ns(cpu) : scale(rdtsc() - clock.start, 0, clock.mul);

	if (ns < cpu->last_ns)
		fail("the clock went back on CPU %u: %lu ns after %lu ns", cpu->id, ns,
		     cpu->last_ns);
	cpu->last_ns = ns;
	return ns;
}

uint64_t clock_wall_ns(void)
{
	static volatile struct {
		uint32_t version, sec, nsec;
	} wall __attribute__((aligned(16)));

	if (!clock.kvm || !msr_write(MSR_WALL_CLOCK, (uintptr_t)&wall))
		return 0;
	return wall.sec * SECOND_NS + wall.nsec + clock_ns();
}

uint64_t clock_tsc_hz(void)
{
	if (!clock.kvm)
		return clock.hz;
	volatile struct pvclock *c = &cpu0.clock;
	uint64_t hz = (SECOND_NS << 32) / c->tsc_to_system_mul;
	return c->tsc_shift < 0 ? hz << -c->tsc_shift : hz >> c->tsc_shift;
}

const char *clock_name(void)
{
	return clock.kvm ? "kvmclock" : "tsc";
}

bool clock_shared(void)
{
	return !clock.kvm || cpu0.clock.flags & PVCLOCK_TSC_STABLE;
}

unsigned clock_stopped(void)
{
	return clock.stopped;
}

void clock_delay(uint64_t ns)
{
	uint64_t end = clock_ns() + ns;

	while (clock_ns() < end)
		cpu_relax();
}
