/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest and a network that do anything: the input is a program of descriptors, commands, plain
 * bytes for guest memory and frames from the network, run against virtio-net with two pairs of
 * queues on sockets.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio-net.h"
#include "tests/fuzz/input.h"
#include "tests/unit/guest-virtio.h"

#define QUEUES	 5U
#define RING	 0x10000ULL /* three pages a queue */
#define BUFFER	 0x20000ULL
#define FEATURES (V1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX)

struct machine {
	struct vm vm;
	struct virtio_net *net;
	struct guest_queue queue[QUEUES];
	int cable[2];
};

static uint64_t take_gpa(struct input *in)
{
	uint64_t v = take(in, 2);

	switch (take(in, 1) % 8) {
	case 0:
		return take(in, 8);
	case 1:
		return RAM_LOW - v % 256;
	case 2:
		return RAM_HOLE + v;
	case 3:
		return RING + v;
	default:
		return BUFFER + v;
	}
}

static void start(struct machine *m, uint64_t features)
{
	struct virtio_device *vd = &m->net->vd;

	reg_write(vd, VIRTIO_MMIO_STATUS, 0);
	memset(ram(vd, RING), 0, QUEUES * 3 * PAGE_SIZE);
	guest_negotiate(vd, features & vd->features);
	for (unsigned int i = 0; i < QUEUES; i++) {
		uint64_t gpa = RING + i * 3 * PAGE_SIZE;

		m->queue[i] = (struct guest_queue){ .vd = vd,
						    .index = i,
						    .size = 32,
						    .desc = gpa,
						    .avail = gpa + PAGE_SIZE,
						    .used = gpa + 2 * PAGE_SIZE };
		guest_set_queue(&m->queue[i], 1);
	}
	reg_write(vd, VIRTIO_MMIO_STATUS,
		  STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* A few chained buffers that are nearly right: written by the device on the receive queues only. */
static void put_chain(struct machine *m, struct guest_queue *gq, struct input *in)
{
	bool receive = gq->index % 2 == 0 && gq->index != QUEUES - 1;
	uint16_t d = (uint16_t)(4 * (take(in, 1) % 8)), n = (uint16_t)(take(in, 1) % 4);
	uint16_t flags = receive ? VRING_DESC_F_WRITE : 0;

	for (uint16_t i = 0; i <= n; i++)
		guest_desc(gq, d + i, BUFFER + take(in, 2), 1 + (uint32_t)take(in, 1 + i % 2),
			   i < n ? flags | VRING_DESC_F_NEXT : flags, (uint16_t)(d + i + 1));
	guest_add(gq, d);
	virtio_run_queue(&m->net->vd, gq->index);
}

static void put_command(struct machine *m, struct input *in)
{
	struct guest_queue *gq = &m->queue[virtio_has(&m->net->vd, 22) ? QUEUES - 1 : 2];
	uint8_t bytes[64];
	uint32_t len = (uint32_t)take(in, 1) % (sizeof(bytes) - 2);

	bytes[0] = (uint8_t)take(in, 1) % 6;
	bytes[1] = (uint8_t)take(in, 1) % 3;
	for (uint32_t i = 0; i < len; i++)
		bytes[2 + i] = (uint8_t)take(in, 1);
	memory_write(&m->vm.memory, BUFFER, bytes, 2 + len);
	guest_desc(gq, 0, BUFFER, 2 + len, VRING_DESC_F_NEXT, 1);
	guest_desc(gq, 1, BUFFER + 0x1000, 1, VRING_DESC_F_WRITE, 0);
	guest_add(gq, 0);
	virtio_run_queue(&m->net->vd, gq->index);
}

/* The network has something to say, and to hear. */
static void network(struct machine *m, unsigned int pair, struct input *in)
{
	static uint8_t frame[4096];
	size_t len = take(in, 2) % sizeof(frame);

	frame[12] = (uint8_t)take(in, 1);
	if (len && send(m->cable[pair], frame, len, MSG_DONTWAIT) < 0)
		len = 0;
	net_on_backend(&m->net->pair[pair], EPOLLIN);
	while (recv(m->cable[pair], frame, sizeof(frame), MSG_DONTWAIT) > 0)
		;
	net_on_backend(&m->net->pair[pair], EPOLLOUT);
}

/* Out and in again: what is accepted as state must be safe to run. */
static void save_and_load(struct machine *m, struct input *in)
{
	struct net_state *s = &m->net->state, before = *s;
	struct device *dev = &m->net->vd.dev;
	size_t at = take(in, 2) % sizeof(*s);
	struct error err = { 0 };

	dev->class->quiesce(dev);
	((uint8_t *)s)[at] ^= (uint8_t)take(in, 1);
	/* A bool holds 0 or 1 in memory; the loader sees to it on the wire. */
	for (unsigned int q = 0; q < VIRTIO_MAX_QUEUES; q++)
		*(uint8_t *)&s->virtio.queue[q].ready &= 1;
	*(uint8_t *)&s->announce &= 1;
	*(uint8_t *)&s->filter &= 1;
	*(uint8_t *)&s->more_unicast &= 1;
	if (s->virtio.n_queues > VIRTIO_MAX_QUEUES || test_migrate(dev, dev, &err))
		*s = before;
	dev->class->resume(dev);
}

static void step(struct machine *m, struct input *in)
{
	struct device *dev = &m->net->vd.dev;
	struct guest_queue *gq = &m->queue[take(in, 1) % QUEUES];
	uint64_t gpa, value;

	switch (take(in, 1) % 10) {
	case 0:
		gpa = take_gpa(in);
		value = take(in, 8);
		memory_write(&m->vm.memory, gpa, &value, sizeof(value));
		break;
	case 1:
		guest_desc(gq, (unsigned int)take(in, 1) % 32, take_gpa(in),
			   (uint32_t)take(in, 1 + take(in, 1) % 3), (uint16_t)take(in, 1),
			   (uint16_t)take(in, 1));
		break;
	case 2:
		guest_add(gq, (uint16_t)take(in, 1));
		virtio_run_queue(&m->net->vd, gq->index);
		break;
	case 3:
		put_command(m, in);
		break;
	case 4:
		reg_write(&m->net->vd, 4 * (take(in, 1) % 72), (uint32_t)take(in, 4));
		break;
	case 5:
		save_and_load(m, in);
		break;
	case 6:
		dev->class->quiesce(dev);
		network(m, gq->index & 1, in);
		dev->class->resume(dev);
		break;
	case 7:
		start(m, FEATURES ^ take(in, 3));
		break;
	case 8:
		put_chain(m, gq, in);
		break;
	default:
		network(m, gq->index & 1, in);
	}
}

/* Once: making a machine takes longer than an input. */
static void make_machine(struct machine *m)
{
	struct error err = { 0 };
	char option[64];
	int both[2][2];

	test_machine_init(&m->vm);
	for (unsigned int i = 0; i < 2; i++) {
		if (socketpair(AF_UNIX, SOCK_DGRAM, 0, both[i]))
			abort();
		m->cable[i] = both[i][0];
	}
	snprintf(option, sizeof(option), "socket,queues=2,vnet-hdr,fd=%d:%d", both[0][1],
		 both[1][1]);
	m->net = (struct virtio_net *)test_device(&m->vm, "virtio-net", option, &err);
	if (!m->net)
		test_die("device", &err);
	m->net->vd.told = true; /* a thousand times is too often */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine m;
	struct input in = { data, size };

	if (!m.net)
		make_machine(&m);
	memset(m.vm.memory.regions[0].hva, 0, BUFFER + 0x10100);
	start(&m, FEATURES | (size ? (uint64_t)data[0] << 15 : 0));
	for (unsigned int steps = 0; in.left && steps < 100; steps++)
		step(&m, &in);
	return 0;
}
