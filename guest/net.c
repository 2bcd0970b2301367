/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The network part of vio (virtio 1.2, section 5.1): a host of one address that answers ARP, ICMP
 * echo and UDP echo (port 7), counts what comes, and says where it is when it was moved. With
 * send= it sends UDP to peer= as fast as it goes. UDP payloads to port 7 begin with a number, 4
 * bytes big-endian, that should only grow: what came before comes again is counted.
 */
#include "kernel/program.h"
#include "kernel/ram.h"
#include "vio.h"

enum {
	RECEIVE = 0, /* queues */
	TRANSMIT = 1,
	CONTROL = 2,
	CONFIG_MAC = 0,
	CONFIG_STATUS = 6,
	STATUS_ANNOUNCE = 2,
	HDR = 12, /* struct virtio_net_hdr_v1 */
	NEEDS_CSUM = 1,
	FRAME = 1514,
	BUFFER = 2048,
	CLASS_ANNOUNCE = 3,
	PORT_ECHO = 7,
	PORT_DISCARD = 9,
	PROTOCOL_ICMP = 1,
	PROTOCOL_UDP = 17,
};

#define F_CSUM	     (1u << 0)
#define F_GUEST_CSUM (1u << 1)
#define F_MAC	     (1u << 5)
#define F_MRG_RXBUF  (1u << 15)
#define F_STATUS     (1u << 16)
#define F_CTRL_VQ    (1u << 17)
#define F_ANNOUNCE   (1u << 21)
#define LOOK_NS	     (50 * 1000000ul) /* at the config space, which costs an exit */

/* Offsets in a frame: Ethernet 0, ARP (RFC 826) or IPv4 (RFC 791) 14, ICMP or UDP 34. */
enum {
	ETH_TO = 0,
	ETH_FROM = 6,
	ETH_TYPE = 12,
	ARP = 14,
	ARP_OP = 20,
	ARP_FROM = 22,
	ARP_FROM_IP = 28,
	ARP_TO = 32,
	ARP_TO_IP = 38,
	ARP_END = 42,
	IP = 14,
	IP_LENGTH = 16,
	IP_PROTOCOL = 23,
	IP_CSUM = 24,
	IP_FROM = 26,
	IP_TO = 30,
	ICMP = 34,
	UDP = 34,
	UDP_TO = 36,
	UDP_LENGTH = 38,
	UDP_CSUM = 40,
	UDP_DATA = 42,
};

struct net {
	struct virtio v;
	uint8_t mac[6], ip[4], peer_mac[6], peer[4];
	bool peer_known;
	uint32_t buffer; /* bytes of a receive buffer */
	uint32_t send;	 /* bytes of UDP payload to send, 0: only answer */
	uint32_t number; /* the last one of UDP echo */
	uint32_t parts;	 /* buffers of this frame still to come */
	uint32_t size;	 /* of what there is of it, header included */
	uint64_t looked; /* at the config space */
	bool acking;
	uint64_t received, received_bytes, sent, sent_bytes, full;
	uint64_t arp, icmp, echo, again, announced, merged;
	unsigned free[VIRTIO_SLOTS], free_count;
	uint8_t frame[HDR + FRAME + BUFFER];
	uint8_t ctrl[2], ack;
	uint8_t rx[VIRTIO_SLOTS][BUFFER], tx[VIRTIO_SLOTS][BUFFER];
};

static uint32_t get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) << 16 | get16(p + 2);
}

static void swap(uint8_t *a, uint8_t *b, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		uint8_t c = a[i];
		a[i] = b[i];
		b[i] = c;
	}
}

