/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/device-registry.h"
#include "vmm/vm.h"

static const struct device_class gizmo = { .name = "gizmo", .compatible = "test,gizmo" };
DEVICE_CLASS(gizmo);

/* A machine without KVM, and a device of it. */
static struct vm vm = { .kvm_fd = -1, .fd = -1 };
static struct device dev = { .vm = &vm, .class = &gizmo, .name = "gizmo@1000" };

static void read_nothing(struct device *d, uint64_t offset, void *data, unsigned int len)
{
	(void)d;
	(void)offset;
	memset(data, 0, len);
}

static void write_nothing(struct device *d, uint64_t offset, const void *data, unsigned int len)
{
	(void)d;
	(void)offset;
	(void)data;
	(void)len;
}

static const struct bus_ops ops = { read_nothing, write_nothing };

static void ranges_on_both_buses(void **state)
{
	uint32_t v;

	(void)state;
	assert_int_equal(device_claim_mmio(&dev, 0x1000, 0x100, &ops, NULL), 0);
	assert_int_equal(device_claim_pio(&dev, 0x60, 4, &ops, NULL), 0);
	assert_int_equal(bus_read(&vm.mmio, 0x1000, &v, 4), 0);
	assert_int_equal(bus_read(&vm.pio, 0x1000, &v, 4), -ENXIO);
	assert_int_equal(bus_read(&vm.pio, 0x60, &v, 4), 0);
	device_release_ranges(&dev);
	assert_int_equal(vm.mmio.n + vm.pio.n, 0);
}

static void interrupts_without_kvm_are_eventfds(void **state)
{
	uint64_t count;
	int fd;

	(void)state;
	assert_int_equal(device_irq_open(&dev, 5, &fd, NULL), 0);
	device_irq_pulse(fd);
	device_irq_pulse(fd);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 2);
	assert_int_equal(device_ioeventfd(&dev, 0x1050, 0, fd, true, NULL), 0);
	device_irq_set(&dev, 5, true);
	device_irq_close(&dev, 5, fd);
	assert_int_equal(read(fd, &count, sizeof(count)), -1);
	device_irq_close(&dev, 5, -1);
}

static void requests_and_state(void **state)
{
	(void)state;
	vm.state = VM_INMIGRATE;
	assert_true(device_is_incoming(&dev));
	vm.state = VM_RUNNING;
	assert_false(device_is_incoming(&dev));
	assert_ptr_equal(device_memory(&dev), &vm.memory);
}

static char fdt[4096];

/* A tree with one empty node, in the root or at "/isa"; returns the node. */
static int node_at(const char *parent)
{
	int node = 0;

	assert_int_equal(fdt_create_empty_tree(fdt, sizeof(fdt)), 0);
	if (parent) {
		node = fdt_add_subnode(fdt, 0, parent);
		fdt_setprop(fdt, node, "compatible", parent, (int)strlen(parent) + 1);
	}
	return fdt_add_subnode(fdt, node, "gizmo@1000");
}

static int set_reg(int node, int cells, const uint32_t *reg)
{
	fdt32_t be[8];

	for (int i = 0; i < cells; i++)
		be[i] = cpu_to_fdt32(reg[i]);
	return fdt_setprop(fdt, node, "reg", be, cells * 4);
}

static void reg_of_memory(void **state)
{
	static const uint32_t reg[] = { 1, 0xd0000000, 0, 0x1000, 9 };
	struct error err = { 0 };
	uint64_t base, size;
	int node = node_at(NULL);
	bool pio;

	(void)state;
	set_reg(node, 4, reg);
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, &err), 0);
	assert_int_equal(base, 0x1d0000000);
	assert_int_equal(size, 0x1000);
	assert_false(pio);
	set_reg(node, 3, reg);
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, &err), -EINVAL);
	assert_string_equal(err.device, "gizmo@1000");
	assert_string_equal(err.field, "reg");
	set_reg(node, 5, reg);
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
	set_reg(node, 4, (const uint32_t[]){ 0, 0, 0, 0 });
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
	set_reg(node, 4, (const uint32_t[]){ ~0U, ~0U, 0, 2 });
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
	fdt_delprop(fdt, node, "reg");
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
}

