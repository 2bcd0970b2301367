/* SPDX-License-Identifier: BSD-2-Clause */
/* The destination's channels: a thread each, and the barrier between two rounds. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "migration/messages.h"
#include "migration/multifd-load.h"

#define TICK_MS 100

/* ---- A channel's thread ---- */

static void fail(struct multifd_load *l, const struct error *err)
{
	pthread_mutex_lock(&l->lock);
	if (!l->failed)
		l->error = *err;
	l->failed = true;
	for (unsigned int i = 0; i < l->n; i++) {
		if (l->channels[i].ch)
			channel_shutdown(l->channels[i].ch);
	}
	eventfd_write(l->wake, 1);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static int wrong_round(const struct record *rec, uint64_t expected, uint64_t got, struct error *err)
{
	error_set(err, -EPROTO, "stream", rec->device, "round", "", "%llu",
		  (unsigned long long)got);
	error_expected(err, "%llu", (unsigned long long)expected);
	return -EPROTO;
}

static int get_round(const struct record *rec, uint64_t expected, struct error *err)
{
	const void *fdt = message_open(rec, err);
	uint64_t round;

	if (!fdt)
		return -EPROTO;
	round = message_get_u64(fdt, "round", 0);
	return round == expected ? 0 : wrong_round(rec, expected, round, err);
}

static int too_early(const struct record *rec, struct error *err)
{
	return error_set(err, -EPROTO, "stream", rec->device, "", "all channels to end together",
			 "one that has ended before the others");
}

/* The barrier: go on when all have come here. */
static int end_round(struct load_channel *c, const struct record *rec, struct error *err)
{
	struct multifd_load *l = c->l;
	int ret = get_round(rec, c->round + 1, err);

	if (ret < 0)
		return ret;
	c->round++;
	pthread_mutex_lock(&l->lock);
	if (l->ended)
		ret = too_early(rec, err);
	if (ret == 0 && ++l->waiting == l->n) {
		l->waiting = 0;
		l->round++;
		pthread_cond_broadcast(&l->changed);
	}
	while (ret == 0 && l->round < c->round && !l->failed)
		pthread_cond_wait(&l->changed, &l->lock);
	if (ret == 0 && l->failed)
		ret = error_set(err, -ECANCELED, "stream", rec->device, "", "", "cancelled");
	pthread_mutex_unlock(&l->lock);
	return ret;
}

static int end_channel(struct load_channel *c, const struct record *rec, struct error *err)
{
	struct multifd_load *l = c->l;
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	if (l->waiting)
		ret = too_early(rec, err);
	l->ended++;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	return ret;
}

static int receive(struct load_channel *c, struct record *rec, struct error *err)
{
	int ret;

	/* No deadline here, see multifd.h. What a wait meets a read meets, too. */
	stream_wait(&c->p.stream, -1, -1);
	ret = protocol_receive(&c->p, rec, err);
	if (ret < 0)
		return ret;
	if (rec->type == RECORD_RAM || rec->type == RECORD_RAM_ZSTD)
		ret = ram_load_record(c->l->ram, &c->table, &c->p, rec, err);
	else if (rec->type == RECORD_ROUND)
		ret = end_round(c, rec, err);
	else
		ret = end_channel(c, rec, err);
	return ret;
}

static void *thread(void *opaque)
{
	struct load_channel *c = opaque;
	struct error err = { 0 };
	struct record rec;
	int ret;

	do {
		ret = receive(c, &rec, &err);
	} while (ret == 0 && rec.type != RECORD_END);
	if (ret < 0)
		fail(c->l, &err);
	return NULL;
}

/* ---- Starting ---- */

static void init_clock(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

int multifd_load_accept(struct multifd_load **out, struct ram_load *ram, struct protocol *p,
			struct channel_listener *listener, unsigned int n, const char *token,
			struct error *err)
{
	struct multifd_load *l = *out = calloc(1, sizeof(*l));
	int ret;

	if (l)
		l->channels = calloc(n, sizeof(*l->channels));
	if (!l || !l->channels) {
		free(l);
		*out = NULL;
		return error_set(err, -ENOMEM, "receive", "channels", "", "memory", "none");
	}
	l->ram = ram;
	l->m = ram->m;
	l->main = p;
	l->n = n;
	pthread_mutex_init(&l->lock, NULL);
	init_clock(&l->changed);
	l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake < 0)
		return error_set(err, -errno, "receive", "channels", "", "an eventfd", "%m");
	ret = multifd_accept_all(l, listener, token, err);
	l->seen_ms = channel_now_ms();
	for (unsigned int i = 0; i < n && ret == 0; i++) {
		struct load_channel *c = &l->channels[i];

		ret = -pthread_create(&c->thread, NULL, thread, c);
		c->started = ret == 0;
		if (ret < 0)
			error_set(err, ret, "receive", "channels", "", "a thread", "%s",
				  strerror(-ret));
	}
	return ret;
}

/* ---- For the migration's thread ---- */

/* Has nothing come, over any connection, for as long as the other side may be silent? */
static int check_progress(struct multifd_load *l, struct error *err)
{
	uint64_t bytes = stream_get_position(&l->main->stream);
	int64_t now = channel_now_ms();

	for (unsigned int i = 0; i < l->n; i++)
		bytes += stream_get_position(&l->channels[i].p.stream);
	if (bytes != l->seen_bytes) {
		l->seen_bytes = bytes;
		l->seen_ms = now;
	}
	if (now - l->seen_ms <= protocol_limit(l->main))
		return 0;
	error_set(err, -ETIMEDOUT, "protocol", l->main->channel->name,
		  protocol_state_name(l->main->state), "", "nothing within %d ms",
		  protocol_limit(l->main));
	error_expected(err, "records on it or on %u data connections", l->n);
	return -ETIMEDOUT;
}

/* A channel has failed. That may be because the source hung up, which has perhaps said why. */
static int failure(struct multifd_load *l, struct error *err)
{
	pthread_mutex_lock(&l->lock);
	*err = l->error;
	pthread_mutex_unlock(&l->lock);
	protocol_explain(l->main, err);
	return err->code;
}

int multifd_load_wait(struct multifd_load *l, struct error *err)
{
	int ret;

	do {
		ret = stream_wait(&l->main->stream, l->wake, TICK_MS);
		if (ret == -ECANCELED)
			return failure(l, err);
		if (ret == -ETIMEDOUT && check_progress(l, err) < 0)
			return err->code;
	} while (ret == -ETIMEDOUT);
	return 0;
}

/* Lock held: sleep until something has changed, a tick at most. */
static int sleep_locked(struct multifd_load *l, struct error *err)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += TICK_MS * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&l->changed, &l->lock, &until);
	return check_progress(l, err);
}

