/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A cancel in every state: one record after the other is kept from arriving, so that whoever waits
 * for it does so when the cancel comes. Before COMMIT the guest goes on and may leave again at
 * once; from then on it is refused, and nothing has changed by that.
 */
#include "proxy-rig.h"

#include "migration/compress.h"

#define RAM	   (2 * MIB)
#define DATA_PAGES 150
#define CHANNELS   3

struct attempt {
	struct guest g;
	struct proxy *p;
	struct resumer o;
	bool postcopy;
	unsigned int stalls; /* after so many the cancel comes */
	int ret;	     /* of it */
	struct error err;
	enum migration_status status; /* then */
};

static void set_params(struct vm *from, bool postcopy)
{
	struct migration_params *params = &from->migration->params;

	params->postcopy = postcopy;
	params->postcopy_when = 0;
	params->multifd = !postcopy;
	params->channels = CHANNELS;
	params->compress = postcopy ? COMPRESS_OFF : COMPRESS_ON;
}

static void prepare(struct attempt *a, const struct cut *cuts, unsigned int n, bool postcopy)
{
	memset(a, 0, sizeof(*a));
	guest_prepare(&a->g, RAM, 0);
	set_params(a->g.r.from, postcopy);
	fill_some(&a->g.r.from->memory, DATA_PAGES);
	a->g.threads = 0;
	a->postcopy = postcopy;
	a->stalls = n;
	a->p = proxy_new();
	a->p->cuts = cuts;
	a->p->n_cuts = n;
	a->p->log = !n;
	a->o.g = &a->g;
	a->o.uri = a->p->own;
	proxy_open(a->p, a->g.r.uri);
}

static void finish(struct attempt *a)
{
	rig_finish(&a->g.r);
	proxy_free(a->p);
}

static void cancel(void *opaque)
{
	struct attempt *a = opaque;
	struct migration *m = a->g.r.from->migration;

	error_clear(&a->err);
	a->status = m->status;
	a->ret = migration_cancel(m, NULL, &a->err);
}

static void assert_refused(const struct attempt *a)
{
	assert_int_equal(a->ret, -EBUSY);
	assert_string_equal(a->err.phase, "cancel");
	assert_string_equal(a->err.device, "migration");
	assert_string_equal(a->err.expected, "one not yet committed");
	assert_string_equal(a->err.got, "the guest belongs to the other side already");
}

static void *cancel_and_go_on(void *opaque)
{
	struct attempt *a = opaque;
	struct migration *m = a->g.r.from->migration;
	enum migration_status first;

	while (a->p->done < a->stalls) {
		/* Those before the last are for a resume to get there. */
		if (m->status == MIGRATION_POSTCOPY_PAUSED)
			loop_call(a->g.r.from->loop, resume, &a->o);
		snooze();
	}
	while (m->params.max_bandwidth && m->status != MIGRATION_ACTIVE)
		snooze();
	loop_call(a->g.r.from->loop, cancel, a);
	proxy_hang_up(a->p);
	if (a->ret == -EBUSY && a->postcopy) {
		first = a->status;
		while (m->status != MIGRATION_POSTCOPY_PAUSED)
			snooze();
		loop_call(a->g.r.from->loop, cancel, a);
		assert_refused(a);
		a->status = first;
	}
	return operate(&a->o);
}

static void cross(struct attempt *a)
{
	pthread_create(&a->o.thread, NULL, cancel_and_go_on, a);
	guest_cross(&a->g, a->p->own);
	pthread_join(a->o.thread, NULL);
	proxy_close(a->p);
}

/* … to another destination, and nothing is missing there. */
static void leave_again(struct attempt *a)
{
	struct rig *r = &a->g.r;
	struct error err = { 0 };

	vm_destroy(r->to);
	r->to = new_destination();
	assert_int_equal(destination_start(r->to, r->uri, NULL, &err), 0);
	r->to->migration->ended = rig_stop_loop;
	rig_cross(r, r->uri);
	assert_moved(r);
	assert_true(a->postcopy || r->from->migration->stats.zipped_pages > 0);
	assert_true(!a->postcopy || r->from->migration->stats.postcopy_bytes > 0);
}

