/* SPDX-License-Identifier: BSD-2-Clause */
/* ACPI tables as a guest finds them: by signature, with sums of 0, and with all devices. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "table-rig.h"
#include "vmm/arch.h"
#include "vmm/device.h"
#include "vmm/tree.h"
#include "vmm/vm.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/aml.h"
#include "vmm/x86/platform.h"

#define VIRTIO 5
#define HEADER 36

static void *machine(unsigned int virtio, bool with_pm)
{
	struct machine_options opt = { .memory = RAM, .cpus = 3 };
	struct machine_tree *mt;
	void *fdt;
	int node;

	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	for_each_class (pp) {
		for (unsigned int i = 0; i < virtio && strcmp((*pp)->name, "virtio-rng") == 0; i++)
			assert_int_equal((*pp)->option.add(mt, "", NULL), 0);
	}
	assert_int_equal(machine_tree_finish(mt, &fdt, NULL), 0);
	node = fdt_node_offset_by_compatible(fdt, -1, "ferry,acpi-pm");
	assert_true(node >= 0);
	if (!with_pm)
		assert_int_equal(fdt_nop_node(fdt, node), 0);
	return fdt;
}

static struct vm *open_vm(unsigned int virtio, bool with_pm)
{
	struct vm *vm;

	assert_int_equal(vm_create(&vm, NULL), 0);
	assert_int_equal(memory_alloc(&vm->memory, RAM, MEMORY_ANON, HOLE_START, HOLE_END, NULL),
			 0);
	vm->tree = machine(virtio, with_pm);
	return vm;
}

/* The vCPUs are only counted. */
static int write_tables(struct vm *vm, struct error *err)
{
	int ret;

	vm->n_vcpus = 3;
	ret = arch_boot_tables(vm, err);
	vm->n_vcpus = 0;
	return ret;
}

static size_t length(const uint8_t *table)
{
	return (size_t)le(table + 4, 4);
}

static const uint8_t *table_at(struct vm *vm, uint64_t gpa, const char *signature)
{
	const uint8_t *t = at(vm, gpa, HEADER);

	assert_memory_equal(t, signature, 4);
	assert_true(gpa >= ACPI_TABLES && gpa + length(t) <= ACPI_TABLES + ACPI_TABLES_MAX);
	assert_int_equal(sum(t, length(t)), 0);
	return t;
}

/* The table that XSDT and RSDT list at @i. */
static const uint8_t *listed(struct vm *vm, unsigned int i, const char *signature)
{
	const uint8_t *rsdp = at(vm, acpi_rsdp(vm), HEADER);
	const uint8_t *xsdt = table_at(vm, le(rsdp + 24, 8), "XSDT");
	const uint8_t *rsdt = table_at(vm, le(rsdp + 16, 4), "RSDT");
	uint64_t gpa = le(xsdt + HEADER + 8 * i, 8);

	assert_true(HEADER + 8 * i < length(xsdt));
	assert_int_equal(le(rsdt + HEADER + 4 * i, 4), gpa);
	return table_at(vm, gpa, signature);
}

static void the_root(void **state)
{
	struct vm *vm = open_vm(0, true);
	const uint8_t *rsdp;

	(void)state;
	assert_int_equal(write_tables(vm, NULL), 0);
	assert_int_equal(acpi_rsdp(vm), ACPI_TABLES);
	assert_int_equal(ACPI_TABLES % 16, 0);
	rsdp = at(vm, ACPI_TABLES, 36);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	vm_destroy(vm);
}

/* The ports that the FADT names are those at which the device answers. */
static void fixed_hardware(void **state)
{
	struct vm *vm = open_vm(0, true);
	int node = fdt_node_offset_by_compatible(vm->tree, -1, "ferry,acpi-pm");
	uint64_t base, size;
	const uint8_t *f;
	uint32_t irq;
	bool pio;

	(void)state;
	assert_int_equal(write_tables(vm, NULL), 0);
	f = listed(vm, 0, "FACP");
	assert_int_equal(length(f), 276);
	assert_int_equal(f[8], 6);
	assert_int_equal(device_node_reg(vm->tree, node, &base, &size, &pio, NULL), 0);
	assert_int_equal(device_node_irq(vm->tree, node, &irq, NULL), 0);
	assert_int_equal(le(f + 46, 2), irq);
	assert_int_equal(le(f + 56, 4), base);	   /* PM1a event, */
	assert_int_equal(le(f + 64, 4), base + 4); /* control, */
	assert_int_equal(f[88], 4);
	assert_int_equal(f[89], 2);
	assert_int_equal(le(f + 120, 8), base + 8); /* and reset */
	assert_int_equal(f[116], 1);
	assert_int_equal(f[128], 1);
	assert_int_equal(le(f + 148 + 4, 8), base);
	assert_int_equal(le(f + 172 + 4, 8), base + 4);
	assert_int_equal(le(f + 48, 4), 0);	/* no SMI command */
	assert_false(le(f + 112, 4) >> 20 & 1); /* not hardware-reduced */
	assert_true(le(f + 112, 4) >> 10 & 1);
	assert_false(le(f + 112, 4) >> 4 & 1); /* a power button of PM1 */
	assert_memory_equal(at(vm, le(f + 36, 4), 64), "FACS", 4);
	assert_int_equal(le(f + 36, 4) % 64, 0);
	assert_int_equal(le(f + 40, 4), le(f + 140, 8));
	table_at(vm, le(f + 140, 8), "DSDT");
	vm_destroy(vm);
}

