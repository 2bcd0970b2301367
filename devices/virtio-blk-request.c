/* SPDX-License-Identifier: BSD-2-Clause */
/* What a guest can ask a virtio disk for (virtio 1.2, section 5.2.6), from the queue and back. */
#include "devices/virtio-blk.h"

/* Longest read or write: one system call does it (the kernel's limit is just below 2 GiB). */
#define MAX_BYTES (1U << 30)

/* Finish a request: tell the driver @status, having written the first @len bytes of in. */
static void answer(struct blk_request *r, uint8_t status, size_t len)
{
	struct virtio_blk *blk = r->blk;

	/* Data and status byte are all of in, or the status byte stands alone behind a gap. */
	memory_write(device_memory(&blk->vd.dev), r->status_gpa, &status, 1);
	virtq_push(&blk->vd, 0, &r->chain, len == r->chain.in_len ? (uint32_t)len + 1 : 0);
	if (blk->n_free == 0)
		virtq_kick(&blk->vd, 0); /* handle_queue may have stopped for want of one */
	blk->free[blk->n_free++] = (uint16_t)(r - blk->requests);
}

static void io_done(struct disk_request *io, int rc)
{
	struct blk_request *r = (struct blk_request *)io;
	size_t len = io->op == DISK_READ ? r->chain.in_len : 0;

	blk_note(r->blk, io);
	if (rc == 0) {
		answer(r, VIRTIO_BLK_S_OK, len);
		return;
	}
	/* A failed read may have written any part of the buffer. */
	virtq_dirty(&r->blk->vd, &r->chain, 0, len);
	answer(r, VIRTIO_BLK_S_IOERR, 0);
}

static void start(struct blk_request *r, enum disk_op op, uint64_t sector, uint64_t len)
{
	r->io.op = op;
	r->io.offset = sector * DISK_SECTOR;
	r->io.len = len;
	disk_start(&r->blk->disk, &r->io);
}

/* Whether [@sector, + @len bytes) is whole sectors of the disk. */
static bool in_range(const struct virtio_blk *blk, uint64_t sector, uint64_t len)
{
	uint64_t capacity = blk->config.capacity;

	return len % blk->config.blk_size == 0 &&
	       sector % (blk->config.blk_size / DISK_SECTOR) == 0 && sector <= capacity &&
	       len / DISK_SECTOR <= capacity - sector;
}

/* Without FLUSH, or when the driver has chosen so, a write that is done is durable (5.2.6.2). */
static bool writethrough(const struct virtio_blk *blk)
{
	return !virtio_has(&blk->vd, VIRTIO_BLK_F_FLUSH) || blk->state.writethrough;
}

static void read_write(struct blk_request *r, bool write, uint64_t sector)
{
	struct virtio_blk *blk = r->blk;
	uint64_t len = write ? r->chain.out_len : r->chain.in_len;

	if (len > MAX_BYTES || !in_range(blk, sector, len) || (write && blk->disk.readonly)) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	r->io.iov = write ? r->chain.out : r->chain.in;
	r->io.n_iov = write ? r->chain.n_out : r->chain.n_in;
	start(r,
	      !write		  ? DISK_READ
	      : writethrough(blk) ? DISK_WRITE_THROUGH
				  : DISK_WRITE,
	      sector, len);
}

/* DISCARD and WRITE_ZEROES: one segment, as config says. */
static void clear(struct blk_request *r, bool zero)
{
	struct virtio_blk *blk = r->blk;
	struct virtio_blk_discard_write_zeroes seg;
	bool unmap;

	if (r->chain.out_len != sizeof(seg) || !virtq_pull(&r->chain, &seg, sizeof(seg))) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	unmap = seg.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	if (seg.flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (unmap && !zero)) {
		answer(r, VIRTIO_BLK_S_UNSUPP, 0); /* 5.2.6.2 */
		return;
	}
	if (blk->disk.readonly || seg.num_sectors == 0 ||
	    seg.num_sectors > (zero ? BLK_MAX_WRITE_ZEROES : BLK_MAX_DISCARD) ||
	    !in_range(blk, seg.sector, (uint64_t)seg.num_sectors * DISK_SECTOR)) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	start(r,
	      !zero   ? DISK_DISCARD
	      : unmap ? DISK_ZERO_UNMAP
		      : DISK_ZERO,
	      seg.sector, (uint64_t)seg.num_sectors * DISK_SECTOR);
}

static void get_id(struct blk_request *r)
{
	struct virtio_blk *blk = r->blk;
	size_t n = virtq_write(&blk->vd, &r->chain, 0, blk->id, sizeof(blk->id));

	answer(r, n == sizeof(blk->id) ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR, n);
}

/* Look at a request that has just been popped and start it, or answer at once. */
static void handle(struct blk_request *r)
{
	struct virtio_blk *blk = r->blk;
	struct virtio_blk_outhdr hdr;

	/* Without a place for the status there is no way to complain to the driver. */
	if (!virtq_cut(&r->chain, 1, &r->status_gpa)) {
		virtio_broken(&blk->vd, "request without a status byte");
		blk->free[blk->n_free++] = (uint16_t)(r - blk->requests);
		return;
	}
	if (!virtq_pull(&r->chain, &hdr, sizeof(hdr))) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	switch (hdr.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		read_write(r, hdr.type == VIRTIO_BLK_T_OUT, hdr.sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		start(r, DISK_FLUSH, 0, 0);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(r);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		clear(r, hdr.type == VIRTIO_BLK_T_WRITE_ZEROES);
		break;
	default:
		answer(r, VIRTIO_BLK_S_UNSUPP, 0);
	}
}

static void take_answers(struct virtio_blk *blk)
{
	disk_reap(&blk->disk);
	virtq_flush(&blk->vd, 0);
	blk->waiting = blk->disk.in_flight > 0;
}

void blk_handle_queue(struct virtio_device *vd, unsigned int q)
{
	struct virtio_blk *blk = (struct virtio_blk *)vd;

	while (blk->n_free) {
		struct blk_request *r = &blk->requests[blk->free[blk->n_free - 1]];

		if (!virtq_pop(vd, q, &r->chain))
			break;
		blk->n_free--;
		r->blk = blk;
		r->io.done = io_done;
		handle(r);
	}
	disk_submit(&blk->disk);
	take_answers(blk); /* what the host had at hand is done already */
}

/* Without the lock there is no telling whether there are answers: a vCPU may be about to take them.
 */
bool blk_poll(struct virtio_device *vd)
{
	struct virtio_blk *blk = (struct virtio_blk *)vd;
	bool found;

	if (!blk->waiting || pthread_mutex_trylock(&vd->dev.lock))
		return false;
	found = disk_ready(&blk->disk);
	if (found)
		take_answers(blk);
	pthread_mutex_unlock(&vd->dev.lock);
	return found;
}

void blk_on_disk(void *opaque, uint32_t events)
{
	struct virtio_blk *blk = opaque;

	(void)events;
	pthread_mutex_lock(&blk->vd.dev.lock);
	take_answers(blk);
	pthread_mutex_unlock(&blk->vd.dev.lock);
}
