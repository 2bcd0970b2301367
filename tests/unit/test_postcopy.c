/* SPDX-License-Identifier: BSD-2-Clause */
/* Postcopy: the guest runs at the destination and finds there what it left at the source. */
#include "guest-writer.h"
#include "postcopy-rig.h"

static struct migration_stats *stats(struct vm *vm)
{
	return &vm->migration->stats;
}

/* Every third page is left zero. */
static void fill(struct memory *mem)
{
	fill_random(mem, 42);
	for (uint64_t gpa = 0; gpa < mem->size; gpa += 3 * PAGE_SIZE)
		memset(memory_hva(mem, gpa, PAGE_SIZE), 0, PAGE_SIZE);
}

/* As fake_realize(), with RAM of another kind. */
static int shared_realize(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	int ret = fake_realize(vm, fdt, incoming, err);
	uint64_t size = vm->memory.size;

	memory_free(&vm->memory);
	return ret < 0 ? ret
		       : memory_alloc(&vm->memory, size, MEMORY_SHARED, 1UL << 30, 1UL << 32, err);
}

static void at_once(void **state)
{
	struct guest g;

	(void)state;
	guest_prepare(&g, 16 * MIB, 0);
	fill(&g.r.from->memory);
	guest_cross(&g, g.r.uri);
	assert_followed(&g);
	assert_int_equal(stats(g.r.from)->rounds, 0);
	/* Each page has crossed once. */
	assert_int_equal(stats(g.r.to)->pages_data + stats(g.r.to)->pages_zero, 4096);
	assert_int_equal(stats(g.r.from)->remaining, 0);
	rig_finish(&g.r);
}

/* Pages that came in a round and were written since are taken away again; others stay. */
static void written_meanwhile(int when, bool shared)
{
	struct writer w;
	struct guest g;

	guest_prepare(&g, 16 * MIB, when);
	if (shared)
		g.r.to->migration->realize = shared_realize;
	g.r.from->migration->params.downtime_limit = 0;
	g.r.from->migration->params.max_bandwidth = 64 * MIB; /* so that it takes a while */
	fill(&g.r.from->memory);
	writer_start(&w, g.r.from);
	guest_cross(&g, g.r.uri);
	assert_true(w.writes > 0);
	assert_true(w.stop);
	assert_followed(&g);
	assert_true(when == POSTCOPY_AUTO || stats(g.r.from)->rounds == (uint64_t)when);
	assert_true(stats(g.r.from)->postcopy_bytes > 0);
	rig_finish(&g.r);
}

static void after_rounds(void **state)
{
	(void)state;
	written_meanwhile(1, false);
	written_meanwhile(3, false);
}

/* A guest that writes all over the place makes no round smaller than the one before. */
static void when_it_does_not_converge(void **state)
{
	(void)state;
	written_meanwhile(POSTCOPY_AUTO, false);
}

static void into_a_memfd(void **state)
{
	(void)state;
	written_meanwhile(0, true);
	written_meanwhile(1, true);
}

/* In the middle of a round that would take a minute. */
static void when_told_to(void **state)
{
	struct error err = { 0 };
	struct guest g;

	(void)state;
	guest_prepare(&g, 16 * MIB, POSTCOPY_BY_COMMAND);
	g.r.from->migration->params.max_bandwidth = 256 << 10;
	fill(&g.r.from->memory);
	assert_true(postcopy_start_now(g.r.from->migration, &err) < 0); /* nothing to start */
	assert_int_equal(pthread_create(&g.teller, NULL, guest_told, &g), 0);
	guest_cross(&g, g.r.uri);
	pthread_join(g.teller, NULL);
	assert_followed(&g);
	assert_true(stats(g.r.from)->pages_data > 0);
	rig_finish(&g.r);
}

/* Up to COMMIT nothing has changed by all that. */
static void be_refused(void *opaque)
{
	struct guest *g = opaque;
	struct error err = { 0 };

	if (g->r.from->migration->status == MIGRATION_ACTIVE)
		assert_int_equal(postcopy_start_now(g->r.from->migration, &err), -EINVAL);
	g->read++;
}

static void *ask_for_it(void *opaque)
{
	struct guest *g = opaque;

	while (g->r.to->migration->stats.pages_data < 16)
		snooze();
	loop_call(g->r.from->loop, be_refused, g);
	return NULL;
}

