/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy at the destination: what is missing, the threads, and what becomes of a failure.
 *
 * Until LOADED is said a failure is one of the whole migration; who sleeps on a page is let go with
 * a zero page then, for the guest will not run here. From then on the guest may be ours alone, and
 * a failure only pauses.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/param.h>
#include <unistd.h>

#include "migration/postcopy-load.h"
#include "vmm/control.h"

#define LAST_MS 1000 /* for last words */

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "postcopy", "RAM", "", "memory", "none");
}

int postcopy_load_accept(struct postcopy_load **out, struct ram_load *ram, struct protocol *p,
			 struct channel_listener *listener, const char *token, struct error *err)
{
	struct postcopy_load *l = *out = calloc(1, sizeof(*l));
	int ret;

	if (!l) {
		channel_listener_close(listener);
		return no_memory(err);
	}
	l->ram = ram;
	l->m = ram->m;
	l->mem = ram->mem;
	l->main = p;
	l->listener = listener;
	l->uffd.fd = -1;
	memcpy(l->token, token, sizeof(l->token));
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->write_lock, NULL);
	pthread_mutex_init(&l->waiting.lock, NULL);
	l->stop_faults = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned int i = 0; i < LINES; i++) {
		l->readers[i].piece = malloc(PIECE);
		if (!l->readers[i].piece || l->stop_faults < 0)
			return no_memory(err);
	}
	userfault_prepare(l->mem);
	ret = page_map_init(&l->named, l->mem, err);
	ret = ret < 0 ? ret : page_map_init(&l->absent, l->mem, err);
	ret = ret < 0 ? ret : page_map_init(&l->asked, l->mem, err);
	return ret < 0 ? ret : postcopy_accept_lines(l, err);
}

/* ---- What is missing ---- */

/* Also what was never written: it may be part of a huge page that holds something else. */
static int discard_named(struct postcopy_load *l, struct error *err)
{
	uint64_t gpa = 0, n;
	int ret = 0;

	for (; ret == 0 && page_map_next(&l->named, &gpa); gpa += n << PAGE_SHIFT) {
		n = page_map_run(&l->named, gpa, UINT64_MAX);
		for (uint64_t i = 0; i < n; i++) {
			page_map_clear(&l->named, gpa + (i << PAGE_SHIFT));
			l->n_absent += !page_map_set(&l->absent, gpa + (i << PAGE_SHIFT));
		}
		ret = userfault_discard(&l->uffd, gpa, n << PAGE_SHIFT);
	}
	l->m->stats.remaining = l->n_absent << PAGE_SHIFT;
	return ret == 0 ? 0
			: error_set(err, ret, "postcopy", "RAM", "",
				    "to discard what is out of date", "%s", strerror(-ret));
}

int postcopy_load_missing(struct postcopy_load *l, const struct record *rec, struct error *err)
{
	return page_map_receive(&l->named, rec, err);
}

int postcopy_load_listen(struct postcopy_load *l, const struct record *rec, struct error *err)
{
	int ret;

	if (l->on)
		return error_set(err, -EPROTO, "stream", rec->device, "type", "LISTEN once",
				 "another");
	/* First: then nothing in the kernel makes whole again what is taken away. */
	ret = userfault_open(&l->uffd, l->mem, err);
	l->on = true;
	ret = ret < 0 ? ret : discard_named(l, err);
	return ret < 0 ? ret : protocol_say(l->main, RECORD_READY, NULL, err);
}

bool postcopy_load_is_on(const struct postcopy_load *l)
{
	return l && l->on;
}

/* ---- Failures ---- */

/* The first one counts; it wakes all threads that use the lines. */
static void fail(struct postcopy_load *l, const struct error *err)
{
	pthread_mutex_lock(&l->lock);
	if (!l->failed)
		l->error = *err;
	l->failed = true;
	pthread_mutex_unlock(&l->lock);
	page_lines_shutdown(l->lines);
	eventfd_write(l->m->wake_fd, 1);
}

