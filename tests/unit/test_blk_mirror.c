/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What virtio-blk does for a migration that copies its disk: it notes every way of writing to it,
 * in the right order, and is written to only when nobody else has it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/virtio-blk.h"
#include "guest-virtio.h"

#define RING	0x10000ULL
#define HEADER	0x20000ULL
#define BUFFER	0x30000ULL
#define BLOCKS	70 /* more than a word of the bitmap has */
#define SIZE	(BLOCKS * MIRROR_BLOCK + 4096)
#define SECTORS (SIZE / 512)
#define BLOCK	(MIRROR_BLOCK / 512) /* in sectors */

#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT

struct fixture {
	struct vm vm;
	struct device *dev;
	const struct block_ops *ops;
	struct virtio_device *vd;
	struct guest_queue gq;
	char path[64];
	int fd;
	uint64_t noted[2];
	struct error err;
};

static int setup(void **state)
{
	const char *suboptions = *state ? *state : "";
	struct fixture *f = calloc(1, sizeof(*f));
	char option[128];

	snprintf(f->path, sizeof(f->path), "/tmp/ferry-mirror-XXXXXX");
	f->fd = mkstemp(f->path);
	assert_true(f->fd >= 0);
	assert_int_equal(ftruncate(f->fd, SIZE), 0);
	snprintf(option, sizeof(option), "%s%s", f->path, suboptions);
	test_machine_init(&f->vm);
	f->dev = test_device(&f->vm, "virtio-blk", option, &f->err);
	assert_non_null(f->dev);
	f->ops = f->dev->class->block;
	f->vd = (struct virtio_device *)f->dev;
	guest_start(&f->gq, f->dev, V1 | 1ULL << VIRTIO_BLK_F_FLUSH, 128, RING);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	test_machine_free(&f->vm);
	close(f->fd);
	unlink(f->path);
	free(f);
	return 0;
}

/* Put a request of @len bytes at BUFFER into the ring. */
static void add(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len)
{
	struct virtio_blk_outhdr hdr = { .type = type, .sector = sector };

	memcpy(ram(f->vd, HEADER), &hdr, sizeof(hdr));
	guest_desc(&f->gq, 0, HEADER, sizeof(hdr), N, len ? 1 : 2);
	guest_desc(&f->gq, 1, BUFFER, len, type == VIRTIO_BLK_T_IN ? W | N : N, 2);
	guest_desc(&f->gq, 2, HEADER + 16, 1, W, 0);
	guest_add(&f->gq, 0);
}

static void request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len)
{
	uint32_t head, n;

	add(f, type, sector, len);
	guest_settle(&f->gq);
	assert_true(guest_get(&f->gq, &head, &n));
}

static void range(struct fixture *f, uint32_t type, uint64_t sector, uint32_t n)
{
	struct virtio_blk_discard_write_zeroes seg = { sector, n, 0 };

	memcpy(ram(f->vd, BUFFER), &seg, sizeof(seg));
	request(f, type, 0, sizeof(seg));
}

/* Just these blocks were noted since the last time. */
static void noted(struct fixture *f, unsigned int first, unsigned int n)
{
	memset(f->noted, 0, sizeof(f->noted));
	f->ops->fetch(f->dev, f->noted);
	for (unsigned int b = 0; b < 128; b++)
		assert_int_equal(f->noted[b / 64] >> (b % 64) & 1, b >= first && b < first + n);
}

static void every_way_of_writing_is_noted(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->ops->size(f->dev), SIZE);
	request(f, VIRTIO_BLK_T_OUT, 0, 512); /* before anybody wants to know */
	assert_int_equal(f->ops->track(f->dev, &f->err), 0);
	noted(f, 0, 0);
	request(f, VIRTIO_BLK_T_IN, 0, 4096);
	request(f, VIRTIO_BLK_T_FLUSH, 0, 0);
	noted(f, 0, 0);
	request(f, VIRTIO_BLK_T_OUT, 0, 512);
	noted(f, 0, 1);
	noted(f, 0, 0);
	request(f, VIRTIO_BLK_T_OUT, BLOCK - 1, 512);
	noted(f, 0, 1);
	request(f, VIRTIO_BLK_T_OUT, BLOCK - 1, 1024);
	noted(f, 0, 2);
	request(f, VIRTIO_BLK_T_OUT, SECTORS - 1, 512);
	noted(f, BLOCKS, 1);
	range(f, VIRTIO_BLK_T_WRITE_ZEROES, 62 * BLOCK + 1, 3 * BLOCK);
	noted(f, 62, 4);
	range(f, VIRTIO_BLK_T_DISCARD, 5 * BLOCK, BLOCK);
	noted(f, 5, 1);
	/* What was refused has not happened. */
	request(f, VIRTIO_BLK_T_OUT, SECTORS, 512);
	noted(f, 0, 0);
	f->ops->untrack(f->dev);
	request(f, VIRTIO_BLK_T_OUT, 0, 512);
	/* What was noted once is not remembered by the next migration. */
	assert_int_equal(f->ops->track(f->dev, &f->err), 0);
	noted(f, 0, 0);
}

