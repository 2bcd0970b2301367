/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy over connections that break at every byte that is not a page's, in either direction: the
 * guest either stays with all its memory, or goes on at the destination with all of it. Only with
 * COMMIT on its way it is nobody's, and kept at the source for a person to decide.
 *
 * By default a part of these places are tried; all of them with FERRY_TEST_FULL=1.
 */
#include "proxy-rig.h"

#define RAM	   (2 * MIB)
#define DATA_PAGES 70 /* with zero pages between them, so more than fit one record */
#define TOUCHED	   4  /* asked for before anything comes in the background */
#define PLACES_MAX 16384
#define SOON_MS	   300 /* a deadline where one is waited for */

enum outcome { STAYED = 1, MOVED = 2, IN_DOUBT = 4 };

/* Of one direction of one connection: places to cut, and the ends of its records. */
struct line {
	unsigned int n, n_ends;
	uint64_t at[PLACES_MAX], ends[1024];
};

static struct line lines[5][WAYS]; /* main, background, faults, and these two once more */

static void prepare(struct guest *g, struct proxy *p)
{
	guest_prepare(g, RAM, 0);
	fill_some(&g->r.from->memory, DATA_PAGES);
	g->threads = 1;
	g->pages = TOUCHED;
	p->awaited = g;
	proxy_open(p, g->r.uri);
}

/* Every byte but those within pages. */
static void find_places(const struct pump *pump, struct line *l)
{
	uint64_t start = 0, pages, end;

	l->n = l->n_ends = 0;
	for (; start < pump->passed; start = end) {
		end = logged_record(pump, start, &pages);
		for (uint64_t at = start; at <= pages && at < end; at++)
			l->at[l->n++] = at;
		if (end > pages + 1)
			l->at[l->n++] = end - 1;
		l->ends[l->n_ends++] = end;
		assert_true(l->n < PLACES_MAX - 4096);
	}
	assert_int_equal(start, pump->passed);
	l->at[l->n++] = pump->passed;
}

/* What passes connections from @begin to @end when only @first breaks. */
static void observe(const struct cut *first, unsigned int begin, unsigned int end)
{
	struct proxy *p = proxy_new();
	struct resumer o = { 0 };
	struct guest g;

	p->cuts = first;
	p->n_cuts = first != NULL;
	p->log = true;
	prepare(&g, p);
	proxy_cross(&g, p, &o);
	assert_followed(&g);
	assert_int_equal(p->n, end);
	for (unsigned int i = begin; i < end; i++) {
		for (int way = 0; way < WAYS; way++)
			find_places(&p->connections[i].pumps[way], &lines[i][way]);
	}
	rig_finish(&g.r);
	proxy_free(p);
}

/* ---- What must come of it ---- */

/* COMMIT is the last that the main connection hears there, LOADED the last but one back. */
static unsigned int expected_on_main(enum way way, uint64_t at)
{
	const struct line *l = &lines[0][way];
	uint64_t before = l->ends[l->n_ends - 2], all = l->ends[l->n_ends - 1];

	if (at < before)
		return STAYED;
	if (way == THERE)
		return at == before ? STAYED | IN_DOUBT : at < all ? IN_DOUBT : MOVED;
	return at == before ? STAYED | IN_DOUBT | MOVED : MOVED;
}

/* The first record there is CHANNEL, without which a line is none; pages follow once COMMIT is out.
 */
static unsigned int expected(const struct cut *cut)
{
	uint64_t channel = lines[cut->connection][THERE].ends[0];

	if (cut->connection == 0)
		return expected_on_main(cut->way, cut->at);
	if (cut->connection > 2)
		return MOVED;
	if (cut->way == BACK)
		return cut->at ? MOVED : STAYED | MOVED;
	if (cut->at == channel)
		return STAYED | MOVED;
	return cut->at < channel ? STAYED : MOVED;
}

static uint64_t ends_at(const struct line *l)
{
	return l->at[l->n - 1];
}

static bool owns(struct vm *vm)
{
	return box_of(vm) && box_of(vm)->owned;
}

/* With nothing missing of what it had. */
static void assert_whole(const struct vm *vm)
{
	struct memory mem;
	struct error err = { 0 };

	assert_int_equal(memory_alloc(&mem, RAM, MEMORY_ANON, fake_hole, 1UL << 32, &err), 0);
	fill_some(&mem, DATA_PAGES);
	assert_same_memory(&vm->memory, &mem);
	memory_free(&mem);
}

static enum outcome find_outcome(const struct guest *g)
{
	struct vm *from = g->r.from, *to = g->r.to;

