/* SPDX-License-Identifier: BSD-2-Clause */
/* Postcopy at the source: naming what is missing, answering requests, sending the rest meanwhile.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/param.h>

#include "migration/messages.h"
#include "migration/postcopy.h"
#include "migration/zero.h"

#define CONNECT_MS 10000
#define LAST_MS	   1000 /* for last words */
/* Of the background: as little as still moves well, for who waits for a page of it waits longer. */
#define BATCH	(256UL << 10)
#define NOWHERE UINT64_MAX

struct postcopy_save {
	struct migration *m;
	struct vm *vm;
	struct ram_save *ram;
	char token[TOKEN_SIZE];
	bool on;		 /* LISTEN has been said */
	struct page_map missing; /* at the destination, when the guest went there */
	struct page_map left;	 /* … and not sent since; who clears a bit sends the page */
	_Atomic uint64_t n_left;
	struct page_map asked; /* over this pair of connections */

	struct page_line lines[LINES];
	struct ram_batch background, urgent;
	_Atomic uint64_t go_to; /* where the background goes on, since a fault was there */
	pthread_t thread;	/* answers requests */
	bool started;

	pthread_mutex_t lock; /* of the rest */
	bool failed;
	struct error error; /* the first one */
};

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "postcopy", "RAM", "", "memory", "none");
}

/* ---- Sending pages ---- */

/* Runs of a record are in the order of gpa. */
static bool fits(const struct ram_batch *b, uint64_t gpa)
{
	const struct ram_run *last = b->n ? &b->runs[b->n - 1] : NULL;

	return !last || (b->n < RAM_RUNS_MAX && b->payload < BATCH &&
			 gpa >= last->gpa + ((uint64_t)last->pages << PAGE_SHIFT));
}

/* Take pages from @gpa on, which is RAM, into @b, if nobody else has them; @max at most. */
static void take_run(struct postcopy_save *s, struct ram_batch *b, uint64_t gpa, uint64_t max)
{
	const struct memory *mem = &s->vm->memory;
	const struct memory_region *region = &mem->regions[0];

	while (gpa - region->gpa >= region->size)
		region++;
	for (uint64_t n = 0; n < max && gpa - region->gpa < region->size; n++, gpa += PAGE_SIZE) {
		uint64_t page = (gpa - region->gpa) >> PAGE_SHIFT;

		if (b->n == RAM_RUNS_MAX || !page_map_clear(&s->left, gpa))
			return;
		ram_batch_add(b, region, page,
			      page_is_zero(memory_hva(mem, gpa, PAGE_SIZE)) ? RAM_ZERO : RAM_DATA);
	}
}

static int send_batch(struct postcopy_save *s, struct ram_batch *b, struct error *err)
{
	struct migration_stats *stats = &s->m->stats;
	int ret;

	if (!b->n)
		return 0;
	ret = ram_batch_send(s->ram, b, err);
	stats->pages_data += b->payload >> PAGE_SHIFT;
	stats->pages_zero += b->pages - (b->payload >> PAGE_SHIFT);
	stats->remaining = (atomic_fetch_sub(&s->n_left, b->pages) - b->pages) << PAGE_SHIFT;
	stats->records++;
	migration_count(s->m, b->p);
	b->n = 0;
	b->payload = b->pages = 0;
	return ret;
}

/* ---- A pair of connections, and the thread that answers requests ---- */

/* The background goes on to its end or to the next record: END may be there. */
static void fail(struct postcopy_save *s, const struct error *err)
{
	pthread_mutex_lock(&s->lock);
	if (!s->failed)
		s->error = *err;
	s->failed = true;
	pthread_mutex_unlock(&s->lock);
	eventfd_write(s->m->wake_fd, 1);
}

static int bad_request(const struct record *rec, const char *expected, uint64_t gpa,
		       struct error *err)
{
	return error_set(err, -EPROTO, "stream", rec->device, "gpa", expected, "0x%llx",
			 (unsigned long long)gpa);
}

/* A page that is on its way already, in the background, is no fault of who asks. */
static int take_request(struct postcopy_save *s, const struct record *rec, uint64_t gpa,
			struct error *err)
{
	int ret = 0;

