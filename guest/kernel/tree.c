/* SPDX-License-Identifier: BSD-2-Clause */
/* What is looked for in the machine tree: CPUs, virtio devices, the serial port. */
#include "fdt.h"
#include "machine.h"
#include "program.h"

static bool is_cpu(const struct fdt_node *node)
{
	const struct fdt_prop *type = fdt_find(node, "device_type");

	return type && type->size == 4 && memcmp(type->data, "cpu", 4) == 0;
}

static void visit(const struct fdt_node *node)
{
	const struct fdt_prop *reg = fdt_find(node, "reg");

	if (is_cpu(node) && machine.cpu_count < MAX_CPUS) {
		machine.apic_id[machine.cpu_count++] =
			(uint32_t)fdt_cells(reg, 0, node->addr_cells);
	} else if (fdt_compatible(node, "virtio,mmio") && machine.virtio_count < 32) {
		struct device *d = &machine.virtio[machine.virtio_count++];
		d->address = fdt_cells(reg, 0, node->addr_cells);
		d->size = fdt_cells(reg, node->addr_cells, node->size_cells);
		d->irq = (uint32_t)fdt_cells(fdt_find(node, "interrupts"), 0, 1);
	} else if (fdt_compatible(node, "ns16550a")) {
		machine.serial = true;
	}
}

bool machine_read_fdt(const void *fdt, uint64_t size)
{
	return fdt_walk(fdt, size, visit);
}
