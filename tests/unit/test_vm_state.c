/* SPDX-License-Identifier: BSD-2-Clause */
/* Saving and loading a whole machine, made of devices that remember what was done to them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/device.h"
#include "vmm/vm.h"

#define ROOM (64U << 10)

struct part_state {
	uint32_t number;
	uint8_t bytes[5];
};

struct machine;

struct part {
	struct device dev;
	struct part_state state;
	struct machine *machine;
};

struct machine {
	struct vm *vm;
	struct part parts[5];
	const char *applied[8]; /* in this order */
	unsigned int n_applied;
	const char *fail_save, *fail_check, *fail_load;
};

static const struct field fields[] = {
	FIELD_INT(struct part_state, number, 0, 1000),
	FIELD_RAW(struct part_state, bytes),
	FIELDS_END,
};

static bool is(const struct device *dev, const char *name)
{
	return name && strcmp(dev->name, name) == 0;
}

static int pre_save(struct device *dev, struct error *err)
{
	const struct machine *m = ((struct part *)dev)->machine;

	return is(dev, m->fail_save) ? error_set(err, -EIO, "save", dev->name, "", "", "no") : 0;
}

static int check(struct device *dev, const void *staged, struct error *err)
{
	const struct machine *m = ((struct part *)dev)->machine;

	assert_ptr_not_equal(staged, &((struct part *)dev)->state);
	return is(dev, m->fail_check) ? error_set(err, -EINVAL, "load", dev->name, "", "", "no")
				      : 0;
}

static int post_load(struct device *dev, struct error *err)
{
	struct machine *m = ((struct part *)dev)->machine;

	m->applied[m->n_applied++] = dev->name;
	return is(dev, m->fail_load) ? error_set(err, -EIO, "load", dev->name, "", "", "no") : 0;
}

#define PART_CLASS(s)                                                                            \
	{                                                                                        \
		.name = "part", .stage = (s), .size = sizeof(struct part),                       \
		.state_offset = offsetof(struct part, state),                                    \
		.state_size = sizeof(struct part_state), .fields = fields, .pre_save = pre_save, \
		.check = check, .post_load = post_load                                           \
	}

static const struct device_class classes[] = {
	PART_CLASS(STAGE_DEVICE), PART_CLASS(STAGE_IRQ),
	PART_CLASS(STAGE_CPU),	  { .name = "stateless", .size = sizeof(struct device) },
	PART_CLASS(STAGE_CLOCK),
};
static const char *const names[] = { "disk@1000", "pic", "cpu@0", "plain", "clock" };

static int setup(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct device **tail;

	assert_int_equal(vm_create(&m->vm, NULL), 0);
	tail = &m->vm->devices;
	for (unsigned int i = 0; i < 5; i++) {
		struct part *p = &m->parts[i];

		p->machine = m;
		p->dev.vm = m->vm;
		p->dev.class = &classes[i];
		strcpy(p->dev.name, names[i]);
		p->state.number = 10 + i;
		memset(p->state.bytes, (int)('a' + i), sizeof(p->state.bytes));
		*tail = &p->dev;
		tail = &p->dev.next;
	}
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = *state;

	m->vm->devices = NULL; /* ours, not the machine's */
	vm_destroy(m->vm);
	free(m);
	return 0;
}

/* What was saved, with room to change it. */
static void *saved(struct machine *m)
{
	void *fdt, *roomy = malloc(ROOM);

	assert_int_equal(vm_save_state(m->vm, &fdt, NULL), 0);
	assert_int_equal(fdt_open_into(fdt, roomy, ROOM), 0);
	free(fdt);
	return roomy;
}

static int load(struct machine *m, const void *fdt, bool *applied, struct error *err)
{
	memset(err, 0, sizeof(*err));
	*applied = true;
	return vm_load_state(m->vm, fdt, fdt_totalsize(fdt), applied, err);
}

/* @fdt must be refused with an error that names @device and @field, and change nothing. */
static void refused(struct machine *m, void *fdt, const char *device, const char *field)
{
	struct part before[5];
	struct error err;
	bool applied;

	for (unsigned int i = 0; i < 5; i++)
		m->parts[i].state.number = 500 + i;
	memcpy(before, m->parts, sizeof(before));
	assert_int_equal(load(m, fdt, &applied, &err), -EINVAL);
	assert_false(applied);
	assert_int_equal(m->n_applied, 0);
	assert_memory_equal(before, m->parts, sizeof(before));
	assert_string_equal(err.device, device);
	assert_string_equal(err.field, field);
	free(fdt);
}

