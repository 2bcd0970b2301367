/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Raw files and block devices of the host as disks: asynchronous by io_uring, with plain blocking
 * calls where that is not to be had. A disk is used by one thread at a time.
 */
#ifndef DEVICES_DISK_H
#define DEVICES_DISK_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/error.h"

#define DISK_SECTOR 512U

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_WRITE_THROUGH, /* done when it is on stable storage */
	DISK_FLUSH,
	DISK_DISCARD,	 /* contents undefined afterwards */
	DISK_ZERO,	 /* reads as zeroes afterwards, stays allocated */
	DISK_ZERO_UNMAP, /* may also be deallocated */
};

/* Of the caller, unchanged and valid with all it refers to until @done, which may reuse it. */
struct disk_request {
	enum disk_op op;
	const struct iovec *iov; /* of READ and WRITE, @len bytes in all */
	unsigned int n_iov;
	uint64_t offset, len; /* bytes, in the disk */
	/* @rc is 0 or a negative errno. Called from disk_start, disk_reap or disk_drain. */
	void (*done)(struct disk_request *req, int rc);
};

struct disk {
	int fd;
	bool readonly, block_device;
	uint64_t size;	/* bytes */
	uint32_t align; /* of offsets and lengths, bytes */
	bool async;
	struct io_uring ring;
	unsigned int in_flight;
	unsigned int drain_ms; /* longest wait of disk_drain */
	char *path;
};

#define DISK_DIRECT 1 /* O_DIRECT */
#define DISK_SYNC   2 /* no io_uring */

/* Size of a regular file or block device in bytes, and the alignment that @flags ask for. Errors
 * name @path. */
int disk_probe(const char *path, unsigned int flags, uint64_t *size, uint32_t *align,
	       struct error *err);

/* Open for @depth requests at a time. disk_close() undoes it, also after an error, and on a
 * struct of zeroes. */
int disk_open(struct disk *disk, const char *path, bool readonly, unsigned int flags,
	      unsigned int depth, struct error *err);
void disk_close(struct disk *disk);
/* What it is called in messages, from now on. */
int disk_rename(struct disk *disk, const char *path);

/*
 * Take the whole disk for this open file: alone, or with other readers when it is read-only (OFD
 * lock). -EBUSY when somebody else has it for half a second. Unlocking also lets other hosts of a
 * shared block device see what was written.
 */
int disk_lock(struct disk *disk, struct error *err);
void disk_unlock(struct disk *disk);

/* Queue a request; it starts at the next disk_submit(). */
void disk_start(struct disk *disk, struct disk_request *req);
void disk_submit(struct disk *disk);
/* Readable when disk_reap() has something to do; -1 when never. */
int disk_event_fd(const struct disk *disk);
void disk_reap(struct disk *disk);
/* Whether it has, without a system call. */
bool disk_ready(const struct disk *disk);
/* Wait for all requests: 0, or -ETIMEDOUT with some of them still in flight. */
int disk_drain(struct disk *disk);

#endif
