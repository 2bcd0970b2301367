/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy with another side that is not one of ours: a source made by hand, and a destination.
 * What it says wrong before COMMIT ends the migration, with a name; what it says wrong later is the
 * reason of a pause.
 */
#include "postcopy-fake.h"

static void say_zero_page(struct fake *f, unsigned int i, uint64_t gpa)
{
	const struct ram_run run = { gpa, 1, RAM_ZERO };
	uint8_t wire[RAM_RUN_WIRE];

	ram_runs_encode(&run, 1, wire);
	say(f, i, RECORD_RAM, wire, sizeof(wire));
}

/* ---- A source made by hand ---- */

static void say_channel(struct fake *f, unsigned int i, const char *token, uint64_t number,
			uint64_t attempt)
{
	struct message m;
	const void *fdt;

	assert_int_equal(channel_connect(f->r.uri, 5000, -1, &f->ch[i], &f->err), 0);
	adopt(f, i, SIDE_SOURCE);
	message_begin(&m);
	message_string(&m, "token", token);
	message_u64(&m, "number", number);
	message_u64(&m, "attempt", attempt);
	fdt = message_end(&m);
	say(f, i, RECORD_CHANNEL, fdt, fdt_totalsize(fdt));
}

/* A destination has accepted a machine. */
static void begin_source(struct fake *f, bool postcopy)
{
	void *tree = fake_tree(RAM_SIZE);
	struct hello hello, theirs;
	struct record rec;
	struct message m;
	char uri[64];

	memset(f, 0, sizeof(*f));
	snprintf(uri, sizeof(uri), "unix:/tmp/ferry-postcopy-hostile-%d", (int)getpid());
	rig_prepare_at(&f->r, uri, RAM_SIZE, 1, 2000);
	pthread_create(&f->loop, NULL, rig_run_loop, f->r.to);
	assert_int_equal(channel_connect(f->r.uri, 5000, -1, &f->ch[0], &f->err), 0);
	adopt(f, 0, SIDE_SOURCE);
	assert_int_equal(protocol_expect(f->p[0], RECORD_HELLO, &rec, &f->err), 0);
	assert_int_equal(message_get_hello(&rec, &theirs, &f->err), 0);
	assert_int_equal(theirs.postcopy, 1);
	strcpy(f->token, theirs.channels_token);
	hello_local(&hello);
	hello.postcopy = postcopy;
	message_hello(&m, &hello);
	assert_int_equal(protocol_say(f->p[0], RECORD_HELLO, message_end(&m), &f->err), 0);
	assert_int_equal(protocol_say(f->p[0], RECORD_MACHINE, tree, &f->err), 0);
	assert_int_equal(protocol_expect(f->p[0], RECORD_ACCEPT, &rec, &f->err), 0);
	free(tree);
}

static void connect_lines(struct fake *f)
{
	say_channel(f, 1, f->token, LINE_BACKGROUND, 0);
	say_channel(f, 2, f->token, LINE_FAULTS, 0);
}

/* The destination gives up and says why on the main connection. */
static void end_source(struct fake *f, int code, const char *field)
{
	struct error why = { 0 };
	struct record rec;
	int ret;

	do {
		ret = protocol_receive(f->p[0], &rec, &why);
	} while (ret == 0);
	if (ret != code || strcmp(why.field, field) != 0)
		error_print(&why);
	assert_int_equal(ret, code);
	assert_string_equal(why.field, field);
	drop(f);
	pthread_join(f->loop, NULL);
	assert_int_equal(f->r.to->state, VM_INMIGRATE);
	assert_false(f->r.to->memory.keep);
	rig_finish(&f->r);
}

static void who_did_not_ask_for_it(void **state)
{
	struct fake f;

	(void)state;
	begin_source(&f, false);
	say_missing(&f, 0, 0, 1);
	end_source(&f, -EPROTO, "type");
	begin_source(&f, false);
	say(&f, 0, RECORD_LISTEN, NULL, 0);
	end_source(&f, -EPROTO, "type");
}

static void strangers_and_bad_numbers(void **state)
{
	struct fake f;

	(void)state;
	/* A stranger is sent away, and does no harm. */
	begin_source(&f, true);
	say_channel(&f, 1, "0123456789abcdef0123456789abcdef", 0, 0);
	protocol_free(f.p[1]);
	free(f.p[1]);
	channel_close(f.ch[1]);
	f.p[1] = NULL;
	connect_lines(&f);
	say(&f, 0, RECORD_LISTEN, NULL, 0);
	say(&f, 0, RECORD_LISTEN, NULL, 0);
	end_source(&f, -EPROTO, "type");

	begin_source(&f, true);
	say_channel(&f, 1, f.token, 2, 0);
	end_source(&f, -EPROTO, "number");
	begin_source(&f, true);
	say_channel(&f, 1, f.token, 1, 0);
	say_channel(&f, 2, f.token, 1, 0);
	end_source(&f, -EPROTO, "number");
	begin_source(&f, true);
	say_channel(&f, 1, f.token, 0, 0);
	end_source(&f, -ETIMEDOUT, "postcopy");
}