static int node_of(const void *fdt, const char *name)
{
	int node = fdt_subnode_offset(fdt, 0, name);

	assert_true(node > 0);
	return node;
}

static void a_machine_comes_back(void **state)
{
	struct machine *m = *state;
	void *fdt = saved(m);
	struct part before[5];
	struct error err;
	bool applied;

	memcpy(before, m->parts, sizeof(before));
	for (unsigned int i = 0; i < 5; i++)
		memset(&m->parts[i].state, 0xee, sizeof(m->parts[i].state));
	memcpy(&m->parts[3].state, &before[3].state, sizeof(before[3].state)); /* has none */
	assert_int_equal(load(m, fdt, &applied, &err), 0);
	assert_true(applied);
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(m->parts[i].state.number, before[i].state.number);
		assert_memory_equal(m->parts[i].state.bytes, before[i].state.bytes, 5);
	}
	assert_int_equal(fdt_subnode_offset(fdt, 0, "plain"), -FDT_ERR_NOTFOUND);
	free(fdt);
}

static void stages_are_applied_in_order(void **state)
{
	static const char *const order[] = { "cpu@0", "pic", "clock", "disk@1000" };
	struct machine *m = *state;
	void *fdt = saved(m);
	struct error err;
	bool applied;

	assert_int_equal(load(m, fdt, &applied, &err), 0);
	assert_int_equal(m->n_applied, 4);
	for (unsigned int i = 0; i < 4; i++)
		assert_string_equal(m->applied[i], order[i]);
	free(fdt);
}

/* Padding is part of the tree, and goes out on the wire too. */
static void saving_twice_gives_the_same_bytes(void **state)
{
	struct machine *m = *state;
	void *dirt = malloc(ROOM), *a, *b;

	memset(dirt, 0xa5, ROOM);
	free(dirt);
	assert_int_equal(vm_save_state(m->vm, &a, NULL), 0);
	dirt = malloc(ROOM);
	memset(dirt, 0x5a, ROOM);
	free(dirt);
	assert_int_equal(vm_save_state(m->vm, &b, NULL), 0);
	assert_int_equal(fdt_totalsize(a), fdt_totalsize(b));
	assert_memory_equal(a, b, fdt_totalsize(a));
	free(a);
	free(b);
}

static void a_device_that_cannot_save_fails_it(void **state)
{
	struct machine *m = *state;
	struct error err = { 0 };
	void *fdt = m;

	m->fail_save = "clock";
	assert_int_equal(vm_save_state(m->vm, &fdt, &err), -EIO);
	assert_null(fdt);
	assert_string_equal(err.device, "clock");
}

static void nodes_must_be_those_of_the_machine(void **state)
{
	struct machine *m = *state;
	struct error err;
	bool applied;
	void *fdt;

	fdt = saved(m);
	fdt_add_subnode(fdt, 0, "gpu");
	refused(m, fdt, "gpu", "");
	fdt = saved(m);
	fdt_add_subnode(fdt, 0, "plain"); /* known, but without state */
	refused(m, fdt, "plain", "");
	fdt = saved(m);
	fdt_add_subnode(fdt, 0, "pic@1"); /* libfdt takes it for "pic" when asked for that */
	refused(m, fdt, "pic@1", "");
	fdt = saved(m);
	fdt_del_node(fdt, node_of(fdt, "clock"));
	refused(m, fdt, "clock", "");
	fdt = saved(m);
	fdt_setprop_u32(fdt, 0, "colour", 1);
	refused(m, fdt, "state", "colour");

	fdt = saved(m);
	fdt_add_subnode(fdt, 0, "?gpu");
	fdt_setprop_u32(fdt, 0, "?colour", 1);
	assert_int_equal(load(m, fdt, &applied, &err), 0);
	assert_true(applied);
	free(fdt);
}

