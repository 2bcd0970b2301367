/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The source against a destination that misbehaves in every way at every step: before COMMIT the
 * guest runs on as if nothing had happened, after it the guest never runs again.
 */
#include "migration-fixture.h"

#include <stdio.h>

#include "migration/messages.h"

/* What the fake destination is about to do when it misbehaves. */
enum step {
	SAY_HELLO,
	READ_MACHINE,
	SAY_ACCEPT,
	READ_RAM,
	READ_MORE_RAM,
	SAY_LOADED,
	READ_COMMIT,
	SAY_RUNNING,
	STEPS, /* never: it behaves */
};

enum deed { CLOSE, SILENCE, GARBAGE, FAIL, CANCEL, DEEDS };

static const char *const deed_names[DEEDS] = { "close", "silence", "garbage", "fail", "cancel" };

struct fake {
	struct vm *source;
	struct channel *ch;
	struct protocol *p;
	enum step at;
	enum deed deed;
	bool reject_version, other_host, other_clock, guest_ends;
	bool run; /* what STOPPED said */
	pthread_t thread;
};

static void end_guest(void *opaque)
{
	vm_request_exit(opaque, 0);
}

static void cancel(void *opaque)
{
	struct vm *vm = opaque;

	migration_cancel(vm->migration, NULL, NULL);
}

/* Read on until the source hangs up; its deadline ends this. */
static void wait_for_the_end(struct fake *f)
{
	channel_set_timeout(f->ch, 10000);
	while (stream_skip(&f->p->stream, MIB) == 0)
		;
}

static void misbehave(struct fake *f)
{
	static const char garbage[64] = "this is no record, it only looks as long as one or two";
	struct error err = { 0 };

	switch (f->deed) {
	case GARBAGE:
		f->ch->ops->put_buffer(f->ch, garbage, sizeof(garbage));
		break;
	case FAIL:
		error_set(&err, -ENOSPC, "load", "toaster", "slots", "2", "1");
		protocol_fail(f->p, &err);
		break;
	case CANCEL:
		loop_post(f->source->loop, f->guest_ends ? end_guest : cancel, f->source);
		break;
	case CLOSE:
		return;
	case SILENCE:
	case DEEDS:
		break;
	}
	wait_for_the_end(f);
}

static int say_hello(struct fake *f)
{
	struct error err = { 0 };
	struct hello hello;
	struct message m;

	hello_local(&hello);
	if (f->reject_version)
		hello.version_min = hello.version_max = 99;
	if (f->other_host)
		strcpy(hello.boot_id, "another");
	message_hello(&m, &hello);
	return protocol_say(f->p, RECORD_HELLO, message_end(&m), &err);
}

static int read_one(struct fake *f, uint16_t type)
{
	struct error err = { 0 };
	struct record rec;
	int ret = protocol_receive(f->p, &rec, &err);

	if (ret == 0 && rec.type == RECORD_STOPPED)
		f->run = message_get_u64(rec.meta, "run", 9) == 1;
	ret = ret ? ret : stream_skip(&f->p->stream, rec.payload_len);
	return ret ? ret : rec.type == type ? 0 : 1;
}

static int say_running(struct fake *f)
{
	struct error err = { 0 };
	struct message m;

	message_begin(&m);
	message_u64(&m, "commit-ns", 1000);
	message_u64(&m, "resumed-ns", f->other_clock ? 1 : now_ns());
	return protocol_say(f->p, RECORD_RUNNING, message_end(&m), &err);
}

static int take_step(struct fake *f, enum step step)
{
	struct error err = { 0 };
	int ret = 0;

	switch (step) {
	case SAY_HELLO:
		return say_hello(f);
	case READ_MACHINE:
		ret = read_one(f, RECORD_HELLO);
		return ret ? ret : read_one(f, RECORD_MACHINE);
	case SAY_ACCEPT:
		return protocol_say(f->p, RECORD_ACCEPT, NULL, &err);
	case READ_RAM:
		return read_one(f, RECORD_RAM);
	case READ_MORE_RAM:
		while ((ret = read_one(f, RECORD_STATE)) > 0)
			;
		return ret;
	case SAY_LOADED:
		return protocol_say(f->p, RECORD_LOADED, NULL, &err);
	case READ_COMMIT:
		return read_one(f, RECORD_COMMIT);
	case SAY_RUNNING:
		return say_running(f);
	case STEPS:
		break;
	}
	return 0;
}

static void *fake_destination(void *opaque)
{
	struct fake *f = opaque;

	for (enum step step = 0; step < STEPS; step++) {
		if (step == f->at) {
			misbehave(f);
			break;
		}
		if (take_step(f, step) != 0)
			break;
	}
	channel_close(f->ch);
	return NULL;
}

/* The real end of it, and then ours: stop waiting. */
static void stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

