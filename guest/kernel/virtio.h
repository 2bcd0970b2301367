/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A driver's side of virtio 1.2 over MMIO (4.2) with split virtqueues (2.7). Requests have slots:
 * slot k owns indirect table k, or descriptors 4k to 4k+3, so nothing has to be allocated.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>
#include "clock.h"
#include "machine.h"

#define VIRTIO_SLOTS   32 /* at most, a queue */
#define VIRTIO_BUFFERS 4  /* at most, a request */
#define VIRTIO_QUEUES  5  /* at most, a device */

enum {
	VIRTIO_NET = 1,
	VIRTIO_CONSOLE = 3,
	VIRTIO_BLK = 2,
	VIRTIO_RNG = 4,
	VIRTIO_BALLOON = 5,
};

struct virtio_desc {
	uint64_t address;
	uint32_t size;
	uint16_t flags, next;
};

/* The rings of one queue in one piece of RAM; available and used ring as in 2.7.6 and 2.7.8. */
struct virtio_rings {
	struct virtio_desc desc[VIRTIO_SLOTS * VIRTIO_BUFFERS];
	struct virtio_desc table[VIRTIO_SLOTS][VIRTIO_BUFFERS];
	struct {
		uint16_t flags, idx, ring[VIRTIO_SLOTS * VIRTIO_BUFFERS], used_event;
	} avail;
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, size;
		} ring[VIRTIO_SLOTS * VIRTIO_BUFFERS];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
};

struct virtio_queue {
	volatile struct virtio_rings *rings;
	uint16_t size;	    /* entries of the rings */
	unsigned slots;	    /* requests at a time */
	uint16_t used_seen; /* entries of the used ring that were taken */
	uint16_t kicked;    /* available index at the last notification */
};

struct virtio {
	uintptr_t base;
	unsigned vector;
	uint32_t id; /* VIRTIO_BLK, … */
	uint64_t features;
	bool irq; /* wait for interrupts, do not poll */
	uint64_t irqs_seen;
	unsigned busy; /* requests that will be answered soon */
	struct patience patience;
	struct virtio_queue queue[VIRTIO_QUEUES];
};

struct virtio_buffer {
	const void *data;
	uint32_t size;
	bool in; /* the device writes it */
};

/* The device id behind @device, 0 when there is none that can be driven. */
uint32_t virtio_probe(const struct device *device);

/*
 * Resets the device, negotiates @features of its kind, and sets up @queues queues of up to @slots
 * requests. fail() when the device refuses. indirect=0 and event_idx=0 leave these two out.
 */
void virtio_open(struct virtio *v, const struct device *device, uint64_t features, unsigned queues,
		 unsigned slots);

/* Resets the device: it may not touch memory any more. */
void virtio_close(struct virtio *v);

uint64_t virtio_config(struct virtio *v, unsigned offset, unsigned bytes);
void virtio_config_set(struct virtio *v, unsigned offset, uint32_t value);

/* Makes a request available and notifies the device; the slot must be free. */
void virtio_submit(struct virtio *v, unsigned queue, unsigned slot,
		   const struct virtio_buffer *buffers, unsigned n);

/* A finished slot, and in *size how much the device wrote; -1 when there is none. */
int virtio_done(struct virtio *v, unsigned queue, uint32_t *size);

/*
 * True when the queues are worth a look: always when polling, after an interrupt otherwise. It is
 * here that a device that stays silent for 5 s with requests under way fails the program.
 */
bool virtio_due(struct virtio *v);

#endif
