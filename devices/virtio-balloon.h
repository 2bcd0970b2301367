/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio balloon: what its life (virtio-balloon.c) and its queues (virtio-balloon-queue.c) share.
 */
#ifndef DEVICES_VIRTIO_BALLOON_H
#define DEVICES_VIRTIO_BALLOON_H

#include <linux/virtio_balloon.h>

#include "devices/virtio.h"

/* 5.5.2 */
enum balloon_queue {
	BALLOON_INFLATE,
	BALLOON_DEFLATE,
	BALLOON_STATS,
	BALLOON_HINT,
	BALLOON_REPORT,
	BALLOON_QUEUES,
};

struct balloon_state {
	struct virtio_state virtio;
	/* Of the configuration (5.5.4), in pages of 4 KiB where they count something. */
	uint32_t num_pages; /* that the guest is asked to give */
	uint32_t actual;    /* that it says it has given */
	uint32_t cmd_id;    /* free_page_hint_cmd_id */
	uint32_t poison_val;

	uint32_t last_id; /* the last command that asked for hints */
};

struct balloon {
	struct virtio_device vd;
	struct balloon_state state;

	struct page_hints *hints; /* whom to tell, NULL when hints are not wanted */
	bool moving;		  /* hinted pages may have lost what they held */
	uint32_t driver_id;	  /* the command that the driver answers to */

	uint32_t stats_known; /* a bit for each of stats */
	uint64_t stats[VIRTIO_BALLOON_S_NR];

	int changed; /* eventfd: the driver wrote actual */
	struct loop_fd *changed_watch;
	struct loop_timer *calm;
	struct virtq_chain chain;
};

/* For struct virtio_ops. */
void balloon_handle_queue(struct virtio_device *vd, unsigned int q);

/* Have the driver send new statistics. Lock held. */
void balloon_ask_stats(struct balloon *b);

/* Free pages hold something that the guest relies on, and we cannot make (5.5.6.5, page poison). */
static inline bool balloon_is_poisoned(const struct balloon *b)
{
	return virtio_has(&b->vd, VIRTIO_BALLOON_F_PAGE_POISON) && b->state.poison_val;
}

#endif
