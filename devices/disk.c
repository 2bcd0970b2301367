/* SPDX-License-Identifier: BSD-2-Clause */
/* Raw files and block devices by io_uring, or by blocking calls. */
#include "devices/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAIN_MS      5000
#define LOCK_TRIES    25
#define LOCK_PAUSE_MS 20
#define DIRECT_ALIGN  4096 /* of files opened with O_DIRECT: what every file system accepts */

static int disk_error(struct error *err, int code, const char *path)
{
	return error_set(err, code, "disk", path, "", "", "%s", strerror(-code));
}

/* Size and kind of what @fd refers to. */
static int measure(int fd, const char *path, unsigned int flags, uint64_t *size, uint32_t *align,
		   bool *block_device, struct error *err)
{
	struct stat st;
	int sector = 0;

	if (fstat(fd, &st))
		return disk_error(err, -errno, path);
	*block_device = S_ISBLK(st.st_mode);
	*align = flags & DISK_DIRECT ? DIRECT_ALIGN : DISK_SECTOR;
	if (*block_device) {
		if (ioctl(fd, BLKGETSIZE64, size) || ioctl(fd, BLKSSZGET, &sector))
			return disk_error(err, -errno, path);
		if (flags & DISK_DIRECT)
			*align = (uint32_t)sector;
	} else if (S_ISREG(st.st_mode)) {
		*size = (uint64_t)st.st_size;
	} else {
		return error_set(err, -EINVAL, "disk", path, "", "a file or a block device",
				 "something else");
	}
	if (*size == 0 || *size % *align) {
		error_set(err, -EINVAL, "disk", path, "size", "", "%llu bytes",
			  (unsigned long long)*size);
		error_expected(err, "a multiple of %u bytes", *align);
		return -EINVAL;
	}
	return 0;
}

int disk_probe(const char *path, unsigned int flags, uint64_t *size, uint32_t *align,
	       struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool block_device;
	int rc;

	if (fd < 0)
		return disk_error(err, -errno, path);
	rc = measure(fd, path, flags, size, align, &block_device, err);
	close(fd);
	return rc;
}

int disk_open(struct disk *disk, const char *path, bool readonly, unsigned int flags,
	      unsigned int depth, struct error *err)
{
	int rc;

	*disk = (struct disk){ .fd = -1, .readonly = readonly, .drain_ms = DRAIN_MS };
	disk->path = strdup(path);
	if (!disk->path)
		return disk_error(err, -ENOMEM, path);
	/* O_NONBLOCK: opening a FIFO must not hang; it is refused by measure(). */
	disk->fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK |
				      (flags & DISK_DIRECT ? O_DIRECT : 0));
	if (disk->fd < 0)
		return disk_error(err, -errno, path);
	rc = measure(disk->fd, path, flags, &disk->size, &disk->align, &disk->block_device, err);
	if (rc)
		return rc;
	fcntl(disk->fd, F_SETFL, fcntl(disk->fd, F_GETFL) & ~O_NONBLOCK);
	if (flags & DISK_SYNC)
		return 0;
	rc = io_uring_queue_init(depth, &disk->ring, 0);
	disk->async = rc == 0;
	if (rc)
		fprintf(stderr, "ferry: %s: no io_uring (%s), using blocking I/O\n", path,
			strerror(-rc));
	return 0;
}

int disk_rename(struct disk *disk, const char *path)
{
	char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	free(disk->path);
	disk->path = copy;
	return 0;
}

void disk_close(struct disk *disk)
{
	if (!disk->path)
		return;
	if (disk->async) {
		disk_drain(disk);
		io_uring_queue_exit(&disk->ring);
	}
	if (disk->fd >= 0) {
		disk_unlock(disk); /* the ring may hold the open file a little longer than we do */
		close(disk->fd);
	}
	free(disk->path);
	*disk = (struct disk){ .fd = -1 };
}

