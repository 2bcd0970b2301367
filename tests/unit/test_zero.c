/* SPDX-License-Identifier: BSD-2-Clause */
/* Every variant finds a single bit anywhere in a page, and nothing where there is nothing. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "migration/zero.h"

static uint8_t pages[3][ZERO_PAGE_SIZE] __attribute__((aligned(ZERO_PAGE_SIZE)));

static void check(bool (*is_zero)(const void *), const char *name)
{
	uint8_t *page = pages[1];

	/* What lies around the page does not matter. */
	memset(pages, 0xff, sizeof(pages));
	memset(page, 0, ZERO_PAGE_SIZE);
	if (!is_zero(page))
		fail_msg("%s: a zero page is not seen", name);
	for (size_t i = 0; i < ZERO_PAGE_SIZE; i++) {
		for (int bit = 0; bit < 8; bit++) {
			page[i] = (uint8_t)(1 << bit);
			if (is_zero(page))
				fail_msg("%s: bit %d of byte %zu is not seen", name, bit, i);
		}
		page[i] = 0;
	}
	memset(page, 0xff, ZERO_PAGE_SIZE);
	assert_false(is_zero(page));
}

static void every_variant_at_every_position(void **state)
{
	size_t n, tried = 0;
	const struct zero_variant *v = zero_variants(&n);

	(void)state;
	for (size_t i = 0; i < n; i++) {
		if (!v[i].supported()) {
			print_message("# %s: not on this CPU\n", v[i].name);
			continue;
		}
		check(v[i].is_zero, v[i].name);
		tried++;
	}
	assert_true(tried >= 1);
	/* The last one is for any CPU. */
	assert_true(v[n - 1].supported());
}

static void the_chosen_one(void **state)
{
	(void)state;
	check(page_is_zero, "page_is_zero");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_variant_at_every_position),
		cmocka_unit_test(the_chosen_one),
	};

	return cmocka_run_group_tests_name("zero pages", tests, NULL, NULL);
}
