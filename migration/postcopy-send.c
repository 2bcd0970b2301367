/* SPDX-License-Identifier: BSD-2-Clause */
/* Postcopy at the source: pages that are asked for, all others meanwhile, and again after a break.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/param.h>

#include "migration/postcopy-save.h"
#include "migration/zero.h"

#define LAST_MS	  1000 /* for last words */
#define SECOND_NS 1000000000ULL
/* Of the background: as little as still moves well, for who waits for a page of it waits longer. */
#define BATCH (256UL << 10)

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

/* ---- Requests, on a thread of their own ---- */

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

int postcopy_answer(struct postcopy_save *s, struct error *err)
{
	int ret = -pthread_create(&s->thread, NULL, answer_requests, s);

	s->started = ret == 0;
	if (ret < 0)
		error_set(err, ret, "postcopy", "channels", "", "a thread", "%s", strerror(-ret));
	return ret;
}

/* ---- The background ---- */

/* How much a record may carry: with a low limit little, so that it is kept evenly. */
static uint64_t batch_limit(const struct postcopy_save *s)
{
	uint64_t rate = s->m->params.max_postcopy_bandwidth;

	return rate ? MAX(PAGE_SIZE, MIN(BATCH, rate / 20 / PAGE_SIZE * PAGE_SIZE)) : BATCH;
}

/* Who wants something of us need not wait. */
static void keep_limit(struct postcopy_save *s, uint64_t bytes)
{
	struct pollfd pfd = { .fd = s->m->wake_fd, .events = POLLIN };
	uint64_t ns = rate_take(&s->limit, s->m->params.max_postcopy_bandwidth, bytes, now_ns());
	struct timespec ts = { (time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS) };

	if (ns)
		ppoll(&pfd, 1, &ts, NULL);
}

static int send_background(struct postcopy_save *s, struct error *err)
{
	uint64_t gpa = 0, wanted;
	int ret = 0;

	while (ret == 0 && postcopy_save_check(s, err) == 0 && page_map_next(&s->left, &gpa)) {
		struct ram_batch *b = &s->background;
		uint64_t start = now_ns(), payload, max = batch_limit(s);

		while (b->pages < RAM_BATCH_PAGES && page_map_next(&s->left, &gpa) &&
		       b->payload < max && fits(b, gpa)) {
			uint64_t n = MIN(page_map_run(&s->left, gpa, max / PAGE_SIZE),
					 (max - b->payload) / PAGE_SIZE);

			take_run(s, b, gpa, n);
			gpa += n << PAGE_SHIFT;
		}
		payload = b->payload;
		keep_limit(s, payload);
		ret = send_batch(s, b, err);
		bandwidth_add(&s->ram->bandwidth, payload, now_ns() - start);
		s->m->stats.bandwidth = (uint64_t)bandwidth_get(&s->ram->bandwidth);
		wanted = atomic_exchange(&s->go_to, NOWHERE);
		gpa = wanted == NOWHERE ? gpa : wanted;
	}
	return ret < 0 ? ret : postcopy_save_check(s, err);
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
			if (postcopy_save_check(s, err) < 0)
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
	if (ret == -ECANCELED && postcopy_save_check(s, &theirs) < 0)
		*err = theirs;
	return ret;
}

/* ---- When it breaks ---- */

static bool take_uri(struct migration *m, char *uri, size_t size)
{
	pthread_mutex_lock(&m->lock);
	snprintf(uri, size, "%s", m->wishes.uri);
	m->wishes.uri[0] = '\0';
	if (*uri)
		m->wishes.paused = false;
	pthread_mutex_unlock(&m->lock);
	return *uri;
}

/* Until somebody says where to connect to; false when nobody will. */
static bool wait_for_uri(struct migration *m, char *uri, size_t size)
{
	struct pollfd pfd = { .fd = m->wake_fd, .events = POLLIN };

	while (!postcopy_abandoned(m)) {
		if (take_uri(m, uri, size)) {
			/* What called us here must not call off the connecting. */
			postcopy_woken(m);
			return !postcopy_abandoned(m);
		}
		poll(&pfd, 1, -1);
		postcopy_woken(m);
	}
	return false;
}

/* What the destination lacks, and nothing but what it lacked at first. */
static int receive_missing(struct postcopy_save *s, struct error *err)
{
	struct protocol *p = s->lines[LINE_BACKGROUND].p;
	struct record rec;
	int ret;

	page_map_clear_all(&s->left);
	do {
		ret = protocol_receive(p, &rec, err);
		/* Who says that has heard COMMIT. */
		if (ret == 0 && (rec.type == RECORD_MISSING || rec.type == RECORD_READY))
			ret = vm_set_state(s->vm, VM_POSTMIGRATE, err);
		if (ret == 0 && rec.type == RECORD_MISSING)
			ret = page_map_receive(&s->left, &rec, err);
	} while (ret == 0 && rec.type == RECORD_MISSING);
	if (ret == 0 && rec.type != RECORD_READY)
		ret = error_set(err, -EPROTO, "protocol", rec.device, "type", "MISSING or READY",
				"%s", record_name(rec.type));
	if (ret == 0 && !page_map_is_within(&s->left, &s->missing))
		ret = error_set(err, -EPROTO, "protocol", rec.device, "pages",
				"some of those that were missing at first", "others");
	return ret;
}

static int meet_again(struct postcopy_save *s, const char *uri, struct error *err)
{
	int ret;

	postcopy_go_on(s->m, MIGRATION_POSTCOPY_RECOVER);
	ret = postcopy_connect_lines(s, uri, s->m->wake_fd, err);
	ret = ret < 0 ? ret : receive_missing(s, err);
	if (ret < 0)
		return ret;
	page_map_clear_all(&s->asked);
	s->n_left = page_map_count(&s->left);
	s->m->stats.remaining = s->n_left << PAGE_SHIFT;
	ret = postcopy_answer(s, err);
	if (ret == 0)
		migration_set_status(s->m, MIGRATION_POSTCOPY_ACTIVE);
	return ret;
}

/* The first words of a destination that has given up, or been given up. */
static int given_up(struct postcopy_save *s, struct error *err)
{
	error_clear(err);
	return error_set(err, -ECANCELED, "migrate", s->m->uri, "", "all pages to follow the guest",
			 "the end of it here; what the destination still lacks is lost");
}

int postcopy_save_run(struct postcopy_save *s, int ret, struct error *err)
{
	char uri[sizeof(s->m->wishes.uri)];

	postcopy_begin(s->m);
	if (ret == 0) {
		migration_set_status(s->m, MIGRATION_POSTCOPY_ACTIVE);
		ret = send_all(s, err);
	} else {
		vm_set_state(s->vm, VM_HANDED_OVER, NULL);
	}
	while (ret < 0) {
		postcopy_hang_up(s);
		s->failed = false;
		postcopy_pause(s->m, err);
		if (!wait_for_uri(s->m, uri, sizeof(uri)))
			return s->vm->state == VM_HANDED_OVER ? ret : given_up(s, err);
		error_clear(err);
		ret = meet_again(s, uri, err);
		ret = ret < 0 ? ret : send_all(s, err);
	}
	return ret;
}
