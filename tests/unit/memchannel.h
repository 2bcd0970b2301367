/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A channel that keeps what is sent in memory and hands it out again, for tests. It lives where the
 * test puts it and owns only its data.
 */
#ifndef TESTS_UNIT_MEMCHANNEL_H
#define TESTS_UNIT_MEMCHANNEL_H

#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "migration/channel.h"

struct mem_channel {
	struct channel base;
	uint8_t *data;
	size_t len, pos;
	size_t step;	   /* bytes one receive gives at most, 0 for all */
	int fail;	   /* negative errno that every call returns, 0 for none */
	int end;	   /* negative errno in place of the end of the data */
	int put_calls;	   /* of put_buffer */
	int vector_calls;  /* of writev_buffer */
	int last_n;	   /* iovecs of the last writev_buffer */
	const void *first; /* base of its first one */
	size_t longest;	   /* most bytes asked for by one get_buffer */
};

static inline ssize_t mem_put(struct channel *ch, const void *buf, size_t len)
{
	struct mem_channel *m = (struct mem_channel *)ch;

	m->put_calls++;
	channel_count(&ch->writes);
	if (m->fail)
		return m->fail;
	m->data = realloc(m->data, m->len + len);
	memcpy(m->data + m->len, buf, len);
	m->len += len;
	return (ssize_t)len;
}

static inline ssize_t mem_writev(struct channel *ch, struct iovec *iov, int n)
{
	struct mem_channel *m = (struct mem_channel *)ch;
	ssize_t total = 0, ret;

	m->vector_calls++;
	m->last_n = n;
	m->first = iov[0].iov_base;
	for (int i = 0; i < n; i++, m->put_calls--) {
		ret = mem_put(ch, iov[i].iov_base, iov[i].iov_len);
		if (ret < 0)
			return ret;
		total += ret;
	}
	return total;
}

static inline ssize_t mem_readv(struct channel *ch, const struct iovec *iov, int n)
{
	struct mem_channel *m = (struct mem_channel *)ch;
	size_t left = m->step ? MIN(m->step, m->len - m->pos) : m->len - m->pos, total = 0;

	channel_count(&ch->reads);
	if (m->fail)
		return m->fail;
	if (!left)
		return m->end;
	for (int i = 0; i < n && left; i++) {
		size_t part = MIN(left, iov[i].iov_len);

		memcpy(iov[i].iov_base, m->data + m->pos, part);
		m->pos += part;
		left -= part;
		total += part;
	}
	return (ssize_t)total;
}

static inline ssize_t mem_get(struct channel *ch, void *buf, size_t len)
{
	struct mem_channel *m = (struct mem_channel *)ch;

	m->longest = MAX(m->longest, len);
	return mem_readv(ch, &(struct iovec){ buf, len }, 1);
}

static inline int mem_close(struct channel *ch)
{
	struct mem_channel *m = (struct mem_channel *)ch;

	free(m->data);
	m->data = NULL;
	m->len = m->pos = 0;
	return 0;
}

static const struct channel_ops mem_vector_ops = {
	.put_buffer = mem_put,
	.get_buffer = mem_get,
	.close = mem_close,
	.writev_buffer = mem_writev,
	.readv_buffer = mem_readv,
};

static const struct channel_ops mem_plain_ops = {
	.put_buffer = mem_put,
	.get_buffer = mem_get,
	.close = mem_close,
};

/* @vector: with the optional vector operations. */
static inline void mem_init(struct mem_channel *m, bool vector)
{
	memset(m, 0, sizeof(*m));
	m->base.ops = vector ? &mem_vector_ops : &mem_plain_ops;
	strcpy(m->base.name, "mem:");
}

#endif
