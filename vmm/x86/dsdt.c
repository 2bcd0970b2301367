/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine tree's devices in the words of ACPI: the body of the DSDT. */
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>

#include "vmm/device.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/aml.h"

/* Devices that a kernel looks for by an id of ACPI or PNP. The first letters become the name. */
static const struct {
	const char *compatible, *prefix, *id;
	bool eisa; /* a PNP id in its compressed form, as old kernels expect it */
} known[] = {
	{ "virtio,mmio", "VR", "LNRO0005", false },
	{ "ns16550a", "CO", "PNP0501", true },
	{ "motorola,mc146818", "RT", "PNP0B00", true },
	{ ACPI_PM_COMPATIBLE, "PM", "PNP0C02", true }, /* motherboard resources */
};

#define KNOWN	  (sizeof(known) / sizeof(known[0]))
#define UID_LIMIT 0x100 /* two hex digits of a name */

static int refuse(const void *tree, int node, const char *field, const char *expected,
		  unsigned long long got, struct error *err)
{
	return error_set(err, -EINVAL, "boot", fdt_get_name(tree, node, NULL), field, expected,
			 "0x%llx", got);
}

static int write_registers(struct aml *aml, const void *tree, int node, struct error *err)
{
	uint64_t base, size;
	bool pio;
	int ret = device_node_reg(tree, node, &base, &size, &pio, err);

	if (ret < 0)
		return ret;
	if (pio && size > UINT8_MAX)
		return refuse(tree, node, "reg", "at most 255 ports", size, err);
	if (!pio && base + size > UINT32_MAX)
		return refuse(tree, node, "reg", "registers below 4 GiB", base + size, err);
	if (pio)
		aml_resource_ports(aml, (uint16_t)base, (uint8_t)size);
	else
		aml_resource_memory(aml, (uint32_t)base, (uint32_t)size);
	return 0;
}

static int write_device(struct aml *aml, const void *tree, int node, unsigned int kind,
			unsigned int uid, struct error *err)
{
	size_t device, resources;
	char name[8];
	uint32_t gsi;
	int ret;

	if (uid >= UID_LIMIT)
		return refuse(tree, node, "compatible", "at most 256 devices of a kind", uid, err);
	snprintf(name, sizeof(name), "%s%02X", known[kind].prefix, uid & (UID_LIMIT - 1));
	device = aml_begin_device(aml, name);
	if (known[kind].eisa)
		aml_name_eisa(aml, "_HID", known[kind].id);
	else
		aml_name_string(aml, "_HID", known[kind].id);
	aml_name_integer(aml, "_UID", uid);
	resources = aml_begin_resources(aml);
	ret = write_registers(aml, tree, node, err);
	/* The SCI is no interrupt of a device; the FADT tells of it. */
	if (ret == 0 && fdt_getprop(tree, node, "interrupts", NULL) &&
	    fdt_node_check_compatible(tree, node, ACPI_PM_COMPATIBLE) != 0) {
		ret = device_node_irq(tree, node, &gsi, err);
		if (ret == 0)
			aml_resource_interrupt(aml, gsi);
	}
	aml_end_resources(aml, resources);
	aml_end(aml, device);
	return ret;
}

int dsdt_write(struct aml *aml, const void *tree, struct error *err)
{
	/* Values for PM1a and PM1b, and two reserved (7.4.2). */
	static const uint8_t s0[] = { ACPI_PM_S0, ACPI_PM_S0, 0, 0 };
	static const uint8_t s5[] = { ACPI_PM_S5, ACPI_PM_S5, 0, 0 };
	size_t scope;

	aml_name_package(aml, "_S0_", s0, sizeof(s0));
	aml_name_package(aml, "_S5_", s5, sizeof(s5));
	scope = aml_begin_scope(aml, "_SB_");
	for (unsigned int kind = 0; kind < KNOWN; kind++) {
		const char *compatible = known[kind].compatible;
		unsigned int uid = 0;
		int node = fdt_node_offset_by_compatible(tree, -1, compatible);

		for (; node >= 0; node = fdt_node_offset_by_compatible(tree, node, compatible)) {
			int ret = write_device(aml, tree, node, kind, uid++, err);

			if (ret < 0)
				return ret;
		}
	}
	aml_end(aml, scope);
	return 0;
}
