/* SPDX-License-Identifier: BSD-2-Clause */
/* Postcopy: the guest runs at the destination and finds there what it left at the source. */
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

/* Pages that came in a round and were written since are taken away again. */
static void after_a_round(void **state)
{
	struct guest g;

	(void)state;
	guest_prepare(&g, 16 * MIB, 1);
	g.r.from->migration->params.downtime_limit = 0;
	fill(&g.r.from->memory);
	guest_cross(&g, g.r.uri);
	assert_followed(&g);
	rig_finish(&g.r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_once),
		cmocka_unit_test(after_a_round),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