	if (gpa % PAGE_SIZE || !memory_hva(&s->vm->memory, gpa, PAGE_SIZE))
		return bad_request(rec, "a page of the guest's RAM", gpa, err);
	if (!page_map_test(&s->missing, gpa))
		return bad_request(rec, "a page that is missing there", gpa, err);
	if (page_map_set(&s->asked, gpa))
		return bad_request(rec, "a page that was not asked for before", gpa, err);
	if (!fits(&s->urgent, gpa))
		ret = send_batch(s, &s->urgent, err);
	take_run(s, &s->urgent, gpa, 1);
	s->m->stats.postcopy_requests++;
	/* Who reads here is likely to read on. */
	s->go_to = gpa + PAGE_SIZE;
	return ret;
}

static int answer(struct postcopy_save *s, struct error *err)
{
	struct protocol *p = s->lines[LINE_FAULTS].p;
	struct record_meta meta;
	struct record rec;
	int ret;

	/* No deadline: there may be nothing to ask for. What a wait meets a read meets, too. */
	stream_wait(&p->stream, -1, -1);
	ret = protocol_expect(p, RECORD_REQUEST, &rec, err);
	if (ret < 0)
		return ret;
	if (!rec.meta_len || rec.meta_len % 8)
		return error_set(err, -EPROTO, "stream", rec.device, "metadata length",
				 "gpas of 8 bytes", "%u bytes", rec.meta_len);
	record_meta_parse(&meta, &rec);
	for (uint32_t i = 0; i < rec.meta_len / 8 && ret == 0; i++)
		ret = take_request(s, &rec, record_get_be64(&meta), err);
	return ret < 0 ? ret : send_batch(s, &s->urgent, err);
}

static void *answer_requests(void *opaque)
{
	struct postcopy_save *s = opaque;
	struct error err = { 0 };

	while (answer(s, &err) == 0)
		;
	fail(s, &err);
	return NULL;
}

static int introduce(struct postcopy_save *s, unsigned int number, struct error *err)
{
	struct message m;

	message_begin(&m);
	message_string(&m, "token", s->token);
	message_u64(&m, "number", number);
	return protocol_say(s->lines[number].p, RECORD_CHANNEL, message_end(&m), err);
}

static int connect_lines(struct postcopy_save *s, const char *uri, int cancel_fd, struct error *err)
{
	int deadline = s->m->params.deadline_ms, ret = 0;

	for (unsigned int i = 0; i < LINES && ret == 0; i++) {
		struct channel *ch;

		ret = channel_connect(uri, deadline ? deadline : CONNECT_MS, cancel_fd, &ch, err);
		ret = ret < 0 ? ret : page_line_open(&s->lines[i], s->m, i, ch, SIDE_SOURCE, err);
		ret = ret < 0 ? ret : introduce(s, i, err);
	}
	s->background.p = s->lines[LINE_BACKGROUND].p;
	s->urgent.p = s->lines[LINE_FAULTS].p;
	return ret;
}

static int start_thread(struct postcopy_save *s, struct error *err)
{
	int ret = -pthread_create(&s->thread, NULL, answer_requests, s);

	s->started = ret == 0;
	if (ret < 0)
		error_set(err, ret, "postcopy", "channels", "", "a thread", "%s", strerror(-ret));
	return ret;
}

static void hang_up(struct postcopy_save *s)
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

bool postcopy_wanted(const struct migration *m)
{
	return m->params.postcopy && !m->file;
}

int postcopy_check(const struct migration *m, uint64_t theirs, struct error *err)
{
	const char *also = multifd_wanted(m) ? "multifd" : m->params.mirror ? "blk" : NULL;

	if (!postcopy_wanted(m))
		return 0;
	if (also)
		return error_set(err, -EOPNOTSUPP, "migrate", "capabilities", "postcopy-ram",
				 "no other way to migrate besides", "%s", also);
	if (!theirs)
		return error_set(err, -EOPNOTSUPP, "hello", "destination", "postcopy",
				 "a host and a connection that can do it",
				 "neither or one of them");
	return 0;
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
	return ret < 0 ? ret : connect_lines(s, uri, s->m->cancel_fd, err);
}