/* Migrate @vm to a fake that does @deed at step @at. */
static void migrate(struct fake *f)
{
	struct error err = { 0 };
	struct vm *vm = f->source;
	char uri[32];
	int fds[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	snprintf(uri, sizeof(uri), "fd:%d", fds[0]);
	assert_int_equal(channel_from_fd(fds[1], "source", false, &f->ch), 0);
	f->p = malloc(sizeof(*f->p));
	protocol_init(f->p, f->ch, SIDE_DESTINATION, PROTOCOL_LIVE);
	assert_non_null(migration_get(vm));
	vm->migration->params.deadline_ms = f->deed == SILENCE && f->at < STEPS ? 400 : 10000;
	assert_int_equal(source_start(vm, uri, &err), 0);
	vm->migration->ended = stop_loop;
	assert_int_equal(pthread_create(&f->thread, NULL, fake_destination, f), 0);
	loop_run(vm->loop);
	pthread_join(f->thread, NULL);
	protocol_free(f->p);
	free(f->p);
	assert_false(migration_is_active(vm->migration));
	assert_false(dirty_log_running(vm));
}

static void assert_at_home(struct vm *vm, enum vm_state state)
{
	assert_string_equal(vm_state_name(vm->state), vm_state_name(state));
	assert_true(box_of(vm)->owned);
	assert_true(vm->migration->error.code < 0);
	assert_false(vm->migration->handed_over);
}

/* Every deed at every step before the guest is committed, one after the other on one machine; and
 * then a migration that succeeds. */
static void runs_on(void **state)
{
	struct vm *vm = new_source(6 * MIB);

	(void)state;
	fill_random(&vm->memory, 1);
	for (enum step at = 0; at <= SAY_LOADED; at++) {
		for (enum deed deed = 0; deed < DEEDS; deed++) {
			struct fake f = { .source = vm, .at = at, .deed = deed };

			print_message("step %d: %s\n", (int)at, deed_names[deed]);
			migrate(&f);
			assert_at_home(vm, VM_RUNNING);
			assert_int_equal(vm->migration->status,
					 deed == CANCEL ? MIGRATION_CANCELLED : MIGRATION_FAILED);
			if (deed == FAIL)
				assert_string_equal(vm->migration->error.device, "toaster");
			if (deed == SILENCE)
				assert_int_equal(vm->migration->error.code, -ETIMEDOUT);
		}
	}
	{
		struct fake f = { .source = vm, .at = STEPS };

		migrate(&f);
		assert_int_equal(vm->state, VM_POSTMIGRATE);
		assert_int_equal(vm->migration->status, MIGRATION_COMPLETED);
		assert_false(box_of(vm)->owned);
		assert_true(f.run);
		assert_string_equal(vm->migration->stats.blackout_method, "clock");
		assert_in_range(vm->migration->stats.blackout_ns, 1, 5000000000);
	}
	vm_destroy(vm);
}

/* LOADED has been said, and the destination vanishes: if COMMIT could still be sent nobody knows,
 * if it could not the guest is ours. Never anything else. */
static void around_commit(void **state)
{
	(void)state;
	for (enum deed deed = 0; deed < DEEDS; deed++) {
		struct vm *vm = new_source(2 * MIB);
		struct fake f = { .source = vm, .at = READ_COMMIT, .deed = deed };

		migrate(&f);
		if (vm->state != VM_HANDED_OVER)
			assert_at_home(vm, VM_RUNNING);
		assert_int_equal(vm->migration->handed_over, vm->state == VM_HANDED_OVER);
		assert_int_equal(box_of(vm)->owned, vm->state == VM_RUNNING);
		vm_destroy(vm);
	}
}

/* COMMIT has arrived: whatever happens then, the source does not run the guest again. */
static void after_commit(void **state)
{
	(void)state;
	for (enum deed deed = 0; deed <= GARBAGE; deed++) {
		struct vm *vm = new_source(2 * MIB);
		struct fake f = { .source = vm, .at = SAY_RUNNING, .deed = deed };

		migrate(&f);
		assert_int_equal(vm->state, VM_HANDED_OVER);
		assert_true(vm->migration->handed_over);
		assert_int_equal(vm->migration->status, MIGRATION_FAILED);
		assert_int_equal(box_of(vm)->resumes, 1);
		assert_false(box_of(vm)->owned);
		vm_destroy(vm);
	}
}

static void too_late(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct migration *m = migration_get(vm);
	struct error err = { 0 };

	(void)state;
	m->started = m->committing = true;
	assert_int_equal(migration_cancel(m, NULL, &err), -EBUSY);
	m->started = false;
	error_clear(&err);
	assert_int_equal(migration_cancel(m, NULL, &err), -ENOENT);
	vm_destroy(vm);
}

/* A guest that a person paused is paused again after a failure, and told to stay so elsewhere. */
static void paused_stays_paused(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct fake f = { .source = vm, .at = SAY_LOADED, .deed = FAIL };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(vm_set_state(vm, VM_PAUSED, &err), 0);
	migrate(&f);
	assert_at_home(vm, VM_PAUSED);
	f.at = STEPS;
	migrate(&f);
	assert_int_equal(vm->state, VM_POSTMIGRATE);
	assert_false(f.run);
	assert_null(vm->migration->stats.blackout_method);
	vm_destroy(vm);
}

static void version_mismatch(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct fake f = { .source = vm, .at = STEPS, .reject_version = true };

	(void)state;
	migrate(&f);
	assert_at_home(vm, VM_RUNNING);
	assert_string_equal(vm->migration->error.field, "version");
	assert_string_equal(vm->migration->error.got, "99 to 99");
	assert_int_equal(vm->migration->stats.pages_data, 0);
	vm_destroy(vm);
}

/* Another host has another clock, and so may one that claims to be the same: half of the round trip
 * is taken for the way there. */
static void blackout_without_a_common_clock(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct vm *vm = new_source(2 * MIB);
		struct fake f = { .source = vm, .at = STEPS };

		f.other_host = i == 0;
		f.other_clock = i == 1;
		migrate(&f);
		assert_string_equal(vm->migration->stats.blackout_method, "round-trip");
		assert_in_range(vm->migration->stats.blackout_ns, 1, 5000000000);
		vm_destroy(vm);
	}
}

