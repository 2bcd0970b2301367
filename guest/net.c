/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The network part of vio (virtio 1.2, section 5.1): a host that answers (net-host.c), counts what
 * comes, and says where it is when it was moved. With send= it sends UDP to peer= as fast as it
 * goes. With pairs=2 it has two pairs of queues, and answers odd UDP ports by the second.
 */
#include "kernel/program.h"
#include "kernel/ram.h"
#include "net.h"

enum {
	RECEIVE = 0, /* queues of a pair */
	TRANSMIT = 1,
	CONFIG_MAC = 0,
	CONFIG_STATUS = 6,
	CONFIG_PAIRS = 8,
	STATUS_ANNOUNCE = 2,
	CLASS_ANNOUNCE = 3,
	CLASS_MQ = 4,
};

#define F_CSUM	     (1u << 0)
#define F_GUEST_CSUM (1u << 1)
#define F_MAC	     (1u << 5)
#define F_MRG_RXBUF  (1u << 15)
#define F_STATUS     (1u << 16)
#define F_CTRL_VQ    (1u << 17)
#define F_ANNOUNCE   (1u << 21)
#define F_MQ	     (1u << 22)
#define LOOK_NS	     (50 * 1000000ul) /* at the config space, which costs an exit */

static void option_ip(const char *key, uint8_t ip[4], uint8_t last)
{
	size_t size;
	const char *s = option_find(key, NULL, &size);

	memcpy(ip, (uint8_t[]){ 10, 0, 0, last }, 4);
	for (unsigned i = 0; s && i < 4; i++) {
		ip[i] = (uint8_t)number_parse(s, &s);
		if (i < 3 && *s++ != '.')
			fail("option %s: an address like 10.0.0.2 is expected", key);
	}
}

/* 5.1.2: the last queue, where the device has all its pairs in use. */
static unsigned control(const struct net *n)
{
	return 2 * n->pairs;
}

uint8_t *net_frame(struct net *n)
{
	struct net_pair *pair = &n->pair[n->out];

	if (!pair->free_count) {
		n->full++;
		return NULL;
	}
	uint8_t *p = pair->tx[pair->free[pair->free_count - 1]];
	memset(p, 0, NET_HDR);
	return p + NET_HDR;
}

void net_send(struct net *n, uint32_t size)
{
	struct net_pair *pair = &n->pair[n->out];
	unsigned slot = pair->free[--pair->free_count];
	struct virtio_buffer b = { pair->tx[slot], NET_HDR + size, false };

	n->sent++;
	n->sent_bytes += size;
	pair->sent++;
	n->v.busy++;
	virtio_submit(&n->v, 2 * n->out + TRANSMIT, slot, &b, 1);
}

static void offer(struct net *n, unsigned index, unsigned slot)
{
	struct virtio_buffer b = { n->pair[index].rx[slot], n->buffer, true };

	virtio_submit(&n->v, 2 * index + RECEIVE, slot, &b, 1);
}

/* A buffer has come back with @size bytes: a frame, or with mergeable buffers a part of one. */
static void on_buffer(struct net *n, unsigned index, unsigned slot, uint32_t size)
{
	struct net_pair *p = &n->pair[index];
	const uint8_t *data = p->rx[slot];

	if (size > n->buffer)
		fail("net: %u bytes in a buffer of %u", size, n->buffer);
	if (!p->parts) {
		p->parts = size < NET_HDR ? 0 : (uint32_t)data[10] | (uint32_t)data[11] << 8;
		if (!p->parts || (p->parts > 1 && !(n->v.features & F_MRG_RXBUF)))
			fail("net: %u bytes received, num_buffers=%u", size, p->parts);
		n->merged += p->parts > 1;
		p->received++;
		p->size = 0;
		if (p->parts == 1) {
			p->parts = 0;
			net_on_frame(n, data, size - NET_HDR);
			offer(n, index, slot);
			return;
		}
	}
	if (p->size + size <= sizeof(p->frame)) {
		memcpy(p->frame + p->size, data, size);
		p->size += size;
	}
	offer(n, index, slot);
	if (!--p->parts)
		net_on_frame(n, p->frame, p->size - NET_HDR);
}

static void command(struct net *n, uint8_t class, uint8_t value)
{
	struct virtio_buffer parts[] = { { n->ctrl, 2, false },
					 { n->ctrl + 2, 2, false },
					 { &n->ack, 1, true } };

	n->ctrl[0] = class;
	n->ctrl[1] = 0;
	n->ctrl[2] = value;
	n->ctrl[3] = 0;
	n->ack = 0xff;
	n->acking = true;
	n->v.busy++;
	if (class == CLASS_ANNOUNCE) /* which has no data */
		parts[1] = parts[2];
	virtio_submit(&n->v, control(n), 0, parts, class == CLASS_ANNOUNCE ? 2 : 3);
}

static void on_command(struct net *n)
{
	if (*(volatile uint8_t *)&n->ack != 0)
		fail("net: command %u of class %u was not accepted: %u", n->ctrl[1], n->ctrl[0],
		     n->ack);
	n->acking = false;
	n->announced += n->ctrl[0] == CLASS_ANNOUNCE;
}

