/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved while it runs: threads write to all of RAM meanwhile, as a vCPU and as the kernel does, and
 * the file must be the moment at which the guest was paused. And what becomes of it when the disk
 * is full, when it is cancelled, and where it may not be.
 */
#include "saved-rig.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "migration/write-guard.h"

#define RAM  (48 * MIB)
#define HOLE (32 * MIB + PAGE_SIZE)

/* Somebody who writes to RAM like a guest, and stands still while it is paused. */
struct writer {
	struct vm *vm;
	struct vm_listener listener;
	pthread_t thread;
	pthread_mutex_t lock; /* held while it writes, and by the pause */
	bool paused;
	bool cancel; /* once it runs again */
	_Atomic bool stop;
	_Atomic uint64_t writes;
	int random;
	uint8_t *moment; /* a copy of all RAM as it was at the pause */
};

/* That pages are protected orders these writes, which TSan does not know, so it is not told of
 * them. */
__attribute__((noinline, no_sanitize("thread"))) static void write_as_a_guest(volatile char *at,
									      char value)
{
	for (int i = 0; i < 50; i++)
		at[i] = value;
}

static void write_as_the_kernel(const struct writer *w, char *at)
{
	assert_int_equal(syscall(SYS_read, w->random, at, 64), 64);
}

static void *write_wildly(void *opaque)
{
	struct writer *w = opaque;
	const struct memory *mem = &w->vm->memory;
	uint64_t seed = 17;

	while (!w->stop) {
		const struct memory_region *r;
		char *page;

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		r = &mem->regions[(seed >> 60) % mem->n_regions];
		page = (char *)r->hva + (seed >> 20) % (r->size / PAGE_SIZE) * PAGE_SIZE;
		pthread_mutex_lock(&w->lock);
		/* By hand, and by the kernel, as a read from a disk does. */
		if (w->writes % 2)
			write_as_a_guest(page + 100, (char)(seed >> 33));
		else
			write_as_the_kernel(w, page);
		w->writes++;
		pthread_mutex_unlock(&w->lock);
	}
	return NULL;
}

static void copy_ram(struct writer *w)
{
	const struct memory *mem = &w->vm->memory;

	free(w->moment);
	w->moment = malloc(mem->size);
	memcpy(w->moment, mem->regions[0].hva, mem->regions[0].size);
	memcpy(w->moment + mem->regions[0].size, mem->regions[1].hva, mem->regions[1].size);
}

static void changed(void *opaque, enum vm_state from, enum vm_state to)
{
	struct writer *w = opaque;

	(void)from;
	if (to == VM_RUNNING && w->paused) {
		w->paused = false;
		pthread_mutex_unlock(&w->lock);
		if (w->cancel)
			migration_cancel(w->vm->migration, NULL, NULL);
	} else if (to == VM_FINISH_MIGRATE) {
		pthread_mutex_lock(&w->lock);
		w->paused = true;
		copy_ram(w);
	}
}

static struct vm *start(struct writer *w, enum memory_backing backing)
{
	struct vm *vm;
	char *ram;

	fake_backing = backing;
	vm = new_source(RAM);
	memset(w, 0, sizeof(*w));
	w->vm = vm;
	w->random = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	w->listener = (struct vm_listener){ .changed = changed, .opaque = w };
	vm_listen(vm, &w->listener);
	pthread_mutex_init(&w->lock, NULL);
	/* Written, read, and left alone. */
	ram = vm->memory.regions[0].hva;
	memset(ram + 3 * MIB, 0x11, 7 * MIB);
	for (uint64_t at = 16 * MIB; at < 24 * MIB; at += PAGE_SIZE)
		assert_int_equal(*(volatile char *)(ram + at), 0);
	migration_get(vm)->params.background = true;
	assert_int_equal(pthread_create(&w->thread, NULL, write_wildly, w), 0);
	return vm;
}

static void finish(struct writer *w)
{
	uint64_t writes = w->writes;

	/* It can write, everywhere. */
	while (w->writes < writes + 1000)
		sched_yield();
	w->stop = true;
	pthread_join(w->thread, NULL);
	memset(w->vm->memory.regions[0].hva, 1, w->vm->memory.regions[0].size);
	memset(w->vm->memory.regions[1].hva, 1, w->vm->memory.regions[1].size);
	assert_false(w->vm->memory.keep);
	vm_destroy(w->vm);
	pthread_mutex_destroy(&w->lock);
	close(w->random);
	free(w->moment);
}

static void make_uri(struct stream_file *f)
{
	strcpy(f->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/saved", f->dir);
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
}

static void assert_moment(const struct writer *w, const struct vm *to)
{
	const struct memory *mem = &to->memory;
	size_t at = 0;

	assert_int_equal(to->migration->error.code, 0);
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		for (uint64_t page = 0; page < mem->regions[i].size; page += PAGE_SIZE) {
			if (memcmp((char *)mem->regions[i].hva + page, w->moment + at + page,
				   PAGE_SIZE) != 0)
				fail_msg("region %u, page at 0x%llx differs", i,
					 (unsigned long long)page);
		}
		at += mem->regions[i].size;
	}
}

