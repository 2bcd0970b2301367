/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A character device: bytes between a guest's device and the host.
 *
 * It is connected to one of
 *	stdio		ferry's own input and output. A terminal becomes raw, and Ctrl-A is for
 *			ferry: Ctrl-A x ends it, Ctrl-A h shows help, Ctrl-A Ctrl-A sends a Ctrl-A.
 *			The end of the input is not the end of the machine.
 *	file:PATH	output only; `run` truncates the file, `receive` and `restore` append to it
 *	pty		a pseudo-terminal whose name is printed on stderr
 *	unix:PATH	a socket that serves one client at a time; others wait for their turn
 *	none		nobody
 *
 * The guest never waits for the host. What it writes goes to a buffer that the loop thread empties.
 * When that is full the device is told so, and can make its transmitter look busy; but where nobody
 * reads (a socket without a client, a pty) the oldest 4 KiB make room for the new.
 *
 * Both buffers are part of the device's state, so what was typed but not yet read by the guest, and
 * what the guest printed but nobody took yet, crosses with a migration: not lost, and not printed
 * twice. To this end nothing moves between chardev_stop() and chardev_start(), and a machine that
 * does not own its devices (vmm/device.h, claim and yield) prints nothing.
 *
 * Threads: chardev_write and chardev_poke are called with dev->lock held, on any thread; the ops
 * are called with it held, on the loop thread. The rest take it themselves: open, close, stop and
 * start on the loop thread, claim and yield on any.
 */
#ifndef DEVICES_CHARDEV_H
#define DEVICES_CHARDEV_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/device.h"

#define CHARDEV_IN  4096
#define CHARDEV_OUT 65536

/* Part of the state of the device, as FIELD_CHARDEV. Survives a reset of the machine. */
struct chardev_state {
	uint32_t in_len;
	uint32_t out_len;
	uint8_t in[CHARDEV_IN];	  /* from the host, not yet taken by the device */
	uint8_t out[CHARDEV_OUT]; /* from the device, not yet taken by the host */
};

extern const struct field chardev_fields[];

#define FIELD_CHARDEV(s, m)                                                                 \
	{                                                                                   \
		.name = #m, .type = FIELD_STRUCT, .since = 1, .offset = offsetof(s, m),     \
		.size = sizeof(struct chardev_state), .count = 1, .count_offset = NO_COUNT, \
		.sub = chardev_fields                                                       \
	}

struct chardev_ops {
	/* Input: take up to @len bytes, return how many. Who took fewer calls chardev_poke() when
	 * it can take more. */
	size_t (*receive)(struct device *dev, const uint8_t *data, size_t len);
	/* There is room again after chardev_write() took less than it was given. */
	void (*writable)(struct device *dev);
};

struct chardev;

/* For an option's add: is @spec well-formed? @option is named in the error. */
int chardev_check(const char *spec, const char *option, struct error *err);

/*
 * Connect @dev to @spec (NULL: none). @state is the device's and stays valid until chardev_close().
 * Comes up stopped. -EBUSY when another device has stdio. On an error *out is NULL.
 */
int chardev_open(struct chardev **out, struct device *dev, const char *spec,
		 const struct chardev_ops *ops, struct chardev_state *state, struct error *err);
/* Print what is left, waiting for at most CHARDEV_LINGER_MS without progress. NULL is fine. */
void chardev_close(struct chardev *cd);
#define CHARDEV_LINGER_MS 500

/* Output: returns how many bytes were taken, all of them unless the host is slow. */
size_t chardev_write(struct chardev *cd, const void *data, size_t len);
/* The device can take input again. */
void chardev_poke(struct chardev *cd);

/* From the device's quiesce, resume, claim, yield and hand_on. NULL is fine. */
void chardev_stop(struct chardev *cd);
void chardev_start(struct chardev *cd);
void chardev_claim(struct chardev *cd);
void chardev_yield(struct chardev *cd);
void chardev_hand_on(struct chardev *cd, struct device_fds *fds);

#endif
