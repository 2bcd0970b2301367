/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames that come for a guest which has been stopped to the host that it leaves. Bridges send
 * there until they have learned where it went, and what they sent would be lost: a connection is
 * silent then until its peer's timer for sending again has run, which is 200 ms or more (RFC 6298).
 * So they go to the other host with the guest, and are what it gets there first.
 *
 * They are kept one after the other, each behind its length in 32 bits, and with a header whether
 * the backend has any or not. A guest that goes on here after all gets them here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "devices/virtio-net.h"

#define LENGTH	    sizeof(uint32_t)
#define BACKLOG_MAX (1U << 20) /* bytes: 8 ms at 1 Gbit/s, for which the guest stands still */
#define FRAME_MIN   (NET_HDR + NET_MIN_FRAME)
#define FRAME_MAX   (NET_HDR + NET_MAX_FRAME)

static uint32_t length_at(const uint8_t *data)
{
	uint32_t be;

	memcpy(&be, data, LENGTH);
	return ntohl(be);
}

bool net_has_backlog(const struct virtio_net *net)
{
	return net->backlog.data != NULL;
}

void net_backlog_free(struct virtio_net *net)
{
	free(net->backlog.data);
	net->backlog = (struct net_backlog){ 0 };
}

ssize_t net_backlog_recv(struct virtio_net *net, const struct iovec *iov, unsigned int n,
			 size_t len)
{
	struct net_backlog *b = &net->backlog;
	size_t skip = net->backend.vnet_hdr ? 0 : NET_HDR; /* as recv of the backend */
	size_t size = length_at(b->data + b->at) - skip, done = 0;
	const uint8_t *frame = b->data + b->at + LENGTH + skip;

	len = MIN(len, size);
	for (unsigned int i = 0; i < n && done < len; i++) {
		size_t part = MIN(iov[i].iov_len, len - done);

		memcpy(iov[i].iov_base, frame + done, part);
		done += part;
	}
	b->at += LENGTH + skip + size;
	if (b->at == b->len)
		net_backlog_free(net);
	return (ssize_t)done;
}

/* Put what waits at @pair behind what there is. A frame that no guest would get is left out. */
static void collect(struct virtio_net *net, unsigned int pair)
{
	struct net_backlog *b = &net->backlog;
	struct net_backend *nb = &net->backend;
	size_t hdr = nb->vnet_hdr ? 0 : NET_HDR;

	while (BACKLOG_MAX - b->len > LENGTH + FRAME_MAX) {
		uint8_t *at = b->data + b->len;
		struct iovec iov = { at + LENGTH + hdr, FRAME_MAX + 1 - hdr };
		ssize_t got = nb->ops->recv(nb, pair, &iov, 1, iov.iov_len);
		size_t len = (size_t)got + hdr;
		uint32_t be = htonl((uint32_t)len);

		if (got <= 0)
			break;
		if (len < FRAME_MIN || len > FRAME_MAX)
			continue;
		memset(at + LENGTH, 0, hdr);
		memcpy(at, &be, LENGTH);
		b->len += LENGTH + len;
	}
}

static void collect_all(struct virtio_net *net)
{
	struct net_backlog *b = &net->backlog, old = *b;

	b->data = malloc(BACKLOG_MAX);
	if (!b->data) {
		b->data = old.data;
		return;
	}
	b->at = 0;
	b->len = old.len - old.at;
	if (b->len)
		memcpy(b->data, old.data + old.at, b->len);
	free(old.data);
	for (unsigned int i = 0; i <= net->state.more_pairs; i++) {
		collect(net, i);
		net->pair[i].readable = true; /* there may be more than there was room for */
	}
	if (!b->len)
		net_backlog_free(net);
}

const void *net_backlog(struct device *dev, size_t *len)
{
	struct virtio_net *net = (struct virtio_net *)dev;
	const void *data = NULL;

	pthread_mutex_lock(&dev->lock);
	/* What passt has is for connections that do not move; an heir goes on with the same tap. */
	if ((net->backend.ops == &net_tap || net->backend.ops == &net_socket) &&
	    virtio_live(&net->vd) && !net->gone && !device_is_handing_on(dev)) {
		collect_all(net);
		data = net->backlog.data ? net->backlog.data + net->backlog.at : NULL;
		*len = net->backlog.len - net->backlog.at;
	}
	pthread_mutex_unlock(&dev->lock);
	return data;
}

/* Frames and nothing else, up to the last byte. */
static bool are_frames(const uint8_t *data, size_t len)
{
	size_t at = 0, size;

	for (; len - at >= LENGTH; at += LENGTH + size) {
		size = length_at(data + at);
		if (size < FRAME_MIN || size > FRAME_MAX || size > len - at - LENGTH)
			return false;
	}
	return at == len;
}

int net_take_backlog(struct device *dev, const void *data, size_t len, struct error *err)
{
	struct virtio_net *net = (struct virtio_net *)dev;
	int ret = 0;

	pthread_mutex_lock(&dev->lock);
	if (net_has_backlog(net) || len < LENGTH || len > BACKLOG_MAX || !are_frames(data, len)) {
		ret = error_set(err, -EINVAL, "load", dev->name, "backlog", "frames, once",
				"%zu bytes", len);
	} else if ((net->backlog.data = malloc(len))) {
		/* Without memory they are lost, as in a network. */
		memcpy(net->backlog.data, data, len);
		net->backlog.len = len;
	}
	pthread_mutex_unlock(&dev->lock);
	return ret;
}
