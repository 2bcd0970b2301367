/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decisions between rounds, with a made-up guest and a made-up link: a working set that is written
 * at some speed, and a link that slows down, stalls, or is capped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "migration/converge.h"

#define MIB 1048576.0

struct trace {
	/* The guest. */
	double ram, ws; /* bytes, and those of them that are written again and again, … */
	double rate;	/* … at full speed, bytes a second */
	/* The link. */
	double bandwidth;	 /* bytes a second, … */
	double dropped;		 /* … from round drop_at on */
	unsigned int drop_at;	 /* 0: never */
	unsigned int stall_at;	 /* round that takes 5 s longer; 0: none, … */
	unsigned int stall_each; /* … and so often again */
	double timeout, downtime;
	bool automatic, postcopy;

	/* What came of it. */
	double share, least; /* of full speed: in the end, and at its slowest */
	double seconds, blackout;
	unsigned int rounds;
	enum converge_step step;
};

static bool stalls(const struct trace *t, unsigned int round)
{
	return t->stall_at &&
	       (round == t->stall_at || (t->stall_each && round > t->stall_at &&
					 (round - t->stall_at) % t->stall_each == 0));
}

/* Run rounds until it is decided, or @max of them. */
static void run(struct trace *t, unsigned int max)
{
	struct converge c = { 0 };
	double left = t->ram, one = 1;

	t->share = t->least = 1;
	t->seconds = 0;
	for (t->rounds = 1; t->rounds <= max; t->rounds++) {
		double link = t->drop_at && t->rounds >= t->drop_at ? t->dropped : t->bandwidth;
		double took = left / link + 0.001, seen = link, dirtied, before = left;

		if (stalls(t, t->rounds)) {
			took += 5;
			seen = link / 100; /* the last window was in the stall */
		}
		left = t->rate * t->share * took;
		left = left < t->ws ? left : t->ws;
		t->seconds += took;
		dirtied = left / 4096;
		t->step = converge_next(&c, &(struct converge_figures){
						    .elapsed_ns = (uint64_t)(t->seconds * 1e9),
						    .timeout_ns = (uint64_t)(t->timeout * 1e9),
						    .downtime_ns = (uint64_t)(t->downtime * 1e9),
						    .round_ns = (uint64_t)(took * 1e9),
						    .before = (uint64_t)before,
						    .left = (uint64_t)left,
						    .left_ns = (uint64_t)(left / seen * 1e9),
						    .bandwidth = seen,
						    .share = t->share,
						    .slice_ns = 4000000,
						    .automatic = t->automatic,
						    .can_postcopy = t->postcopy,
					    });
		t->blackout = left / link;
		if (t->step == CONVERGE_SWITCH || t->step == CONVERGE_POSTCOPY)
			return;
		if (t->step == CONVERGE_THROTTLE) {
			one = t->share;
			converge_shares(c.factor, c.rise, &dirtied, 0, &one, 1);
			t->share = one;
		}
		t->least = t->share < t->least ? t->share : t->least;
	}
	t->rounds = max;
}

/* 1 GiB at 100 MiB/s; 300 ms are 30 MiB, the working set is 100 MiB. */
static struct trace busy(double rate)
{
	return (struct trace){ .ram = 1024 * MIB,
			       .ws = 100 * MIB,
			       .rate = rate * MIB,
			       .bandwidth = 100 * MIB,
			       .downtime = 0.3,
			       .automatic = true };
}

static void an_idle_guest_switches_after_one_round(void **state)
{
	struct trace t = busy(0);

	(void)state;
	run(&t, 10);
	assert_int_equal(t.step, CONVERGE_SWITCH);
	assert_int_equal(t.rounds, 1);
}

static void a_slow_guest_is_not_throttled(void **state)
{
	struct trace t = busy(40);

	(void)state;
	run(&t, 20);
	assert_int_equal(t.step, CONVERGE_SWITCH);
	assert_true(t.least == 1);
	assert_true(t.blackout < 0.003);
}

