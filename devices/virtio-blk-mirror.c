/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copying a virtio disk while the guest works on it: struct block_ops of vmm/device.h.
 *
 * A request is noted when it has ended, whether well or not. That is enough: who reads a block
 * before that has a copy that may lack it, but then the note comes later and the block is read once
 * more; who reads it after that has all of it. At the pause every request has ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/virtio-blk.h"

#define WORD_BITS 64
#define ZEROES	  4096

static int mirror_error(struct device *dev, int code, const char *what, uint64_t offset,
			struct error *err)
{
	const struct virtio_blk *blk = (const struct virtio_blk *)dev;
	char field[48];

	snprintf(field, sizeof(field), "%s at byte %llu", what, (unsigned long long)offset);
	return error_set(err, code, "mirror", dev->name, field, "", "%s: %s", blk->disk.path,
			 strerror(-code));
}

static uint64_t mirror_size(struct device *dev)
{
	return ((struct virtio_blk *)dev)->disk.size;
}

/* ---- What was written ---- */

static size_t words(const struct virtio_blk *blk)
{
	uint64_t blocks = (blk->disk.size + MIRROR_BLOCK - 1) / MIRROR_BLOCK;

	return (blocks + WORD_BITS - 1) / WORD_BITS;
}

void blk_note(struct virtio_blk *blk, const struct disk_request *io)
{
	if (!blk->dirty || io->op == DISK_READ || io->op == DISK_FLUSH || io->len == 0)
		return;
	for (uint64_t b = io->offset / MIRROR_BLOCK; b <= (io->offset + io->len - 1) / MIRROR_BLOCK;
	     b++)
		atomic_fetch_or(&blk->dirty[b / WORD_BITS], 1ULL << (b % WORD_BITS));
}

/* Requests are noted under the lock. */
static void set_dirty(struct virtio_blk *blk, _Atomic uint64_t *dirty)
{
	pthread_mutex_lock(&blk->vd.dev.lock);
	free(blk->dirty);
	blk->dirty = dirty;
	pthread_mutex_unlock(&blk->vd.dev.lock);
}

static int mirror_track(struct device *dev, struct error *err)
{
	struct virtio_blk *blk = (struct virtio_blk *)dev;
	_Atomic uint64_t *dirty = calloc(words(blk), sizeof(*dirty));

	if (!dirty)
		return error_set(err, -ENOMEM, "mirror", dev->name, "", "memory for a bitmap",
				 "none");
	set_dirty(blk, dirty);
	return 0;
}

static void mirror_untrack(struct device *dev)
{
	set_dirty((struct virtio_blk *)dev, NULL);
}

static void mirror_fetch(struct device *dev, uint64_t *bitmap)
{
	struct virtio_blk *blk = (struct virtio_blk *)dev;

	for (size_t w = 0; w < words(blk); w++)
		bitmap[w] |= atomic_exchange(&blk->dirty[w], 0);
}

/* ---- Reading ---- */

static uint64_t mirror_next_data(struct device *dev, uint64_t offset)
{
	const struct disk *disk = &((struct virtio_blk *)dev)->disk;
	off_t data = lseek(disk->fd, (off_t)offset, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO ? disk->size : offset; /* or it does not know */
	return (uint64_t)data < disk->size ? (uint64_t)data : disk->size;
}

static int mirror_read(struct device *dev, uint64_t offset, void *buf, size_t len,
		       struct error *err)
{
	int fd = ((struct virtio_blk *)dev)->disk.fd;

	while (len) {
		ssize_t n = pread(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) /* 0: the file was cut short */
			return mirror_error(dev, n < 0 ? -errno : -EIO, "read", offset, err);
		buf = (char *)buf + n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* ---- Writing ---- */

/* A disk that the guest may only read was opened for that only. */
static int mirror_open(struct device *dev, struct error *err)
{
	struct virtio_blk *blk = (struct virtio_blk *)dev;
	struct disk copy = { .path = blk->disk.path, .block_device = blk->disk.block_device };
	char again[32];
	int rc;

	if (!blk->disk.readonly) {
		rc = disk_lock(&blk->disk, err);
		blk->mirror_fd = rc ? -1 : blk->disk.fd;
		return rc;
	}
	snprintf(again, sizeof(again), "/proc/self/fd/%d", blk->disk.fd);
	copy.fd = open(again, O_RDWR | O_CLOEXEC);
	if (copy.fd < 0)
		return mirror_error(dev, -errno, "write", 0, err);
	rc = disk_lock(&copy, err);
	if (rc)
		close(copy.fd);
	else
		blk->mirror_fd = copy.fd;
	return rc;
}

static int mirror_write(struct device *dev, uint64_t offset, const void *buf, size_t len,
			struct error *err)
{
	int fd = ((struct virtio_blk *)dev)->mirror_fd;
	off_t begin = (off_t)offset, written = (off_t)len;

	while (len) {
		ssize_t n = pwrite(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return mirror_error(dev, n < 0 ? -errno : -EIO, "write", offset, err);
		buf = (const char *)buf + n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	/* Only advice: begin now what the sync during the blackout would have to wait for. */
	sync_file_range(fd, begin, written, SYNC_FILE_RANGE_WRITE);
	return 0;
}

/* A hole where there can be one, else whatever reads as zeroes. */
static int mirror_zero(struct device *dev, uint64_t offset, uint64_t len, struct error *err)
{
	static const uint8_t zeroes[ZEROES] __attribute__((aligned(ZEROES)));
	int fd = ((struct virtio_blk *)dev)->mirror_fd, ret = 0;

	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) ==
		    0 ||
	    fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) ==
		    0)
		return 0;
	if (errno != EOPNOTSUPP)
		return mirror_error(dev, -errno, "zero", offset, err);
	for (uint64_t done = 0; done < len && ret == 0; done += ZEROES)
		ret = mirror_write(dev, offset + done, zeroes,
				   len - done < ZEROES ? (size_t)(len - done) : ZEROES, err);
	return ret;
}

static int mirror_sync(struct device *dev, struct error *err)
{
	return fdatasync(((struct virtio_blk *)dev)->mirror_fd)
		       ? mirror_error(dev, -errno, "sync", 0, err)
		       : 0;
}

/* From writer to reader without a moment in which somebody else could become a writer. */
static int mirror_close(struct device *dev, struct error *err)
{
	struct virtio_blk *blk = (struct virtio_blk *)dev;
	struct disk copy = { .fd = blk->mirror_fd,
			     .path = blk->disk.path,
			     .block_device = blk->disk.block_device,
			     .readonly = true };
	int rc = 0;

	if (blk->disk.readonly) {
		rc = disk_lock(&copy, err);
		rc = rc ? rc : disk_lock(&blk->disk, err);
		close(copy.fd);
	}
	blk->mirror_fd = -1;
	return rc;
}

void blk_mirror_free(struct virtio_blk *blk)
{
	free(blk->dirty);
	blk->dirty = NULL;
	if (blk->mirror_fd >= 0 && blk->mirror_fd != blk->disk.fd)
		close(blk->mirror_fd);
	blk->mirror_fd = -1;
}

const struct block_ops blk_mirror_ops = {
	.size = mirror_size,
	.track = mirror_track,
	.untrack = mirror_untrack,
	.fetch = mirror_fetch,
	.next_data = mirror_next_data,
	.read = mirror_read,
	.open = mirror_open,
	.write = mirror_write,
	.zero = mirror_zero,
	.sync = mirror_sync,
	.close = mirror_close,
};
