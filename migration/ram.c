/* SPDX-License-Identifier: BSD-2-Clause */
/* Sending guest RAM: rounds over the dirty bitmap, runs of pages, records. */
#include "migration/ram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <unistd.h>

#include "migration/delta.h"
#include "migration/multifd.h"
#include "migration/untouched.h"
#include "migration/zero.h"

/* As little as this may be left in the channel's buffer. */
#define SETTLED	  (64UL << 10)
#define SETTLE_NS 500000ULL

#define WORD_BITS	64
#define UNTOUCHED_PAGES (UNTOUCHED_MAX >> PAGE_SHIFT)
#define SECOND_NS	1000000000ULL

_Static_assert(RAM_BATCH <= RAM_ZSTD_MAX, "every record can be compressed");

static uint64_t region_pages(const struct memory_region *region)
{
	return region->size >> PAGE_SHIFT;
}

static size_t region_words(const struct memory_region *region)
{
	return (region_pages(region) + WORD_BITS - 1) / WORD_BITS;
}

int ram_save_init(struct ram_save *s, struct migration *m, struct protocol *p, uint64_t batch_max,
		  struct error *err)
{
	struct memory *mem = &m->vm->memory;
	int ret;

	memset(s, 0, sizeof(*s));
	s->vm = m->vm;
	s->m = m;
	s->p = s->batch.p = p;
	s->batch_max = MIN(batch_max, RAM_BATCH);
	s->untouched = untouched_open(mem);
	pthread_mutex_init(&s->hint_lock, NULL);
	pthread_mutex_init(&s->limit_lock, NULL);
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		s->bitmap[i] = calloc(region_words(&mem->regions[i]), sizeof(uint64_t));
		if (!s->bitmap[i])
			return error_set(err, -ENOMEM, "migrate", "RAM", "", "memory for a bitmap",
					 "none");
	}
	/* What was written so far need not be sent twice. */
	ret = dirty_log_running(s->vm) ? ram_save_fetch(s, err) : 0;
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		uint64_t pages = region_pages(&mem->regions[i]);

		memset(s->bitmap[i], 0xff, pages / WORD_BITS * sizeof(uint64_t));
		if (pages % WORD_BITS)
			s->bitmap[i][pages / WORD_BITS] = ~0ULL >> (WORD_BITS - pages % WORD_BITS);
	}
	s->dirty = mem->size >> PAGE_SHIFT;
	m->stats.ram_total = mem->size;
	m->stats.remaining = mem->size;
	m->stats.dirty_rate = 0;
	return ret;
}

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "migrate", "RAM", "", "memory to compress it", "none");
}

int ram_batch_init(const struct ram_save *s, struct ram_batch *b, struct protocol *p,
		   struct error *err)
{
	b->p = p;
	if (s->compress == COMPRESS_OFF || b->compressor)
		return 0;
	b->compressor = compressor_new(s->compress, s->m->params.compress_level, s->deltas);
	return b->compressor ? 0 : no_memory(err);
}

void ram_batch_free(struct ram_batch *b)
{
	compressor_free(b->compressor);
}

int ram_save_compress(struct ram_save *s, uint64_t zstd, struct error *err)
{
	enum compress_mode mode = (enum compress_mode)s->m->params.compress;
	uint64_t room = s->m->params.delta_memory;

	if (mode == COMPRESS_ON && !zstd)
		return error_set(err, -EOPNOTSUPP, "hello", "destination", "zstd",
				 "one that takes compressed RAM", "one that does not");
	if (zstd)
		s->compress = mode;
	if (s->compress != COMPRESS_OFF && zstd >= ZSTD_WITH_XOR && room >= PAGE_SIZE) {
		s->deltas = deltas_new(&s->vm->memory, room);
		if (!s->deltas)
			return no_memory(err);
	}
	return ram_batch_init(s, &s->batch, s->p, err);
}

void ram_save_free(struct ram_save *s)
{
	ram_batch_free(&s->batch);
	deltas_free(s->deltas);
	for (unsigned int i = 0; i < MEMORY_MAX_REGIONS; i++)
		free(s->bitmap[i]);
	if (s->vm) {
		if (s->untouched >= 0)
			close(s->untouched);
		pthread_mutex_destroy(&s->hint_lock);
		pthread_mutex_destroy(&s->limit_lock);
	}
}

