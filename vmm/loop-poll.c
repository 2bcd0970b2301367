/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Looking before sleeping: for how long, and when not.
 *
 * Whoever was looked at in vain is left out the next time, then the next three times, and so on up
 * to
 * 63. So a guest whose work comes one by one, at a rhythm that is too slow for this, costs half a
 * µs each time; one that is idle costs nothing; and when there is more to do it is soon found out.
 */
#include "vmm/loop-poll.h"

#include <stddef.h>
#include <time.h>

#include "vmm/arch.h"

/* How long to look since something was found last, as QEMU's iothread does (poll-max-ns); and how
 * long descriptors may have to wait meanwhile. */
#define WINDOW_NS  32000
#define TURN_NS	   32000
#define MAX_MISSES 6 /* in a row that count */

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

bool loop_polls_start(struct loop_polls *polls, struct loop_poll *poll)
{
	if (poll->active)
		return true;
	if (!polls->open)
		return false;
	if (poll->skip) {
		poll->skip--;
		return false;
	}
	if (!polls->first)
		polls->last = 0;
	poll->active = true;
	poll->found = false;
	poll->next = polls->first;
	polls->first = poll;
	return true;
}

void loop_polls_stop(struct loop_polls *polls, struct loop_poll *poll)
{
	struct loop_poll **p = &polls->first;

	if (!poll->active)
		return;
	while (*p != poll)
		p = &(*p)->next;
	*p = poll->next;
	poll->active = false;
}

static bool look_once(struct loop_polls *polls)
{
	bool found = false;

	for (struct loop_poll *p = polls->first; p; p = p->next) {
		if (!p->look(p->opaque))
			continue;
		p->found = true;
		found = true;
	}
	return found;
}

bool loop_polls_look(struct loop_polls *polls)
{
	uint64_t begun, t;

	polls->open = polls->first;
	if (!polls->first)
		return false;
	begun = t = now();
	if (!polls->last)
		polls->last = begun;
	do {
		bool found = look_once(polls);

		if (!found)
			arch_relax();
		t = now();
		if (found)
			polls->last = t;
		else if (t - polls->last >= WINDOW_NS) {
			loop_polls_sleep(polls);
			return false;
		}
	} while (t - begun < TURN_NS);
	return true;
}

void loop_polls_sleep(struct loop_polls *polls)
{
	polls->open = false;
	while (polls->first) {
		struct loop_poll *p = polls->first;

		loop_polls_stop(polls, p);
		if (p->found)
			p->misses = 0;
		else if (p->misses < MAX_MISSES)
			p->misses++;
		p->skip = (1U << p->misses) - 1;
		p->sleep(p->opaque);
	}
}
