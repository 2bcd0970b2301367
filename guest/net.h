/* SPDX-License-Identifier: BSD-2-Clause */
/* Between net.c, which drives the device, and net-host.c, which is the host that it makes. */
#ifndef GUEST_NET_H
#define GUEST_NET_H

#include "vio.h"

enum {
	NET_HDR = 12,	  /* struct virtio_net_hdr_v1 */
	NET_FRAME = 1514, /* the longest */
	NET_BUFFER = 2048,
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
	uint8_t frame[NET_HDR + NET_FRAME + NET_BUFFER];
	uint8_t ctrl[2], ack;
	uint8_t rx[VIRTIO_SLOTS][NET_BUFFER], tx[VIRTIO_SLOTS][NET_BUFFER];
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

/* net-host.c: a frame has come, @size bytes behind its header. */
void net_on_frame(struct net *n, const uint8_t *hdr, uint32_t size);

#endif
