/* SPDX-License-Identifier: BSD-2-Clause */
/* Between net.c, which drives the device, and net-host.c and net-tcp.c, the host that it makes. */
#ifndef GUEST_NET_H
#define GUEST_NET_H

#include "vio.h"

enum {
	NET_HDR = 12,	  /* struct virtio_net_hdr_v1 */
	NET_FRAME = 1514, /* the longest */
	NET_BUFFER = 2048,
	NET_PAIRS = 2,	      /* of queues, at most */
	NET_TCP_BYTES = 8192, /* that wait to be confirmed; a power of two */
};

static inline uint32_t net_get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static inline uint32_t net_get32(const uint8_t *p)
{
	return net_get16(p) << 16 | net_get16(p + 2);
}

static inline void net_put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline void net_put32(uint8_t *p, uint32_t value)
{
	net_put16(p, value >> 16);
	net_put16(p + 2, value);
}

/* The connection of net-tcp.c: bytes are echoed under the numbers that they came with. */
struct net_tcp {
	bool open, opening; /* there is a client; it has not confirmed our SYN yet */
	bool closing;	    /* the last number before next is its FIN, and ours */
	bool owed;	    /* an acknowledgement */
	uint8_t head[34];   /* Ethernet and IP header of what goes to it */
	uint32_t port, window, una, sent, next, duplicates;
	uint64_t due; /* the time to send again what is not confirmed by then */
	uint64_t echo, resent;
	uint8_t data[NET_TCP_BYTES];
};

/* A receive and a transmit queue, and their buffers. */
struct net_pair {
	uint32_t parts; /* buffers of this frame still to come */
	uint32_t size;	/* of what there is of it, header included */
	uint64_t received, sent;
	unsigned free[VIRTIO_SLOTS], free_count;
	uint8_t frame[NET_HDR + NET_FRAME + NET_BUFFER];
	uint8_t rx[VIRTIO_SLOTS][NET_BUFFER], tx[VIRTIO_SLOTS][NET_BUFFER];
};

struct net {
	struct virtio v;
	uint8_t mac[6], ip[4], peer_mac[6], peer[4];
	bool peer_known;
	uint32_t buffer; /* bytes of a receive buffer */
	uint32_t send;	 /* bytes of UDP payload to send, 0: only answer */
	uint32_t number; /* the last one of UDP echo */
	unsigned pairs;	 /* of queues */
	unsigned out;	 /* which of them frames are sent by */
	uint64_t looked; /* at the config space */
	bool acking;
	uint64_t received, received_bytes, sent, sent_bytes, full;
	uint64_t arp, icmp, echo, again, announced, merged;
	struct net_tcp tcp;
	uint8_t ctrl[4], ack;
	struct net_pair pair[NET_PAIRS];
};

/* net.c: a frame to fill in, the header before it zero; NULL when all slots are in the device's
 * hands. */
uint8_t *net_frame(struct net *n);

/* net.c: sends the frame that net_frame gave last. */
void net_send(struct net *n, uint32_t size);

/* net-host.c: asks who has @ip; of one's own address, that tells others where it is (RFC 5227). */
void net_send_arp(struct net *n, const uint8_t *ip);

/* net-host.c: a datagram for the peer. */
void net_send_udp(struct net *n);

/* net-host.c: the checksum of RFC 1071; an odd last byte is left out. */
uint32_t net_checksum(const uint8_t *p, size_t size);

/* net-tcp.c: an IPv4 packet without options for us, @size bytes with the Ethernet header, carries
 * TCP. */
void net_on_tcp(struct net *n, const uint8_t *frame, uint32_t size);

/* net-tcp.c: sends what has become due. */
void net_tcp_step(struct net *n, uint64_t now);

/* net-host.c: a frame has come, @size bytes behind its header. */
void net_on_frame(struct net *n, const uint8_t *hdr, uint32_t size);

#endif
