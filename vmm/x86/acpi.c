/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI tables (ACPI 6.5, chapter 5): RSDP, RSDT and XSDT, FADT, FACS, MADT, DSDT, one behind the
 * other from ACPI_TABLES on. The machine is a whole PC for ACPI, not a hardware-reduced one: that
 * would take the legacy interrupts away, the serial port's among them.
 */
#include "vmm/x86/acpi.h"

#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/device.h"
#include "vmm/vm.h"
#include "vmm/x86/aml.h"
#include "vmm/x86/platform.h"

#define PACKED __attribute__((packed))

struct rsdp { /* 5.2.5.3 */
	char signature[8];
	uint8_t checksum;
	char oem[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} PACKED;

struct header { /* 5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem[6], oem_table[8];
	uint32_t oem_revision;
	char creator[4];
	uint32_t creator_revision;
} PACKED;

struct gas { /* 5.2.3.2, generic address */
	uint8_t space, bits, offset, access;
	uint64_t address;
} PACKED;

#define GAS_PORT    1
#define ACCESS_8    1
#define ACCESS_16   2
#define PM1_EVENT   4 /* bytes */
#define PM1_CONTROL 2
#define NO_C2	    0x65 /* latencies that mean that there is no such state */
#define NO_C3	    0x3e9

struct fadt { /* 5.2.9 */
	struct header header;
	uint32_t facs, dsdt;
	uint8_t reserved, profile;
	uint16_t sci;
	uint32_t smi_command;
	uint8_t smi_values[4];
	uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer;
	uint32_t gpe0, gpe1;
	uint8_t pm1_event_len, pm1_control_len, pm2_control_len, pm_timer_len;
	uint8_t gpe0_len, gpe1_len, gpe1_base, cst;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_flags;
	uint8_t reserved2;
	uint32_t flags;
	struct gas reset;
	uint8_t reset_value;
	uint16_t arm_flags;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct gas x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control;
	struct gas x_pm2_control, x_pm_timer, x_gpe0, x_gpe1, sleep_control, sleep_status;
	uint64_t hypervisor;
} PACKED;

enum { /* boot_flags */
       BOOT_LEGACY_DEVICES = 1 << 0,
       BOOT_8042 = 1 << 1,
       BOOT_NO_VGA = 1 << 2,
       BOOT_NO_MSI = 1 << 3,
};

enum { /* flags; bit 4 clear: the power button is one of PM1 */
       FLAG_WBINVD = 1 << 0,
       FLAG_C1 = 1 << 2,
       FLAG_NO_SLEEP_BUTTON = 1 << 5,
       FLAG_NO_FIXED_RTC = 1 << 6,
       FLAG_RESET_REGISTER = 1 << 10,
};

struct facs { /* 5.2.10; it has no checksum */
	char signature[4];
	uint32_t length;
	uint8_t rest[24], version, reserved[31];
} PACKED;

struct madt { /* 5.2.12 */
	struct header header;
	uint32_t lapic, flags;
} PACKED;

#define MADT_PCAT 1 /* there are two 8259 as well */

struct madt_cpu {
	uint8_t type, length, acpi_id, apic_id;
	uint32_t flags;
} PACKED;

struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} PACKED;

struct madt_override {
	uint8_t type, length, bus, irq;
	uint32_t gsi;
	uint16_t flags;
} PACKED;

#define ACTIVE_HIGH_LEVEL 0xd

struct madt_nmi {
	uint8_t type, length, acpi_id;
	uint16_t flags;
	uint8_t lint;
} PACKED;

/* The tables as they will lie at ACPI_TABLES. */
struct tables {
	uint8_t *data;
	size_t used;
};

uint8_t table_checksum(const void *table, size_t len)
{
	const uint8_t *byte = table;
	uint8_t sum = 0;

	while (len-- > 0)
		sum = (uint8_t)(sum + *byte++);
	return (uint8_t)-sum;
}

/* Room for @len bytes, which are 0, at a multiple of 64; NULL when there is none. */
static void *reserve(struct tables *t, size_t len, uint32_t *gpa)
{
	size_t at = (t->used + 63) & ~(size_t)63;

	if (at > ACPI_TABLES_MAX || len > ACPI_TABLES_MAX - at)
		return NULL;
	t->used = at + len;
	*gpa = (uint32_t)(ACPI_TABLES + at);
	return t->data + at;
}

