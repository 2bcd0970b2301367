/* SPDX-License-Identifier: BSD-2-Clause */
/* What vio.c asks of the test of one kind of virtio device. */
#ifndef GUEST_VIO_H
#define GUEST_VIO_H

#include "kernel/virtio.h"

/* With seconds= a test goes on until it is stopped, without it does its round once. */
struct vio_mode {
	bool once, stop;
	unsigned depth; /* requests in flight */
};

struct vio_test {
	uint32_t id;
	const char *name; /* of the option dev= */

	/* Returns the test's own struct, which begins with the struct virtio. */
	struct virtio *(*start)(const struct device *device, const struct vio_mode *mode);

	/* Takes what is finished, starts what is next, never waits; true when the test is over. */
	bool (*step)(struct virtio *v, const struct vio_mode *mode);

	/* One line of what was done so far. */
	void (*report)(const struct virtio *v);
};

extern const struct vio_test vio_blk, vio_net;

#endif
