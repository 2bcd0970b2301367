/* SPDX-License-Identifier: BSD-2-Clause */
/* The token bucket and the bandwidth estimate. */
#include "migration/rate.h"

#define SECOND 1e9
#define BURST  0.05 /* seconds of tokens that idle time may save up */

uint64_t rate_take(struct rate_limit *r, uint64_t limit, uint64_t bytes, uint64_t now_ns)
{
	double rate = (double)limit;

	if (!limit) {
		r->last_ns = now_ns;
		r->tokens = 0;
		return 0;
	}
	if (r->last_ns)
		r->tokens += (double)(now_ns - r->last_ns) / SECOND * rate;
	if (r->tokens > rate * BURST)
		r->tokens = rate * BURST;
	r->last_ns = now_ns;
	r->tokens -= (double)bytes;
	return r->tokens >= 0 ? 0 : (uint64_t)(-r->tokens / rate * SECOND);
}

void bandwidth_add(struct bandwidth *b, uint64_t bytes, uint64_t ns)
{
	b->bytes += bytes;
	b->ns += ns;
	if (b->ns < BANDWIDTH_WINDOW_NS)
		return;
	b->estimate = (double)b->bytes / ((double)b->ns / SECOND);
	b->bytes = b->ns = 0;
}

double bandwidth_get(const struct bandwidth *b)
{
	if (b->estimate > 0)
		return b->estimate;
	return b->ns ? (double)b->bytes / ((double)b->ns / SECOND) : 0;
}
