/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net crosses: its state, what waits in the network, and how the network learns of it. */
#include "tests/unit/net-fixture.h"

#include <time.h>

#define RARP_LEN 60

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void assert_rarp(const uint8_t *message, const uint8_t *mac)
{
	static const uint8_t none[NET_HDR], fixed[] = { 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3 },
					    all[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const uint8_t *frame = message + NET_HDR;

	assert_memory_equal(message, none, NET_HDR);
	assert_memory_equal(frame, all, 6);
	assert_memory_equal(frame + 6, mac, 6);
	assert_memory_equal(frame + 12, fixed, sizeof(fixed));
	assert_memory_equal(frame + 22, mac, 6);
	assert_memory_equal(frame + 32, mac, 6);
}

/* Five frames, further and further apart, whatever the guest does (it does nothing here). */
static void test_network_is_told(void **state)
{
	static const int64_t waits[] = { 0, 50, 150, 250, 350 };
	struct fixture *f = *state, g;
	uint8_t got[200];
	int64_t before;

	prepare(&g, f);
	move(f, &g);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 20), 0); /* not before it runs */
	rig_resume(&g.rig);
	before = now_ms();
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(network_gets(&g, 0, got, sizeof(got), 10000), NET_HDR + RARP_LEN);
		assert_rarp(got, own_mac);
		assert_true(now_ms() - before >= waits[i]);
		before = i == 0 ? before : before + waits[i];
	}
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 600), 0);
	unplug(&g);
}

/* A pause in between stops it, and it goes on afterwards. */
static void test_pause_while_it_is_told(void **state)
{
	struct fixture *f = *state, g;
	unsigned int n = 0;
	uint8_t got[200];

	prepare(&g, f);
	move(f, &g);
	rig_resume(&g.rig);
	while (network_gets(&g, 0, got, sizeof(got), 30) > 0)
		n++;
	assert_in_range(n, 1, 4);
	rig_quiesce(&g.rig);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 500), 0);
	rig_resume(&g.rig);
	while (n < 5 && network_gets(&g, 0, got, sizeof(got), 10000) > 0)
		n++;
	assert_int_equal(n, 5);
	unplug(&g);
}

/* 5.1.6.5.4: the guest is asked to announce itself until it says that it did. */
static void test_guest_is_asked(void **state)
{
	struct fixture *f = *state, g, h;

	prepare(&g, f);
	move(f, &g);
	guest_interrupts(g.vd);
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP);
	rig_resume(&g.rig);
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_true(reg_read(g.vd, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	assert_true(guest_interrupts(g.vd) > 0);
	/* Not asked again by a pause. */
	assert_int_equal(command(&g, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 1),
			 VIRTIO_NET_OK);
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP);
	rig_quiesce(&g.rig);
	rig_resume(&g.rig);
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP);
	/* But by the next move. */
	prepare(&h, &g);
	move(&g, &h);
	rig_resume(&h.rig);
	assert_int_equal(net_status(&h), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	/* A wish not yet granted moves on, and a reset ends it. */
	unplug(&g);
	prepare(&g, &h);
	move(&h, &g);
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	rig_resume(&g.rig);
	reg_write(g.vd, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP);
	unplug(&g);
	unplug(&h);
}

/* A driver that cannot is not asked. */
static void test_old_guest_is_not_asked(void **state)
{
	struct fixture *f = *state, g;
	uint8_t got[200];

	start_driver(f, V1);
	prepare(&g, f);
	move(f, &g);
	rig_resume(&g.rig);
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(reg_read(g.vd, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 1000), NET_HDR + RARP_LEN);
	unplug(&g);
}

