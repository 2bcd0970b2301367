/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stream over real descriptors when these are unkind: tiny buffers, signals all the time,
 * silence, and an end that somebody else brings about. Also run under the thread sanitizer.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "migration/channel.h"
#include "migration/stream.h"

#define BYTES (1u << 20)
#define PIECE 1000u /* of what is sent; every second piece is referred to */

enum kind { UNIX, TCP, PIPE, KINDS };
static const char *const kind_names[KINDS] = { "unix", "tcp", "pipe" };

struct ends {
	struct channel *put, *get;
	struct stream source, destination;
	uint8_t from[BYTES], to[BYTES];
	size_t sent; /* bytes of from to send */
	int result;
};

static void tcp_pair(int fds[2])
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct sockaddr *sa = (struct sockaddr *)&addr;
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, sa, len), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, sa, &len), 0);
	fds[1] = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fds[1], sa, len), 0);
	fds[0] = accept(fd, NULL, NULL);
	assert_true(fds[0] >= 0);
	close(fd);
}

/* A pair of channels over the kind of descriptor; @buffer: the size of a socket's, 0 for usual. */
static struct ends *ends_new(enum kind kind, int buffer)
{
	struct ends *e = calloc(1, sizeof(*e));
	int fds[2];

	if (kind == TCP)
		tcp_pair(fds);
	else if (kind == UNIX)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	else
		assert_int_equal(pipe(fds), 0);
	if (kind != PIPE && buffer)
		setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	assert_int_equal(channel_from_fd(fds[0], "get", false, &e->get), 0);
	assert_int_equal(channel_from_fd(fds[1], "put", false, &e->put), 0);
	stream_init(&e->source, e->put);
	stream_init(&e->destination, e->get);
	for (size_t i = 0; i < BYTES; i++)
		e->from[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
	e->sent = BYTES;
	return e;
}

static void ends_free(struct ends *e)
{
	channel_close(e->put);
	channel_close(e->get);
	free(e);
}

static void *sender(void *arg)
{
	struct ends *e = arg;

	for (size_t at = 0; at < e->sent; at += PIECE) {
		size_t n = MIN(PIECE, e->sent - at);

		if (at / PIECE % 2)
			stream_put_buffer_async(&e->source, e->from + at, n);
		else
			stream_put_buffer(&e->source, e->from + at, n);
	}
	e->result = stream_flush(&e->source);
	return NULL;
}

static int receive_all(struct ends *e)
{
	unsigned int seed = 1;
	size_t n;
	int ret = 0;

	for (size_t at = 0; at < e->sent && !ret; at += n) {
		n = 1 + (size_t)rand_r(&seed) % 3000;
		n = MIN(n, e->sent - at);
		if (n & 1)
			ret = stream_get_buffer(&e->destination, e->to + at, n);
		else
			ret = stream_readv(&e->destination, &(struct iovec){ e->to + at, n }, 1);
	}
	return ret;
}

static void transfer(struct ends *e)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, sender, e), 0);
	assert_int_equal(receive_all(e), 0);
	pthread_join(thread, NULL);
	assert_int_equal(e->result, 0);
	assert_memory_equal(e->to, e->from, e->sent);
}

/* ---- Short transfers ---- */

static void short_writes_by_tiny_buffers(void **state)
{
	(void)state;
	for (enum kind kind = UNIX; kind < KINDS; kind++) {
		struct ends *e = ends_new(kind, 1);

		/* A time limit, so that sockets go through their time-out path as well. */
		channel_set_timeout(e->put, 20000);
		channel_set_timeout(e->get, 20000);
		transfer(e);
		ends_free(e);
	}
}

static void iovec_limits(void **state)
{
	static const int limits[] = { 1, 64, IOV_MAX };

	(void)state;
	for (int i = 0; i < 3; i++) {
		for (enum kind kind = UNIX; kind < KINDS; kind++) {
			struct ends *e = ends_new(kind, 0);

			assert_int_equal(stream_set_iov_max(&e->source, limits[i]), 0);
			assert_int_equal(stream_set_iov_max(&e->destination, limits[i]), 0);
			transfer(e);
			ends_free(e);
		}
	}
}

/* ---- Signals ---- */

static void on_signal(int sig)
{
	(void)sig;
}

/* Let a signal interrupt the calling thread's system calls every @us microseconds. */
static timer_t storm_start(long us)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct itimerspec every = { { 0, us * 1000 }, { 0, us * 1000 } };
	struct sigaction sa = { .sa_handler = on_signal }; /* no SA_RESTART */
	timer_t timer;

	sigaction(SIGUSR1, &sa, NULL);
	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
	return timer;
}

