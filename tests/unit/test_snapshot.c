/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved machines in which every page has its place: there and back by several threads, holes, what
 * becomes of truncated and hostile files, of a full disk and of a cancel; and mapped instead of
 * read.
 */
#include "saved-rig.h"

#include <sys/resource.h>
#include <signal.h>

#include "migration/chunks.h"
#include "migration/crc32c.h"
#include "migration/ram-map.h"
#include "migration/record.h"

#define RAM	  (9 * MIB + PAGE_SIZE)
#define LARGE_RAM (1030 * MIB) /* two regions, the hole begins at 1 GiB */

/* Some pages here and there, by themselves and in runs, up to both ends. */
static void scatter(struct memory *mem, uint64_t seed)
{
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		uint64_t pages = mem->regions[i].size / PAGE_SIZE;

		for (uint64_t n = 0; n < 300; n++) {
			uint64_t page, run;

			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			page = (seed >> 20) % pages;
			run = n % 10 ? 1 : (seed >> 12) % 100;
			for (; run-- && page < pages; page++)
				memset((char *)mem->regions[i].hva + page * PAGE_SIZE, (int)n | 1,
				       PAGE_SIZE);
		}
		memset(mem->regions[i].hva, 1, 8);
		memset((char *)mem->regions[i].hva + mem->regions[i].size - 8, 1, 8);
	}
}

static void set_threads(struct vm *vm, int n)
{
	migration_get(vm)->params.multifd = n > 0;
	migration_get(vm)->params.channels = n;
}

/* A file of the rig that is not read: it may be large. */
static void save_to(struct vm *vm, struct stream_file *f)
{
	strcpy(f->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/saved", f->dir);
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
	save(vm, f->uri);
}

static struct vm *restore_with(const char *uri, int threads, bool lazy)
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

static void assert_arrived(struct vm *from, struct vm *to)
{
	assert_int_equal(to->migration->error.code, 0);
	assert_int_equal(to->state, VM_RUNNING);
	assert_int_equal(box_of(to)->state.number, 4711);
	assert_true(box_of(to)->owned);
	assert_same_memory(&from->memory, &to->memory);
}

static void there_and_back(void **state)
{
	static const int threads[] = { 0, 1, 3, 64 };

	(void)state;
	for (size_t i = 0; i < 2 * sizeof(threads) / sizeof(threads[0]); i++) {
		struct vm *from = new_source(i % 2 ? LARGE_RAM : RAM), *to;
		struct stream_file f = { 0 };
		struct stat st;

		scatter(&from->memory, i + 1);
		set_threads(from, threads[i / 2]);
		save_to(from, &f);
		assert_int_equal(from->migration->error.code, 0);
		assert_int_equal(from->state, VM_RUNNING);
		assert_true(box_of(from)->owned);
		assert_true(from->migration->stats.blackout_ns > 0);
		assert_int_equal(from->migration->stats.remaining, 0);
		/* Its secrets are for nobody else to read, and what is zero takes no room. */
		assert_return_code(stat(f.path, &st), errno);
		assert_int_equal(st.st_mode & 0777, 0600);
		assert_in_range(st.st_size, from->memory.size, from->memory.size + 8 * MIB);
		assert_in_range(st.st_blocks * 512, from->migration->stats.pages_data * PAGE_SIZE,
				from->migration->stats.pages_data * PAGE_SIZE + MIB);
		to = restore_with(f.uri, threads[i / 2], false);
		assert_arrived(from, to);
		assert_int_equal(to->migration->stats.pages_data,
				 from->migration->stats.pages_data);
		vm_destroy(to);
		vm_destroy(from);
		remove_file(&f);
	}
}

/* A copy that has lost its holes is as good. */
static void without_holes(void **state)
{
	struct vm *from = new_source(RAM), *to;
	struct stream_file f = { 0 };

	(void)state;
	scatter(&from->memory, 1);
	save_and_read(from, &f, true);
	to = restore_bytes(f.data, f.size);
	assert_arrived(from, to);
	vm_destroy(to);
	vm_destroy(from);
	remove_file(&f);
}

/* ---- Hostile files ---- */

/* The position of the RAM_MAP record in @data. */
static size_t find_map(const uint8_t *data)
{
	size_t at = 0;

	while (data[at + 5] != RECORD_RAM_MAP)
		at += RECORD_HEADER + ((size_t)data[at + 14] << 8 | data[at + 15]);
	return at;
}

/* … and where the records end, all metadata being smaller than 64 KiB. */
static size_t find_end(const uint8_t *data)
{
	size_t at = 0;

	while (data[at + 5] != RECORD_END)
		at += RECORD_HEADER + ((size_t)data[at + 14] << 8 | data[at + 15]);
	return at + RECORD_HEADER;
}

static void put_be(uint8_t *to, uint64_t value, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--, value >>= 8)
		to[i] = (uint8_t)value;
}

