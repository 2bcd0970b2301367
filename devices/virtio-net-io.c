/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames of the virtio network device (virtio 1.2, 5.1.6): straight between guest buffers and the
 * backend, one system call a frame, nothing copied.
 *
 * The header goes through as it is where the backend has one too: what offloads a guest asks for is
 * then checked by the host's kernel. A frame that is no frame is dropped; networks do that.
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "devices/virtio-net.h"

/* Frames that are handled before others on the loop have their turn. */
#define BURST 64
/* Frames that the guest is told of at a time: it works on those while others come or go. */
#define SHOWN 8
/* Frames within so long are in a row, ns; looks for more of it in vain before they are waited for,
 * and in all before others on the loop have their turn, which comes, too, when it was away for so
 * long. */
#define ROW_NS	   1000000
#define LOOKS	   12
#define TURNS	   64
#define AWAY_NS	   8000000
#define ROW_MAX_NS 20000000
/* Frames wait at most so long for a driver that gives back just a few buffers, ns. */
#define BUFFERS_NS 1000000

/* Longest frame without segmentation offload and MTU: 1500 bytes and a header with a VLAN tag. */
#define PLAIN_FRAME 1518U

static bool in_use(const struct virtio_net *net, unsigned int pair)
{
	return pair <= net->state.more_pairs && !net->gone && virtio_live(&net->vd);
}

/* Watch for what is waited for; what was there before is told of anew when that changes. Loop
 * thread. */
static void arm(struct virtio_net *net, unsigned int pair)
{
	struct net_pair *p = &net->pair[pair];
	uint32_t events = (in_use(net, pair) ? EPOLLIN : 0U) | (p->blocked ? EPOLLOUT : 0U);

	/* Edges: what is half there, or not wanted now, must not keep the loop busy. */
	if (p->watch)
		loop_fd_events(p->watch, events ? events | EPOLLET : 0);
}

static void lose_link(struct virtio_net *net)
{
	if (net->gone)
		return;
	net->gone = true;
	for (unsigned int i = 0; i < net->backend.pairs; i++)
		net->pair[i].readable = net->pair[i].blocked = false;
	fprintf(stderr, "ferry: %s: the network has gone away\n", net->vd.dev.name);
	virtio_config_changed(&net->vd);
}

/* Receiving */

static bool mergeable(const struct virtio_net *net)
{
	return virtio_has(&net->vd, VIRTIO_NET_F_MRG_RXBUF);
}

/* Bytes of buffers that the longest frame to be expected takes, header included. */
static size_t wanted(const struct virtio_net *net)
{
	uint64_t long_frames = 1U << VIRTIO_NET_F_GUEST_TSO4 | 1U << VIRTIO_NET_F_GUEST_TSO6 |
			       1U << VIRTIO_NET_F_GUEST_UFO;

	if (net->vd.state->features & long_frames)
		return NET_HDR + NET_MAX_FRAME;
	return NET_HDR + (net->mtu > 1500 ? net->mtu + 18U : PLAIN_FRAME);
}

/* Pop chains until a frame of @want bytes fits, or there are no more; returns the bytes there are,
 * *n_iov their pieces. Chains left over from the frame before come first. */
static size_t gather(struct virtio_net *net, unsigned int q, size_t want, unsigned int *n_iov)
{
	unsigned int i = net->rx_first, n = 0;
	size_t room = 0;

	while (room < want && (i == net->rx_first || mergeable(net))) {
		struct virtq_chain *chain = &net->rx[i % NET_RX_CHAINS];

		if (i == net->rx_first + NET_RX_CHAINS)
			break;
		if (i == net->rx_last) {
			if (!virtq_pop(&net->vd, q, chain))
				break;
			if (chain->n_out || chain->in_len < NET_HDR) {
				virtio_broken(&net->vd, "queue %u: receive buffer of %zu bytes", q,
					      chain->in_len);
				return 0;
			}
			net->rx_last++;
		}
		/* Room for the byte that shows that a frame was too long. */
		if (n + chain->n_in >= NET_RX_IOVS)
			break;
		memcpy(net->iov + n, chain->in, chain->n_in * sizeof(*chain->in));
		n += chain->n_in;
		room += chain->in_len;
		i++;
	}
	*n_iov = n;
	return room;
}

/* Drop the first @len bytes from @n pieces; returns how many pieces, from *@iov on, are left. */
static unsigned int skip(struct iovec **iov, unsigned int n, size_t len)
{
	while (n && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		n--;
	}
	if (n) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
	return n;
}

/* Copy out bytes [@offset, @offset + @len) of what has been received. */
static void peek(const struct virtio_net *net, size_t offset, uint8_t *to, size_t len)
{
	for (unsigned int i = net->rx_first; i != net->rx_last && len; i++) {
		const struct virtq_chain *chain = &net->rx[i % NET_RX_CHAINS];

		for (unsigned int k = 0; k < chain->n_in && len; k++) {
			size_t size = chain->in[k].iov_len, n;

			if (offset >= size) {
				offset -= size;
				continue;
			}
			n = size - offset < len ? size - offset : len;
			memcpy(to, (uint8_t *)chain->in[k].iov_base + offset, n);
			to += n;
			len -= n;
			offset = 0;
		}
	}
}