int ram_save_fetch(struct ram_save *s, struct error *err)
{
	struct memory *mem = &s->vm->memory;
	uint64_t before, now, start = now_ns();

	ram_hints_stop(s);
	before = s->dirty;
	s->dirty = 0;
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		int ret = dirty_log_fetch(s->vm, &mem->regions[i], s->bitmap[i], err);

		if (ret < 0)
			return ret;
		for (size_t w = 0; w < region_words(&mem->regions[i]); w++)
			s->dirty += (uint64_t)__builtin_popcountll(s->bitmap[i][w]);
	}
	now = now_ns();
	if (s->fetched_ns && now > s->fetched_ns)
		s->m->stats.dirty_rate = (s->dirty - before) * SECOND_NS / (now - s->fetched_ns);
	s->m->stats.log_ns += now - start;
	s->fetched_ns = now;
	s->m->stats.remaining = ram_save_remaining(s);
	return 0;
}

uint64_t ram_save_remaining(const struct ram_save *s)
{
	return s->dirty << PAGE_SHIFT;
}

uint64_t ram_save_remaining_ns(const struct ram_save *s)
{
	double rate = bandwidth_get(&s->bandwidth);

	if (!s->dirty)
		return 0;
	return rate > 0 ? (uint64_t)((double)ram_save_remaining(s) / rate * 1e9) : UINT64_MAX;
}

/* ---- Records ---- */

/* Bytes of it on the wire. */
static uint64_t wire_payload(const struct ram_batch *b)
{
	return b->instead.bytes ? b->instead.len : b->payload;
}

/* Hand the record that was put together to the stream, and wait until the channel has it. */
int ram_batch_send(struct ram_save *s, struct ram_batch *b, struct error *err)
{
	size_t len = ram_runs_encode(b->runs, b->n, b->wire);
	int ret = protocol_send(b->p, b->instead.zipped ? RECORD_RAM_ZSTD : RECORD_RAM, b->wire,
				len, wire_payload(b), true, err);

	if (b->instead.bytes && ret == 0)
		stream_put_buffer_async(&b->p->stream, b->instead.bytes, b->instead.len);
	for (unsigned int i = 0; i < b->n && ret == 0 && !b->instead.bytes; i++) {
		const struct ram_run *run = &b->runs[i];
		uint64_t bytes = (uint64_t)run->pages << PAGE_SHIFT;

		if (run->kind == RAM_DATA)
			stream_put_pages(&b->p->stream, memory_hva(&s->vm->memory, run->gpa, bytes),
					 bytes);
	}
	return ret < 0 ? ret : protocol_flush(b->p, err);
}

static void count_record(struct ram_save *s, struct ram_batch *b, uint64_t ns)
{
	struct migration_stats *stats = &s->m->stats;

	/* Several connections together are measured by multifd-save.c. */
	if (b->payload && !s->multifd) {
		bandwidth_add(&s->bandwidth, b->payload, ns);
		stats->bandwidth = (uint64_t)bandwidth_get(&s->bandwidth);
	}
	b->sent_bytes += b->payload;
	b->sent_ns += ns;
	s->dirty -= b->pages;
	stats->send_ns += ns;
	stats->pages_data += b->payload >> PAGE_SHIFT;
	if (b->instead.zipped) {
		stats->zipped_pages += b->payload >> PAGE_SHIFT;
		stats->zipped_bytes += b->instead.len;
		stats->delta_pages += b->xor_pages;
	}
	stats->pages_zero += b->pages - (b->payload >> PAGE_SHIFT);
	stats->records++;
	stats->remaining = ram_save_remaining(s);
	migration_count(s->m, b->p);
}

/* How long to wait before the record may go. All connections share the limit. */
static uint64_t limit_wait(struct ram_save *s, const struct ram_batch *b)
{
	uint64_t wait;

	pthread_mutex_lock(&s->limit_lock);
	wait = rate_take(&s->limit, s->m->params.max_bandwidth,
			 wire_payload(b) + b->n * RAM_RUN_WIRE + RECORD_HEADER, now_ns());
	pthread_mutex_unlock(&s->limit_lock);
	return wait;
}

