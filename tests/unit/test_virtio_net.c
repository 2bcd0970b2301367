/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net: frames both ways, whatever the guest's buffers look like, and its control queue. */
#include "tests/unit/net-fixture.h"

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	plug_in(f, 1, ",vnet-hdr", false);
	rig_resume(&f->rig);
	start_driver(f, FEATURES | F(MRG_RXBUF));
	*state = f;
	return 0;
}

/* A cable without headers, and a driver without mergeable buffers. */
static int setup_plain(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	plug_in(f, 1, ",mtu=1400", false);
	rig_resume(&f->rig);
	start_driver(f, FEATURES);
	*state = f;
	return 0;
}

static int setup_two(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	plug_in(f, 2, ",vnet-hdr", false);
	rig_resume(&f->rig);
	start_driver(f, FEATURES | F(MQ));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	unplug(*state);
	free(*state);
	return 0;
}

static void test_identity(void **state)
{
	uint64_t offloads = F(CSUM) | F(GUEST_CSUM) | F(HOST_TSO4) | F(HOST_TSO6) | F(HOST_ECN) |
			    F(HOST_UFO) | F(GUEST_TSO4) | F(GUEST_TSO6) | F(GUEST_ECN) |
			    F(GUEST_UFO);
	struct fixture *f = *state;
	uint8_t mac[8] = { 0 };

	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_NET);
	assert_int_equal(guest_features(f->vd) & offloads, offloads);
	assert_int_equal(guest_features(f->vd) & (F(MQ) | F(MTU)), 0);
	for (unsigned int i = 0; i < 8; i += 4) {
		uint32_t word = reg_read(f->vd, CONFIG + i);

		memcpy(mac + i, &word, 4);
	}
	assert_memory_equal(mac, own_mac, 6);
	assert_int_equal(net_status(f), VIRTIO_NET_S_LINK_UP);
	assert_true(fdt_node_offset_by_compatible(f->rig.tree, -1, "virtio,mmio") >= 0);
}

static void test_identity_without_headers(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(guest_features(f->vd) & (F(CSUM) | F(GUEST_CSUM) | F(HOST_TSO4)), 0);
	assert_true(guest_features(f->vd) & F(MTU));
	assert_int_equal(reg_read(f->vd, CONFIG + 8) >> 16, 1400);
}

/* The header goes with the frame, in as many pieces as the guest likes. */
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
static void test_filter(void **state)
{
	static const uint8_t other[6] = { 2, 0, 0, 0, 0, 8 }, group[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	struct fixture *f = *state;
	uint8_t table[14] = { 1, 0, 0, 0, 2, 0, 0, 0, 0, 8 }, off = 0, two = 2;

	for (uint16_t i = 0; i < 8; i++)
		offer(f, RX, i, 1530);
	network_sends(f, 0, other, 1, 60); /* promiscuous after a reset */
	expect_used(f, RX, 0, 72);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1),
			 VIRTIO_NET_OK);
	network_sends(f, 0, other, 2, 61);
	network_sends(f, 0, own_mac, 3, 62);
	network_sends(f, 0, group, 4, 63);
	expect_used(f, RX, 1, 74);
	expect_used(f, RX, 2, 75);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table,
				 sizeof(table)),
			 VIRTIO_NET_OK);
	network_sends(f, 0, other, 5, 64);
	expect_used(f, RX, 3, 76);
	table[0] = 0;
	command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof(table));
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6),
			 VIRTIO_NET_OK);
	network_sends(f, 0, own_mac, 6, 65);
	network_sends(f, 0, other, 7, 66);
	expect_used(f, RX, 4, 78);
	/* What makes no sense. */
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &two, 1),
			 VIRTIO_NET_ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 77, &off, 1), VIRTIO_NET_ERR);
	assert_int_equal(command(f, 77, 0, &off, 1), VIRTIO_NET_ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, group, 6),
			 VIRTIO_NET_ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 5),
			 VIRTIO_NET_ERR);
	memset(table, 0xff, 4);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 14),
			 VIRTIO_NET_ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, table, 2), VIRTIO_NET_ERR);
	/* A reset forgets all of it. */
	start_driver(f, FEATURES);
	offer(f, RX, 0, 1530);
	network_sends(f, 0, other, 8, 60);
	expect_used(f, RX, 0, 72);
	assert_memory_equal(((struct virtio_net *)f->vd)->state.mac, own_mac, 6);
}

