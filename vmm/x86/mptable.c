/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Intel's MultiProcessor Specification 1.4, chapter 4: processors and interrupts for kernels that
 * know no ACPI. Only ISA interrupts have a place in it.
 */
#include <errno.h>
#include <string.h>

#include "vmm/vm.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/platform.h"

#define PACKED __attribute__((packed))

#define SPEC_1_4       4
#define APIC_VERSION   0x14 /* of local APICs, as KVM's has it */
#define IOAPIC_VERSION 0x11
#define CPU_ENABLED    1
#define CPU_BOOT       2
#define ISA_IRQS       16
#define ALL_LAPICS     0xff

struct floating { /* 4.1 */
	char signature[4];
	uint32_t config;
	uint8_t length, spec, checksum, type, imcr, reserved[3];
} PACKED;

struct config { /* 4.2 */
	char signature[4];
	uint16_t length;
	uint8_t spec, checksum;
	char oem[8], product[12];
	uint32_t oem_table;
	uint16_t oem_table_size, entries;
	uint32_t lapic;
	uint16_t extended_length;
	uint8_t extended_checksum, reserved;
} PACKED;

struct mp_cpu { /* 4.3.1 */
	uint8_t type, id, version, flags;
	uint32_t signature, features, reserved[2];
} PACKED;

struct mp_bus {
	uint8_t type, id;
	char name[6];
} PACKED;

struct mp_ioapic {
	uint8_t type, id, version, flags;
	uint32_t address;
} PACKED;

struct mp_interrupt { /* type 3 to a pin of the IOAPIC, type 4 to one of local APICs */
	uint8_t type, kind;
	uint16_t flags;
	uint8_t bus, irq, apic, pin;
} PACKED;

enum { KIND_INT, KIND_NMI, KIND_SMI, KIND_EXTINT };

/* As they lie at MP_TABLES. */
struct mp {
	struct floating floating;
	struct config config;
	/* Processors, which differ in number, and then these. */
	struct mp_cpu cpus[VM_MAX_VCPUS];
} PACKED;

struct mp_rest {
	struct mp_bus isa;
	struct mp_ioapic ioapic;
	struct mp_interrupt irqs[ISA_IRQS], local[2];
} PACKED;

static struct mp_rest rest(void)
{
	struct mp_rest r = {
		.isa = { 1, 0, { 'I', 'S', 'A', ' ', ' ', ' ' } },
		.ioapic = { 2, 0, IOAPIC_VERSION, 1, IOAPIC_BASE },
		.local = { { 4, KIND_EXTINT, 0, 0, 0, ALL_LAPICS, 0 },
			   { 4, KIND_NMI, 0, 0, 0, ALL_LAPICS, 1 } },
	};

	/* Flags 0: as ISA has it, an edge, active high. */
	for (uint8_t i = 0; i < ISA_IRQS; i++)
		r.irqs[i] = (struct mp_interrupt){ 3, KIND_INT, 0, 0, i, 0, i };
	return r;
}

int mptable_write(struct vm *vm, struct error *err)
{
	const struct mp_rest r = rest();
	struct mp mp = {
		.floating = { .signature = { '_', 'M', 'P', '_' },
			      .config = MP_TABLES + offsetof(struct mp, config),
			      .length = 1, /* of 16 bytes */
			      .spec = SPEC_1_4 },
		.config = { .signature = { 'P', 'C', 'M', 'P' },
			    .spec = SPEC_1_4,
			    .oem = { 'F', 'E', 'R', 'R', 'Y', ' ', ' ', ' ' },
			    .product = { 'M', 'A', 'C', 'H', 'I', 'N', 'E', ' ', ' ', ' ', ' ',
					 ' ' },
			    .lapic = LAPIC_BASE },
	};
	uint8_t bytes[sizeof(mp) + sizeof(r)] = { 0 };
	size_t cpus = vm->n_vcpus * sizeof(mp.cpus[0]);
	size_t len = sizeof(mp.config) + cpus + sizeof(r);

	for (unsigned int i = 0; i < vm->n_vcpus; i++)
		mp.cpus[i] = (struct mp_cpu){
			.id = (uint8_t)i,
			.version = APIC_VERSION,
			.flags = i == 0 ? CPU_ENABLED | CPU_BOOT : CPU_ENABLED,
		};
	mp.floating.checksum = table_checksum(&mp.floating, sizeof(mp.floating));
	mp.config.length = (uint16_t)len;
	mp.config.entries = (uint16_t)(vm->n_vcpus + 2 + ISA_IRQS + 2);
	memcpy(bytes, &mp, sizeof(mp));
	memcpy(bytes + offsetof(struct mp, cpus) + cpus, &r, sizeof(r));
	mp.config.checksum = table_checksum(bytes + offsetof(struct mp, config), len);
	memcpy(bytes + offsetof(struct mp, config), &mp.config, sizeof(mp.config));
	if (memory_write(&vm->memory, MP_TABLES, bytes, sizeof(bytes)) < 0)
		return error_set(err, -EFAULT, "boot", "MP tables", "", "RAM below 1 MiB", "none");
	return 0;
}