/* Make the checksums of the record at @r right again. */
static void sign(uint8_t *r)
{
	put_be(r + 24, crc32c(0, r + RECORD_HEADER, (size_t)r[14] << 8 | r[15]), 4);
	put_be(r + 28, crc32c(0, r, 28), 4);
}

static void every_truncation(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };
	size_t end;

	(void)state;
	save_and_read(from, &f, true);
	vm_destroy(from);
	end = find_end(f.data);
	for (size_t n = 0; n < end; n++)
		assert_refused(restore_bytes(f.data, n), "first bytes", n);
	for (size_t n = end; n < f.size; n += 77777)
		assert_refused(restore_bytes(f.data, n), "first bytes", n);
	assert_refused(restore_bytes(f.data, f.size - 1), "first bytes", f.size - 1);
	remove_file(&f);
}

static void every_changed_byte(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };
	size_t end;

	(void)state;
	save_and_read(from, &f, true);
	vm_destroy(from);
	end = find_end(f.data);
	for (size_t i = 0; i < end; i++) {
		f.data[i] ^= (uint8_t)(1U << i % 8);
		assert_refused(restore_bytes(f.data, f.size), "changed byte", i);
		f.data[i] ^= (uint8_t)(1U << i % 8);
	}
	remove_file(&f);
}

/* Pages are changed, lost or in each other's place: their sum tells. */
static void changed_pages(void **state)
{
	struct vm *from = new_source(2 * MIB), *to;
	struct stream_file f = { 0 };
	uint8_t page[PAGE_SIZE], *ram;

	(void)state;
	fill_random(&from->memory, 1);
	save_and_read(from, &f, true);
	vm_destroy(from);
	ram = f.data + 2 * MIB;
	ram[MIB] ^= 4;
	to = restore_bytes(f.data, f.size);
	assert_string_equal(to->migration->error.field, "checksum");
	assert_refused(to, "changed page", 0);
	ram[MIB + PAGE_SIZE] ^= 4;
	assert_refused(restore_bytes(f.data, f.size), "two pages changed alike", 0);
	ram[MIB] ^= 4;
	ram[MIB + PAGE_SIZE] ^= 4;
	memcpy(page, ram, PAGE_SIZE);
	memcpy(ram, ram + PAGE_SIZE, PAGE_SIZE);
	memcpy(ram + PAGE_SIZE, page, PAGE_SIZE);
	assert_refused(restore_bytes(f.data, f.size), "pages exchanged", 0);
	memset(ram, 0, PAGE_SIZE);
	assert_refused(restore_bytes(f.data, f.size), "lost page", 0);
	remove_file(&f);
}

static void refuse_map(struct stream_file *f, size_t at, uint64_t value, int bytes,
		       const char *field)
{
	uint8_t *copy = malloc(f->size), *r;

	for (int lazy = 0; lazy < 2; lazy++) {
		int fd = memfd_create("saved", MFD_CLOEXEC);
		struct vm *vm;
		char uri[64];

		memcpy(copy, f->data, f->size);
		r = copy + find_map(copy);
		put_be(r + at, value, bytes);
		sign(r);
		assert_int_equal(write(fd, copy, f->size), f->size);
		snprintf(uri, sizeof(uri), "file:/proc/self/fd/%d", fd);
		vm = restore_with(uri, 2, lazy);
		if (strcmp(vm->migration->error.field, field) != 0)
			fail_msg("0x%llx at %zu: %s: %s", (unsigned long long)value, at,
				 vm->migration->error.field, vm->migration->error.got);
		assert_refused(vm, field, at);
		close(fd);
	}
	free(copy);
}

