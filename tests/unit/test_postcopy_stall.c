/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy over connections that fall silent but stay open: both sides find out by their deadline.
 * Before COMMIT the guest stays; later both pause, and go on when they are told to.
 */
#include "proxy-rig.h"

#define RAM	    (2 * MIB)
#define DATA_PAGES  70
#define TOUCHED	    4
#define DEADLINE_MS 250
#define TRIES	    5

enum outcome { STAYED, MOVED, IN_DOUBT };

static uint64_t main_size[WAYS], channel_size;

static void prepare(struct guest *g, struct proxy *p, int deadline_ms)
{
	guest_prepare(g, RAM, 0);
	fill_some(&g->r.from->memory, DATA_PAGES);
	g->r.from->migration->params.deadline_ms = deadline_ms;
	g->r.to->migration->params.deadline_ms = deadline_ms;
	g->threads = 1;
	g->pages = TOUCHED;
	p->awaited = g;
	proxy_open(p, g->r.uri);
}

static enum outcome outcome_of(const struct guest *g)
{
	if (g->r.from->state == VM_RUNNING) {
		assert_stayed(&g->r);
		return STAYED;
	}
	if (g->r.to->state == VM_RUNNING) {
		assert_moved(&g->r);
		assert_int_equal(g->differ, 0);
		assert_int_equal(g->read, TOUCHED);
		return MOVED;
	}
	assert_int_equal(g->r.from->state, VM_HANDED_OVER);
	assert_int_equal(g->r.to->state, VM_INMIGRATE);
	assert_true(g->r.to->migration->error.code < 0);
	return IN_DOUBT;
}

static enum outcome stall_once(const struct cut *cut, uint64_t bandwidth, unsigned int *resumed)
{
	struct proxy *p = proxy_new();
	struct resumer o = { .deadline_ms = 4 * DEADLINE_MS };
	enum outcome outcome;
	struct guest g;

	p->cuts = cut;
	p->n_cuts = 1;
	prepare(&g, p, DEADLINE_MS);
	g.r.from->migration->params.max_postcopy_bandwidth = bandwidth;
	/* What the background brings last. */
	g.first = bandwidth ? RAM / PAGE_SIZE - TOUCHED : 0;
	proxy_cross(&g, p, &o);
	outcome = outcome_of(&g);
	assert_int_equal(p->done, 1);
	*resumed = o.resumed;
	rig_finish(&g.r);
	proxy_free(p);
	return outcome;
}

/* On a busy host a deadline may pass elsewhere, too. */
static void stall(unsigned int connection, enum way way, uint64_t at, enum outcome expected)
{
	const struct cut cut = { connection, way, at, true };
	enum outcome outcome = IN_DOUBT;
	unsigned int resumed = 0;

	for (int i = 0; i < TRIES; i++) {
		outcome = stall_once(&cut, 0, &resumed);
		if (outcome == expected)
			break;
	}
	assert_int_equal(outcome, expected);
	assert_true(outcome != MOVED || resumed > 0 || connection == 2);
}

static void observe(void)
{
	struct proxy *p = proxy_new();
	struct resumer o = { 0 };
	struct guest g;
	uint64_t pages;

	p->log = true;
	prepare(&g, p, PREPARED_MS);
	proxy_cross(&g, p, &o);
	assert_int_equal(outcome_of(&g), MOVED);
	for (int way = 0; way < WAYS; way++)
		main_size[way] = p->connections[0].pumps[way].passed;
	channel_size = logged_record(&p->connections[1].pumps[THERE], 0, &pages);
	assert_true(channel_size == pages);
	rig_finish(&g.r);
	proxy_free(p);
}

static void before_commit(void **state)
{
	(void)state;
	observe();
	stall(0, THERE, 500, STAYED);
	stall(0, THERE, main_size[THERE] - RECORD_HEADER - 1, STAYED); /* STATE */
	stall(0, BACK, 40, STAYED);
	stall(1, THERE, channel_size - 1, STAYED);
	stall(2, THERE, 1, STAYED);
}

/* The guest is nobody's: kept, for a person to decide. */
static void commit(void **state)
{
	(void)state;
	observe();
	stall(0, THERE, main_size[THERE] - 1, IN_DOUBT);
}

static void running(void **state)
{
	(void)state;
	observe();
	stall(0, BACK, main_size[BACK] - 1, MOVED);
}

static void pages(void **state)
{
	(void)state;
	observe();
	stall(1, THERE, channel_size + 5, MOVED);
	stall(1, THERE, channel_size + 100000, MOVED);
	/* The background may bring what is asked for in vain. */
	stall(2, THERE, channel_size + 60, MOVED);
	stall(2, BACK, 20, MOVED);
}

/* Other pages come all the time, but not that one for which the guest waits. */
static void faults_while_the_background_goes_on(void **state)
{
	struct cut cut = { 2, THERE, 0, true };
	unsigned int resumed = 0;

	(void)state;
	observe();
	cut.at = channel_size;
	/* It takes four seconds to come to the end of RAM. */
	for (int i = 0; i < TRIES; i++) {
		if (stall_once(&cut, 18 * PAGE_SIZE, &resumed) == MOVED)
			break;
	}
	assert_true(resumed > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(before_commit),
		cmocka_unit_test(commit),
		cmocka_unit_test(running),
		cmocka_unit_test(pages),
		cmocka_unit_test(faults_while_the_background_goes_on),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
