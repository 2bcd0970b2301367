/* SPDX-License-Identifier: BSD-2-Clause */
/* scratch: eight bytes that a guest can write and read; tests/system/one-file.t adds it. */
#include <errno.h>
#include <string.h>

#include "vmm/device.h"
#include "vmm/options.h"

struct scratch {
	struct device dev;
	struct scratch_state {
		uint64_t value;
	} state;
	uint64_t initial;
};

static const struct field scratch_fields[] = {
	FIELD_ANY(struct scratch_state, value),
	FIELDS_END,
};

/* The bytes that @offset and @len have in common with the register. */
static void move(struct scratch *s, uint64_t offset, void *to, const void *from, unsigned int len)
{
	char *reg = (char *)&s->state.value;

	for (unsigned int i = 0; i < len && offset + i < sizeof(s->state.value); i++) {
		if (from)
			reg[offset + i] = ((const char *)from)[i];
		else
			((char *)to)[i] = reg[offset + i];
	}
}

static void scratch_read(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	memset(data, 0, len);
	move((struct scratch *)dev, offset, data, NULL, len);
}

static void scratch_write(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	move((struct scratch *)dev, offset, NULL, data, len);
}

static const struct bus_ops ops = { scratch_read, scratch_write };

static int scratch_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	uint64_t base, size;
	bool pio;
	int ret = device_node_reg(fdt, node, &base, &size, &pio, err);

	((struct scratch *)dev)->initial = device_node_u64(fdt, node, "value", 0);
	return ret ? ret : device_claim_mmio(dev, base, size, &ops, err);
}

static void scratch_reset(struct device *dev)
{
	struct scratch *s = (struct scratch *)dev;

	s->state.value = s->initial;
}

static const struct device_class scratch_class;

static int scratch_add(struct machine_tree *mt, const char *value, struct error *err)
{
	uint64_t initial;
	int ret = parse_uint(value, 0, UINT64_MAX, &initial, err);

	ret = ret ? ret : machine_tree_begin_mmio(mt, &scratch_class, NULL, err);
	if (ret)
		return ret;
	machine_tree_u64(mt, "value", initial);
	return machine_tree_end(mt, err);
}

static const struct device_class scratch_class = {
	.name = "scratch",
	.compatible = "test,scratch",
	.stage = STAGE_DEVICE,
	.option = { .name = "scratch",
		    .arg = "VALUE",
		    .help = "eight bytes, VALUE after a reset",
		    .add = scratch_add },
	.size = sizeof(struct scratch),
	.state_offset = offsetof(struct scratch, state),
	.state_size = sizeof(struct scratch_state),
	.fields = scratch_fields,
	.realize = scratch_realize,
	.reset = scratch_reset,
};
DEVICE_CLASS(scratch_class);