/* Faster than half of the link, but what one round leaves fits. */
static void what_fits_is_not_throttled(void **state)
{
	struct trace t = busy(200);

	(void)state;
	t.ws = 20 * MIB;
	run(&t, 20);
	assert_int_equal(t.step, CONVERGE_SWITCH);
	assert_true(t.least == 1);
	assert_in_range(t.rounds, 1, 3);
}

static void without_the_capability_it_never_converges(void **state)
{
	struct trace t = busy(200);

	(void)state;
	t.automatic = false;
	run(&t, 1000);
	assert_int_equal(t.step, CONVERGE_GO_ON);
	assert_true(t.least == 1);
}

/* From a little too fast to 40 times: it gets there, and not by standing still. */
static void a_fast_guest_is_slowed_as_needed(void **state)
{
	(void)state;
	for (double rate = 80; rate <= 4000; rate *= 2) {
		struct trace t = busy(rate);
		/* Such that a round leaves half of what it began with. */
		double needed = 50 / rate;

		run(&t, 40);
		assert_int_equal(t.step, CONVERGE_SWITCH);
		assert_true(t.blackout <= 0.3);
		assert_true(t.least < 1);
		assert_true(t.least > needed * 0.5);
	}
}

/* With a timeout it takes its time: the guest is slowed less. */
static void a_timeout_is_made_use_of_and_kept(void **state)
{
	struct trace patient = busy(120), pressed = busy(120), free = busy(120);

	(void)state;
	patient.timeout = 120;
	pressed.timeout = 15;
	run(&patient, 100);
	run(&pressed, 100);
	run(&free, 100);
	assert_int_equal(patient.step, CONVERGE_SWITCH);
	assert_int_equal(pressed.step, CONVERGE_SWITCH);
	assert_true(patient.seconds < 120);
	assert_true(pressed.seconds < 15);
	assert_true(patient.least > free.least);
	assert_true(pressed.least <= free.least);
}

/* A stalled moment is no reason to slow a guest down that would converge, nor one that is slowed
 * already even more. */
static void a_stall_throttles_nobody(void **state)
{
	struct trace t = busy(45), again = busy(400), smooth = busy(400);

	(void)state;
	t.stall_at = 2;
	t.stall_each = 3;
	run(&t, 100);
	assert_int_equal(t.step, CONVERGE_SWITCH);
	assert_true(t.least == 1);
	again.stall_at = 4;
	run(&smooth, 100);
	run(&again, 100);
	assert_int_equal(again.step, CONVERGE_SWITCH);
	assert_true(again.least >= smooth.least * 0.99);
}

/* Every round is held up: sending is not what takes the time, and that counts after all. */
static void what_is_always_held_up_is_the_link(void **state)
{
	struct trace t = busy(90);

	(void)state;
	t.stall_at = 1;
	t.stall_each = 1;
	run(&t, 100);
	assert_true(t.least < 1);
}

static void a_link_that_gets_slower(void **state)
{
	struct trace t = busy(45);

	(void)state;
	t.downtime = 0.02;
	t.drop_at = 3;
	t.dropped = 10 * MIB;
	run(&t, 100);
	assert_int_equal(t.step, CONVERGE_SWITCH);
	assert_true(t.blackout <= 0.02);
	assert_true(t.least < 1);
	assert_true(t.least > 5.0 / 45 * 0.5);
}

static void postcopy_before_a_guest_crawls(void **state)
{
	struct trace t = busy(4000), gentle = busy(120);

	(void)state;
	t.postcopy = gentle.postcopy = true;
	run(&t, 100);
	assert_int_equal(t.step, CONVERGE_POSTCOPY);
	assert_true(t.least >= 0.05);
	/* Where little is needed it is not the answer. */
	run(&gentle, 100);
	assert_int_equal(gentle.step, CONVERGE_SWITCH);
}

static void postcopy_before_the_timeout(void **state)
{
	struct trace t = busy(400);

	(void)state;
	t.postcopy = true;
	t.timeout = 13;
	run(&t, 100);
	assert_int_equal(t.step, CONVERGE_POSTCOPY);
	assert_true(t.seconds < 13);
}

/* ---- Shares ---- */

#define CLOSE(a, b) assert_true((a) > (b)-0.001 && (a) < (b) + 0.001)

