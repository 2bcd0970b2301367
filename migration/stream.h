/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A stream batches what is sent over a channel, after the 2013 series "Migration: Remove copying of
 * guest ram pages". Small things are copied into one static buffer; guest memory is only referred
 * to. Both are queued as iovecs, neighbours in memory become one, and a single writev_buffer sends
 * the lot. Receiving mirrors it: small things come through a small read-ahead buffer, guest memory
 * is read straight to where it belongs.
 *
 * Threads: one thread may send while another receives, the two halves share nothing but the
 * channel. stream_stats may be called from any thread.
 */
#ifndef MIGRATION_STREAM_H
#define MIGRATION_STREAM_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/error.h"

struct channel;

#define STREAM_BATCH 32768 /* bytes of headers and device state queued before a flush */

/*
 * Bytes one read for a header may take at most. What it takes beyond the header is copied once, so
 * this bounds copying: below 0.1 % as soon as records carry half a MiB each.
 */
#define STREAM_READ_AHEAD 512

/* What one direction of a stream has cost so far. */
struct stream_stats {
	uint64_t bytes_xfer;	   /* bytes put, or got; every single one */
	uint64_t bytes_referenced; /* … of them never copied in user space */
	uint64_t bytes_copied;	   /* … of them copied through the stream's own buffer */
	uint64_t iovecs_queued;	   /* pieces asked for, before coalescing */
	uint64_t iovecs_sent;	   /* iovecs handed to the channel, after coalescing */
	uint64_t flushes;	   /* calls of the channel's vector or buffer operations */
	uint64_t syscalls;	   /* system calls the channel made for them */
	uint64_t zerocopy_bytes, zerocopy_copied, zerocopy_fallbacks; /* channel.h */
};

/* The same, written by one thread and read by any. */
struct stream_counters {
	_Atomic uint64_t bytes_referenced, bytes_copied, iovecs_queued, iovecs_sent, flushes;
};

struct stream {
	struct channel *channel; /* not owned */
	int iov_max;		 /* iovecs a flush may have, 1 to IOV_MAX */
	bool copy_all;		 /* stream_set_copy_all */

	struct {
		int error; /* sticky: the first negative errno */
		uint32_t iovcnt;
		uint32_t pages; /* iov[pages..iovcnt) are guest RAM, if any are */
		size_t batch_used;
		struct stream_counters count;
		struct iovec iov[IOV_MAX];
		uint8_t batch[STREAM_BATCH];
	} tx;

	struct {
		int error;
		size_t pos, len; /* ahead[pos..len) is received and not yet asked for */
		struct stream_counters count;
		struct iovec iov[IOV_MAX];
		uint8_t ahead[STREAM_READ_AHEAD];
	} rx;
};

/* Start a stream on @channel, which must outlive it. About 70 KiB: do not put it on a stack. */
void stream_init(struct stream *s, struct channel *channel);

/* Set how many iovecs one flush may have, 1 to IOV_MAX (the default), else -EINVAL. */
int stream_set_iov_max(struct stream *s, int n);

/* For measuring only: let stream_put_buffer_async copy instead of refer, as before the series. */
void stream_set_copy_all(struct stream *s, bool on);

/*
 * Sending. Nothing is sent before the batch buffer or the iovec array is full or stream_flush is
 * called. After a failure all of these do nothing, and stream_error and stream_flush return it.
 */
void stream_put_byte(struct stream *s, uint8_t v);
void stream_put_be16(struct stream *s, uint16_t v);
void stream_put_be32(struct stream *s, uint32_t v);
void stream_put_be64(struct stream *s, uint64_t v);

/* Copy @buf into the batch; it may be changed or freed at once. Any length. */
void stream_put_buffer(struct stream *s, const void *buf, size_t len);

/*
 * Refer to @buf, copying nothing. The memory must stay valid until stream_flush returns; what it
 * holds at that moment is what is sent. Any length.
 */
void stream_put_buffer_async(struct stream *s, const void *buf, size_t len);

/*
 * The same for guest RAM, which the channel may read until long after the flush (MSG_ZEROCOPY): it
 * stays mapped, and whoever writes to it has it sent again. Nothing else may follow in the same
 * flush.
 */
void stream_put_pages(struct stream *s, const void *buf, size_t len);

/* Send everything queued by one writev_buffer. Returns 0 or the stream's error. */
int stream_flush(struct stream *s);

/* The first error of the sending half, 0 for none. */
int stream_error(const struct stream *s);

/* The same as a sentence {"stream", channel, "sending", …}; returns the code. */
int stream_check(const struct stream *s, struct error *err);

/* Bytes put so far. The sending thread. */
uint64_t stream_put_position(const struct stream *s);

/*
 * Receiving. Each returns 0 when all that was asked for is there, -ENODATA when the stream ended
 * before that, or the channel's negative errno; then the half is broken and stays so. These read
 * ahead by at most STREAM_READ_AHEAD.
 */
int stream_get_byte(struct stream *s, uint8_t *v);
int stream_get_be16(struct stream *s, uint16_t *v);
int stream_get_be32(struct stream *s, uint32_t *v);
int stream_get_be64(struct stream *s, uint64_t *v);
int stream_get_buffer(struct stream *s, void *buf, size_t len);

/*
 * Fill all of @iov (any @n, empty entries allowed): first what was read ahead, the rest straight
 * into the given memory, by one system call where the channel can. Never reads ahead. @iov is not
 * changed.
 */
int stream_readv(struct stream *s, const struct iovec *iov, size_t n);

/* Read @len bytes and forget them. */
int stream_skip(struct stream *s, uint64_t len);

/* Bytes got so far, those of a call that failed half-way included. The receiving thread. */
uint64_t stream_get_position(const struct stream *s);

/* Copy the counters of both directions; either may be NULL. Any thread, while the channel is open.
 */
void stream_stats(const struct stream *s, struct stream_stats *tx, struct stream_stats *rx);
struct stream_stats stream_stats_sum(const struct stream_stats *a, const struct stream_stats *b);

/*
 * Wait until there is something to read, or the end, for @ms at most (negative: for ever). 0,
 * -ETIMEDOUT, or -ECANCELED when @wake_fd (-1: none) became readable. Unlike a read that fails, it
 * leaves the stream as it was. Channels that cannot wait have always something.
 */
int stream_wait(struct stream *s, int wake_fd, int ms);

#endif