/* A round that does not even halve what is left will not be followed by one that does. */
bool postcopy_save_is_due(struct postcopy_save *s, uint64_t before)
{
	uint64_t rounds;
	int when;

	if (!s)
		return false;
	rounds = s->m->stats.rounds;
	when = s->m->params.postcopy_when;
	if (when == POSTCOPY_AUTO)
		return s->m->postcopy_now ||
		       (rounds > 1 && ram_save_remaining(s->ram) > before / 2);
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

	return ret < 0 ? ret : start_thread(s, err);
}

bool postcopy_save_is_on(const struct postcopy_save *s)
{
	return s && s->on;
}

static int failure(struct postcopy_save *s, struct error *err)
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

int postcopy_save_check(struct postcopy_save *s, struct error *err)
{
	return failure(s, err);
}

/* ---- From COMMIT on ---- */

static int send_background(struct postcopy_save *s, struct error *err)
{
	uint64_t gpa = 0, wanted;
	int ret = 0;

	while (ret == 0 && failure(s, err) == 0 && page_map_next(&s->left, &gpa)) {
		struct ram_batch *b = &s->background;
		uint64_t start = now_ns(), payload;

		while (b->pages < RAM_BATCH_PAGES && page_map_next(&s->left, &gpa) &&
		       fits(b, gpa)) {
			uint64_t n = MIN(page_map_run(&s->left, gpa, BATCH / PAGE_SIZE),
					 (BATCH - b->payload) / PAGE_SIZE);

			take_run(s, b, gpa, n);
			gpa += n << PAGE_SHIFT;
		}
		payload = b->payload;
		ret = send_batch(s, b, err);
		bandwidth_add(&s->ram->bandwidth, payload, now_ns() - start);
		s->m->stats.bandwidth = (uint64_t)bandwidth_get(&s->ram->bandwidth);
		wanted = atomic_exchange(&s->go_to, NOWHERE);
		gpa = wanted == NOWHERE ? gpa : wanted;
	}
	return ret < 0 ? ret : failure(s, err);
}

/* All has been sent: the other side says so when it has come. */
static int wait_end(struct postcopy_save *s, struct error *err)
{
	struct protocol *p = s->lines[LINE_BACKGROUND].p;
	struct record rec;
	int ret;

	do {
		ret = stream_wait(&p->stream, s->m->wake_fd, protocol_limit(p));
		if (ret == -ECANCELED) {
			postcopy_woken(s->m);
			if (failure(s, err) < 0)
				return err->code;
		}
	} while (ret == -ECANCELED && !postcopy_abandoned(s->m));
	return protocol_expect(p, RECORD_END, &rec, err);
}

/* Whatever broke, END is what counts: the other side hangs up right after it. */
static bool has_ended(struct postcopy_save *s)
{
	struct protocol *p = s->lines[LINE_BACKGROUND].p;
	struct error ignored = { 0 };
	struct record rec;

	return p &&
	       (p->state == PROTOCOL_DONE || (stream_wait(&p->stream, -1, LAST_MS) == 0 &&
					      protocol_expect(p, RECORD_END, &rec, &ignored) == 0));
}

static int send_all(struct postcopy_save *s, struct error *err)
{
	struct error theirs = { 0 };
	int ret = send_background(s, err);

	ret = ret < 0 ? ret : wait_end(s, err);
	if (ret < 0 && has_ended(s)) {
		error_clear(err);
		return 0;
	}
	/* What shut the connections down is what is worth telling. */
	if (ret == -ECANCELED && failure(s, &theirs) < 0)
		*err = theirs;
	return ret;
}

int postcopy_save_run(struct postcopy_save *s, int ret, struct error *err)
{
	if (ret < 0)
		return ret;
	postcopy_begin(s->m);
	migration_set_status(s->m, MIGRATION_POSTCOPY_ACTIVE);
	return send_all(s, err);
}

void postcopy_save_free(struct postcopy_save *s)
{
	if (!s)
		return;
	hang_up(s);
	page_map_free(&s->missing);
	page_map_free(&s->left);
	page_map_free(&s->asked);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
