/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/memory.h"

#define MIB	   (1ULL << 20)
#define HOLE_START (8 * MIB)
#define HOLE_END   (16 * MIB)

static void alloc(struct memory *mem, uint64_t size, enum memory_backing backing)
{
	struct error err = { 0 };

	assert_int_equal(memory_alloc(mem, size, backing, HOLE_START, HOLE_END, &err), 0);
}

static void one_region_below_the_hole(void **state)
{
	struct memory mem;

	(void)state;
	alloc(&mem, HOLE_START, MEMORY_ANON);
	assert_int_equal(mem.n_regions, 1);
	assert_int_equal(mem.regions[0].gpa, 0);
	assert_int_equal(mem.regions[0].size, HOLE_START);
	assert_int_equal(mem.fd, -1);
	memory_free(&mem);
}

static void two_regions_around_the_hole(void **state)
{
	struct memory mem;

	(void)state;
	/* An odd size: one page beyond. */
	alloc(&mem, HOLE_START + PAGE_SIZE, MEMORY_ANON);
	assert_int_equal(mem.n_regions, 2);
	assert_int_equal(mem.size, HOLE_START + PAGE_SIZE);
	assert_int_equal(mem.regions[1].gpa, HOLE_END);
	assert_int_equal(mem.regions[1].size, PAGE_SIZE);
	assert_int_equal(mem.regions[1].slot, 1);
	for (int i = 0; i < 2; i++)
		assert_int_equal((uintptr_t)mem.regions[i].hva % (2 * MIB), 0);
	memory_free(&mem);
}

static void accessor_checks_every_edge(void **state)
{
	struct memory mem;
	char *base;

	(void)state;
	alloc(&mem, HOLE_START + 2 * MIB, MEMORY_ANON);
	base = mem.regions[0].hva;
	assert_ptr_equal(memory_hva(&mem, 0, 1), base);
	assert_ptr_equal(memory_hva(&mem, 0, HOLE_START), base);
	assert_ptr_equal(memory_hva(&mem, HOLE_START - 1, 1), base + HOLE_START - 1);
	assert_null(memory_hva(&mem, 0, 0));
	assert_null(memory_hva(&mem, 0, HOLE_START + 1));
	assert_null(memory_hva(&mem, HOLE_START - 1, 2));
	assert_null(memory_hva(&mem, HOLE_START, 1));
	assert_null(memory_hva(&mem, HOLE_END - 1, 2));
	assert_ptr_equal(memory_hva(&mem, HOLE_END, 2 * MIB), mem.regions[1].hva);
	assert_null(memory_hva(&mem, HOLE_END + 1, 2 * MIB));
	assert_null(memory_hva(&mem, 1, UINT64_MAX));
	assert_null(memory_hva(&mem, UINT64_MAX, 1));
	assert_null(memory_hva(&mem, UINT64_MAX - 10, 100));
	memory_free(&mem);
}

static bool own_bit(const struct memory_region *region, uint64_t page)
{
	return region->own[page / 64] >> page % 64 & 1;
}

static void writes_are_logged(void **state)
{
	struct memory mem;
	uint64_t bitmap[8 * MIB / PAGE_SIZE / 64] = { 0 };
	char buf[2] = { 1, 2 };

	(void)state;
	alloc(&mem, HOLE_START, MEMORY_ANON);
	assert_int_equal(memory_write(&mem, 5 * PAGE_SIZE - 1, buf, 2), 0);
	assert_int_equal(memory_write(&mem, HOLE_START - 1, buf, 2), -EFAULT);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(memory_read(&mem, 5 * PAGE_SIZE - 1, buf, 2), 0);
	assert_int_equal(buf[0], 1);
	assert_int_equal(buf[1], 2);
	assert_int_equal(memory_read(&mem, HOLE_END, buf, 2), -EFAULT);

	bitmap[0] = 1; /* stays */
	memory_fetch_own(&mem.regions[0], 0, 2048, bitmap);
	assert_int_equal(bitmap[0], 1 | 1 << 4 | 1 << 5);
	for (size_t i = 1; i < 32; i++)
		assert_int_equal(bitmap[i], 0);
	bitmap[0] = 0;
	memory_fetch_own(&mem.regions[0], 0, 2048, bitmap);
	assert_int_equal(bitmap[0], 0);
	memory_free(&mem);
}