/* In a round, if @bandwidth makes it last. Returns a bit for the status in which the cancel came.
 */
static unsigned int cancel_in(uint64_t bandwidth, const struct cut *cuts, unsigned int n,
			      bool postcopy, bool refused)
{
	struct attempt a;
	struct migration *m;

	prepare(&a, cuts, n, postcopy);
	m = a.g.r.from->migration;
	m->params.max_bandwidth = bandwidth;
	cross(&a);
	m->params.max_bandwidth = 0;
	if (refused) {
		assert_refused(&a);
		if (postcopy && a.g.r.to->state == VM_RUNNING)
			assert_moved(&a.g.r);
		else
			assert_int_equal(a.g.r.from->state, VM_HANDED_OVER);
	} else {
		assert_int_equal(a.ret, 0);
		assert_stayed(&a.g.r);
		assert_int_equal(m->status, MIGRATION_CANCELLED);
		assert_int_equal(m->error.code, -ECANCELED);
		leave_again(&a);
	}
	finish(&a);
	return 1U << a.status;
}

static unsigned int cancel_at(const struct cut *cuts, unsigned int n, bool postcopy, bool refused)
{
	return cancel_in(0, cuts, n, postcopy, refused);
}

/* Just before the end of every record of the main connection. COMMIT is the last there, and RUNNING
 * back. */
static unsigned int cancel_in_every_step(bool postcopy)
{
	struct attempt whole;
	unsigned int seen = 0;

	prepare(&whole, NULL, 0, postcopy);
	guest_cross(&whole.g, whole.p->own);
	proxy_close(whole.p);
	assert_moved(&whole.g.r);
	for (int way = 0; way < WAYS; way++) {
		const struct pump *pump = &whole.p->connections[0].pumps[way];
		uint64_t end, pages;

		for (uint64_t at = 0; at < pump->passed; at = end) {
			struct cut stall = { 0, (enum way)way, 0, true };

			end = logged_record(pump, at, &pages);
			stall.at = end - 1;
			seen |= cancel_at(&stall, 1, postcopy, end == pump->passed);
		}
	}
	finish(&whole);
	return seen;
}

#define BIT(status) (1U << (status))

static void postcopy(void **state)
{
	const unsigned int all =
		BIT(MIGRATION_SETUP) | BIT(MIGRATION_ACTIVE) | BIT(MIGRATION_DEVICE);

	(void)state;
	assert_int_equal(cancel_in_every_step(true) & all, all);
}

static void postcopy_after_the_switch(void **state)
{
	static const struct cut background = { 1, THERE, 5000, true };
	static const struct cut again[] = { { 1, THERE, 5000, false }, { 3, BACK, 0, true } };

	(void)state;
	assert_int_equal(cancel_at(&background, 1, true, true), BIT(MIGRATION_POSTCOPY_ACTIVE));
	assert_int_equal(cancel_at(again, 2, true, true), BIT(MIGRATION_POSTCOPY_RECOVER));
}

static void compressed_over_channels(void **state)
{
	const unsigned int all =
		BIT(MIGRATION_SETUP) | BIT(MIGRATION_ACTIVE) | BIT(MIGRATION_DEVICE);
	unsigned int seen = cancel_in_every_step(false);
	struct cut stall = { 0, THERE, 0, true };

	(void)state;
	/* In CHANNEL, and in what comes after it on any of them. */
	for (stall.connection = 1; stall.connection <= CHANNELS; stall.connection++) {
		stall.at = 100;
		seen |= cancel_in(1, &stall, 1, false, false);
		stall.at = 200;
		seen |= cancel_at(&stall, 1, false, false);
	}
	assert_int_equal(seen & all, all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(postcopy),
		cmocka_unit_test(postcopy_after_the_switch),
		cmocka_unit_test(compressed_over_channels),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
