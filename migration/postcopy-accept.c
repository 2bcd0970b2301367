/* SPDX-License-Identifier: BSD-2-Clause */
/* Who comes to the destination of a postcopy: the source's two connections, once or again. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/param.h>

#include "migration/postcopy-load.h"

#define VISITOR_MS 1000 /* for the first record of whoever connects */

/* Give what @visitor holds to the line that it says it is. 0 also for somebody else. */
static int seat(struct postcopy_load *l, struct page_line *visitor, struct error *err)
{
	struct record rec;
	uint64_t number;

	if (!multifd_ask(visitor->p, l->token, &rec, &number)) {
		page_line_close(visitor, l->m, LINES);
		return 0;
	}
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

int postcopy_accept_lines(struct postcopy_load *l, int ms, int cancel_fd, struct error *err)
{
	int64_t until = ms < 0 ? INT64_MAX : channel_now_ms() + ms;
	int ret = 0;

	while (ret == 0 && !(l->lines[LINE_BACKGROUND].ch && l->lines[LINE_FAULTS].ch)) {
		bool one = l->lines[LINE_BACKGROUND].ch || l->lines[LINE_FAULTS].ch;
		struct channel *ch;

		/* The other is right behind it. */
		if (one && until == INT64_MAX)
			until = channel_now_ms() + protocol_deadline(PROTOCOL_START);
		ret = channel_accept(l->listener,
				     until == INT64_MAX ? -1
							: (int)MAX(until - channel_now_ms(), 0),
				     cancel_fd, &ch, err);
		ret = ret < 0 ? ret : admit(l, ch, err);
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
		ret = postcopy_accept_lines(l, -1, l->m->wake_fd, err);
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