static void finish(void *table, const char *signature, uint8_t revision, size_t len)
{
	struct header h = { .length = (uint32_t)len,
			    .revision = revision,
			    .oem = "FERRY ",
			    .oem_table = { 'M', 'A', 'C', 'H', 'I', 'N', 'E', ' ' },
			    .oem_revision = 1,
			    .creator = { 'F', 'R', 'R', 'Y' },
			    .creator_revision = 1 };

	memcpy(h.signature, signature, 4);
	memcpy(table, &h, sizeof(h));
	h.checksum = table_checksum(table, len);
	memcpy(table, &h, sizeof(h));
}

static int no_room(struct error *err)
{
	return error_set(err, -ENOSPC, "boot", "ACPI", "tables", "at most 64 KiB",
			 "more devices than that");
}

static int add_dsdt(struct tables *t, const void *tree, uint32_t *gpa, struct error *err)
{
	uint8_t *table = reserve(t, sizeof(struct header), gpa);
	struct aml aml;
	int ret;

	if (!table)
		return no_room(err);
	aml = (struct aml){ .data = t->data + t->used, .size = ACPI_TABLES_MAX - t->used };
	ret = dsdt_write(&aml, tree, err);
	if (ret < 0)
		return ret;
	if (aml.full)
		return no_room(err);
	t->used += aml.len;
	finish(table, "DSDT", 2, sizeof(struct header) + aml.len);
	return 0;
}

static int add_facs(struct tables *t, uint32_t *gpa, struct error *err)
{
	struct facs *facs = reserve(t, sizeof(*facs), gpa);

	if (!facs)
		return no_room(err);
	memcpy(facs->signature, "FACS", 4);
	facs->length = sizeof(*facs);
	facs->version = 2;
	return 0;
}

static struct gas port(uint64_t base, unsigned int offset, unsigned int bytes, uint8_t access)
{
	return (struct gas){ GAS_PORT, (uint8_t)(bytes * 8), 0, access, base + offset };
}

static int add_fadt(struct tables *t, const void *tree, uint32_t facs, uint32_t dsdt, uint32_t *gpa,
		    struct error *err)
{
	int node = fdt_node_offset_by_compatible(tree, -1, ACPI_PM_COMPATIBLE);
	struct fadt *f = reserve(t, sizeof(*f), gpa);
	uint64_t base, size;
	uint32_t sci;
	bool pio;
	int ret;

	if (!f)
		return no_room(err);
	if ((ret = device_node_reg(tree, node, &base, &size, &pio, err)) < 0 ||
	    (ret = device_node_irq(tree, node, &sci, err)) < 0)
		return ret;
	f->facs = facs;
	f->dsdt = dsdt;
	f->x_dsdt = dsdt;
	f->sci = (uint16_t)sci;
	/* No SMI command: ACPI is on from the start. */
	f->pm1a_event = (uint32_t)base + ACPI_PM_EVENT;
	f->pm1a_control = (uint32_t)base + ACPI_PM_CONTROL;
	f->pm1_event_len = PM1_EVENT;
	f->pm1_control_len = PM1_CONTROL;
	f->x_pm1a_event = port(base, ACPI_PM_EVENT, PM1_EVENT, ACCESS_16);
	f->x_pm1a_control = port(base, ACPI_PM_CONTROL, PM1_CONTROL, ACCESS_16);
	f->reset = port(base, ACPI_PM_RESET, 1, ACCESS_8);
	f->reset_value = ACPI_PM_RESET_NOW;
	f->c2_latency = NO_C2;
	f->c3_latency = NO_C3;
	f->century = 0x32; /* as in the CMOS of PCs */
	f->boot_flags = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_MSI;
	if (fdt_node_offset_by_compatible(tree, -1, "intel,i8042") >= 0)
		f->boot_flags |= BOOT_8042;
	f->flags = FLAG_WBINVD | FLAG_C1 | FLAG_NO_SLEEP_BUTTON | FLAG_NO_FIXED_RTC |
		   FLAG_RESET_REGISTER;
	f->minor = 5;
	finish(f, "FACP", 6, sizeof(*f));
	return 0;
}

