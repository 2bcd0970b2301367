/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The destination, against a source that vanishes or misbehaves at every step, and against a real
 * one. It never runs without COMMIT, and what fails leaves nothing.
 */
#include "migration-fixture.h"

#include <stdio.h>

#include "migration/messages.h"

/* What the fake source is about to do when it misbehaves. */
enum step {
	READ_HELLO,
	SAY_HELLO,
	SAY_MACHINE,
	READ_ACCEPT,
	SAY_RAM,
	SAY_STOPPED,
	SAY_STATE,
	READ_LOADED,
	SAY_COMMIT,
	READ_RUNNING,
	STEPS, /* never: it behaves */
};

enum deed { CLOSE, SILENCE, GARBAGE, FAIL, DEEDS };

static const char *const deed_names[DEEDS] = { "close", "silence", "garbage", "fail" };

struct fake {
	struct vm *model; /* whose tree and state are sent */
	struct channel *ch;
	struct protocol *p;
	enum step at;
	enum deed deed;
	bool paused;	     /* what STOPPED says */
	uint64_t crc;	     /* … and this, unless 0 */
	uint32_t number;     /* of the box in the state, unless 0 */
	struct error answer; /* REJECT or FAILED, if one came */
	pthread_t thread;
};

static void wait_for_the_end(struct fake *f)
{
	struct record rec;

	channel_set_timeout(f->ch, 10000);
	while (record_read(&f->p->reader, &rec, NULL) == 0) {
		if (rec.type == RECORD_FAILED || rec.type == RECORD_REJECT) {
			message_get_error(&rec, &f->answer);
			break;
		}
	}
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
		error_set(&err, -ENOSPC, "migrate", "toaster", "slots", "2", "1");
		protocol_fail(f->p, &err);
		break;
	case CLOSE:
		return;
	case SILENCE:
	case DEEDS:
		break;
	}
	wait_for_the_end(f);
}

static int say_ram(struct fake *f)
{
	struct memory_region *region = &f->model->memory.regions[0];
	struct ram_run runs[2] = { { 0, 3, RAM_DATA }, { 3 * PAGE_SIZE, 5, RAM_ZERO } };
	uint8_t wire[sizeof(runs)];
	struct error err = { 0 };
	size_t len = ram_runs_encode(runs, 2, wire);
	int ret = protocol_send(f->p, RECORD_RAM, wire, len, 3 * PAGE_SIZE, false, &err);

	stream_put_buffer_async(&f->p->stream, region->hva, 3 * PAGE_SIZE);
	return ret ? ret : protocol_flush(f->p, &err);
}

static int say_stopped(struct fake *f)
{
	struct error err = { 0 };
	struct message m;

	message_begin(&m);
	message_u64(&m, "run", !f->paused);
	if (f->crc)
		message_u64(&m, "ram-crc", f->crc);
	return protocol_say(f->p, RECORD_STOPPED, message_end(&m), &err);
}

static int say_state(struct fake *f)
{
	struct error err = { 0 };
	void *fdt;
	int ret;

	if (f->number)
		box_of(f->model)->state.number = f->number;
	ret = vm_save_state(f->model, &fdt, &err);
	ret = ret ? ret : protocol_say(f->p, RECORD_STATE, fdt, &err);
	free(fdt);
	return ret;
}

static int say_hello(struct fake *f)
{
	struct error err = { 0 };
	struct hello hello;
	struct message m;

	hello_local(&hello);
	message_hello(&m, &hello);
	return protocol_say(f->p, RECORD_HELLO, message_end(&m), &err);
}

static int expect(struct fake *f, uint16_t type)
{
	struct record rec;

	return protocol_expect(f->p, type, &rec, &f->answer);
}

static int take_step(struct fake *f, enum step step)
{
	struct error err = { 0 };

	switch (step) {
	case READ_HELLO:
		return expect(f, RECORD_HELLO);
	case SAY_HELLO:
		return say_hello(f);
	case SAY_MACHINE:
		return protocol_say(f->p, RECORD_MACHINE, f->model->tree, &err);
	case READ_ACCEPT:
		return expect(f, RECORD_ACCEPT);
	case SAY_RAM:
		return say_ram(f);
	case SAY_STOPPED:
		return say_stopped(f);
	case SAY_STATE:
		return say_state(f);
	case READ_LOADED:
		return expect(f, RECORD_LOADED);
	case SAY_COMMIT:
		return protocol_say(f->p, RECORD_COMMIT, NULL, &err);
	case READ_RUNNING:
		return expect(f, RECORD_RUNNING);
	case STEPS:
		break;
	}
	return 0;
}

static void *fake_source(void *opaque)
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

static void stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

