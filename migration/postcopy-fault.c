/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy at the destination: who touches a page that is not there, and how it gets there.
 *
 * The order that makes it whole: a page's bit in `absent` goes after the page has been put in its
 * place. So who finds the bit set may at most ask for a page in vain, and who finds it gone may let
 * the kernel clear the page: if it is there, that fails, and if not, it never held anything.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/param.h>

#include "migration/postcopy-load.h"

/* ---- How long somebody waits ---- */

static void begin_waiting(struct postcopy_load *l, uint64_t gpa, uint64_t now)
{
	struct waiting *w = &l->waiting;

	pthread_mutex_lock(&w->lock);
	if (w->n < WAITING_MAX) {
		w->faults[w->n].gpa = gpa;
		w->faults[w->n].since_ns = now;
		w->n++;
	}
	pthread_mutex_unlock(&w->lock);
}

/* Pages [@gpa, @gpa + @len) are there. */
static void end_waiting(struct postcopy_load *l, uint64_t gpa, uint64_t len)
{
	struct waiting *w = &l->waiting;
	uint64_t now = now_ns();

	pthread_mutex_lock(&w->lock);
	for (unsigned int i = 0; i < w->n;) {
		if (w->faults[i].gpa - gpa >= len) {
			i++;
			continue;
		}
		latency_add(&l->m->stats.faults, now - w->faults[i].since_ns);
		w->faults[i] = w->faults[w->n - 1];
		w->n--;
	}
	pthread_mutex_unlock(&w->lock);
}

/* ---- Pages that come ---- */

static int check_absent(const struct postcopy_load *l, const struct ram_run *run,
			const struct record *rec, struct error *err)
{
	uint64_t n = page_map_run(&l->absent, run->gpa, run->pages);

	if (n == run->pages)
		return 0;
	return error_set(err, -EPROTO, "stream", rec->device, "page", "one that is missing",
			 "0x%llx, which is here", (unsigned long long)run->gpa + (n << PAGE_SHIFT));
}

static int not_placed(const struct record *rec, uint64_t gpa, int code, struct error *err)
{
	return error_set(err, code == -EEXIST ? -EPROTO : code, "stream", rec->device, "page",
			 "one that is missing", "0x%llx: %s", (unsigned long long)gpa,
			 strerror(-code));
}

static void arrived(struct postcopy_load *l, uint64_t gpa, uint64_t len)
{
	uint64_t n = len >> PAGE_SHIFT;

	for (uint64_t i = 0; i < n; i++)
		page_map_clear(&l->absent, gpa + (i << PAGE_SHIFT));
	/* The bits first: see take_faults(). */
	if (l->waiting.n)
		end_waiting(l, gpa, len);
	l->m->stats.remaining = (atomic_fetch_sub(&l->n_absent, n) - n) << PAGE_SHIFT;
	if (!l->n_absent)
		eventfd_write(l->m->wake_fd, 1);
}

/* What the kernel puts in place it copies, so a run goes through a buffer, piece by piece. */
static int load_run(struct postcopy_load *l, unsigned int number, const struct ram_run *run,
		    const struct record *rec, struct error *err)
{
	struct protocol *p = l->lines[number].p;
	uint8_t *piece = l->readers[number].piece;
	uint64_t gpa = run->gpa, end = gpa + ((uint64_t)run->pages << PAGE_SHIFT), len;
	int ret = 0;

	for (; gpa < end && ret == 0; gpa += len) {
		len = MIN(end - gpa, PIECE);
		if (run->kind == RAM_DATA)
			ret = record_payload_result(
				&p->reader, rec,
				stream_readv(&p->stream, &(struct iovec){ piece, len }, 1), err);
		if (ret < 0)
			return ret;
		ret = run->kind == RAM_DATA ? userfault_copy(&l->uffd, gpa, piece, len)
					    : userfault_zero(&l->uffd, gpa, len);
		if (ret < 0)
			return not_placed(rec, gpa, ret, err);
		arrived(l, gpa, len);
	}
	return 0;
}

int postcopy_load_pages(struct postcopy_load *l, unsigned int number, const struct record *rec,
			struct error *err)
{
	struct migration_stats *stats = &l->m->stats;
	struct ram_table *t = &l->readers[number].table;
	int n = ram_runs_decode(rec, t->runs, err);
	int ret = n < 0 ? n : ram_load_check_runs(l->ram, t, rec, (unsigned int)n, err);

