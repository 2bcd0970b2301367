/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine the kernel found itself on: RAM, CPUs, devices, command line; and how it ends. */
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "layout.h"

struct range {
	uint64_t start, end;
};

struct device {
	uint64_t address, size;
	uint32_t irq; /* GSI */
};

struct machine {
	char cmdline[2048];
	const char *program;  /* the running one, for messages */
	const char *source;   /* what described it: "FDT", "command line" */
	struct range ram[32]; /* all of it, page-aligned, low to high */
	unsigned ram_count;
	uint32_t apic_id[MAX_CPUS];
	unsigned cpu_count;
	struct device virtio[32];
	unsigned virtio_count;
	bool serial; /* the FDT names the port the console uses */
};

extern struct machine machine;

/* Fills `machine` from the PVH start info (RAM, command line) and the FDT or the command line. */
void machine_discover(void);

/* Reads devices, CPUs and the console from an FDT; false when it is not one. */
bool machine_read_fdt(const void *fdt, uint64_t size);

/* Ends as the option end= says: exit (debug exit port), exit:N, reset, halt, triple. Any CPU. */
__attribute__((noreturn)) void machine_end(bool pass);

/* options.c */
uint64_t number_parse(const char *s, const char **end);

/* console.c */
void console_init(void);

#endif
