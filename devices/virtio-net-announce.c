/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * After a move the network must learn where the guest is now. The guest is asked to say so (virtio
 * 1.2, 5.1.6.5.4), which also refreshes what its peers know; and whether it does or not, frames
 * with its address as sender go out here: RARP requests (RFC 903), which every bridge learns from
 * and no host answers. Some get lost while a link comes up, so there are several, further and
 * further apart.
 */
#include <arpa/inet.h>
#include <net/if_arp.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "devices/virtio-net.h"

#define ROUNDS	      5
#define MILLISECOND   1000000LL
#define FIRST_WAIT_MS 50
#define LONGER_MS     100

#define RARP_REQUEST 3
#define FRAME	     60 /* the shortest of Ethernet, padding included */

struct rarp {
	struct ethhdr eth;
	uint16_t hardware, protocol;
	uint8_t hardware_len, protocol_len;
	uint16_t operation;
	uint8_t sender[ETH_ALEN], sender_ip[4];
	uint8_t target[ETH_ALEN], target_ip[4];
	uint8_t padding[FRAME - 42];
} __attribute__((packed));
_Static_assert(sizeof(struct rarp) == FRAME, "no gaps");

static void send_rarp(struct virtio_net *net)
{
	struct rarp r = {
		.eth.h_proto = htons(ETH_P_RARP),
		.hardware = htons(ARPHRD_ETHER),
		.protocol = htons(ETH_P_IP),
		.hardware_len = ETH_ALEN,
		.protocol_len = 4,
		.operation = htons(RARP_REQUEST),
	};

	memset(r.eth.h_dest, 0xff, ETH_ALEN);
	memcpy(r.eth.h_source, net->state.mac, ETH_ALEN);
	memcpy(r.sender, net->state.mac, ETH_ALEN);
	memcpy(r.target, net->state.mac, ETH_ALEN);
	net_send_frame(&net->backend, &r, sizeof(r));
}

void net_on_timer(void *opaque)
{
	struct virtio_net *net = opaque;

	pthread_mutex_lock(&net->vd.dev.lock);
	if (net->rounds > 0 && !net->vd.quiesced) {
		int64_t wait = FIRST_WAIT_MS + (ROUNDS - (int64_t)net->rounds) * LONGER_MS;

		send_rarp(net);
		if (--net->rounds > 0)
			loop_timer_set(net->timer, wait * MILLISECOND);
	}
	pthread_mutex_unlock(&net->vd.dev.lock);
}

void net_announce(struct virtio_net *net)
{
	net->rounds = ROUNDS;
	if (virtio_has(&net->vd, VIRTIO_NET_F_GUEST_ANNOUNCE) && virtio_live(&net->vd)) {
		net->state.announce = true;
		virtio_config_changed(&net->vd);
	}
}

/*
 * Before the guest is here one frame is enough, for more follow when it runs. What bridges send
 * meanwhile waits in the queue of the host's interface, so that nothing is lost but what was on its
 * way when the guest was stopped: a connection would go silent for the 200 ms or more after which
 * TCP sends again.
 */
void net_announce_place(struct virtio_net *net)
{
	if (net->given)
		return; /* the place is the same, and its frames the other process's */
	if (net->vd.quiesced) {
		/* What came up to now the guest may have got where it was. */
		net_discard(&net->backend);
		net->expected = true;
		send_rarp(net);
		return;
	}
	net->rounds = ROUNDS;
	net_announce_resume(net);
}

void net_announce_resume(struct virtio_net *net)
{
	if (net->rounds > 0)
		loop_timer_set(net->timer, 0);
}

void net_announce_pause(struct virtio_net *net)
{
	loop_timer_set(net->timer, -1);
}