/* Buffers and frames of both queues that wait at the move: nothing is lost there, nothing twice. */
static void test_frames_in_the_ring(void **state)
{
	struct fixture *f = *state, g;
	uint8_t got[200];

	offer(f, RX, 0, 1530);
	offer(f, RX, 1, 1530);
	network_sends(f, 0, own_mac, 1, 60);
	expect_used(f, RX, 0, 72);
	guest_sends(f, TX, 2, 5, 61);
	expect_used(f, TX, 2, 0);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 100), 73);

	prepare(&g, f);
	rig_quiesce(&f->rig);
	guest_sends(f, TX, 3, 6, 62); /* its kick comes too late */
	move(f, &g);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 20), 0);
	rig_resume(&g.rig);
	expect_used(&g, TX, 3, 0);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 100), 74);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 100), NET_HDR + RARP_LEN);
	network_sends(&g, 0, own_mac, 2, 63);
	expect_used(&g, RX, 1, 75);
	expect_no_used(&g, RX);
	unplug(&g);
}

/* Frames that a bridge gave both hosts were seen at the source; those of the blackout were not. */
static void test_frames_before_arrival(void **state)
{
	struct fixture *f = *state, g;

	prepare(&g, f);
	for (uint16_t i = 0; i < 4; i++)
		offer(f, RX, i, 1530);
	for (uint32_t i = 0; i < 100; i++)
		network_sends(&g, 0, own_mac, i, 60);
	expect_no_used(&g, RX);
	move(f, &g);
	network_sends(&g, 0, own_mac, 100, 70);
	rig_resume(&g.rig);
	expect_used(&g, RX, 0, 82);
	unplug(&g);
}

/* The guest is expected: the network is told once, and what comes from then on waits for it. */
static void test_frames_for_who_is_expected(void **state)
{
	struct fixture *f = *state, g;
	uint8_t got[200];

	prepare(&g, f);
	for (uint16_t i = 0; i < 4; i++)
		offer(f, RX, i, 1530);
	network_sends(&g, 0, own_mac, 1, 60);
	rig_quiesce(&f->rig);
	g.rig.dev->class->announce(g.rig.dev);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 1000), NET_HDR + RARP_LEN);
	assert_rarp(got, own_mac);
	network_sends(&g, 0, own_mac, 2, 61);
	move(f, &g);
	network_sends(&g, 0, own_mac, 3, 62);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 100), 0);
	rig_resume(&g.rig);
	expect_used(&g, RX, 0, 73);
	expect_used(&g, RX, 1, 74);
	expect_no_used(&g, RX);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 1000), NET_HDR + RARP_LEN);
	unplug(&g);
}

/* It was expected elsewhere and runs here again: the network is told as of one that arrives. */
static void test_network_is_told_again(void **state)
{
	struct fixture *f = *state;
	uint8_t got[200];

	rig_quiesce(&f->rig);
	rig_resume(&f->rig);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 100), 0);
	f->rig.dev->class->announce(f->rig.dev);
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(network_gets(f, 0, got, sizeof(got), 10000), NET_HDR + RARP_LEN);
		assert_rarp(got, own_mac);
	}
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 600), 0);
}

/* What the driver has set moves along, and a reset there is as one here. */
static void test_settings(void **state)
{
	static const uint8_t other[6] = { 2, 0, 0, 0, 0, 8 };
	struct fixture *f = *state, g;
	uint8_t got[200], off = 0;

	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6),
			 VIRTIO_NET_OK);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1),
			 VIRTIO_NET_OK);
	prepare(&g, f);
	move(f, &g);
	rig_resume(&g.rig);
	assert_int_equal(network_gets(&g, 0, got, sizeof(got), 1000), NET_HDR + RARP_LEN);
	assert_rarp(got, other);
	offer(&g, RX, 0, 1530);
	network_sends(&g, 0, own_mac, 1, 60);
	network_sends(&g, 0, other, 2, 61);
	expect_used(&g, RX, 0, 73);

	g.rig.dev->class->reset(g.rig.dev);
	for (unsigned int q = 0; q < g.vd->ops->n_queues; q++) {
		const struct virtq_state zero = { 0 };

		assert_memory_equal(&g.vd->state->queue[q], &zero, sizeof(zero));
	}
	assert_int_equal(reg_read(g.vd, CONFIG), 2);
	assert_int_equal(reg_read(g.vd, CONFIG + 4) & 0xffff, 7 << 8);
	start_driver(&g, FEATURES);
	offer(&g, RX, 0, 1530);
	network_sends(&g, 0, own_mac, 1, 60);
	expect_used(&g, RX, 0, 72);
	unplug(&g);
}

