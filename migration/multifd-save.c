/* SPDX-License-Identifier: BSD-2-Clause */
/* The source's channels: a thread each, which takes the next chunk of the round until none is left.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "migration/messages.h"
#include "migration/multifd.h"

#define CONNECT_MS 10000
/* A chunk is large enough to fill some records, and small enough that all channels get some. */
#define CHUNK_PAGES	   4096UL
#define CHUNKS_PER_CHANNEL 8
#define LOG_PAGES	   64UL /* dirty_log_clear() takes multiples of it */

struct save_channel {
	struct multifd_save *s;
	struct channel *ch;
	pthread_t thread;
	bool started;
	struct protocol p;
	struct ram_batch batch;
};

struct multifd_save {
	struct ram_save *ram;
	struct migration *m;
	unsigned int n; /* channels that are open */
	struct save_channel **channels;

	/* Of this round; written while the threads wait. */
	bool live;
	uint64_t chunk; /* pages */
	_Atomic uint64_t next;

	pthread_mutex_t lock; /* of the rest, and of nothing on the way of a page */
	pthread_cond_t changed;
	uint64_t round;	      /* the one to send, from 1 */
	unsigned int running; /* threads that are not done with it */
	bool end, failed;
	struct error error; /* the first one */
};

/* ---- A channel's thread ---- */

static void fail(struct multifd_save *s, const struct error *err)
{
	pthread_mutex_lock(&s->lock);
	if (!s->failed)
		s->error = *err;
	s->failed = true;
	for (unsigned int i = 0; i < s->n; i++)
		channel_shutdown(s->channels[i]->ch);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

/* Pages of region @i, rounded up to whole chunks, so that no chunk is in two regions. */
static uint64_t region_chunks(const struct multifd_save *s, unsigned int i)
{
	uint64_t pages = s->ram->vm->memory.regions[i].size >> PAGE_SHIFT;

	return (pages + s->chunk - 1) / s->chunk;
}

/* Send chunk number @chunk of all RAM; false when there is none. */
static bool send_chunk(struct save_channel *c, uint64_t chunk, int *ret, struct error *err)
{
	const struct memory *mem = &c->s->ram->vm->memory;

	for (unsigned int i = 0; i < mem->n_regions; i++) {
		uint64_t chunks = region_chunks(c->s, i), first = chunk * c->s->chunk;

		if (chunk < chunks) {
			uint64_t pages = mem->regions[i].size >> PAGE_SHIFT;

			*ret = ram_save_piece(c->s->ram, &c->batch, i, first,
					      MIN(c->s->chunk, pages - first), c->s->live, err);
			return *ret == 0;
		}
		chunk -= chunks;
	}
	return false;
}

static int say_round(struct protocol *p, uint64_t round, struct error *err)
{
	struct message m;

	message_begin(&m);
	message_u64(&m, "round", round);
	return protocol_say(p, RECORD_ROUND, message_end(&m), err);
}

static int send_round(struct save_channel *c, uint64_t round, struct error *err)
{
	struct multifd_save *s = c->s;
	int ret = 0;

	while (!ram_save_round_is_over(s->ram, s->live) &&
	       send_chunk(c, atomic_fetch_add(&s->next, 1), &ret, err))
		;
	ret = ret < 0 ? ret : ram_save_flush(s->ram, &c->batch, s->live, err);
	ret = ret < 0 ? ret : say_round(&c->p, round, err);
	migration_count(s->m, &c->p);
	return ret;
}

/* Wait for the round after @done. 0: there is none. */
static uint64_t next_round(struct multifd_save *s, uint64_t done)
{
	uint64_t round;

	pthread_mutex_lock(&s->lock);
	while (s->round == done && !s->end && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	round = s->end || s->failed ? 0 : s->round;
	pthread_mutex_unlock(&s->lock);
	return round;
}

static void *thread(void *opaque)
{
	struct save_channel *c = opaque;
	struct multifd_save *s = c->s;
	struct error err = { 0 };
	uint64_t round = 0;
	int ret = 0;

	while (ret == 0 && (round = next_round(s, round)) != 0) {
		ret = send_round(c, round, &err);
		if (ret < 0)
			break;
		pthread_mutex_lock(&s->lock);
		if (--s->running == 0)
			pthread_cond_broadcast(&s->changed);
		pthread_mutex_unlock(&s->lock);
	}
	if (ret == 0 && s->end)
		ret = protocol_say(&c->p, RECORD_END, NULL, &err);
	migration_count(s->m, &c->p);
	if (ret < 0)
		fail(s, &err);
	return NULL;
}

/* ---- Opening ---- */

unsigned int multifd_wanted(const struct migration *m)
{
	return m->params.multifd && m->params.channels > 1 ? (unsigned int)m->params.channels : 0;
}

int multifd_check(const struct migration *m, uint64_t max, struct error *err)
{
	if (multifd_wanted(m) <= max)
		return 0;
	return error_set(err, -EOPNOTSUPP, "hello", "destination", "channels-max",
			 "as many data connections as are wanted here", "%llu",
			 (unsigned long long)max);
}

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "migrate", "channels", "", "memory", "none");
}

static int introduce(struct save_channel *c, unsigned int number, const char *token,
		     struct error *err)
{
	struct message m;

	message_begin(&m);
	message_string(&m, "token", token);
	message_u64(&m, "number", number);
	return protocol_say(&c->p, RECORD_CHANNEL, message_end(&m), err);
}

static int open_channel(struct multifd_save *s, const char *uri, const char *token,
			struct error *err)
{
	const struct migration_params *params = &s->m->params;
	struct save_channel *c = calloc(1, sizeof(*c));
	unsigned int number = s->n;
	int ret;

