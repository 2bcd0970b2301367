/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The sending half of a stream queues iovecs into its batch buffer and into the caller's memory;
 * the receiving half reads into the caller's. Neither knows what kind of channel moves them.
 */
#include "migration/stream.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/param.h>

#include "migration/channel.h"

#define SKIP_PIECE 16384

/* One thread writes a counter and others read it, so no atomic read-modify-write is needed. */
static void count(_Atomic uint64_t *counter, uint64_t n)
{
	uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

static uint64_t counted(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* An iovec is not const because readv writes to it; what is sent is not written to. */
static void *unconst(const void *p)
{
	return (void *)(uintptr_t)p;
}

void stream_init(struct stream *s, struct channel *channel)
{
	memset(s, 0, sizeof(*s));
	s->channel = channel;
	s->iov_max = IOV_MAX;
	s->tx.pages = IOV_MAX;
}

int stream_set_iov_max(struct stream *s, int n)
{
	if (n < 1 || n > IOV_MAX)
		return -EINVAL;
	s->iov_max = n;
	return 0;
}

void stream_set_copy_all(struct stream *s, bool on)
{
	s->copy_all = on;
}

/* ---- Sending ---- */

/* A channel without writev_buffer gets the pieces one by one. */
static ssize_t put_each(struct stream *s)
{
	const struct channel_ops *ops = s->channel->ops;
	ssize_t ret = 0;

	for (uint32_t i = 0; i < s->tx.iovcnt && ret >= 0; i++) {
		ret = ops->put_buffer(s->channel, s->tx.iov[i].iov_base, s->tx.iov[i].iov_len);
		count(&s->tx.count.flushes, 1);
	}
	return ret;
}

int stream_flush(struct stream *s)
{
	const struct channel_ops *ops = s->channel->ops;
	ssize_t ret;

	if (s->tx.error || !s->tx.iovcnt)
		return s->tx.error;
	count(&s->tx.count.iovecs_sent, s->tx.iovcnt);
	if (ops->writev_pages && s->tx.pages < s->tx.iovcnt) {
		count(&s->tx.count.flushes, 1);
		ret = ops->writev_pages(s->channel, s->tx.iov, (int)s->tx.iovcnt, (int)s->tx.pages);
	} else if (ops->writev_buffer) {
		count(&s->tx.count.flushes, 1);
		ret = ops->writev_buffer(s->channel, s->tx.iov, (int)s->tx.iovcnt);
	} else {
		ret = put_each(s);
	}
	s->tx.iovcnt = 0;
	s->tx.pages = IOV_MAX;
	s->tx.batch_used = 0;
	if (ret < 0)
		s->tx.error = (int)ret;
	return s->tx.error;
}

/* May one more piece be queued at @base without a flush? */
static bool has_room(const struct stream *s, const void *base)
{
	const struct iovec *last = &s->tx.iov[s->tx.iovcnt - 1];

	return s->tx.iovcnt < (uint32_t)s->iov_max ||
	       (const uint8_t *)last->iov_base + last->iov_len == base;
}

/* Queue a piece of memory; has_room has said yes. A neighbour of the last piece only extends it. */
static void queue(struct stream *s, const void *base, size_t len)
{
	struct iovec *last = s->tx.iovcnt ? &s->tx.iov[s->tx.iovcnt - 1] : NULL;

	count(&s->tx.count.iovecs_queued, 1);
	if (last && (uint8_t *)last->iov_base + last->iov_len == base)
		last->iov_len += len;
	else
		s->tx.iov[s->tx.iovcnt++] = (struct iovec){ unconst(base), len };
}

void stream_put_buffer(struct stream *s, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	while (len && !s->tx.error) {
		uint8_t *to = s->tx.batch + s->tx.batch_used;
		size_t n = MIN(len, STREAM_BATCH - s->tx.batch_used);

		if (!n || (s->tx.iovcnt && !has_room(s, to))) {
			stream_flush(s);
			continue;
		}
		memcpy(to, from, n);
		queue(s, to, n);
		s->tx.batch_used += n;
		count(&s->tx.count.bytes_copied, n);
		from += n;
		len -= n;
	}
}

void stream_put_buffer_async(struct stream *s, const void *buf, size_t len)
{
	if (s->copy_all) {
		stream_put_buffer(s, buf, len);
		return;
	}
	if (!len || s->tx.error)
		return;
	if (s->tx.iovcnt && !has_room(s, buf) && stream_flush(s))
		return;
	queue(s, buf, len);
	count(&s->tx.count.bytes_referenced, len);
}

void stream_put_pages(struct stream *s, const void *buf, size_t len)
{
	uint32_t before = s->tx.iovcnt;

	stream_put_buffer_async(s, buf, len);
	/* After a flush on the way all that is queued is this. */
	if (s->tx.pages == IOV_MAX && !s->copy_all && s->tx.iovcnt)
		s->tx.pages = s->tx.iovcnt <= before ? s->tx.iovcnt - 1 : before;
}

void stream_put_byte(struct stream *s, uint8_t v)
{
	stream_put_buffer(s, &v, sizeof(v));
}

void stream_put_be16(struct stream *s, uint16_t v)
{
	v = htobe16(v);
	stream_put_buffer(s, &v, sizeof(v));
}

void stream_put_be32(struct stream *s, uint32_t v)
{
	v = htobe32(v);
	stream_put_buffer(s, &v, sizeof(v));
}

void stream_put_be64(struct stream *s, uint64_t v)
{
	v = htobe64(v);
	stream_put_buffer(s, &v, sizeof(v));
}

int stream_error(const struct stream *s)
{
	return s->tx.error;
}

int stream_check(const struct stream *s, struct error *err)
{
	switch (s->tx.error) {
	case 0:
		return 0;
	case -ETIMEDOUT:
		return error_set(err, -ETIMEDOUT, "stream", s->channel->name, "sending",
				 "the other side to take bytes", "none within the time limit");
	case -ECANCELED:
		return error_set(err, -ECANCELED, "stream", s->channel->name, "sending", "",
				 "cancelled");
	case -EPIPE:
	case -ECONNRESET:
		return error_set(err, s->tx.error, "stream", s->channel->name, "sending",
				 "the other side to stay", "it closed the connection");
	default:
		return error_set(err, s->tx.error, "stream", s->channel->name, "sending", "", "%s",
				 strerror(-s->tx.error));
	}
}

uint64_t stream_put_position(const struct stream *s)
{
	return counted(&s->tx.count.bytes_referenced) + counted(&s->tx.count.bytes_copied);
}

/* ---- Receiving ---- */

static int get_failed(struct stream *s, ssize_t ret)
{
	s->rx.error = ret ? (int)ret : -ENODATA;
	return s->rx.error;
}

/* Move up to @len bytes of what was read ahead to @to; returns how many. */
static size_t drain(struct stream *s, void *to, size_t len)
{
	size_t n = MIN(len, s->rx.len - s->rx.pos);

	if (n) {
		memcpy(to, s->rx.ahead + s->rx.pos, n);
		s->rx.pos += n;
		count(&s->rx.count.bytes_copied, n);
	}
	return n;
}

int stream_get_buffer(struct stream *s, void *buf, size_t len)
{
	uint8_t *to = buf;
	size_t n;
	ssize_t ret;

	while (len) {
		n = drain(s, to, len);
		to += n;
		len -= n;
		if (!len)
			break;
		if (s->rx.error)
			return s->rx.error;
		/* What is no header but long goes to its place directly. */
		if (len >= STREAM_READ_AHEAD)
			return stream_readv(s, &(struct iovec){ to, len }, 1);
		s->rx.pos = s->rx.len = 0;
		count(&s->rx.count.flushes, 1);
		count(&s->rx.count.iovecs_sent, 1);
		ret = s->channel->ops->get_buffer(s->channel, s->rx.ahead, STREAM_READ_AHEAD);
		if (ret <= 0)
			return get_failed(s, ret);
		s->rx.len = (size_t)ret;
	}
	count(&s->rx.count.iovecs_queued, 1);
	return 0;
}

int stream_get_byte(struct stream *s, uint8_t *v)
{
	return stream_get_buffer(s, v, sizeof(*v));
}

int stream_get_be16(struct stream *s, uint16_t *v)
{
	int ret = stream_get_buffer(s, v, sizeof(*v));

	*v = ret ? 0 : be16toh(*v);
	return ret;
}

int stream_get_be32(struct stream *s, uint32_t *v)
{
	int ret = stream_get_buffer(s, v, sizeof(*v));

	*v = ret ? 0 : be32toh(*v);
	return ret;
}

int stream_get_be64(struct stream *s, uint64_t *v)
{
	int ret = stream_get_buffer(s, v, sizeof(*v));

	*v = ret ? 0 : be64toh(*v);
	return ret;
}

int stream_wait(struct stream *s, int wake_fd, int ms)
{
	if (s->rx.pos < s->rx.len || s->rx.error || !s->channel->ops->wait)
		return 0;
	return s->channel->ops->wait(s->channel, wake_fd, ms);
}

/* Drop @n transferred bytes from the front of @iov[*first .. cnt). */
static void advance(struct iovec *iov, uint32_t *first, size_t n)
{
	while (n && n >= iov[*first].iov_len)
		n -= iov[(*first)++].iov_len;
	if (n) {
		iov[*first].iov_base = (uint8_t *)iov[*first].iov_base + n;
		iov[*first].iov_len -= n;
	}
}

/* Fill the first @cnt of rx.iov, however many calls it takes. */
static int fill(struct stream *s, uint32_t cnt)
{
	const struct channel_ops *ops = s->channel->ops;
	struct iovec *iov = s->rx.iov;
	ssize_t ret;

	count(&s->rx.count.iovecs_sent, cnt);
	for (uint32_t i = 0; i < cnt;) {
		if (s->rx.error)
			return s->rx.error;
		count(&s->rx.count.flushes, 1);
		if (ops->readv_buffer)
			ret = ops->readv_buffer(s->channel, &iov[i], (int)(cnt - i));
		else
			ret = ops->get_buffer(s->channel, iov[i].iov_base, iov[i].iov_len);
		if (ret <= 0)
			return get_failed(s, ret);
		count(&s->rx.count.bytes_referenced, (uint64_t)ret);
		advance(iov, &i, (size_t)ret);
	}
	return 0;
}

int stream_readv(struct stream *s, const struct iovec *iov, size_t n)
{
	uint32_t cnt = 0;
	int ret;

	for (size_t i = 0; i < n; i++) {
		uint8_t *base = iov[i].iov_base;
		size_t len = iov[i].iov_len, had;
		struct iovec *last = cnt ? &s->rx.iov[cnt - 1] : NULL;

		if (!len)
			continue;
		count(&s->rx.count.iovecs_queued, 1);
		had = drain(s, base, len);
		if (had == len)
			continue;
		base += had;
		len -= had;
		if (last && (uint8_t *)last->iov_base + last->iov_len == base) {
			last->iov_len += len;
			continue;
		}
		if (cnt == (uint32_t)s->iov_max) {
			ret = fill(s, cnt);
			if (ret)
				return ret;
			cnt = 0;
		}
		s->rx.iov[cnt++] = (struct iovec){ base, len };
	}
	return fill(s, cnt);
}

int stream_skip(struct stream *s, uint64_t len)
{
	uint8_t waste[SKIP_PIECE];
	int ret = 0;

	while (len && !ret) {
		size_t n = (size_t)MIN(len, sizeof(waste));

		ret = stream_readv(s, &(struct iovec){ waste, n }, 1);
		len -= n;
	}
	return ret;
}

uint64_t stream_get_position(const struct stream *s)
{
	return counted(&s->rx.count.bytes_referenced) + counted(&s->rx.count.bytes_copied);
}