static void marking_ranges(void **state)
{
	struct memory mem;

	(void)state;
	alloc(&mem, HOLE_START + 2 * MIB, MEMORY_ANON);
	/* Pages 60 to 130 of the second region: across words, first and last by a byte. */
	memory_mark_dirty(&mem, HOLE_END + 61 * PAGE_SIZE - 1, 69 * PAGE_SIZE + 2);
	for (uint64_t i = 0; i < 512; i++) {
		assert_int_equal(own_bit(&mem.regions[1], i), i >= 60 && i <= 130);
		assert_false(own_bit(&mem.regions[0], i));
	}
	memory_mark_dirty(&mem, HOLE_START, 1);
	memory_mark_dirty(&mem, 0, 0);
	memory_mark_dirty(&mem, HOLE_END, UINT64_MAX);
	for (uint64_t i = 0; i < 2048; i++)
		assert_false(own_bit(&mem.regions[0], i));
	memory_free(&mem);
}

static void fetching_a_part(void **state)
{
	struct memory mem;
	uint64_t bitmap[8] = { 0 };

	(void)state;
	alloc(&mem, 2 * MIB, MEMORY_ANON);
	memory_mark_dirty(&mem, 0, 2 * MIB);
	memory_fetch_own(&mem.regions[0], 64, 128, bitmap);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(bitmap[i], i == 1 || i == 2 ? UINT64_MAX : 0);
		assert_int_equal(mem.regions[0].own[i], i == 1 || i == 2 ? 0 : UINT64_MAX);
	}
	memory_free(&mem);
}

#define ROUNDS 100000

static void *marker(void *opaque)
{
	uint32_t *value;
	struct memory *mem = opaque;

	value = memory_hva(mem, 7 * PAGE_SIZE, 4);
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		__atomic_store_n(value, i, __ATOMIC_RELAXED);
		memory_mark_dirty(mem, 7 * PAGE_SIZE, 4);
	}
	return NULL;
}

/* What a migration relies on: after the last fetch that found the bit, the value is the last. */
static void no_write_is_lost_between_mark_and_fetch(void **state)
{
	uint32_t *value, sent = 0;
	struct memory mem;
	pthread_t thread;
	uint64_t bitmap[8];

	(void)state;
	alloc(&mem, 2 * MIB, MEMORY_ANON);
	value = memory_hva(&mem, 7 * PAGE_SIZE, 4);
	pthread_create(&thread, NULL, marker, &mem);
	for (bool last = false; !last;) {
		last = pthread_tryjoin_np(thread, NULL) == 0;
		memset(bitmap, 0, sizeof(bitmap));
		memory_fetch_own(&mem.regions[0], 0, 512, bitmap);
		if (bitmap[0])
			sent = __atomic_load_n(value, __ATOMIC_RELAXED);
	}
	assert_int_equal(sent, ROUNDS);
	memory_free(&mem);
}

static void shared_memory_is_a_memfd(void **state)
{
	struct memory mem;
	struct stat st;
	char c = 'x';

	(void)state;
	alloc(&mem, HOLE_START + 2 * MIB, MEMORY_SHARED);
	assert_true(mem.fd >= 0);
	assert_int_equal(fstat(mem.fd, &st), 0);
	assert_int_equal(st.st_size, HOLE_START + 2 * MIB);
	assert_int_equal(memory_write(&mem, HOLE_END + 3, &c, 1), 0);
	c = 0;
	assert_int_equal(pread(mem.fd, &c, 1, (off_t)HOLE_START + 3), 1);
	assert_int_equal(c, 'x');
	memory_free(&mem);
	assert_int_equal(fcntl(mem.fd, F_GETFD), -1);
}