static void hostile_maps(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };

	(void)state;
	save_and_read(from, &f, true);
	vm_destroy(from);
	refuse_map(&f, 32, PAGE_SIZE, 8, "region 0 gpa");
	refuse_map(&f, 32, 1, 8, "region 0 gpa");
	refuse_map(&f, 32, UINT64_MAX - PAGE_SIZE + 1, 8, "region 0 size");
	refuse_map(&f, 40, 0, 8, "region 0 size");
	refuse_map(&f, 40, 4097, 8, "region 0 size");
	refuse_map(&f, 40, MIB, 8, "region 0 size");
	refuse_map(&f, 40, 4 * MIB, 8, "region 0 size");
	refuse_map(&f, 40, -4096ULL, 8, "region 0 size");
	refuse_map(&f, 48, 0, 8, "region 0 offset");
	refuse_map(&f, 48, 2 * MIB + 512, 8, "region 0 offset");
	refuse_map(&f, 48, -4096ULL, 8, "region 0 offset");
	refuse_map(&f, 48, INT64_MAX - 4095, 8, "region 0 offset");
	refuse_map(&f, 48, 4 * MIB, 8, "file");
	refuse_map(&f, 48, 2 * MIB + PAGE_SIZE, 8, "file");
	/* Lengths that are not those of regions; what follows is no record then, and is not looked
	 * at. */
	refuse_map(&f, 12, 0, 4, "metadata length");
	refuse_map(&f, 12, 31, 4, "metadata length");
	refuse_map(&f, 12, 64, 4, "region 1 gpa");
	refuse_map(&f, 12, 96, 4, "metadata length");
	refuse_map(&f, 16, 1, 8, "payload length");
	remove_file(&f);
}

/* ---- When it fails ---- */

static void cancelled_save(void **state)
{
	struct vm *vm = new_source(64 * MIB);
	struct error err = { 0 };
	char dir[] = "/tmp/ferry-test-XXXXXX", uri[64];
	bool saved;

	(void)state;
	fill_random(&vm->memory, 3);
	assert_non_null(mkdtemp(dir));
	snprintf(uri, sizeof(uri), "file:%s/saved", dir);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(source_start(vm, uri, &err), 0);
		vm->migration->ended = stop_loop;
		usleep((useconds_t)i * 1000); /* wherever that is */
		migration_cancel(vm->migration, NULL, NULL);
		loop_run(vm->loop);
		assert_int_equal(vm->state, VM_RUNNING);
		saved = vm->migration->status == MIGRATION_COMPLETED;
		assert_int_equal(unlink(uri + 5), saved ? 0 : -1);
	}
	assert_return_code(rmdir(dir), errno);
	vm_destroy(vm);
}

/* As on a full disk: the file of before stays, and nothing else. */
static void no_room(void **state)
{
	struct rlimit was, little;
	struct vm *vm = new_source(32 * MIB);
	struct stream_file f = { 0 };
	struct stat st;

	(void)state;
	save_to(vm, &f);
	assert_int_equal(vm->migration->error.code, 0);
	fill_random(&vm->memory, 1);
	signal(SIGXFSZ, SIG_IGN);
	assert_return_code(getrlimit(RLIMIT_FSIZE, &was), errno);
	little = (struct rlimit){ 16 * MIB, was.rlim_max };
	assert_return_code(setrlimit(RLIMIT_FSIZE, &little), errno);
	save(vm, f.uri);
	assert_return_code(setrlimit(RLIMIT_FSIZE, &was), errno);
	assert_int_equal(vm->migration->error.code, -EFBIG);
	assert_int_equal(vm->state, VM_RUNNING);
	assert_return_code(stat(f.path, &st), errno);
	assert_in_range(st.st_blocks, 0, MIB / 512);
	vm_destroy(vm);
	remove_file(&f);
}

