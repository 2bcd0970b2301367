/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Between source and destination: forwards every connection, and breaks or stalls some of them
 * where it is told to. They are numbered as they come: the main one is 0.
 */
#ifndef TESTS_UNIT_PROXY_RIG_H
#define TESTS_UNIT_PROXY_RIG_H

#include "postcopy-rig.h"

#include <endian.h>
#include <sys/eventfd.h>
#include <sys/param.h>

#define MAX_CONNECTIONS 512
#define LOG_ROOM	(1UL << 20)

enum way { THERE, BACK, WAYS }; /* as the source sees it */

/* What becomes of a connection as soon as @at bytes have passed. */
struct cut {
	unsigned int connection;
	enum way way;
	uint64_t at;
	bool stall; /* keep it open, but forward no more, either way */
};

struct proxy {
	struct channel_listener *listener;
	const char *uri; /* of the destination */
	char own[64];
	const struct cut *cuts;
	unsigned int n_cuts;
	_Atomic unsigned int done; /* of them */
	/* All but the main connection break after @limit bytes there, @times times. */
	uint64_t limit;
	_Atomic unsigned int times;
	_Atomic uint64_t passed;
	/* Keeps RUNNING until this guest has read all that it is going to, or something broke: so
	 * long nothing comes in the background. */
	const struct guest *awaited;
	bool log; /* what passes */
	_Atomic unsigned int n;
	int stop; /* eventfd */
	pthread_mutex_t lock;
	pthread_t acceptor;
	struct connection {
		struct proxy *p;
		struct channel *in, *out;
		_Atomic bool stalled;
		struct pump {
			struct connection *c;
			enum way way;
			_Atomic uint64_t passed;
			uint8_t *log;
			pthread_t thread;
		} pumps[WAYS];
	} connections[MAX_CONNECTIONS];
};

static inline void hang_up(struct connection *c)
{
	channel_shutdown(c->in);
	channel_shutdown(c->out);
}

static inline void break_pages(struct proxy *p)
{
	pthread_mutex_lock(&p->lock);
	/* Both lines may get here by one break. */
	if (p->times && p->passed >= p->limit && --p->times)
		p->passed = 0;
	pthread_mutex_unlock(&p->lock);
	for (unsigned int i = 1; i < p->n; i++)
		hang_up(&p->connections[i]);
}

static inline const struct cut *cut_of(const struct pump *pump)
{
	const struct proxy *p = pump->c->p;

	for (unsigned int i = 0; i < p->n_cuts; i++) {
		if (&p->connections[p->cuts[i].connection] == pump->c &&
		    p->cuts[i].way == pump->way)
			return &p->cuts[i];
	}
	return NULL;
}

/* How many of @n bytes may pass. */
static inline size_t allowed(struct pump *pump, size_t n)
{
	struct proxy *p = pump->c->p;
	const struct cut *cut = cut_of(pump);
	uint64_t before;

	if (cut)
		return MIN(n, cut->at - pump->passed);
	if (pump->way == BACK || pump->c == p->connections || !p->times)
		return n;
	before = atomic_fetch_add(&p->passed, n);
	return before >= p->limit ? 0 : MIN(n, p->limit - before);
}

static inline void await_guest(const struct pump *pump)
{
	const struct proxy *p = pump->c->p;
	const struct guest *g = p->awaited;

	if (!g || pump->way != BACK || pump->c != p->connections)
		return;
	while (g->r.to->state == VM_RUNNING && g->read < g->pages && !p->done && !g->over)
		snooze();
}

static inline void log_bytes(struct pump *pump, const uint8_t *buf, size_t n)
{
	if (!pump->c->p->log)
		return;
	if (!pump->log)
		pump->log = calloc(1, LOG_ROOM);
	assert_true(pump->passed + n <= LOG_ROOM);
	memcpy(pump->log + pump->passed, buf, n);
}

static inline bool is_cut(const struct pump *pump)
{
	const struct cut *cut = cut_of(pump);

	return cut && pump->passed >= cut->at;
}

static inline void *run_pump(void *opaque)
{
	struct pump *pump = opaque;
	struct connection *c = pump->c;
	struct channel *in = pump->way == THERE ? c->in : c->out;
	struct channel *out = pump->way == THERE ? c->out : c->in;
	uint8_t buf[4096];
	ssize_t n;
	size_t ok;

	while (!is_cut(pump) && (n = in->ops->get_buffer(in, buf, sizeof(buf))) > 0) {
		await_guest(pump);
		if (c->stalled)
			break;
		ok = allowed(pump, (size_t)n);
		if (ok && out->ops->put_buffer(out, buf, ok) < 0)
			break;
		log_bytes(pump, buf, ok);
		pump->passed += ok;
		if (ok < (size_t)n && !cut_of(pump))
			break_pages(c->p);
		if (ok < (size_t)n)
			break;
	}
	if (is_cut(pump)) {
		c->stalled = cut_of(pump)->stall;
		c->p->done++;
	}
	while (c->stalled && in->ops->get_buffer(in, buf, sizeof(buf)) > 0)
		;
	if (!c->stalled)
		hang_up(c);
	return NULL;
}

static inline void *accept_all(void *opaque)
{
	struct proxy *p = opaque;
	struct error err = { 0 };

	for (;;) {
		struct connection *c = &p->connections[p->n];

		assert_true(p->n < MAX_CONNECTIONS);
		c->p = p;
		if (channel_accept(p->listener, -1, p->stop, &c->in, &err) < 0)
			return NULL;
		if (channel_connect(p->uri, 5000, -1, &c->out, &err) < 0) {
			channel_close(c->in);
			error_clear(&err);
			continue;
		}
		for (int way = 0; way < WAYS; way++) {
			c->pumps[way].c = c;
			c->pumps[way].way = (enum way)way;
			pthread_create(&c->pumps[way].thread, NULL, run_pump, &c->pumps[way]);
		}
		p->n++;
	}
}

