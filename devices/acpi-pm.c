/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Power management of a PC by ACPI's fixed hardware (ACPI 6.5, 4.8.3): the PM1 event and control
 * registers, with a power button for a person to press, and the reset register (4.8.3.6). What is
 * not here, as sleeping, timer and general purpose events, the FADT leaves out.
 */
#include <errno.h>
#include <string.h>

#include "vmm/device.h"

#define PM_PORT	 0x600
#define PM_PORTS 0x10
#define PM_SCI	 9

enum { /* registers, 2 bytes each; the architecture's tables tell guests of them */
       REG_STATUS = 0,
       REG_ENABLE = 2,
       REG_CONTROL = 4,
       REG_RESET = 8,
};

/* Bits of status and enable. All of them can be enabled, as drivers check, but only the button's
 * event ever comes. */
#define POWER_BUTTON 0x0100U
#define ENABLES	     0x0721U /* timer, global lock, both buttons, clock */

#define CONTROL_SCI_ENABLED 0x0001U /* always: there is no other mode */
#define CONTROL_SLEEP_TYPE  0x1c00U
#define CONTROL_SLEEP	    0x2000U
#define SLEEP_TYPE_SHIFT    10
#define SLEEP_OFF	    5 /* the type that the DSDT gives for S5 */

#define RESET_NOW 1

struct pm_state {
	uint16_t status, enable, control;
};

static const struct field pm_fields[] = {
	FIELD_INT(struct pm_state, status, 0, POWER_BUTTON),
	FIELD_INT(struct pm_state, enable, 0, ENABLES),
	FIELD_INT(struct pm_state, control, 0, CONTROL_SLEEP_TYPE),
	FIELDS_END,
};

struct pm {
	struct device dev;
	struct pm_state state;
	uint32_t gsi;
};

/* The SCI is a level: up as long as anything is wanted and there. */
static void show_level(struct pm *pm)
{
	device_irq_set(&pm->dev, pm->gsi, (pm->state.status & pm->state.enable) != 0);
}

static uint16_t read_register(const struct pm_state *s, uint64_t offset)
{
	switch (offset) {
	case REG_STATUS:
		return s->status;
	case REG_ENABLE:
		return s->enable;
	case REG_CONTROL:
		return s->control | CONTROL_SCI_ENABLED;
	default:
		return 0;
	}
}

static void write_control(struct pm *pm, uint16_t value)
{
	pm->state.control = value & CONTROL_SLEEP_TYPE;
	if ((value & CONTROL_SLEEP) && pm->state.control >> SLEEP_TYPE_SHIFT == SLEEP_OFF)
		device_request_exit(&pm->dev, 0);
}

static void write_register(struct pm *pm, uint64_t offset, uint16_t value)
{
	switch (offset) {
	case REG_STATUS:
		pm->state.status &= (uint16_t)~value; /* a one clears */
		break;
	case REG_ENABLE:
		pm->state.enable = value & ENABLES;
		break;
	case REG_CONTROL:
		write_control(pm, value);
		break;
	case REG_RESET:
		if ((value & 0xff) == RESET_NOW)
			device_request_reset(&pm->dev);
		break;
	default:
		break;
	}
}

/* Accesses of any width are allowed for; a register is two bytes. */
static void pm_read(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	const struct pm *pm = (struct pm *)dev;

	for (unsigned int i = 0; i < len; i++, offset++)
		((uint8_t *)data)[i] =
			(uint8_t)(read_register(&pm->state, offset & ~1ULL) >> (offset & 1) * 8);
}

static void pm_write(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	struct pm *pm = (struct pm *)dev;
	const uint8_t *bytes = data;

	while (len > 0) {
		uint64_t reg = offset & ~1ULL;
		/* What a byte alone does not write, keeps its value; a status bit by a 0. */
		uint16_t value = reg == REG_STATUS ? 0 : read_register(&pm->state, reg);
		uint8_t halves[2] = { (uint8_t)value, (uint8_t)(value >> 8) };

		for (; len > 0 && (offset & ~1ULL) == reg; len--, offset++)
			halves[offset & 1] = *bytes++;
		write_register(pm, reg, (uint16_t)(halves[0] | halves[1] << 8));
	}
	show_level(pm);
}

static const struct bus_ops pm_ops = { pm_read, pm_write };

static int pm_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct pm *pm = (struct pm *)dev;
	uint64_t base, size;
	bool pio;
	int ret = device_node_reg(fdt, node, &base, &size, &pio, err);

	if (ret < 0)
		return ret;
	if (!pio || size != PM_PORTS)
		return error_set(err, -EINVAL, "realize", dev->name, "reg", "16 ports",
				 "%llu bytes of %s", (unsigned long long)size,
				 pio ? "ports" : "memory");
	ret = device_node_irq(fdt, node, &pm->gsi, err);
	return ret < 0 ? ret : device_claim_pio(dev, base, size, &pm_ops, err);
}

static void pm_unrealize(struct device *dev)
{
	device_release_ranges(dev);
}

static void pm_reset(struct device *dev)
{
	show_level((struct pm *)dev);
}

static int pm_check(struct device *dev, const void *staged, struct error *err)
{
	const struct pm_state *s = staged;

	if (s->status & ~POWER_BUTTON)
		return error_set(err, -EINVAL, "load", dev->name, "status", "no event but 0x100",
				 "0x%x", s->status);
	if (s->enable & ~ENABLES)
		return error_set(err, -EINVAL, "load", dev->name, "enable", "bits of 0x721", "0x%x",
				 s->enable);
	if (s->control & ~CONTROL_SLEEP_TYPE)
		return error_set(err, -EINVAL, "load", dev->name, "control", "bits of 0x1c00",
				 "0x%x", s->control);
	return 0;
}

static int pm_post_load(struct device *dev, struct error *err)
{
	(void)err;
	show_level((struct pm *)dev);
	return 0;
}

static void pm_press(struct device *dev)
{
	struct pm *pm = (struct pm *)dev;

	pthread_mutex_lock(&dev->lock);
	pm->state.status |= POWER_BUTTON;
	show_level(pm);
	pthread_mutex_unlock(&dev->lock);
}

static const struct device_class pm_class;

static int pm_add_default(struct machine_tree *mt, struct error *err)
{
	int ret = machine_tree_begin_pio(mt, &pm_class, NULL, PM_PORT, PM_PORTS, PM_SCI, err);

	return ret < 0 ? ret : machine_tree_end(mt, err);
}

static const struct device_class pm_class = {
	.name = "acpi-pm",
	.compatible = "ferry,acpi-pm",
	.stage = STAGE_DEVICE,
	.option = { .add_default = pm_add_default },
	.size = sizeof(struct pm),
	.state_offset = offsetof(struct pm, state),
	.state_size = sizeof(struct pm_state),
	.fields = pm_fields,
	.realize = pm_realize,
	.unrealize = pm_unrealize,
	.reset = pm_reset,
	.check = pm_check,
	.post_load = pm_post_load,
	.press_power = pm_press,
};
DEVICE_CLASS(pm_class);
