/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host of one address that net.c shows to the network: it answers ARP, ICMP echo and UDP echo,
 * and TCP in net-tcp.c. UDP payloads to the echo port begin with a number, 4 bytes big-endian, that
 * should only grow: what comes again is counted.
 */
#include "kernel/program.h"
#include "net.h"

enum {
	NEEDS_CSUM = 1, /* a flag of the header */
	PORT_ECHO = 7,
	PORT_DISCARD = 9,
	PORT_OWN = 50009,
	PROTOCOL_ICMP = 1,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
};

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

static void swap(uint8_t *a, uint8_t *b, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		uint8_t c = a[i];
		a[i] = b[i];
		b[i] = c;
	}
}

uint32_t net_checksum(const uint8_t *p, size_t size)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < size; i += 2)
		sum += net_get16(p + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

void net_send_arp(struct net *n, const uint8_t *ip)
{
	static const uint8_t fixed[] = { 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1 };
	uint8_t *p = net_frame(n);

	if (!p)
		return;
	memset(p, 0, 60);
	memset(p + ETH_TO, 0xff, 6);
	memcpy(p + ETH_FROM, n->mac, 6);
	memcpy(p + ETH_TYPE, fixed, sizeof(fixed));
	memcpy(p + ARP_FROM, n->mac, 6);
	memcpy(p + ARP_FROM_IP, n->ip, 4);
	memcpy(p + ARP_TO_IP, ip, 4);
	net_send(n, 60);
}

void net_send_udp(struct net *n)
{
	uint8_t *p = net_frame(n);

	if (!p)
		return;
	memset(p, 0, UDP_DATA + 4);
	memcpy(p + ETH_TO, n->peer_mac, 6);
	memcpy(p + ETH_FROM, n->mac, 6);
	net_put16(p + ETH_TYPE, 0x0800);
	p[IP] = 0x45;
	net_put16(p + IP_LENGTH, 28 + n->send);
	p[IP_PROTOCOL - 1] = 64; /* time to live */
	p[IP_PROTOCOL] = PROTOCOL_UDP;
	memcpy(p + IP_FROM, n->ip, 4);
	memcpy(p + IP_TO, n->peer, 4);
	net_put16(p + IP_CSUM, net_checksum(p + IP, 20));
	net_put16(p + UDP, PORT_OWN);
	net_put16(p + UDP_TO, PORT_DISCARD);
	net_put16(p + UDP_LENGTH, 8 + n->send); /* without a checksum */
	net_put16(p + UDP_DATA, (uint32_t)(n->sent >> 16));
	net_put16(p + UDP_DATA + 2, (uint32_t)n->sent);
	net_send(n, UDP_DATA + n->send);
}

/*
 * Sends a frame back to where it came from. Sums that cover both addresses do not change by that;
 * one that the device was to finish (5.1.6.4.1) it finishes now, for the header goes back, too.
 */
static uint8_t *send_back(struct net *n, const uint8_t *hdr, const uint8_t *frame, uint32_t size)
{
	uint8_t *p = net_frame(n);

	if (!p)
		return NULL;
	memcpy(p, frame, size);
	if (hdr[0] & NEEDS_CSUM)
		memcpy(p - NET_HDR, hdr, 10);
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
	if (net_get16(frame + ARP_OP) != 1 || memcmp(frame + ARP_TO_IP, n->ip, 4) != 0)
		return;
	uint8_t *p = send_back(n, hdr, frame, size);
	if (!p)
		return;
	n->arp++;
	net_put16(p + ARP_OP, 2);
	memcpy(p + ARP_TO, frame + ARP_FROM, 10);
	memcpy(p + ARP_FROM, n->mac, 6);
	memcpy(p + ARP_FROM_IP, n->ip, 4);
	net_send(n, size);
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
	uint32_t sum = net_get16(p + ICMP + 2) + 0x0800;
	net_put16(p + ICMP + 2, (sum & 0xffff) + (sum >> 16));
	net_send(n, size);
}

static void on_udp(struct net *n, const uint8_t *hdr, const uint8_t *frame, uint32_t size)
{
	uint8_t *p;

	if (size < UDP_DATA + 4 || net_get16(frame + UDP_TO) != PORT_ECHO)
		return;
	uint32_t number = net_get32(frame + UDP_DATA);
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
	net_send(n, size);
}

void net_on_frame(struct net *n, const uint8_t *hdr, uint32_t size)
{
	const uint8_t *frame = hdr + NET_HDR;

	n->received++;
	n->received_bytes += size;
	n->out = 0;
	if (size < 34 || size > NET_FRAME)
		return;
	if (net_get16(frame + ETH_TYPE) == 0x0806)
		on_arp(n, hdr, frame, size);
	else if (net_get16(frame + ETH_TYPE) != 0x0800 || frame[IP] != 0x45 ||
		 memcmp(frame + IP_TO, n->ip, 4) != 0)
		return;
	else if (frame[IP_PROTOCOL] == PROTOCOL_ICMP)
		on_icmp(n, hdr, frame, size);
	else if (frame[IP_PROTOCOL] == PROTOCOL_UDP && size > UDP + 1) {
		/* The least bit of the sender's port chooses the queue, and so does the host then
		 * for what comes from there. */
		n->out = frame[UDP + 1] % n->pairs;
		on_udp(n, hdr, frame, size);
	} else if (frame[IP_PROTOCOL] == PROTOCOL_TCP)
		net_on_tcp(n, frame, size);
}
