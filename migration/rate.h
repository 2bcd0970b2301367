/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How fast: the token bucket that keeps max-bandwidth, and the estimate of what the channel takes,
 * from which follows whether the rest fits the downtime limit.
 */
#ifndef MIGRATION_RATE_H
#define MIGRATION_RATE_H

#include <stdint.h>

/* Tokens are bytes; they come with time and at most BURST worth of it is saved up. */
struct rate_limit {
	uint64_t last_ns;
	double tokens;
};

/*
 * Take @bytes at @now_ns under @limit (bytes a second, 0: none), going into debt if need be.
 * Returns the ns to wait until the debt is paid; nothing is to be sent before.
 */
uint64_t rate_take(struct rate_limit *r, uint64_t limit, uint64_t bytes, uint64_t now_ns);

/*
 * Bandwidth while sending. Time that was not spent sending (looking for zero pages, fetching the
 * dirty log) does not count, so that a moment in which nothing was to be sent does not look like a
 * slow channel; and only windows of WINDOW_NS count once there is one, because a short burst
 * disappears in a socket's buffer and looks like a fast one.
 */
struct bandwidth {
	uint64_t bytes, ns; /* of the window being filled */
	double estimate;    /* bytes a second of the last full window, 0 before the first */
};

#define BANDWIDTH_WINDOW_NS 50000000

void bandwidth_add(struct bandwidth *b, uint64_t bytes, uint64_t ns);
/* Bytes a second; 0 as long as nothing was sent. */
double bandwidth_get(const struct bandwidth *b);

#endif