static void *stormy_sender(void *arg)
{
	timer_t timer = storm_start(200);
	void *ret = sender(arg);

	timer_delete(timer);
	return ret;
}

static void signals_all_the_time(void **state)
{
	(void)state;
	for (enum kind kind = UNIX; kind < KINDS; kind++) {
		struct ends *e = ends_new(kind, 1);
		pthread_t thread;
		timer_t timer;
		int ret;

		assert_int_equal(pthread_create(&thread, NULL, stormy_sender, e), 0);
		timer = storm_start(300);
		ret = receive_all(e);
		timer_delete(timer);
		pthread_join(thread, NULL);
		assert_int_equal(ret, 0);
		assert_int_equal(e->result, 0);
		assert_memory_equal(e->to, e->from, BYTES);
		ends_free(e);
	}
}

/* A peer that says nothing is found out even if no system call ever reaches its own time limit. */
static void deadline_holds_in_a_storm(void **state)
{
	struct ends *e = ends_new(UNIX, 0);
	timer_t timer = storm_start(2000);
	int64_t start = channel_now_ms();
	uint8_t byte;
	int ret;

	(void)state;
	channel_set_timeout(e->get, 60);
	ret = stream_get_byte(&e->destination, &byte);
	timer_delete(timer);
	assert_int_equal(ret, -ETIMEDOUT);
	assert_in_range(channel_now_ms() - start, 55, 2000);
	ends_free(e);
}

/* ---- Deadlines ---- */

static void silence_ends_at_the_deadline(void **state)
{
	(void)state;
	for (enum kind kind = UNIX; kind < KINDS; kind++) {
		struct ends *e = ends_new(kind, 1);
		struct iovec iov = { e->to, 100 };
		int64_t start;

		stream_put_buffer(&e->source, "some", 4);
		assert_int_equal(stream_flush(&e->source), 0);
		channel_set_timeout(e->get, 40);
		start = channel_now_ms();
		assert_int_equal(stream_readv(&e->destination, &iov, 1), -ETIMEDOUT);
		/* Four bytes came, which starts the clock once more. */
		assert_in_range(channel_now_ms() - start, 38, 2000);
		assert_int_equal(stream_get_position(&e->destination), 4);

		/* Nobody takes what is sent. */
		channel_set_timeout(e->put, 40);
		e->result = 0;
		for (int i = 0; i < 100 && !e->result; i++)
			sender(e);
		assert_int_equal(e->result, -ETIMEDOUT);
		if (stream_error(&e->source) != -ETIMEDOUT)
			fail_msg("%s", kind_names[kind]);
		ends_free(e);
	}
}

/* Slow is not silent: each byte comes well within the limit, all of them take several limits. */
static void *trickle(void *arg)
{
	struct ends *e = arg;

	for (int i = 0; i < 12; i++) {
		poll(NULL, 0, 25);
		stream_put_byte(&e->source, e->from[i]);
		stream_flush(&e->source);
	}
	return NULL;
}

static void slow_is_not_silent(void **state)
{
	(void)state;
	for (enum kind kind = UNIX; kind < KINDS; kind++) {
		struct ends *e = ends_new(kind, 0);
		struct iovec iov = { e->to, 12 };
		pthread_t thread;

		channel_set_timeout(e->get, 150);
		assert_int_equal(pthread_create(&thread, NULL, trickle, e), 0);
		assert_int_equal(stream_readv(&e->destination, &iov, 1), 0);
		pthread_join(thread, NULL);
		assert_memory_equal(e->to, e->from, 12);
		ends_free(e);
	}
}

/* ---- Shutdown from another thread ---- */

static void *shut_later(void *arg)
{
	struct channel *ch = arg;

	poll(NULL, 0, 30);
	channel_shutdown(ch);
	channel_shutdown(ch); /* any number of times */
	return NULL;
}

static void shutdown_wakes_a_reader(void **state)
{
	(void)state;
	for (enum kind kind = UNIX; kind < KINDS; kind++) {
		struct ends *e = ends_new(kind, 0);
		pthread_t thread;
		uint8_t byte;

		assert_int_equal(pthread_create(&thread, NULL, shut_later, e->get), 0);
		assert_int_equal(stream_get_byte(&e->destination, &byte), -ECANCELED);
		assert_int_equal(stream_get_byte(&e->destination, &byte), -ECANCELED);
		pthread_join(thread, NULL);
		ends_free(e);
	}
}