/* Whether the guest wants the frame that lies in its buffers (5.1.6.5.1). Groups it gets all. */
static bool for_guest(const struct virtio_net *net)
{
	uint8_t to[ETH_ALEN];

	if (!net->state.filter || net->state.more_unicast)
		return true;
	peek(net, NET_HDR, to, sizeof(to));
	return to[0] & 1 || memcmp(to, net->state.mac, sizeof(to)) == 0;
}

/* Hand over the chains that hold a frame, @len bytes with its header. */
static void push_frame(struct virtio_net *net, unsigned int q, size_t len)
{
	struct virtio_net_hdr_v1 hdr = { 0 };
	struct virtq_chain *first = &net->rx[net->rx_first % NET_RX_CHAINS];
	uint16_t n = 0;

	for (size_t room = 0; room < len; n++)
		room += net->rx[(net->rx_first + n) % NET_RX_CHAINS].in_len;
	/* 5.1.6.4.1: 1 without mergeable buffers. No backend writes it. */
	hdr.num_buffers = n;
	if (net->backend.vnet_hdr)
		virtq_write(&net->vd, first, offsetof(struct virtio_net_hdr_v1, num_buffers),
			    &hdr.num_buffers, sizeof(hdr.num_buffers));
	else
		virtq_write(&net->vd, first, 0, &hdr, sizeof(hdr));
	while (len) {
		struct virtq_chain *chain = &net->rx[net->rx_first++ % NET_RX_CHAINS];
		size_t part = len < chain->in_len ? len : chain->in_len;

		virtq_push(&net->vd, q, chain, (uint32_t)part);
		len -= part;
	}
}

/* A frame that is not handed over has been written all the same. */
static void dirty(struct virtio_net *net, size_t len)
{
	for (unsigned int i = net->rx_first; i != net->rx_last && len; i++) {
		struct virtq_chain *chain = &net->rx[i % NET_RX_CHAINS];
		size_t part = len < chain->in_len ? len : chain->in_len;

		virtq_dirty(&net->vd, chain, 0, part);
		len -= part;
	}
}

static bool may_receive(const struct virtio_net *net, unsigned int pair)
{
	return net->pair[pair].readable || (pair == 0 && net_has_backlog(net));
}

static ssize_t next_frame(struct virtio_net *net, unsigned int pair, const struct iovec *iov,
			  unsigned int n, size_t len)
{
	if (pair == 0 && net_has_backlog(net))
		return net_backlog_recv(net, iov, n, len);
	return net->backend.ops->recv(&net->backend, pair, iov, n, len);
}

/* Take one frame off the backend. False when there is none, or no buffer for it. */
static bool receive(struct virtio_net *net, unsigned int pair)
{
	size_t hdr = net->backend.vnet_hdr ? 0 : NET_HDR, room, min = NET_HDR + NET_MIN_FRAME;
	struct iovec *iov = net->iov;
	unsigned int n;
	uint8_t more;
	ssize_t len;

	room = gather(net, 2 * pair, wanted(net), &n);
	if (room == 0)
		return false;
	n = skip(&iov, n, hdr);
	iov[n] = (struct iovec){ &more, 1 };
	len = next_frame(net, pair, iov, n + 1, room - hdr + 1);
	if (len == 0)
		lose_link(net);
	if (len <= 0) {
		net->pair[pair].readable = false;
		return false;
	}
	len += (ssize_t)hdr;
	if ((size_t)len <= room && (size_t)len >= min && for_guest(net))
		push_frame(net, 2 * pair, (size_t)len);
	else
		dirty(net, (size_t)len < room ? (size_t)len : room);
	return true;
}

/* The driver may give back just a few, for which it does not kick. */
static void wait_for_buffers(struct net_pair *p)
{
	if (p->timed || p->net->vd.quiesced)
		return;
	loop_timer_set(p->timer, BUFFERS_NS);
	p->timed = true;
	p->received = false;
}

static void receive_all(struct virtio_net *net, unsigned int pair, bool patient)
{
	struct net_pair *p = &net->pair[pair];
	unsigned int q = 2 * pair, n = 0;

	virtq_lazy(&net->vd, q, patient);
	net->rx_first = net->rx_last = 0;
	while (in_use(net, pair) && may_receive(net, pair) && n < BURST && receive(net, pair))
		if (++n % SHOWN == 0)
			virtq_flush(&net->vd, q);
	while (net->rx_last != net->rx_first)
		virtq_unpop(&net->vd, q, &net->rx[--net->rx_last % NET_RX_CHAINS]);
	virtq_flush(&net->vd, q);
	p->received = p->received || n;
	if (n == BURST)
		virtq_kick(&net->vd, q);
	else if (may_receive(net, pair) && in_use(net, pair) && virtq_lazy(&net->vd, q, patient))
		wait_for_buffers(p);
	arm(net, pair);
}

