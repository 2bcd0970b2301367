/* SPDX-License-Identifier: BSD-2-Clause */
/* The PC's first serial port as a device: its life and its option. The UART is serial-regs.c. */
#include "devices/serial.h"

#include <errno.h>

static int serial_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct serial *serial = (struct serial *)dev;
	uint64_t base, size;
	bool pio;
	int ret;

	ret = device_node_reg(fdt, node, &base, &size, &pio, err);
	if (ret == 0)
		ret = device_node_irq(fdt, node, &serial->gsi, err);
	if (ret < 0)
		return ret;
	if (!pio || size != REGS)
		return error_set(err, -EINVAL, "realize", dev->name, "reg", "8 ports",
				 "%#llx bytes of %s", (unsigned long long)size,
				 pio ? "ports" : "memory");
	ret = device_claim_pio(dev, base, size, &serial_bus_ops, err);
	if (ret < 0)
		return ret;
	return chardev_open(&serial->chardev, dev, device_node_string(fdt, node, "host-backend"),
			    &serial_chardev_ops, &serial->state.chardev, err);
}

static void serial_unrealize(struct device *dev)
{
	struct serial *serial = (struct serial *)dev;

	device_release_ranges(dev);
	chardev_close(serial->chardev);
	serial->chardev = NULL;
}

static void serial_quiesce(struct device *dev)
{
	chardev_stop(((struct serial *)dev)->chardev);
}

static void serial_resume(struct device *dev)
{
	chardev_start(((struct serial *)dev)->chardev);
}

static int serial_claim(struct device *dev, struct error *err)
{
	(void)err;
	chardev_claim(((struct serial *)dev)->chardev);
	return 0;
}

static void serial_yield(struct device *dev)
{
	chardev_yield(((struct serial *)dev)->chardev);
}

static void serial_hand_on(struct device *dev, struct device_fds *fds)
{
	chardev_hand_on(((struct serial *)dev)->chardev, fds);
}

static const struct device_class serial_class;

static int serial_add(struct machine_tree *mt, const char *value, struct error *err)
{
	int ret = chardev_check(value, "--serial", err);

	if (ret == 0)
		ret = machine_tree_begin_pio(mt, &serial_class, NULL, SERIAL_PORT, REGS, SERIAL_GSI,
					     err);
	if (ret < 0)
		return ret;
	machine_tree_string(mt, "host-backend", value);
	return machine_tree_end(mt, err);
}

static int serial_add_default(struct machine_tree *mt, struct error *err)
{
	return serial_add(mt, "stdio", err);
}

static const struct device_class serial_class = {
	.name = "serial",
	.compatible = "ns16550a",
	.stage = STAGE_DEVICE,
	.option = { .name = "serial",
		    .arg = "stdio|file:PATH|pty|unix:PATH|none",
		    .help = "what the serial port is connected to (default: stdio; Ctrl-A h: help)",
		    .add = serial_add,
		    .add_default = serial_add_default },
	.size = sizeof(struct serial),
	.state_offset = offsetof(struct serial, state),
	.state_size = sizeof(struct serial_state),
	.fields = serial_fields,
	.realize = serial_realize,
	.unrealize = serial_unrealize,
	.reset = serial_reset,
	.quiesce = serial_quiesce,
	.resume = serial_resume,
	.check = serial_check,
	.post_load = serial_post_load,
	.claim = serial_claim,
	.yield = serial_yield,
	.hand_on = serial_hand_on,
};
DEVICE_CLASS(serial_class);
