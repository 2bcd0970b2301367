/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the virtio network device share (virtio 1.2, section 5.1). */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include <linux/if_ether.h>

#include "devices/net.h"
#include "devices/virtio.h"

/* Chains that one received frame may span with mergeable buffers: enough for 64 KiB in pieces of
 * 1526 bytes, the smallest that drivers use. */
#define NET_RX_CHAINS 64
#define NET_RX_IOVS   1023 /* IOV_MAX, less one for a length */

/* State that migrates. */
struct net_state {
	struct virtio_state virtio;
	uint8_t mac[ETH_ALEN]; /* the driver may change it */
	bool announce;	       /* the guest is asked to, and has not said that it did */
	bool filter;	       /* not promiscuous: frames for others need not come */
	bool more_unicast;     /* … but the driver has named more addresses than its own */
	uint32_t more_pairs;   /* of queues in use, beyond the first */
};

/* A receive and a transmit queue, and the place on the host that belongs to them. */
struct net_pair {
	struct virtio_net *net;
	struct loop_fd *watch;
	struct loop_timer *timer; /* looks for receive buffers when set, which is `timed` */
	bool timed, received;	  /* … since then */
	bool readable;		  /* there may be frames; false: wait for them */
	uint64_t taken_ns;	  /* when frames were looked for last */
	bool blocked;		  /* wait until the host takes frames again */
};

/* virtio-net-backlog.c: frames [at, len) of @data are the first that the guest gets; NULL: none. */
struct net_backlog {
	uint8_t *data;
	size_t len, at;
};

struct virtio_net {
	struct virtio_device vd;
	struct net_state state;
	struct virtio_ops ops; /* with the number of queues that this one has */
	struct net_backend backend;
	struct net_pair pair[NET_MAX_PAIRS];
	uint8_t mac[ETH_ALEN]; /* of the machine: after a reset */
	uint16_t mtu;	       /* 0: not said */
	bool gone;	       /* the other side of the backend has: the link is down */
	bool given;    /* the backend is in use by another process until the guest runs here */
	bool arrived;  /* state was loaded: to be made known when the guest runs */
	bool expected; /* frames that come are kept for the guest on its way here */
	struct loop_timer *timer;
	unsigned int rounds; /* of telling the network that are left */
	struct net_backlog backlog;

	/* Of the queue being worked on. */
	struct virtq_chain chain;	      /* transmit, control */
	struct virtq_chain rx[NET_RX_CHAINS]; /* popped, [rx_first, rx_last) not yet used */
	unsigned int rx_first, rx_last;
	struct iovec iov[NET_RX_IOVS];
};

static inline struct virtio_net *to_net(struct virtio_device *vd)
{
	return (struct virtio_net *)vd;
}

/* All: dev->lock held. */

/* virtio-net-io.c: kicks of queue @q, which is a pair's; frames come and go on the loop thread. */
void net_receive_kicked(struct virtio_net *net, unsigned int pair);
void net_transmit(struct virtio_net *net, unsigned int pair);
/* Called by the loop without the lock; @opaque is a struct net_pair. */
void net_on_backend(void *opaque, uint32_t events);
void net_on_buffers(void *opaque);

/* virtio-net-backlog.c: what device.h says of a backlog. */
const void *net_backlog(struct device *dev, size_t *len);
int net_take_backlog(struct device *dev, const void *data, size_t len, struct error *err);
/* Is there any? It is for the first pair, by net_backlog_recv instead of the backend's recv. */
bool net_has_backlog(const struct virtio_net *net);
ssize_t net_backlog_recv(struct virtio_net *net, const struct iovec *iov, unsigned int n,
			 size_t len);
void net_backlog_free(struct virtio_net *net);

/* virtio-net-ctrl.c: commands on the control queue @q. */
void net_control(struct virtio_net *net, unsigned int q);
/* Tell the backend what was negotiated and how many pairs are used. 0 or a negative errno. Any
 * thread. */
int net_tell_backend(struct virtio_net *net);

/* virtio-net-announce.c: the guest has arrived on this host (5.1.6.5.4). Loop thread. */
void net_announce(struct virtio_net *net);
/* Frames come here from now on, wherever they went: say so, and keep them if the guest is not here
 * yet. Loop thread. */
void net_announce_place(struct virtio_net *net);
/* Go on, or make a pause, with telling the network. Loop thread. */
void net_announce_resume(struct virtio_net *net);
void net_announce_pause(struct virtio_net *net);
/* Of the timer; without the lock. */
void net_on_timer(void *opaque);

#endif