static void written_while_saved(enum memory_backing backing)
{
	for (int round = 0; round < 4; round++) {
		struct stream_file f = { 0 };
		struct writer w;
		struct vm *from = start(&w, backing), *to;
		uint64_t writes;

		make_uri(&f);
		from->migration->params.max_bandwidth = round % 2 ? 0 : 200 * MIB;
		from->migration->params.multifd = round >= 2;
		from->migration->params.channels = round;
		writes = w.writes;
		save(from, f.uri);
		if (from->migration->error.code == -EPERM ||
		    from->migration->error.code == -EOPNOTSUPP) {
			finish(&w);
			assert_return_code(rmdir(f.dir), errno);
			skip();
		}
		assert_int_equal(from->migration->error.code, 0);
		assert_int_equal(from->state, VM_RUNNING);
		assert_true(w.writes > writes);
		assert_true(from->migration->stats.blackout_ns > 0);
		assert_int_equal(from->migration->stats.pages_data +
					 from->migration->stats.pages_zero,
				 RAM / PAGE_SIZE);
		fake_backing = MEMORY_ANON;
		to = restore(f.uri);
		assert_moment(&w, to);
		vm_destroy(to);
		finish(&w);
		remove_file(&f);
	}
}

static void anonymous_ram(void **state)
{
	(void)state;
	written_while_saved(MEMORY_ANON);
}

static void shared_ram(void **state)
{
	(void)state;
	written_while_saved(MEMORY_SHARED);
}

/* Nobody who could not be told in time: what is discarded is kept until it is saved. */
static int discard(void *opaque, unsigned int region, uint64_t page, struct error *err)
{
	(void)opaque, (void)region, (void)page, (void)err;
	return 0;
}

static void discarding_waits(void **state)
{
	struct write_guard *guard;
	struct error err = { 0 };
	struct memory mem;

	(void)state;
	assert_int_equal(memory_alloc(&mem, RAM, MEMORY_ANON, HOLE, 1UL << 32, &err), 0);
	if (write_guard_open(&guard, &mem, discard, NULL, &err) < 0)
		skip();
	assert_int_equal(memory_discard(&mem, 0, PAGE_SIZE), -EOPNOTSUPP);
	assert_int_equal(write_guard_close(guard, &err), 0);
	assert_int_equal(memory_discard(&mem, 0, PAGE_SIZE), 0);
	memory_free(&mem);
}

static void cancelled(void **state)
{
	struct stream_file f = { 0 };
	struct writer w;
	struct vm *vm = start(&w, MEMORY_ANON);

	(void)state;
	make_uri(&f);
	vm->migration->params.max_bandwidth = MIB; /* it would take 7 s */
	w.cancel = true;
	save(vm, f.uri);
	assert_true(vm->migration->status == MIGRATION_CANCELLED ||
		    vm->migration->error.code == -EPERM);
	assert_int_equal(vm->state, VM_RUNNING);
	assert_return_code(rmdir(f.dir), errno); /* nothing is there */
	finish(&w);
}

static void full_disk(void **state)
{
	struct rlimit was, little;
	struct stream_file f = { 0 };
	struct writer w;
	struct vm *vm = start(&w, MEMORY_ANON);

	(void)state;
	make_uri(&f);
	/* Threads that wait for the limit, for minutes, do not keep the guest. */
	vm->migration->params.max_bandwidth = 10000;
	vm->migration->params.multifd = true;
	vm->migration->params.channels = 4;
	signal(SIGXFSZ, SIG_IGN);
	assert_return_code(getrlimit(RLIMIT_FSIZE, &was), errno);
	for (uint64_t size = 8 * MIB; size < RAM; size += 13 * MIB) {
		little = (struct rlimit){ size, was.rlim_max };
		assert_return_code(setrlimit(RLIMIT_FSIZE, &little), errno);
		save(vm, f.uri);
		assert_return_code(setrlimit(RLIMIT_FSIZE, &was), errno);
		assert_true(vm->migration->error.code == -EFBIG ||
			    vm->migration->error.code == -EPERM);
		assert_int_equal(vm->state, VM_RUNNING);
	}
	assert_return_code(rmdir(f.dir), errno);
	finish(&w);
}

static void without_the_right(void **state)
{
	struct write_guard *guard;
	struct error err = { 0 };
	struct memory mem;
	int ret;

	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(memory_alloc(&mem, RAM, MEMORY_ANON, HOLE, 1UL << 32, &err), 0);
	assert_return_code(seteuid(65534), errno);
	ret = write_guard_open(&guard, &mem, discard, NULL, &err);
	assert_return_code(seteuid(0), errno);
	if (ret == 0)
		write_guard_close(guard, NULL); /* vm.unprivileged_userfaultfd is on */
	else
		assert_int_equal(ret, -EPERM);
	assert_true(ret == 0 || strcmp(err.field, "background-snapshot") == 0);
	memory_free(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(anonymous_ram),    cmocka_unit_test(shared_ram),
		cmocka_unit_test(discarding_waits), cmocka_unit_test(cancelled),
		cmocka_unit_test(full_disk),	    cmocka_unit_test(without_the_right),
	};

	fake_hole = HOLE;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
