/* SPDX-License-Identifier: BSD-2-Clause */
/* The scratch device on machines without KVM: found in the tree, working, moved from one to another. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <libfdt.h>
#include <stdlib.h>

#include "vmm/device-registry.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

#define SIZE (2U << 20)

static const struct machine_options machine = { .memory = SIZE, .cpus = 1, .backing = "anon" };

/* The class, as --scratch finds it: nothing here names it at build time. */
static const struct device_class *scratch_class(void)
{
	for_each_class (c) {
		if ((*c)->option.name && strcmp((*c)->option.name, "scratch") == 0)
			return *c;
	}
	fail_msg("no device has an option --scratch");
	return NULL;
}

static void *make_tree(const char *value, int *node)
{
	struct machine_tree *mt;
	void *fdt;

	assert_int_equal(machine_tree_new(&mt, &machine, NULL), 0);
	assert_int_equal(scratch_class()->option.add(mt, value, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, NULL), 0);
	*node = fdt_node_offset_by_compatible(fdt, -1, "test,scratch");
	assert_true(*node >= 0);
	return fdt;
}

static uint64_t place(struct vm *vm, const char *value)
{
	int node;
	void *fdt = make_tree(value, &node);
	const struct device_class *class = device_class_find(fdt, node);
	uint64_t base, size;
	bool pio;

	*vm = (struct vm){ .kvm_fd = -1, .fd = -1 };
	assert_ptr_equal(class, scratch_class());
	vm->devices = calloc(1, class->size);
	vm->devices->vm = vm;
	vm->devices->class = class;
	snprintf(vm->devices->name, sizeof(vm->devices->name), "%s", fdt_get_name(fdt, node, NULL));
	pthread_mutex_init(&vm->devices->lock, NULL);
	assert_int_equal(class->realize(vm->devices, fdt, node, NULL), 0);
	class->reset(vm->devices);
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), 0);
	free(fdt);
	return base;
}

static void displace(struct vm *vm)
{
	device_release_ranges(vm->devices);
	free(vm->devices);
}

static void its_option_makes_a_node(void **state)
{
	int node;
	void *fdt = make_tree("0x1234", &node);

	(void)state;
	assert_int_equal(device_node_u64(fdt, node, "value", 0), 0x1234);
	free(fdt);
}

static void it_works(void **state)
{
	struct vm vm;
	uint64_t base = place(&vm, "7"), v = 0;

	(void)state;
	assert_int_equal(bus_read(&vm.mmio, base, &v, 8), 0);
	assert_int_equal(v, 7);
	v = 0x1122334455667788;
	assert_int_equal(bus_write(&vm.mmio, base, &v, 8), 0);
	v = 0;
	assert_int_equal(bus_read(&vm.mmio, base + 4, &v, 4), 0);
	assert_int_equal(v, 0x11223344);
	displace(&vm);
}

static void its_state_moves(void **state)
{
	struct vm here, there;
	uint64_t base = place(&here, "7"), v = 42;
	bool applied;
	void *fdt;

	(void)state;
	place(&there, "7");
	bus_write(&here.mmio, base, &v, 8);
	assert_int_equal(vm_save_state(&here, &fdt, NULL), 0);
	assert_int_equal(vm_load_state(&there, fdt, fdt_totalsize(fdt), &applied, NULL), 0);
	assert_true(applied);
	v = 0;
	bus_read(&there.mmio, base, &v, 8);
	assert_int_equal(v, 42);
	free(fdt);
	displace(&here);
	displace(&there);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(its_option_makes_a_node),
		cmocka_unit_test(it_works),
		cmocka_unit_test(its_state_moves),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