/* Load @from into a network that is another way; the field that the refusal names. */
static void expect_refusal(struct fixture *from, unsigned int pairs, const char *how,
			   const char *field, const char *word)
{
	struct error err = { 0 };
	struct fixture g;

	rig_quiesce(&from->rig);
	plug_in(&g, pairs, how, true);
	assert_int_equal(rig_copy(&from->rig, &g.rig, &err), -EINVAL);
	assert_string_equal(err.field, field);
	assert_non_null(strstr(err.got, word));
	assert_int_equal(net_status(&g), VIRTIO_NET_S_LINK_UP);
	unplug(&g);
}

static void test_other_network(void **state)
{
	struct fixture *f = *state;

	start_driver(f, FEATURES | F(CSUM));
	expect_refusal(f, 1, "", "features", "VIRTIO_NET_F_CSUM");
	expect_refusal(f, 1, ",vnet-hdr,no-offload", "features", "VIRTIO_NET_F_CSUM");
	expect_refusal(f, 2, ",vnet-hdr", "n_queues", "3");
}

/* A driver that was never offered any offload fits everywhere. */
static void test_without_offloads_anywhere(void **state)
{
	struct fixture f, g;
	struct error err = { 0 };

	(void)state;
	plug_in(&f, 1, ",vnet-hdr,no-offload", false);
	rig_resume(&f.rig);
	assert_int_equal(guest_features(f.vd) & (F(CSUM) | F(GUEST_CSUM)), 0);
	start_driver(&f, FEATURES);
	plug_in(&g, 1, "", true);
	rig_quiesce(&f.rig);
	assert_int_equal(rig_copy(&f.rig, &g.rig, &err), 0);
	unplug(&g);
	unplug(&f);
}

static void test_hostile_state(void **state)
{
	struct fixture *f = *state;
	struct net_state *s = &((struct virtio_net *)f->vd)->state;

	s->more_pairs = 1;
	expect_refusal(f, 1, ",vnet-hdr", "more_pairs", "1");
	s->more_pairs = NET_MAX_PAIRS;
	expect_refusal(f, 1, ",vnet-hdr", "more_pairs", "8");
	s->more_pairs = 0;
	s->mac[0] = 1;
	expect_refusal(f, 1, ",vnet-hdr", "mac", "group");
}

/* Two pairs without multiqueue negotiated. */
static void test_hostile_pairs(void **state)
{
	struct fixture f;

	(void)state;
	plug_in(&f, 2, ",vnet-hdr", false);
	rig_resume(&f.rig);
	start_driver(&f, FEATURES);
	((struct virtio_net *)f.vd)->state.more_pairs = 1;
	expect_refusal(&f, 2, ",vnet-hdr", "more_pairs", "1");
	unplug(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_network_is_told, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_pause_while_it_is_told, plug_in_headers,
						teardown),
		cmocka_unit_test_setup_teardown(test_guest_is_asked, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_old_guest_is_not_asked, plug_in_headers,
						teardown),
		cmocka_unit_test_setup_teardown(test_frames_in_the_ring, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_frames_before_arrival, plug_in_headers,
						teardown),
		cmocka_unit_test_setup_teardown(test_frames_for_who_is_expected, plug_in_headers,
						teardown),
		cmocka_unit_test_setup_teardown(test_network_is_told_again, plug_in_headers,
						teardown),
		cmocka_unit_test_setup_teardown(test_settings, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_other_network, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_hostile_state, plug_in_headers, teardown),
		cmocka_unit_test(test_without_offloads_anywhere),
		cmocka_unit_test(test_hostile_pairs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
