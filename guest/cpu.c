/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cpu: what a CPU must carry to another host: its CPUID table, MSRs, and the vector registers,
 * which hold a pattern in ring 3 most of the time and are looked at between.
 */
#include "kernel/clock.h"
#include "kernel/cpu.h"
#include "kernel/program.h"

#define SPINS 2000000 /* how long registers are left alone: about a millisecond */

enum {
	CPUID_XSAVE = 1 << 26, /* leaf 1 ECX */
	X87_SSE = 3,
	XSTATE_BV = 512, /* the XSAVE header, Intel SDM volume 1, 13.4.2 */
	AREA = 4096,
};

/* XSAVE state components that hold a pattern (Intel SDM volume 1, 13.1): offset by CPUID 0xd. */
static const struct {
	unsigned bit;
	const char *name;
} components[] = {
	{ 2, "avx" }, { 5, "avx512 opmask" }, { 6, "avx512 zmm high" }, { 7, "avx512 zmm16" }
};

#define N_COMPONENTS (sizeof(components) / sizeof(components[0]))

/* Intel SDM volume 4; those with a pattern are written first, since they matter to nobody here. */
static struct msr {
	const char *name;
	uint32_t number;
	uint64_t pattern, value;
	bool absent;
} msrs[] = {
	{ .name = "APIC_BASE", .number = 0x1b },
	{ .name = "TSC_ADJUST", .number = 0x3b },
	{ .name = "SYSENTER_CS", .number = 0x174, .pattern = 0x1230 },
	{ .name = "SYSENTER_ESP", .number = 0x175, .pattern = 0x12345678 },
	{ .name = "SYSENTER_EIP", .number = 0x176, .pattern = 0x23456789 },
	{ .name = "PAT", .number = 0x277, .pattern = 0x0007040600070406 },
	{ .name = "MTRR_DEF_TYPE", .number = 0x2ff },
	{ .name = "EFER", .number = 0xc0000080 },
	{ .name = "STAR", .number = 0xc0000081, .pattern = 0x0023001000000000 },
	{ .name = "LSTAR", .number = 0xc0000082, .pattern = 0xffffffff81000000 },
	{ .name = "SFMASK", .number = 0xc0000084, .pattern = 0x47700 },
	{ .name = "FS_BASE", .number = 0xc0000100 },
	{ .name = "GS_BASE", .number = 0xc0000101 },
	{ .name = "KERNEL_GS_BASE", .number = 0xc0000102, .pattern = 0xffff888000001000 },
	{ .name = "TSC_AUX", .number = 0xc0000103, .pattern = 0x5a5 },
	{ .name = "KVM_SYSTEM_TIME", .number = 0x4b564d01 },
};

#define N_MSRS (sizeof(msrs) / sizeof(msrs[0]))

static struct {
	uint32_t leaf, subleaf;
	struct cpuid value;
} leaves[256];
static unsigned n_leaves;

static uint8_t loaded[AREA] __attribute__((aligned(64))), stored[AREA] __attribute__((aligned(64)));
static uint8_t watched[AREA]; /* bytes of the area that are compared */
static uint64_t xcr0;	      /* 0: FXSAVE */

static void record_cpuid(void)
{
	static const uint32_t bases[] = { 0, 0x40000000, 0x80000000 };

	for (unsigned b = 0; b < 3; b++) {
		uint32_t last = cpuid(bases[b], 0).eax;
		if (last < bases[b] || last > bases[b] + 0x40)
			last = bases[b];
		for (uint32_t leaf = bases[b]; leaf <= last; leaf++)
			for (uint32_t sub = 0; sub < (leaf == 4 || leaf == 7 || leaf == 13 ? 3 : 1);
			     sub++)
				if (n_leaves < 256) {
					leaves[n_leaves].leaf = leaf;
					leaves[n_leaves].subleaf = sub;
					leaves[n_leaves++].value = cpuid(leaf, sub);
				}
	}
	print("cpuid %u leaves\n", n_leaves);
}

static void check_cpuid(void)
{
	for (unsigned i = 0; i < n_leaves; i++) {
		struct cpuid was = leaves[i].value, is = cpuid(leaves[i].leaf, leaves[i].subleaf);
		if (memcmp(&was, &is, sizeof(is)) != 0)
			fail("CPUID leaf 0x%x.%u was %08x %08x %08x %08x and is %08x %08x %08x "
			     "%08x",
			     leaves[i].leaf, leaves[i].subleaf, was.eax, was.ebx, was.ecx, was.edx,
			     is.eax, is.ebx, is.ecx, is.edx);
	}
}

