/* SPDX-License-Identifier: BSD-2-Clause */
/* Postcopy: what both sides have in common, and what others may ask of them. */
#include "migration/postcopy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LAST_MS 1000 /* for last words */

/* ---- Connections ---- */

int page_line_open(struct page_line *line, struct migration *m, unsigned int number,
		   struct channel *ch, enum protocol_side side, struct error *err)
{
	line->p = malloc(sizeof(*line->p));
	if (!line->p) {
		channel_close(ch);
		return error_set(err, -ENOMEM, "postcopy", "channels", "", "memory", "none");
	}
	line->ch = ch;
	protocol_init(line->p, ch, side, PROTOCOL_PAGES);
	protocol_set_deadline(line->p, m->params.deadline_ms);
	stream_set_iov_max(&line->p->stream, m->params.iovecs);
	return migration_set_channel(m, 1 + number, ch, err);
}

void page_line_close(struct page_line *line, struct migration *m, unsigned int number)
{
	if (!line->ch)
		return;
	migration_count(m, line->p);
	migration_set_channel(m, 1 + number, NULL, NULL);
	protocol_free(line->p);
	free(line->p);
	channel_close(line->ch);
	*line = (struct page_line){ 0 };
}

void page_lines_shutdown(struct page_line lines[LINES])
{
	for (unsigned int i = 0; i < LINES; i++) {
		if (lines[i].ch)
			channel_shutdown(lines[i].ch);
	}
}

/* ---- When to begin ---- */

int postcopy_parse_when(const char *text, int *when, struct error *err)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (strcmp(text, "command") == 0)
		*when = POSTCOPY_BY_COMMAND;
	else if (strcmp(text, "auto") == 0)
		*when = POSTCOPY_AUTO;
	else if (*text >= '0' && *text <= '9' && !*end && n <= 1000)
		*when = (int)n;
	else
		return error_set(err, -EINVAL, "migrate", "parameters", "x-postcopy",
				 "command, auto or 0 to 1000 rounds", "%.40s", text);
	return 0;
}

const char *postcopy_when(int when, char *buf, size_t size)
{
	if (when == POSTCOPY_AUTO)
		return "auto";
	if (when == POSTCOPY_BY_COMMAND)
		return "command";
	snprintf(buf, size, "%d", when);
	return buf;
}

/* ---- Between the thread and those who want something of it ---- */

void postcopy_begin(struct migration *m)
{
	m->postcopy = true;
}

static void set_paused(struct migration *m, const struct error *why)
{
	pthread_mutex_lock(&m->lock);
	m->wishes.paused = why != NULL;
	if (why)
		m->wishes.why = *why;
	m->wishes.uri[0] = '\0';
	pthread_mutex_unlock(&m->lock);
}

void postcopy_pause(struct migration *m, const struct error *why)
{
	struct error note = { 0 };
	char sentence[sizeof(note)];

	set_paused(m, why);
	error_set(&note, why->code, m->incoming ? "receive" : "migrate", m->uri, "",
		  "the pages that are missing", "%s; paused until it is resumed",
		  error_sentence(why, sentence, sizeof(sentence)));
	error_print(&note);
	migration_set_status(m, MIGRATION_POSTCOPY_PAUSED);
}

void postcopy_go_on(struct migration *m, enum migration_status status)
{
	set_paused(m, NULL);
	migration_set_status(m, status);
}

void postcopy_woken(struct migration *m)
{
	eventfd_t n;

	eventfd_read(m->wake_fd, &n);
}

bool postcopy_abandoned(struct migration *m)
{
	bool abandoned;

	pthread_mutex_lock(&m->lock);
	abandoned = m->wishes.abandoned;
	pthread_mutex_unlock(&m->lock);
	return abandoned;
}

bool postcopy_why(struct migration *m, struct error *why)
{
	bool paused;

	pthread_mutex_lock(&m->lock);
	paused = m->wishes.paused;
	if (paused)
		*why = m->wishes.why;
	pthread_mutex_unlock(&m->lock);
	return paused;
}

