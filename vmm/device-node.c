/* SPDX-License-Identifier: BSD-2-Clause */
/* What a device reads from its node of the machine tree, which may come from a stream. */
#include <errno.h>
#include <inttypes.h>
#include <libfdt.h>
#include <string.h>

#include "vmm/device-registry.h"

#define ISA_IO	   1 /* first cell of an ISA address: this is a port (IEEE 1275 ISA binding) */
#define PORT_SPACE 0x10000

const struct device_class *device_class_find(const void *fdt, int node)
{
	int n = fdt_stringlist_count(fdt, node, "compatible");

	for (int i = 0; i < n; i++) {
		const char *name = fdt_stringlist_get(fdt, node, "compatible", i, NULL);

		for_each_class (pp) {
			if (strcmp((*pp)->compatible, name) == 0)
				return *pp;
		}
	}
	return NULL;
}

static int refuse(const void *fdt, int node, const char *property, const char *expected,
		  const char *got, struct error *err)
{
	return error_set(err, -EINVAL, "realize", fdt_get_name(fdt, node, NULL), property, expected,
			 "%s", got);
}

int device_node_reg(const void *fdt, int node, uint64_t *base, uint64_t *size, bool *pio,
		    struct error *err)
{
	int len, parent = fdt_parent_offset(fdt, node);
	const fdt32_t *cell = fdt_getprop(fdt, node, "reg", &len);

	*pio = parent >= 0 && fdt_node_check_compatible(fdt, parent, "isa") == 0;
	if (!cell || len != (*pio ? 12 : 16))
		return refuse(fdt, node, "reg",
			      *pio ? "one range of ports" : "one range of addresses",
			      cell ? "something else" : "nothing", err);
	if (*pio) {
		*base = fdt32_ld(&cell[1]);
		*size = fdt32_ld(&cell[2]);
		if (fdt32_ld(&cell[0]) != ISA_IO || *base + *size > PORT_SPACE)
			return refuse(fdt, node, "reg", "I/O ports", "something else", err);
	} else {
		*base = fdt64_ld((const fdt64_t *)cell);
		*size = fdt64_ld((const fdt64_t *)(cell + 2));
	}
	if (*size == 0 || *base + *size < *base)
		return refuse(fdt, node, "reg", "a range of addresses", "an impossible one", err);
	return 0;
}

int device_node_irq(const void *fdt, int node, uint32_t *gsi, struct error *err)
{
	int len;
	const fdt32_t *cell = fdt_getprop(fdt, node, "interrupts", &len);

	if (!cell || len != 4)
		return refuse(fdt, node, "interrupts", "one number",
			      cell ? "something else" : "nothing", err);
	*gsi = fdt32_ld(cell);
	return 0;
}

const char *device_node_string(const void *fdt, int node, const char *property)
{
	int len;
	const char *text = fdt_getprop(fdt, node, property, &len);

	return text && len > 0 && strnlen(text, (size_t)len) == (size_t)len - 1 ? text : NULL;
}

uint64_t device_node_u64(const void *fdt, int node, const char *property, uint64_t def)
{
	int len;
	const fdt64_t *value = fdt_getprop(fdt, node, property, &len);

	return value && len == 8 ? fdt64_ld(value) : def;
}

bool device_node_flag(const void *fdt, int node, const char *property)
{
	return fdt_getprop(fdt, node, property, NULL) != NULL;
}
