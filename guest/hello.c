/* SPDX-License-Identifier: BSD-2-Clause */
/* hello: greets and lists the machine it finds itself on. */
#include "kernel/clock.h"
#include "kernel/machine.h"
#include "kernel/program.h"
#include "kernel/ram.h"

static void hello(void)
{
	uint64_t wall = clock_wall_ns();

	print("hello from ring 3\n");
	print("machine from %s, clock %s, TSC %lu kHz\n", machine.source, clock_name(),
	      clock_tsc_hz() / 1000);
	if (wall)
		print("wall clock %lu s since 1970\n", wall / SECOND_NS);
	for (unsigned i = 0; i < machine.ram_count; i++)
		print("ram 0x%lx to 0x%lx\n", machine.ram[i].start, machine.ram[i].end);
	print("free %lu pages\n", ram_pages());
	print("vcpus %u\n", machine.cpu_count);
	for (unsigned i = 0; i < machine.virtio_count; i++)
		print("virtio-mmio at 0x%lx, GSI %u\n", machine.virtio[i].address,
		      machine.virtio[i].irq);
	print("cmdline \"%s\"\n", machine.cmdline);
}

PROGRAM(hello, "greets and lists the machine");