/* Two at a time do not write to one file. */
static void another_writes_to_it(void **state)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct vm *vm = new_source(2 * MIB);
	struct stream_file f = { 0 };
	char partial[64];
	int fd;

	(void)state;
	save_to(vm, &f);
	snprintf(partial, sizeof(partial), "%s.partial", f.path);
	fd = open(partial, O_RDWR | O_CREAT, 0600);
	assert_int_equal(write(fd, "theirs", 6), 6);
	assert_return_code(fcntl(fd, F_OFD_SETLK, &fl), errno);
	save(vm, f.uri);
	assert_int_equal(vm->migration->error.code, -EBUSY);
	assert_int_equal(lseek(fd, 0, SEEK_END), 6);
	assert_return_code(unlink(partial), errno);
	close(fd);
	vm_destroy(vm);
	remove_file(&f);
}

/* ---- Mapped ---- */

static void lazily(void **state)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct vm *from = new_source(LARGE_RAM), *to, *third;
	struct stream_file f = { 0 }, g = { 0 };
	char *ram;
	int fd;

	(void)state;
	scatter(&from->memory, 5);
	save_to(from, &f);
	to = restore_with(f.uri, 0, true);
	assert_int_equal(to->migration->stats.pages_data, 0);
	assert_arrived(from, to);
	/* Who would write to the file can know that it is in use. */
	fd = open(f.path, O_RDWR);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), -1);

	/* What the guest writes is its own, and a page given back would not be zero. */
	ram = to->memory.regions[0].hva;
	memset(ram + 5 * PAGE_SIZE, 0x5a, PAGE_SIZE);
	memory_mark_dirty(&to->memory, 5 * PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(memory_discard(&to->memory, 0, PAGE_SIZE), -EOPNOTSUPP);
	/* It can be saved again, also in place of the very file it came from. */
	strcpy(g.uri, f.uri);
	save(to, g.uri);
	assert_int_equal(to->migration->error.code, 0);
	third = restore_with(g.uri, 0, true);
	assert_arrived(to, third);
	assert_int_equal(*((char *)third->memory.regions[0].hva + 5 * PAGE_SIZE), 0x5a);
	vm_destroy(third);
	vm_destroy(to);
	vm_destroy(from);
	/* The lock is gone with the guest. */
	assert_return_code(fcntl(fd, F_OFD_SETLK, &fl), errno);
	close(fd);
	remove_file(&f);
}

static void a_stream_is_not_mapped(void **state)
{
	struct vm *from = new_source(2 * MIB), *to;
	struct stream_file f = { 0 };

	(void)state;
	save_and_read(from, &f, false);
	to = restore_with(f.uri, 0, true);
	assert_string_equal(to->migration->error.field, "lazy");
	assert_refused(to, "stream", 0);
	vm_destroy(from);
	remove_file(&f);
}

static void parameters_that_need_a_file(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct migration_params *p = &migration_get(vm)->params;
	struct error err = { 0 };

	(void)state;
	p->background = true;
	assert_int_equal(source_start(vm, "unix:/nonexistent", &err), -EINVAL);
	assert_string_equal(err.field, "background-snapshot");
	error_clear(&err);
	p->mapped_ram = false;
	assert_int_equal(source_start(vm, "file:/nonexistent/f", &err), -EINVAL);
	assert_string_equal(err.field, "background-snapshot");
	error_clear(&err);
	p->background = false;
	p->direct_io = true;
	assert_int_equal(source_start(vm, "file:/nonexistent/f", &err), -EINVAL);
	assert_string_equal(err.field, "direct-io");
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(without_holes),
		cmocka_unit_test(every_truncation),
		cmocka_unit_test(every_changed_byte),
		cmocka_unit_test(changed_pages),
		cmocka_unit_test(hostile_maps),
		cmocka_unit_test(cancelled_save),
		cmocka_unit_test(no_room),
		cmocka_unit_test(another_writes_to_it),
		cmocka_unit_test(lazily),
		cmocka_unit_test(a_stream_is_not_mapped),
		cmocka_unit_test(parameters_that_need_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
