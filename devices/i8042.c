/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 8042 keyboard controller of a PC (IBM PC AT Technical Reference, "Keyboard Controller") without a
 * keyboard: its firmware answers, so that drivers find out soon that nothing is plugged in, and it
 * can pull the reset line, which is how PC kernels restart the machine.
 */
#include <errno.h>
#include <string.h>

#include "vmm/device.h"

#define I8042_PORT	   0x60 /* data; status and command are four above */
#define COMMAND_PORT_DELTA 4

#define STATUS_OBF	0x01 /* the output buffer holds a byte for the guest */
#define STATUS_SYSTEM	0x04 /* the self test has passed */
#define STATUS_A2	0x08 /* the last write was a command */
#define STATUS_UNLOCKED 0x10

#define CONFIG_SYSTEM	    0x04
#define CONFIG_KEYBOARD_OFF 0x10
#define CONFIG_AUX_OFF	    0x20
#define CONFIG_TRANSLATE    0x40
#define CONFIG_DEFAULT	    (CONFIG_SYSTEM | CONFIG_KEYBOARD_OFF | CONFIG_AUX_OFF | CONFIG_TRANSLATE)

#define OUTPUT_NO_RESET 0x01 /* output port, active low */
#define OUTPUT_A20	0x02

#define SELF_TEST_OK 0x55
#define CLOCK_LOW    0x01 /* interface test: nobody drives the clock line */

enum { /* commands */
       CMD_READ_CONFIG = 0x20,
       CMD_WRITE_CONFIG = 0x60,
       CMD_AUX_DISABLE = 0xa7,
       CMD_AUX_ENABLE = 0xa8,
       CMD_AUX_TEST = 0xa9,
       CMD_SELF_TEST = 0xaa,
       CMD_KEYBOARD_TEST = 0xab,
       CMD_KEYBOARD_DISABLE = 0xad,
       CMD_KEYBOARD_ENABLE = 0xae,
       CMD_READ_OUTPUT = 0xd0,
       CMD_WRITE_OUTPUT = 0xd1,
       CMD_LOOP = 0xd2, /* the data byte comes back as if typed */
       CMD_AUX_LOOP = 0xd3,
       CMD_PULSE = 0xf0, /* to 0xff: pulls the output bits that are 0 in the low four */
};

struct i8042_state {
	uint8_t config;
	uint8_t command; /* waits for its data byte; 0 none */
	uint8_t out;
	bool out_full;
	bool a2;
};

static const struct field i8042_fields[] = {
	FIELD_ANY(struct i8042_state, config), FIELD_ANY(struct i8042_state, command),
	FIELD_ANY(struct i8042_state, out),    FIELD_BOOL(struct i8042_state, out_full),
	FIELD_BOOL(struct i8042_state, a2),    FIELDS_END,
};

struct i8042 {
	struct device dev;
	struct i8042_state state;
};

static void answer(struct i8042_state *s, uint8_t value)
{
	s->out = value;
	s->out_full = true;
}

static void write_command(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	struct i8042_state *s = &((struct i8042 *)dev)->state;
	uint8_t command = *(const uint8_t *)data;

	(void)offset, (void)len;
	s->a2 = true;
	s->command = 0;
	if (command >= CMD_PULSE) {
		if (!(command & OUTPUT_NO_RESET))
			device_request_reset(dev);
		return;
	}
	switch (command) {
	case CMD_READ_CONFIG:
		answer(s, s->config);
		break;
	case CMD_SELF_TEST:
		s->config |= CONFIG_SYSTEM;
		answer(s, SELF_TEST_OK);
		break;
	case CMD_AUX_TEST:
	case CMD_KEYBOARD_TEST:
		answer(s, CLOCK_LOW);
		break;
	case CMD_AUX_DISABLE:
		s->config |= CONFIG_AUX_OFF;
		break;
	case CMD_AUX_ENABLE:
		s->config &= ~CONFIG_AUX_OFF;
		break;
	case CMD_KEYBOARD_DISABLE:
		s->config |= CONFIG_KEYBOARD_OFF;
		break;
	case CMD_KEYBOARD_ENABLE:
		s->config &= ~CONFIG_KEYBOARD_OFF;
		break;
	case CMD_READ_OUTPUT:
		answer(s, OUTPUT_NO_RESET | OUTPUT_A20);
		break;
	default: /* either waits for its data byte, or is none that we know */
		s->command = command;
		break;
	}
}

static void write_data(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	struct i8042_state *s = &((struct i8042 *)dev)->state;
	uint8_t value = *(const uint8_t *)data;

	(void)offset, (void)len;
	switch (s->command) {
	case CMD_WRITE_CONFIG:
		s->config = value;
		break;
	case CMD_WRITE_OUTPUT:
		if (!(value & OUTPUT_NO_RESET))
			device_request_reset(dev);
		break;
	case CMD_LOOP:
	case CMD_AUX_LOOP: /* without the status bit for "from the mouse": there is no such port */
		answer(s, value);
		break;
	default: /* for a keyboard or a mouse that is not there */
		break;
	}
	s->a2 = false;
	s->command = 0;
}

static void read_data(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	struct i8042_state *s = &((struct i8042 *)dev)->state;

	(void)offset;
	memset(data, 0xff, len);
	*(uint8_t *)data = s->out;
	s->out_full = false;
}

static void read_status(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	const struct i8042_state *s = &((struct i8042 *)dev)->state;
	uint8_t status = STATUS_UNLOCKED;

	(void)offset;
	if (s->out_full)
		status |= STATUS_OBF;
	if (s->config & CONFIG_SYSTEM)
		status |= STATUS_SYSTEM;
	if (s->a2)
		status |= STATUS_A2;
	memset(data, 0xff, len);
	*(uint8_t *)data = status;
}

static const struct bus_ops data_ops = { read_data, write_data };
static const struct bus_ops command_ops = { read_status, write_command };

static int i8042_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	uint64_t base, size;
	bool pio;
	int ret = device_node_reg(fdt, node, &base, &size, &pio, err);

	if (ret < 0)
		return ret;
	if (!pio || size != 1)
		return error_set(err, -EINVAL, "realize", dev->name, "reg", "the data port",
				 "%llu bytes of %s", (unsigned long long)size,
				 pio ? "ports" : "memory");
	/* What lies between the two ports belongs to timer and speaker. */
	ret = device_claim_pio(dev, base, 1, &data_ops, err);
	if (ret == 0)
		ret = device_claim_pio(dev, base + COMMAND_PORT_DELTA, 1, &command_ops, err);
	return ret;
}

static void i8042_unrealize(struct device *dev)
{
	device_release_ranges(dev);
}

static void i8042_reset(struct device *dev)
{
	((struct i8042 *)dev)->state.config = CONFIG_DEFAULT;
}

static const struct device_class i8042_class;

static int i8042_add_default(struct machine_tree *mt, struct error *err)
{
	int ret = machine_tree_begin_pio(mt, &i8042_class, NULL, I8042_PORT, 1, -1, err);

	return ret < 0 ? ret : machine_tree_end(mt, err);
}

static const struct device_class i8042_class = {
	.name = "i8042",
	.compatible = "intel,i8042",
	.stage = STAGE_DEVICE,
	.option = { .add_default = i8042_add_default },
	.size = sizeof(struct i8042),
	.state_offset = offsetof(struct i8042, state),
	.state_size = sizeof(struct i8042_state),
	.fields = i8042_fields,
	.realize = i8042_realize,
	.unrealize = i8042_unrealize,
	.reset = i8042_reset,
};
DEVICE_CLASS(i8042_class);