static void shutdown_wakes_a_writer(void **state)
{
	(void)state;
	for (enum kind kind = UNIX; kind < KINDS; kind++) {
		struct ends *e = ends_new(kind, 1);
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, shut_later, e->put), 0);
		while (!e->result)
			sender(e); /* until nothing more fits, then until it is woken */
		assert_int_equal(e->result, -ECANCELED);
		stream_put_byte(&e->source, 0);
		assert_int_equal(stream_flush(&e->source), -ECANCELED);
		pthread_join(thread, NULL);
		ends_free(e);
	}
}

/* What one end shuts down, the other sees as the end of the stream, after all that was sent. */
static void other_end_sees_the_end(void **state)
{
	struct error err = { 0 };

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	for (enum kind kind = UNIX; kind < KINDS; kind++) {
		struct ends *e = ends_new(kind, 0);

		stream_put_buffer(&e->source, "last", 4);
		assert_int_equal(stream_flush(&e->source), 0);
		channel_shutdown(e->put);
		if (kind == PIPE) { /* only closing says it through a pipe */
			channel_close(e->put);
			e->put = NULL;
		}
		assert_int_equal(stream_get_buffer(&e->destination, e->to, 8), -ENODATA);
		assert_int_equal(stream_get_position(&e->destination), 4);
		assert_memory_equal(e->to, "last", 4);
		ends_free(e);

		/* And the writer sees that the reader has gone. */
		e = ends_new(kind, 0);
		channel_close(e->get);
		e->get = NULL;
		for (int i = 0; i < 100 && !e->result; i++)
			sender(e);
		assert_true(e->result == -EPIPE || e->result == -ECONNRESET);
		error_clear(&err);
		assert_int_equal(stream_check(&e->source, &err), e->result);
		assert_string_equal(err.got, "it closed the connection");
		ends_free(e);
	}
}

/* ---- Both directions at once, and statistics from a third thread ---- */

struct talk {
	struct ends *e;
	_Atomic bool done;
	uint64_t last;
};

static void *answer(void *arg)
{
	struct ends *e = arg;
	uint32_t v;

	for (uint32_t i = 0; i < 2000; i++) {
		stream_get_be32(&e->destination, &v);
		stream_put_be32(&e->destination, v + 1);
		stream_flush(&e->destination);
	}
	return NULL;
}

static void *watch(void *arg)
{
	struct talk *t = arg;
	struct stream_stats tx, rx;

	while (!t->done) {
		stream_stats(&t->e->source, &tx, &rx);
		if (tx.bytes_xfer < t->last)
			return arg;
		t->last = tx.bytes_xfer;
	}
	return NULL;
}

static void *asker(void *arg)
{
	struct talk *t = arg;

	for (uint32_t i = 0; i < 2000; i++) {
		stream_put_be32(&t->e->source, i);
		stream_flush(&t->e->source);
	}
	return NULL;
}

static void both_directions_and_a_watcher(void **state)
{
	struct talk t = { .e = ends_new(UNIX, 0) };
	pthread_t threads[3];
	void *went_back;
	uint32_t v;

	(void)state;
	pthread_create(&threads[0], NULL, answer, t.e);
	pthread_create(&threads[1], NULL, watch, &t);
	pthread_create(&threads[2], NULL, asker, &t);
	for (uint32_t i = 0; i < 2000; i++) {
		assert_int_equal(stream_get_be32(&t.e->source, &v), 0);
		assert_int_equal(v, i + 1);
	}
	pthread_join(threads[0], NULL);
	pthread_join(threads[2], NULL);
	t.done = true;
	pthread_join(threads[1], &went_back);
	assert_null(went_back);
	ends_free(t.e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_writes_by_tiny_buffers),
		cmocka_unit_test(iovec_limits),
		cmocka_unit_test(signals_all_the_time),
		cmocka_unit_test(deadline_holds_in_a_storm),
		cmocka_unit_test(silence_ends_at_the_deadline),
		cmocka_unit_test(slow_is_not_silent),
		cmocka_unit_test(shutdown_wakes_a_reader),
		cmocka_unit_test(shutdown_wakes_a_writer),
		cmocka_unit_test(other_end_sees_the_end),
		cmocka_unit_test(both_directions_and_a_watcher),
	};

	return cmocka_run_group_tests_name("stream over descriptors", tests, NULL, NULL);
}
