/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio-net in a machine without KVM, a guest's driver for it, and the other end of its cable.
 */
#ifndef TESTS_UNIT_NET_FIXTURE_H
#define TESTS_UNIT_NET_FIXTURE_H

#include "tests/unit/devrig.h"

#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "devices/virtio-net.h"
#include "tests/unit/guest-virtio.h"

#define RX	   0U
#define TX	   1U
#define CTL	   2U
#define QUEUES	   5U
#define QUEUE_SIZE 16
#define RINGS	   0x10000ULL /* three pages a queue */
#define BUFFERS	   0x40000ULL
#define BUFFER	   0x18000U /* bytes each; those of receive queues first */
#define W	   VRING_DESC_F_WRITE
#define N	   VRING_DESC_F_NEXT

#define F(name) (1ULL << VIRTIO_NET_F_##name)
#define MAC	"02:00:00:00:00:07"
#define CONFIG	VIRTIO_MMIO_CONFIG
#define MAC_OPT ",mac=" MAC
#define FEATURES \
	(V1 | F(MAC) | F(STATUS) | F(CTRL_VQ) | F(GUEST_ANNOUNCE) | F(CTRL_RX) | F(CTRL_MAC_ADDR))

static const uint8_t own_mac[6] = { 2, 0, 0, 0, 0, 7 };

struct fixture {
	struct rig rig;
	struct virtio_device *vd;
	struct guest_queue queue[QUEUES];
	int cable[2]; /* the far ends of the pairs */
};

static inline void start_driver(struct fixture *f, uint64_t features)
{
	unsigned int n = f->vd->ops->n_queues;

	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
	memset(ram(f->vd, RINGS), 0, QUEUES * 3 * PAGE_SIZE);
	assert_true(guest_negotiate(f->vd, features));
	for (unsigned int i = 0; i < n; i++) {
		uint64_t gpa = RINGS + i * 3 * PAGE_SIZE;

		f->queue[i] = (struct guest_queue){ .vd = f->vd,
						    .index = i,
						    .size = QUEUE_SIZE,
						    .desc = gpa,
						    .avail = gpa + PAGE_SIZE,
						    .used = gpa + 2 * PAGE_SIZE };
		guest_set_queue(&f->queue[i], 1);
	}
	reg_write(f->vd, VIRTIO_MMIO_STATUS,
		  STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* @pairs cables of messages; @how: more suboptions. The device is realized, not resumed. */
static inline void plug_in(struct fixture *f, unsigned int pairs, const char *how, bool incoming)
{
	int near[2] = { -1, -1 };
	struct error err = { 0 };
	char value[128];

	memset(f, 0, sizeof(*f));
	f->cable[0] = f->cable[1] = -1;
	for (unsigned int i = 0; i < pairs; i++) {
		int both[2];

		assert_int_equal(
			socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both),
			0);
		f->cable[i] = both[0];
		near[i] = both[1];
	}
	if (pairs > 1)
		snprintf(value, sizeof(value), "socket,queues=2,fd=%d:%d" MAC_OPT "%s", near[0],
			 near[1], how);
	else
		snprintf(value, sizeof(value), "socket,fd=%d" MAC_OPT "%s", near[0], how);
	rig_init(&f->rig);
	if (incoming)
		f->rig.vm->state = VM_INMIGRATE;
	if (rig_realize(&f->rig, "virtio-net", value, &err) < 0)
		fail_msg("%s: %s: %s", err.device, err.field, err.got);
	f->vd = (struct virtio_device *)f->rig.dev;
	for (unsigned int i = 0; i < pairs; i++)
		close(near[i]);
}

static inline void unplug(struct fixture *f)
{
	rig_close(&f->rig);
	for (unsigned int i = 0; i < 2; i++)
		if (f->cable[i] >= 0)
			close(f->cable[i]);
}

static inline void kick(struct guest_queue *gq)
{
	reg_write(gq->vd, VIRTIO_MMIO_QUEUE_NOTIFY, gq->index);
}

static inline uint64_t buffer(unsigned int i)
{
	return BUFFERS + (uint64_t)i * BUFFER;
}

/* Offer descriptor @i of queue @q as an empty buffer of @len bytes. */
static inline void offer(struct fixture *f, unsigned int q, uint16_t i, uint32_t len)
{
	guest_desc(&f->queue[q], i, buffer(i), len, W, 0);
	guest_add(&f->queue[q], i);
	kick(&f->queue[q]);
}

static inline uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 29 >> 3);
}

/* A frame of @len bytes to @to with a number in it. */
static inline void make_frame(uint8_t *frame, const uint8_t *to, uint32_t number, size_t len)
{
	for (size_t i = 0; i < len; i++)
		frame[i] = pattern(i + number);
	memcpy(frame, to, 6);
	memcpy(frame + 14, &number, sizeof(number));
}

