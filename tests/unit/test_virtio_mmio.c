/* SPDX-License-Identifier: BSD-2-Clause */
/* The MMIO transport: registers, negotiation, kicks and interrupts by the loop, reset, state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest-virtio.h"

#define RING   0x10000ULL
#define BUFFER 0x30000ULL
#define W      VRING_DESC_F_WRITE
#define EVENT  (1ULL << VIRTIO_RING_F_EVENT_IDX)

struct fixture {
	struct vm vm, other;
	struct device *dev, *copy; /* of two machines */
	struct virtio_device *vd;
	struct guest_queue gq;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	test_machine_init(&f->vm);
	test_machine_init(&f->other);
	f->dev = test_device(&f->vm, "virtio-rng", "", &err);
	f->copy = test_device(&f->other, "virtio-rng", "", &err);
	assert_non_null(f->dev);
	assert_non_null(f->copy);
	f->vd = (struct virtio_device *)f->dev;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	test_machine_free(&f->vm);
	test_machine_free(&f->other);
	free(f);
	return 0;
}

static void the_device_says_who_it_is(void **state)
{
	struct fixture *f = *state;
	uint32_t value = 0;

	assert_int_equal(bus_read(&f->vm.mmio, f->vd->base, &value, 4), 0);
	assert_int_equal(value, 0x74726976);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_DEVICE_ID), 4);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
	reg_write(f->vd, VIRTIO_MMIO_QUEUE_SEL, 1);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	reg_write(f->vd, VIRTIO_MMIO_QUEUE_SEL, 0xffffffff);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_QUEUE_READY), 0);
	reg_write(f->vd, VIRTIO_MMIO_QUEUE_READY, 1); /* of no queue */
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_SHM_LEN_LOW), 0xffffffff);
}

static void registers_are_32_bits_wide(void **state)
{
	struct fixture *f = *state;
	uint8_t zero[8] = { 0 }, buf[8];

	for (unsigned int len = 1; len <= 8; len *= 2) {
		memset(buf, 0xff, sizeof(buf));
		bus_read(&f->vm.mmio, f->vd->base, buf, len);
		if (len == 4)
			assert_memory_equal(buf, "virt", 4);
		else
			assert_memory_equal(buf, zero, len);
	}
	/* Every offset and width: nothing happens that the sanitizers see. */
	for (unsigned int at = 0; at < 0x400; at++)
		for (unsigned int len = 1; len <= 8; len *= 2) {
			bus_read(&f->vm.mmio, f->vd->base + at, buf, len);
			memset(buf, 0xa5, sizeof(buf));
			bus_write(&f->vm.mmio, f->vd->base + at, buf, len);
		}
}

static void features_are_negotiated(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(guest_features(f->vd), V1 | EVENT | 1ULL << VIRTIO_RING_F_INDIRECT_DESC);
	assert_true(guest_negotiate(f->vd, V1));
	assert_false(guest_negotiate(f->vd, 0));       /* a legacy driver */
	assert_false(guest_negotiate(f->vd, V1 | 32)); /* not offered */
	assert_false(guest_negotiate(f->vd, V1 | 1ULL << 63));
	assert_true(guest_negotiate(f->vd, V1 | EVENT));
	/* Settled: what is written later changes nothing. */
	reg_write(f->vd, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	reg_write(f->vd, VIRTIO_MMIO_DRIVER_FEATURES, 0);
	assert_int_equal(f->vd->state->features, V1 | EVENT);
	reg_write(f->vd, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

static void status_bits_are_not_taken_back(void **state)
{
	struct fixture *f = *state;

	guest_negotiate(f->vd, V1);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_STATUS), 11);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 11 | VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_STATUS), 11);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_STATUS), 0);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, STATUS_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(guest_needs_reset(f->vd)); /* DRIVER_OK without FEATURES_OK */
	assert_false(virtio_live(f->vd));
}