/* Whole pages of RAM, by whatever way its backing needs; and a migration hears of it. */
static void discarded_pages_are_empty(void **state)
{
	for (int shared = 0; shared < 2; shared++) {
		struct memory mem;
		uint64_t bitmap[2 * MIB / PAGE_SIZE / 64] = { 0 };
		uint8_t *hva;

		(void)state;
		alloc(&mem, 2 * MIB, shared ? MEMORY_SHARED : MEMORY_ANON);
		hva = mem.regions[0].hva;
		memset(hva, 0x5a, 2 * MIB);
		assert_int_equal(memory_discard(&mem, PAGE_SIZE, 2 * PAGE_SIZE), 0);
		assert_int_equal(hva[PAGE_SIZE - 1], 0x5a);
		for (uint64_t i = PAGE_SIZE; i < 3 * PAGE_SIZE; i++)
			assert_int_equal(hva[i], 0);
		assert_int_equal(hva[3 * PAGE_SIZE], 0x5a);
		memory_fetch_own(&mem.regions[0], 0, 2 * MIB / PAGE_SIZE, bitmap);
		assert_int_equal(bitmap[0], 6);
		assert_int_equal(memory_discard(&mem, 1, PAGE_SIZE), -EINVAL);
		assert_int_equal(memory_discard(&mem, 0, PAGE_SIZE - 1), -EINVAL);
		assert_int_equal(memory_discard(&mem, 0, 0), -EFAULT);
		assert_int_equal(memory_discard(&mem, 2 * MIB - PAGE_SIZE, 2 * PAGE_SIZE), -EFAULT);
		assert_int_equal(memory_discard(&mem, -PAGE_SIZE, PAGE_SIZE), -EFAULT);
		if (shared) /* gone from the file, too */
			assert_int_equal(pread(mem.fd, hva, 1, PAGE_SIZE), 1);
		assert_int_equal(hva[0], shared ? 0 : 0x5a);
		memory_free(&mem);
	}
}

static void refuse(uint64_t size, enum memory_backing backing, int code, const char *expected)
{
	struct error err = { 0 };
	struct memory mem;

	assert_int_equal(memory_alloc(&mem, size, backing, HOLE_START, HOLE_END, &err), code);
	assert_int_equal(err.code, code);
	assert_non_null(strstr(err.expected, expected));
	memory_free(&mem);
	memory_free(&mem); /* harmless */
}

static void bad_sizes(void **state)
{
	(void)state;
	refuse(0, MEMORY_ANON, -EINVAL, "at least 2 MiB");
	refuse(MIB, MEMORY_ANON, -EINVAL, "at least 2 MiB");
	refuse(4 * MIB + 1, MEMORY_ANON, -EINVAL, "steps of 4 KiB");
	refuse(3 * MIB, MEMORY_HUGETLB, -EINVAL, "steps of 2048 KiB");
	refuse(UINT64_MAX - PAGE_SIZE + 1, MEMORY_ANON, -EINVAL, "at least");
	refuse(1ULL << 60, MEMORY_ANON, -ENOMEM, "MiB of address space");
	refuse(1ULL << 46, MEMORY_HUGETLB, -ENOMEM, "/proc/sys/vm/nr_hugepages");
}

static void freeing_zeros_closes_nothing(void **state)
{
	struct memory mem = { .size = 0 };

	(void)state;
	memory_free(&mem);
	assert_int_not_equal(fcntl(0, F_GETFD), -1);
}

static void sparse_memory_is_cheap(void **state)
{
	struct memory mem;
	char c = 1;

	(void)state;
	/* More than a test machine has; TSan leaves no room for a TiB. */
	alloc(&mem, 64ULL << 30, MEMORY_ANON);
	assert_int_equal(memory_write(&mem, (61ULL << 30) - 1, &c, 1), 0);
	memory_free(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_region_below_the_hole),
		cmocka_unit_test(two_regions_around_the_hole),
		cmocka_unit_test(accessor_checks_every_edge),
		cmocka_unit_test(writes_are_logged),
		cmocka_unit_test(marking_ranges),
		cmocka_unit_test(fetching_a_part),
		cmocka_unit_test(no_write_is_lost_between_mark_and_fetch),
		cmocka_unit_test(shared_memory_is_a_memfd),
		cmocka_unit_test(discarded_pages_are_empty),
		cmocka_unit_test(bad_sizes),
		cmocka_unit_test(freeing_zeros_closes_nothing),
		cmocka_unit_test(sparse_memory_is_cheap),
	};

	return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
