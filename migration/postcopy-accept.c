/* SPDX-License-Identifier: BSD-2-Clause */
/* Who comes to the destination of a postcopy: the source's two connections, once or again. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/param.h>

#include "migration/messages.h"
#include "migration/postcopy-load.h"

#define VISITOR_MS 1000 /* for the first record of whoever connects */
#define TICK_MS	   100

/* Give what @visitor holds to the line that it says it is. 0 also for somebody else. */
static int seat(struct postcopy_load *l, struct page_line *visitor, struct error *err)
{
	struct record rec;
	uint64_t number, attempt;

	if (!multifd_ask(visitor->p, l->token, &rec, &number)) {
		page_line_close(visitor, l->m, LINES);
		return 0;
	}
	attempt = message_get_u64(message_open(&rec, err), "attempt", 0);
	if (attempt < l->attempt) {
		page_line_close(visitor, l->m, LINES);
		return 0;
	}
	/* What came before is of an attempt that has failed by now. */
	for (unsigned int i = 0; i < LINES && attempt > l->attempt; i++)
		page_line_close(&l->lines[i], l->m, i);
	l->attempt = attempt;
	if (number >= LINES || l->lines[number].ch) {
		error_set(err, -EPROTO, "stream", rec.device, "number", "0 and 1, each once",
			  "%llu", (unsigned long long)number);
		page_line_close(visitor, l->m, LINES);
		return -EPROTO;
	}
	protocol_set_deadline(visitor->p, l->m->params.deadline_ms);
	l->lines[number] = *visitor;
	migration_set_channel(l->m, 1 + LINES, NULL, NULL);
	return migration_set_channel(l->m, 1 + (unsigned int)number, visitor->ch, err);
}

/* Let @ch in, or send it away. Owns it. */
static int admit(struct postcopy_load *l, struct channel *ch, struct error *err)
{
	int deadline = l->m->params.deadline_ms;
	struct page_line visitor = { 0 };
	int ret = page_line_open(&visitor, l->m, LINES, ch, SIDE_DESTINATION, err);

	if (ret < 0) {
		page_line_close(&visitor, l->m, LINES);
		return ret;
	}
	protocol_set_deadline(visitor.p, deadline ? MIN(deadline, VISITOR_MS) : VISITOR_MS);
	return seat(l, &visitor, err);
}

static bool are_both_here(const struct postcopy_load *l)
{
	return l->lines[LINE_BACKGROUND].ch && l->lines[LINE_FAULTS].ch;
}

/* Wait a moment for one connection; -ETIMEDOUT when none came. */
static int accept_one(struct postcopy_load *l, int ms, int cancel_fd, struct error *err)
{
	struct channel *ch;
	int ret = channel_accept(l->listener, ms, cancel_fd, &ch, err);

	return ret < 0 ? ret : admit(l, ch, err);
}

/* The source says nothing on the main connection before it has opened these or given up: then what
 * is missing is on its way or will never come. */
int postcopy_accept_lines(struct postcopy_load *l, struct error *err)
{
	int64_t until = channel_now_ms() + protocol_limit(l->main);
	bool told = false;

	while (!are_both_here(l)) {
		int ret = accept_one(l, TICK_MS, l->m->cancel_fd, err);

		if (ret < 0 && ret != -ETIMEDOUT)
			return ret;
		error_clear(err);
		if (!told && stream_wait(&l->main->stream, -1, 0) == 0) {
			told = true;
			until = MIN(until, channel_now_ms() + VISITOR_MS);
		}
		if (!are_both_here(l) && channel_now_ms() > until) {
			error_set(err, told ? -EPIPE : -ETIMEDOUT, "receive", l->listener->uri,
				  "postcopy", "two connections for pages", "fewer in time");
			protocol_explain(l->main, err);
			return err->code;
		}
	}
	return 0;
}

/* As long as it takes, but the second of the two is right behind the first. */
static int accept_again(struct postcopy_load *l, struct error *err)
{
	int ret = 0;

	while (ret == 0 && !are_both_here(l)) {
		bool one = l->lines[LINE_BACKGROUND].ch || l->lines[LINE_FAULTS].ch;

		ret = accept_one(l, one ? protocol_deadline(PROTOCOL_START) : -1, l->m->wake_fd,
				 err);
	}
	return ret;
}

void postcopy_close_lines(struct postcopy_load *l)
{
	page_lines_shutdown(l->lines);
	pthread_mutex_lock(&l->write_lock);
	l->connected = false;
	pthread_mutex_unlock(&l->write_lock);
	if (l->reading_urgent)
		pthread_join(l->urgent, NULL);
	l->reading_urgent = false;
	for (unsigned int i = 0; i < LINES; i++)
		page_line_close(&l->lines[i], l->m, i);
}

/* A person wants us to listen elsewhere. */
static void take_listener(struct postcopy_load *l)
{
	struct channel_listener *other;

	pthread_mutex_lock(&l->m->lock);
	other = l->m->wishes.listener;
	l->m->wishes.listener = NULL;
	pthread_mutex_unlock(&l->m->lock);
	if (!other)
		return;
	channel_listener_close(l->listener);
	l->listener = other;
}

int postcopy_meet_again(struct postcopy_load *l, struct error *err)
{
	struct protocol *p;
	int ret;

	do {
		error_clear(err);
		take_listener(l);
		ret = accept_again(l, err);
		if (ret == -ECANCELED)
			postcopy_woken(l->m);
	} while (ret == -ECANCELED && !postcopy_abandoned(l->m));
	if (ret < 0)
		return ret;
	postcopy_go_on(l->m, MIGRATION_POSTCOPY_RECOVER);
	p = l->lines[LINE_BACKGROUND].p;
	ret = page_map_send(&l->absent, p, err);
	return ret < 0 ? ret : protocol_say(p, RECORD_READY, NULL, err);
}
