/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved machines as streams, without mapped-ram (test_snapshot.c has it): there and back, and what
 * becomes of every truncation and every changed byte of a small one.
 */
#include "saved-rig.h"

static void there_and_back(void **state)
{
	struct vm *from = new_source(9 * MIB + PAGE_SIZE), *to;
	struct stream_file f = { 0 };
	struct stat st;

	(void)state;
	fill_random(&from->memory, 1);
	memset((char *)from->memory.regions[0].hva + MIB, 0, 3 * MIB);
	save_and_read(from, &f, false);
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
	save_and_read(from, &f, false);
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
	migration_get(vm)->params.mapped_ram = false;
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
	save_and_read(vm, &f, false);
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
	migration_get(vm)->params.mapped_ram = false;
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

static void every_truncation(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };

	(void)state;
	save_and_read(from, &f, false);
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
	save_and_read(from, &f, false);
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
	save_and_read(from, &f, false);
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
