/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What comes through the queues of a balloon (virtio 1.2, section 5.5.6): page numbers, statistics,
 * hints of free pages, reports of free pages.
 */
#include <string.h>

#include "devices/virtio-balloon.h"

/* Page numbers of one request that are looked at. Drivers send 256; of a longer one the rest stays
 * where it is, which costs the host memory and nobody else anything. */
#define MAX_PFNS 1024
/* Each page may take a system call, and others wait for the loop. */
#define CHAINS_AT_ONCE 8
#define MAX_STATS      (4 * VIRTIO_BALLOON_S_NR)

struct run {
	uint64_t gpa, len;
};

/* ---- Inflate ---- */

/* Whether @gpa neighbours the run, in the same region; then it has become part of it. */
static bool extend(const struct memory *mem, struct run *run, uint64_t gpa)
{
	uint64_t first = gpa + PAGE_SIZE == run->gpa ? gpa : run->gpa;

	if (!run->len || (first == run->gpa && gpa != run->gpa + run->len) ||
	    !memory_hva(mem, first, run->len + PAGE_SIZE))
		return false;
	run->gpa = first;
	run->len += PAGE_SIZE;
	return true;
}

/* Backings that have no single pages to give keep them. */
static void give(const struct memory *mem, const struct run *run)
{
	if (run->len)
		memory_discard(mem, run->gpa, run->len);
}

/*
 * 5.5.6: numbers of pages of 4 KiB, in any order. What a page holds while it is in the balloon is
 * not defined, so it makes no difference that a number which is not RAM does nothing, or that one
 * comes twice.
 */
static void inflate(struct balloon *b)
{
	const struct memory *mem = device_memory(&b->vd.dev);
	struct run run = { 0, 0 };
	uint32_t pfn;

	for (int n = 0; n < MAX_PFNS && virtq_pull(&b->chain, &pfn, sizeof(pfn)); n++) {
		uint64_t gpa = (uint64_t)pfn << VIRTIO_BALLOON_PFN_SHIFT;

		if (!memory_hva(mem, gpa, PAGE_SIZE) || extend(mem, &run, gpa))
			continue;
		give(mem, &run);
		run = (struct run){ gpa, PAGE_SIZE };
	}
	give(mem, &run);
}

/* ---- Statistics ---- */

/*
 * 5.5.6.3: the driver has made the buffer available, and fills it again each time it gets it back.
 * So it stays on the ring, read but not taken, until somebody asks for new numbers.
 */
static void read_stats(struct balloon *b)
{
	struct virtq_chain *chain = &b->chain;
	struct virtio_balloon_stat stat;

	if (!virtq_pop(&b->vd, BALLOON_STATS, chain))
		return;
	for (int n = 0; n < MAX_STATS && virtq_pull(chain, &stat, sizeof(stat)); n++) {
		if (stat.tag >= VIRTIO_BALLOON_S_NR)
			continue;
		b->stats[stat.tag] = stat.val;
		b->stats_known |= 1U << stat.tag;
	}
	virtq_unpop(&b->vd, BALLOON_STATS, chain);
}

void balloon_ask_stats(struct balloon *b)
{
	if (!virtq_pop(&b->vd, BALLOON_STATS, &b->chain))
		return;
	virtq_push(&b->vd, BALLOON_STATS, &b->chain, 0);
	virtq_flush(&b->vd, BALLOON_STATS);
	/* That empties the queue, which nobody would notice: ask for a kick for the new numbers. */
	if (virtq_waiting(&b->vd, BALLOON_STATS))
		virtq_kick(&b->vd, BALLOON_STATS);
}

/* ---- Free pages ---- */

/* The whole pages of writable buffer @i of the chain. */
static struct run buffer_pages(const struct virtq_chain *chain, unsigned int i)
{
	const struct iovec *iov = &chain->in[i];
	uint64_t gpa = chain->gpa[iov - chain->iov], end = gpa + iov->iov_len;
	uint64_t first = (gpa + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);

	end &= ~(PAGE_SIZE - 1);
	return (struct run){ first, end > first ? end - first : 0 };
}

/*
 * 5.5.6.4: a command in a readable buffer, then pages in writable ones. Those of a command that is
 * not the current one are ignored: what we asked for then is over, and what its pages hold is worth
 * keeping again.
 */
static void hint(struct balloon *b)
{
	struct virtq_chain *chain = &b->chain;

	if (chain->out_len && !virtq_pull(chain, &b->driver_id, sizeof(b->driver_id))) {
		virtio_broken(&b->vd, "a command of %zu bytes", chain->out_len);
		return;
	}
	if (!b->hints || b->driver_id != b->state.cmd_id)
		return;
	for (unsigned int i = 0; i < chain->n_in; i++) {
		struct run run = buffer_pages(chain, i);

		if (run.len)
			b->hints->add(b->hints, run.gpa, run.len);
	}
}

/* 5.5.6.6: these are free now, and read as zero afterwards; when the guest gets the buffer back it
 * may use them. */
static void report(struct balloon *b)
{
	if (!virtio_has(&b->vd, VIRTIO_BALLOON_F_REPORTING) || balloon_is_poisoned(b))
		return;
	for (unsigned int i = 0; i < b->chain.n_in; i++) {
		struct run run = buffer_pages(&b->chain, i);

		give(device_memory(&b->vd.dev), &run);
	}
}

/* Pages that leave the balloon are there again when they are touched. */
static void deflate(struct balloon *b)
{
	(void)b;
}

void balloon_handle_queue(struct virtio_device *vd, unsigned int q)
{
	static void (*const work[BALLOON_QUEUES])(struct balloon * b) = {
		[BALLOON_INFLATE] = inflate,
		[BALLOON_DEFLATE] = deflate,
		[BALLOON_HINT] = hint,
		[BALLOON_REPORT] = report,
	};
	struct balloon *b = (struct balloon *)vd;

	if (q == BALLOON_STATS) {
		read_stats(b);
		return;
	}
	for (unsigned int n = 0; n < CHAINS_AT_ONCE && virtq_pop(vd, q, &b->chain); n++) {
		work[q](b);
		virtq_push(vd, q, &b->chain, 0);
	}
	virtq_flush(vd, q);
	if (virtq_waiting(vd, q))
		virtq_kick(vd, q);
}