void net_receive_kicked(struct virtio_net *net, unsigned int pair)
{
	/* Not counted by chains, of which the largest frame takes dozens, but by frames. */
	virtq_unlimited(&net->vd, 2 * pair);
	receive_all(net, pair, true);
}

void net_on_buffers(void *opaque)
{
	struct net_pair *p = opaque;
	struct virtio_net *net = p->net;

	pthread_mutex_lock(&net->vd.dev.lock);
	p->timed = false;
	receive_all(net, (unsigned int)(p - net->pair), p->received);
	pthread_mutex_unlock(&net->vd.dev.lock);
}

/* Transmitting */

/* False when the host takes no more now. */
static bool transmit(struct virtio_net *net, unsigned int pair, struct virtq_chain *chain)
{
	struct net_backend *nb = &net->backend;
	struct virtio_net_hdr_v1 hdr;
	int ret;

	if (chain->out_len < NET_HDR + NET_MIN_FRAME || chain->out_len > NET_HDR + NET_MAX_FRAME ||
	    net->gone)
		return true;
	/* Without a header there were no offloads to negotiate, so there is nothing in it. */
	if (!nb->vnet_hdr)
		virtq_pull(chain, &hdr, sizeof(hdr));
	ret = nb->ops->send(nb, pair, chain->out, chain->n_out, chain->out_len);
	if (ret == -EPIPE || ret == -ECONNRESET)
		lose_link(net);
	net->pair[pair].blocked = ret == -EAGAIN || ret == -EINPROGRESS;
	return ret != -EAGAIN;
}

void net_transmit(struct virtio_net *net, unsigned int pair)
{
	struct virtq_chain *chain = &net->chain;
	unsigned int q = 2 * pair + 1, n = 0;

	/* Frames for a queue that is not used go nowhere. */
	while (!net->pair[pair].blocked && virtq_pop(&net->vd, q, chain)) {
		if (pair <= net->state.more_pairs && !transmit(net, pair, chain)) {
			virtq_unpop(&net->vd, q, chain);
			break;
		}
		virtq_push(&net->vd, q, chain, 0);
		if (++n % SHOWN == 0)
			virtq_flush(&net->vd, q);
	}
	virtq_flush(&net->vd, q);
	arm(net, pair);
}

/* Receive what there is. False: nothing. */
static bool take(struct virtio_net *net, unsigned int pair)
{
	struct net_pair *p = &net->pair[pair];
	bool before = p->received, found;

	p->readable = true;
	p->received = false;
	receive_all(net, pair, true);
	found = p->received;
	p->received |= before;
	return found;
}

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/*
 * Where frames come in a row, whoever sends them may need this CPU for it, and a thread that sleeps
 * is woken for each frame and takes it away each time. So it stays awake, and leaves the CPU to
 * others, until no more come.
 */
static void look_for_more(struct virtio_net *net, unsigned int pair)
{
	struct net_pair *p = &net->pair[pair];
	uint64_t last = p->taken_ns, began = monotonic_ns(), vain = 0;

	p->taken_ns = began;
	if (p->taken_ns - last > ROW_NS)
		return;
	for (unsigned int i = 0; i < TURNS && vain < LOOKS && !p->readable; i++) {
		pthread_mutex_unlock(&net->vd.dev.lock);
		sched_yield();
		pthread_mutex_lock(&net->vd.dev.lock);
		vain = in_use(net, pair) && take(net, pair) ? 0 : vain + 1;
		/* What else waits here must not wait for long: not for others who keep this CPU
		 * busy, nor for a row without an end. */
		last = p->taken_ns;
		p->taken_ns = monotonic_ns();
		if (p->taken_ns - last > AWAY_NS || p->taken_ns - began > ROW_MAX_NS)
			break;
	}
}

void net_on_backend(void *opaque, uint32_t events)
{
	struct net_pair *p = opaque;
	struct virtio_net *net = p->net;
	unsigned int pair = (unsigned int)(p - net->pair);
	bool writable;

	pthread_mutex_lock(&net->vd.dev.lock);
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
		if (take(net, pair))
			look_for_more(net, pair);
	}
	writable = p->blocked && events & (EPOLLOUT | EPOLLERR | EPOLLHUP);
	if (writable)
		p->blocked = net->backend.ops->flush &&
			     net->backend.ops->flush(&net->backend, pair) == -EAGAIN;
	writable = writable && !p->blocked;
	arm(net, pair);
	pthread_mutex_unlock(&net->vd.dev.lock);
	if (writable)
		virtio_run_queue(&net->vd, 2 * pair + 1);
}
