/* SPDX-License-Identifier: BSD-2-Clause */
/* Machines that are saved to a file, and restored from it or from bytes that may be wrong. */
#ifndef TESTS_UNIT_SAVED_RIG_H
#define TESTS_UNIT_SAVED_RIG_H

#include "migration-fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct stream_file {
	char dir[32], path[48], uri[64];
	uint8_t *data;
	size_t size;
};

static inline void stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

/* As migration_get(vm)->params say. */
static inline void save(struct vm *vm, const char *uri)
{
	struct error err = { 0 };

	assert_int_equal(source_start(vm, uri, &err), 0);
	vm->migration->ended = stop_loop;
	loop_run(vm->loop);
}

/* Save @vm and read the file; @mapped: every page in its place. */
static inline void save_and_read(struct vm *vm, struct stream_file *f, bool mapped)
{
	struct stat st;
	int fd;

	strcpy(f->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/saved", f->dir);
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
	migration_get(vm)->params.mapped_ram = mapped;
	save(vm, f->uri);
	assert_int_equal(vm->migration->error.code, 0);
	fd = open(f->path, O_RDONLY);
	assert_return_code(fstat(fd, &st), errno);
	f->size = (size_t)st.st_size;
	f->data = malloc(f->size);
	assert_int_equal(read(fd, f->data, f->size), f->size);
	close(fd);
}

static inline void remove_file(struct stream_file *f)
{
	free(f->data);
	assert_return_code(unlink(f->path), errno);
	assert_return_code(rmdir(f->dir), errno); /* nothing else was left there */
}

/* A machine restored from @uri, whatever came of it. */
static inline struct vm *restore(const char *uri)
{
	struct vm *vm = new_destination();
	struct error err = { 0 };

	assert_int_equal(destination_start(vm, uri, NULL, &err), 0);
	vm->migration->ended = stop_loop;
	loop_run(vm->loop);
	return vm;
}

/* … from @size bytes: @n of @data, then zeroes. */
static inline struct vm *restore_head(const uint8_t *data, size_t n, size_t size)
{
	int fd = memfd_create("saved", MFD_CLOEXEC);
	struct vm *vm;
	char uri[64];

	assert_int_equal(write(fd, data, n), n);
	assert_return_code(ftruncate(fd, (off_t)size), errno);
	snprintf(uri, sizeof(uri), "file:/proc/self/fd/%d", fd);
	vm = restore(uri);
	close(fd);
	return vm;
}

static inline struct vm *restore_bytes(const uint8_t *data, size_t size)
{
	return restore_head(data, size, size);
}

static inline void set_threads(struct vm *vm, int n)
{
	migration_get(vm)->params.multifd = n > 0;
	migration_get(vm)->params.channels = n;
}

/* A file of the rig that is not read: it may be large. */
static inline void save_to(struct vm *vm, struct stream_file *f)
{
	strcpy(f->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/saved", f->dir);
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
	save(vm, f->uri);
}

static inline struct vm *restore_with(const char *uri, int threads, bool lazy)
{
	struct vm *vm = new_destination();
	struct error err = { 0 };

	set_threads(vm, threads);
	vm->migration->lazy = lazy;
	assert_int_equal(destination_start(vm, uri, NULL, &err), 0);
	vm->migration->ended = stop_loop;
	loop_run(vm->loop);
	return vm;
}

static inline void assert_refused(struct vm *vm, const char *what, size_t at)
{
	struct migration *m = vm->migration;

	if (vm->state != VM_INMIGRATE || m->status != MIGRATION_FAILED || m->error.code >= 0 ||
	    !m->error.phase[0] || !m->error.got[0])
		fail_msg("%s %zu: state %s, error %d", what, at, vm_state_name(vm->state),
			 m->error.code);
	if (box_of(vm) && (box_of(vm)->owned || box_of(vm)->resumes))
		fail_msg("%s %zu: the guest was let run", what, at);
	vm_destroy(vm);
}

#endif