/* It may be one way of some, and impossible: with several channels. Rounds go on. */
static void not_where_both_do_not_agree(void **state)
{
	struct guest g;

	(void)state;
	guest_prepare(&g, 4 * MIB, POSTCOPY_AUTO);
	g.r.from->migration->params.multifd = true;
	g.r.from->migration->params.channels = 2;
	g.r.from->migration->params.auto_converge = true;
	g.r.from->migration->params.max_bandwidth = 4 * MIB;
	fill(&g.r.from->memory);
	pthread_create(&g.teller, NULL, ask_for_it, &g);
	rig_cross(&g.r, g.r.uri);
	pthread_join(g.teller, NULL);
	assert_int_equal(g.read, 1);
	assert_moved(&g.r);
	rig_finish(&g.r);
}

static void cancelled_before(void **state)
{
	struct error err = { 0 };
	struct guest g;

	(void)state;
	guest_prepare(&g, 16 * MIB, POSTCOPY_BY_COMMAND);
	g.r.from->migration->params.max_bandwidth = 256 << 10;
	fill(&g.r.from->memory);
	g.cancel = true;
	assert_int_equal(pthread_create(&g.teller, NULL, guest_told, &g), 0);
	guest_cross(&g, g.r.uri);
	pthread_join(g.teller, NULL);
	assert_stayed(&g.r);
	assert_int_equal(vm_claim(g.r.from, &err), 0);
	rig_finish(&g.r);
}

/* It needs no more pages, so the source has not to wait for anybody. */
static void the_destination_ends_early(void **state)
{
	struct error err = { 0 };
	pthread_t from, to;
	struct guest g;

	(void)state;
	guest_prepare(&g, 16 * MIB, 0);
	g.r.from->migration->params.max_postcopy_bandwidth = 256 << 10;
	fill(&g.r.from->memory);
	assert_int_equal(source_start(g.r.from, g.r.uri, &err), 0);
	g.r.from->migration->ended = rig_stop_loop;
	pthread_create(&from, NULL, rig_run_loop, g.r.from);
	pthread_create(&to, NULL, rig_run_loop, g.r.to);
	while (g.r.to->migration->status != MIGRATION_POSTCOPY_ACTIVE)
		snooze();
	loop_stop(g.r.to->loop);
	pthread_join(to, NULL);
	vm_destroy(g.r.to);
	pthread_join(from, NULL);
	assert_int_equal(g.r.from->migration->error.code, 0);
	assert_int_equal(g.r.from->state, VM_POSTMIGRATE);
	assert_true(g.r.from->migration->stats.remaining > 0);
	vm_destroy(g.r.from);
}

/* What a balloon gives back would be brought back by the source. */
static void nothing_is_given_back(void **state)
{
	struct memory mem;
	struct error err = { 0 };

	(void)state;
	assert_int_equal(memory_alloc(&mem, 2 * MIB, MEMORY_ANON, 1UL << 30, 1UL << 32, &err), 0);
	mem.keep = true;
	assert_int_equal(memory_discard(&mem, 0, PAGE_SIZE), -EOPNOTSUPP);
	mem.keep = false;
	assert_int_equal(memory_discard(&mem, 0, PAGE_SIZE), 0);
	memory_free(&mem);
}

static void percentiles(void **state)
{
	struct latency l = { 0 };

	(void)state;
	assert_int_equal(latency_within(&l, 500), 0);
	for (uint64_t i = 1; i <= 1000; i++)
		latency_add(&l, i * 1000);
	assert_in_range(latency_within(&l, 500), 500000, 500000 * 9 / 8);
	assert_in_range(latency_within(&l, 990), 990000, 1000000);
	assert_int_equal(latency_within(&l, 1000), 1000000);
	latency_add(&l, UINT64_MAX);
	latency_add(&l, 0);
	assert_int_equal(latency_within(&l, 1000), UINT64_MAX);
	assert_int_equal(latency_octave_us(&l, 0), 1 + 2); /* 0, 1000 and 2000 ns */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_once),
		cmocka_unit_test(after_rounds),
		cmocka_unit_test(when_it_does_not_converge),
		cmocka_unit_test(into_a_memfd),
		cmocka_unit_test(when_told_to),
		cmocka_unit_test(not_where_both_do_not_agree),
		cmocka_unit_test(cancelled_before),
		cmocka_unit_test(the_destination_ends_early),
		cmocka_unit_test(nothing_is_given_back),
		cmocka_unit_test(percentiles),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
