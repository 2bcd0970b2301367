/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net: frames both ways, whatever the guest's buffers look like. */
#include "tests/unit/net-fixture.h"

static void test_transmit(void **state)
{
	struct fixture *f = *state;
	uint8_t got[4096], *at = ram(f->vd, buffer(0));
	struct virtio_net_hdr_v1 hdr = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34 };

	memcpy(at, &hdr, sizeof(hdr));
	make_frame(at + NET_HDR, own_mac, 5, 1000);
	guest_desc(&f->queue[TX], 0, buffer(0), 5, N, 1);
	guest_desc(&f->queue[TX], 1, buffer(0) + 5, 1, N, 2);
	guest_desc(&f->queue[TX], 2, buffer(0) + 6, 1006, 0, 0);
	guest_add(&f->queue[TX], 0);
	kick(&f->queue[TX]);
	expect_used(f, TX, 0, 0);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 100), 1012);
	assert_memory_equal(got, at, 1012);
}

static void test_transmit_without_headers(void **state)
{
	struct fixture *f = *state;
	uint8_t got[4096];

	guest_sends(f, TX, 3, 77, 60);
	expect_used(f, TX, 3, 0);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 100), 60);
	assert_memory_equal(got, (uint8_t *)ram(f->vd, buffer(3)) + NET_HDR, 60);
}

/* What is no frame goes nowhere, and the next one does. */
static void test_transmit_nonsense(void **state)
{
	static const uint32_t lens[] = { 2, 1, 11, 12, 25 };
	struct fixture *f = *state;
	uint8_t got[4096];

	for (uint16_t i = 0; i < 5; i++) {
		guest_desc(&f->queue[TX], i, buffer(i), lens[i], 0, 0);
		guest_add(&f->queue[TX], i);
		kick(&f->queue[TX]);
		expect_used(f, TX, i, 0);
	}
	/* Only a writable buffer; and far too much. */
	guest_desc(&f->queue[TX], 5, buffer(5), 100, W, 0);
	guest_add(&f->queue[TX], 5);
	kick(&f->queue[TX]);
	expect_used(f, TX, 5, 0);
	guest_desc(&f->queue[TX], 6, buffer(6), NET_HDR + NET_MAX_FRAME + 1, 0, 0);
	guest_add(&f->queue[TX], 6);
	kick(&f->queue[TX]);
	expect_used(f, TX, 6, 0);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 20), 0);
	/* A writable buffer behind a frame is left alone. */
	guest_desc(&f->queue[TX], 8, buffer(8), 64, W, 0);
	guest_sends(f, TX, 7, 1, 60);
	((struct vring_desc *)ram(f->vd, f->queue[TX].desc))[7].flags = N;
	((struct vring_desc *)ram(f->vd, f->queue[TX].desc))[7].next = 8;
	expect_used(f, TX, 7, 0);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 100), 72);
	assert_false(guest_needs_reset(f->vd));
}

/* A network that takes nothing now keeps the frames in the ring, in their order. */
static void test_transmit_blocked(void **state)
{
	struct fixture *f = *state;
	unsigned int sent = 0, got = 0;
	uint32_t head, len, number;
	uint8_t frame[40000];

	for (int idle = 0; idle < 20;) {
		if (sent - guest_used_index(&f->queue[TX]) < QUEUE_SIZE) {
			guest_sends(f, TX, (uint16_t)(sent % QUEUE_SIZE), sent, 30000);
			sent++;
			idle = 0;
		} else {
			idle++;
		}
		rig_turn(&f->rig);
		while (guest_get(&f->queue[TX], &head, &len))
			;
	}
	while (got < sent) {
		assert_int_equal(network_gets(f, 0, frame, sizeof(frame), 1000), 30000 + NET_HDR);
		memcpy(&number, frame + NET_HDR + 14, sizeof(number));
		assert_int_equal(number, got);
		got++;
	}
	RIG_UNTIL(&f->rig, guest_used_index(&f->queue[TX]) == sent);
}

static void expect_frame(struct fixture *f, unsigned int i, uint32_t number, size_t len,
			 unsigned int buffers)
{
	uint8_t *at = ram(f->vd, buffer(i)), *frame = malloc(len);
	struct virtio_net_hdr_v1 hdr = { .num_buffers = (uint16_t)buffers };

	make_frame(frame, own_mac, number, len);
	assert_memory_equal(at, &hdr, sizeof(hdr));
	if (buffers == 1)
		assert_memory_equal(at + NET_HDR, frame, len);
	free(frame);
}

static void test_receive(void **state)
{
	struct fixture *f = *state;

	memset(ram(f->vd, buffer(0)), 0xaa, 2000);
	offer(f, RX, 0, 1530);
	network_sends(f, 0, own_mac, 3, 100);
	expect_used(f, RX, 0, 112);
	expect_frame(f, 0, 3, 100, 1);
	assert_true(guest_interrupts(f->vd) > 0);
	/* In pieces, the header across them. */
	guest_desc(&f->queue[RX], 1, buffer(1), 7, W | N, 2);
	guest_desc(&f->queue[RX], 2, buffer(1) + 7, 1, W | N, 3);
	guest_desc(&f->queue[RX], 3, buffer(1) + 8, 1530, W, 0);
	guest_add(&f->queue[RX], 1);
	kick(&f->queue[RX]);
	network_sends(f, 0, own_mac, 4, 1514);
	expect_used(f, RX, 1, 1526);
	expect_frame(f, 1, 4, 1514, 1);
}

