/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net crosses: the frames that come to the host that it leaves after it was stopped. */
#include "tests/unit/net-fixture.h"

#include <arpa/inet.h>

/* What came to @f since it was stopped, taken along to @g; its size. */
static size_t take_along(struct fixture *f, struct fixture *g)
{
	struct error err = { 0 };
	size_t len = 0;
	const void *data = f->rig.dev->class->backlog(f->rig.dev, &len);

	if (data)
		assert_int_equal(g->rig.dev->class->take_backlog(g->rig.dev, data, len, &err), 0);
	return data ? len : 0;
}

/* Frames that reach the source after the stop are the first that the guest gets, as it has room. */
static void test_frames_that_come_too_late(void **state)
{
	struct fixture *f = *state, g;

	prepare(&g, f);
	offer(f, RX, 0, 1530);
	offer(f, RX, 1, 1530);
	move(f, &g);
	for (uint32_t i = 0; i < 3; i++)
		network_sends(f, 0, own_mac, i, 60 + i);
	network_sends(f, 0, own_mac, 9, 10); /* no frame */
	assert_int_equal(take_along(f, &g), 3 * (4 + NET_HDR) + 60 + 61 + 62);
	network_sends(&g, 0, own_mac, 3, 63);
	rig_resume(&g.rig);
	expect_used(&g, RX, 0, 72);
	expect_used(&g, RX, 1, 73);
	expect_no_used(&g, RX);
	for (uint16_t i = 2; i < 5; i++)
		offer(&g, RX, i, 1530);
	expect_used(&g, RX, 2, 74);
	expect_used(&g, RX, 3, 75);
	expect_no_used(&g, RX);
	network_sends(&g, 0, own_mac, 4, 64);
	expect_used(&g, RX, 4, 76);
	unplug(&g);
}

/* More than are handled at a time, more than the guest has room for, and from both queues. */
static void test_many_frames_that_come_too_late(void **state)
{
	struct fixture f, g;
	uint16_t n = 0;

	(void)state;
	plug_in(&f, 2, ",vnet-hdr", false);
	rig_resume(&f.rig);
	start_driver(&f, FEATURES | F(MQ));
	plug_in(&g, 2, ",vnet-hdr", true);
	move(&f, &g);
	((struct virtio_net *)f.vd)->state.more_pairs = 1;
	for (uint32_t i = 0; i < 50; i++) {
		network_sends(&f, 0, own_mac, i, 60);
		network_sends(&f, 1, own_mac, i, 61);
	}
	assert_int_equal(take_along(&f, &g), 100 * (4 + NET_HDR) + 50 * (60 + 61));
	rig_resume(&g.rig);
	for (; n < 100; n++) {
		offer(&g, RX, n % QUEUE_SIZE, 1530);
		expect_used(&g, RX, n % QUEUE_SIZE, n < 50 ? 72 : 73);
	}
	offer(&g, RX, n % QUEUE_SIZE, 1530);
	expect_no_used(&g, RX);
	unplug(&g);
	unplug(&f);
}

/* A guest that goes on here gets them here, and one that moves on at once takes them along. */
static void test_frames_stay_with_the_guest(void **state)
{
	struct fixture *f = *state, g, h;

	for (uint16_t i = 0; i < 4; i++)
		offer(f, RX, i, 1530);
	prepare(&g, f);
	rig_quiesce(&f->rig);
	network_sends(f, 0, own_mac, 1, 60);
	assert_int_equal(take_along(f, &g), 4 + 72);
	unplug(&g);
	network_sends(f, 0, own_mac, 2, 61);
	rig_resume(&f->rig);
	expect_used(f, RX, 0, 72);
	expect_used(f, RX, 1, 73);

	prepare(&g, f);
	move(f, &g);
	network_sends(f, 0, own_mac, 3, 62);
	assert_int_equal(take_along(f, &g), 4 + 74);
	prepare(&h, &g);
	move(&g, &h);
	network_sends(&g, 0, own_mac, 4, 63);
	assert_int_equal(take_along(&g, &h), 2 * 4 + 74 + 75);
	rig_resume(&h.rig);
	expect_used(&h, RX, 2, 74);
	expect_used(&h, RX, 3, 75);
	unplug(&h);
	unplug(&g);
}

/* Headers are added and left out as the backends have them; a reset forgets what was kept. */
static void test_frames_of_another_backend(void **state)
{
	struct fixture f, g, h;

	(void)state;
	plug_in(&f, 1, ",no-offload", false);
	rig_resume(&f.rig);
	start_driver(&f, FEATURES);
	offer(&f, RX, 0, 1530);
	plug_in(&g, 1, ",vnet-hdr,no-offload", true);
	move(&f, &g);
	network_sends(&f, 0, own_mac, 1, 60);
	assert_int_equal(take_along(&f, &g), 4 + 72);
	plug_in(&h, 1, ",no-offload", true);
	move(&g, &h);
	assert_int_equal(take_along(&g, &h), 4 + 72);
	rig_resume(&g.rig);
	expect_used(&g, RX, 0, 72);
	rig_resume(&h.rig);
	expect_used(&h, RX, 0, 72);
	assert_memory_equal((uint8_t *)ram(h.vd, buffer(0)) + NET_HDR, own_mac, 6);

	rig_quiesce(&h.rig);
	network_sends(&h, 0, own_mac, 2, 60);
	take_along(&h, &g);
	rig_resume(&h.rig);
	start_driver(&h, FEATURES);
	offer(&h, RX, 0, 1530);
	expect_no_used(&h, RX);
	unplug(&h);
	unplug(&g);
	unplug(&f);
}

static void test_hostile_backlog(void **state)
{
	static const uint32_t sizes[] = { 0, NET_HDR + NET_MIN_FRAME - 1,
					  NET_HDR + NET_MAX_FRAME + 1, 200, UINT32_MAX };
	struct fixture *f = *state;
	struct device *dev = f->rig.dev;
	struct error err = { 0 };
	size_t size = (1U << 20) + 1;
	uint8_t *data = calloc(1, size);

	rig_quiesce(&f->rig);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint32_t be = htonl(sizes[i]);

		memcpy(data, &be, sizeof(be));
		assert_int_equal(dev->class->take_backlog(dev, data, 100, &err), -EINVAL);
		assert_string_equal(err.field, "backlog");
		error_clear(&err);
	}
	data[0] = data[1] = data[2] = 0;
	data[3] = 60;
	for (size_t len = 0; len < 64; len++)
		assert_int_equal(dev->class->take_backlog(dev, data, len, &err), -EINVAL);
	assert_int_equal(dev->class->take_backlog(dev, data, 65, &err), -EINVAL);
	assert_int_equal(dev->class->take_backlog(dev, data, size, &err), -EINVAL);
	assert_int_equal(dev->class->take_backlog(dev, data, 64, &err), 0);
	assert_int_equal(dev->class->take_backlog(dev, data, 64, &err), -EINVAL); /* twice */
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_frames_that_come_too_late, plug_in_headers,
						teardown),
		cmocka_unit_test(test_many_frames_that_come_too_late),
		cmocka_unit_test_setup_teardown(test_frames_stay_with_the_guest, plug_in_headers,
						teardown),
		cmocka_unit_test(test_frames_of_another_backend),
		cmocka_unit_test_setup_teardown(test_hostile_backlog, plug_in_headers, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