/* Waiting for the rate limit counts as sending: the limit is then the bandwidth there is. So does
 * compressing. */
int ram_save_flush(struct ram_save *s, struct ram_batch *b, bool live, struct error *err)
{
	uint64_t start = now_ns();
	int ret;

	if (!b->n)
		return 0;
	b->instead = (struct compressed){ 0 };
	if (b->compressor)
		b->instead =
			compressor_run(b->compressor, &s->vm->memory, b->runs, b->n, b->payload);
	migration_sleep(s->m, live ? limit_wait(s, b) : 0);
	ret = migration_check(s->m, err);
	ret = ret < 0 ? ret : ram_batch_send(s, b, err);
	if (ret < 0)
		return ret;
	if (b->compressor && b->payload)
		compressor_sent(b->compressor, b->payload, now_ns() - start);
	count_record(s, b, now_ns() - start);
	b->n = 0;
	b->payload = b->pages = b->xor_pages = 0;
	return 0;
}

/* How much one record may carry: with a low limit little, so that it is kept evenly. */
static uint64_t batch_limit(const struct ram_save *s, bool live)
{
	uint64_t rate = live ? s->m->params.max_bandwidth : 0;

	return rate ? MAX(PAGE_SIZE, MIN(s->batch_max, rate / 20)) : s->batch_max;
}

/* Add a page to the record, which has room. A run never leaves its region. */
void ram_batch_add(struct ram_batch *b, const struct memory_region *region, uint64_t page,
		   enum ram_kind kind)
{
	struct ram_run *last = b->n ? &b->runs[b->n - 1] : NULL;
	uint64_t gpa = region->gpa + (page << PAGE_SHIFT);

	if (last && page && last->kind == kind &&
	    last->gpa + ((uint64_t)last->pages << PAGE_SHIFT) == gpa)
		last->pages++;
	else
		b->runs[b->n++] = (struct ram_run){ gpa, 1, (uint8_t)kind };
	b->pages++;
	if (kind != RAM_ZERO)
		b->payload += PAGE_SIZE;
	if (kind == RAM_XOR)
		b->xor_pages++;
}

static bool is_full(const struct ram_save *s, const struct ram_batch *b, bool live)
{
	return b->n == RAM_RUNS_MAX || b->pages == RAM_BATCH_PAGES ||
	       b->payload + PAGE_SIZE > batch_limit(s, live);
}

bool ram_save_round_is_over(const struct ram_save *s, bool live)
{
	return live && ((s->m->postcopy_now && s->m->postcopy_can) ||
			(s->m->timed_out && s->m->params.force));
}

/* The first page from @page on that is set, @end if none is. */
static uint64_t next_dirty(const uint64_t *bitmap, uint64_t page, uint64_t end)
{
	while (page < end) {
		uint64_t word = bitmap[page / WORD_BITS] >> (page % WORD_BITS);

		if (word)
			return MIN(end, page + (uint64_t)__builtin_ctzll(word));
		page = (page / WORD_BITS + 1) * WORD_BITS;
	}
	return end;
}

static enum ram_kind kind_of(struct ram_save *s, unsigned int i, uint64_t page)
{
	const struct memory_region *region = &s->vm->memory.regions[i];
	const struct ram_run run = { region->gpa + (page << PAGE_SHIFT), 1, RAM_ZERO };

	if (!page_is_zero((const char *)region->hva + (page << PAGE_SHIFT)))
		return s->deltas && deltas_has(s->deltas, i, page) ? RAM_XOR : RAM_DATA;
	if (s->deltas)
		deltas_forget(s->deltas, &run);
	return RAM_ZERO;
}

/* What nobody has touched is worth asking for in the first round only. */
static bool pages_untouched(const struct ram_save *s, unsigned int i, uint64_t page, uint64_t end)
{
	return s->m->stats.rounds == 1 &&
	       untouched(s->untouched, (char *)s->vm->memory.regions[i].hva + (page << PAGE_SHIFT),
			 (end - page) << PAGE_SHIFT);
}