	assert_int_equal(owns(from), from->state == VM_RUNNING);
	assert_int_equal(owns(to), to->state == VM_RUNNING);
	if (from->state == VM_RUNNING)
		return STAYED;
	return to->state == VM_RUNNING ? MOVED : IN_DOUBT;
}

static void check_outcome(struct guest *g, const struct cut *cut, const struct resumer *o,
			  enum outcome outcome)
{
	struct migration *from = g->r.from->migration, *to = g->r.to->migration;
	struct error err = { 0 };

	assert_whole(g->r.from);
	if (outcome == STAYED) {
		assert_stayed(&g->r);
	} else if (outcome == MOVED) {
		/* END is lost: all is there, but nobody is left to say so. */
		bool last = cut->way == BACK || cut->at == ends_at(&lines[cut->connection][THERE]);
		bool unheard = o->abandoned && last && cut->connection % 2 == 1;

		assert_whole(g->r.to);
		assert_int_equal(g->r.from->state, VM_POSTMIGRATE);
		assert_int_equal(from->error.code, unheard ? -ECANCELED : 0);
		assert_int_equal(to->error.code, 0);
		assert_int_equal(g->read, TOUCHED);
		assert_int_equal(g->differ, 0);
		assert_false(g->r.to->memory.keep);
	} else {
		assert_int_equal(g->r.from->state, VM_HANDED_OVER);
		assert_int_equal(g->r.to->state, VM_INMIGRATE);
		assert_true(from->handed_over);
		assert_true(to->error.code < 0);
		/* For a person who knows that nobody runs it there: it is all here. */
		assert_int_equal(vm_claim(g->r.from, &err), 0);
	}
}

static void cut_at(const struct cut *cuts, unsigned int n)
{
	const struct cut *last = &cuts[n - 1];
	struct proxy *p = proxy_new();
	/* Where the second of two lines never comes it is waited for. */
	struct resumer o = { .deadline_ms = SOON_MS };
	enum outcome outcome;
	struct guest g;

	p->cuts = cuts;
	p->n_cuts = n;
	prepare(&g, p);
	if (last->connection && last->at < lines[last->connection][THERE].ends[0] &&
	    expected(last) == STAYED)
		g.r.to->migration->params.deadline_ms = SOON_MS;
	proxy_cross(&g, p, &o);
	outcome = find_outcome(&g);
	if (!(outcome & expected(last)))
		fail_msg("connection %u, %s, after %llu bytes: source %s, destination %s",
			 last->connection, last->way == THERE ? "there" : "back",
			 (unsigned long long)last->at, vm_state_name(g.r.from->state),
			 vm_state_name(g.r.to->state));
	check_outcome(&g, last, &o, outcome);
	rig_finish(&g.r);
	proxy_free(p);
}

/* Every @step-th place of connections from @begin to @end, after @first. */
static void sweep(const struct cut *first, unsigned int begin, unsigned int end, unsigned int step)
{
	const char *full = getenv("FERRY_TEST_FULL");
	unsigned int n = 0;

	step = full && strcmp(full, "1") == 0 ? 1 : step;
	for (unsigned int i = begin; i < end; i++) {
		for (int way = 0; way < WAYS; way++) {
			const struct line *l = &lines[i][way];

			for (unsigned int k = 0; k < l->n; k++) {
				struct cut cuts[2] = { { 0 } };
				unsigned int n_cuts = 0;

				if (n++ % step)
					continue;
				if (first)
					cuts[n_cuts++] = *first;
				cuts[n_cuts++] = (struct cut){ i, (enum way)way, l->at[k], false };
				cut_at(cuts, n_cuts);
			}
		}
	}
}

static void main_connection(void **state)
{
	(void)state;
	observe(NULL, 0, 3);
	sweep(NULL, 0, 1, 97);
}

static void lines_of_pages(void **state)
{
	(void)state;
	observe(NULL, 0, 3);
	sweep(NULL, 1, 3, 97);
}

/* In the background nothing has come, … */
static void lines_that_come_again(void **state)
{
	struct cut first = { 1, THERE, 0, false };

	(void)state;
	observe(NULL, 0, 3);
	first.at = lines[1][THERE].ends[0] + 20;
	observe(&first, 3, 5);
	sweep(&first, 3, 5, 401);
}

/* … or the guest waits for a page. */
static void lines_that_come_again_for_a_guest(void **state)
{
	struct cut first = { 2, THERE, 0, false };

	(void)state;
	observe(NULL, 0, 3);
	first.at = lines[2][THERE].ends[0] + 20;
	observe(&first, 3, 5);
	sweep(&first, 3, 5, 401);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(main_connection),
		cmocka_unit_test(lines_of_pages),
		cmocka_unit_test(lines_that_come_again),
		cmocka_unit_test(lines_that_come_again_for_a_guest),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