/* fdt_add_subnode would not do this, a hostile stream does: rename a node to another's name. */
static void a_node_must_not_come_twice(void **state)
{
	struct machine *m = *state;
	void *fdt = saved(m);
	char *name;

	fdt_add_subnode(fdt, 0, "cpu@1");
	name = (char *)(uintptr_t)fdt_get_name(fdt, node_of(fdt, "cpu@1"), NULL);
	name[4] = '0';
	refused(m, fdt, "cpu@0", "");
}

static void fields_must_be_there_and_fit(void **state)
{
	struct machine *m = *state;
	void *fdt;

	fdt = saved(m);
	fdt_delprop(fdt, node_of(fdt, "pic"), "number");
	refused(m, fdt, "pic", "number");
	fdt = saved(m);
	fdt_setprop_u32(fdt, node_of(fdt, "clock"), "number", 1001);
	refused(m, fdt, "clock", "number");
	fdt = saved(m);
	fdt_setprop_u32(fdt, node_of(fdt, "clock"), "bytes", 0);
	refused(m, fdt, "clock", "bytes");
	fdt = saved(m);
	fdt_setprop_u32(fdt, node_of(fdt, "disk@1000"), "speed", 0);
	refused(m, fdt, "disk@1000", "speed");
}

static void versions_that_are_not_known_are_refused(void **state)
{
	struct machine *m = *state;
	void *fdt;

	fdt = saved(m);
	fdt_setprop_u32(fdt, 0, "version", STATE_VERSION + 1);
	refused(m, fdt, "state", "version");
	fdt = saved(m);
	fdt_setprop_u32(fdt, 0, "version", 0);
	refused(m, fdt, "state", "version");
	fdt = saved(m);
	fdt_setprop_u64(fdt, 0, "version", STATE_VERSION);
	refused(m, fdt, "state", "version");
	fdt = saved(m);
	fdt_delprop(fdt, 0, "version");
	refused(m, fdt, "state", "version");
}

static void nothing_is_half_loaded(void **state)
{
	struct machine *m = *state;

	m->fail_check = "clock"; /* the last one */
	refused(m, saved(m), "clock", "");
}

static void a_failure_while_applying_is_told(void **state)
{
	struct machine *m = *state;
	void *fdt = saved(m);
	struct error err;
	bool applied;

	m->fail_load = "pic";
	assert_int_equal(load(m, fdt, &applied, &err), -EIO);
	assert_true(applied);
	assert_int_equal(m->n_applied, 2);
	assert_string_equal(err.device, "pic");
	free(fdt);
}

/* Exact copies, so that ASan sees a step beyond the end. */
static void truncated_and_changed_trees(void **state)
{
	struct machine *m = *state;
	struct error err;
	bool applied;
	size_t size;
	void *fdt;

	assert_int_equal(vm_save_state(m->vm, &fdt, NULL), 0);
	size = fdt_totalsize(fdt);
	for (size_t n = 0; n < size; n++) {
		void *part = malloc(n ? n : 1);

		memcpy(part, fdt, n);
		assert_int_equal(vm_load_state(m->vm, part, n, &applied, NULL), -EINVAL);
		assert_false(applied);
		free(part);
	}
	for (size_t i = 0; i < size * 8; i++) {
		uint8_t *copy = malloc(size);

		memcpy(copy, fdt, size);
		copy[i / 8] ^= (uint8_t)(1 << i % 8);
		memset(&err, 0, sizeof(err));
		m->n_applied = 0;
		if (vm_load_state(m->vm, copy, size, &applied, &err) < 0) {
			assert_false(applied);
			assert_true(err.code < 0);
		}
		free(copy);
	}
	free(fdt);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_machine_comes_back),
		TEST(stages_are_applied_in_order),
		TEST(saving_twice_gives_the_same_bytes),
		TEST(a_device_that_cannot_save_fails_it),
		TEST(nodes_must_be_those_of_the_machine),
		TEST(a_node_must_not_come_twice),
		TEST(fields_must_be_there_and_fit),
		TEST(versions_that_are_not_known_are_refused),
		TEST(nothing_is_half_loaded),
		TEST(a_failure_while_applying_is_told),
		TEST(truncated_and_changed_trees),
	};

	return cmocka_run_group_tests_name("vm_state", tests, NULL, NULL);
}