/* Wait until all channels are at the end of @round and @ended of them are at their own. */
static int wait_for_all(struct multifd_load *l, uint64_t round, unsigned int ended,
			struct error *err)
{
	bool failed;
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	while (ret == 0 && !l->failed && (l->round < round || l->ended < ended))
		ret = sleep_locked(l, err);
	failed = l->failed;
	pthread_mutex_unlock(&l->lock);
	return failed ? failure(l, err) : ret;
}

int multifd_load_round(struct multifd_load *l, const struct record *rec, struct error *err)
{
	int ret = get_round(rec, l->named + 1, err);

	if (ret < 0)
		return ret;
	l->named++;
	return wait_for_all(l, l->named, 0, err);
}

static void join(struct multifd_load *l)
{
	for (unsigned int i = 0; i < l->n; i++) {
		struct load_channel *c = &l->channels[i];

		if (c->started)
			pthread_join(c->thread, NULL);
		c->started = false;
	}
}

int multifd_load_end(struct multifd_load *l, struct error *err)
{
	int ret = wait_for_all(l, l->named, l->n, err);

	if (ret < 0)
		return ret;
	join(l);
	if (l->failed)
		return failure(l, err);
	if (l->round != l->named) {
		error_set(err, -EPROTO, "stream", "channels", "round", "", "%llu",
			  (unsigned long long)l->round);
		error_expected(err, "%llu, the last one that the source has named",
			       (unsigned long long)l->named);
		return -EPROTO;
	}
	return 0;
}

void multifd_load_free(struct multifd_load *l)
{
	struct error gone = { 0 };

	if (!l)
		return;
	error_set(&gone, -ECANCELED, "receive", "channels", "", "", "the end of the migration");
	fail(l, &gone);
	join(l);
	for (unsigned int i = 0; i < l->n; i++) {
		struct load_channel *c = &l->channels[i];

		if (!c->ch)
			continue;
		migration_count(l->m, &c->p);
		migration_set_channel(l->m, 1 + i, NULL, NULL);
		protocol_free(&c->p);
		ram_table_free(&c->table);
		channel_close(c->ch);
	}
	if (l->wake >= 0)
		close(l->wake);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l->channels);
	free(l);
}
