/* SPDX-License-Identifier: BSD-2-Clause */
/* RAM over several connections: everything arrives, whatever is written meanwhile. */
#include "guest-writer.h"
#include "multifd-rig.h"

#include "migration/compress.h"
#include "migration/messages.h"
#include "migration/multifd.h"

static void crosses(uint64_t memory, int channels)
{
	struct rig r;

	rig_prepare(&r, memory, channels, 20000);
	fill_random(&r.from->memory, (uint64_t)channels);
	/* Some of it zero, so that there are runs of both kinds. */
	for (uint64_t gpa = 0; gpa + PAGE_SIZE <= memory; gpa += 5 * PAGE_SIZE)
		memset(memory_hva(&r.from->memory, gpa, PAGE_SIZE), 0, PAGE_SIZE);
	rig_cross(&r, r.uri);
	assert_moved(&r);
	rig_finish(&r);
}

static void any_number(void **state)
{
	static const int channels[] = { 1, 2, 3, 4, 16, 64 };

	(void)state;
	for (size_t i = 0; i < sizeof(channels) / sizeof(channels[0]); i++)
		crosses(16 * MIB, channels[i]);
	crosses(MEMORY_MIN + 3 * PAGE_SIZE, 64);
}

/* Every byte is counted once, whichever connection it went over, and on both sides. */
static void figures_sum(void **state)
{
	const struct migration_stats *from, *to;
	struct rig r;

	(void)state;
	rig_prepare(&r, 32 * MIB, 4, 20000);
	fill_random(&r.from->memory, 7);
	rig_cross(&r, r.uri);
	assert_moved(&r);
	from = &r.from->migration->stats;
	to = &r.to->migration->stats;
	assert_int_equal(from->pages_data, 32 * MIB / PAGE_SIZE);
	assert_int_equal(to->pages_data, from->pages_data);
	assert_int_equal(to->records, from->records);
	assert_int_equal(to->bytes_xfer, from->bytes_xfer);
	assert_true(from->bytes_referenced >= 32 * MIB);
	assert_in_range(from->bytes_copied, 1, 64 << 10);
	assert_true(from->bandwidth > 0);
	rig_finish(&r);
}

static void written_while_sent(void **state)
{
	static const struct {
		int channels;
		enum compress_mode compress;
	} cases[] = {
		{ 2, COMPRESS_OFF }, { 4, COMPRESS_OFF }, { 16, COMPRESS_OFF }, { 3, COMPRESS_ON }
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct writer w;
		struct rig r;

		rig_prepare(&r, 16 * MIB, cases[i].channels, 20000);
		r.from->migration->params.compress = cases[i].compress;
		/* Rounds enough for pages to go as differences. */
		if (cases[i].compress == COMPRESS_ON) {
			r.from->migration->params.downtime_limit = 0;
			r.from->migration->params.timeout = 2;
			r.from->migration->params.force = true;
		}
		fill_random(&r.from->memory, 9);
		/* Of which half gets smaller. */
		for (uint64_t gpa = 0; gpa < 16 * MIB; gpa += PAGE_SIZE)
			memset(memory_hva(&r.from->memory, gpa, PAGE_SIZE), 1, PAGE_SIZE / 2);
		r.from->migration->params.max_bandwidth = 64 * MIB; /* so that it takes a while */
		writer_start(&w, r.from);
		rig_cross(&r, r.uri);
		assert_true(w.stop);
		assert_true(w.writes > 100);
		assert_true(r.from->migration->stats.rounds > 1);
		assert_moved(&r);
		assert_int_equal(r.from->migration->stats.zipped_pages > 0,
				 cases[i].compress == COMPRESS_ON);
		assert_int_equal(r.from->migration->stats.delta_pages > 0,
				 cases[i].compress == COMPRESS_ON);
		rig_finish(&r);
	}
}

static void one_connection_is_refused_by_name(void **state)
{
	static const char *const uris[] = { "fd:0", "file:/tmp/never" };
	struct vm *vm = new_source(2 * MIB);

	(void)state;
	assert_non_null(migration_get(vm));
	vm->migration->params.multifd = true;
	vm->migration->params.channels = 2;
	vm->migration->params.mapped_ram = false; /* with it, a file has no connection */
	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
		struct error err = { 0 };

		assert_int_equal(source_start(vm, uris[i], &err), -EINVAL);
		assert_string_equal(err.field, "channels");
		assert_string_equal(err.device, uris[i]);
	}
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_number),
		cmocka_unit_test(figures_sum),
		cmocka_unit_test(written_while_sent),
		cmocka_unit_test(one_connection_is_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
