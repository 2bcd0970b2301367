/* SPDX-License-Identifier: BSD-2-Clause */
/* scratch: writes the device's eight bytes, and on request finds them again. */
#include "kernel/clock.h"
#include "kernel/program.h"

#define VALUE 0x1122334455667788

static void scratch(void)
{
	volatile uint64_t *reg = (volatile uint64_t *)(uintptr_t)option_number("at", 0);

	if (*reg != option_number("initial", 0))
		fail("0x%lx at first", *reg);
	*reg = VALUE;
	print("scratch ready\n");
	while (console_command(clock_ns()) != 'v')
		;
	if (*reg != VALUE)
		fail("0x%lx is expected, 0x%lx is there", VALUE, *reg);
}

PROGRAM(scratch, "writes and finds eight bytes: at=ADDRESS initial=VALUE");