static void who_dirties_little_keeps_its_speed(void **state)
{
	const double dirtied[] = { 1000, 0, 10, 500 };
	double share[] = { 1, 1, 1, 1 };

	(void)state;
	/* 755 of 1510 pages: 10 are below anybody's part, the other two get 372.5 each. */
	converge_shares(0.5, true, dirtied, 0, share, 4);
	CLOSE(share[0], 0.3725);
	CLOSE(share[1], 1);
	CLOSE(share[2], 1);
	CLOSE(share[3], 0.745);
}

/* What a slowed vCPU would write at full speed is what counts, also on the way back. */
static void shares_rise_again(void **state)
{
	const double dirtied[] = { 100, 100 };
	double share[] = { 0.1, 0.8 };

	(void)state;
	converge_shares(1.5, true, dirtied, 0, share, 2);
	/* 300 pages; 1000 and 125 at full speed: the second gets all it wants, the first 175. */
	CLOSE(share[0], 0.175);
	CLOSE(share[1], 1);
}

static void nobody_is_stopped(void **state)
{
	const double dirtied[] = { 1e9 }, nothing[] = { 0 };
	double share[] = { 1 }, before;

	(void)state;
	for (int i = 0; i < 20; i++)
		converge_shares(0.25, true, dirtied, 0, share, 1);
	CLOSE(share[0], 0.01);
	/* One that has slept all through a round comes back in steps. */
	before = share[0];
	converge_shares(1.5, true, nothing, 0, share, 1);
	CLOSE(share[0], before * 2);
}

/* A round in which a vCPU only slept says nothing about it. */
static void a_short_round_lets_nobody_go(void **state)
{
	const double dirtied[] = { 0, 100, 0 };
	double share[] = { 0.02, 0.5, 1 };

	(void)state;
	converge_shares(0.5, false, dirtied, 0, share, 3);
	CLOSE(share[0], 0.02);
	CLOSE(share[1], 0.25);
	CLOSE(share[2], 1);
	/* In a longer one it does. */
	converge_shares(0.5, true, dirtied, 0, share, 3);
	CLOSE(share[0], 0.04);
}

/* A page or two that every vCPU writes are no reason to slow down one that computes. */
static void next_to_nothing_is_no_reason(void **state)
{
	struct converge c = { 0 };
	struct converge_figures f = { .before = 8192,
				      .left = 8192,
				      .left_ns = 1000000,
				      .round_ns = 3000000,
				      .bandwidth = 100 * MIB,
				      .share = 1,
				      .slice_ns = 4000000,
				      .automatic = true };

	(void)state;
	for (int i = 0; i < 10; i++)
		assert_int_equal(converge_next(&c, &f), CONVERGE_GO_ON);
}

/* Where nobody knows who it was, all are slowed alike. */
static void without_counts_all_are_equal(void **state)
{
	const double dirtied[] = { 0, 0, 0 };
	double share[] = { 1, 1, 1 };

	(void)state;
	converge_shares(0.5, true, dirtied, 3000, share, 3);
	for (int i = 0; i < 3; i++)
		CLOSE(share[i], 0.5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_idle_guest_switches_after_one_round),
		cmocka_unit_test(a_slow_guest_is_not_throttled),
		cmocka_unit_test(what_fits_is_not_throttled),
		cmocka_unit_test(without_the_capability_it_never_converges),
		cmocka_unit_test(a_fast_guest_is_slowed_as_needed),
		cmocka_unit_test(a_timeout_is_made_use_of_and_kept),
		cmocka_unit_test(a_stall_throttles_nobody),
		cmocka_unit_test(what_is_always_held_up_is_the_link),
		cmocka_unit_test(a_link_that_gets_slower),
		cmocka_unit_test(postcopy_before_a_guest_crawls),
		cmocka_unit_test(postcopy_before_the_timeout),
		cmocka_unit_test(who_dirties_little_keeps_its_speed),
		cmocka_unit_test(shares_rise_again),
		cmocka_unit_test(nobody_is_stopped),
		cmocka_unit_test(without_counts_all_are_equal),
		cmocka_unit_test(a_short_round_lets_nobody_go),
		cmocka_unit_test(next_to_nothing_is_no_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
