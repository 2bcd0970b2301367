/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "vmm/device.h"

struct probe {
	struct device dev;
	uint64_t offset;
	uint64_t value;
	unsigned int len;
	bool locked;
};

static bool is_locked(struct device *dev)
{
	if (pthread_mutex_trylock(&dev->lock) != 0)
		return true;
	pthread_mutex_unlock(&dev->lock);
	return false;
}

static void probe_read(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	struct probe *p = (struct probe *)dev;

	p->offset = offset;
	p->len = len;
	p->locked = is_locked(dev);
	memcpy(data, &p->value, len);
}

static void probe_write(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	struct probe *p = (struct probe *)dev;

	p->offset = offset;
	p->len = len;
	p->locked = is_locked(dev);
	p->value = 0;
	memcpy(&p->value, data, len);
}

static const struct bus_ops ops = { probe_read, probe_write };

static struct probe *probe_new(struct probe *p, const char *name)
{
	memset(p, 0, sizeof(*p));
	strcpy(p->dev.name, name);
	pthread_mutex_init(&p->dev.lock, NULL);
	return p;
}

static void reads_and_writes_reach_their_device(void **state)
{
	struct bus bus = { .n = 0 };
	struct probe a, b;
	uint64_t data = 0x1122334455667788;

	(void)state;
	probe_new(&a, "a");
	probe_new(&b, "b");
	assert_int_equal(bus_add(&bus, 0x2000, 0x1000, &b.dev, &ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x1000, 0x1000, &a.dev, &ops, NULL), 0);
	assert_int_equal(bus_write(&bus, 0x2ffc, &data, 4), 0);
	assert_int_equal(b.offset, 0xffc);
	assert_int_equal(b.len, 4);
	assert_int_equal(b.value, 0x55667788);
	assert_true(b.locked);
	assert_false(is_locked(&b.dev));
	a.value = 0xabcd;
	assert_int_equal(bus_read(&bus, 0x1000, &data, 2), 0);
	assert_int_equal(a.offset, 0);
	assert_true(a.locked);
	assert_int_equal(data, 0x112233445566abcd);
}

static void nobody_there(void **state)
{
	struct bus bus = { .n = 0 };
	uint64_t data = 0;
	struct probe a;

	(void)state;
	assert_int_equal(bus_read(&bus, 0x1000, &data, 4), -ENXIO);
	assert_int_equal(data, 0xffffffff);
	probe_new(&a, "a");
	assert_int_equal(bus_add(&bus, 0x1000, 0x10, &a.dev, &ops, NULL), 0);
	assert_int_equal(bus_write(&bus, 0xfff, &data, 1), -ENXIO);
	assert_int_equal(bus_write(&bus, 0x1010, &data, 1), -ENXIO);
	/* Across an edge, and of a width that no instruction has. */
	assert_int_equal(bus_write(&bus, 0xfff, &data, 2), -ENXIO);
	assert_int_equal(bus_write(&bus, 0x100f, &data, 2), -ENXIO);
	assert_int_equal(bus_write(&bus, 0x1000, &data, 3), -ENXIO);
	assert_int_equal(bus_write(&bus, UINT64_MAX, &data, 8), -ENXIO);
	assert_int_equal(a.len, 0);
	assert_int_equal(bus_read(&bus, 0x100c, &data, 8), -ENXIO);
	assert_int_equal(data, UINT64_MAX);
}

static void collisions_name_the_owner(void **state)
{
	static const uint64_t bad[][2] = {
		{ 0x1000, 0x10 }, { 0xfff, 2 },	       { 0x100f, 1 },
		{ 0x1004, 4 },	  { 0x0, UINT64_MAX }, { 0x800, 0x801 },
	};
	struct bus bus = { .n = 0 };
	struct probe a, b;

	(void)state;
	probe_new(&a, "first@1000");
	probe_new(&b, "second@1000");
	assert_int_equal(bus_add(&bus, 0x1000, 0x10, &a.dev, &ops, NULL), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = { 0 };

		assert_int_equal(bus_add(&bus, bad[i][0], bad[i][1], &b.dev, &ops, &err), -EEXIST);
		assert_string_equal(err.device, "second@1000");
		assert_non_null(strstr(err.got, "first@1000 at 0x1000 to 0x100f"));
	}
	assert_int_equal(bus_add(&bus, 0xff0, 0x10, &b.dev, &ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x1010, 0x10, &b.dev, &ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x2000, 0, &b.dev, &ops, NULL), -EINVAL);
	assert_int_equal(bus_add(&bus, UINT64_MAX, 2, &b.dev, &ops, NULL), -EINVAL);
	assert_int_equal(bus_add(&bus, UINT64_MAX, 1, &b.dev, &ops, NULL), 0);
	assert_int_equal(bus.n, 4);
}

static void removing_takes_all_ranges_of_a_device(void **state)
{
	struct bus bus = { .n = 0 };
	struct probe a, b;
	uint8_t data = 0;

	(void)state;
	probe_new(&a, "a");
	probe_new(&b, "b");
	for (unsigned int i = 0; i < BUS_MAX_RANGES; i++)
		assert_int_equal(bus_add(&bus, i * 16, 16, i % 2 ? &a.dev : &b.dev, &ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x10000, 16, &a.dev, &ops, NULL), -ENOSPC);
	bus_remove(&bus, &a.dev);
	assert_int_equal(bus.n, BUS_MAX_RANGES / 2);
	for (unsigned int i = 0; i < BUS_MAX_RANGES; i++)
		assert_int_equal(bus_read(&bus, i * 16, &data, 1), i % 2 ? -ENXIO : 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes_reach_their_device),
		cmocka_unit_test(nobody_there),
		cmocka_unit_test(collisions_name_the_owner),
		cmocka_unit_test(removing_takes_all_ranges_of_a_device),
	};

	return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
