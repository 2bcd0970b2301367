/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One device in a machine without KVM: enough of a struct vm for its registers, its backends on the
 * loop, and its state. The test's thread is both vCPU and loop thread.
 */
#ifndef TESTS_DEVRIG_H
#define TESTS_DEVRIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/device.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

#define RIG_RAM (4UL << 20)

struct rig {
	struct vm *vm;
	struct device *dev;
	void *tree;
	struct loop_timer *turn;
};

static inline void *rig_state(const struct rig *rig)
{
	return (char *)rig->dev + rig->dev->class->state_offset;
}

static inline const struct device_class *rig_class(const char *name)
{
	for_each_class (c) {
		if (strcmp((*c)->name, name) == 0)
			return *c;
	}
	fail_msg("no class %s", name);
	return NULL;
}

/* A tree with one more device, as "--OPTION VALUE" would build it; @value NULL: the default. */
static inline void *rig_tree(const struct device_class *class, const char *value)
{
	struct machine_options options = { .memory = RIG_RAM, .cpus = 1 };
	struct machine_tree *mt;
	struct error err = { 0 };
	void *fdt;

	assert_int_equal(machine_tree_new(&mt, &options, &err), 0);
	if (value)
		assert_int_equal(class->option.add(mt, value, &err), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, &err), 0);
	return fdt;
}

static inline void rig_stop(void *opaque)
{
	loop_stop(((struct rig *)opaque)->vm->loop);
}

/* The machine without a device. */
static inline void rig_init(struct rig *rig)
{
	struct error err = { 0 };

	memset(rig, 0, sizeof(*rig));
	assert_int_equal(vm_create(&rig->vm, &err), 0);
	assert_int_equal(loop_timer_add(rig->vm->loop, rig_stop, rig, &rig->turn), 0);
	assert_int_equal(
		memory_alloc(&rig->vm->memory, RIG_RAM, MEMORY_ANON, 0xc0000000, 0x100000000, &err),
		0);
}

/* Bring @class to life, reset and paused. Returns what realize returns. */
static inline int rig_realize(struct rig *rig, const char *name, const char *value,
			      struct error *err)
{
	const struct device_class *class = rig_class(name);
	struct device *dev = calloc(1, class->size);
	int node, ret;

	rig->tree = rig_tree(class, value);
	node = fdt_node_offset_by_compatible(rig->tree, -1, class->compatible);
	assert_true(node >= 0);
	dev->vm = rig->vm;
	dev->class = class;
	snprintf(dev->name, sizeof(dev->name), "%s", fdt_get_name(rig->tree, node, NULL));
	pthread_mutex_init(&dev->lock, NULL);
	rig->dev = rig->vm->devices = dev;
	if (class->fields)
		state_reset(class->fields, rig_state(rig));
	ret = class->realize(dev, rig->tree, node, err);
	if (ret == 0 && class->reset)
		class->reset(dev);
	return ret;
}

static inline void rig_resume(struct rig *rig)
{
	if (rig->dev->class->resume)
		rig->dev->class->resume(rig->dev);
}

static inline void rig_quiesce(struct rig *rig)
{
	if (rig->dev->class->quiesce)
		rig->dev->class->quiesce(rig->dev);
}

/* The usual case: a device that runs. */
static inline void rig_open(struct rig *rig, const char *name, const char *value)
{
	struct error err = { 0 };

	rig_init(rig);
	if (rig_realize(rig, name, value, &err) < 0)
		fail_msg("%s: %s: %s", err.device, err.field, err.got);
	rig_resume(rig);
}

static inline void rig_close(struct rig *rig)
{
	loop_timer_del(rig->turn);
	vm_destroy(rig->vm);
	free(rig->tree);
}

/* One millisecond of the loop. */
static inline void rig_turn(struct rig *rig)
{
	loop_timer_set(rig->turn, 1000000);
	loop_run(rig->vm->loop);
}

/* Run the loop until something is true, for ten seconds at most. */
#define RIG_UNTIL(rig, condition)                               \
	do {                                                    \
		for (int turns = 0; !(condition); turns++) {    \
			if (turns == 10000)                     \
				fail_msg("never: " #condition); \
			rig_turn(rig);                          \
		}                                               \
	} while (0)

static inline uint8_t rig_inb(struct rig *rig, uint16_t port)
{
	uint8_t value = 0;

	assert_int_equal(bus_read(&rig->vm->pio, port, &value, 1), 0);
	return value;
}

static inline void rig_outb(struct rig *rig, uint16_t port, uint8_t value)
{
	assert_int_equal(bus_write(&rig->vm->pio, port, &value, 1), 0);
}

/* The device's state as a tree, malloc'd. */
static inline void *rig_save(struct rig *rig)
{
	const struct device_class *class = rig->dev->class;
	void *fdt = malloc(1 << 20);

	if (class->pre_save)
		assert_int_equal(class->pre_save(rig->dev, NULL), 0);
	assert_int_equal(fdt_create(fdt, 1 << 20), 0);
	assert_int_equal(fdt_finish_reservemap(fdt), 0);
	assert_int_equal(fdt_begin_node(fdt, ""), 0);
	assert_int_equal(state_save(fdt, class->fields, rig_state(rig)), 0);
	assert_int_equal(fdt_end_node(fdt), 0);
	assert_int_equal(fdt_finish(fdt), 0);
	return fdt;
}

/* Save the state of @from and load it into @to, as a migration does. Returns what the load
 * returns. */
static inline int rig_copy(struct rig *from, struct rig *to, struct error *err)
{
	const struct device_class *class = from->dev->class;
	void *fdt = rig_save(from), *staged = calloc(1, class->state_size);
	int ret = state_load(fdt, 0, class->fields, staged, STATE_VERSION, to->dev->name, err);

	if (ret == 0 && class->check)
		ret = class->check(to->dev, staged, err);
	if (ret == 0) {
		memcpy(rig_state(to), staged, class->state_size);
		ret = class->post_load ? class->post_load(to->dev, err) : 0;
	}
	free(staged);
	free(fdt);
	return ret;
}

static inline void rig_assert_same_state(struct rig *a, struct rig *b)
{
	void *one = rig_save(a), *other = rig_save(b);

	assert_int_equal(fdt_totalsize(one), fdt_totalsize(other));
	assert_memory_equal(one, other, fdt_totalsize(one));
	free(one);
	free(other);
}

/* Bytes that a descriptor holds now or gets while the loop runs: exactly @len of them. */
static inline void rig_expect(struct rig *rig, int fd, const void *expected, size_t len)
{
	uint8_t *got = malloc(len);
	size_t n = 0;

	for (int turns = 0; n < len; turns++) {
		ssize_t r = read(fd, got + n, len - n);

		if (r > 0)
			n += (size_t)r;
		else if (r == 0 || turns == 10000)
			fail_msg("%zu of %zu bytes came", n, len);
		else
			rig_turn(rig);
	}
	assert_memory_equal(got, expected, len);
	free(got);
}

#endif