static int add_madt(struct tables *t, const void *tree, unsigned int cpus, uint32_t *gpa,
		    struct error *err)
{
	size_t len = sizeof(struct madt) + cpus * sizeof(struct madt_cpu) +
		     sizeof(struct madt_ioapic) + sizeof(struct madt_override) +
		     sizeof(struct madt_nmi);
	int node = fdt_node_offset_by_compatible(tree, -1, ACPI_PM_COMPATIBLE);
	struct madt *madt = reserve(t, len, gpa);
	struct madt_ioapic ioapic = { 1, sizeof(ioapic), 0, 0, IOAPIC_BASE, 0 };
	struct madt_override sci = { 2, sizeof(sci), 0, 0, 0, ACTIVE_HIGH_LEVEL };
	struct madt_nmi nmi = { 4, sizeof(nmi), 0xff, 0, 1 }; /* LINT1 of all */
	uint32_t gsi;
	uint8_t *at;
	int ret;

	if (!madt)
		return no_room(err);
	ret = device_node_irq(tree, node, &gsi, err);
	if (ret < 0)
		return ret;
	sci.gsi = gsi;
	sci.irq = (uint8_t)gsi;
	madt->lapic = LAPIC_BASE;
	madt->flags = MADT_PCAT;
	at = (uint8_t *)(madt + 1);
	for (unsigned int i = 0; i < cpus; i++) {
		struct madt_cpu cpu = { 0, sizeof(cpu), (uint8_t)i, (uint8_t)i, 1 };

		at = mempcpy(at, &cpu, sizeof(cpu));
	}
	at = mempcpy(at, &ioapic, sizeof(ioapic));
	at = mempcpy(at, &sci, sizeof(sci));
	memcpy(at, &nmi, sizeof(nmi));
	finish(madt, "APIC", 5, len);
	return 0;
}

/* RSDT and XSDT say the same, in 32 and 64 bits. */
static int add_roots(struct tables *t, const uint32_t listed[2], struct rsdp *rsdp,
		     struct error *err)
{
	const uint64_t wide[2] = { listed[0], listed[1] };
	size_t head = sizeof(struct header);
	uint32_t narrow_gpa, wide_gpa;
	uint8_t *rsdt = reserve(t, head + 8, &narrow_gpa);
	uint8_t *xsdt = reserve(t, head + 16, &wide_gpa);

	if (!rsdt || !xsdt)
		return no_room(err);
	memcpy(rsdt + head, listed, 8);
	memcpy(xsdt + head, wide, 16);
	finish(rsdt, "RSDT", 1, head + 8);
	finish(xsdt, "XSDT", 1, head + 16);
	rsdp->rsdt = narrow_gpa;
	rsdp->xsdt = wide_gpa;
	return 0;
}

static int build(struct tables *t, const struct vm *vm, struct error *err)
{
	uint32_t at, facs, dsdt, listed[2] = { 0 };
	struct rsdp *rsdp = reserve(t, sizeof(*rsdp), &at), r = { .revision = 2 };
	int ret;

	if ((ret = add_facs(t, &facs, err)) < 0 || (ret = add_dsdt(t, vm->tree, &dsdt, err)) < 0 ||
	    (ret = add_fadt(t, vm->tree, facs, dsdt, &listed[0], err)) < 0 ||
	    (ret = add_madt(t, vm->tree, vm->n_vcpus, &listed[1], err)) < 0 ||
	    (ret = add_roots(t, listed, &r, err)) < 0)
		return ret;
	memcpy(r.signature, "RSD PTR ", 8);
	memcpy(r.oem, "FERRY ", 6);
	r.length = sizeof(r);
	r.checksum = table_checksum(&r, offsetof(struct rsdp, length)); /* of ACPI 1.0 */
	r.extended_checksum = table_checksum(&r, sizeof(r));
	*rsdp = r;
	return 0;
}

uint64_t acpi_rsdp(const struct vm *vm)
{
	int node = fdt_node_offset_by_compatible(vm->tree, -1, ACPI_PM_COMPATIBLE);

	return node >= 0 ? ACPI_TABLES : 0;
}

int acpi_write(struct vm *vm, struct error *err)
{
	struct tables t = { 0 };
	int ret;

	if (!acpi_rsdp(vm))
		return 0;
	t.data = calloc(1, ACPI_TABLES_MAX);
	if (!t.data)
		return error_set(err, -ENOMEM, "boot", "ACPI", "", "memory", "none");
	ret = build(&t, vm, err);
	/* All of it: the guest that was there before may have left something. */
	if (ret == 0 && memory_write(&vm->memory, ACPI_TABLES, t.data, ACPI_TABLES_MAX) < 0)
		ret = error_set(err, -EFAULT, "boot", "ACPI", "tables", "RAM below 1 MiB", "none");
	free(t.data);
	return ret;
}
