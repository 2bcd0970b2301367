/* SPDX-License-Identifier: BSD-2-Clause */
/* The interrupt descriptor table (Intel SDM volume 3, 6.14.1) and what becomes of exceptions. */
#include "cpu.h"
#include "program.h"

#define GATE_RING0 0x8e00 /* present, 64-bit interrupt gate */
#define GATE_RING3 0xee00 /* the same, open to int from ring 3 */

struct gate {
	uint16_t offset0, selector, flags, offset16;
	uint32_t offset32, reserved;
};

extern struct gate idt[256];
extern const char exception_stubs[], irq_stubs[], irq_spurious[], syscall_entry[];

static void gate_set(unsigned vector, const char *handler, uint16_t flags)
{
	uintptr_t p = (uintptr_t)handler;

	idt[vector] = (struct gate){ (uint16_t)p, SEL_KCODE, flags, (uint16_t)(p >> 16), 0, 0 };
}

void trap_init(void)
{
	for (unsigned i = 0; i < 32; i++)
		gate_set(i, exception_stubs + i * STUB_SIZE, GATE_RING0);
	for (unsigned i = 0; i < VECTOR_COUNT; i++)
		gate_set(VECTOR_FIRST + i, irq_stubs + i * STUB_SIZE, GATE_RING0);
	gate_set(VECTOR_SPURIOUS, irq_spurious, GATE_RING0);
	gate_set(VECTOR_SYSCALL, syscall_entry, GATE_RING3);
}

void trap_report(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cs, uint64_t rsp,
		 uint64_t cr2)
{
	fail("exception %u, error code 0x%lx, rip 0x%lx, cs 0x%lx, rsp 0x%lx, cr2 0x%lx",
	     (unsigned)vector, error, rip, cs, rsp, cr2);
}