/* Send the dirty pages [@page, @end) of region @i, UNTOUCHED_PAGES at most, whose bits in KVM's log
 * are clear. */
static int save_pages(struct ram_save *s, struct ram_batch *b, unsigned int i, uint64_t page,
		      uint64_t end, bool live, struct error *err)
{
	const struct memory_region *region = &s->vm->memory.regions[i];
	bool zero = pages_untouched(s, i, page, end);
	uint64_t *bitmap = s->bitmap[i];

	for (page = next_dirty(bitmap, page, end); page < end;
	     page = next_dirty(bitmap, page + 1, end)) {
		if (is_full(s, b, live)) {
			int ret = ram_save_flush(s, b, live, err);

			if (ret < 0)
				return ret;
			if (ram_save_round_is_over(s, live))
				return 0;
		}
		bitmap[page / WORD_BITS] &= ~(1ULL << (page % WORD_BITS));
		ram_batch_add(b, region, page, zero ? RAM_ZERO : kind_of(s, i, page));
	}
	return 0;
}

/*
 * A piece is cleared in KVM's log, which shows later writes again, and then sent; the runs of a
 * record may come from several pieces.
 */
int ram_save_piece(struct ram_save *s, struct ram_batch *b, unsigned int i, uint64_t first,
		   uint64_t n, bool live, struct error *err)
{
	struct memory_region *region = &s->vm->memory.regions[i];
	int ret = 0;

	if (s->hinting)
		ram_hints_pass(s, i, first + n);
	if (next_dirty(s->bitmap[i], first, first + n) == first + n)
		return 0;
	if (live)
		ret = dirty_log_clear(s->vm, region, first, n, s->bitmap[i], err);
	for (uint64_t page = first, end = first + n;
	     page < end && ret == 0 && !ram_save_round_is_over(s, live); page += UNTOUCHED_PAGES)
		ret = save_pages(s, b, i, page, MIN(page + UNTOUCHED_PAGES, end), live, err);
	return ret;
}

static int save_region(struct ram_save *s, unsigned int i, bool live, struct error *err)
{
	uint64_t pages = region_pages(&s->vm->memory.regions[i]);
	uint64_t piece = s->hinting ? RAM_HINT_PAGES : RAM_CLEAR_PAGES;
	int ret = 0;

	for (uint64_t first = 0; first < pages && ret == 0; first += piece) {
		if (ram_save_round_is_over(s, live))
			break;
		ret = ram_save_piece(s, &s->batch, i, first, MIN(piece, pages - first), live, err);
	}
	return ret;
}

void ram_save_begin_round(struct ram_save *s)
{
	s->m->stats.rounds++;
	if (s->deltas)
		deltas_begin_round(s->deltas, s->bitmap, s->dirty);
}

int ram_save_round(struct ram_save *s, bool live, struct error *err)
{
	int ret = 0;

	ram_save_begin_round(s);
	for (unsigned int i = 0; i < s->vm->memory.n_regions && ret == 0; i++)
		ret = save_region(s, i, live, err);
	return ret < 0 ? ret : ram_save_flush(s, &s->batch, live, err);
}

static uint64_t pending_bytes(struct ram_save *s)
{
	return channel_pending(s->p->channel) + (s->multifd ? multifd_save_pending(s->multifd) : 0);
}

int ram_save_settle(struct ram_save *s, struct error *err)
{
	uint64_t start = now_ns(), moved = start, now = start;
	uint64_t pending = pending_bytes(s), before = pending;
	int ret = 0;

	while (pending > SETTLED && ret == 0 && !ram_save_round_is_over(s, true)) {
		migration_sleep(s->m, SETTLE_NS);
		pending = pending_bytes(s);
		now = now_ns();
		if (pending != before)
			moved = now;
		else if (now - moved > (uint64_t)protocol_limit(s->p) * 1000000)
			return error_set(err, -ETIMEDOUT, "stream", s->p->channel->name, "sending",
					 "the other side to take bytes",
					 "none within the time limit");
		before = pending;
		ret = migration_check(s->m, err);
	}
	bandwidth_add(&s->bandwidth, 0, now - start);
	return ret;
}
