/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A port whose write ends ferry with the status (value << 1) | 1. Test kernels written for other
 * VMMs report their result this way. It has no state: nothing of it migrates.
 */
#include <errno.h>
#include <string.h>

#include "vmm/device.h"

#define EXIT_PORT  0xf4
#define EXIT_PORTS 4
/* A process has eight bits of exit status, of which the lowest is taken. */
#define VALUE_MASK 0x7f

static void exit_read(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	(void)dev, (void)offset;
	memset(data, 0, len);
}

/* Of a write of any width, the low byte is all that can be reported (x86 is little-endian). */
static void exit_write(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	uint8_t value = *(const uint8_t *)data & VALUE_MASK;

	(void)offset, (void)len;
	device_request_exit(dev, value << 1 | 1);
}

static const struct bus_ops exit_ops = { exit_read, exit_write };

static int exit_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	uint64_t base, size;
	bool pio;
	int ret = device_node_reg(fdt, node, &base, &size, &pio, err);

	if (ret < 0)
		return ret;
	if (!pio)
		return error_set(err, -EINVAL, "realize", dev->name, "reg", "ports", "memory");
	return device_claim_pio(dev, base, size, &exit_ops, err);
}

static void exit_unrealize(struct device *dev)
{
	device_release_ranges(dev);
}

static const struct device_class debug_exit_class;

static int exit_add_default(struct machine_tree *mt, struct error *err)
{
	int ret =
		machine_tree_begin_pio(mt, &debug_exit_class, NULL, EXIT_PORT, EXIT_PORTS, -1, err);

	return ret < 0 ? ret : machine_tree_end(mt, err);
}

static const struct device_class debug_exit_class = {
	.name = "debug-exit",
	.compatible = "ferry,debug-exit",
	.stage = STAGE_DEVICE,
	.option = { .add_default = exit_add_default },
	.size = sizeof(struct device),
	.realize = exit_realize,
	.unrealize = exit_unrealize,
};
DEVICE_CLASS(debug_exit_class);
