/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio disk as virtio-blk.c, -request.c and -mirror.c see it; for these only. */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include <linux/virtio_blk.h>

#include "devices/disk.h"
#include "devices/virtio.h"

/* Limits of one request, in sectors. Writing zeroes may mean to write them. */
#define BLK_MAX_DISCARD	     (1U << 22)
#define BLK_MAX_WRITE_ZEROES (1U << 15)

struct blk_state {
	struct virtio_state virtio;
	bool writethrough; /* the inverse of config.writeback (5.2.5) */
};

struct blk_request {
	struct disk_request io; /* first */
	struct virtio_blk *blk;
	uint64_t status_gpa; /* of the byte that tells the driver how it went */
	struct virtq_chain chain;
};

struct virtio_blk {
	struct virtio_device vd;
	struct blk_state state;
	struct disk disk;
	struct loop_fd *watch;
	struct virtio_blk_config config;
	char id[VIRTIO_BLK_ID_BYTES];
	struct blk_request *requests; /* as many as the queue has entries */
	uint16_t *free;		      /* stack of the indices of those not in use */
	unsigned int n_requests, n_free;
	bool waiting; /* for the host; loop thread */

	/* Mirroring: blocks written to, NULL when nobody wants to know (the pointer under
	 * dev->lock); and what the copy is written to, -1 when there is none. */
	_Atomic uint64_t *dirty;
	int mirror_fd;
};

/* Start what the driver has queued, and look for answers: of struct virtio_ops. */
void blk_handle_queue(struct virtio_device *vd, unsigned int q);
bool blk_poll(struct virtio_device *vd);
/* Answer what the host has done. Loop thread; @opaque is the struct virtio_blk. */
void blk_on_disk(void *opaque, uint32_t events);

/* Note what @io, which has ended, may have changed. dev->lock held. */
void blk_note(struct virtio_blk *blk, const struct disk_request *io);
/* Let go of all that mirroring has taken. */
void blk_mirror_free(struct virtio_blk *blk);
extern const struct block_ops blk_mirror_ops;

#endif
