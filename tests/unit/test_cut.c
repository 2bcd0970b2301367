/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A real source and a real destination, and between them a connection that breaks or stalls after
 * any number of bytes in either direction: never two guests run, and before COMMIT it is always the
 * source's that does.
 */
#include "migration-fixture.h"

#include <endian.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/param.h>
#include <sys/time.h>

#define NEVER SIZE_MAX

enum way { TO_DESTINATION, TO_SOURCE, WAYS };

/* Forwards bytes between two sockets until @limit of one way is reached. */
struct proxy {
	int fd[2]; /* towards source, towards destination */
	size_t limit[WAYS];
	bool stall; /* … and then keeps quiet instead of hanging up */
	size_t passed[WAYS];
	uint8_t *record[WAYS]; /* what passed, up to ROOM bytes; NULL: not wanted */
	pthread_t thread;
};

#define ROOM 131072

static bool forward(struct proxy *p, enum way way)
{
	uint8_t buf[65536];
	size_t left = p->limit[way] - p->passed[way], done = 0;
	ssize_t n = recv(p->fd[way == TO_SOURCE], buf, MIN(left, sizeof(buf)), 0);

	if (n <= 0)
		return false;
	for (; p->record[way] && done < (size_t)n && p->passed[way] + done < ROOM; done++)
		p->record[way][p->passed[way] + done] = buf[done];
	p->passed[way] += (size_t)n;
	for (done = 0; done < (size_t)n;) {
		ssize_t m = send(p->fd[way == TO_DESTINATION], buf + done, (size_t)n - done,
				 MSG_NOSIGNAL);

		if (m <= 0)
			return false;
		done += (size_t)m;
	}
	return p->passed[way] < p->limit[way];
}

static void *run_proxy(void *opaque)
{
	struct proxy *p = opaque;
	struct pollfd pfd[2] = { { p->fd[0], POLLIN, 0 }, { p->fd[1], POLLIN, 0 } };
	bool going = p->limit[0] && p->limit[1];

	while (going) {
		poll(pfd, 2, -1);
		for (int i = 0; i < 2 && going; i++) {
			if (pfd[i].revents)
				going = forward(p, i == 0 ? TO_DESTINATION : TO_SOURCE);
		}
	}
	/* The sides find out by their deadlines, and hang up. */
	while (p->stall && pfd[0].fd + pfd[1].fd > -2) {
		uint8_t waste[65536];

		poll(pfd, 2, -1);
		for (int i = 0; i < 2; i++) {
			if (pfd[i].revents && recv(p->fd[i], waste, sizeof(waste), 0) <= 0)
				pfd[i].fd = -1;
		}
	}
	close(p->fd[0]);
	close(p->fd[1]);
	return NULL;
}

static void stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

static void *run_loop(void *opaque)
{
	struct vm *vm = opaque;

	loop_run(vm->loop);
	return NULL;
}

struct crossing {
	struct vm *from, *to;
	int buffer; /* SO_SNDBUF and SO_RCVBUF, 0: the default */
	int deadline_ms;
	bool signals; /* SIGALRM is for the migrations' threads alone */
};

/* A guest of 2 MiB with a few pages that are not zero, and an empty machine. */
static void prepare(struct crossing *c)
{
	c->from = new_source(2 * MIB);
	c->to = new_destination();
	for (uint64_t gpa = 0x3000; gpa < 2 * MIB; gpa += 0x30000)
		memset(memory_hva(&c->from->memory, gpa, 1), 0x5a, 1);
	assert_non_null(migration_get(c->from));
}

static void finish(struct crossing *c)
{
	vm_destroy(c->from);
	vm_destroy(c->to);
}

static int shrink(int fd, int bytes)
{
	if (bytes) {
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	}
	return fd;
}

/* Migrate through @proxy and wait until both sides have come to an end. */
static void cross(struct crossing *c, struct proxy *proxy)
{
	struct error err = { 0 };
	int a[2], b[2];
	char uri[32];
	pthread_t thread;
	sigset_t alarm;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, a), errno);
	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, b), errno);
	proxy->fd[0] = a[1];
	proxy->fd[1] = b[1];
	c->from->migration->params.deadline_ms = c->deadline_ms;
	c->to->migration->params.deadline_ms = c->deadline_ms;
	snprintf(uri, sizeof(uri), "fd:%d", shrink(b[0], c->buffer));
	assert_int_equal(destination_start(c->to, uri, NULL, &err), 0);
	c->to->migration->ended = stop_loop;
	snprintf(uri, sizeof(uri), "fd:%d", shrink(a[0], c->buffer));
	assert_int_equal(source_start(c->from, uri, &err), 0);
	c->from->migration->ended = stop_loop;
	if (c->signals)
		sigprocmask(SIG_BLOCK, &alarm, NULL);
	assert_int_equal(pthread_create(&proxy->thread, NULL, run_proxy, proxy), 0);
	assert_int_equal(pthread_create(&thread, NULL, run_loop, c->to), 0);
	loop_run(c->from->loop);
	pthread_join(thread, NULL);
	pthread_join(proxy->thread, NULL);
}

