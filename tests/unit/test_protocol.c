/* SPDX-License-Identifier: BSD-2-Clause */
/* The conversation: what may be said when, and how what must not is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "migration/messages.h"
#include "migration/protocol.h"

#define LAST_TYPE RECORD_BACKLOG

/* Two sides over a socket pair. */
struct pair {
	struct channel *ch[2];
	struct protocol *p[2]; /* by enum protocol_side */
};

static int setup(void **state)
{
	struct pair *t = calloc(1, sizeof(*t));
	int fds[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	for (int side = 0; side < 2; side++) {
		assert_int_equal(channel_from_fd(fds[side], "peer", false, &t->ch[side]), 0);
		t->p[side] = malloc(sizeof(*t->p[side]));
		protocol_init(t->p[side], t->ch[side], (enum protocol_side)side, PROTOCOL_LIVE);
	}
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct pair *t = *state;

	for (int side = 0; side < 2; side++) {
		protocol_free(t->p[side]);
		free(t->p[side]);
		channel_close(t->ch[side]);
	}
	free(t);
	return 0;
}

/* The table as design has it, written down a second time: state, who, what, next. */
static const struct {
	enum protocol_state state;
	enum protocol_kind kind;
	enum protocol_side side;
	uint16_t type;
	enum protocol_state next;
} legal[] = {
	{ PROTOCOL_START, PROTOCOL_LIVE, SIDE_DESTINATION, RECORD_HELLO, PROTOCOL_GREETED },
	{ PROTOCOL_GREETED, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_HELLO, PROTOCOL_OFFER },
	{ PROTOCOL_OFFER, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_MACHINE, PROTOCOL_ANSWER },
	{ PROTOCOL_ANSWER, PROTOCOL_LIVE, SIDE_DESTINATION, RECORD_ACCEPT, PROTOCOL_RAM },
	{ PROTOCOL_ANSWER, PROTOCOL_LIVE, SIDE_DESTINATION, RECORD_REJECT, PROTOCOL_REFUSED },
	{ PROTOCOL_RAM, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_RAM, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_BLOCK, PROTOCOL_RAM },
	{ PROTOCOL_STOPPED, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_BLOCK, PROTOCOL_STOPPED },
	{ PROTOCOL_RAM, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_ROUND, PROTOCOL_RAM },
	{ PROTOCOL_STOPPED, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_ROUND, PROTOCOL_STOPPED },
	{ PROTOCOL_RAM, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_PROGRESS, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_STOPPED, PROTOCOL_STOPPED },
	{ PROTOCOL_STOPPED, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_RAM, PROTOCOL_STOPPED },
	{ PROTOCOL_STOPPED, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_STATE, PROTOCOL_LOADING },
	{ PROTOCOL_LOADING, PROTOCOL_LIVE, SIDE_DESTINATION, RECORD_LOADED, PROTOCOL_LOADED },
	{ PROTOCOL_LOADED, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_BACKLOG, PROTOCOL_LOADED },
	{ PROTOCOL_LOADED, PROTOCOL_LIVE, SIDE_SOURCE, RECORD_COMMIT, PROTOCOL_COMMITTED },
	{ PROTOCOL_COMMITTED, PROTOCOL_LIVE, SIDE_DESTINATION, RECORD_RUNNING, PROTOCOL_DONE },
	{ PROTOCOL_START, PROTOCOL_FILE, SIDE_SOURCE, RECORD_HELLO, PROTOCOL_OFFER },
	{ PROTOCOL_OFFER, PROTOCOL_FILE, SIDE_SOURCE, RECORD_MACHINE, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_FILE, SIDE_SOURCE, RECORD_RAM, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_FILE, SIDE_SOURCE, RECORD_PROGRESS, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_FILE, SIDE_SOURCE, RECORD_STOPPED, PROTOCOL_STOPPED },
	{ PROTOCOL_STOPPED, PROTOCOL_FILE, SIDE_SOURCE, RECORD_RAM, PROTOCOL_STOPPED },
	{ PROTOCOL_STOPPED, PROTOCOL_FILE, SIDE_SOURCE, RECORD_STATE, PROTOCOL_LOADING },
	{ PROTOCOL_LOADING, PROTOCOL_FILE, SIDE_SOURCE, RECORD_END, PROTOCOL_DONE },
	{ PROTOCOL_START, PROTOCOL_DATA, SIDE_SOURCE, RECORD_CHANNEL, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_DATA, SIDE_SOURCE, RECORD_RAM, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_DATA, SIDE_SOURCE, RECORD_ROUND, PROTOCOL_RAM },
	{ PROTOCOL_RAM, PROTOCOL_DATA, SIDE_SOURCE, RECORD_END, PROTOCOL_DONE },
};

static int expected_next(enum protocol_state state, enum protocol_kind kind,
			 enum protocol_side side, uint16_t type)
{
	if (type == RECORD_FAILED && kind == PROTOCOL_LIVE && state < PROTOCOL_COMMITTED)
		return PROTOCOL_REFUSED;
	for (size_t i = 0; i < sizeof(legal) / sizeof(legal[0]); i++) {
		if (legal[i].state == state && legal[i].kind == kind && legal[i].side == side &&
		    legal[i].type == type)
			return (int)legal[i].next;
	}
	return -EPROTO;
}

static void table(void **unused)
{
	(void)unused;
	for (unsigned int state = 0; state < PROTOCOL_STATES; state++) {
		assert_in_range(protocol_deadline(state), 1, 60000);
		for (uint16_t type = 0; type <= LAST_TYPE + 1; type++) {
			for (unsigned int i = 0; i < 6; i++)
				assert_int_equal(protocol_next(state, i / 2, i & 1, type),
						 expected_next(state, i / 2, i & 1, type));
		}
	}
}

/* What is committed cannot be taken back by any record. */
static void commit_is_final(void **unused)
{
	(void)unused;
	for (uint16_t type = 0; type <= LAST_TYPE; type++) {
		for (unsigned int side = 0; side < 2; side++) {
			int next = protocol_next(PROTOCOL_COMMITTED, PROTOCOL_LIVE, side, type);

			assert_true(next < 0 || next == PROTOCOL_DONE);
			assert_true(protocol_next(PROTOCOL_DONE, PROTOCOL_LIVE, side, type) < 0);
			assert_true(protocol_next(PROTOCOL_REFUSED, PROTOCOL_LIVE, side, type) < 0);
		}
	}
}

/* Send @type from @side without asking the table. */
static void send_anyway(struct pair *t, enum protocol_side side, uint16_t type)
{
	struct error err = { 0 };
	struct message m;

	message_begin(&m);
	message_end(&m);
	assert_int_equal(record_send(&t->p[side]->writer, type, m.buf, 64, 0, &err), 0);
	assert_int_equal(stream_flush(&t->p[side]->stream), 0);
}

/* Every record that must not come, in every state, is refused with the names of both. */
static void illegal_by_name(void **state)
{
	for (unsigned int st = 0; st < PROTOCOL_STATES; st++) {
		for (uint16_t type = 1; type <= LAST_TYPE; type++) {
			for (unsigned int side = 0; side < 2; side++) {
				struct error err = { 0 };
				struct record rec;
				struct pair *t;

				if (expected_next(st, false, !side, type) >= 0)
					continue;
				setup(state);
				t = *state;
				send_anyway(t, !side, type);
				t->p[side]->state = st;
				assert_int_equal(protocol_receive(t->p[side], &rec, &err), -EPROTO);
				assert_string_equal(err.phase, "protocol");
				assert_string_equal(err.field, protocol_state_name(st));
				assert_string_equal(err.got, record_name(type));
				assert_int_equal(t->p[side]->state, st);
				teardown(state);
			}
		}
	}
	setup(state);
}

/* A side refuses to say what it must not, too. */
static void nothing_illegal_sent(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 };

	assert_int_equal(protocol_say(t->p[SIDE_SOURCE], RECORD_COMMIT, NULL, &err), -EPROTO);
	assert_string_equal(err.got, "COMMIT");
	assert_string_equal(err.expected, "FAILED");
	assert_int_equal(stream_put_position(&t->p[SIDE_SOURCE]->stream), 0);
}