/*
 * Somebody who has just been killed may hold the lock a little longer: the kernel takes an io_uring
 * apart, and closes what it refers to, after the process is gone.
 */
static int try_lock(struct disk *disk)
{
	struct flock lock = { .l_type = disk->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	const struct timespec pause = { .tv_nsec = LOCK_PAUSE_MS * 1000000L };

	for (int tries = 0;; tries++) {
		if (fcntl(disk->fd, F_OFD_SETLK, &lock) == 0)
			return 0;
		if ((errno != EAGAIN && errno != EACCES) || tries == LOCK_TRIES)
			return -errno;
		nanosleep(&pause, NULL);
	}
}

int disk_lock(struct disk *disk, struct error *err)
{
	int rc = try_lock(disk);

	if (rc) {
		if (rc != -EAGAIN && rc != -EACCES)
			return disk_error(err, rc, disk->path);
		return error_set(err, -EBUSY, "disk", disk->path, "lock",
				 disk->readonly ? "no writer" : "no other user",
				 "another process that has it");
	}
	/* What we may have cached of a device that another host wrote to is old. A network file
	 * system does this by itself when it locks. */
	if (disk->block_device)
		posix_fadvise(disk->fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

void disk_unlock(struct disk *disk)
{
	struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	if (disk->block_device && !disk->readonly)
		fdatasync(disk->fd);
	fcntl(disk->fd, F_OFD_SETLK, &lock);
}

/* Blocking calls: all that there is without io_uring, and the tail of what it did by half. */

/* Read or write what comes after the first @done bytes. */
static int transfer(struct disk *disk, const struct disk_request *req, uint64_t done)
{
	uint64_t at = 0;
	ssize_t n;

	for (unsigned int i = 0; i < req->n_iov; at += req->iov[i++].iov_len) {
		uint8_t *base = req->iov[i].iov_base;
		size_t len = req->iov[i].iov_len;

		while (done < at + len) {
			size_t skip = (size_t)(done - at);
			off_t offset = (off_t)(req->offset + done);

			n = req->op == DISK_READ
				    ? pread(disk->fd, base + skip, len - skip, offset)
				    : pwrite(disk->fd, base + skip, len - skip, offset);
			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return n < 0 ? -errno : -EIO; /* 0: the file was cut short */
			done += (uint64_t)n;
		}
	}
	if (req->op == DISK_WRITE_THROUGH && fdatasync(disk->fd))
		return -errno;
	return 0;
}

static int falloc_mode(enum disk_op op)
{
	return (op == DISK_ZERO ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) |
	       FALLOC_FL_KEEP_SIZE;
}

static int write_zeroes(struct disk *disk, const struct disk_request *req)
{
	static const uint8_t zeroes[DIRECT_ALIGN] __attribute__((aligned(DIRECT_ALIGN)));
	struct disk_request piece = { .op = DISK_WRITE, .n_iov = 1 };
	struct iovec iov;
	int rc = 0;

	for (uint64_t done = 0; done < req->len && !rc; done += iov.iov_len) {
		uint64_t left = req->len - done;

		iov.iov_base = (void *)(uintptr_t)zeroes;
		iov.iov_len = left < sizeof(zeroes) ? (size_t)left : sizeof(zeroes);
		piece.iov = &iov;
		piece.offset = req->offset + done;
		rc = transfer(disk, &piece, 0);
	}
	return rc;
}

static int deallocate(struct disk *disk, const struct disk_request *req)
{
	if (fallocate(disk->fd, falloc_mode(req->op), (off_t)req->offset, (off_t)req->len) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	/* Discard is advice; zeroes are a promise. */
	return req->op == DISK_DISCARD ? 0 : write_zeroes(disk, req);
}

static int run(struct disk *disk, const struct disk_request *req, uint64_t done)
{
	switch (req->op) {
	case DISK_READ:
	case DISK_WRITE:
	case DISK_WRITE_THROUGH:
		return transfer(disk, req, done);
	case DISK_FLUSH:
		return fdatasync(disk->fd) ? -errno : 0;
	case DISK_DISCARD:
	case DISK_ZERO:
	case DISK_ZERO_UNMAP:
		return deallocate(disk, req);
	}
	return -EINVAL;
}

/* io_uring */

static void prepare(struct disk *disk, struct disk_request *req, struct io_uring_sqe *sqe)
{
	switch (req->op) {
	case DISK_READ:
		io_uring_prep_readv(sqe, disk->fd, req->iov, req->n_iov, req->offset);
		break;
	case DISK_WRITE:
	case DISK_WRITE_THROUGH:
		io_uring_prep_writev(sqe, disk->fd, req->iov, req->n_iov, req->offset);
		sqe->rw_flags = req->op == DISK_WRITE_THROUGH ? RWF_DSYNC : 0;
		break;
	case DISK_FLUSH:
		io_uring_prep_fsync(sqe, disk->fd, IORING_FSYNC_DATASYNC);
		break;
	case DISK_DISCARD:
	case DISK_ZERO:
	case DISK_ZERO_UNMAP:
		io_uring_prep_fallocate(sqe, disk->fd, falloc_mode(req->op), (off_t)req->offset,
					(off_t)req->len);
		break;
	}
	io_uring_sqe_set_data(sqe, req);
}

/* What came of @req, when the kernel says @res. */
static int settle(struct disk *disk, const struct disk_request *req, int res)
{
	bool rw = req->op == DISK_READ || req->op == DISK_WRITE || req->op == DISK_WRITE_THROUGH;

	if (res == -EAGAIN || res == -EINTR || res == -EOPNOTSUPP)
		return run(disk, req, 0);
	if (rw && res >= 0 && (uint64_t)res < req->len)
		return run(disk, req, (uint64_t)res);
	return res < 0 ? res : 0;
}

static void finish(struct disk *disk, struct io_uring_cqe *cqe)
{
	struct disk_request *req = io_uring_cqe_get_data(cqe);
	int res = cqe->res;

	io_uring_cqe_seen(&disk->ring, cqe);
	disk->in_flight--;
	req->done(req, settle(disk, req, res));
}

void disk_start(struct disk *disk, struct disk_request *req)
{
	struct io_uring_sqe *sqe = NULL;

	if (disk->async) {
		sqe = io_uring_get_sqe(&disk->ring);
		if (!sqe) {
			disk_submit(disk);
			sqe = io_uring_get_sqe(&disk->ring);
		}
	}
	if (!sqe) {
		req->done(req, run(disk, req, 0));
		return;
	}
	prepare(disk, req, sqe);
	disk->in_flight++;
}

void disk_submit(struct disk *disk)
{
	if (!disk->async)
		return;
	/* -EINTR, -EAGAIN, -EBUSY: what was not taken stays in the queue for the next time. */
	while (io_uring_submit(&disk->ring) == -EINTR)
		;
}

int disk_event_fd(const struct disk *disk)
{
	return disk->async ? disk->ring.ring_fd : -1;
}

void disk_reap(struct disk *disk)
{
	struct io_uring_cqe *cqe;

	while (disk->async && io_uring_peek_cqe(&disk->ring, &cqe) == 0)
		finish(disk, cqe);
}

bool disk_ready(const struct disk *disk)
{
	return disk->async && io_uring_cq_ready(&disk->ring);
}

static int64_t ms_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int disk_drain(struct disk *disk)
{
	int64_t end = ms_now() + disk->drain_ms, left;
	struct io_uring_cqe *cqe;

	disk_submit(disk);
	while (disk->in_flight) {
		left = end - ms_now();
		if (left <= 0)
			return -ETIMEDOUT;
		struct __kernel_timespec ts = { .tv_sec = left / 1000,
						.tv_nsec = left % 1000 * 1000000 };
		if (io_uring_wait_cqe_timeout(&disk->ring, &cqe, &ts) == 0)
			finish(disk, cqe);
	}
	return 0;
}