/* Let @vm receive from a fake that misbehaves as it says. */
static void receive(struct vm *vm, struct fake *f)
{
	struct error err = { 0 };
	char uri[32];
	int fds[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	snprintf(uri, sizeof(uri), "fd:%d", fds[0]);
	assert_int_equal(channel_from_fd(fds[1], "destination", false, &f->ch), 0);
	f->p = malloc(sizeof(*f->p));
	protocol_init(f->p, f->ch, SIDE_SOURCE, PROTOCOL_LIVE);
	vm->migration->params.deadline_ms = f->deed == SILENCE && f->at < STEPS ? 400 : 10000;
	assert_int_equal(destination_start(vm, uri, NULL, &err), 0);
	vm->migration->ended = stop_loop;
	assert_int_equal(pthread_create(&f->thread, NULL, fake_source, f), 0);
	loop_run(vm->loop);
	pthread_join(f->thread, NULL);
	protocol_free(f->p);
	free(f->p);
	assert_false(migration_is_active(vm->migration));
}

static void assert_nothing_runs(struct vm *vm)
{
	assert_string_equal(vm_state_name(vm->state), "inmigrate");
	assert_int_equal(vm->migration->status, MIGRATION_FAILED);
	assert_true(vm->migration->error.code < 0);
	if (box_of(vm)) {
		assert_false(box_of(vm)->owned);
		assert_int_equal(box_of(vm)->resumes, 0);
	}
}

static void never_without_commit(void **state)
{
	struct vm *model = new_source(2 * MIB);

	(void)state;
	for (enum step at = 0; at <= SAY_COMMIT; at++) {
		for (enum deed deed = 0; deed < DEEDS; deed++) {
			struct fake f = { .model = model, .at = at, .deed = deed };
			struct vm *vm = new_destination();

			print_message("step %d: %s\n", (int)at, deed_names[deed]);
			receive(vm, &f);
			assert_nothing_runs(vm);
			if (deed == FAIL)
				assert_string_equal(vm->migration->error.device, "toaster");
			if (deed == SILENCE)
				assert_int_equal(vm->migration->error.code, -ETIMEDOUT);
			if (deed == SILENCE || deed == GARBAGE)
				assert_memory_equal(&f.answer, &vm->migration->error,
						    sizeof(f.answer));
			vm_destroy(vm);
		}
	}
	vm_destroy(model);
}

/* Whether anybody hears of it or not: after COMMIT it runs. */
static void always_with_commit(void **state)
{
	struct vm *model = new_source(2 * MIB);

	(void)state;
	for (enum deed deed = 0; deed <= DEEDS; deed++) {
		struct fake f = { .model = model, .at = READ_RUNNING, .deed = deed };
		struct vm *vm = new_destination();

		f.at = deed == DEEDS ? STEPS : READ_RUNNING;
		receive(vm, &f);
		assert_int_equal(vm->state, VM_RUNNING);
		assert_true(box_of(vm)->owned);
		assert_int_equal(box_of(vm)->resumes, 1);
		assert_int_equal(box_of(vm)->state.number, 4711);
		assert_string_equal((char *)box_of(vm)->state.bytes, "carried along");
		vm_destroy(vm);
	}
	vm_destroy(model);
}

static void paused_stays_paused(void **state)
{
	struct vm *model = new_source(2 * MIB), *vm = new_destination();
	struct fake f = { .model = model, .at = STEPS, .paused = true };

	(void)state;
	receive(vm, &f);
	assert_int_equal(vm->state, VM_PAUSED);
	assert_true(box_of(vm)->owned);
	assert_int_equal(box_of(vm)->resumes, 0);
	vm_destroy(vm);
	vm_destroy(model);
}

static void wrong_checksum(void **state)
{
	struct vm *model = new_source(2 * MIB), *vm = new_destination();
	struct fake f = { .model = model, .at = STEPS, .crc = 1 };

	(void)state;
	receive(vm, &f);
	assert_nothing_runs(vm);
	assert_string_equal(f.answer.field, "checksum");
	vm_destroy(vm);
	vm_destroy(model);
}

/* A state that the device's table forbids: refused by name on both sides. */
static void wrong_state(void **state)
{
	struct vm *model = new_source(2 * MIB), *vm = new_destination();
	struct fake f = { .model = model, .at = STEPS, .number = 1000001 };

	(void)state;
	receive(vm, &f);
	assert_nothing_runs(vm);
	assert_string_equal(f.answer.device, "box");
	assert_string_equal(f.answer.field, "number");
	vm_destroy(vm);
	vm_destroy(model);
}

static int no_room(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	(void)vm, (void)fdt;
	assert_true(incoming);
	return error_set(err, -ENOMEM, "realize", "memory@0", "reg", "less", "too much");
}

/* What this host lacks is refused before any RAM is sent. */
static void rejected(void **state)
{
	struct vm *model = new_source(2 * MIB), *vm = new_destination();
	struct fake f = { .model = model, .at = STEPS };

	(void)state;
	vm->migration->realize = no_room;
	receive(vm, &f);
	assert_nothing_runs(vm);
	assert_string_equal(f.answer.device, "memory@0");
	assert_int_equal(f.answer.code, -ENOMEM);
	assert_int_equal(vm->migration->stats.records, 0);
	vm_destroy(vm);
	vm_destroy(model);
}

/* Somebody else owns what the guest needs. */
static int owned_elsewhere(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	int ret = fake_realize(vm, fdt, incoming, err);

	box_of(vm)->claim_fails = 1;
	return ret;
}

static void claim_fails(void **state)
{
	struct vm *model = new_source(2 * MIB), *vm = new_destination();
	struct fake f = { .model = model, .at = STEPS };

	(void)state;
	vm->migration->realize = owned_elsewhere;
	receive(vm, &f);
	assert_nothing_runs(vm);
	assert_string_equal(f.answer.phase, "claim");
	vm_destroy(vm);
	vm_destroy(model);
}

/* What is local to this host is put into the tree. */
static int rename_machine(void *opaque, const void *fdt, bool foreign, void **out,
			  struct error *err)
{
	(void)err;
	assert_false(foreign); /* a socket pair */
	*out = malloc(fdt_totalsize(fdt) + 256);
	assert_int_equal(fdt_open_into(fdt, *out, (int)fdt_totalsize(fdt) + 256), 0);
	return fdt_setprop(*out, 0, "host-name", opaque, (int)strlen(opaque) + 1);
}

static void overrides(void **state)
{
	char name[] = "elsewhere";
	struct vm *model = new_source(2 * MIB), *vm = new_destination();
	struct fake f = { .model = model, .at = STEPS };

	(void)state;
	vm->migration->override = rename_machine;
	vm->migration->override_opaque = name;
	receive(vm, &f);
	assert_int_equal(vm->state, VM_RUNNING);
	assert_string_equal(fdt_getprop(vm->tree, 0, "host-name", NULL), "elsewhere");
	vm_destroy(vm);
	vm_destroy(model);
}

/* ---- Both sides real ---- */

static void *run_loop(void *opaque)
{
	struct vm *vm = opaque;

	loop_run(vm->loop);
	return NULL;
}

static void crossing(const char *uri, bool verify)
{
	struct vm *from = new_source(20 * MIB + 3 * PAGE_SIZE), *to = new_destination();
	struct error err = { 0 };
	const char *bound;
	pthread_t thread;

	fill_random(&from->memory, 7);
	memset(from->memory.regions[0].hva, 0, 5 * MIB);
	assert_int_equal(destination_start(to, uri, &bound, &err), 0);
	to->migration->ended = stop_loop;
	migration_get(from)->params.verify = verify;
	assert_int_equal(source_start(from, bound, &err), 0);
	from->migration->ended = stop_loop;
	assert_int_equal(pthread_create(&thread, NULL, run_loop, to), 0);
	loop_run(from->loop);
	pthread_join(thread, NULL);
	assert_int_equal(from->state, VM_POSTMIGRATE);
	assert_int_equal(to->state, VM_RUNNING);
	assert_false(box_of(from)->owned);
	assert_true(box_of(to)->owned);
	assert_int_equal(box_of(to)->state.number, 4711);
	assert_same_memory(&from->memory, &to->memory);
	assert_string_equal(from->migration->stats.blackout_method, "clock");
	assert_int_equal(from->migration->stats.blackout_ns, to->resumed_at - from->paused_at);
	assert_in_range(from->migration->stats.bytes_copied, 1,
			from->migration->stats.bytes_xfer / 1000);
	assert_in_range(to->migration->stats.bytes_copied, 1,
			to->migration->stats.bytes_xfer / 1000);
	vm_destroy(from);
	vm_destroy(to);
}

static void crosses(void **state)
{
	char dir[] = "/tmp/ferry-test-XXXXXX", uri[64];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(uri, sizeof(uri), "unix:%s/socket", dir);
	crossing(uri, false);
	assert_return_code(rmdir(dir), errno); /* the socket file is gone */
	crossing("tcp:127.0.0.1:0", true);
}

/* It waits for nobody any more. */
static void cancelled_while_listening(void **state)
{
	struct vm *vm = new_destination();
	struct error err = { 0 };

	(void)state;
	assert_int_equal(destination_start(vm, "tcp:127.0.0.1:0", NULL, &err), 0);
	vm->migration->ended = stop_loop;
	assert_int_equal(destination_start(vm, "tcp:127.0.0.1:0", NULL, &err), -EBUSY);
	assert_int_equal(migration_cancel(vm->migration, NULL, NULL), 0);
	loop_run(vm->loop);
	assert_int_equal(vm->migration->status, MIGRATION_CANCELLED);
	vm_destroy(vm);
}

static void destroyed_while_listening(void **state)
{
	struct vm *vm = new_destination();
	struct error err = { 0 };

	(void)state;
	assert_int_equal(destination_start(vm, "tcp:127.0.0.1:0", NULL, &err), 0);
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(never_without_commit),
		cmocka_unit_test(always_with_commit),
		cmocka_unit_test(paused_stays_paused),
		cmocka_unit_test(wrong_checksum),
		cmocka_unit_test(wrong_state),
		cmocka_unit_test(rejected),
		cmocka_unit_test(claim_fails),
		cmocka_unit_test(overrides),
		cmocka_unit_test(crosses),
		cmocka_unit_test(cancelled_while_listening),
		cmocka_unit_test(destroyed_while_listening),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
