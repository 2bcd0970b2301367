/* SPDX-License-Identifier: BSD-2-Clause */
/* The timers of an event loop: a list by deadline, and one timerfd that is set to the earliest. */
#include "vmm/loop-timer.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>

#define NEVER  INT64_MAX
#define SECOND 1000000000LL

struct loop_timer {
	struct loop_timers *timers;
	int64_t deadline; /* ns of CLOCK_MONOTONIC, NEVER when disarmed */
	loop_fn fn;
	void *opaque;
	struct loop_timer *next;
};

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

void loop_timers_init(struct loop_timers *timers)
{
	timers->first = NULL;
	timers->armed = NEVER;
	timers->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
}

static void timer_unlink(struct loop_timer *timer)
{
	struct loop_timer **p = &timer->timers->first;

	if (timer->deadline == NEVER)
		return;
	while (*p != timer)
		p = &(*p)->next;
	*p = timer->next;
	timer->deadline = NEVER;
}

int loop_timers_add(struct loop_timers *timers, loop_fn fn, void *opaque, struct loop_timer **out)
{
	struct loop_timer *timer = calloc(1, sizeof(*timer));

	*out = timer;
	if (!timer)
		return -ENOMEM;
	timer->timers = timers;
	timer->fn = fn;
	timer->opaque = opaque;
	timer->deadline = NEVER;
	return 0;
}

void loop_timer_set(struct loop_timer *timer, int64_t ns)
{
	struct loop_timer **p = &timer->timers->first;

	timer_unlink(timer);
	if (ns < 0 || __builtin_add_overflow(now(), ns, &timer->deadline)) {
		timer->deadline = NEVER;
		return;
	}
	while (*p && (*p)->deadline <= timer->deadline)
		p = &(*p)->next;
	timer->next = *p;
	*p = timer;
}

void loop_timer_del(struct loop_timer *timer)
{
	if (!timer)
		return;
	timer_unlink(timer);
	free(timer);
}

void loop_timers_arm(struct loop_timers *timers)
{
	int64_t first = timers->first ? timers->first->deadline : NEVER;
	struct itimerspec spec = { 0 };

	if (first == timers->armed)
		return;
	if (first != NEVER) {
		spec.it_value.tv_sec = first / SECOND;
		spec.it_value.tv_nsec = first % SECOND;
	}
	timerfd_settime(timers->fd, TFD_TIMER_ABSTIME, &spec, NULL);
	timers->armed = first;
}

void loop_timers_run(struct loop_timers *timers)
{
	int64_t until = now();

	timers->armed = NEVER;
	while (timers->first && timers->first->deadline <= until) {
		struct loop_timer *timer = timers->first;

		timer_unlink(timer);
		timer->fn(timer->opaque); /* which may delete it */
	}
}