/* Frames wait in the network until there are buffers. */
static void test_receive_waits(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 0; i < 10; i++)
		network_sends(f, 0, own_mac, i, 60 + i);
	expect_no_used(f, RX);
	for (uint16_t i = 0; i < 10; i++)
		offer(f, RX, i, 1530);
	for (uint32_t i = 0; i < 10; i++) {
		expect_used(f, RX, i, 72 + i);
		expect_frame(f, i, i, 60 + i, 1);
	}
}

/* Over several chains, and num_buffers says how many (5.1.6.4). */
static void test_mergeable(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[2500];

	start_driver(f, FEATURES | F(MRG_RXBUF) | F(GUEST_CSUM) | F(GUEST_TSO4));
	for (uint16_t i = 0; i < 4; i++)
		offer(f, RX, i, 1000);
	network_sends(f, 0, own_mac, 9, sizeof(frame));
	expect_used(f, RX, 0, 1000);
	expect_used(f, RX, 1, 1000);
	expect_used(f, RX, 2, 512);
	expect_frame(f, 0, 9, sizeof(frame), 3);
	make_frame(frame, own_mac, 9, sizeof(frame));
	assert_memory_equal((uint8_t *)ram(f->vd, buffer(0)) + NET_HDR, frame, 988);
	assert_memory_equal(ram(f->vd, buffer(1)), frame + 988, 1000);
	assert_memory_equal(ram(f->vd, buffer(2)), frame + 1988, 512);
	/* The fourth was not used for it. */
	network_sends(f, 0, own_mac, 10, 60);
	expect_used(f, RX, 3, 72);
	expect_frame(f, 3, 10, 60, 1);
}

/* With segmentation offload frames have up to 64 KiB. */
static void test_large(void **state)
{
	struct fixture *f = *state;

	start_driver(f, FEATURES | F(GUEST_CSUM) | F(GUEST_TSO4));
	offer(f, RX, 0, NET_HDR + NET_MAX_FRAME);
	network_sends(f, 0, own_mac, 1, 65000);
	expect_used(f, RX, 0, 65012);
	expect_frame(f, 0, 1, 65000, 1);
}

/* A frame that does not fit is dropped, what it overwrote is known, and the buffer is used again.
 */
static void test_too_long(void **state)
{
	struct fixture *f = *state;
	uint64_t gpas[64];
	bool marked = false;
	unsigned int n;

	offer(f, RX, 0, 200);
	test_dirty(f->rig.vm, gpas, 64);
	network_sends(f, 0, own_mac, 1, 300);
	network_sends(f, 0, own_mac, 2, 189);
	network_sends(f, 0, own_mac, 3, 8); /* no frame at all */
	expect_no_used(f, RX);
	n = test_dirty(f->rig.vm, gpas, 64);
	for (unsigned int i = 0; i < n; i++)
		marked = marked || gpas[i] == buffer(0);
	assert_true(marked);
	network_sends(f, 0, own_mac, 4, 188);
	expect_used(f, RX, 0, 200);
	expect_frame(f, 0, 4, 188, 1);
}

/* All that the device writes is known to a migration. */
static void test_dirty_marks(void **state)
{
	struct fixture *f = *state;
	uint64_t gpas[64];
	unsigned int n, found = 0;

	for (uint16_t i = 0; i < 2; i++)
		offer(f, RX, i, 1000);
	rig_turn(&f->rig);
	test_dirty(f->rig.vm, gpas, 64);
	network_sends(f, 0, own_mac, 1, 1500);
	expect_used(f, RX, 0, 1000);
	n = test_dirty(f->rig.vm, gpas, 64);
	for (unsigned int i = 0; i < n; i++)
		found += gpas[i] == buffer(0) || gpas[i] == buffer(1) ||
			 gpas[i] == f->queue[RX].used;
	assert_int_equal(found, 3);
}

static void test_receive_nonsense(void **state)
{
	static const struct {
		uint32_t len;
		uint16_t flags;
	} bad[] = { { 1530, 0 }, { 11, W }, { 1, W } };
	struct fixture *f = *state;

	f->vd->told = true;
	for (unsigned int i = 0; i < 3; i++) {
		start_driver(f, FEATURES | F(MRG_RXBUF));
		guest_desc(&f->queue[RX], 0, buffer(0), bad[i].len, bad[i].flags, 0);
		guest_add(&f->queue[RX], 0);
		network_sends(f, 0, own_mac, 1, 60);
		kick(&f->queue[RX]);
		RIG_UNTIL(&f->rig, guest_needs_reset(f->vd));
	}
	/* The frames are still there for a driver that does better. */
	start_driver(f, FEATURES | F(MRG_RXBUF));
	offer(f, RX, 0, 1530);
	expect_used(f, RX, 0, 72);
}

/* Nothing is taken from the network during a pause. */
static void test_pause(void **state)
{
	struct fixture *f = *state;
	uint8_t got[100];

	offer(f, RX, 0, 1530);
	rig_turn(&f->rig);
	rig_quiesce(&f->rig);
	network_sends(f, 0, own_mac, 1, 60);
	guest_sends(f, TX, 5, 1, 60);
	expect_no_used(f, RX);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 20), 0);
	rig_resume(&f->rig);
	expect_used(f, RX, 0, 72);
	expect_used(f, TX, 5, 0);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 100), 72);
}

/* Addresses (5.1.6.5.1, 5.1.6.5.2). */
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_transmit, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_transmit_without_headers, plug_in_plain,
						teardown),
		cmocka_unit_test_setup_teardown(test_transmit_nonsense, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_transmit_blocked, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_receive, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_receive, plug_in_plain, teardown),
		cmocka_unit_test_setup_teardown(test_receive_waits, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_receive_waits, plug_in_plain, teardown),
		cmocka_unit_test_setup_teardown(test_mergeable, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_large, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_too_long, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_too_long, plug_in_plain, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_marks, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_receive_nonsense, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_pause, plug_in_headers, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