/* 5.1.5.1.2, 5.1.6.5.6: one pair until the driver asks for more. */
static void test_two_pairs(void **state)
{
	uint8_t pairs[2] = { 2, 0 }, none[2] = { 0, 0 }, three[2] = { 3, 0 }, got[100];
	struct fixture *f = *state;

	assert_true(guest_features(f->vd) & F(MQ));
	assert_int_equal(reg_read(f->vd, CONFIG + 8) & 0xffff, 2);
	offer(f, 2, 1, 1530);
	network_sends(f, 1, own_mac, 1, 60);
	expect_no_used(f, 2);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, none, 2),
			 VIRTIO_NET_ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, three, 2),
			 VIRTIO_NET_ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs, 2),
			 VIRTIO_NET_OK);
	expect_used(f, 2, 1, 72);
	guest_sends(f, 3, 2, 7, 60);
	expect_used(f, 3, 2, 0);
	assert_int_equal(network_gets(f, 1, got, sizeof(got), 100), 72);
	guest_sends(f, TX, 3, 7, 60);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 100), 72);
	/* A driver that knows nothing of it has its control queue where queue 2 was. */
	start_driver(f, V1 | F(CTRL_VQ) | F(GUEST_ANNOUNCE));
	f->queue[CTRL].next_desc = 0;
	guest_desc(&f->queue[CTRL], 0, buffer(30), 2, N, 1);
	guest_desc(&f->queue[CTRL], 1, buffer(31), 1, W, 0);
	memcpy(ram(f->vd, buffer(30)), (uint8_t[]){ VIRTIO_NET_CTRL_ANNOUNCE, 0 }, 2);
	guest_add(&f->queue[CTRL], 0);
	kick(&f->queue[CTRL]);
	expect_used(f, CTRL, 0, 1);
	assert_int_equal(*(uint8_t *)ram(f->vd, buffer(31)), VIRTIO_NET_OK);
}

/* A network that is gone is a cable pulled out, and nothing waits for it. */
static void test_gone(void **state)
{
	struct fixture *f = *state;

	offer(f, RX, 0, 1530);
	rig_turn(&f->rig);
	guest_interrupts(f->vd);
	close(f->cable[0]);
	f->cable[0] = -1;
	RIG_UNTIL(&f->rig, net_status(f) == 0);
	assert_true(reg_read(f->vd, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	guest_sends(f, TX, 1, 1, 60);
	expect_used(f, TX, 1, 0);
}

static void test_bad_options(void **state)
{
	static const char *const bad[] = {
		"",
		"tun",
		"tap,name=",
		"tap,name=a/b",
		"tap,name=sixteencharacter",
		"tap,name=t%d",
		"tap,name=a,fd=3",
		"tap,fd=x",
		"tap,fd=3,queues=2",
		"tap,queues=0",
		"tap,queues=9",
		"tap,socket=s",
		"tap,vnet-hdr",
		"tap,mac=1:2:3:4:5:6",
		"tap,mac=01:00:00:00:00:01",
		"tap,mac=00:00:00:00:00:00",
		"tap,mac=02:00:00:00:00:0g",
		"tap,mac=02:00:00:00:00:01x",
		"tap,mtu=67",
		"tap,mtu=65536",
		"tap,no-offload=1",
		"user,fd=3",
		"user,name=a",
		"socket",
		"socket,fd=",
		"socket,fd=3:",
		"none,what",
	};
	const struct device_class *class = rig_class("virtio-net");

	(void)state;
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		bool second = strcmp(bad[i], "socket,fd=3:") == 0;
		struct machine_options options = { .memory = RIG_RAM, .cpus = 1 };
		struct machine_tree *mt;
		struct error err = { 0 };

		assert_int_equal(machine_tree_new(&mt, &options, &err), 0);
		if (class->option.add(mt, bad[i], &err) == 0 && !second)
			fail_msg("%s is accepted", bad[i]);
		machine_tree_free(mt);
	}
}

/* An address of one's own, for each machine another, that no card has. */
static void test_random_address(void **state)
{
	const struct device_class *class = rig_class("virtio-net");
	char mac[2][18];

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		void *fdt = rig_tree(class, "none");
		int node = fdt_node_offset_by_compatible(fdt, -1, class->compatible);
		const char *text = device_node_string(fdt, node, "mac");

		assert_int_equal(strlen(text), 17);
		memcpy(mac[i], text, 18);
		assert_int_equal(strtol(text, NULL, 16) & 3, 2);
		free(fdt);
	}
	assert_string_not_equal(mac[0], mac[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_identity_without_headers, setup_plain,
						teardown),
		cmocka_unit_test_setup_teardown(test_transmit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_transmit_without_headers, setup_plain,
						teardown),
		cmocka_unit_test_setup_teardown(test_transmit_nonsense, setup, teardown),
		cmocka_unit_test_setup_teardown(test_transmit_blocked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_receive_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive_waits, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_mergeable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_long, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_marks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive_nonsense, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
		cmocka_unit_test_setup_teardown(test_filter, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_pairs, setup_two, teardown),
		cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_random_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
