/* SPDX-License-Identifier: BSD-2-Clause */
/* The timers of a loop, between loop.c and loop-timer.c; all others use vmm/loop.h. */
#ifndef VMM_LOOP_TIMER_H
#define VMM_LOOP_TIMER_H

#include "vmm/loop.h"

struct loop_timers {
	int fd;			  /* a timerfd, readable when the first is due */
	struct loop_timer *first; /* armed ones, earliest first */
	int64_t armed;		  /* the deadline that fd is set to */
};

/* On failure fd is -1 and errno says why. Who calls this closes fd. */
void loop_timers_init(struct loop_timers *timers);
int loop_timers_add(struct loop_timers *timers, loop_fn fn, void *opaque, struct loop_timer **out);
/* Call before every wait, so that setting a timer costs no system call of its own. */
void loop_timers_arm(struct loop_timers *timers);
/* Call those that are due, after fd was read. */
void loop_timers_run(struct loop_timers *timers);

#endif
