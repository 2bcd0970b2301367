/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's tree in the words of x86 kernels with CONFIG_OF (Linux, Documentation/devicetree/
 * bindings/x86, where each IOAPIC is one of a CE4100; devicetree specification 2.4, interrupts).
 * The machine's own tree names pins by one number and needs no controller for them.
 */
#include <libfdt.h>

#include "vmm/arch.h"
#include "vmm/x86/platform.h"

#define IOAPIC_SIZE	  0x1000
#define SENSE_EDGE_RISING 3	  /* as all of this machine's devices signal */
#define UART_CLOCK	  1843200 /* Hz, of a PC's serial port */

static int add_ioapic(void *fdt)
{
	uint32_t phandle;
	int node, ret = fdt_generate_phandle(fdt, &phandle);

	ret = ret ? ret : fdt_setprop_u32(fdt, 0, "interrupt-parent", phandle);
	if (ret < 0)
		return ret;
	node = fdt_add_subnode(fdt, 0, "ioapic@fec00000");
	if (node < 0)
		return node;
	ret = fdt_setprop_string(fdt, node, "compatible", "intel,ce4100-ioapic");
	ret = ret ? ret : fdt_appendprop_u64(fdt, node, "reg", IOAPIC_BASE);
	ret = ret ? ret : fdt_appendprop_u64(fdt, node, "reg", IOAPIC_SIZE);
	ret = ret ? ret : fdt_setprop_empty(fdt, node, "interrupt-controller");
	ret = ret ? ret : fdt_setprop_u32(fdt, node, "#interrupt-cells", 2);
	return ret ? ret : fdt_setprop_u32(fdt, node, "phandle", phandle);
}

static int complete_node(void *fdt, int node)
{
	int len, ret = 0;

	if (fdt_getprop(fdt, node, "interrupts", &len) && len == sizeof(uint32_t))
		ret = fdt_appendprop_u32(fdt, node, "interrupts", SENSE_EDGE_RISING);
	if (ret == 0 && fdt_node_check_compatible(fdt, node, "ns16550a") == 0)
		ret = fdt_setprop_u32(fdt, node, "clock-frequency", UART_CLOCK);
	return ret;
}

size_t arch_guest_tree_room(const void *fdt)
{
	/* A property of 16 bytes grows by 4, a node of at least 36 bytes by a property of 16. */
	return fdt_totalsize(fdt) / 2 + 512;
}

int arch_guest_tree(void *fdt)
{
	int ret = 0;

	for (int node = 0; node >= 0 && ret == 0; node = fdt_next_node(fdt, node, NULL))
		ret = complete_node(fdt, node);
	return ret ? ret : add_ioapic(fdt);
}