static void nothing_happens_before_driver_ok(void **state)
{
	struct fixture *f = *state;
	uint32_t head, len;

	guest_start(&f->gq, f->dev, V1, 8, RING);
	guest_negotiate(f->vd, V1);
	guest_set_queue(&f->gq, 1);
	guest_desc(&f->gq, 0, BUFFER, 8, W, 0);
	guest_add(&f->gq, 0);
	virtio_run_queue(f->vd, 0);
	assert_false(guest_get(&f->gq, &head, &len));
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 15);
	virtio_run_queue(f->vd, 0);
	assert_true(guest_get(&f->gq, &head, &len));
}

static void on_interrupt(void *opaque, uint32_t events)
{
	struct fixture *f = opaque;

	(void)events;
	guest_interrupts(f->vd);
	loop_stop(f->vm.loop);
}

static void kick_and_interrupt_go_by_the_loop(void **state)
{
	struct fixture *f = *state;
	struct loop_fd *watch;
	uint32_t head, len;

	guest_start(&f->gq, f->dev, V1, 8, RING);
	guest_desc(&f->gq, 0, BUFFER, 8, W, 0);
	loop_fd_add(f->vm.loop, f->vd->irq, EPOLLIN, on_interrupt, f, &watch);
	for (unsigned int i = 0; i < 100; i++) {
		guest_add(&f->gq, 0);
		reg_write(f->vd, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		loop_run(f->vm.loop);
		assert_true(guest_get(&f->gq, &head, &len));
		assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
		reg_write(f->vd, VIRTIO_MMIO_INTERRUPT_ACK, 1);
		assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	}
	reg_write(f->vd, VIRTIO_MMIO_QUEUE_NOTIFY, 1); /* no such queue */
	loop_fd_del(watch);
}

static void config_changes_have_a_generation(void **state)
{
	struct fixture *f = *state;
	uint32_t before = reg_read(f->vd, VIRTIO_MMIO_CONFIG_GENERATION);

	virtio_config_changed(f->vd);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_CONFIG_GENERATION), before + 1);
	assert_int_equal(guest_interrupts(f->vd), 0); /* no driver yet */
	guest_start(&f->gq, f->dev, V1, 8, RING);
	virtio_config_changed(f->vd);
	assert_int_equal(guest_interrupts(f->vd), 1);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
}

static void a_quiesced_device_writes_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t pages[8];
	uint32_t head, len;

	guest_start(&f->gq, f->dev, V1 | EVENT, 8, RING);
	f->dev->class->quiesce(f->dev);
	test_dirty(&f->vm, pages, 8);
	guest_desc(&f->gq, 0, BUFFER, 8, W, 0);
	guest_add(&f->gq, 0);
	virtio_run_queue(f->vd, 0);
	assert_int_equal(test_dirty(&f->vm, pages, 8), 0);
	/* What came meanwhile is served by the resume, without another kick. */
	f->dev->class->resume(f->dev);
	assert_true(guest_get(&f->gq, &head, &len));
}

/* Run a few requests, then move the device and the RAM to the other machine. */
static void start_and_migrate(struct fixture *f)
{
	struct error err = { 0 };
	uint32_t head, len;

	guest_start(&f->gq, f->dev, V1 | EVENT, 8, RING);
	for (unsigned int i = 0; i < 11; i++) {
		guest_desc(&f->gq, 0, BUFFER, 8, W, 0);
		guest_add(&f->gq, 0);
		virtio_run_queue(f->vd, 0);
		assert_true(guest_get(&f->gq, &head, &len));
	}
	f->dev->class->quiesce(f->dev);
	guest_add(&f->gq, 0); /* added but not kicked */
	f->copy->class->quiesce(f->copy);
	assert_int_equal(test_migrate(f->dev, f->copy, &err), 0);
	for (unsigned int r = 0; r < 2; r++)
		memcpy(f->other.memory.regions[r].hva, f->vm.memory.regions[r].hva,
		       f->vm.memory.regions[r].size);
	f->gq.vd = f->vd = (struct virtio_device *)f->copy;
}

