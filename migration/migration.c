/* SPDX-License-Identifier: BSD-2-Clause */
/* The migration object and the life of its thread. */
#include "migration/migration.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migration/postcopy.h"
#include "migration/protocol.h"

#define SECOND_NS	 1000000000ULL
#define DEFAULT_DOWNTIME 300 /* ms */
#define DEFAULT_CHANNELS 2   /* as in the public QMP schema; used with multifd only */

static const char *const status_names[MIGRATION_STATUSES] = {
	[MIGRATION_NONE] = "none",
	[MIGRATION_SETUP] = "setup",
	[MIGRATION_ACTIVE] = "active",
	[MIGRATION_DEVICE] = "device",
	[MIGRATION_POSTCOPY_ACTIVE] = "postcopy-active",
	[MIGRATION_POSTCOPY_PAUSED] = "postcopy-paused",
	[MIGRATION_POSTCOPY_RECOVER] = "postcopy-recover",
	[MIGRATION_CANCELLING] = "cancelling",
	[MIGRATION_COMPLETED] = "completed",
	[MIGRATION_FAILED] = "failed",
	[MIGRATION_CANCELLED] = "cancelled",
};

const char *migration_status_name(enum migration_status status)
{
	return status_names[status];
}

bool migration_is_active(const struct migration *m)
{
	return m->started;
}

void migration_set_status(struct migration *m, enum migration_status status)
{
	bool late;

	pthread_mutex_lock(&m->lock);
	/* The thread may be a step behind somebody who has just cancelled. */
	late = m->status == MIGRATION_CANCELLING &&
	       (status == MIGRATION_ACTIVE || status == MIGRATION_DEVICE);
	if (!late)
		m->status = status;
	pthread_mutex_unlock(&m->lock);
	if (!late)
		migration_event(m, status);
}

/* The thread has ended or is about to. */
static void join(struct migration *m)
{
	if (!m->started)
		return;
	pthread_join(m->thread, NULL);
	m->started = false;
	loop_timer_set(m->timer, -1);
	channel_listener_close(m->listener);
	m->listener = NULL;
	channel_listener_close(m->wishes.listener);
	m->wishes.listener = NULL;
	close(m->cancel_fd);
	close(m->wake_fd);
	m->cancel_fd = m->wake_fd = -1;
}

/* The machine is about to go; the loop does not run any more. */
static void vm_gone(void *opaque)
{
	struct migration *m = opaque;
	struct error reason = { 0 };

	error_set(&reason, -ECANCELED, "migrate", "guest", "", "", "the process is ending");
	if (m->started && migration_cancel(m, &reason, NULL) == -EBUSY)
		postcopy_abandon(m);
	join(m);
	/* What the thread posted last (events) is still to be carried out, and so freed. */
	loop_stop(m->vm->loop);
	loop_run(m->vm->loop);
	loop_timer_del(m->timer);
	pthread_mutex_destroy(&m->lock);
	m->vm->migration = NULL;
	free(m);
}

/* A guest that has ended has nothing left to migrate. */
static void vm_changed(void *opaque, enum vm_state from, enum vm_state to)
{
	struct migration *m = opaque;
	struct error reason = { 0 };

	(void)from;
	if (!m->started || m->incoming || (to != VM_SHUTDOWN && to != VM_INTERNAL_ERROR))
		return;
	error_set(&reason, -ECANCELED, "migrate", "guest", "", "a guest that runs", "%s",
		  vm_state_name(to));
	migration_cancel(m, &reason, NULL);
}

static void timed_out(void *opaque)
{
	struct migration *m = opaque;
	struct error reason = { 0 };

	m->timed_out = true;
	if (m->params.force)
		return;
	error_set(&reason, -ETIMEDOUT, "migrate", m->uri, "timeout", "", "not done by then");
	error_expected(&reason, "the end within %llu s", (unsigned long long)m->params.timeout);
	migration_cancel(m, &reason, NULL);
}