/* One that was started before the fetch and ends after it. */
static void a_request_in_flight_is_noted_when_it_has_ended(void **state)
{
	struct fixture *f = *state;
	uint32_t head, n;

	assert_int_equal(f->ops->track(f->dev, &f->err), 0);
	add(f, VIRTIO_BLK_T_OUT, 9 * BLOCK, 4096);
	pthread_mutex_lock(&f->dev->lock);
	f->vd->ops->handle_queue(f->vd, 0);
	pthread_mutex_unlock(&f->dev->lock);
	if (guest_get(&f->gq, &head, &n)) {
		noted(f, 9, 1); /* blocking I/O: it has ended already */
		return;
	}
	noted(f, 0, 0);
	guest_settle(&f->gq);
	noted(f, 9, 1);
}

/* The same for one that was started before anything was noted at all. */
static void a_request_in_flight_at_the_start_is_noted(void **state)
{
	struct fixture *f = *state;
	struct disk *disk = &((struct virtio_blk *)f->vd)->disk;
	static char full[65536], got[65536];
	uint32_t head, n;
	int ends[2];

	/* A full pipe in place of the file holds the request back. */
	assert_return_code(pipe(ends), 0);
	assert_int_equal(write(ends[1], full, sizeof(full)), sizeof(full));
	assert_return_code(dup2(ends[1], disk->fd), 0);
	add(f, VIRTIO_BLK_T_OUT, 9 * BLOCK, 4096);
	pthread_mutex_lock(&f->dev->lock);
	f->vd->ops->handle_queue(f->vd, 0);
	pthread_mutex_unlock(&f->dev->lock);
	if (guest_get(&f->gq, &head, &n))
		skip();
	assert_int_equal(f->ops->track(f->dev, &f->err), 0);
	assert_int_equal(read(ends[0], got, sizeof(got)), sizeof(got));
	guest_settle(&f->gq);
	noted(f, 9, 1);
	close(ends[0]);
	close(ends[1]);
}

/* A write that failed may have written a part. */
static void a_write_that_failed_is_noted(void **state)
{
	struct fixture *f = *state;
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(f->ops->track(f->dev, &f->err), 0);
	/* Nobody can write to the descriptor any more. */
	assert_return_code(dup2(fd, ((struct virtio_blk *)f->vd)->disk.fd), 0);
	close(fd);
	request(f, VIRTIO_BLK_T_OUT, 3 * BLOCK, 4096);
	assert_int_equal(*(uint8_t *)ram(f->vd, HEADER + 16), VIRTIO_BLK_S_IOERR);
	noted(f, 3, 1);
}

static void holes_and_data_are_told_apart(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[4096];

	memset(buf, 7, sizeof(buf));
	assert_int_equal(pwrite(f->fd, buf, sizeof(buf), 20 * MIRROR_BLOCK + 8192), sizeof(buf));
	assert_in_range(f->ops->next_data(f->dev, 0), 20 * MIRROR_BLOCK, 20 * MIRROR_BLOCK + 8192);
	assert_int_equal(f->ops->next_data(f->dev, 30 * MIRROR_BLOCK), SIZE);
	assert_int_equal(f->ops->read(f->dev, 20 * MIRROR_BLOCK + 8192, buf, 4096, &f->err), 0);
	assert_int_equal(buf[4095], 7);
	/* The file was cut short under the guest's feet. */
	assert_int_equal(ftruncate(f->fd, MIRROR_BLOCK), 0);
	assert_int_equal(f->ops->read(f->dev, MIRROR_BLOCK, buf, 4096, &f->err), -EIO);
	assert_string_equal(f->err.field, "read at byte 65536");
}

static int lock(int fd, short type)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET };

	return fcntl(fd, F_OFD_SETLK, &l) ? -errno : 0;
}