static void record_msrs(void)
{
	for (struct msr *m = msrs; m < msrs + N_MSRS; m++) {
		bool written = !m->pattern || msr_write(m->number, m->pattern);
		m->absent = !written || !msr_read(m->number, &m->value);
		if (m->absent)
			print("skip: msr %s (#GP)\n", m->name);
		else
			print("msr %s 0x%lx\n", m->name, m->value);
		if (!m->absent && m->pattern && m->value != m->pattern)
			print("note: msr %s was written 0x%lx\n", m->name, m->pattern);
	}
}

static void check_msrs(void)
{
	uint64_t value;

	for (struct msr *m = msrs; m < msrs + N_MSRS; m++)
		if (!m->absent && (!msr_read(m->number, &value) || value != m->value))
			fail("MSR %s was 0x%lx and is 0x%lx", m->name, m->value, value);
}

/* Bytes from @at on get a pattern and are compared later. */
static void watch(unsigned at, unsigned size)
{
	for (unsigned i = at; i < at + size && i < AREA; i++) {
		loaded[i] = (uint8_t)(i * 37 + 11);
		watched[i] = 1;
	}
}

/*
 * Sets xcr0 to what there is of x87, SSE and the components; returns why others are missing. Some
 * hosts (QEMU's emulated SVM before 9.0) do not see XSETBV and put back the old value at the next
 * exit, so it is read again after one.
 */
static const char *enable_xsave(void)
{
	uint32_t low, high;

	if (!(cpuid(1, 0).ecx & CPUID_XSAVE) || !option_number("xsave", 1))
		return " (no XSAVE)";
	xcr0 = X87_SSE;
	for (unsigned i = 0; i < N_COMPONENTS; i++)
		xcr0 |= cpuid(0xd, 0).eax & 1u << components[i].bit;
	syscall(SYS_XSETBV, xcr0, 0, 0, NULL);
	console_get();
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	if (low != xcr0) {
		xcr0 = 0;
		return " (the host forgets XCR0)";
	}
	memcpy(loaded + XSTATE_BV, &xcr0, 8);
	return " (no CPUID)";
}

/* Intel SDM volume 1, table 10-2 (FXSAVE) and 13.4 (XSAVE). */
static void prepare_registers(void)
{
	loaded[0] = 0x7f; /* FCW */
	loaded[1] = 0x03;
	loaded[4] = 0xff;  /* FTW: all in use */
	loaded[24] = 0x80; /* MXCSR */
	loaded[25] = 0x1f;
	watched[0] = watched[1] = watched[4] = watched[24] = watched[25] = 1;
	for (unsigned i = 0; i < 8; i++)
		watch(32 + 16 * i, 10); /* ST0 to ST7 */
	watch(160, 256);		/* XMM0 to XMM15 */
	const char *why_not = enable_xsave();
	for (unsigned i = 0; i < N_COMPONENTS; i++) {
		struct cpuid where = cpuid(0xd, components[i].bit);
		bool there = xcr0 >> components[i].bit & 1;
		print("%s %s%s\n", there ? "checked:" : "skip:", components[i].name,
		      there ? "" : why_not);
		if (there)
			watch(where.ebx, where.eax);
	}
}

static void check_registers(void)
{
	uint64_t spins = SPINS;
	uint32_t low = (uint32_t)xcr0, high = 0;

	memset(stored, 0, AREA);
	if (xcr0)
		__asm__ volatile("xrstor64 (%[from]); 1: dec %[n]; jnz 1b; xsave64 (%[to])"
				 : [n] "+r"(spins)
				 : [from] "r"(loaded), [to] "r"(stored), "a"(low), "d"(high)
				 : "memory", "cc");
	else
		__asm__ volatile("fxrstor64 (%[from]); 1: dec %[n]; jnz 1b; fxsave64 (%[to])"
				 : [n] "+r"(spins)
				 : [from] "r"(loaded), [to] "r"(stored)
				 : "memory", "cc");
	for (unsigned i = 0; i < AREA; i++)
		if (watched[i] && stored[i] != loaded[i])
			fail("byte %u of the XSAVE area was 0x%02x and is 0x%02x", i, loaded[i],
			     stored[i]);
}

static void cpu(void)
{
	uint64_t seconds = option_number("seconds", 1), checks = 0, now, start = clock_ns();
	int command = 0;

	prepare_registers(); /* first, for CPUID shows CR4.OSXSAVE */
	record_cpuid();
	record_msrs();
	print("cpu ready\n");
	do {
		check_registers();
		check_msrs();
		check_cpuid();
		checks++;
		now = clock_ns();
		command = console_command(now);
		if (command == 's')
			print("cpu checks=%lu now_ns=%lu\n", checks, now);
	} while (command != 'q' && (!seconds || now < start + seconds * SECOND_NS));
	print("cpu checks=%lu now_ns=%lu\n", checks, now);
}

PROGRAM(cpu, "CPUID, MSRs and x87, SSE, AVX registers stay as they are: seconds=1 xsave=1");