struct migration *migration_get(struct vm *vm)
{
	struct migration *m = vm->migration;

	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m || loop_timer_add(vm->loop, timed_out, m, &m->timer) < 0) {
		free(m);
		return NULL;
	}
	m->vm = vm;
	m->params.downtime_limit = DEFAULT_DOWNTIME;
	m->params.iovecs = IOV_MAX;
	m->params.channels = DEFAULT_CHANNELS;
	m->params.compress_level = 1;
	m->params.delta_memory = 128 << 20;
	m->params.mapped_ram = true;
	m->params.postcopy_when = POSTCOPY_BY_COMMAND;
	m->cancel_fd = m->wake_fd = -1;
	m->realize = vm_realize;
	pthread_mutex_init(&m->lock, NULL);
	m->vm_listener =
		(struct vm_listener){ .changed = vm_changed, .gone = vm_gone, .opaque = m };
	vm_listen(vm, &m->vm_listener);
	vm->migration = m;
	return m;
}

/* The migration's thread has nothing left to do, or no more than to say goodbye. */
static void reap(struct migration *m)
{
	int ret;

	join(m);
	ret = m->error.code;
	/* Before the event: whoever hears that finds the sentence on stderr. */
	m->ended(m, ret);
	if (ret == 0)
		migration_set_status(m, MIGRATION_COMPLETED);
	else if (m->cancelled && !m->cancel_reason.code)
		migration_set_status(m, MIGRATION_CANCELLED);
	else
		migration_set_status(m, MIGRATION_FAILED);
}

/* Posted by the thread at its end. It may have been reaped before, and be another's time now. */
static void finished(void *opaque)
{
	struct migration *m = opaque;

	if (m->started && m->over)
		reap(m);
}

/* The guest has come and may leave again, whatever the thread that brought it still has to say. */
static bool has_arrived(const struct migration *m)
{
	return m->incoming && m->committing && !m->postcopy && m->vm->state != VM_INMIGRATE;
}

static void *thread(void *opaque)
{
	struct migration *m = opaque;
	struct error err = { 0 };
	int ret = m->run(m, &err);

	if (ret < 0 && !err.code)
		error_set(&err, ret, "migrate", m->uri, "", "", "%s", strerror(-ret));
	if (m->cancelled && ret < 0) {
		/* What the cancel broke on its way is not what is worth telling. */
		error_clear(&err);
		migration_check(m, &err);
	}
	m->error = err;
	if (m->stats.started_ns)
		m->stats.total_ns = now_ns() - m->stats.started_ns;
	m->over = true;
	loop_post(m->vm->loop, finished, m);
	return NULL;
}

int migration_start(struct migration *m, const char *uri, bool incoming,
		    int (*run)(struct migration *m, struct error *err),
		    void (*ended)(struct migration *m, int ret), struct error *err)
{
	uint64_t timeout = m->params.timeout;
	int ret;

	if (m->started && has_arrived(m))
		reap(m);
	if (m->started)
		return error_set(err, -EBUSY, "migrate", uri, "", "no migration under way",
				 "one that is %s", migration_status_name(m->status));
	if (strlen(uri) >= sizeof(m->uri))
		return error_set(err, -ENAMETOOLONG, "migrate", uri, "", "at most 255 bytes", "%zu",
				 strlen(uri));
	m->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->cancel_fd < 0 || m->wake_fd < 0) {
		error_set(err, -errno, "migrate", uri, "", "an eventfd", "%m");
		close(m->cancel_fd);
		close(m->wake_fd);
		return err ? err->code : -EMFILE;
	}
	snprintf(m->uri, sizeof(m->uri), "%s", uri);
	m->incoming = incoming;
	m->file = strncmp(uri, "file:", 5) == 0;
	m->run = run;
	m->ended = ended;
	m->cancelled = m->timed_out = m->over = false;
	m->committing = m->handed_over = false;
	m->postcopy = m->postcopy_now = m->postcopy_can = false;
	memset(&m->wishes, 0, sizeof(m->wishes));
	memset(m->channels, 0, sizeof(m->channels));
	error_clear(&m->error);
	error_clear(&m->cancel_reason);
	memset(&m->stats, 0, sizeof(m->stats));
	m->stats.started_ns = incoming ? 0 : now_ns(); /* a listener's time begins with a visitor */
	m->status = MIGRATION_SETUP;
	m->started = true;
	ret = -pthread_create(&m->thread, NULL, thread, m);
	if (ret < 0) {
		m->started = false;
		close(m->cancel_fd);
		close(m->wake_fd);
		return error_set(err, ret, "migrate", uri, "", "a thread", "%s", strerror(-ret));
	}
	migration_event(m, MIGRATION_SETUP);
	if (timeout && !incoming)
		loop_timer_set(m->timer, (int64_t)(timeout * SECOND_NS));
	return 0;
}

