/* SPDX-License-Identifier: BSD-2-Clause */
/* A character device as chardev.c and chardev-flow.c see it; all others use chardev.h. */
#ifndef DEVICES_CHARDEV_FLOW_H
#define DEVICES_CHARDEV_FLOW_H

#include "devices/chardev-host.h"
#include "devices/chardev.h"

struct chardev {
	struct device *dev;
	const struct chardev_ops *ops;
	struct chardev_state *state;
	struct chardev_host host;

	bool running; /* between start and stop: state and host may exchange bytes */
	bool owned;   /* what is in state->out is ours to print */
	bool gone;    /* output has failed for good and is discarded */
	bool refused; /* chardev_write() took less than it was given */
	bool kicked;  /* the loop will call pump() anyway */
	bool escaped; /* Ctrl-A was typed */

	bool readable;	/* EPOLLIN was seen since the last read */
	bool in_polled; /* the input can be watched; a regular file cannot */
	bool blocked;	/* the host takes no more output for now */

	/* Typed while stopped: state->in must not change then, but Ctrl-A x must work. */
	uint32_t n_held;
	uint8_t held[64];

	int kick; /* eventfd: calls pump() on the loop thread */
	struct loop_fd *kick_watch, *listen_watch, *in_watch, *out_watch;
};

/* Drop the first @n of the @len bytes of one of the buffers. */
void chardev_shift(uint8_t *buf, uint32_t *len, size_t n);

/* Watch the host for @cd, which is stopped. Negative errno; to be closed even then. */
int chardev_flow_open(struct chardev *cd);
/* Print what is left if it is ours, and watch nothing any more. */
void chardev_flow_close(struct chardev *cd);

/* Have the loop thread move what can be moved. dev->lock held, any thread. */
void chardev_kick(struct chardev *cd);
/* Nobody takes the output, or nobody may be: the new is worth more than the old. dev->lock held. */
bool chardev_nobody_reads(const struct chardev *cd);

#endif
