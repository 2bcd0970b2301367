/* SPDX-License-Identifier: BSD-2-Clause */
/* The token bucket and the bandwidth estimate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migration/rate.h"

#define MIB (1UL << 20)
#define MS  1000000UL

/* Sending as told for a simulated while moves what the limit allows. */
static void holds_limit(void **state)
{
	struct rate_limit r = { 0 };
	uint64_t now = 1, sent = 0;

	(void)state;
	while (now < 10000 * MS) {
		now += rate_take(&r, 10 * MIB, MIB / 2, now) + 1;
		sent += MIB / 2;
	}
	assert_in_range(sent, 99 * MIB, 102 * MIB);
}

/* Idle time is not saved up for a burst of any size. */
static void forgets_idle_time(void **state)
{
	struct rate_limit r = { 0 };

	(void)state;
	rate_take(&r, 10 * MIB, 0, 1);
	assert_in_range(rate_take(&r, 10 * MIB, 10 * MIB, 60000 * MS), 900 * MS, 1000 * MS);
}

static void no_limit(void **state)
{
	struct rate_limit r = { 0 };

	(void)state;
	assert_int_equal(rate_take(&r, 0, 1UL << 40, 5), 0);
	/* A limit set later does not charge for what went before. */
	assert_in_range(rate_take(&r, MIB, MIB, 6), 900 * MS, 1000 * MS);
}

static void changed_limit(void **state)
{
	struct rate_limit r = { 0 };

	(void)state;
	assert_in_range(rate_take(&r, MIB, MIB, 1), 999 * MS, 1000 * MS);
	assert_in_range(rate_take(&r, 4 * MIB, 0, 2), 249 * MS, 251 * MS);
}

static void estimate(void **state)
{
	struct bandwidth b = { 0 };

	(void)state;
	assert_true(bandwidth_get(&b) == 0);
	bandwidth_add(&b, MIB, MS);
	assert_true(bandwidth_get(&b) == 1000.0 * MIB); /* better than nothing */
	bandwidth_add(&b, 99 * MIB, 99 * MS);
	assert_true(bandwidth_get(&b) == 1000.0 * MIB);
	/* A burst that only filled a buffer, and a stalled moment, wait for a full window. */
	bandwidth_add(&b, 4 * MIB, 1);
	bandwidth_add(&b, 1, MS);
	assert_true(bandwidth_get(&b) == 1000.0 * MIB);
	bandwidth_add(&b, 6 * MIB, 99 * MS);
	assert_in_range((uint64_t)bandwidth_get(&b), 99 * MIB, 101 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holds_limit), cmocka_unit_test(forgets_idle_time),
		cmocka_unit_test(no_limit),    cmocka_unit_test(changed_limit),
		cmocka_unit_test(estimate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