/* 5.1.6.5.5: one pair is in use until the driver wants more. The device must have just as many. */
static void want_pairs(struct net *n, const struct device *device)
{
	n->pairs = (unsigned)option_number("pairs", 1);
	if (n->pairs == 1)
		return;
	n->v.base = device->address;
	unsigned has = (uint16_t)virtio_config(&n->v, CONFIG_PAIRS, 4);
	if (n->pairs != NET_PAIRS || has != n->pairs)
		fail("option pairs: 1, or %u as the device has, which has %u", NET_PAIRS, has);
}

static void fill_queues(struct net *n)
{
	for (unsigned k = 0; k < n->pairs; k++) {
		struct net_pair *p = &n->pair[k];

		for (unsigned i = 0; i < n->v.queue[2 * k + TRANSMIT].slots; i++)
			p->free[p->free_count++] = i;
		for (unsigned i = 0; i < n->v.queue[2 * k + RECEIVE].slots; i++)
			offer(n, k, i);
	}
}

static struct virtio *net_start(const struct device *device, const struct vio_mode *mode)
{
	struct net *n = ram_alloc((sizeof(*n) + PAGE - 1) / PAGE, PAGE);
	uint32_t features = F_MAC | F_STATUS | F_CTRL_VQ | F_ANNOUNCE;

	(void)mode;
	option_ip("ip", n->ip, 2);
	option_ip("peer", n->peer, 1);
	n->send = (uint32_t)option_number("send", 0);
	n->buffer = (uint32_t)option_number("mrg", 0);
	if (n->send && (n->send < 4 || n->send > 1472))
		fail("option send: 4 to 1472 bytes");
	if (n->buffer && (n->buffer < NET_HDR || n->buffer > NET_BUFFER))
		fail("option mrg: 12 to 2048 bytes");
	if (n->buffer)
		features |= F_MRG_RXBUF;
	if (option_number("csum", 0))
		features |= F_CSUM | F_GUEST_CSUM;
	want_pairs(n, device);
	if (n->pairs > 1)
		features |= F_MQ;
	virtio_open(&n->v, device, features, control(n) + 1, VIRTIO_SLOTS);
	if (!(n->v.features & F_MRG_RXBUF))
		n->buffer = NET_BUFFER;
	for (unsigned i = 0; i < 6; i++)
		n->mac[i] = (uint8_t)(virtio_config(&n->v, CONFIG_MAC + (i & 4), 4) >> 8 * (i & 3));
	fill_queues(n);
	if (n->pairs > 1)
		command(n, CLASS_MQ, (uint8_t)n->pairs);
	print("vio net mac=%02x:%02x:%02x:%02x:%02x:%02x ip=%u.%u.%u.%u features=0x%lx\n",
	      n->mac[0], n->mac[1], n->mac[2], n->mac[3], n->mac[4], n->mac[5], n->ip[0], n->ip[1],
	      n->ip[2], n->ip[3], n->v.features);
	net_send_arp(n, n->ip);
	return &n->v;
}

/* 5.1.6.5.4: say where we are now, and that we have. */
static void look_for_announcement(struct net *n, uint64_t now)
{
	if (now - n->looked < LOOK_NS || n->acking)
		return;
	n->looked = now;
	if (n->send && !n->peer_known)
		net_send_arp(n, n->peer);
	if (!(n->v.features & F_ANNOUNCE) ||
	    !(virtio_config(&n->v, CONFIG_STATUS & ~3u, 4) >> 16 & STATUS_ANNOUNCE))
		return;
	net_send_arp(n, n->ip);
	command(n, CLASS_ANNOUNCE, 0);
}

static bool net_step(struct virtio *v, const struct vio_mode *mode)
{
	struct net *n = (struct net *)v;
	uint32_t size;
	int slot;

	for (unsigned k = 0; k < n->pairs; k++) {
		struct net_pair *p = &n->pair[k];

		while ((slot = virtio_done(v, 2 * k + TRANSMIT, &size)) >= 0) {
			v->busy--;
			p->free[p->free_count++] = (unsigned)slot;
		}
	}
	while ((slot = virtio_done(v, control(n), &size)) >= 0) {
		v->busy--;
		on_command(n);
	}
	/* What could not be answered waits. */
	for (unsigned k = 0; k < n->pairs; k++)
		while (n->pair[k].free_count &&
		       (slot = virtio_done(v, 2 * k + RECEIVE, &size)) >= 0)
			on_buffer(n, k, (unsigned)slot, size);
	n->out = 0;
	if (mode->stop || mode->once)
		return !v->busy;
	uint64_t now = clock_ns();
	look_for_announcement(n, now);
	net_tcp_step(n, now);
	while (n->send && n->peer_known && n->pair[0].free_count)
		net_send_udp(n);
	return false;
}

static void net_report(const struct virtio *v)
{
	const struct net *n = (const struct net *)v;

	print("vio net ns=%lu rx=%lu rx_bytes=%lu tx=%lu tx_bytes=%lu full=%lu arp=%lu icmp=%lu "
	      "echo=%lu again=%lu last=%u announced=%lu merged=%lu tcp=%lu resent=%lu\n",
	      clock_ns(), n->received, n->received_bytes, n->sent, n->sent_bytes, n->full, n->arp,
	      n->icmp, n->echo, n->again, n->number, n->announced, n->merged, n->tcp.echo,
	      n->tcp.resent);
	for (unsigned k = 0; n->pairs > 1 && k < n->pairs; k++)
		print("vio pair %u rx=%lu tx=%lu\n", k, n->pair[k].received, n->pair[k].sent);
}

const struct vio_test vio_net = { VIRTIO_NET, "net", net_start, net_step, net_report };