static void hello_crosses(void **state)
{
	struct pair *t = *state;
	struct hello ours, theirs;
	struct error err = { 0 };
	struct message m;
	struct record rec;
	unsigned int version = 0;

	hello_local(&ours);
	message_hello(&m, &ours);
	assert_int_equal(protocol_say(t->p[SIDE_DESTINATION], RECORD_HELLO, message_end(&m), &err),
			 0);
	assert_int_equal(protocol_expect(t->p[SIDE_SOURCE], RECORD_HELLO, &rec, &err), 0);
	assert_int_equal(message_get_hello(&rec, &theirs, &err), 0);
	assert_memory_equal(&ours, &theirs, sizeof(ours));
	assert_string_not_equal(theirs.boot_id, "");
	assert_int_equal(hello_agree(&ours, &theirs, "destination", &version, &err), 0);
	assert_int_equal(version, 1);
	assert_int_equal(t->p[SIDE_SOURCE]->state, PROTOCOL_GREETED);
	assert_int_equal(t->p[SIDE_DESTINATION]->state, PROTOCOL_GREETED);
}

static void versions_must_meet(void **unused)
{
	struct hello ours, theirs;
	struct error err = { 0 };
	unsigned int version = 0;

	(void)unused;
	hello_local(&ours);
	theirs = ours;
	ours.version_min = 2;
	ours.version_max = 5;
	theirs.version_min = 3;
	theirs.version_max = 9;
	assert_int_equal(hello_agree(&ours, &theirs, "x", &version, &err), 0);
	assert_int_equal(version, 5);
	theirs.version_min = 6;
	assert_int_equal(hello_agree(&ours, &theirs, "x", &version, &err), -EPROTONOSUPPORT);
	assert_string_equal(err.field, "version");
	assert_string_equal(err.expected, "2 to 5");
	assert_string_equal(err.got, "6 to 9");
	error_clear(&err);
	theirs = ours;
	strcpy(theirs.machine, "toaster");
	assert_int_equal(hello_agree(&ours, &theirs, "x", &version, &err), -EPROTONOSUPPORT);
	assert_string_equal(err.field, "machine");
}

