/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The network part of vio (virtio 1.2, section 5.1): a host that answers (net-host.c), counts what
 * comes, and says where it is when it was moved. With send= it sends UDP to peer= as fast as it
 * goes.
 */
#include "kernel/program.h"
#include "kernel/ram.h"
#include "net.h"

enum {
	RECEIVE = 0, /* queues */
	TRANSMIT = 1,
	CONTROL = 2,
	CONFIG_MAC = 0,
	CONFIG_STATUS = 6,
	STATUS_ANNOUNCE = 2,
	CLASS_ANNOUNCE = 3,
};

#define F_CSUM	     (1u << 0)
#define F_GUEST_CSUM (1u << 1)
#define F_MAC	     (1u << 5)
#define F_MRG_RXBUF  (1u << 15)
#define F_STATUS     (1u << 16)
#define F_CTRL_VQ    (1u << 17)
#define F_ANNOUNCE   (1u << 21)
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

uint8_t *net_frame(struct net *n)
{
	if (!n->free_count) {
		n->full++;
		return NULL;
	}
	uint8_t *p = n->tx[n->free[n->free_count - 1]];
	memset(p, 0, NET_HDR);
	return p + NET_HDR;
}

void net_send(struct net *n, uint32_t size)
{
	unsigned slot = n->free[--n->free_count];
	struct virtio_buffer b = { n->tx[slot], NET_HDR + size, false };

	n->sent++;
	n->sent_bytes += size;
	n->v.busy++;
	virtio_submit(&n->v, TRANSMIT, slot, &b, 1);
}

static void offer(struct net *n, unsigned slot)
{
	struct virtio_buffer b = { n->rx[slot], n->buffer, true };

	virtio_submit(&n->v, RECEIVE, slot, &b, 1);
}

/* A buffer has come back with @size bytes: a frame, or with mergeable buffers a part of one. */
static void on_buffer(struct net *n, unsigned slot, uint32_t size)
{
	const uint8_t *data = n->rx[slot];

	if (size > n->buffer)
		fail("net: %u bytes in a buffer of %u", size, n->buffer);
	if (!n->parts) {
		n->parts = size < NET_HDR ? 0 : (uint32_t)data[10] | (uint32_t)data[11] << 8;
		if (!n->parts || (n->parts > 1 && !(n->v.features & F_MRG_RXBUF)))
			fail("net: %u bytes received, num_buffers=%u", size, n->parts);
		n->merged += n->parts > 1;
		n->size = 0;
		if (n->parts == 1) {
			n->parts = 0;
			net_on_frame(n, data, size - NET_HDR);
			offer(n, slot);
			return;
		}
	}
	if (n->size + size <= sizeof(n->frame)) {
		memcpy(n->frame + n->size, data, size);
		n->size += size;
	}
	offer(n, slot);
	if (!--n->parts)
		net_on_frame(n, n->frame, n->size - NET_HDR);
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
	virtio_open(&n->v, device, features, 3, VIRTIO_SLOTS);
	if (!(n->v.features & F_MRG_RXBUF))
		n->buffer = NET_BUFFER;
	for (unsigned i = 0; i < 6; i++)
		n->mac[i] = (uint8_t)(virtio_config(&n->v, CONFIG_MAC + (i & 4), 4) >> 8 * (i & 3));
	while (n->free_count < n->v.queue[TRANSMIT].slots) {
		n->free[n->free_count] = n->free_count;
		n->free_count++;
	}
	for (unsigned i = 0; i < n->v.queue[RECEIVE].slots; i++)
		offer(n, i);
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
	struct virtio_buffer parts[] = { { n->ctrl, 2, false }, { &n->ack, 1, true } };
	net_send_arp(n, n->ip);
	n->ctrl[0] = CLASS_ANNOUNCE;
	n->ctrl[1] = 0;
	n->ack = 0xff;
	n->acking = true;
	n->v.busy++;
	virtio_submit(&n->v, CONTROL, 0, parts, 2);
}

static bool net_step(struct virtio *v, const struct vio_mode *mode)
{
	struct net *n = (struct net *)v;
	uint32_t size;
	int slot;

	while ((slot = virtio_done(v, TRANSMIT, &size)) >= 0) {
		v->busy--;
		n->free[n->free_count++] = (unsigned)slot;
	}
	while ((slot = virtio_done(v, CONTROL, &size)) >= 0) {
		v->busy--;
		if (*(volatile uint8_t *)&n->ack != 0)
			fail("net: the announcement was not accepted: %u", n->ack);
		n->acking = false;
		n->announced++;
	}
	while ((slot = virtio_done(v, RECEIVE, &size)) >= 0)
		on_buffer(n, (unsigned)slot, size);
	if (mode->stop || mode->once)
		return !v->busy;
	uint64_t now = clock_ns();
	look_for_announcement(n, now);
	net_tcp_step(n, now);
	while (n->send && n->peer_known && n->free_count)
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
}

const struct vio_test vio_net = { VIRTIO_NET, "net", net_start, net_step, net_report };