	for (int i = 0; i < n && ret == 0; i++)
		ret = check_absent(l, &t->runs[i], rec, err);
	for (int i = 0; i < n && ret == 0; i++) {
		ret = load_run(l, number, &t->runs[i], rec, err);
		if (t->runs[i].kind == RAM_DATA)
			stats->pages_data += t->runs[i].pages;
		else
			stats->pages_zero += t->runs[i].pages;
	}
	stats->records++;
	migration_count(l->m, l->lines[number].p);
	return ret;
}

/* ---- Faults ---- */

/* Never sent, because it never held anything; or here since the fault was reported. */
static void settle(struct postcopy_load *l, uint64_t gpa)
{
	if (userfault_zero(&l->uffd, gpa, PAGE_SIZE) < 0)
		userfault_wake(&l->uffd, gpa);
}

/* If there is no connection, the pages stay `asked`, and are asked for again over the next. What
 * goes wrong here the readers meet, too. */
static void say_request(struct postcopy_load *l, const uint64_t *gpas, unsigned int n)
{
	uint8_t wire[REQUEST_META_MAX];
	struct protocol *p = l->lines[LINE_FAULTS].p;
	struct error ignored = { 0 };
	struct record_meta meta;

	record_meta_init(&meta, wire, sizeof(wire));
	for (unsigned int i = 0; i < n; i++)
		record_put_be64(&meta, gpas[i]);
	if (protocol_send(p, RECORD_REQUEST, wire, meta.pos, 0, false, &ignored) == 0)
		protocol_flush(p, &ignored);
}

/* Ask for those of the @n pages that were not asked for yet. Marking and asking are one step, or
 * postcopy_ask_again() would come between and ask for the same; no source takes that. */
static unsigned int ask_for(struct postcopy_load *l, uint64_t *gpas, unsigned int n)
{
	unsigned int new = 0;

	pthread_mutex_lock(&l->write_lock);
	for (unsigned int i = 0; i < n; i++) {
		if (!page_map_set(&l->asked, gpas[i]))
			gpas[new ++] = gpas[i];
	}
	if (new && l->connected)
		say_request(l, gpas, new);
	pthread_mutex_unlock(&l->write_lock);
	return new;
}

void postcopy_ask_again(struct postcopy_load *l)
{
	uint64_t gpas[REQUEST_MAX];
	unsigned int n = 0;

	pthread_mutex_lock(&l->write_lock);
	l->connected = true;
	for (uint64_t gpa = 0, last = 0; page_map_next(&l->asked, &gpa) && gpa >= last;
	     last = gpa += PAGE_SIZE) {
		if (page_map_test(&l->absent, gpa))
			gpas[n++] = gpa;
		if (n == REQUEST_MAX) {
			say_request(l, gpas, n);
			n = 0;
		}
	}
	if (n)
		say_request(l, gpas, n);
	pthread_mutex_unlock(&l->write_lock);
}

bool postcopy_is_owed(struct postcopy_load *l, uint64_t *owed)
{
	uint64_t gpa = 0, last = 0;

	if (*owed != UINT64_MAX && page_map_test(&l->absent, *owed))
		return true;
	*owed = UINT64_MAX;
	pthread_mutex_lock(&l->write_lock);
	for (; page_map_next(&l->asked, &gpa) && gpa >= last; last = gpa += PAGE_SIZE) {
		if (page_map_test(&l->absent, gpa)) {
			*owed = gpa;
			break;
		}
	}
	pthread_mutex_unlock(&l->write_lock);
	return false;
}

static void take_faults(struct postcopy_load *l)
{
	uint64_t gpas[REQUEST_MAX];
	uint64_t now = now_ns();
	unsigned int wanted = 0;
	int n = userfault_read(&l->uffd, gpas, REQUEST_MAX);

	for (int i = 0; i < n; i++) {
		if (!page_map_test(&l->absent, gpas[i])) {
			settle(l, gpas[i]);
			continue;
		}
		begin_waiting(l, gpas[i], now);
		/* Has it come before we said that somebody waits? */
		if (!page_map_test(&l->absent, gpas[i]))
			end_waiting(l, gpas[i], PAGE_SIZE);
		else
			gpas[wanted++] = gpas[i];
	}
	l->m->stats.postcopy_requests += ask_for(l, gpas, wanted);
}

void *postcopy_hear_faults(void *opaque)
{
	struct postcopy_load *l = opaque;
	struct pollfd fds[] = {
		{ .fd = l->uffd.fd, .events = POLLIN },
		{ .fd = l->stop_faults, .events = POLLIN },
	};

	while (!fds[1].revents) {
		if (poll(fds, 2, -1) > 0 && fds[0].revents)
			take_faults(l);
	}
	return NULL;
}