/* Who has the guest now? @committed: COMMIT has passed the place where the line was cut. */
static void assert_one_owner(const struct crossing *c, bool committed, enum way way, size_t at)
{
	enum vm_state from = c->from->state, to = c->to->state;
	bool ok;

	if (committed)
		ok = to == VM_RUNNING && (from == VM_HANDED_OVER || from == VM_POSTMIGRATE);
	else
		ok = to == VM_INMIGRATE && (from == VM_RUNNING || from == VM_HANDED_OVER);
	/* Only with COMMIT on its way may the source be in doubt. */
	if (from == VM_HANDED_OVER && c->from->migration->error.code == 0)
		ok = false;
	if (box_of(c->from)->owned != (from == VM_RUNNING) ||
	    (box_of(c->to) && box_of(c->to)->owned != (to == VM_RUNNING)))
		ok = false;
	if (!ok)
		fail_msg("cut after byte %zu to the %s: source %s, destination %s", at,
			 way == TO_SOURCE ? "source" : "destination", vm_state_name(from),
			 vm_state_name(to));
}

/* What passes when nobody interferes, and where its records end. */
struct whole {
	size_t size[WAYS];
	size_t ends[WAYS][64];
	unsigned int n[WAYS];
	uint8_t *bytes[WAYS];
};

static void observe(struct whole *w)
{
	struct crossing c = { .deadline_ms = 10000 };
	struct proxy p = { .limit = { NEVER, NEVER } };

	for (int way = 0; way < WAYS; way++)
		p.record[way] = w->bytes[way] = malloc(ROOM);
	prepare(&c);
	cross(&c, &p);
	assert_int_equal(c.from->state, VM_POSTMIGRATE);
	assert_int_equal(c.to->state, VM_RUNNING);
	assert_same_memory(&c.from->memory, &c.to->memory);
	finish(&c);
	for (int way = 0; way < WAYS; way++) {
		size_t at = 0;

		w->size[way] = p.passed[way];
		assert_true(w->size[way] < ROOM);
		while (at < w->size[way]) {
			const uint8_t *header = w->bytes[way] + at;
			uint32_t meta;
			uint64_t payload;

			memcpy(&meta, header + 12, 4);
			memcpy(&payload, header + 16, 8);
			at += RECORD_HEADER + be32toh(meta) + be64toh(payload);
			w->ends[way][w->n[way]++] = at;
		}
		assert_int_equal(at, w->size[way]);
	}
}

static void forget(struct whole *w)
{
	for (int way = 0; way < WAYS; way++)
		free(w->bytes[way]);
}

static void cut_at(const struct whole *w, enum way way, size_t at, bool stall)
{
	struct crossing c = { .deadline_ms = stall ? 300 : 10000 };
	struct proxy p = { .limit = { NEVER, NEVER }, .stall = stall };
	/* COMMIT is the last the destination hears, and its answer the last the source does. */
	bool committed = way == TO_SOURCE ? at > w->ends[way][w->n[way] - 2] : at >= w->size[way];

	p.limit[way] = at;
	prepare(&c);
	cross(&c, &p);
	if (way == TO_SOURCE && at == w->ends[way][w->n[way] - 2])
		committed = c.to->state == VM_RUNNING; /* either, by who is faster */
	assert_one_owner(&c, committed, way, at);
	finish(&c);
}

static void after_every_record(void **state)
{
	struct whole w = { 0 };

	(void)state;
	observe(&w);
	for (int way = 0; way < WAYS; way++) {
		for (unsigned int i = 0; i < w.n[way]; i++) {
			cut_at(&w, way, w.ends[way][i], false);
			cut_at(&w, way, w.ends[way][i] - 1, false);
			if (w.ends[way][i] < w.size[way])
				cut_at(&w, way, w.ends[way][i] + 1, false);
		}
	}
	forget(&w);
}

static void at_every_nth_byte(void **state)
{
	struct whole w = { 0 };

	(void)state;
	observe(&w);
	for (size_t at = 0; at < w.size[TO_DESTINATION]; at += 499)
		cut_at(&w, TO_DESTINATION, at, false);
	for (size_t at = 0; at < w.size[TO_SOURCE]; at += 17)
		cut_at(&w, TO_SOURCE, at, false);
	forget(&w);
}

static void stalls_after_every_record(void **state)
{
	struct whole w = { 0 };

	(void)state;
	observe(&w);
	for (int way = 0; way < WAYS; way++) {
		for (unsigned int i = 0; i < w.n[way]; i++)
			cut_at(&w, way, w.ends[way][i] - 1, true);
	}
	forget(&w);
}

static void nothing(int signal)
{
	(void)signal;
}

/* The smallest buffers there are, so that every write is short, and calls that are interrupted all
 * the time. */
static void short_writes_and_signals(void **state)
{
	const struct sigaction action = { .sa_handler = nothing }; /* without SA_RESTART */
	const struct itimerval often = { { 0, 100 }, { 0, 100 } }, never = { 0 };
	struct crossing c = { .buffer = 1, .deadline_ms = 10000, .signals = true };
	struct proxy p = { .limit = { NEVER, NEVER } };

	(void)state;
	prepare(&c);
	fill_random(&c.from->memory, 3);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	cross(&c, &p);
	setitimer(ITIMER_REAL, &never, NULL);
	assert_int_equal(c.from->state, VM_POSTMIGRATE);
	assert_int_equal(c.to->state, VM_RUNNING);
	assert_same_memory(&c.from->memory, &c.to->memory);
	/* Undisturbed it takes 18. */
	assert_true(c.from->migration->stats.syscalls + c.to->migration->stats.syscalls > 30);
	finish(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(after_every_record),
		cmocka_unit_test(at_every_nth_byte),
		cmocka_unit_test(stalls_after_every_record),
		cmocka_unit_test(short_writes_and_signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
