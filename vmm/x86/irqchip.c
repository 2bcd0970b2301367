/* SPDX-License-Identifier: BSD-2-Clause */
/* The in-kernel interrupt controllers (two PICs, one IOAPIC) and the PIT, as devices of the tree.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/vm.h"
#include "vmm/x86/x86.h"

#define CHIPS 3 /* KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE, _IOAPIC */

struct irqchip_state {
	struct kvm_irqchip chips[CHIPS];
};

struct irqchip {
	struct device dev;
	struct irqchip_state state, at_reset;
};

static const struct field chip_fields[] = {
	FIELD_INT(struct kvm_irqchip, chip_id, 0, CHIPS - 1),
	FIELD_RAW(struct kvm_irqchip, chip),
	FIELDS_END,
};

static const struct field irqchip_fields[] = {
	FIELD_STRUCTS(struct irqchip_state, chips, chip_fields),
	FIELDS_END,
};

static int irqchip_get(struct device *dev, struct irqchip_state *s, struct error *err)
{
	for (uint32_t i = 0; i < CHIPS; i++) {
		s->chips[i].chip_id = i;
		if (ioctl(dev->vm->fd, KVM_GET_IRQCHIP, &s->chips[i]) < 0)
			return error_set(err, -errno, "save", dev->name, "chips", "KVM to give it",
					 "%m");
	}
	return 0;
}

static int irqchip_set(struct device *dev, struct irqchip_state *s, struct error *err)
{
	for (uint32_t i = 0; i < CHIPS; i++) {
		if (ioctl(dev->vm->fd, KVM_SET_IRQCHIP, &s->chips[i]) < 0)
			return error_set(err, -errno, "load", dev->name, "chips", "KVM to take it",
					 "%m");
	}
	return 0;
}

static int irqchip_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	(void)fdt;
	(void)node;
	return irqchip_get(dev, &((struct irqchip *)dev)->at_reset, err);
}

static int irqchip_pre_save(struct device *dev, struct error *err)
{
	return irqchip_get(dev, &((struct irqchip *)dev)->state, err);
}

static int irqchip_post_load(struct device *dev, struct error *err)
{
	return irqchip_set(dev, &((struct irqchip *)dev)->state, err);
}

static int irqchip_check(struct device *dev, const void *staged, struct error *err)
{
	const struct irqchip_state *s = staged;

	for (uint32_t i = 0; i < CHIPS; i++) {
		if (s->chips[i].chip_id != i)
			return error_set(err, -EINVAL, "load", dev->name, "chip_id",
					 "each chip once, in order", "%u", s->chips[i].chip_id);
	}
	return 0;
}

static void irqchip_reset(struct device *dev)
{
	struct irqchip *irqchip = (struct irqchip *)dev;
	struct error err = { 0 };

	irqchip->state = irqchip->at_reset;
	if (irqchip_set(dev, &irqchip->state, &err) < 0)
		error_print(&err);
}

static const struct device_class irqchip_class = {
	.name = "interrupt-controller",
	.compatible = "ferry,x86-irqchip",
	.stage = STAGE_IRQ,
	.size = sizeof(struct irqchip),
	.state_offset = offsetof(struct irqchip, state),
	.state_size = sizeof(struct irqchip_state),
	.fields = irqchip_fields,
	.realize = irqchip_realize,
	.reset = irqchip_reset,
	.pre_save = irqchip_pre_save,
	.check = irqchip_check,
	.post_load = irqchip_post_load,
};
DEVICE_CLASS(irqchip_class);

struct pit_state {
	struct kvm_pit_state2 pit;
};

struct pit {
	struct device dev;
	struct pit_state state, at_reset;
};

static const struct field pit_fields[] = {
	FIELD_RAW(struct pit_state, pit),
	FIELDS_END,
};

static int pit_pre_save(struct device *dev, struct error *err)
{
	if (ioctl(dev->vm->fd, KVM_GET_PIT2, &((struct pit *)dev)->state.pit) < 0)
		return error_set(err, -errno, "save", dev->name, "", "KVM to give it", "%m");
	return 0;
}

static int pit_post_load(struct device *dev, struct error *err)
{
	if (ioctl(dev->vm->fd, KVM_SET_PIT2, &((struct pit *)dev)->state.pit) < 0)
		return error_set(err, -errno, "load", dev->name, "", "KVM to take it", "%m");
	return 0;
}

static int pit_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct pit *pit = (struct pit *)dev;
	int ret = pit_pre_save(dev, err);

	(void)fdt;
	(void)node;
	pit->at_reset = pit->state;
	return ret;
}

static void pit_reset(struct device *dev)
{
	struct pit *pit = (struct pit *)dev;
	struct error err = { 0 };

	pit->state = pit->at_reset;
	if (pit_post_load(dev, &err) < 0)
		error_print(&err);
}

static const struct device_class pit_class = {
	.name = "timer",
	.compatible = "ferry,x86-pit",
	.stage = STAGE_IRQ,
	.size = sizeof(struct pit),
	.state_offset = offsetof(struct pit, state),
	.state_size = sizeof(struct pit_state),
	.fields = pit_fields,
	.realize = pit_realize,
	.reset = pit_reset,
	.pre_save = pit_pre_save,
	.post_load = pit_post_load,
};
DEVICE_CLASS(pit_class);
