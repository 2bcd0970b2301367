/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Start and end: what the loader says (Xen public/arch-x86/hvm/start_info.h), the program that the
 * command line names, and the ways to leave the machine.
 */
#include "clock.h"
#include "cpu.h"
#include "lapic.h"
#include "machine.h"
#include "program.h"
#include "ram.h"

enum {
	PVH_MAGIC = 0x336ec578,
	PVH_RAM = 1,
	DEBUG_EXIT = 0xf4,
	EXIT_PASS = 0x2a, /* status 85 */
	EXIT_FAIL = 0x01, /* status 3 */
	I8042_COMMAND = 0x64,
	I8042_RESET = 0xfe,
	MIB = 1 << 20,
};

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules, cmdline, rsdp;
	uint64_t memmap; /* from version 1 on */
	uint32_t memmap_entries, reserved;
};

struct pvh_module {
	uint64_t address, size, cmdline, reserved;
};

struct pvh_memory {
	uint64_t address, size;
	uint32_t type, reserved;
};

extern const struct start_info *start_info; /* entry.S */
extern const struct program programs_start[], programs_end[];

struct machine machine;

static void add_ram(uint64_t address, uint64_t size)
{
	uint64_t start = (address + 4095) & ~4095ull, end = (address + size) & ~4095ull;

	if (start < end && machine.ram_count < sizeof(machine.ram) / sizeof(machine.ram[0]))
		machine.ram[machine.ram_count++] = (struct range){ start, end };
}

static void find_ram(void)
{
	const struct pvh_memory *map = (const void *)start_info->memmap;

	if (start_info->version < 1 || !map) { /* no map: what mem=MiB says, 16 MiB otherwise */
		add_ram(0, 0x9f000);
		add_ram(MIB, (option_number("mem", 16) - 1) * MIB);
		return;
	}
	for (unsigned i = 0; i < start_info->memmap_entries; i++)
		if (map[i].type == PVH_RAM)
			add_ram(map[i].address, map[i].size);
}

/* virtio_mmio.device=512@0xfeb00000:12, as Linux has it (virtio-mmio driver, kernel-parameters). */
static void find_devices_in_cmdline(void)
{
	size_t size;
	const char *s = NULL;

	while ((s = option_find("virtio_mmio.device", s, &size)) && machine.virtio_count < 32) {
		struct device *d = &machine.virtio[machine.virtio_count];
		const char *p;
		d->size = number_parse(s, &p);
		if (*p == 'K') {
			d->size *= 1024;
			p++;
		}
		d->address = *p == '@' ? number_parse(p + 1, &p) : 0;
		d->irq = *p == ':' ? (uint32_t)number_parse(p + 1, &p) : 0;
		if (d->address)
			machine.virtio_count++;
	}
}

static void find_cpus(void)
{
	uint32_t said = cpuid(1, 0).ebx >> 16 & 0xff;

	machine.cpu_count = (unsigned)option_number("cpus", said ? said : 1);
	if (machine.cpu_count > MAX_CPUS)
		machine.cpu_count = MAX_CPUS;
	for (unsigned i = 0; i < machine.cpu_count; i++)
		machine.apic_id[i] = i;
}

void machine_discover(void)
{
	const struct pvh_module *m = (const void *)start_info->modules;

	if (start_info->magic != PVH_MAGIC)
		fail("no PVH start info at 0x%lx", (uint64_t)(uintptr_t)start_info);
	const char *line = (const char *)start_info->cmdline;
	for (unsigned i = 0; line && line[i] && i < sizeof(machine.cmdline) - 1; i++)
		machine.cmdline[i] = line[i];
	find_ram();
	for (unsigned i = 0; i < start_info->nr_modules; i++) {
		const char *what = (const char *)m[i].cmdline;
		if (!what || strcmp(what, "fdt") != 0)
			continue;
		if (!machine_read_fdt((const void *)m[i].address, m[i].size))
			fail("the module \"fdt\" at 0x%lx is no device tree", m[i].address);
		machine.source = "FDT";
	}
	if (!machine.source) {
		machine.source = "command line";
		find_devices_in_cmdline();
	}
	if (!machine.cpu_count)
		find_cpus();
}

static void reset(void)
{
	outb(I8042_COMMAND, I8042_RESET);
}

void machine_end(bool pass)
{
	uint32_t value = pass ? EXIT_PASS : EXIT_FAIL;
	size_t size;
	const char *how = option_find("end", NULL, &size);

	if (how && size > 5 && memcmp(how, "exit:", 5) == 0)
		value = (uint32_t)number_parse(how + 5, NULL);
	if (option_is("end", "reset", false)) {
		reset();
	} else if (option_is("end", "triple", false)) {
		syscall(SYS_NO_IDT, 0, 0, 0, NULL);
		__asm__ volatile("ud2");
	} else if (!option_is("end", "halt", false)) {
		outl(DEBUG_EXIT, value);
	}
	for (;;)
		syscall(SYS_HALT, 0, 0, 0, NULL);
}

static void help(void)
{
	for (const struct program *p = programs_start; p < programs_end; p++)
		print("  %6s  %s\n", p->name, p->help);
	print("every program: end=exit|exit:N|reset|halt|triple\n");
}

PROGRAM(help, "this list");

static const struct program *find_program(void)
{
	const char *name = machine.cmdline;
	size_t size = 0;

	while (*name == ' ')
		name++;
	while (name[size] && name[size] != ' ')
		size++;
	if (!size) {
		name = "hello";
		size = strlen(name);
	}
	for (const struct program *p = programs_start; p < programs_end; p++)
		if (strlen(p->name) == size && memcmp(p->name, name, size) == 0)
			return p;
	return NULL;
}

/* entry.S begins ring 3 here, on the boot CPU. */
void guest_main(struct cpu *cpu);

void guest_main(struct cpu *cpu)
{
	console_init();
	trap_init();
	machine_discover();
	ram_init();
	clock_init(cpu);
	lapic_init(cpu);
	const struct program *p = find_program();
	if (!p) {
		help();
		fail("the command line names no program: \"%s\"", machine.cmdline);
	}
	machine.program = p->name;
	p->run();
	print("PASS %s\n", p->name);
	machine_end(true);
}
