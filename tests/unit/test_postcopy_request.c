/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy to a destination that is not one of ours: what it asks for wrongly is the reason of a
 * pause, and the source never runs the guest again.
 */
#include "postcopy-fake.h"

#define TOKEN "0123456789abcdef0123456789abcdef"

struct there {
	struct fake f;
	struct channel_listener *listener;
};

static void take(struct there *t, unsigned int i)
{
	struct fake *f = &t->f;

	assert_int_equal(channel_accept(t->listener, 10000, -1, &f->ch[i], &f->err), 0);
	adopt(f, i, SIDE_DESTINATION);
}

static void take_line(struct there *t, unsigned int i, uint64_t number)
{
	struct record rec;
	uint64_t theirs;

	take(t, i);
	assert_true(multifd_ask(t->f.p[i], TOKEN, &rec, &theirs));
	assert_int_equal(theirs, number);
}

static void *run_loop(void *opaque)
{
	return rig_run_loop(opaque);
}

/* The guest has come as far as ACCEPT; with @postcopy 0 the source does not get even there. */
static void greet(struct there *t, uint64_t postcopy)
{
	struct fake *f = &t->f;
	struct hello hello;
	struct record rec;
	struct message m;
	char uri[64];

	memset(t, 0, sizeof(*t));
	snprintf(uri, sizeof(uri), "unix:/tmp/ferry-postcopy-there-%d", (int)getpid());
	assert_int_equal(channel_listen(uri, &t->listener, &f->err), 0);
	f->r.from = new_source(RAM_SIZE);
	assert_non_null(migration_get(f->r.from));
	f->r.from->migration->params.postcopy = true;
	f->r.from->migration->params.postcopy_when = 0;
	f->r.from->migration->params.deadline_ms = 3000;
	assert_int_equal(source_start(f->r.from, uri, &f->err), 0);
	f->r.from->migration->ended = rig_stop_loop;
	pthread_create(&f->loop, NULL, run_loop, f->r.from);
	take(t, 0);
	hello_local(&hello);
	hello.postcopy = postcopy;
	hello.channels_max = 1;
	strcpy(hello.channels_token, TOKEN);
	message_hello(&m, &hello);
	assert_int_equal(protocol_say(f->p[0], RECORD_HELLO, message_end(&m), &f->err), 0);
	if (!postcopy)
		return;
	assert_int_equal(protocol_expect(f->p[0], RECORD_HELLO, &rec, &f->err), 0);
	assert_int_equal(protocol_expect(f->p[0], RECORD_MACHINE, &rec, &f->err), 0);
	say(f, 0, RECORD_ACCEPT, NULL, 0);
	take_line(t, 1, LINE_BACKGROUND);
	take_line(t, 2, LINE_FAULTS);
}

static void receive_until(struct fake *f, uint16_t type)
{
	struct record rec;

	do {
		assert_int_equal(protocol_receive(f->p[0], &rec, &f->err), 0);
	} while (rec.type != type);
}

static void get_loaded(struct there *t)
{
	struct fake *f = &t->f;

	greet(t, 1);
	receive_until(f, RECORD_LISTEN);
	say(f, 0, RECORD_READY, NULL, 0);
	receive_until(f, RECORD_STATE);
}

/* The background is kept from being sent by not reading it, but for what sockets hold. */
static void arrive(struct there *t)
{
	struct message m;
	const void *fdt;

	get_loaded(t);
	say(&t->f, 0, RECORD_LOADED, NULL, 0);
	receive_until(&t->f, RECORD_COMMIT);
	message_begin(&m);
	message_u64(&m, "resumed-ns", now_ns());
	fdt = message_end(&m);
	say(&t->f, 0, RECORD_RUNNING, fdt, fdt_totalsize(fdt));
	wait_for(t->f.r.from, MIGRATION_POSTCOPY_ACTIVE);
}

