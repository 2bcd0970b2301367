/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-net on a real tap, in a network namespace of the test's own, with a packet socket on the
 * host's side of it. Skipped where there are no such namespaces or no taps.
 */
#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "tests/unit/net-fixture.h"

#define TAP    "t0"
#define LARGE  20000U /* a TCP segment to be cut into GSO pieces */
#define GSO    1400
#define OFFSET 34 /* of the TCP header */

/* In a namespace with taps? Once; a test that finds none is skipped. */
static int enter(void **state)
{
	static bool entered, able;
	int fd;

	(void)state;
	if (!entered) {
		entered = true;
		able = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
		fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
		able = able && fd >= 0;
		if (fd >= 0)
			close(fd);
		if (!able)
			fprintf(stderr, "no network namespace or no /dev/net/tun: %s\n",
				strerror(errno));
	}
	return able;
}

static void realize(struct fixture *f, const char *how, bool incoming)
{
	struct error err = { 0 };
	char value[128];

	memset(f, 0, sizeof(*f));
	f->cable[0] = f->cable[1] = -1;
	snprintf(value, sizeof(value), "tap,name=%s" MAC_OPT, how);
	rig_init(&f->rig);
	if (incoming)
		f->rig.vm->state = VM_INMIGRATE;
	if (rig_realize(&f->rig, "virtio-net", value, &err) < 0)
		fail_msg("%s: %s: %s", err.device, err.field, err.got);
	f->vd = (struct virtio_device *)f->rig.dev;
}

/* A packet socket on the tap, with headers for offloads, as cable[0]. It takes IPv4 only. */
static void listen_on_tap(struct fixture *f)
{
	struct sockaddr_ll ll = { .sll_family = AF_PACKET,
				  .sll_protocol = htons(ETH_P_IP),
				  .sll_ifindex = (int)if_nametoindex(TAP) };
	int one = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(ll.sll_ifindex > 0);
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&ll, sizeof(ll)), 0);
	f->cable[0] = fd;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	if (!enter(NULL))
		return 0;
	realize(f, TAP, false);
	listen_on_tap(f);
	rig_resume(&f->rig);
	start_driver(f, FEATURES | F(MRG_RXBUF));
	return 0;
}

static int cleanup(void **state)
{
	struct fixture *f = *state;

	if (f->rig.vm)
		unplug(f);
	free(f);
	return 0;
}

#define NEEDS_TAP(f)              \
	do {                      \
		if (!(f)->rig.vm) \
			skip();   \
	} while (0)

static uint32_t ethtool(const char *name, uint32_t cmd)
{
	struct ethtool_value v = { .cmd = cmd };
	struct ifreq ifr = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	ifr.ifr_data = (void *)&v;
	assert_int_equal(ioctl(fd, SIOCETHTOOL, &ifr), 0);
	close(fd);
	return v.data;
}