static int failure(struct postcopy_load *l, struct error *err)
{
	int ret;

	pthread_mutex_lock(&l->lock);
	ret = l->failed ? l->error.code : 0;
	if (l->failed && err)
		*err = l->error;
	pthread_mutex_unlock(&l->lock);
	return ret;
}

static void forget_failure(struct postcopy_load *l)
{
	pthread_mutex_lock(&l->lock);
	l->failed = false;
	pthread_mutex_unlock(&l->lock);
}

/* Things broke: shall we wait for a source that comes back? */
static bool pause_if_kept(struct postcopy_load *l)
{
	struct error why;
	bool pause;

	pthread_mutex_lock(&l->lock);
	why = l->error;
	pause = l->kept && !postcopy_abandoned(l->m);
	l->paused = pause;
	if (pause)
		l->failed = false;
	pthread_mutex_unlock(&l->lock);
	if (pause) {
		postcopy_pause(l->m, &why);
		control_step_aside(l->m->vm);
	}
	return pause;
}

/* Nothing is missing any more, or nobody cares. */
static void end_faults(struct postcopy_load *l)
{
	eventfd_write(l->stop_faults, 1);
	if (l->hearing)
		pthread_join(l->faults, NULL);
	l->hearing = false;
	userfault_close(&l->uffd);
	l->mem->keep = false;
}

/* ---- The pages thread, and that of urgent pages ---- */

static int read_pages(struct postcopy_load *l, unsigned int number, struct error *err)
{
	struct record rec;
	int ret = protocol_expect(l->lines[number].p, RECORD_RAM, &rec, err);

	return ret < 0 ? ret : postcopy_load_pages(l, number, &rec, err);
}

/* No deadline as long as nobody asks for anything. */
static int wait_urgent(struct postcopy_load *l, struct error *err)
{
	struct protocol *p = l->lines[LINE_FAULTS].p;
	uint64_t owed = UINT64_MAX;

	while (stream_wait(&p->stream, -1, protocol_limit(p)) == -ETIMEDOUT) {
		if (postcopy_is_owed(l, &owed))
			return error_set(err, -ETIMEDOUT, "postcopy", p->channel->name, "page",
					 "it when it is asked for", "no 0x%llx within %d ms",
					 (unsigned long long)owed, protocol_limit(p));
	}
	return 0;
}

static void *read_urgent(void *opaque)
{
	struct postcopy_load *l = opaque;
	struct error err = { 0 };

	while (wait_urgent(l, &err) == 0 && read_pages(l, LINE_FAULTS, &err) == 0)
		;
	fail(l, &err);
	return NULL;
}

static bool is_committed(struct postcopy_load *l)
{
	bool committed;

	pthread_mutex_lock(&l->lock);
	committed = l->committed;
	pthread_mutex_unlock(&l->lock);
	return committed;
}

/* Before COMMIT nothing comes in the background, then something all the time. */
static int wait_background(struct postcopy_load *l, struct protocol *p)
{
	int ret = stream_wait(&p->stream, l->m->wake_fd, is_committed(l) ? protocol_limit(p) : -1);

	if (ret == -ECANCELED)
		postcopy_woken(l->m);
	return ret;
}

/* All is here, or nobody is interested: false in the second case. */
static bool wait_commit(struct postcopy_load *l)
{
	struct pollfd pfd = { .fd = l->m->wake_fd, .events = POLLIN };

	while (!is_committed(l) && !postcopy_abandoned(l->m)) {
		poll(&pfd, 1, -1);
		postcopy_woken(l->m);
	}
	return is_committed(l);
}

/* Until all is here, or nobody needs the rest. */
static int read_background(struct postcopy_load *l, struct error *err)
{
	struct protocol *p = l->lines[LINE_BACKGROUND].p;
	int ret = 0;

	while (ret == 0 && l->n_absent && !postcopy_abandoned(l->m)) {
		if (failure(l, err) < 0)
			return err->code;
		if (wait_background(l, p) != -ECANCELED)
			ret = read_pages(l, LINE_BACKGROUND, err);
	}
	if (ret < 0)
		return ret;
	/* Not needed: because the guest has ended, not because it will never be here. */
	if (!wait_commit(l))
		return error_set(err, -ECANCELED, "postcopy", "RAM", "", "COMMIT", "none");
	protocol_set_deadline(p, LAST_MS);
	return protocol_say(p, RECORD_END, NULL, err);
}

