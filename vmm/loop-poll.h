/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Looking before sleeping. Who has just had work, and can see in memory when there is more, is
 * looked at by the loop for some µs before it waits for descriptors: what comes then costs neither
 * a system call nor, where a guest brings it, an exit. All on the loop thread.
 */
#ifndef VMM_LOOP_POLL_H
#define VMM_LOOP_POLL_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

/* Embedded in what is looked at. The owner sets the first three, once. */
struct loop_poll {
	/* Do what has come, and say whether there was anything. Called over and over, so it has to
	 * be quick when there was not. */
	bool (*look)(void *opaque);
	/* Nobody looks any more: do what has come since, and have a descriptor tell of the next. */
	void (*sleep)(void *opaque);
	void *opaque;

	struct loop_poll *next; /* the rest is loop-poll.c's */
	bool active;		/* being looked at */
	bool found;		/* something, since it became active */
	unsigned int misses;	/* times in a row that it was looked at in vain */
	unsigned int skip;	/* times that it is not looked at now, for that reason */
};

/*
 * From a callback of the loop: look at @poll from now on until the loop sleeps, which calls its
 * sleep. False: it has not been worth it lately, or this is no callback; it takes a descriptor.
 */
bool loop_poll_start(struct loop *loop, struct loop_poll *poll);
/* Neither of its functions is called any more. It need not have been started. Not from them. */
void loop_poll_stop(struct loop *loop, struct loop_poll *poll);

/* Between loop.c and loop-poll.c. */

struct loop_polls {
	struct loop_poll *first; /* the active ones */
	bool open;		 /* may be started: somebody will look */
	uint64_t last;		 /* when something was found, ns; 0: not yet */
};

bool loop_polls_start(struct loop_polls *polls, struct loop_poll *poll);
void loop_polls_stop(struct loop_polls *polls, struct loop_poll *poll);
/* Look at them. True: the loop shall see to its descriptors without waiting, and come back. */
bool loop_polls_look(struct loop_polls *polls);
/* Let all sleep. */
void loop_polls_sleep(struct loop_polls *polls);

#endif
