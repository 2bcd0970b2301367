/* SPDX-License-Identifier: BSD-2-Clause */
/* The test kernel's walker over a device tree, compared with libfdt and given broken trees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <libfdt.h>

#include "guest/kernel/fdt.c"

#define SIZE 1024

static unsigned int nodes, props;
static uint64_t found[3]; /* address, size, interrupt */

static void visit(const struct fdt_node *node)
{
	nodes++;
	props += node->prop_count;
	if (fdt_compatible(node, "virtio,mmio")) {
		const struct fdt_prop *reg = fdt_find(node, "reg");
		found[0] = fdt_cells(reg, 0, node->addr_cells);
		found[1] = fdt_cells(reg, node->addr_cells, node->size_cells);
		found[2] = fdt_cells(fdt_find(node, "interrupts"), 0, 1);
	}
}

static void walk_reset(void)
{
	nodes = props = 0;
	memset(found, 0, sizeof(found));
}

/* A root with a device of two compatible strings and, beside it, a bus with a child. */
static uint32_t build(void *fdt)
{
	static const char compatible[] = "ferry,blk\0virtio,mmio";
	int node, bus, child;

	assert_int_equal(fdt_create_empty_tree(fdt, SIZE), 0);
	fdt_setprop_u32(fdt, 0, "#address-cells", 2);
	fdt_setprop_u32(fdt, 0, "#size-cells", 2);
	bus = fdt_add_subnode(fdt, 0, "isa");
	fdt_setprop_u32(fdt, bus, "#address-cells", 1);
	child = fdt_add_subnode(fdt, bus, "rtc@70");
	fdt_setprop_u32(fdt, child, "reg", 0x70);
	node = fdt_add_subnode(fdt, 0, "blk@d0001000");
	fdt_setprop(fdt, node, "compatible", compatible, sizeof(compatible));
	fdt_appendprop_u64(fdt, node, "reg", 0x1d0001000);
	fdt_appendprop_u64(fdt, node, "reg", 0x1000);
	fdt_setprop_u32(fdt, node, "interrupts", 17);
	assert_int_equal(fdt_pack(fdt), 0);
	return fdt_totalsize(fdt);
}

static void test_walk(void **state)
{
	uint8_t fdt[SIZE];
	uint32_t size = build(fdt);

	(void)state;
	walk_reset();
	assert_true(fdt_walk(fdt, size, visit));
	assert_int_equal(nodes, 4);
	assert_int_equal(props, 7);
	assert_int_equal(found[0], 0x1d0001000);
	assert_int_equal(found[1], 0x1000);
	assert_int_equal(found[2], 17);
}

/* In a block of exactly the size, so that ASan sees every byte that is read beyond it. */
static void test_truncated(void **state)
{
	uint8_t fdt[SIZE];
	uint32_t size = build(fdt);

	(void)state;
	for (uint32_t n = 0; n < size; n++) {
		uint8_t *cut = malloc(n ? n : 1);
		memcpy(cut, fdt, n);
		assert_false(fdt_walk(cut, n, visit));
		free(cut);
	}
}

static void test_changed(void **state)
{
	uint8_t fdt[SIZE];
	uint32_t size = build(fdt);
	uint8_t *copy = malloc(size);

	(void)state;
	for (uint32_t i = 0; i < size; i++)
		for (unsigned int value = 0; value < 256; value++) {
			memcpy(copy, fdt, size);
			copy[i] = (uint8_t)value;
			walk_reset();
			fdt_walk(copy, size, visit);
			assert_in_range(nodes, 0, 8); /* it ended, and invented nothing */
		}
	free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_walk),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_changed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