static int start_thread(pthread_t *thread, void *(*run)(void *), struct postcopy_load *l,
			bool *started, struct error *err)
{
	int ret = -pthread_create(thread, NULL, run, l);

	*started = ret == 0;
	return ret == 0 ? 0
			: error_set(err, ret, "postcopy", "threads", "", "a thread", "%s",
				    strerror(-ret));
}

/* As long as the lines hold. */
static int session(struct postcopy_load *l, struct error *err)
{
	int ret = start_thread(&l->urgent, read_urgent, l, &l->reading_urgent, err);

	postcopy_ask_again(l);
	ret = ret < 0 ? ret : read_background(l, err);
	if (ret < 0)
		fail(l, err);
	postcopy_close_lines(l);
	/* The source hangs up when it has heard that we have all. */
	if (ret == 0)
		forget_failure(l);
	return ret;
}

static int recover(struct postcopy_load *l, struct error *err)
{
	/* Whoever says READY promises that the guest is here. */
	int ret = wait_commit(l) ? postcopy_meet_again(l, err) : -ECANCELED;

	control_step_back(l->m->vm);
	if (ret < 0) {
		fail(l, err);
		postcopy_close_lines(l);
		return ret;
	}
	pthread_mutex_lock(&l->lock);
	l->paused = false;
	pthread_mutex_unlock(&l->lock);
	migration_set_status(l->m, MIGRATION_POSTCOPY_ACTIVE);
	return session(l, err);
}

static void *pages(void *opaque)
{
	struct postcopy_load *l = opaque;
	struct error err = { 0 };
	int ret = session(l, &err);

	while (ret < 0 && pause_if_kept(l)) {
		error_clear(&err);
		ret = recover(l, &err);
	}
	end_faults(l);
	return NULL;
}

/* ---- For the migration's thread ---- */

int postcopy_load_start(struct postcopy_load *l, struct error *err)
{
	int ret = discard_named(l, err);

	l->mem->keep = true;
	ret = ret < 0 ? ret : start_thread(&l->faults, postcopy_hear_faults, l, &l->hearing, err);
	return ret < 0 ? ret : start_thread(&l->pages, pages, l, &l->started, err);
}

int postcopy_load_keep(struct postcopy_load *l, struct error *err)
{
	int ret;

	pthread_mutex_lock(&l->lock);
	ret = l->failed ? l->error.code : 0;
	if (l->failed)
		*err = l->error;
	l->kept = ret == 0;
	pthread_mutex_unlock(&l->lock);
	if (ret == 0)
		postcopy_begin(l->m);
	return ret;
}

void postcopy_load_commit(struct postcopy_load *l)
{
	pthread_mutex_lock(&l->lock);
	l->committed = true;
	pthread_mutex_unlock(&l->lock);
	eventfd_write(l->m->wake_fd, 1);
}

int postcopy_load_finish(struct postcopy_load *l, struct error *err)
{
	bool paused;

	pthread_mutex_lock(&l->lock);
	paused = l->paused;
	pthread_mutex_unlock(&l->lock);
	if (!paused)
		migration_set_status(l->m, MIGRATION_POSTCOPY_ACTIVE);
	pthread_join(l->pages, NULL);
	l->started = false;
	return failure(l, err);
}

void postcopy_load_free(struct postcopy_load *l)
{
	if (!l)
		return;
	if (l->started) {
		postcopy_abandon(l->m);
		pthread_join(l->pages, NULL);
	}
	end_faults(l);
	postcopy_close_lines(l);
	channel_listener_close(l->listener);
	for (unsigned int i = 0; i < LINES; i++)
		free(l->readers[i].piece);
	page_map_free(&l->named);
	page_map_free(&l->absent);
	page_map_free(&l->asked);
	close(l->stop_faults);
	pthread_mutex_destroy(&l->lock);
	pthread_mutex_destroy(&l->write_lock);
	pthread_mutex_destroy(&l->waiting.lock);
	free(l);
}