static void end(struct there *t)
{
	struct fake *f = &t->f;
	struct error err = { 0 };

	assert_int_equal(f->r.from->state, VM_POSTMIGRATE);
	assert_true(vm_set_state(f->r.from, VM_RUNNING, &err) < 0);
	assert_true(vm_claim(f->r.from, &err) < 0);
	drop(f);
	channel_listener_close(t->listener);
	loop_stop(f->r.from->loop);
	pthread_join(f->loop, NULL);
	vm_destroy(f->r.from);
}

static void ask(struct there *t, uint64_t gpa)
{
	const uint64_t wire = htobe64(gpa);

	say(&t->f, 2, RECORD_REQUEST, &wire, sizeof(wire));
}

static void wrong_requests(void **state)
{
	static const uint64_t gpas[] = { RAM_SIZE, 17, UINT64_MAX - 4095, 1UL << 32 };
	struct there t;

	(void)state;
	for (size_t i = 0; i < sizeof(gpas) / sizeof(gpas[0]); i++) {
		arrive(&t);
		ask(&t, 0);
		ask(&t, gpas[i]);
		assert_paused(t.f.r.from, -EPROTO, "gpa");
		end(&t);
	}
	arrive(&t);
	ask(&t, 4096);
	ask(&t, 4096);
	assert_paused(t.f.r.from, -EPROTO, "gpa");
	end(&t);
	arrive(&t);
	say(&t.f, 2, RECORD_REQUEST, "", 0);
	assert_paused(t.f.r.from, -EPROTO, "metadata length");
	end(&t);
	arrive(&t);
	say(&t.f, 2, RECORD_REQUEST, "seven b", 7);
	assert_paused(t.f.r.from, -EPROTO, "metadata length");
	end(&t);
}

/* It wants more than it was told to do without. */
static void wrong_map_when_it_comes_back(void **state)
{
	struct error err = { 0 };
	struct there t;

	(void)state;
	arrive(&t);
	ask(&t, 17);
	assert_paused(t.f.r.from, -EPROTO, "gpa");
	for (unsigned int i = 1; i < 1 + LINES; i++) {
		protocol_free(t.f.p[i]);
		free(t.f.p[i]);
		channel_close(t.f.ch[i]);
		t.f.p[i] = NULL;
	}
	assert_int_equal(
		postcopy_resume(t.f.r.from->migration, channel_listener_uri(t.listener), &err), 0);
	take_line(&t, 1, LINE_BACKGROUND);
	take_line(&t, 2, LINE_FAULTS);
	say_missing(&t.f, 1, RAM_SIZE, 1);
	assert_paused(t.f.r.from, -EPROTO, "gpa");
	end(&t);
}

/* Before COMMIT the guest stays. */
static void breaks_before_commit(void **state)
{
	struct there t;

	(void)state;
	get_loaded(&t);
	ask(&t, 17);
	channel_shutdown(t.f.ch[1]);
	/* The word comes with the next that is due. */
	for (int i = 0; i < 500; i++)
		snooze();
	say(&t.f, 0, RECORD_LOADED, NULL, 0);
	pthread_join(t.f.loop, NULL);
	assert_int_equal(t.f.r.from->state, VM_RUNNING);
	assert_true(box_of(t.f.r.from)->owned);
	assert_string_equal(t.f.r.from->migration->error.field, "gpa");
	drop(&t.f);
	channel_listener_close(t.listener);
	vm_destroy(t.f.r.from);
}

static void who_cannot_is_refused_by_name(void **state)
{
	struct there t;

	(void)state;
	greet(&t, 0);
	pthread_join(t.f.loop, NULL);
	assert_int_equal(t.f.r.from->migration->error.code, -EOPNOTSUPP);
	assert_string_equal(t.f.r.from->migration->error.field, "postcopy");
	assert_int_equal(t.f.r.from->state, VM_RUNNING);
	drop(&t.f);
	channel_listener_close(t.listener);
	vm_destroy(t.f.r.from);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_requests),
		cmocka_unit_test(wrong_map_when_it_comes_back),
		cmocka_unit_test(breaks_before_commit),
		cmocka_unit_test(who_cannot_is_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