int migration_cancel(struct migration *m, const struct error *reason, struct error *err)
{
	int ret = 0;

	if (!m->started)
		return error_set(err, -ENOENT, "cancel", "migration", "", "one under way", "none");
	pthread_mutex_lock(&m->lock);
	if (m->committing) {
		ret = error_set(err, -EBUSY, "cancel", "migration", "", "one not yet committed",
				"the guest belongs to the other side already");
	} else if (!m->cancelled) {
		if (reason)
			m->cancel_reason = *reason;
		m->cancelled = true;
		eventfd_write(m->cancel_fd, 1);
		for (unsigned int i = 0; i <= CHANNELS_MAX; i++) {
			if (m->channels[i])
				channel_shutdown(m->channels[i]);
		}
	}
	pthread_mutex_unlock(&m->lock);
	if (ret == 0)
		migration_set_status(m, MIGRATION_CANCELLING);
	return ret;
}

static int cancelled_error(struct migration *m, struct error *err)
{
	if (m->cancel_reason.code && err && !err->code)
		*err = m->cancel_reason;
	return error_set(err, -ECANCELED, "migrate", m->uri, "", "", "cancelled");
}

int migration_check(struct migration *m, struct error *err)
{
	int ret = 0;

	pthread_mutex_lock(&m->lock);
	if (m->cancelled)
		ret = cancelled_error(m, err);
	pthread_mutex_unlock(&m->lock);
	return ret;
}

int migration_set_channel(struct migration *m, unsigned int i, struct channel *ch,
			  struct error *err)
{
	int ret = 0;

	pthread_mutex_lock(&m->lock);
	m->channels[i] = ch;
	if (ch && m->cancelled)
		ret = cancelled_error(m, err);
	pthread_mutex_unlock(&m->lock);
	return ret;
}

int migration_commit(struct migration *m, struct error *err)
{
	int ret = 0;

	pthread_mutex_lock(&m->lock);
	if (m->cancelled)
		ret = cancelled_error(m, err);
	else
		m->committing = true;
	pthread_mutex_unlock(&m->lock);
	return ret;
}

void migration_sleep(struct migration *m, uint64_t ns)
{
	struct pollfd pfd = { .fd = m->cancel_fd, .events = POLLIN };
	struct timespec ts = { (time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS) };

	if (ns)
		ppoll(&pfd, 1, &ts, NULL);
}

void migration_count(struct migration *m, struct protocol *p)
{
	struct migration_stats *s = &m->stats;
	struct stream_stats tx, rx, now, *was = &p->counted;

	stream_stats(&p->stream, &tx, &rx);
	now = stream_stats_sum(&tx, &rx);
	s->bytes_xfer += now.bytes_xfer - was->bytes_xfer;
	if (p->kind == PROTOCOL_PAGES)
		s->postcopy_bytes += now.bytes_xfer - was->bytes_xfer;
	if (p->kind == PROTOCOL_DATA)
		s->multifd_bytes += now.bytes_xfer - was->bytes_xfer;
	s->bytes_referenced += now.bytes_referenced - was->bytes_referenced;
	s->bytes_copied += now.bytes_copied - was->bytes_copied;
	s->iovecs_queued += now.iovecs_queued - was->iovecs_queued;
	s->iovecs_sent += now.iovecs_sent - was->iovecs_sent;
	s->syscalls += now.syscalls - was->syscalls;
	s->zerocopy_bytes += now.zerocopy_bytes - was->zerocopy_bytes;
	s->zerocopy_copied += now.zerocopy_copied - was->zerocopy_copied;
	s->zerocopy_fallbacks += now.zerocopy_fallbacks - was->zerocopy_fallbacks;
	*was = now;
}