static void indices_survive_a_migration(void **state)
{
	struct fixture *f = *state;
	uint32_t head, len;

	start_and_migrate(f);
	assert_int_equal(f->vd->state->queue[0].last_avail, 11);
	assert_int_equal(f->vd->state->queue[0].used, 11);
	f->copy->class->resume(f->copy);
	/* The pending interrupt is given again, and the lost kick made up for. */
	assert_in_range(guest_interrupts(f->vd), 1, 2);
	assert_true(guest_get(&f->gq, &head, &len));
	assert_int_equal(len, 8);
	guest_add(&f->gq, 0);
	virtio_run_queue(f->vd, 0);
	assert_true(guest_get(&f->gq, &head, &len));
	assert_int_equal(guest_used_index(&f->gq), 13);
	assert_false(guest_needs_reset(f->vd));
}

static void reset_zeroes_also_after_a_migration(void **state)
{
	struct fixture *f = *state;
	static const struct virtio_state zero;
	struct virtio_state now;
	uint32_t head, len;

	for (unsigned int by_machine = 0; by_machine < 2; by_machine++) {
		f->vd = (struct virtio_device *)f->dev;
		f->dev->class->resume(f->dev);
		start_and_migrate(f);
		f->copy->class->resume(f->copy);
		if (by_machine)
			f->copy->class->reset(f->copy);
		else
			reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
		now = *f->vd->state;
		assert_int_equal(now.n_queues, 1);
		now.n_queues = 0;
		assert_memory_equal(&now, &zero, sizeof(now));
		guest_start(&f->gq, f->copy, V1, 8, RING);
		guest_desc(&f->gq, 0, BUFFER, 8, W, 0);
		guest_add(&f->gq, 0);
		virtio_run_queue(f->vd, 0);
		assert_true(guest_get(&f->gq, &head, &len));
		assert_int_equal(guest_used_index(&f->gq), 1);
	}
}

static void what_the_destination_lacks_is_refused_by_name(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *copy = (struct virtio_device *)f->copy;
	struct error err = { 0 };

	guest_start(&f->gq, f->dev, V1 | EVENT, 8, RING);
	copy->features &= ~EVENT;
	assert_int_equal(test_migrate(f->dev, f->copy, &err), -EINVAL);
	assert_string_equal(err.device, f->copy->name);
	assert_string_equal(err.field, "features");
	assert_non_null(strstr(err.got, "VIRTIO_F_EVENT_IDX"));
	assert_false(virtio_live(copy)); /* untouched */
}

static void a_hostile_state_is_refused(void **state)
{
	struct fixture *f = *state;
	struct virtio_state good, *s = f->vd->state;
	static const struct {
		size_t offset;
		uint64_t value;
		size_t size;
		const char *field;
	} bad[] = {
#define BAD(m, v, field) \
	{ offsetof(struct virtio_state, m), v, sizeof(((struct virtio_state *)0)->m), field }
		BAD(queue[0].size, 3, "size"),
		BAD(queue[0].size, 128, "size"),
		BAD(queue[0].size, 512, "size"),
		BAD(queue[0].desc, 8, "desc"),
		BAD(queue[0].driver, RAM_LOW - 4, "driver"),
		BAD(queue[0].device, ~0ULL - 3, "device"),
		BAD(queue[0].used, 1, "used"),
		BAD(queue[0].last_avail, 9, "used"),
		BAD(n_queues, 2, "n_queues"),

		BAD(interrupt_status, 4, "interrupt_status"),
		BAD(status, 256, "status"),
	};

	guest_start(&f->gq, f->dev, V1, 8, RING);
	good = *s;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = { 0 };

		*s = good;
		memcpy((char *)s + bad[i].offset, &bad[i].value, bad[i].size);
		assert_int_equal(test_migrate(f->dev, f->copy, &err), -EINVAL);
		assert_non_null(strstr(err.field, bad[i].field));
	}
	*s = good;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(the_device_says_who_it_is),
		TEST(registers_are_32_bits_wide),
		TEST(features_are_negotiated),
		TEST(status_bits_are_not_taken_back),
		TEST(nothing_happens_before_driver_ok),
		TEST(kick_and_interrupt_go_by_the_loop),
		TEST(config_changes_have_a_generation),
		TEST(a_quiesced_device_writes_nothing),
		TEST(indices_survive_a_migration),
		TEST(reset_zeroes_also_after_a_migration),
		TEST(what_the_destination_lacks_is_refused_by_name),
		TEST(a_hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
