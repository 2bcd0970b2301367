/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved machines in which every page has its place: there and back by several threads, holes, what
 * becomes of truncated and hostile files, of a full disk and of a cancel; and mapped instead of
 * read.
 */
#include "saved-rig.h"

#include <signal.h>
#include <sys/resource.h>

#define RAM	(9 * MIB + PAGE_SIZE)
#define TWO_RAM (35 * MIB) /* in two regions, where the hole is set to HOLE */
#define HOLE	(16 * MIB + PAGE_SIZE)

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
		struct vm *from = new_source(i % 2 ? TWO_RAM : RAM), *to;
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

/* What a memfd has no memory for is not given any by saving it. */
static void shared_holes(void **state)
{
	struct vm *from, *to;
	struct stream_file f = { 0 };
	struct stat st;

	(void)state;
	fake_backing = MEMORY_SHARED;
	from = new_source(TWO_RAM);
	fake_backing = MEMORY_ANON;
	memset((char *)from->memory.regions[0].hva + 6 * MIB, 1, 6 * MIB);
	memset((char *)from->memory.regions[1].hva + PAGE_SIZE, 1, 1);
	save_to(from, &f);
	assert_int_equal(from->migration->error.code, 0);
	assert_return_code(fstat(from->memory.fd, &st), errno);
	assert_in_range(st.st_blocks * 512, 6 * MIB + PAGE_SIZE, 10 * MIB); /* huge pages, maybe */
	to = restore(f.uri);
	assert_arrived(from, to);
	vm_destroy(to);
	vm_destroy(from);
	remove_file(&f);
}

/* Nor is anonymous memory that nobody ever touched. */
static void untouched_ram(void **state)
{
	struct vm *from = new_source(TWO_RAM), *to;
	struct stream_file f = { 0 };
	unsigned char there[TWO_RAM / PAGE_SIZE];
	size_t n = 0;

	(void)state;
	memset((char *)from->memory.regions[0].hva + 6 * MIB, 1, 3 * MIB);
	save_to(from, &f);
	assert_int_equal(from->migration->error.code, 0);
	for (unsigned int i = 0; i < from->memory.n_regions; i++) {
		const struct memory_region *r = &from->memory.regions[i];

		assert_return_code(mincore(r->hva, r->size, there), errno);
		for (uint64_t page = 0; page < r->size / PAGE_SIZE; page++)
			n += there[page] & 1;
	}
	assert_in_range(n, 3 * MIB / PAGE_SIZE, 4 * MIB / PAGE_SIZE);
	to = restore(f.uri);
	assert_arrived(from, to);
	vm_destroy(to);
	vm_destroy(from);
	remove_file(&f);
}

/* Past the page cache, or refused by name; never in another way instead. */
static void direct(void **state)
{
	struct vm *from = new_source(TWO_RAM), *to;
	struct stream_file f = { 0 };
	struct error err = { 0 };

	(void)state;
	scatter(&from->memory, 7);
	migration_get(from)->params.direct_io = true;
	save_to(from, &f);
	if (from->migration->error.code) {
		assert_int_equal(from->migration->error.code, -EINVAL);
		assert_string_equal(from->migration->error.field, "direct-io");
		assert_return_code(rmdir(f.dir), errno);
		vm_destroy(from);
		return;
	}
	to = new_destination();
	to->migration->params.direct_io = true;
	assert_int_equal(destination_start(to, f.uri, NULL, &err), 0);
	to->migration->ended = stop_loop;
	loop_run(to->loop);
	assert_arrived(from, to);
	vm_destroy(to);
	vm_destroy(from);
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
	struct vm *from = new_source(TWO_RAM), *to, *third;
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
		cmocka_unit_test(direct),
		cmocka_unit_test(shared_holes),
		cmocka_unit_test(untouched_ram),
		cmocka_unit_test(cancelled_save),
		cmocka_unit_test(no_room),
		cmocka_unit_test(another_writes_to_it),
		cmocka_unit_test(lazily),
		cmocka_unit_test(a_stream_is_not_mapped),
		cmocka_unit_test(parameters_that_need_a_file),
	};

	fake_hole = HOLE;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