	if (!c)
		return no_memory(err);
	c->s = s;
	ret = channel_connect(uri, params->deadline_ms ? params->deadline_ms : CONNECT_MS,
			      s->m->cancel_fd, &c->ch, err);
	if (ret < 0) {
		free(c);
		return ret;
	}
	s->channels[s->n++] = c;
	protocol_init(&c->p, c->ch, SIDE_SOURCE, PROTOCOL_DATA);
	protocol_set_deadline(&c->p, params->deadline_ms);
	stream_set_iov_max(&c->p.stream, params->iovecs);
	stream_set_copy_all(&c->p.stream, params->copy);
	ret = ram_batch_init(s->ram, &c->batch, &c->p, err);
	ret = ret < 0 ? ret
		      : channel_set_zerocopy(c->ch, (enum zerocopy_mode)params->zero_copy, err);
	ret = ret < 0 ? ret : migration_set_channel(s->m, 1 + number, c->ch, err);
	return ret < 0 ? ret : introduce(c, number, token, err);
}

int multifd_save_open(struct multifd_save **out, struct ram_save *ram, const char *uri,
		      unsigned int n, const char *token, struct error *err)
{
	struct multifd_save *s = *out = calloc(1, sizeof(*s));
	int ret = 0;

	if (!s)
		return no_memory(err);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	s->ram = ram;
	s->m = ram->m;
	s->channels = calloc(n, sizeof(*s->channels));
	if (!s->channels)
		return no_memory(err);
	while (ret == 0 && s->n < n)
		ret = open_channel(s, uri, token, err);
	for (unsigned int i = 0; i < n && ret == 0; i++) {
		struct save_channel *c = s->channels[i];

		ret = -pthread_create(&c->thread, NULL, thread, c);
		c->started = ret == 0;
		if (ret < 0)
			error_set(err, ret, "migrate", "channels", "", "a thread", "%s",
				  strerror(-ret));
	}
	if (ret == 0)
		ram->multifd = s;
	return ret;
}

/* ---- For the migration's thread ---- */

/*
 * What the channels moved in this round, and the time of the one that was sending longest. The
 * window of the estimate stays open: ram_save_settle() adds the time it takes, and closes it.
 */
static void measure(struct multifd_save *s, uint64_t bytes_before)
{
	uint64_t bytes = 0, ns = 0;

	for (unsigned int i = 0; i < s->n; i++) {
		struct ram_batch *b = &s->channels[i]->batch;

		bytes += b->sent_bytes;
		ns = MAX(ns, b->sent_ns);
		b->sent_ns = 0;
	}
	if (bytes == bytes_before)
		return;
	s->ram->bandwidth.bytes += bytes - bytes_before;
	s->ram->bandwidth.ns += ns;
	s->m->stats.bandwidth =
		(uint64_t)((double)(bytes - bytes_before) * 1e9 / (double)MAX(ns, 1));
}

static uint64_t sent_bytes(const struct multifd_save *s)
{
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < s->n; i++)
		bytes += s->channels[i]->batch.sent_bytes;
	return bytes;
}

static uint64_t chunk_pages(const struct multifd_save *s)
{
	uint64_t pages = s->ram->vm->memory.size >> PAGE_SHIFT;
	uint64_t share = pages / (s->n * CHUNKS_PER_CHANNEL) / LOG_PAGES * LOG_PAGES;

	/* Hints for a chunk that was begun come too late. */
	if (s->ram->hinting)
		return RAM_HINT_PAGES;
	return MIN(MAX(share, LOG_PAGES), CHUNK_PAGES);
}

int multifd_save_round(struct multifd_save *s, bool live, struct error *err)
{
	uint64_t before = sent_bytes(s);
	bool failed;

	ram_save_begin_round(s->ram);
	pthread_mutex_lock(&s->lock);
	s->live = live;
	s->chunk = chunk_pages(s);
	s->next = 0;
	s->running = s->n;
	s->round++;
	pthread_cond_broadcast(&s->changed);
	/* Each of them has deadlines, and a cancel shuts their channels down. */
	while (s->running && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	failed = s->failed;
	if (failed)
		*err = s->error;
	pthread_mutex_unlock(&s->lock);
	if (failed)
		return s->error.code;
	measure(s, before);
	return say_round(s->ram->p, s->round, err);
}

static void join(struct multifd_save *s)
{
	for (unsigned int i = 0; i < s->n; i++) {
		struct save_channel *c = s->channels[i];

		if (c->started)
			pthread_join(c->thread, NULL);
		c->started = false;
	}
}

int multifd_save_end(struct multifd_save *s, struct error *err)
{
	pthread_mutex_lock(&s->lock);
	s->end = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	join(s);
	if (s->failed)
		*err = s->error;
	return s->failed ? s->error.code : 0;
}

uint64_t multifd_save_pending(struct multifd_save *s)
{
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < s->n; i++)
		bytes += channel_pending(s->channels[i]->ch);
	return bytes;
}

void multifd_save_free(struct multifd_save *s)
{
	struct error gone = { 0 };
	bool started = false;

	if (!s)
		return;
	for (unsigned int i = 0; i < s->n; i++)
		started |= s->channels[i]->started;
	error_set(&gone, -ECANCELED, "migrate", "channels", "", "", "the end of the migration");
	if (started)
		fail(s, &gone);
	join(s);
	for (unsigned int i = 0; i < s->n; i++) {
		struct save_channel *c = s->channels[i];

		channel_reap_zerocopy(c->ch);
		migration_count(s->m, &c->p);
		migration_set_channel(s->m, 1 + i, NULL, NULL);
		protocol_free(&c->p);
		ram_batch_free(&c->batch);
		channel_close(c->ch);
		free(c);
	}
	s->ram->multifd = NULL;
	free(s->channels);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
