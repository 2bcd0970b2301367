/* SPDX-License-Identifier: BSD-2-Clause */
/* The channel over a descriptor from inside, for channel-zerocopy.c, which is one that sends
 * otherwise. */
#ifndef MIGRATION_CHANNEL_FD_H
#define MIGRATION_CHANNEL_FD_H

#include "migration/channel.h"
#include "migration/rights.h"

struct zerocopy;

struct fd_channel {
	struct channel base;
	int fd;
	int wake;  /* eventfd that ends a poll; -1 for sockets, which shutdown(2) wakes */
	int flags; /* file status flags to give back at close, -1 for none */
	bool socket;
	bool sync;
	_Atomic bool shut;
	_Atomic int timeout_ms;
	struct rights out, in;	   /* of a unix socket: to be sent, received */
	struct zerocopy *zerocopy; /* NULL: off */
	struct channel_ops ops;	   /* with it, fd_ops and one more */
};

extern const struct channel_ops fd_ops;

/* Send all of @iov, by sendmsg with @flags for a socket; otherwise as writev_buffer. */
ssize_t fd_send(struct channel *ch, struct iovec *iov, int n, int flags);

/*
 * A call moved nothing because of @error. Returns 0 when it may be tried again, after waiting where
 * that makes sense, or a negative errno. @since is when something moved last.
 */
int fd_stalled(struct fd_channel *c, int error, short events, int64_t since,
	       _Atomic uint64_t *calls);

/* Drop @done bytes that were sent from the front of the @n pieces at *@iov; returns what is left of
 * @n. */
int fd_advance(struct iovec **iov, int n, size_t done);

#endif
