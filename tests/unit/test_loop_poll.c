/* SPDX-License-Identifier: BSD-2-Clause */
/* Looking before sleeping: how long, whom, and that the rest of the loop has its turn. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/loop-poll.h"
#include "vmm/loop.h"

#define MS 1000000LL

/* A loop that wakes up by a descriptor, and then starts to look. */
struct fixture {
	struct loop *loop;
	struct loop_poll poll;
	struct loop_fd *watch;
	struct loop_timer *timer;
	int fd;
	unsigned int wakes; /* of the descriptor */
	unsigned int started, looks, sleeps;
	unsigned int ahead, found; /* looks that will find something, and did */
	unsigned int last_wake;	   /* stop then */
	bool late;		   /* it could be started from sleep */
	struct loop_poll other;
};

static bool look(void *opaque)
{
	struct fixture *f = opaque;

	f->looks++;
	if (!f->ahead)
		return false;
	f->ahead--;
	f->found++;
	return true;
}

static void fall_asleep(void *opaque)
{
	struct fixture *f = opaque;

	f->sleeps++;
	if (f->wakes >= f->last_wake)
		loop_stop(f->loop);
	f->late = f->late || loop_poll_start(f->loop, &f->poll) ||
		  loop_poll_start(f->loop, &f->other);
}

static void stop(void *opaque)
{
	loop_stop(((struct fixture *)opaque)->loop);
}

/* Readable all the time. */
static void on_fd(void *opaque, uint32_t events)
{
	struct fixture *f = opaque;

	(void)events;
	f->wakes++;
	if (loop_poll_start(f->loop, &f->poll))
		f->started++;
	else if (f->wakes >= f->last_wake)
		loop_stop(f->loop);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	assert_int_equal(loop_create(&f->loop, &err), 0);
	f->poll = (struct loop_poll){ .look = look, .sleep = fall_asleep, .opaque = f };
	f->other = f->poll;
	f->fd = eventfd(1, EFD_NONBLOCK);
	assert_int_equal(loop_fd_add(f->loop, f->fd, 0, on_fd, f, &f->watch), 0);
	assert_int_equal(loop_timer_add(f->loop, stop, f, &f->timer), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_poll_stop(f->loop, &f->poll);
	loop_fd_del(f->watch);
	loop_timer_del(f->timer);
	loop_destroy(f->loop);
	close(f->fd);
	free(f);
	return 0;
}

/* Wake the loop @wakes times; each time it goes to sleep again. */
static void wake(struct fixture *f, unsigned int wakes)
{
	f->wakes = 0;
	loop_fd_events(f->watch, EPOLLIN | EPOLLET);
	while (f->wakes < wakes) {
		eventfd_write(f->fd, 1);
		f->last_wake = f->wakes + 1;
		loop_run(f->loop);
	}
}

static void only_from_callbacks(void **state)
{
	struct fixture *f = *state;

	assert_false(loop_poll_start(f->loop, &f->poll));
	wake(f, 1);
	assert_int_equal(f->started, 1);
	assert_int_equal(f->sleeps, 1);
	assert_false(f->poll.active);
	assert_false(f->late);
	assert_false(loop_poll_start(f->loop, &f->poll));
}

/* It is looked at for a while, and then the loop sleeps. */
static void nothing_comes(void **state)
{
	struct fixture *f = *state;

	f->last_wake = 2;
	loop_fd_events(f->watch, EPOLLIN | EPOLLET);
	loop_timer_set(f->timer, 50 * MS);
	loop_run(f->loop);
	assert_int_equal(f->wakes, 1);
	assert_int_equal(f->sleeps, 1);
	assert_true(f->looks >= 1);
	assert_int_equal(f->poll.misses, 1);
}

/* What comes keeps the loop awake, and is no reason to leave it out the next time. */
static void something_comes(void **state)
{
	struct fixture *f = *state;

	f->ahead = 10000;
	wake(f, 1);
	assert_int_equal(f->found, 10000);
	assert_int_equal(f->sleeps, 1);
	assert_int_equal(f->poll.misses, 0);
	wake(f, 1);
	assert_int_equal(f->started, 2);
}

/* A guest that is idle but for a request now and then is not looked at for long. */
static void in_vain(void **state)
{
	struct fixture *f = *state;

	wake(f, 3000);
	/* Left out 1, 3, 7, … 63 times, and then 63 each time. */
	assert_true(f->started >= 40);
	assert_true(f->started <= 6 + 3000 / 64);
	assert_int_equal(f->sleeps, f->started);
	/* And when there is work again, it is noticed at last. */
	f->ahead = 5;
	f->started = 0;
	wake(f, 70);
	assert_int_equal(f->found, 5);
	assert_true(f->started >= 2);
}

/* Descriptors and timers have their turn, however much there is to do. */
static void others_have_their_turn(void **state)
{
	struct fixture *f = *state;

	f->ahead = 50000000; /* seconds of it */
	f->last_wake = UINT32_MAX;
	loop_fd_events(f->watch, EPOLLIN); /* level: each turn sees it */
	loop_timer_set(f->timer, 20 * MS);
	loop_run(f->loop);
	assert_true(f->wakes > 1);
	assert_true(f->found > 0);
	assert_int_equal(f->sleeps, 1); /* when the loop ended */
}

static bool stop_other(void *opaque)
{
	struct fixture *f = opaque;

	f->looks++;
	return false;
}

/* Of two, the one that is stopped is not called any more. */
static void stopped(void **state)
{
	struct fixture *f = *state;

	f->other = (struct loop_poll){ .look = stop_other, .sleep = fall_asleep, .opaque = f };
	f->last_wake = 1;
	loop_poll_stop(f->loop, &f->other); /* never started */
	wake(f, 1);
	assert_int_equal(f->sleeps, 1);
	loop_poll_stop(f->loop, &f->poll); /* asleep already */
	loop_poll_stop(f->loop, &f->other);
	assert_false(f->poll.active);
	assert_false(f->other.active);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(only_from_callbacks),    TEST(nothing_comes),
		TEST(something_comes),	      TEST(in_vain),
		TEST(others_have_their_turn), TEST(stopped),
	};

	return cmocka_run_group_tests_name("loop-poll", tests, NULL, NULL);
}
