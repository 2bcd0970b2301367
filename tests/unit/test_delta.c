/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages that cross as differences to what the other side has of them. */
#include "ram-pair.h"

#include "migration/delta.h"

#define PAGES 200

/* Words that zstd makes something of, but not nothing. */
static void write_text(struct pair *t, uint64_t first, uint64_t pages, uint64_t seed)
{
	for (uint64_t gpa = first * PAGE_SIZE; gpa < (first + pages) * PAGE_SIZE; gpa += 8) {
		uint64_t word = gpa & 56 ? gpa / 64 : (gpa + 1) * (seed | 1) * 0x9e3779b97f4a7c15;

		assert_int_equal(memory_write(&t->vm[0]->memory, gpa, &word, 8), 0);
	}
}

/* Some bytes of each page. */
static void touch(struct pair *t, uint64_t first, uint64_t pages, uint64_t value)
{
	for (uint64_t i = 0; i < pages; i++)
		assert_int_equal(memory_write(&t->vm[0]->memory,
					      (first + i) * PAGE_SIZE + value % 500 * 8, &value, 8),
				 0);
}

static void write_random(struct pair *t, uint64_t first, uint64_t pages, uint64_t seed)
{
	for (uint64_t gpa = first * PAGE_SIZE; gpa < (first + pages) * PAGE_SIZE; gpa += 8) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		assert_int_equal(memory_write(&t->vm[0]->memory, gpa, &seed, 8), 0);
	}
}

static struct pair *start(uint64_t memory, uint64_t zstd)
{
	struct pair *t = new_pair(2 * MIB, HOLE, 1UL << 32);
	struct error err = { 0 };

	t->vm[0]->migration->params.compress = COMPRESS_ON;
	t->vm[0]->migration->params.delta_memory = memory;
	write_text(t, 0, PAGES, 1);
	begin(t);
	assert_int_equal(ram_save_compress(t->save, zstd, &err), 0);
	send_round(t, true);
	assert_int_equal(stats(t, 0)->delta_pages, 0);
	return t;
}

/* Another round; the pages in it that went as differences, and what all took on the wire. */
static uint64_t next_round(struct pair *t, uint64_t *bytes)
{
	uint64_t pages = stats(t, 0)->delta_pages, before = stats(t, 0)->bytes_xfer;
	struct error err = { 0 };

	assert_int_equal(ram_save_fetch(t->save, &err), 0);
	send_round(t, true);
	if (bytes)
		*bytes = stats(t, 0)->bytes_xfer - before;
	return stats(t, 0)->delta_pages - pages;
}

static void finish(struct pair *t)
{
	end(t);
	assert_int_equal(stats(t, 1)->delta_pages, stats(t, 0)->delta_pages);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	free_pair(t);
}

static void from_the_third_time_on(void **state)
{
	struct pair *t = start(MIB, 2);
	uint64_t whole, difference;

	(void)state;
	touch(t, 0, PAGES, 2);
	assert_int_equal(next_round(t, &whole), 0);
	touch(t, 0, PAGES, 3);
	assert_int_equal(next_round(t, &difference), PAGES);
	assert_true(difference < whole / 4);
	/* What is new has to go whole once, or twice. */
	touch(t, 10, 5, 4);
	write_text(t, PAGES, 5, 4);
	assert_int_equal(next_round(t, NULL), 5);
	touch(t, PAGES, 5, 5);
	assert_int_equal(next_round(t, NULL), 5);
	/* Nothing changed: a difference of nothing. */
	touch(t, 0, 1, 3);
	assert_int_equal(next_round(t, NULL), 1);
	finish(t);
}

/* What does not get smaller goes as it is, from the copy. */
static void after_going_plainly(void **state)
{
	struct pair *t = start(MIB, 2);
	uint64_t zipped, whole, difference;

	(void)state;
	touch(t, 0, PAGES, 2);
	assert_int_equal(next_round(t, NULL), 0);
	zipped = stats(t, 0)->zipped_pages;
	write_random(t, 0, PAGES, 7);
	assert_int_equal(next_round(t, &whole), 0);
	assert_int_equal(stats(t, 0)->zipped_pages, zipped);
	touch(t, 0, PAGES, 9);
	assert_int_equal(next_round(t, &difference), PAGES);
	assert_true(difference < whole / 20);
	finish(t);
}

static void not_after_being_zero(void **state)
{
	static const uint8_t zero[PAGE_SIZE];
	struct pair *t = start(MIB, 2);

	(void)state;
	touch(t, 0, PAGES, 2);
	assert_int_equal(next_round(t, NULL), 0);
	for (uint64_t page = 0; page < 20; page++)
		memory_write(&t->vm[0]->memory, page * PAGE_SIZE, zero, PAGE_SIZE);
	touch(t, 20, 10, 3);
	assert_int_equal(next_round(t, NULL), 10);
	write_text(t, 0, 20, 4);
	touch(t, 20, 10, 4);
	assert_int_equal(next_round(t, NULL), 10);
	touch(t, 0, 30, 5);
	assert_int_equal(next_round(t, NULL), 30);
	finish(t);
}

/* Room for 16 pages. It goes to those that are being sent. */
static void little_memory(void **state)
{
	struct pair *t = start(16 * PAGE_SIZE, 2);

	(void)state;
	touch(t, 0, 50, 2);
	assert_int_equal(next_round(t, NULL), 0);
	touch(t, 0, 50, 3);
	assert_int_equal(next_round(t, NULL), 16);
	touch(t, 60, 10, 4);
	assert_int_equal(next_round(t, NULL), 0);
	touch(t, 60, 10, 5);
	assert_int_equal(next_round(t, NULL), 10);
	touch(t, 0, 50, 6);
	assert_int_equal(next_round(t, NULL), 0);
	finish(t);
}

static void none(uint64_t memory, uint64_t zstd)
{
	struct pair *t = start(memory, zstd);

	for (uint64_t i = 0; i < 3; i++) {
		touch(t, 0, PAGES, i);
		assert_int_equal(next_round(t, NULL), 0);
	}
	assert_null(t->save->deltas);
	assert_true(stats(t, 0)->zipped_pages > 3UL * PAGES);
	finish(t);
}

static void not_wanted_or_not_taken(void **state)
{
	(void)state;
	none(0, 2);
	none(MIB, 1);
}

/* The guest writes while its pages are compared, and to few of them, so all have copies. */
static void written_meanwhile(void **state)
{
	struct pair *t = start(16 * MIB, 2);
	struct writer w = { .mem = &t->vm[0]->memory, .first = PAGE_SIZE, .size = 64 * PAGE_SIZE };
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, write_wildly, &w), 0);
	alarm(60);
	while (stats(t, 0)->delta_pages < 5000)
		next_round(t, NULL);
	alarm(0);
	w.stop = true;
	pthread_join(thread, NULL);
	next_round(t, NULL);
	finish(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_the_third_time_on),  cmocka_unit_test(after_going_plainly),
		cmocka_unit_test(not_after_being_zero),	   cmocka_unit_test(little_memory),
		cmocka_unit_test(not_wanted_or_not_taken), cmocka_unit_test(written_meanwhile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