static void bad_maps(void **state)
{
	static const struct {
		uint64_t gpa;
		const char *field;
	} maps[] = {
		{ RAM_SIZE, "gpa" },
		{ RAM_SIZE / 2 + 4096, "gpa" },
		{ 17, "gpa" },
		{ UINT64_MAX - 4095, "gpa" },
	};
	const uint8_t odd[17] = { 0 };
	uint64_t long_one[3] = { htobe64(RAM_SIZE - 64 * PAGE_SIZE) };
	struct fake f;

	(void)state;
	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
		begin_source(&f, true);
		connect_lines(&f);
		say_missing(&f, 0, maps[i].gpa, 1);
		end_source(&f, -EPROTO, maps[i].field);
	}
	begin_source(&f, true);
	connect_lines(&f);
	say(&f, 0, RECORD_MISSING, long_one, sizeof(long_one));
	end_source(&f, -EPROTO, "gpa");
	begin_source(&f, true);
	connect_lines(&f);
	say(&f, 0, RECORD_MISSING, odd, 8);
	end_source(&f, -EPROTO, "metadata length");
	begin_source(&f, true);
	connect_lines(&f);
	say(&f, 0, RECORD_MISSING, odd, 17);
	end_source(&f, -EPROTO, "metadata length");
}

static void pages_where_none_may_come(void **state)
{
	struct fake f;

	(void)state;
	begin_source(&f, true);
	connect_lines(&f);
	say_missing(&f, 0, 0, 3);
	say(&f, 0, RECORD_LISTEN, NULL, 0);
	say_zero_page(&f, 0, 0);
	end_source(&f, -EPROTO, "type");
}

/* The guest is there, and lacks pages 0 and 1. */
static void arrive(struct fake *f)
{
	struct record rec;
	struct message m;
	void *tree;

	begin_source(f, true);
	connect_lines(f);
	say_missing(f, 0, 0, 3);
	say(f, 0, RECORD_LISTEN, NULL, 0);
	assert_int_equal(protocol_expect(f->p[0], RECORD_READY, &rec, &f->err), 0);
	message_begin(&m);
	message_u64(&m, "run", 1);
	assert_int_equal(protocol_say(f->p[0], RECORD_STOPPED, message_end(&m), &f->err), 0);
	assert_int_equal(vm_save_state(f->r.from, &tree, &f->err), 0);
	assert_int_equal(protocol_say(f->p[0], RECORD_STATE, tree, &f->err), 0);
	free(tree);
	assert_int_equal(protocol_expect(f->p[0], RECORD_LOADED, &rec, &f->err), 0);
	say(f, 0, RECORD_COMMIT, NULL, 0);
	assert_int_equal(protocol_expect(f->p[0], RECORD_RUNNING, &rec, &f->err), 0);
	wait_for(f->r.to, MIGRATION_POSTCOPY_ACTIVE);
}

/* Whatever was wrong, a source that comes back and sends what is missing completes it. */
static void mend(struct fake *f, uint64_t bits)
{
	struct record rec;

	protocol_free(f->p[1]);
	protocol_free(f->p[2]);
	free(f->p[1]);
	free(f->p[2]);
	channel_close(f->ch[1]);
	channel_close(f->ch[2]);
	say_channel(f, 1, f->token, LINE_BACKGROUND, 1);
	say_channel(f, 2, f->token, LINE_FAULTS, 1);
	assert_int_equal(protocol_expect(f->p[1], RECORD_MISSING, &rec, &f->err), 0);
	assert_int_equal(be64toh(((const uint64_t *)(const void *)rec.meta)[1]), bits);
	assert_int_equal(protocol_expect(f->p[1], RECORD_READY, &rec, &f->err), 0);
	for (uint64_t page = 0; page < 2; page++) {
		if (bits >> page & 1)
			say_zero_page(f, 1, page * PAGE_SIZE);
	}
	assert_int_equal(protocol_expect(f->p[1], RECORD_END, &rec, &f->err), 0);
	wait_for(f->r.to, MIGRATION_COMPLETED);
	drop(f);
	pthread_join(f->loop, NULL);
	assert_int_equal(f->r.to->state, VM_RUNNING);
	rig_finish(&f->r);
}

static void wrong_pages_after_commit(void **state)
{
	struct fake f;

	(void)state;
	arrive(&f);
	say_zero_page(&f, 1, 2 * PAGE_SIZE); /* never missing */
	assert_paused(f.r.to, -EPROTO, "page");
	mend(&f, 3);

	arrive(&f);
	say_zero_page(&f, 1, 0);
	say_zero_page(&f, 1, 0); /* twice */
	assert_paused(f.r.to, -EPROTO, "page");
	mend(&f, 2);

	arrive(&f);
	say_zero_page(&f, 2, RAM_SIZE);
	assert_paused(f.r.to, -EPROTO, "run 0 gpa");
	mend(&f, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_did_not_ask_for_it),
		cmocka_unit_test(strangers_and_bad_numbers),
		cmocka_unit_test(bad_maps),
		cmocka_unit_test(pages_where_none_may_come),
		cmocka_unit_test(wrong_pages_after_commit),
	};
	struct error err = { 0 };

	if (userfault_probe(&err) < 0) {
		printf("1..0 # SKIP no userfaultfd here: %s\n", err.got);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
