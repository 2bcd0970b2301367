/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/loop.h"

#define MS 1000000LL

static int setup(void **state)
{
	struct error err = { 0 };

	return loop_create((struct loop **)state, &err);
}

static int teardown(void **state)
{
	loop_destroy(*state);
	return 0;
}

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 * MS + ts.tv_nsec;
}

static void stop(void *opaque)
{
	loop_stop(opaque);
}

/* Something with a watch that counts, and deletes another watch or stops when told so. */
struct watch {
	struct loop *loop;
	struct loop_fd *lfd, **victim;
	int fd;
	int calls;
	uint32_t events;
	bool stop;
};

static void on_watch(void *opaque, uint32_t events)
{
	struct watch *w = opaque;

	w->calls++;
	w->events |= events;
	if (w->victim) {
		loop_fd_del(*w->victim);
		*w->victim = NULL;
	}
	if (w->stop)
		loop_stop(w->loop);
}

static void watch(struct watch *w, struct loop *loop, int fd, uint32_t events)
{
	w->loop = loop;
	w->fd = fd;
	assert_int_equal(loop_fd_add(loop, fd, events, on_watch, w, &w->lfd), 0);
}

static void fd_readable(void **state)
{
	struct watch w = { .stop = true };

	watch(&w, *state, eventfd(1, 0), EPOLLIN);
	loop_run(*state);
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.events, EPOLLIN);
	loop_fd_del(w.lfd);
	close(w.fd);
}

static void fd_deleted_in_own_callback(void **state)
{
	struct watch w = { .stop = false };

	watch(&w, *state, eventfd(1, 0), EPOLLIN);
	w.victim = &w.lfd;
	loop_post(*state, stop, *state);
	loop_run(*state);
	/* Readable still, so that a second round would call it again. */
	loop_post(*state, stop, *state);
	loop_run(*state);
	assert_true(w.calls <= 1);
	assert_null(w.calls ? w.lfd : NULL);
	loop_fd_del(w.lfd);
	close(w.fd);
}

static void fd_deleted_by_another(void **state)
{
	struct watch a = { .stop = true }, b = { .stop = true };

	/* Both are ready in one batch; whichever runs first deletes the other. */
	watch(&a, *state, eventfd(1, 0), EPOLLIN);
	watch(&b, *state, eventfd(1, 0), EPOLLIN);
	a.victim = &b.lfd;
	b.victim = &a.lfd;
	loop_run(*state);
	assert_int_equal(a.calls + b.calls, 1);
	loop_fd_del(a.lfd);
	loop_fd_del(b.lfd);
	close(a.fd);
	close(b.fd);
}

static void fd_without_events_is_silent_even_hung_up(void **state)
{
	struct watch w = { .stop = false };
	struct loop_timer *timer;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	watch(&w, *state, fds[0], EPOLLIN);
	assert_int_equal(loop_fd_events(w.lfd, 0), 0);
	close(fds[1]);
	assert_int_equal(loop_timer_add(*state, stop, *state, &timer), 0);
	loop_timer_set(timer, 10 * MS);
	loop_run(*state);
	assert_int_equal(w.calls, 0);
	w.stop = true;
	assert_int_equal(loop_fd_events(w.lfd, EPOLLIN), 0);
	loop_run(*state);
	assert_int_equal(w.calls, 1);
	loop_fd_del(w.lfd);
	loop_timer_del(timer);
	close(fds[0]);
}

static void fd_that_epoll_refuses(void **state)
{
	struct loop_fd *lfd;

	assert_int_equal(loop_fd_add(*state, -1, EPOLLIN, on_watch, NULL, &lfd), -EBADF);
	assert_null(lfd);
}

struct ticks {
	struct loop *loop;
	struct loop_timer *timers[3];
	int order[8], n;
};

static void first(void *opaque)
{
	struct ticks *t = opaque;

	t->order[t->n++] = 1;
	loop_timer_del(t->timers[2]); /* due, but not to be called any more */
	t->timers[2] = NULL;
	loop_timer_set(t->timers[0], -1);
}

static void second(void *opaque)
{
	struct ticks *t = opaque;

	t->order[t->n++] = 2;
	if (t->n == 3) {
		loop_timer_del(t->timers[1]);
		t->timers[1] = NULL;
		loop_stop(t->loop);
	} else {
		loop_timer_set(t->timers[1], 5 * MS);
	}
}

static void third(void *opaque)
{
	struct ticks *t = opaque;

	t->order[t->n++] = 3;
}

static void timers_fire_in_order(void **state)
{
	struct ticks t = { .loop = *state };
	int64_t begun = now();

	assert_int_equal(loop_timer_add(*state, first, &t, &t.timers[0]), 0);
	assert_int_equal(loop_timer_add(*state, second, &t, &t.timers[1]), 0);
	assert_int_equal(loop_timer_add(*state, third, &t, &t.timers[2]), 0);
	loop_timer_set(t.timers[1], 3 * MS);
	loop_timer_set(t.timers[2], 2 * MS);
	loop_timer_set(t.timers[0], 1000 * MS);
	loop_timer_set(t.timers[0], 1 * MS); /* set again: only the last counts */
	loop_run(*state);
	assert_int_equal(t.n, 3);
	assert_int_equal(t.order[0], 1);
	assert_int_equal(t.order[1], 2);
	assert_int_equal(t.order[2], 2);
	assert_true(now() - begun >= 8 * MS);
	assert_true(now() - begun < 1000 * MS);
	loop_timer_del(t.timers[0]);
}