/* All five facts and the code arrive; what a terminal would obey does not. */
static void errors_cross(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 }, got = { 0 };
	struct record rec;

	error_set(&err, -ENOSPC, "realize", "virtio-blk@d0000000", "host-file", "a disk",
		  "\033[31mnone");
	protocol_fail(t->p[SIDE_DESTINATION], &err);
	assert_int_equal(t->p[SIDE_DESTINATION]->state, PROTOCOL_REFUSED);
	assert_int_equal(protocol_receive(t->p[SIDE_SOURCE], &rec, &got), -ENOSPC);
	strcpy(err.got, "?[31mnone");
	assert_memory_equal(&err, &got, sizeof(err));
	assert_int_equal(t->p[SIDE_SOURCE]->state, PROTOCOL_REFUSED);
	/* Once is enough. */
	protocol_fail(t->p[SIDE_DESTINATION], &err);
	assert_int_equal(t->p[SIDE_DESTINATION]->writer.sequence, 1);
}

/* While an answer is due it is a REJECT. */
static void reject_in_answer(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 }, got = { 0 };
	struct record rec;

	t->p[0]->state = t->p[1]->state = PROTOCOL_ANSWER;
	error_set(&err, -EINVAL, "realize", "memory@0", "reg", "less", "more");
	protocol_fail(t->p[SIDE_DESTINATION], &err);
	assert_int_equal(record_read(&t->p[SIDE_SOURCE]->reader, &rec, &got), 0);
	assert_int_equal(rec.type, RECORD_REJECT);
}

