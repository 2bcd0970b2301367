/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net: what it offers, its control queue, and its option. */
#include "tests/unit/net-fixture.h"

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
	f->queue[CTL].next_desc = 0;
	guest_desc(&f->queue[CTL], 0, buffer(30), 2, N, 1);
	guest_desc(&f->queue[CTL], 1, buffer(31), 1, W, 0);
	memcpy(ram(f->vd, buffer(30)), (uint8_t[]){ VIRTIO_NET_CTRL_ANNOUNCE, 0 }, 2);
	guest_add(&f->queue[CTL], 0);
	kick(&f->queue[CTL]);
	expect_used(f, CTL, 0, 1);
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
		cmocka_unit_test_setup_teardown(test_identity, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_identity_without_headers, plug_in_plain,
						teardown),
		cmocka_unit_test_setup_teardown(test_filter, plug_in_headers, teardown),
		cmocka_unit_test_setup_teardown(test_two_pairs, plug_in_two, teardown),
		cmocka_unit_test_setup_teardown(test_gone, plug_in_headers, teardown),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_random_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
