/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved machines: there and back, and what becomes of every truncation and every changed byte of a
 * small one.
 */
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

static void stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

static void save(struct vm *vm, const char *uri)
{
	struct error err = { 0 };

	assert_int_equal(source_start(vm, uri, &err), 0);
	vm->migration->ended = stop_loop;
	loop_run(vm->loop);
}

/* Save @vm and read the file. */
static void save_and_read(struct vm *vm, struct stream_file *f)
{
	struct stat st;
	int fd;

	strcpy(f->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/saved", f->dir);
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
	save(vm, f->uri);
	assert_int_equal(vm->migration->error.code, 0);
	fd = open(f->path, O_RDONLY);
	assert_return_code(fstat(fd, &st), errno);
	f->size = (size_t)st.st_size;
	f->data = malloc(f->size);
	assert_int_equal(read(fd, f->data, f->size), f->size);
	close(fd);
}

static void remove_file(struct stream_file *f)
{
	free(f->data);
	assert_return_code(unlink(f->path), errno);
	assert_return_code(rmdir(f->dir), errno); /* nothing else was left there */
}

/* A machine restored from @uri, whatever came of it. */
static struct vm *restore(const char *uri)
{
	struct vm *vm = new_destination();
	struct error err = { 0 };

	assert_int_equal(destination_start(vm, uri, NULL, &err), 0);
	vm->migration->ended = stop_loop;
	loop_run(vm->loop);
	return vm;
}

/* … from @size bytes of @data. */
static struct vm *restore_bytes(const uint8_t *data, size_t size)
{
	int fd = memfd_create("saved", MFD_CLOEXEC);
	struct vm *vm;
	char uri[64];

	assert_int_equal(write(fd, data, size), size);
	snprintf(uri, sizeof(uri), "file:/proc/self/fd/%d", fd);
	vm = restore(uri);
	close(fd);
	return vm;
}

static void there_and_back(void **state)
{
	struct vm *from = new_source(9 * MIB + PAGE_SIZE), *to;
	struct stream_file f = { 0 };
	struct stat st;

	(void)state;
	fill_random(&from->memory, 1);
	memset((char *)from->memory.regions[0].hva + MIB, 0, 3 * MIB);
	save_and_read(from, &f);
	/* It went on, owning what it owned. Its secrets are for nobody else to read. */
	assert_int_equal(from->state, VM_RUNNING);
	assert_true(box_of(from)->owned);
	assert_int_equal(box_of(from)->resumes, 2);
	assert_return_code(stat(f.path, &st), errno);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_in_range(f.size, 6 * MIB, 6 * MIB + 16384);

	to = restore(f.uri);
	assert_int_equal(to->state, VM_RUNNING);
	assert_int_equal(box_of(to)->state.number, 4711);
	assert_true(box_of(to)->owned);
	assert_same_memory(&from->memory, &to->memory);
	vm_destroy(to);
	vm_destroy(from);
	remove_file(&f);
}

static void paused_stays_paused(void **state)
{
	struct vm *from = new_source(2 * MIB), *to;
	struct stream_file f = { 0 };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(vm_set_state(from, VM_PAUSED, &err), 0);
	save_and_read(from, &f);
	assert_int_equal(from->state, VM_PAUSED);
	to = restore(f.uri);
	assert_int_equal(to->state, VM_PAUSED);
	assert_int_equal(box_of(to)->resumes, 0);
	vm_destroy(to);
	vm_destroy(from);
	remove_file(&f);
}

static void no_such_directory(void **state)
{
	struct vm *vm = new_source(2 * MIB);

	(void)state;
	save(vm, "file:/nonexistent/saved");
	assert_int_equal(vm->migration->error.code, -ENOENT);
	assert_int_equal(vm->state, VM_RUNNING);
	vm_destroy(vm);
}

/* The file of before stays when a new one cannot be written, and the guest goes on. */
static void failed_save(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct stream_file f = { 0 };
	char partial[64];
	struct stat st;

	(void)state;
	save_and_read(vm, &f);
	fill_random(&vm->memory, 1);
	snprintf(partial, sizeof(partial), "%s.partial", f.path);
	assert_return_code(mkdir(partial, 0700), errno);
	save(vm, f.uri);
	assert_int_equal(vm->migration->error.code, -EISDIR);
	assert_int_equal(vm->state, VM_RUNNING);
	assert_return_code(rmdir(partial), errno);
	assert_return_code(stat(f.path, &st), errno);
	assert_int_equal(st.st_size, f.size);
	vm_destroy(vm);
	remove_file(&f);
}

/* A cancel: wherever it hits, there is the whole file or none. */
static void cancelled_save(void **state)
{
	struct vm *vm = new_source(8 * MIB);
	struct error err = { 0 };
	char dir[] = "/tmp/ferry-test-XXXXXX", uri[64];
	bool saved;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(uri, sizeof(uri), "file:%s/saved", dir);
	assert_int_equal(source_start(vm, uri, &err), 0);
	vm->migration->ended = stop_loop;
	assert_int_equal(migration_cancel(vm->migration, NULL, NULL), 0);
	loop_run(vm->loop);
	assert_int_equal(vm->state, VM_RUNNING);
	saved = vm->migration->status == MIGRATION_COMPLETED;
	assert_int_equal(unlink(uri + 5), saved ? 0 : -1);
	assert_return_code(rmdir(dir), errno);
	vm_destroy(vm);
}

static void assert_refused(struct vm *vm, const char *what, size_t at)
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

static void every_truncation(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };

	(void)state;
	save_and_read(from, &f);
	vm_destroy(from);
	for (size_t n = 0; n < f.size; n++)
		assert_refused(restore_bytes(f.data, n), "first bytes", n);
	remove_file(&f);
}

static void every_changed_byte(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };

	(void)state;
	save_and_read(from, &f);
	vm_destroy(from);
	for (size_t i = 0; i < f.size; i++) {
		uint8_t was = f.data[i];

		f.data[i] ^= (uint8_t)(1U << i % 8);
		assert_refused(restore_bytes(f.data, f.size), "changed byte", i);
		f.data[i] = (uint8_t)~was;
		assert_refused(restore_bytes(f.data, f.size), "inverted byte", i);
		f.data[i] = was;
	}
	remove_file(&f);
}

/* Pages are not covered by a record's checksums; that of all RAM finds what happened to them. */
static void changed_page(void **state)
{
	struct vm *from = new_source(2 * MIB), *to;
	struct stream_file f = { 0 };

	(void)state;
	fill_random(&from->memory, 1);
	save_and_read(from, &f);
	vm_destroy(from);
	f.data[MIB] ^= 4;
	to = restore_bytes(f.data, f.size);
	assert_string_equal(to->migration->error.field, "checksum");
	assert_refused(to, "changed page", 0);
	remove_file(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),     cmocka_unit_test(paused_stays_paused),
		cmocka_unit_test(no_such_directory),  cmocka_unit_test(failed_save),
		cmocka_unit_test(cancelled_save),     cmocka_unit_test(every_truncation),
		cmocka_unit_test(every_changed_byte), cmocka_unit_test(changed_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
