/* SPDX-License-Identifier: BSD-2-Clause */
/* Postcopy at the source: the connections, when to begin, and what is missing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migration/messages.h"
#include "migration/postcopy-save.h"

#define CONNECT_MS 10000

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "postcopy", "RAM", "", "memory", "none");
}

/* ---- Connections ---- */

static int introduce(struct postcopy_save *s, unsigned int number, struct error *err)
{
	struct message m;

	message_begin(&m);
	message_string(&m, "token", s->token);
	message_u64(&m, "number", number);
	message_u64(&m, "attempt", s->attempt);
	return protocol_say(s->lines[number].p, RECORD_CHANNEL, message_end(&m), err);
}

int postcopy_connect_lines(struct postcopy_save *s, const char *uri, int cancel_fd,
			   struct error *err)
{
	int deadline = s->m->params.deadline_ms, ret = 0;

	for (unsigned int i = 0; i < LINES && ret == 0; i++) {
		struct channel *ch;

		ret = channel_connect(uri, deadline ? deadline : CONNECT_MS, cancel_fd, &ch, err);
		ret = ret < 0 ? ret : page_line_open(&s->lines[i], s->m, i, ch, SIDE_SOURCE, err);
		ret = ret < 0 ? ret : introduce(s, i, err);
	}
	s->attempt++;
	s->background.p = s->lines[LINE_BACKGROUND].p;
	s->urgent.p = s->lines[LINE_FAULTS].p;
	return ret;
}

void postcopy_hang_up(struct postcopy_save *s)
{
	page_lines_shutdown(s->lines);
	if (s->started)
		pthread_join(s->thread, NULL);
	s->started = false;
	for (unsigned int i = 0; i < LINES; i++)
		page_line_close(&s->lines[i], s->m, i);
	s->background.n = s->urgent.n = 0;
	s->background.payload = s->background.pages = s->urgent.payload = s->urgent.pages = 0;
}

/* ---- Up to COMMIT ---- */

/* Where a guest that is too fast can be slowed down instead, postcopy may be impossible. */
static bool postcopy_is_one_way_of_some(const struct migration *m)
{
	return m->params.auto_converge && m->params.postcopy_when == POSTCOPY_AUTO;
}

bool postcopy_wanted(const struct migration *m)
{
	return m->params.postcopy && !m->file;
}

int postcopy_agree(const struct migration *m, uint64_t theirs, uint64_t *on, struct error *err)
{
	const char *also = multifd_wanted(m) ? "multifd" : m->params.mirror ? "blk" : NULL;

	*on = theirs && !also;
	if (*on || postcopy_is_one_way_of_some(m))
		return 0;
	if (also)
		return error_set(err, -EOPNOTSUPP, "migrate", "capabilities", "postcopy-ram",
				 "no other way to migrate besides", "%s", also);
	return error_set(err, -EOPNOTSUPP, "hello", "destination", "postcopy",
			 "a host and a connection that can do it", "neither or one of them");
}

int postcopy_save_open(struct postcopy_save **out, struct ram_save *ram, const char *uri,
		       const char *token, struct error *err)
{
	struct postcopy_save *s = *out = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return no_memory(err);
	s->ram = ram;
	s->m = ram->m;
	s->vm = ram->vm;
	s->go_to = NOWHERE;
	memcpy(s->token, token, sizeof(s->token));
	pthread_mutex_init(&s->lock, NULL);
	ret = page_map_init(&s->missing, &s->vm->memory, err);
	ret = ret < 0 ? ret : page_map_init(&s->left, &s->vm->memory, err);
	ret = ret < 0 ? ret : page_map_init(&s->asked, &s->vm->memory, err);
	return ret < 0 ? ret : postcopy_connect_lines(s, uri, s->m->cancel_fd, err);
}

/* A round that does not even halve what is left will not be followed by one that does. With
 * auto-converge that is not the end of it, and source_decide() says when. */
bool postcopy_save_is_due(struct postcopy_save *s, uint64_t before)
{
	uint64_t rounds;
	int when;

	if (!s)
		return false;
	rounds = s->m->stats.rounds;
	when = s->m->params.postcopy_when;
	if (when == POSTCOPY_AUTO)
		return s->m->postcopy_now || (!s->m->params.auto_converge && rounds > 1 &&
					      ram_save_remaining(s->ram) > before / 2);
	return s->m->postcopy_now || (when >= 0 && rounds >= (uint64_t)when);
}

/* What the dirty log has shown becomes missing, and what of it is new is said. */
static int name_missing(struct postcopy_save *s, struct error *err)
{
	struct page_map news = { 0 };
	int ret = page_map_init(&news, &s->vm->memory, err);

	for (unsigned int i = 0; i < s->vm->memory.n_regions && ret == 0; i++) {
		uint64_t words = (s->vm->memory.regions[i].size / PAGE_SIZE + 63) / 64;

		for (uint64_t w = 0; w < words; w++) {
			news.bits[i][w] = s->ram->bitmap[i][w] & ~s->missing.bits[i][w];
			s->missing.bits[i][w] |= news.bits[i][w];
			s->left.bits[i][w] |= news.bits[i][w];
			s->ram->bitmap[i][w] = 0;
		}
	}
	ret = ret < 0 ? ret : page_map_send(&news, s->ram->p, err);
	page_map_free(&news);
	s->n_left = page_map_count(&s->left);
	s->m->stats.remaining = s->n_left << PAGE_SHIFT;
	return ret;
}

int postcopy_save_prepare(struct postcopy_save *s, struct error *err)
{
	struct record rec;
	int ret = name_missing(s, err);

	ret = ret < 0 ? ret : protocol_say(s->ram->p, RECORD_LISTEN, NULL, err);
	s->on = true;
	return ret < 0 ? ret : protocol_expect(s->ram->p, RECORD_READY, &rec, err);
}

int postcopy_save_switch(struct postcopy_save *s, struct error *err)
{
	int ret = name_missing(s, err);

	return ret < 0 ? ret : postcopy_answer(s, err);
}

bool postcopy_save_is_on(const struct postcopy_save *s)
{
	return s && s->on;
}

int postcopy_save_check(struct postcopy_save *s, struct error *err)
{
	int ret;

	pthread_mutex_lock(&s->lock);
	ret = s->failed ? s->error.code : 0;
	if (s->failed) {
		error_clear(err);
		*err = s->error;
	}
	pthread_mutex_unlock(&s->lock);
	return ret;
}

void postcopy_save_free(struct postcopy_save *s)
{
	if (!s)
		return;
	postcopy_hang_up(s);
	page_map_free(&s->missing);
	page_map_free(&s->left);
	page_map_free(&s->asked);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