/* A TCP segment over IPv4 of @len bytes in all, as a guest leaves it to its card (5.1.6.2). */
static void make_segment(uint8_t *frame, uint16_t len)
{
	uint32_t sum = 0;

	memset(frame, 0, len);
	memcpy(frame, own_mac, 6);
	memcpy(frame + 6, own_mac, 6);
	frame[12] = 8;
	frame[14] = 0x45;
	*(uint16_t *)(void *)(frame + 16) = htons((uint16_t)(len - 14));
	frame[22] = 64;
	frame[23] = IPPROTO_TCP;
	memcpy(frame + 26, (uint8_t[]){ 10, 0, 0, 1, 10, 0, 0, 2 }, 8);
	for (unsigned int i = 14; i < OFFSET; i += 2)
		sum += (uint32_t)frame[i] << 8 | frame[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	*(uint16_t *)(void *)(frame + 24) = htons((uint16_t)~sum);
	frame[OFFSET + 12] = 5 << 4;
	for (unsigned int i = OFFSET + 20; i < len; i++)
		frame[i] = pattern(i);
}

static struct virtio_net_hdr large_header(void)
{
	return (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
					.hdr_len = OFFSET + 20,
					.gso_size = GSO,
					.csum_start = OFFSET,
					.csum_offset = 16 };
}

static void test_features(void **state)
{
	uint64_t offloads = F(CSUM) | F(GUEST_CSUM) | F(HOST_TSO4) | F(HOST_TSO6) | F(HOST_ECN) |
			    F(GUEST_TSO4) | F(GUEST_TSO6) | F(GUEST_ECN);
	struct fixture *f = *state;
	int size = 0;

	NEEDS_TAP(f);
	assert_int_equal(guest_features(f->vd) & offloads, offloads);
	assert_int_equal(ioctl(((struct virtio_net *)f->vd)->backend.fd[0], TUNGETVNETHDRSZ, &size),
			 0);
	assert_int_equal(size, NET_HDR);
}

/* The guest's large segment is one packet to the host, not cut and not summed up by us. */
static void test_transmit_large(void **state)
{
	struct virtio_net_hdr hdr = large_header();
	struct fixture *f = *state;
	uint8_t *got, *at;

	NEEDS_TAP(f);
	start_driver(f, FEATURES | F(CSUM) | F(HOST_TSO4));
	got = malloc(65536);
	at = ram(f->vd, buffer(0));
	memset(at, 0, NET_HDR);
	memcpy(at, &hdr, sizeof(hdr));
	make_segment(at + NET_HDR, LARGE);
	guest_desc(&f->queue[TX], 0, buffer(0), NET_HDR + LARGE, 0, 0);
	guest_add(&f->queue[TX], 0);
	kick(&f->queue[TX]);
	expect_used(f, TX, 0, 0);
	assert_int_equal(network_gets(f, 0, got, 65536, 1000), sizeof(hdr) + LARGE);
	memcpy(&hdr, got, sizeof(hdr));
	assert_int_equal(hdr.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(hdr.gso_size, GSO);
	assert_memory_equal(got + sizeof(hdr), at + NET_HDR, LARGE);
	free(got);
}

/* The host's large segment is one frame to a guest that can take it, over several buffers. */
static void test_receive_large(void **state)
{
	struct virtio_net_hdr hdr = large_header();
	struct virtio_net_hdr_v1 seen;
	struct fixture *f = *state;
	uint8_t *message;

	NEEDS_TAP(f);
	start_driver(f, FEATURES | F(MRG_RXBUF) | F(GUEST_CSUM) | F(GUEST_TSO4));
	for (uint16_t i = 0; i < 16; i++)
		offer(f, RX, i, 4096);
	message = calloc(1, sizeof(hdr) + LARGE);
	memcpy(message, &hdr, sizeof(hdr));
	make_segment(message + sizeof(hdr), LARGE);
	/* Frames that the kernel sends on its own may come before. */
	assert_int_equal(send(f->cable[0], message, sizeof(hdr) + LARGE, 0), sizeof(hdr) + LARGE);
	for (unsigned int first = 0;; first++) {
		uint32_t head, len, total = 0;

		assert_true(first < 10);
		RIG_UNTIL(&f->rig, guest_get(&f->queue[RX], &head, &len));
		memcpy(&seen, ram(f->vd, buffer(head)), sizeof(seen));
		total = len;
		for (unsigned int i = 1; i < seen.num_buffers; i++) {
			assert_true(guest_get(&f->queue[RX], &head, &len));
			total += len;
		}
		if (total == NET_HDR + LARGE)
			break;
	}
	assert_int_equal(seen.num_buffers, (NET_HDR + LARGE + 4095) / 4096);
	assert_int_equal(seen.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(seen.gso_size, GSO);
	assert_int_equal(seen.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	free(message);
}

/* What the driver can take is told to the host: at first, after a reset, and after a move. */
static void test_offloads_are_told(void **state)
{
	struct fixture *f = *state, g;
	struct error err = { 0 };

	NEEDS_TAP(f);
	assert_int_equal(ethtool(TAP, ETHTOOL_GTXCSUM), 0);
	start_driver(f, FEATURES | F(GUEST_CSUM));
	assert_int_equal(ethtool(TAP, ETHTOOL_GTXCSUM), 1);
	assert_int_equal(ethtool(TAP, ETHTOOL_GTSO), 0);
	start_driver(f, FEATURES | F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_TSO6));
	assert_int_equal(ethtool(TAP, ETHTOOL_GTSO), 1);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(ethtool(TAP, ETHTOOL_GTXCSUM), 0);
	/* Segmentation without checksums is none (5.1.3.1). */
	start_driver(f, FEATURES | F(GUEST_TSO4));
	assert_int_equal(ethtool(TAP, ETHTOOL_GTSO), 0);

	start_driver(f, FEATURES | F(GUEST_CSUM) | F(GUEST_TSO4));
	realize(&g, "t1", true);
	assert_int_equal(ethtool("t1", ETHTOOL_GTXCSUM), 0);
	rig_quiesce(&f->rig);
	memcpy(g.rig.vm->memory.regions[0].hva, f->rig.vm->memory.regions[0].hva, RIG_RAM);
	assert_int_equal(rig_copy(&f->rig, &g.rig, &err), 0);
	assert_int_equal(ethtool("t1", ETHTOOL_GTXCSUM), 1);
	assert_int_equal(ethtool("t1", ETHTOOL_GTSO), 1);
	g.rig.dev->class->reset(g.rig.dev);
	assert_int_equal(ethtool("t1", ETHTOOL_GTXCSUM), 0);
	unplug(&g);
}

/* Headers that make no sense are the kernel's to refuse, and cost the guest a frame. */
static void test_transmit_nonsense(void **state)
{
	struct virtio_net_hdr bad[5];
	struct fixture *f = *state;
	uint8_t got[2000];

	NEEDS_TAP(f);
	for (unsigned int i = 0; i < 5; i++)
		bad[i] = large_header();
	bad[0].gso_type = 0x7f;
	bad[1].gso_size = 0;
	bad[2].csum_start = 0xffff;
	bad[3].csum_offset = 0xffff;
	bad[4].hdr_len = 0xffff;
	for (uint16_t i = 0; i < 5; i++) {
		uint8_t *at = ram(f->vd, buffer(i));

		memset(at, 0, NET_HDR);
		memcpy(at, &bad[i], sizeof(bad[i]));
		make_segment(at + NET_HDR, 1000);
		guest_desc(&f->queue[TX], i, buffer(i), NET_HDR + 1000, 0, 0);
		guest_add(&f->queue[TX], i);
		kick(&f->queue[TX]);
		expect_used(f, TX, i, 0);
	}
	while (network_gets(f, 0, got, sizeof(got), 5) > 0)
		;
	memset(ram(f->vd, buffer(5)), 0, NET_HDR);
	make_segment((uint8_t *)ram(f->vd, buffer(5)) + NET_HDR, 900);
	guest_desc(&f->queue[TX], 5, buffer(5), NET_HDR + 900, 0, 0);
	guest_add(&f->queue[TX], 5);
	kick(&f->queue[TX]);
	expect_used(f, TX, 5, 0);
	assert_int_equal(network_gets(f, 0, got, sizeof(got), 1000),
			 sizeof(struct virtio_net_hdr) + 900);
	assert_false(guest_needs_reset(f->vd));
}

static bool attached(const struct fixture *f, unsigned int pair)
{
	struct ifreq ifr = { 0 };

	assert_int_equal(ioctl(((struct virtio_net *)f->vd)->backend.fd[pair], TUNGETIFF, &ifr), 0);
	return !(ifr.ifr_flags & IFF_DETACH_QUEUE);
}

/* The kernel spreads frames over the queues that the driver uses, and over no others. */
static void test_pairs(void **state)
{
	uint8_t two[2] = { 2, 0 }, one[2] = { 1, 0 };
	struct fixture *f = *state, g;

	NEEDS_TAP(f);
	realize(&g, "t2,queues=2", false);
	rig_resume(&g.rig);
	start_driver(&g, FEATURES | F(MQ));
	assert_true(attached(&g, 0) && !attached(&g, 1));
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(
			command(&g, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, two, 2),
			VIRTIO_NET_OK);
		assert_true(attached(&g, 0) && attached(&g, 1));
	}
	assert_int_equal(command(&g, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, one, 2),
			 VIRTIO_NET_OK);
	assert_false(attached(&g, 1));
	command(&g, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, two, 2);
	start_driver(&g, FEATURES);
	assert_false(attached(&g, 1));
	unplug(&g);
}

static void test_taken(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	struct rig rig;

	NEEDS_TAP(f);
	rig_init(&rig);
	assert_int_equal(rig_realize(&rig, "virtio-net", "tap,name=" TAP, &err), -EBUSY);
	assert_string_equal(err.field, "host-name");
	assert_non_null(strstr(err.got, TAP));
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_features, setup, cleanup),
		cmocka_unit_test_setup_teardown(test_transmit_large, setup, cleanup),
		cmocka_unit_test_setup_teardown(test_receive_large, setup, cleanup),
		cmocka_unit_test_setup_teardown(test_offloads_are_told, setup, cleanup),
		cmocka_unit_test_setup_teardown(test_transmit_nonsense, setup, cleanup),
		cmocka_unit_test_setup_teardown(test_pairs, setup, cleanup),
		cmocka_unit_test_setup_teardown(test_taken, setup, cleanup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