static void timer_too_far_away_never_fires(void **state)
{
	struct ticks t = { .loop = *state };

	assert_int_equal(loop_timer_add(*state, third, &t, &t.timers[0]), 0);
	loop_timer_set(t.timers[0], INT64_MAX);
	loop_post(*state, stop, *state);
	loop_run(*state);
	assert_int_equal(t.n, 0);
	loop_timer_del(t.timers[0]);
}

#define THREADS	 4
#define MESSAGES 2000

struct poster {
	struct loop *loop;
	pthread_t thread;
	int posted, seen, calls;
	bool ordered, on_loop;
	struct message {
		struct poster *from;
		int number;
	} messages[MESSAGES];
};

static void receive(void *opaque)
{
	struct message *m = opaque;

	m->from->ordered &= m->number == m->from->seen++;
	m->from->on_loop &= loop_is_current(m->from->loop);
}

static void count_call(void *opaque)
{
	struct poster *p = opaque;

	/* All that this thread posted before has been run before. */
	p->ordered &= p->seen == p->posted;
	p->calls++;
}

static void *post_all(void *opaque)
{
	struct poster *p = opaque;

	for (int i = 0; i < MESSAGES; i++) {
		p->messages[i] = (struct message){ p, i };
		p->posted++;
		loop_post(p->loop, receive, &p->messages[i]);
		if (i % 100 == 99)
			loop_call(p->loop, count_call, p);
	}
	return NULL;
}

static void *run(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static void say_running(void *opaque)
{
	sem_post(opaque);
}

static void posts_and_calls_from_many_threads(void **state)
{
	static struct poster posters[THREADS];
	pthread_t loop_thread;
	sem_t running;

	/* Calls overtake posts as long as the loop does not run. */
	sem_init(&running, 0, 0);
	loop_post(*state, say_running, &running);
	pthread_create(&loop_thread, NULL, run, *state);
	sem_wait(&running);
	for (int i = 0; i < THREADS; i++) {
		posters[i] = (struct poster){ .loop = *state, .ordered = true, .on_loop = true };
		pthread_create(&posters[i].thread, NULL, post_all, &posters[i]);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(posters[i].thread, NULL);
	loop_stop(*state);
	pthread_join(loop_thread, NULL);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(posters[i].seen, MESSAGES);
		assert_int_equal(posters[i].calls, MESSAGES / 100);
		assert_true(posters[i].ordered);
		assert_true(posters[i].on_loop);
	}
}

static void set_true(void *opaque)
{
	*(bool *)opaque = true;
}

static void *call_many(void *opaque)
{
	for (int i = 0; i < 200; i++) {
		bool done = false;

		loop_call(opaque, set_true, &done);
		if (!done)
			return opaque;
	}
	return NULL;
}

static void call_returns_even_if_the_loop_stops(void **state)
{
	for (int round = 0; round < 20; round++) {
		pthread_t loop_thread, caller;
		void *failed;

		pthread_create(&loop_thread, NULL, run, *state);
		pthread_create(&caller, NULL, call_many, *state);
		loop_stop(*state);
		pthread_join(loop_thread, NULL);
		pthread_join(caller, &failed);
		assert_null(failed);
	}
}

static void call_on_the_loop_thread_runs_at_once(void **state)
{
	bool done = false;

	assert_true(loop_is_current(*state));
	loop_call(*state, set_true, &done);
	assert_true(done);
}

static struct loop *interrupted; /* a signal handler has no other way to know */

static void on_signal(int sig)
{
	(void)sig;
	loop_stop(interrupted);
}

static void send_signal(void *opaque)
{
	raise(*(int *)opaque);
}

static void signal_handler_may_stop(void **state)
{
	struct sigaction act = { .sa_handler = on_signal };
	int sig = SIGUSR1;

	interrupted = *state;
	sigaction(sig, &act, NULL);
	raise(sig); /* before loop_run: not lost */
	loop_run(*state);
	loop_post(*state, send_signal, &sig);
	loop_run(*state);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(fd_readable),
		TEST(fd_deleted_in_own_callback),
		TEST(fd_deleted_by_another),
		TEST(fd_without_events_is_silent_even_hung_up),
		TEST(fd_that_epoll_refuses),
		TEST(timers_fire_in_order),
		TEST(timer_too_far_away_never_fires),
		TEST(posts_and_calls_from_many_threads),
		TEST(call_returns_even_if_the_loop_stops),
		TEST(call_on_the_loop_thread_runs_at_once),
		TEST(signal_handler_may_stop),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
