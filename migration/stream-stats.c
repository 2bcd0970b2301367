/* SPDX-License-Identifier: BSD-2-Clause */
/* What a stream has cost: its counters, read by any thread. */
#include "migration/channel.h"
#include "migration/stream.h"

static uint64_t load(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void read_counters(const struct stream_counters *c, const _Atomic uint64_t *syscalls,
			  struct stream_stats *stats)
{
	*stats = (struct stream_stats){
		.bytes_referenced = load(&c->bytes_referenced),
		.bytes_copied = load(&c->bytes_copied),
		.iovecs_queued = load(&c->iovecs_queued),
		.iovecs_sent = load(&c->iovecs_sent),
		.flushes = load(&c->flushes),
		.syscalls = load(syscalls),
	};
	stats->bytes_xfer = stats->bytes_referenced + stats->bytes_copied;
}

void stream_stats(const struct stream *s, struct stream_stats *tx, struct stream_stats *rx)
{
	if (tx) {
		read_counters(&s->tx.count, &s->channel->writes, tx);
		tx->zerocopy_bytes = load(&s->channel->zerocopy_bytes);
		tx->zerocopy_copied = load(&s->channel->zerocopy_copied);
		tx->zerocopy_fallbacks = load(&s->channel->zerocopy_fallbacks);
	}
	if (rx)
		read_counters(&s->rx.count, &s->channel->reads, rx);
}

struct stream_stats stream_stats_sum(const struct stream_stats *a, const struct stream_stats *b)
{
	return (struct stream_stats){
		.bytes_xfer = a->bytes_xfer + b->bytes_xfer,
		.bytes_referenced = a->bytes_referenced + b->bytes_referenced,
		.bytes_copied = a->bytes_copied + b->bytes_copied,
		.iovecs_queued = a->iovecs_queued + b->iovecs_queued,
		.iovecs_sent = a->iovecs_sent + b->iovecs_sent,
		.flushes = a->flushes + b->flushes,
		.syscalls = a->syscalls + b->syscalls,
		.zerocopy_bytes = a->zerocopy_bytes + b->zerocopy_bytes,
		.zerocopy_copied = a->zerocopy_copied + b->zerocopy_copied,
		.zerocopy_fallbacks = a->zerocopy_fallbacks + b->zerocopy_fallbacks,
	};
}