/* The network sends one, behind a header of zeroes when the cable has headers. */
static inline void network_sends(struct fixture *f, unsigned int pair, const uint8_t *to,
				 uint32_t number, size_t len)
{
	size_t hdr = ((struct virtio_net *)f->vd)->backend.vnet_hdr ? NET_HDR : 0;
	uint8_t *message = calloc(1, hdr + len + 18);

	make_frame(message + hdr, to, number, len);
	assert_int_equal(send(f->cable[pair], message, hdr + len, 0), hdr + len);
	free(message);
}

/* What the network gets next: its length, 0 when nothing came in some turns of the loop. */
static inline size_t network_gets(struct fixture *f, unsigned int pair, void *to, size_t size,
				  int turns)
{
	for (; turns > 0; turns--) {
		ssize_t n = recv(f->cable[pair], to, size, MSG_DONTWAIT);

		if (n > 0)
			return (size_t)n;
		rig_turn(&f->rig);
	}
	return 0;
}

static inline void expect_used(struct fixture *f, unsigned int q, uint32_t head, uint32_t len)
{
	uint32_t got_head, got_len;

	RIG_UNTIL(&f->rig, guest_get(&f->queue[q], &got_head, &got_len));
	assert_int_equal(got_head, head);
	assert_int_equal(got_len, len);
}

static inline void expect_no_used(struct fixture *f, unsigned int q)
{
	uint32_t head, len;

	for (int i = 0; i < 20; i++)
		rig_turn(&f->rig);
	assert_false(guest_get(&f->queue[q], &head, &len));
}

/* Let the guest send a frame of @len bytes by descriptor @i of queue @q. */
static inline void guest_sends(struct fixture *f, unsigned int q, uint16_t i, uint32_t number,
			       size_t len)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint8_t *at = ram(f->vd, buffer(i));

	memset(at, 0, NET_HDR);
	make_frame(at + NET_HDR, all, number, len);
	guest_desc(&f->queue[q], i, buffer(i), (uint32_t)(NET_HDR + len), 0, 0);
	guest_add(&f->queue[q], i);
	kick(&f->queue[q]);
}

/* A command on the control queue: what the device answers. */
static inline uint8_t command(struct fixture *f, uint8_t class, uint8_t cmd, const void *data,
			      uint32_t len)
{
	struct guest_queue *gq = &f->queue[f->vd->features & F(MQ) ? 4 : CTL];
	uint64_t at = buffer(30);
	uint8_t *p = ram(f->vd, at);

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	p[0x1000] = 0xee;
	guest_desc(gq, 0, at, 2, N, 1);
	guest_desc(gq, 1, at + 2, len, N, 2);
	guest_desc(gq, 2, at + 0x1000, 1, W, 0);
	guest_add(gq, 0);
	kick(gq);
	expect_used(f, gq->index, 0, 1);
	return p[0x1000];
}

/* A machine for @from to move to, on a cable of its own. */
static inline void prepare(struct fixture *to, const struct fixture *from)
{
	plug_in(to, 1, ",vnet-hdr", true);
	for (unsigned int i = 0; i < QUEUES; i++) {
		to->queue[i] = from->queue[i];
		to->queue[i].vd = to->vd;
	}
}

static inline void move(struct fixture *from, struct fixture *to)
{
	struct error err = { 0 };

	rig_quiesce(&from->rig);
	for (unsigned int i = 0; i < QUEUES; i++) {
		to->queue[i] = from->queue[i];
		to->queue[i].vd = to->vd;
	}
	memcpy(to->rig.vm->memory.regions[0].hva, from->rig.vm->memory.regions[0].hva, RIG_RAM);
	if (rig_copy(&from->rig, &to->rig, &err) != 0)
		fail_msg("%s: %s: %s", err.device, err.field, err.got);
	rig_assert_same_state(&from->rig, &to->rig);
}

static inline uint16_t net_status(struct fixture *f)
{
	uint16_t status = 0;

	pthread_mutex_lock(&f->vd->dev.lock);
	virtio_mmio_registers.read(&f->vd->dev, CONFIG + 6, &status, 2);
	pthread_mutex_unlock(&f->vd->dev.lock);
	return status;
}

/* For cmocka: a cable whose frames have headers, and mergeable buffers. */
static inline int plug_in_headers(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	plug_in(f, 1, ",vnet-hdr", false);
	rig_resume(&f->rig);
	start_driver(f, FEATURES | F(MRG_RXBUF));
	*state = f;
	return 0;
}

/* A cable without headers, and a driver without mergeable buffers. */
static inline int plug_in_plain(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	plug_in(f, 1, ",mtu=1400", false);
	rig_resume(&f->rig);
	start_driver(f, FEATURES);
	*state = f;
	return 0;
}

static inline int plug_in_two(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	plug_in(f, 2, ",vnet-hdr", false);
	rig_resume(&f->rig);
	start_driver(f, FEATURES | F(MQ));
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	unplug(*state);
	free(*state);
	return 0;
}

#endif