static void cpus_and_interrupts(void **state)
{
	struct vm *vm = open_vm(0, true);
	unsigned int seen[256] = { 0 };
	const uint8_t *m, *e;

	(void)state;
	assert_int_equal(write_tables(vm, NULL), 0);
	m = listed(vm, 1, "APIC");
	assert_int_equal(le(m + HEADER, 4), LAPIC_BASE);
	assert_int_equal(le(m + HEADER + 4, 4), 1);
	for (e = m + HEADER + 8; e < m + length(m); e += e[1]) {
		assert_true(e[1] >= 2);
		if (e[0] == 0)
			assert_int_equal(e[3], seen[0]); /* APIC id = index */
		if (e[0] == 1)
			assert_int_equal(le(e + 4, 4), IOAPIC_BASE);
		if (e[0] == 2) {
			assert_int_equal(e[3], 9); /* the SCI: */
			assert_int_equal(le(e + 4, 4), 9);
			assert_int_equal(le(e + 8, 2), 0xd); /* level, active high */
		}
		seen[e[0]]++;
	}
	assert_ptr_equal(e, m + length(m));
	assert_int_equal(seen[0], 3);
	assert_int_equal(seen[1], 1);
	assert_int_equal(seen[2], 1);
	assert_int_equal(seen[4], 1);
	vm_destroy(vm);
}

static const uint8_t *dsdt(struct vm *vm)
{
	return table_at(vm, le(listed(vm, 0, "FACP") + 140, 8), "DSDT");
}

static unsigned int count(const uint8_t *table, const void *bytes, size_t len)
{
	unsigned int n = 0;

	for (size_t i = 0; i + len <= length(table); i++)
		n += memcmp(table + i, bytes, len) == 0;
	return n;
}

/* Each virtio device with its registers and an edge of its own; the serial port. */
static void every_device(void **state)
{
	struct vm *vm = open_vm(VIRTIO, true);
	static const uint8_t serial[] = { 0x0c, 0x41, 0xd0, 0x05, 0x01 }; /* PNP0501 */
	static const uint8_t ports[] = { 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8 };
	static const uint8_t irq4[] = { 0x89, 6, 0, 0x03, 1, 4, 0, 0, 0 };

	(void)state;
	assert_int_equal(write_tables(vm, NULL), 0);
	assert_int_equal(count(dsdt(vm), "LNRO0005", 9), VIRTIO);
	for (unsigned int i = 0; i < VIRTIO; i++) {
		uint8_t memory[] = { 0x86, 9, 0, 1, 0, (uint8_t)(i << 4), 0, 0xd0, 0, 0x10, 0, 0 };
		uint8_t irq[] = { 0x89, 6, 0, 0x03, 1, (uint8_t)(16 + i), 0, 0, 0 };

		assert_int_equal(count(dsdt(vm), memory, sizeof(memory)), 1);
		assert_int_equal(count(dsdt(vm), irq, sizeof(irq)), 1);
	}
	assert_int_equal(count(dsdt(vm), serial, sizeof(serial)), 1);
	assert_int_equal(count(dsdt(vm), ports, sizeof(ports)), 1);
	assert_int_equal(count(dsdt(vm), irq4, sizeof(irq4)), 1);
	vm_destroy(vm);
}