/* @p is zero but for what it is told to do; the destination listens at @uri. */
static inline void proxy_open(struct proxy *p, const char *uri)
{
	struct error err = { 0 };

	pthread_mutex_init(&p->lock, NULL);
	p->uri = uri;
	p->stop = eventfd(0, EFD_CLOEXEC);
	snprintf(p->own, sizeof(p->own), "unix:/tmp/ferry-proxy-%d", (int)getpid());
	assert_int_equal(channel_listen(p->own, &p->listener, &err), 0);
	pthread_create(&p->acceptor, NULL, accept_all, p);
}

static inline void proxy_hang_up(struct proxy *p)
{
	for (unsigned int i = 0; i < p->n; i++)
		hang_up(&p->connections[i]);
}

/* What is counted and logged stays. */
static inline void proxy_close(struct proxy *p)
{
	eventfd_write(p->stop, 1);
	pthread_join(p->acceptor, NULL);
	proxy_hang_up(p);
	for (unsigned int i = 0; i < p->n; i++) {
		for (int way = 0; way < WAYS; way++)
			pthread_join(p->connections[i].pumps[way].thread, NULL);
	}
	for (unsigned int i = 0; i < p->n; i++) {
		channel_close(p->connections[i].in);
		channel_close(p->connections[i].out);
	}
	channel_listener_close(p->listener);
	close(p->stop);
	pthread_mutex_destroy(&p->lock);
}

/* Where the record that @pump has logged from byte @at on ends; *@pages: where its payload begins.
 */
static inline uint64_t logged_record(const struct pump *pump, uint64_t at, uint64_t *pages)
{
	uint32_t meta;
	uint64_t payload;

	memcpy(&meta, pump->log + at + 12, sizeof(meta));
	memcpy(&payload, pump->log + at + 16, sizeof(payload));
	*pages = at + RECORD_HEADER + be32toh(meta);
	return *pages + be64toh(payload);
}

static inline struct proxy *proxy_new(void)
{
	return calloc(1, sizeof(struct proxy));
}

static inline void proxy_free(struct proxy *p)
{
	for (unsigned int i = 0; i < p->n; i++) {
		free(p->connections[i].pumps[THERE].log);
		free(p->connections[i].pumps[BACK].log);
	}
	free(p);
}

/* ---- Who tells the source to connect again ---- */

struct resumer {
	struct guest *g;
	const char *uri;
	int deadline_ms; /* from the first pause on, twice as much with each; 0: leave it */
	pthread_t thread;
	unsigned int resumed;
	bool abandoned; /* nobody is left to connect to */
};

/* Without a limit to the background's speed, too. */
static inline void set_deadline(struct resumer *o)
{
	o->g->r.from->migration->params.max_postcopy_bandwidth = 0;
	o->g->r.from->migration->params.deadline_ms = o->deadline_ms;
	o->g->r.to->migration->params.deadline_ms = o->deadline_ms;
	/* Else a host too slow for it would never get on. */
	o->deadline_ms = MIN(2 * o->deadline_ms, PREPARED_MS);
}

static inline void resume(void *opaque)
{
	struct resumer *o = opaque;
	struct migration *m = o->g->r.from->migration;
	struct error err = { 0 };
	struct error why = { 0 };
	int ret;

	if (!postcopy_why(m, &why))
		return;
	assert_true(why.code < 0);
	/* That things break is nobody's mistake. */
	if (why.code == -EPROTO)
		error_print(&why);
	assert_int_not_equal(why.code, -EPROTO);
	if (o->g->r.to->migration->over) {
		postcopy_abandon(m);
		o->abandoned = true;
		return;
	}
	if (o->deadline_ms)
		set_deadline(o);
	/* The word before this one may have been heard meanwhile: then it is no longer paused. */
	ret = postcopy_resume(m, o->uri, &err);
	if (ret == 0)
		o->resumed++;
	else
		assert_int_equal(ret, -EINVAL);
}

/* A destination that has not heard a whole HELLO waits for another source. */
static inline void send_home(void *opaque)
{
	struct resumer *o = opaque;
	struct migration *m = o->g->r.to->migration;
	struct error err = { 0 };
	bool waits;

	pthread_mutex_lock(&m->lock);
	waits = m->status == MIGRATION_SETUP && !m->channels[0];
	pthread_mutex_unlock(&m->lock);
	if (waits && !m->over)
		assert_int_equal(migration_cancel(m, NULL, &err), 0);
}

static inline void *operate(void *opaque)
{
	struct resumer *o = opaque;

	while (!o->g->over && !o->abandoned) {
		if (o->g->r.from->state != VM_RUNNING &&
		    o->g->r.from->migration->status == MIGRATION_POSTCOPY_PAUSED)
			loop_call(o->g->r.from->loop, resume, o);
		if (o->g->r.from->state == VM_RUNNING && o->g->r.from->migration->over)
			loop_call(o->g->r.to->loop, send_home, o);
		snooze();
	}
	return NULL;
}

/* Cross by way of @p, which listens already. */
static inline void proxy_cross(struct guest *g, struct proxy *p, struct resumer *o)
{
	o->g = g;
	o->uri = p->own;
	pthread_create(&o->thread, NULL, operate, o);
	guest_cross(g, p->own);
	pthread_join(o->thread, NULL);
	proxy_close(p);
}

#endif
