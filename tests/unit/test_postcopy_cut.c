/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy over connections that break: again and again, at every place. Before COMMIT the guest
 * stays where it was; from then on both sides pause and go on when they are told to, and nothing is
 * lost.
 */
#include "postcopy-rig.h"

#include <sys/eventfd.h>
#include <sys/param.h>

#define MAX_CONNECTIONS 512

/*
 * Between source and destination. All that pages cross breaks after @limit bytes, @times times; the
 * main connection, the first, after @main_limit.
 */
struct proxy {
	struct channel_listener *listener;
	const char *uri; /* of the destination */
	char own[64];
	uint64_t limit, main_limit;
	_Atomic unsigned int times;
	_Atomic uint64_t passed, main_passed;
	_Atomic unsigned int n;
	int stop; /* eventfd */
	pthread_mutex_t lock;
	pthread_t acceptor;
	struct connection {
		struct proxy *p;
		struct channel *in, *out;
		pthread_t there, back;
	} connections[MAX_CONNECTIONS];
};

static void hang_up(struct connection *c)
{
	channel_shutdown(c->in);
	channel_shutdown(c->out);
}

static void break_pages(struct proxy *p)
{
	pthread_mutex_lock(&p->lock);
	/* Both lines may get here by one break. */
	if (p->times && p->passed >= p->limit && --p->times)
		p->passed = 0;
	pthread_mutex_unlock(&p->lock);
	for (unsigned int i = 1; i < p->n; i++)
		hang_up(&p->connections[i]);
}

static ssize_t allowed(struct connection *c, ssize_t n)
{
	struct proxy *p = c->p;
	bool main = c == &p->connections[0];
	_Atomic uint64_t *passed = main ? &p->main_passed : &p->passed;
	uint64_t limit = main ? p->main_limit : p->limit;
	uint64_t before;

	if (!main && !p->times)
		return n;
	before = atomic_fetch_add(passed, (uint64_t)n);
	return before >= limit ? 0 : (ssize_t)MIN((uint64_t)n, limit - before);
}

static void *forward_there(void *opaque)
{
	struct connection *c = opaque;
	uint8_t buf[4096];
	ssize_t n, ok = 1;

	while ((n = c->in->ops->get_buffer(c->in, buf, sizeof(buf))) > 0) {
		ok = allowed(c, n);
		if (ok > 0 && c->out->ops->put_buffer(c->out, buf, (size_t)ok) < 0)
			break;
		if (ok == n)
			continue;
		if (c != &c->p->connections[0])
			break_pages(c->p);
		break;
	}
	hang_up(c);
	return NULL;
}

static void *forward_back(void *opaque)
{
	struct connection *c = opaque;
	uint8_t buf[4096];
	ssize_t n;

	while ((n = c->out->ops->get_buffer(c->out, buf, sizeof(buf))) > 0 &&
	       c->in->ops->put_buffer(c->in, buf, (size_t)n) > 0)
		;
	hang_up(c);
	return NULL;
}

static void *accept_all(void *opaque)
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
		pthread_create(&c->there, NULL, forward_there, c);
		pthread_create(&c->back, NULL, forward_back, c);
		p->n++;
	}
}

static void proxy_open(struct proxy *p, const char *uri, uint64_t limit, unsigned int times)
{
	struct error err = { 0 };

	memset(p, 0, sizeof(*p));
	pthread_mutex_init(&p->lock, NULL);
	p->uri = uri;
	p->limit = limit;
	p->times = times;
	p->main_limit = UINT64_MAX;
	p->stop = eventfd(0, EFD_CLOEXEC);
	snprintf(p->own, sizeof(p->own), "unix:/tmp/ferry-postcopy-proxy-%d", (int)getpid());
	assert_int_equal(channel_listen(p->own, &p->listener, &err), 0);
	pthread_create(&p->acceptor, NULL, accept_all, p);
}

static void proxy_close(struct proxy *p)
{
	eventfd_write(p->stop, 1);
	pthread_join(p->acceptor, NULL);
	for (unsigned int i = 0; i < p->n; i++) {
		hang_up(&p->connections[i]);
		pthread_join(p->connections[i].there, NULL);
		pthread_join(p->connections[i].back, NULL);
	}
	for (unsigned int i = 0; i < p->n; i++) {
		channel_close(p->connections[i].in);
		channel_close(p->connections[i].out);
	}
	channel_listener_close(p->listener);
	close(p->stop);
}

/* ---- Who tells the source to connect again ---- */

struct operator
{
	struct guest *g;
	const char *uri;
	pthread_t thread;
	unsigned int resumed;
};

static void resume(void *opaque)
{
	struct operator* o = opaque;
	struct error err = { 0 };
	struct error why = { 0 };
	int ret;

	if (!postcopy_why(o->g->r.from->migration, &why))
		return;
	assert_true(why.code < 0);
	/* The word before this one may have been heard meanwhile: then it is no longer paused. */
	ret = postcopy_resume(o->g->r.from->migration, o->uri, &err);
	if (ret == 0)
		o->resumed++;
	else
		assert_int_equal(ret, -EINVAL);
}

static void *operate(void *opaque)
{
	struct operator* o = opaque;

	while (!o->g->over) {
		if (o->g->r.from->state != VM_RUNNING &&
		    o->g->r.from->migration->status == MIGRATION_POSTCOPY_PAUSED)
			loop_call(o->g->r.from->loop, resume, o);
		snooze();
	}
	return NULL;
}

static void cross(struct guest *g, struct proxy *p, struct operator* o)
{
	*o = (struct operator){ .g = g, .uri = p->own };
	pthread_create(&o->thread, NULL, operate, o);
	guest_cross(g, p->own);
	pthread_join(o->thread, NULL);
	proxy_close(p);
}

static void many_breaks(void **state)
{
	/* With 4 MiB to send: in the middle of pages, of tables, of headers. */
	static const uint64_t limits[] = { 1000003, 300007, 131072 };
	struct proxy *p = malloc(sizeof(*p));
	struct operator o;
	struct guest g;

	(void)state;
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		guest_prepare(&g, 4 * MIB, 0);
		fill_random(&g.r.from->memory, i + 1);
		proxy_open(p, g.r.uri, limits[i], 20);
		cross(&g, p, &o);
		assert_followed(&g);
		assert_true(o.resumed >= 3);
		rig_finish(&g.r);
	}
	free(p);
}

/* Both outcomes are right, but nothing between them. */
static void cut_once(uint64_t limit, unsigned int *moved)
{
	struct proxy *p = malloc(sizeof(*p));
	struct operator o;
	struct guest g;

	guest_prepare(&g, 2 * MIB, 0);
	fill_random(&g.r.from->memory, limit);
	proxy_open(p, g.r.uri, limit, 1);
	cross(&g, p, &o);
	if (g.r.to->state == VM_RUNNING) {
		assert_followed(&g);
		++*moved;
	} else {
		assert_stayed(&g.r);
	}
	rig_finish(&g.r);
	free(p);
}

static void cut_at_many_places(void **state)
{
	unsigned int moved = 0;

	(void)state;
	for (uint64_t at = 1; at < 400; at += 97)
		cut_once(at, &moved);
	for (uint64_t at = 400; at < 2 * MIB; at = at * 5 / 4)
		cut_once(at, &moved);
	assert_true(moved > 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_breaks),
		cmocka_unit_test(cut_at_many_places),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
