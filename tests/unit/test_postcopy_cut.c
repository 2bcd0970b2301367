/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy over connections that break: again and again, at every place. Before COMMIT the guest
 * stays where it was; from then on both sides pause and go on when they are told to, and nothing is
 * lost.
 */
#include "proxy-rig.h"

static void many_breaks(void **state)
{
	/* With 4 MiB to send: in the middle of pages, of tables, of headers. */
	static const uint64_t limits[] = { 1000003, 300007, 131072 };
	struct guest g;

	(void)state;
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct proxy *p = proxy_new();
		struct resumer o = { 0 };

		guest_prepare(&g, 4 * MIB, 0);
		fill_random(&g.r.from->memory, i + 1);
		p->limit = limits[i];
		p->times = 20;
		proxy_open(p, g.r.uri);
		proxy_cross(&g, p, &o);
		assert_followed(&g);
		assert_true(o.resumed >= 3);
		rig_finish(&g.r);
		proxy_free(p);
	}
}

/* Both outcomes are right, but nothing between them. */
static void cut_once(uint64_t limit, unsigned int *moved)
{
	struct proxy *p = proxy_new();
	struct resumer o = { 0 };
	struct guest g;

	guest_prepare(&g, 2 * MIB, 0);
	fill_random(&g.r.from->memory, limit);
	p->limit = limit;
	p->times = 1;
	proxy_open(p, g.r.uri);
	proxy_cross(&g, p, &o);
	if (g.r.to->state == VM_RUNNING) {
		assert_followed(&g);
		++*moved;
	} else {
		assert_stayed(&g.r);
	}
	rig_finish(&g.r);
	proxy_free(p);
}

static void cut_at_many_places(void **state)
{
	unsigned int moved = 0;

	(void)state;
	for (uint64_t at = 1; at < 400; at += 97)
		cut_once(at, &moved);
	for (uint64_t at = 400; at < 2 * MIB; at = at * 5 / 4)
		cut_once(at, &moved);
	assert_true(moved > 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_breaks),
		cmocka_unit_test(cut_at_many_places),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