/* The source of a migration to the very same file, or any other user of it. */
static void a_disk_in_use_is_not_written_to(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(lock(f->fd, F_RDLCK), 0);
	assert_int_equal(f->ops->open(f->dev, &f->err), -EBUSY);
	assert_string_equal(f->err.device, f->path);
	assert_string_equal(f->err.field, "lock");
	assert_int_equal(lock(f->fd, F_UNLCK), 0);
	error_clear(&f->err);
	assert_int_equal(f->ops->open(f->dev, &f->err), 0);
	assert_int_equal(lock(f->fd, F_RDLCK), -EAGAIN);
}

/* Also of a disk that the guest may only read. */
static void the_copy_is_written(void **state)
{
	struct fixture *f = *state;
	bool readonly = ((struct virtio_blk *)f->vd)->disk.readonly;
	static uint8_t buf[MIRROR_BLOCK] __attribute__((aligned(4096)));
	uint8_t back[4096], zeroes[4096] = { 0 };
	struct stat st;

	memset(buf, 9, sizeof(buf));
	for (unsigned int b = 0; b < BLOCKS; b++)
		assert_int_equal(pwrite(f->fd, buf, sizeof(buf), b * MIRROR_BLOCK), sizeof(buf));
	assert_int_equal(f->ops->open(f->dev, &f->err), 0);
	buf[0] = 1;
	assert_int_equal(f->ops->write(f->dev, MIRROR_BLOCK, buf, MIRROR_BLOCK, &f->err), 0);
	assert_int_equal(f->ops->write(f->dev, BLOCKS * MIRROR_BLOCK, buf, 4096, &f->err), 0);
	assert_int_equal(f->ops->zero(f->dev, 2 * MIRROR_BLOCK, 60 * MIRROR_BLOCK, &f->err), 0);
	assert_int_equal(f->ops->sync(f->dev, &f->err), 0);
	assert_int_equal(pread(f->fd, back, 4096, MIRROR_BLOCK), 4096);
	assert_memory_equal(back, buf, 4096);
	assert_int_equal(pread(f->fd, back, 4096, BLOCKS * MIRROR_BLOCK), 4096);
	assert_memory_equal(back, buf, 4096);
	for (unsigned int b = 2; b < 62; b++) {
		assert_int_equal(pread(f->fd, back, 4096, b * MIRROR_BLOCK), 4096);
		assert_memory_equal(back, zeroes, 4096);
	}
	assert_int_equal(pread(f->fd, back, 4096, 62 * MIRROR_BLOCK), 4096);
	assert_int_equal(back[0], 9);
	fstat(f->fd, &st);
	assert_int_equal(st.st_size, SIZE);
	assert_true(st.st_blocks < 20 * (off_t)BLOCK); /* a hole again */
	/* Ours alone until it is over; then as the guest has it. */
	assert_int_equal(lock(f->fd, F_RDLCK), -EAGAIN);
	assert_int_equal(f->ops->close(f->dev, &f->err), 0);
	assert_int_equal(lock(f->fd, F_RDLCK), readonly ? 0 : -EAGAIN);
	assert_int_equal(lock(f->fd, F_UNLCK), 0);
	assert_int_equal(lock(f->fd, F_WRLCK), -EAGAIN);
	assert_int_equal(f->dev->class->claim(f->dev, &f->err), 0);
	f->dev->class->yield(f->dev);
	assert_int_equal(lock(f->fd, F_WRLCK), 0);
}

/* Given up half-way: nothing stays locked or open. */
static void given_up(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->ops->open(f->dev, &f->err), 0);
	assert_int_equal(f->ops->track(f->dev, &f->err), 0);
	test_machine_free(&f->vm);
	assert_int_equal(lock(f->fd, F_WRLCK), 0);
	test_machine_init(&f->vm);
}

#define T(f, options)                                                                        \
	{                                                                                    \
#f " " options, f, setup, teardown, (void *)(uintptr_t)(const char *)options \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(every_way_of_writing_is_noted, ""),
		T(every_way_of_writing_is_noted, ",sync"),
		T(a_request_in_flight_is_noted_when_it_has_ended, ""),
		T(a_request_in_flight_is_noted_when_it_has_ended, ",sync"),
		T(a_request_in_flight_at_the_start_is_noted, ""),
		T(a_write_that_failed_is_noted, ",sync"),
		T(holes_and_data_are_told_apart, ""),
		T(a_disk_in_use_is_not_written_to, ""),
		T(a_disk_in_use_is_not_written_to, ",readonly"),
		T(the_copy_is_written, ""),
		T(the_copy_is_written, ",readonly"),
		T(given_up, ""),
		T(given_up, ",readonly"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