/* RFC 1071 */
static uint32_t checksum(const uint8_t *p, size_t size)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < size; i += 2)
		sum += get16(p + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

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

/* ---- sending ---- */

/* A frame to fill in, the header before it zero; NULL when all slots are in the device's hands. */
static uint8_t *tx_frame(struct net *n)
{
	if (!n->free_count) {
		n->full++;
		return NULL;
	}
	uint8_t *p = n->tx[n->free[n->free_count - 1]];
	memset(p, 0, HDR);
	return p + HDR;
}

/* Sends the frame that tx_frame gave last. */
static void tx_send(struct net *n, uint32_t size)
{
	unsigned slot = n->free[--n->free_count];
	struct virtio_buffer b = { n->tx[slot], HDR + size, false };

	n->sent++;
	n->sent_bytes += size;
	n->v.busy++;
	virtio_submit(&n->v, TRANSMIT, slot, &b, 1);
}

/* Asks who has @ip; of one's own address, that tells others where it is (RFC 5227). */
static void send_arp(struct net *n, const uint8_t *ip)
{
	static const uint8_t fixed[] = { 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1 };
	uint8_t *p = tx_frame(n);

	if (!p)
		return;
	memset(p, 0, 60);
	memset(p + ETH_TO, 0xff, 6);
	memcpy(p + ETH_FROM, n->mac, 6);
	memcpy(p + ETH_TYPE, fixed, sizeof(fixed));
	memcpy(p + ARP_FROM, n->mac, 6);
	memcpy(p + ARP_FROM_IP, n->ip, 4);
	memcpy(p + ARP_TO_IP, ip, 4);
	tx_send(n, 60);
}

static void send_udp(struct net *n)
{
	uint8_t *p = tx_frame(n);

	if (!p)
		return;
	memset(p, 0, UDP_DATA + 4);
	memcpy(p + ETH_TO, n->peer_mac, 6);
	memcpy(p + ETH_FROM, n->mac, 6);
	put16(p + ETH_TYPE, 0x0800);
	p[IP] = 0x45;
	put16(p + IP_LENGTH, 28 + n->send);
	p[IP_PROTOCOL - 1] = 64; /* time to live */
	p[IP_PROTOCOL] = PROTOCOL_UDP;
	memcpy(p + IP_FROM, n->ip, 4);
	memcpy(p + IP_TO, n->peer, 4);
	put16(p + IP_CSUM, checksum(p + IP, 20));
	put16(p + UDP, PORT_DISCARD);
	put16(p + UDP_TO, PORT_DISCARD);
	put16(p + UDP_LENGTH, 8 + n->send); /* without a checksum */
	put16(p + UDP_DATA, (uint32_t)(n->sent >> 16));
	put16(p + UDP_DATA + 2, (uint32_t)n->sent);
	tx_send(n, UDP_DATA + n->send);
}

/* ---- receiving ---- */

/*
 * Sends a frame back to where it came from. Sums that cover both addresses do not change by that;
 * one that the device was to finish (5.1.6.4.1) it finishes now, for the header goes back, too.
 */
static uint8_t *send_back(struct net *n, const uint8_t *hdr, const uint8_t *frame, uint32_t size)
{
	uint8_t *p = tx_frame(n);

	if (!p)
		return NULL;
	memcpy(p, frame, size);
	if (hdr[0] & NEEDS_CSUM)
		memcpy(p - HDR, hdr, 10);
	memcpy(p + ETH_TO, frame + ETH_FROM, 6);
	memcpy(p + ETH_FROM, n->mac, 6);
	return p;
}

static void on_arp(struct net *n, const uint8_t *hdr, const uint8_t *frame, uint32_t size)
{
	if (size < ARP_END)
		return;
	if (memcmp(frame + ARP_FROM_IP, n->peer, 4) == 0) {
		memcpy(n->peer_mac, frame + ARP_FROM, 6);
		n->peer_known = true;
	}
	if (get16(frame + ARP_OP) != 1 || memcmp(frame + ARP_TO_IP, n->ip, 4) != 0)
		return;
	uint8_t *p = send_back(n, hdr, frame, size);
	if (!p)
		return;
	n->arp++;
	put16(p + ARP_OP, 2);
	memcpy(p + ARP_TO, frame + ARP_FROM, 10);
	memcpy(p + ARP_FROM, n->mac, 6);
	memcpy(p + ARP_FROM_IP, n->ip, 4);
	tx_send(n, size);
}

static void on_icmp(struct net *n, const uint8_t *hdr, const uint8_t *frame, uint32_t size)
{
	uint8_t *p;

	if (size < ICMP + 8 || frame[ICMP] != 8 || !(p = send_back(n, hdr, frame, size)))
		return;
	n->icmp++;
	swap(p + IP_FROM, p + IP_TO, 4);
	p[ICMP] = 0;
	/* The type made the sum smaller by 0x800. */
	uint32_t sum = get16(p + ICMP + 2) + 0x0800;
	put16(p + ICMP + 2, (sum & 0xffff) + (sum >> 16));
	tx_send(n, size);
}

static void on_udp(struct net *n, const uint8_t *hdr, const uint8_t *frame, uint32_t size)
{
	uint8_t *p;

	if (size < UDP_DATA + 4 || get16(frame + UDP_TO) != PORT_ECHO)
		return;
	uint32_t number = get32(frame + UDP_DATA);
	if (n->echo && number <= n->number)
		n->again++;
	else
		n->number = number;
	n->echo++;
	p = send_back(n, hdr, frame, size);
	if (!p)
		return;
	swap(p + IP_FROM, p + IP_TO, 4);
	swap(p + UDP, p + UDP_TO, 2);
	tx_send(n, size);
}

static void on_frame(struct net *n, const uint8_t *hdr, uint32_t size)
{
	const uint8_t *frame = hdr + HDR;

	n->received++;
	n->received_bytes += size;
	if (size < 34 || size > FRAME)
		return;
	if (get16(frame + ETH_TYPE) == 0x0806)
		on_arp(n, hdr, frame, size);
	else if (get16(frame + ETH_TYPE) != 0x0800 || frame[IP] != 0x45 ||
		 memcmp(frame + IP_TO, n->ip, 4) != 0)
		return;
	else if (frame[IP_PROTOCOL] == PROTOCOL_ICMP)
		on_icmp(n, hdr, frame, size);
	else if (frame[IP_PROTOCOL] == PROTOCOL_UDP)
		on_udp(n, hdr, frame, size);
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
		n->parts = size < HDR ? 0 : (uint32_t)data[10] | (uint32_t)data[11] << 8;
		if (!n->parts || (n->parts > 1 && !(n->v.features & F_MRG_RXBUF)))
			fail("net: %u bytes received, num_buffers=%u", size, n->parts);
		n->merged += n->parts > 1;
		n->size = 0;
		if (n->parts == 1) {
			n->parts = 0;
			on_frame(n, data, size - HDR);
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
		on_frame(n, n->frame, n->size - HDR);
}

/* ---- the test ---- */

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
	if (n->buffer && (n->buffer < HDR || n->buffer > BUFFER))
		fail("option mrg: 12 to 2048 bytes");
	if (n->buffer)
		features |= F_MRG_RXBUF;
	if (option_number("csum", 0))
		features |= F_CSUM | F_GUEST_CSUM;
	virtio_open(&n->v, device, features, 3, VIRTIO_SLOTS);
	if (!(n->v.features & F_MRG_RXBUF))
		n->buffer = BUFFER;
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
	send_arp(n, n->ip);
	return &n->v;
}

/* 5.1.6.5.4: say where we are now, and that we have. */
static void look_for_announcement(struct net *n, uint64_t now)
{
	if (now - n->looked < LOOK_NS || n->acking)
		return;
	n->looked = now;
	if (n->send && !n->peer_known)
		send_arp(n, n->peer);
	if (!(n->v.features & F_ANNOUNCE) ||
	    !(virtio_config(&n->v, CONFIG_STATUS & ~3u, 4) >> 16 & STATUS_ANNOUNCE))
		return;
	struct virtio_buffer parts[] = { { n->ctrl, 2, false }, { &n->ack, 1, true } };
	send_arp(n, n->ip);
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
	look_for_announcement(n, clock_ns());
	while (n->send && n->peer_known && n->free_count)
		send_udp(n);
	return false;
}

static void net_report(const struct virtio *v)
{
	const struct net *n = (const struct net *)v;

	print("vio net ns=%lu rx=%lu rx_bytes=%lu tx=%lu tx_bytes=%lu full=%lu arp=%lu icmp=%lu "
	      "echo=%lu again=%lu last=%u announced=%lu merged=%lu\n",
	      clock_ns(), n->received, n->received_bytes, n->sent, n->sent_bytes, n->full, n->arp,
	      n->icmp, n->echo, n->again, n->number, n->announced, n->merged);
}

const struct vio_test vio_net = { VIRTIO_NET, "net", net_start, net_step, net_report };