/* An error whose metadata is rubbish is still an error. */
static void rubbish_is_no_tree(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 };
	struct record rec;

	assert_int_equal(record_send(&t->p[1]->writer, RECORD_FAILED, "rubbish", 7, 0, &err), 0);
	assert_int_equal(stream_flush(&t->p[1]->stream), 0);
	assert_int_equal(protocol_receive(t->p[0], &rec, &err), -EPROTO);
	assert_string_equal(err.field, "metadata");
}

/* The reason of the other side is found behind a broken connection. */
static void explained(void **state)
{
	struct pair *t = *state;
	struct error why = { 0 }, err = { 0 };

	t->p[0]->state = t->p[1]->state = PROTOCOL_RAM;
	error_set(&why, -EIO, "load", "RAM", "", "room", "none");
	protocol_fail(t->p[SIDE_DESTINATION], &why);
	channel_close(t->ch[SIDE_DESTINATION]);
	t->ch[SIDE_DESTINATION] = NULL;
	assert_int_equal(protocol_say(t->p[SIDE_SOURCE], RECORD_STOPPED, NULL, &err), -EPIPE);
	protocol_explain(t->p[SIDE_SOURCE], &err);
	assert_memory_equal(&err, &why, sizeof(err));
}

/* What the other side has met may look like a broken connection of ours: it is heard once. */
static void explained_once(void **state)
{
	struct pair *t = *state;
	struct error why = { 0 }, err = { 0 };
	struct record rec;
	struct message m;

	t->p[0]->state = t->p[1]->state = PROTOCOL_RAM;
	error_set(&why, -EPIPE, "stream", "channel 1", "", "the other side to stay", "it left");
	protocol_fail(t->p[SIDE_DESTINATION], &why);
	assert_int_equal(protocol_receive(t->p[SIDE_SOURCE], &rec, &err), -EPIPE);
	error_set(&why, -EIO, "load", "RAM", "", "", "more to read");
	message_error(&m, &why);
	t->p[SIDE_DESTINATION]->state = PROTOCOL_RAM;
	protocol_say(t->p[SIDE_DESTINATION], RECORD_FAILED, message_end(&m), &why);
	protocol_explain(t->p[SIDE_SOURCE], &err);
	assert_string_equal(err.device, "channel 1");
	/* Nobody has looked for more. */
	assert_int_equal(protocol_receive(t->p[SIDE_SOURCE], &rec, &why), -EPROTO);
}

static void silence_has_an_end(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 };
	struct record rec;

	t->p[0]->deadline_ms = 30;
	channel_set_timeout(t->ch[0], 30);
	assert_int_equal(protocol_receive(t->p[0], &rec, &err), -ETIMEDOUT);
	assert_string_equal(err.got, "nothing within 30 ms");
	assert_string_equal(err.expected, "HELLO or FAILED");
}

/* The step and what was waited for are told, not what the parser missed. */
static void hang_up_is_told_as_such(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 };
	struct record rec;

	channel_shutdown(t->ch[1]);
	assert_int_equal(protocol_receive(t->p[0], &rec, &err), -ENODATA);
	assert_string_equal(err.field, "start");
	assert_string_equal(err.expected, "HELLO or FAILED");
	assert_string_equal(err.got, "the connection closed by the other side");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table),
		cmocka_unit_test(commit_is_final),
		cmocka_unit_test_setup_teardown(illegal_by_name, NULL, teardown),
		cmocka_unit_test_setup_teardown(nothing_illegal_sent, setup, teardown),
		cmocka_unit_test_setup_teardown(hello_crosses, setup, teardown),
		cmocka_unit_test(versions_must_meet),
		cmocka_unit_test_setup_teardown(errors_cross, setup, teardown),
		cmocka_unit_test_setup_teardown(reject_in_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(rubbish_is_no_tree, setup, teardown),
		cmocka_unit_test_setup_teardown(explained, setup, teardown),
		cmocka_unit_test_setup_teardown(explained_once, setup, teardown),
		cmocka_unit_test_setup_teardown(silence_has_an_end, setup, teardown),
		cmocka_unit_test_setup_teardown(hang_up_is_told_as_such, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