static void reg_of_ports(void **state)
{
	uint64_t base, size;
	int node = node_at("isa");
	bool pio;

	(void)state;
	set_reg(node, 3, (const uint32_t[]){ 1, 0x3f8, 8 });
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), 0);
	assert_int_equal(base, 0x3f8);
	assert_int_equal(size, 8);
	assert_true(pio);
	set_reg(node, 3, (const uint32_t[]){ 0, 0x3f8, 8 });
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
	set_reg(node, 3, (const uint32_t[]){ 1, 0xffff, 2 });
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
	set_reg(node, 3, (const uint32_t[]){ 1, 0, 0 });
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
	set_reg(node, 4, (const uint32_t[]){ 1, 0, 0, 1 });
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), -EINVAL);
}

static void other_properties(void **state)
{
	int node = node_at(NULL);
	uint32_t gsi;

	(void)state;
	assert_int_equal(device_node_irq(fdt, node, &gsi, NULL), -EINVAL);
	fdt_setprop_u32(fdt, node, "interrupts", 17);
	assert_int_equal(device_node_irq(fdt, node, &gsi, NULL), 0);
	assert_int_equal(gsi, 17);
	fdt_setprop_u64(fdt, node, "interrupts", 17);
	assert_int_equal(device_node_irq(fdt, node, &gsi, NULL), -EINVAL);

	fdt_setprop(fdt, node, "s", "text", 5);
	assert_string_equal(device_node_string(fdt, node, "s"), "text");
	fdt_setprop(fdt, node, "s", "text", 4);
	assert_null(device_node_string(fdt, node, "s"));
	fdt_setprop(fdt, node, "s", "te\0t", 5);
	assert_null(device_node_string(fdt, node, "s"));
	fdt_setprop(fdt, node, "s", "", 0);
	assert_null(device_node_string(fdt, node, "s"));
	assert_null(device_node_string(fdt, node, "absent"));
	assert_null(device_node_string(fdt, -1, "s"));

	fdt_setprop_u64(fdt, node, "u", 1ULL << 40);
	assert_int_equal(device_node_u64(fdt, node, "u", 7), 1ULL << 40);
	fdt_setprop_u32(fdt, node, "u", 1);
	assert_int_equal(device_node_u64(fdt, node, "u", 7), 7);
	assert_true(device_node_flag(fdt, node, "u"));
	assert_false(device_node_flag(fdt, node, "absent"));
}

static void classes_are_found_by_compatible(void **state)
{
	int node = node_at(NULL);

	(void)state;
	assert_null(device_class_find(fdt, node));
	fdt_setprop(fdt, node, "compatible", "what,ever\0test,gizmo", 21);
	assert_ptr_equal(device_class_find(fdt, node), &gizmo);
	fdt_setprop(fdt, node, "compatible", "test,gizm", 10);
	assert_null(device_class_find(fdt, node));
	fdt_setprop(fdt, node, "compatible", "test,gizmo", 10); /* not terminated */
	assert_null(device_class_find(fdt, node));
}

static int collect(void *opaque, const char *key, const char *value, struct error *err)
{
	char *text = opaque;

	if (strcmp(key, "bad") == 0)
		return error_set(err, -EINVAL, "options", "", "", "better", "bad");
	sprintf(text + strlen(text), "<%s|%s>", key, value ? value : "(null)");
	return 0;
}

static void split(const char *text, const char *want_first, const char *want_rest)
{
	char rest[256] = "", *first;

	assert_int_equal(option_split(text, &first, collect, rest, NULL), 0);
	assert_string_equal(first, want_first);
	assert_string_equal(rest, want_rest);
	free(first);
}

static void options_are_split(void **state)
{
	struct error err = { 0 };
	char rest[256] = "", *first;

	(void)state;
	split("disk.img", "disk.img", "");
	split("", "", "");
	split("disk.img,readonly,id=a=b,x=", "disk.img", "<readonly|(null)><id|a=b><x|>");
	split("a,,b=c,,d,id=x,,y", "a,b=c,d", "<id|x,y>");
	split(",,,k", ",", "<k|(null)>");
	assert_int_equal(option_split("a,bad", &first, collect, rest, &err), -EINVAL);
	assert_null(first);
	assert_int_equal(option_split("a,", &first, collect, rest, NULL), -EINVAL);
	assert_int_equal(option_split("a,=v", &first, collect, rest, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges_on_both_buses),
		cmocka_unit_test(interrupts_without_kvm_are_eventfds),
		cmocka_unit_test(requests_and_state),
		cmocka_unit_test(reg_of_memory),
		cmocka_unit_test(reg_of_ports),
		cmocka_unit_test(other_properties),
		cmocka_unit_test(classes_are_found_by_compatible),
		cmocka_unit_test(options_are_split),
	};

	return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