int postcopy_start_now(struct migration *m, struct error *err)
{
	if (!m->started || m->incoming || !postcopy_wanted(m) || m->postcopy ||
	    (m->status == MIGRATION_ACTIVE && !m->postcopy_can))
		return error_set(err, -EINVAL, "postcopy", "migration", "",
				 "one under way from here, with the capability postcopy-ram", "%s",
				 migration_status_name(m->status));
	m->postcopy_now = true;
	return 0;
}

/* Lock held. */
static void shut_lines(struct migration *m)
{
	for (unsigned int i = 0; i < LINES; i++) {
		if (m->channels[1 + i])
			channel_shutdown(m->channels[1 + i]);
	}
}

int postcopy_break(struct migration *m, struct error *err)
{
	int ret = 0;

	pthread_mutex_lock(&m->lock);
	if (m->status == MIGRATION_POSTCOPY_ACTIVE || m->status == MIGRATION_POSTCOPY_RECOVER)
		shut_lines(m);
	else
		ret = error_set(err, -EINVAL, "postcopy", "migration", "",
				"one that is postcopy-active", "%s",
				migration_status_name(m->status));
	pthread_mutex_unlock(&m->lock);
	return ret;
}

/* Lock held. */
static int check_paused(const struct migration *m, bool incoming, struct error *err)
{
	if (m->started && m->wishes.paused && m->incoming == incoming)
		return 0;
	return error_set(err, -EINVAL, "postcopy", "migration", "",
			 incoming ? "a destination that is postcopy-paused"
				  : "a source that is postcopy-paused",
			 "%s", migration_status_name(m->status));
}

int postcopy_resume(struct migration *m, const char *uri, struct error *err)
{
	int ret;

	pthread_mutex_lock(&m->lock);
	ret = check_paused(m, false, err);
	if (ret == 0 && strlen(uri) >= sizeof(m->wishes.uri))
		ret = error_set(err, -ENAMETOOLONG, "migrate", uri, "", "at most 255 bytes", "%zu",
				strlen(uri));
	if (ret == 0) {
		snprintf(m->wishes.uri, sizeof(m->wishes.uri), "%s", uri);
		eventfd_write(m->wake_fd, 1);
	}
	pthread_mutex_unlock(&m->lock);
	return ret;
}

int postcopy_recover(struct migration *m, const char *uri, char bound[256], struct error *err)
{
	struct channel_listener *listener, *old;
	int ret;

	if (!channel_is_many(uri))
		return error_set(err, -EINVAL, "receive", uri, "",
				 "tcp or unix, for several connections", "one connection");
	ret = channel_listen(uri, &listener, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&m->lock);
	ret = check_paused(m, true, err);
	old = ret < 0 ? listener : m->wishes.listener;
	if (ret == 0) {
		m->wishes.listener = listener;
		snprintf(bound, 256, "%s", channel_listener_uri(listener));
		eventfd_write(m->wake_fd, 1);
	}
	pthread_mutex_unlock(&m->lock);
	channel_listener_close(old);
	return ret;
}

/* The lock is held. */
static void abandon(struct migration *m)
{
	m->wishes.abandoned = true;
	/* A destination still has a word to say: that it does not need the rest. */
	if (!m->incoming)
		shut_lines(m);
	for (unsigned int i = 0; i < LINES; i++) {
		if (m->channels[1 + i])
			channel_set_timeout(m->channels[1 + i], LAST_MS);
	}
	eventfd_write(m->wake_fd, 1);
}

void postcopy_abandon(struct migration *m)
{
	pthread_mutex_lock(&m->lock);
	abandon(m);
	pthread_mutex_unlock(&m->lock);
}

bool postcopy_give_up(struct migration *m)
{
	bool may;

	pthread_mutex_lock(&m->lock);
	/* With an address it is about to go on. */
	may = m->wishes.paused && !m->wishes.uri[0] && !m->incoming &&
	      m->vm->state == VM_HANDED_OVER;
	if (may)
		abandon(m);
	pthread_mutex_unlock(&m->lock);
	return may;
}