/* The destination takes a moment to let go of the disk. */
static void claims_until_it_succeeds(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct fake f = { .source = vm, .at = SAY_LOADED, .deed = FAIL };

	(void)state;
	box_of(vm)->claim_fails = 3;
	migrate(&f);
	assert_at_home(vm, VM_RUNNING);
	assert_int_equal(box_of(vm)->claims, 2);
	vm_destroy(vm);
}

/* The total timeout gives up on what takes too long, */
static void timeout_gives_up(void **state)
{
	struct vm *vm = new_source(16 * MIB);
	struct fake f = { .source = vm, .at = STEPS };

	(void)state;
	fill_random(&vm->memory, 1);
	migration_get(vm)->params.timeout = 1;
	vm->migration->params.max_bandwidth = MIB;
	migrate(&f);
	assert_at_home(vm, VM_RUNNING);
	assert_int_equal(vm->migration->error.code, -ETIMEDOUT);
	assert_string_equal(vm->migration->error.field, "timeout");
	assert_int_equal(vm->migration->status, MIGRATION_FAILED);
	vm_destroy(vm);
}

/* … or goes through with it. */
static void timeout_forces(void **state)
{
	struct vm *vm = new_source(16 * MIB);
	struct fake f = { .source = vm, .at = STEPS };

	(void)state;
	fill_random(&vm->memory, 1);
	migration_get(vm)->params.timeout = 1;
	vm->migration->params.max_bandwidth = MIB;
	vm->migration->params.force = true;
	migrate(&f);
	assert_int_equal(vm->state, VM_POSTMIGRATE);
	assert_in_range(vm->migration->stats.total_ns, 1000000000, 4000000000);
	vm_destroy(vm);
}

static void nobody_listens(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct error err = { 0 };

	(void)state;
	assert_int_equal(source_start(vm, "unix:/nonexistent/socket", &err), 0);
	vm->migration->ended = stop_loop;
	loop_run(vm->loop);
	assert_at_home(vm, VM_RUNNING);
	assert_string_equal(vm->migration->error.phase, "connect");
	vm_destroy(vm);
}

/* The guest ends while it is being sent: so does the migration, and nothing is resumed. */
static void guest_ends(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct fake f = { .source = vm, .at = SAY_ACCEPT, .deed = CANCEL, .guest_ends = true };
	struct error err = { 0 };

	(void)state;
	vm->stay = true;
	migrate(&f);
	assert_int_equal(vm->state, VM_SHUTDOWN);
	assert_int_equal(vm->migration->status, MIGRATION_FAILED);
	assert_string_equal(vm->migration->error.device, "guest");
	assert_int_equal(box_of(vm)->resumes, 1);
	/* There is nothing left to migrate. */
	assert_int_equal(source_start(vm, "fd:99", &err), -EINVAL);
	vm_destroy(vm);
}

/* The process ends in the middle: no thread, no descriptor left, nothing hangs. */
static void destroyed_on_the_way(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct error err = { 0 };
	char uri[32], byte;
	int fds[2];

	(void)state;
	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	snprintf(uri, sizeof(uri), "fd:%d", fds[0]);
	assert_int_equal(source_start(vm, uri, &err), 0);
	assert_int_equal(source_start(vm, "fd:99", &err), -EBUSY);
	vm_destroy(vm);
	while (read(fds[1], &byte, 1) > 0)
		; /* a FAILED, if there was time for one */
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_on),
		cmocka_unit_test(around_commit),
		cmocka_unit_test(after_commit),
		cmocka_unit_test(too_late),
		cmocka_unit_test(paused_stays_paused),
		cmocka_unit_test(version_mismatch),
		cmocka_unit_test(blackout_without_a_common_clock),
		cmocka_unit_test(claims_until_it_succeeds),
		cmocka_unit_test(timeout_gives_up),
		cmocka_unit_test(timeout_forces),
		cmocka_unit_test(nobody_listens),
		cmocka_unit_test(guest_ends),
		cmocka_unit_test(destroyed_on_the_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
