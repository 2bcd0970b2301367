/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queues that the loop looks at before it sleeps (vmm/loop-poll.h): while it does, the driver is
 * told not to kick (virtio 1.2, 2.7.10), which for a guest is an exit.
 *
 * What is noted of a queue that was found empty is the loop thread's alone, so looking takes no
 * lock: guest RAM stays mapped as long as there is a device, and what a driver that has been reset
 * meanwhile left in it leads to one look more, which finds that the queue is none.
 */
#include "devices/virtio.h"

static uint16_t avail_index(const struct virtq *vq)
{
	return __atomic_load_n(vq->watched, __ATOMIC_ACQUIRE);
}

bool virtio_poll_queue(struct virtio_device *vd, unsigned int q, const uint16_t *index,
		       uint16_t from)
{
	struct virtq *vq = &vd->queue[q];

	if (!loop_poll_start(device_loop(&vd->dev), &vd->poll))
		return false;
	vq->watched = index;
	vq->watched_from = from;
	vd->empty |= 1U << q;
	return true;
}

/* The next of the queues in *@set, which is taken out. */
static unsigned int next(uint32_t *set)
{
	unsigned int q = (unsigned int)__builtin_ctz(*set);

	*set &= *set - 1;
	return q;
}

static bool look(void *opaque)
{
	struct virtio_device *vd = opaque;
	bool found = vd->ops->poll && vd->ops->poll(vd);
	uint32_t set = vd->empty;

	while (set) {
		unsigned int q = next(&set);

		if (avail_index(&vd->queue[q]) == vd->queue[q].watched_from)
			continue;
		vd->empty &= ~(1U << q);
		virtio_run_queue(vd, q);
		found = true;
	}
	return found;
}

static void sleep_(void *opaque)
{
	struct virtio_device *vd = opaque;
	uint32_t set = vd->empty;

	vd->empty = 0;
	while (set) {
		unsigned int q = next(&set);
		bool more;

		pthread_mutex_lock(&vd->dev.lock);
		more = virtq_waiting(vd, q); /* which asks for kicks again */
		pthread_mutex_unlock(&vd->dev.lock);
		if (more)
			virtio_run_queue(vd, q);
	}
}

void virtio_poll_init(struct virtio_device *vd)
{
	vd->poll.look = look;
	vd->poll.sleep = sleep_;
	vd->poll.opaque = vd;
}

void virtio_poll_end(struct virtio_device *vd)
{
	uint32_t set = vd->empty;

	loop_poll_stop(device_loop(&vd->dev), &vd->poll);
	vd->empty = 0;
	while (set) {
		unsigned int q = next(&set);

		if (virtio_live(vd) && vd->state->queue[q].ready)
			virtq_want_kick(vd, q, true);
	}
}
