/* SPDX-License-Identifier: BSD-2-Clause */
/* Disks on files of the host: what the guest-side tests cannot make happen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/disk.h"

#define SIZE 65536

struct fixture {
	struct disk disk;
	char path[64];
	struct disk_request req;
	struct iovec iov[3];
	uint8_t buf[SIZE];
	int done, rc;
};

static void on_done(struct disk_request *req, int rc)
{
	struct fixture *f = (struct fixture *)((char *)req - offsetof(struct fixture, req));

	f->done++;
	f->rc = rc;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };
	int fd;

	snprintf(f->path, sizeof(f->path), "/tmp/ferry-disk-XXXXXX");
	fd = mkstemp(f->path);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	close(fd);
	assert_int_equal(disk_open(&f->disk, f->path, false, 0, 8, &err), 0);
	assert_int_equal(f->disk.size, SIZE);
	f->iov[0] = (struct iovec){ f->buf, 100 };
	f->iov[1] = (struct iovec){ f->buf + 200, 300 };
	f->iov[2] = (struct iovec){ f->buf + 1000, 112 };
	f->req = (struct disk_request){ .iov = f->iov, .n_iov = 3, .len = 512, .done = on_done };
	if (!f->disk.async)
		print_message("# no io_uring here\n");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	disk_close(&f->disk);
	unlink(f->path);
	free(f);
	return 0;
}

static int run(struct fixture *f, enum disk_op op)
{
	f->req.op = op;
	f->done = 0;
	disk_start(&f->disk, &f->req);
	assert_int_equal(disk_drain(&f->disk), 0);
	assert_int_equal(f->done, 1);
	return f->rc;
}

/* Put @fd in the place of the file. */
static void replace(struct fixture *f, int fd)
{
	assert_true(dup2(fd, f->disk.fd) >= 0);
}

static void the_wait_for_a_stuck_host_ends(void **state)
{
	struct fixture *f = *state;
	int fds[2];

	if (!f->disk.async)
		skip();
	assert_int_equal(pipe(fds), 0);
	replace(f, fds[0]); /* a file that has nothing to say */
	f->disk.drain_ms = 20;
	f->req.op = DISK_READ;
	disk_start(&f->disk, &f->req);
	assert_int_equal(disk_drain(&f->disk), -ETIMEDOUT);
	assert_int_equal(f->disk.in_flight, 1);
	assert_int_equal(f->done, 0);
	/* And when it comes at last, it is finished as any other. */
	f->disk.drain_ms = 5000;
	assert_int_equal(write(fds[1], f->buf + 512, 512), 512);
	assert_int_equal(disk_drain(&f->disk), 0);
	assert_int_equal(f->done, 1);
	assert_int_equal(f->rc, 0);
	close(fds[0]);
	close(fds[1]);
}

static void the_rest_of_a_short_transfer_is_done(void **state)
{
	struct fixture *f = *state;
	int fd;

	/* A read that stops in the second iovec: the rest has to come from the file. */
	memset(f->buf, 'x', 1200);
	assert_int_equal(run(f, DISK_WRITE), 0);
	memset(f->buf, 0, sizeof(f->buf));
	fd = open(f->path, O_RDWR);
	assert_int_equal(ftruncate(fd, 150), 0);
	assert_int_equal(run(f, DISK_READ), -EIO);
	assert_int_equal(f->buf[99], 'x');
	assert_int_equal(f->buf[249], 'x');
	assert_int_equal(f->buf[250], 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	assert_int_equal(run(f, DISK_READ), 0);
	close(fd);
}

static void every_operation_works(void **state)
{
	struct fixture *f = *state;
	static const enum disk_op ops[] = { DISK_WRITE, DISK_WRITE_THROUGH, DISK_FLUSH,	 DISK_READ,
					    DISK_ZERO,	DISK_ZERO_UNMAP,    DISK_DISCARD };

	for (unsigned int async = 0; async < 2; async++) {
		for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
			assert_int_equal(run(f, ops[i]), 0);
		if (!f->disk.async)
			break;
		f->disk.async = false; /* the same by blocking calls */
		io_uring_queue_exit(&f->disk.ring);
	}
}

static void zeroes_are_written_where_they_cannot_be_allocated(void **state)
{
	struct fixture *f = *state;
	int fd = memfd_create("disk", MFD_CLOEXEC); /* shmem has no FALLOC_FL_ZERO_RANGE */
	static const uint8_t zeroes[20000];
	static uint8_t got[SIZE];

	memset(f->buf, 'x', SIZE);
	assert_int_equal(write(fd, f->buf, SIZE), SIZE);
	replace(f, fd);
	f->req.offset = 1000;
	f->req.len = sizeof(zeroes);
	assert_int_equal(run(f, DISK_ZERO), 0);
	assert_int_equal(pread(fd, got, SIZE, 0), SIZE);
	assert_memory_equal(got, f->buf, 1000);
	assert_memory_equal(got + 1000, zeroes, sizeof(zeroes));
	assert_memory_equal(got + 21000, f->buf, SIZE - 21000);
	close(fd);
}

static void the_lock_of_a_killed_process_is_free(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	struct disk disk;
	int status;
	pid_t pid;

	for (unsigned int i = 0; i < 20; i++) {
		pid = fork();
		if (pid == 0) {
			if (disk_open(&disk, f->path, false, 0, 8, &err) || disk_lock(&disk, &err))
				_exit(1);
			f->req.op = DISK_WRITE;
			disk_start(&disk, &f->req);
			disk_submit(&disk);
			raise(SIGKILL);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(disk_lock(&f->disk, &err), 0);
		disk_unlock(&f->disk);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(the_wait_for_a_stuck_host_ends),
		TEST(the_rest_of_a_short_transfer_is_done),
		TEST(every_operation_works),
		TEST(the_lock_of_a_killed_process_is_free),
		TEST(zeroes_are_written_where_they_cannot_be_allocated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