/* iasl knows AML better than we do. */
static void iasl_reads_it(void **state)
{
	struct vm *vm = open_vm(VIRTIO, true);
	char dir[] = "/tmp/ferry-acpi-XXXXXX", path[64], command[256];
	const uint8_t *t;
	FILE *f;
	int ret;

	(void)state;
	if (system("command -v iasl >/dev/null") != 0) {
		vm_destroy(vm);
		skip(); /* acpica-tools is not installed */
	}
	assert_int_equal(write_tables(vm, NULL), 0);
	t = dsdt(vm);
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/dsdt.aml", dir);
	f = fopen(path, "w");
	assert_int_equal(fwrite(t, 1, length(t), f), length(t));
	fclose(f);
	/* Taken apart, and what came out put together again without a complaint. */
	snprintf(command, sizeof(command),
		 "cd %s && iasl -d dsdt.aml >log 2>&1 && iasl -we -p again dsdt.dsl >>log 2>&1",
		 dir);
	ret = system(command);
	if (ret != 0) {
		snprintf(command, sizeof(command), "cat %s/log", dir);
		ret |= system(command);
	}
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(ret, 0);
	vm_destroy(vm);
}

static void none_without_power_management(void **state)
{
	struct vm *vm = open_vm(1, false);

	(void)state;
	assert_int_equal(acpi_rsdp(vm), 0);
	assert_int_equal(write_tables(vm, NULL), 0);
	assert_int_equal(sum(at(vm, ACPI_TABLES, 36), 36), 0);
	assert_memory_not_equal(at(vm, ACPI_TABLES, 36), "RSD PTR ", 8);
	vm_destroy(vm);
}

/* What a tree from a stream may say and a table cannot. */
static void a_hostile_tree(void **state)
{
	static const uint64_t registers[][2] = { { 1ULL << 32, 0x1000 },
						 { 0xfffff000, 0x2000 },
						 { UINT64_MAX - 0xfff, 0x1000 },
						 { 0xd0000000, 0 } };

	(void)state;
	for (unsigned int i = 0; i < sizeof(registers) / sizeof(registers[0]); i++) {
		struct vm *vm = open_vm(1, true);
		int node = fdt_node_offset_by_compatible(vm->tree, -1, "virtio,mmio");
		fdt64_t reg[2] = { cpu_to_fdt64(registers[i][0]), cpu_to_fdt64(registers[i][1]) };
		struct error err = { 0 };

		assert_int_equal(fdt_setprop_inplace(vm->tree, node, "reg", reg, sizeof(reg)), 0);
		assert_int_equal(write_tables(vm, &err), -EINVAL);
		assert_string_equal(err.field, "reg");
		assert_non_null(strstr(err.device, "virtio-rng@"));
		vm_destroy(vm);
	}
}

/* More devices than tables have room for. */
static void a_tree_too_large(void **state)
{
	struct vm *vm = open_vm(0, true);
	void *big = malloc(TREE_MAX_SIZE);
	struct error err = { 0 };
	int ret = 0;

	(void)state;
	assert_int_equal(fdt_open_into(vm->tree, big, TREE_MAX_SIZE), 0);
	for (unsigned int i = 0; i < 300 && ret == 0; i++) {
		fdt64_t reg[2] = { cpu_to_fdt64(0xd0000000 + i * 0x1000ULL), cpu_to_fdt64(0x1000) };
		char name[32];
		int node;

		snprintf(name, sizeof(name), "x@%x", i);
		node = fdt_add_subnode(big, 0, name);
		ret = fdt_setprop(big, node, "compatible", "virtio,mmio", 12);
		ret = ret ? ret : fdt_setprop(big, node, "reg", reg, sizeof(reg));
	}
	assert_int_equal(ret, 0);
	free(vm->tree);
	vm->tree = big;
	assert_int_equal(write_tables(vm, &err), -EINVAL);
	vm_destroy(vm);
}

/* A buffer of any size: what does not fit is not written, and that is said. */
static void a_full_buffer(void **state)
{
	void *tree = machine(2, true);
	struct aml aml = { .data = malloc(4096), .size = 4096 };
	size_t whole;

	(void)state;
	assert_int_equal(dsdt_write(&aml, tree, NULL), 0);
	assert_false(aml.full);
	whole = aml.len;
	free(aml.data);
	for (size_t size = 0; size <= whole; size++) {
		aml = (struct aml){ .data = malloc(size ? size : 1), .size = size };
		assert_int_equal(dsdt_write(&aml, tree, NULL), 0);
		assert_int_equal(aml.full, size < whole);
		free(aml.data);
	}
	free(tree);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_root),
		cmocka_unit_test(fixed_hardware),
		cmocka_unit_test(cpus_and_interrupts),
		cmocka_unit_test(every_device),
		cmocka_unit_test(iasl_reads_it),
		cmocka_unit_test(none_without_power_management),
		cmocka_unit_test(a_hostile_tree),
		cmocka_unit_test(a_tree_too_large),
		cmocka_unit_test(a_full_buffer),
	};

	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
