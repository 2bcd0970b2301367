/* SPDX-License-Identifier: BSD-2-Clause */
/* BACKLOG records from a device of one machine to the same device of another. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "migration/backlog.h"
#include "vmm/vm.h"

struct mailbox {
	struct device dev;
	char data[16];
	size_t len;
	int refuse;
};

static const void *backlog(struct device *dev, size_t *len)
{
	struct mailbox *box = (struct mailbox *)dev;

	*len = box->len;
	return box->len ? box->data : NULL;
}

static int take_backlog(struct device *dev, const void *data, size_t len, struct error *err)
{
	struct mailbox *box = (struct mailbox *)dev;

	if (box->refuse || len > sizeof(box->data))
		return error_set(err, -EINVAL, "load", dev->name, "backlog", "letters", "none");
	memcpy(box->data, data, len);
	box->len = len;
	return 0;
}

static const struct device_class mailbox_class = {
	.name = "mailbox",
	.backlog = backlog,
	.take_backlog = take_backlog,
};
static const struct device_class deaf_class = { .name = "deaf" };

/* Three devices on either side, the second of which has no backlog. */
struct side {
	struct vm vm;
	struct migration m;
	struct mailbox box[3];
	struct channel *ch;
	struct protocol *p;
};

struct pair {
	struct side side[2];
};

static int setup(void **state)
{
	static const char *const names[] = { "mailbox@1", "deaf@2", "mailbox@3" };
	struct pair *t = calloc(1, sizeof(*t));
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	for (int i = 0; i < 2; i++) {
		struct side *s = &t->side[i];

		s->m.vm = &s->vm;
		s->vm.devices = &s->box[0].dev;
		for (int k = 0; k < 3; k++) {
			s->box[k].dev.class = k == 1 ? &deaf_class : &mailbox_class;
			s->box[k].dev.next = k < 2 ? &s->box[k + 1].dev : NULL;
			strcpy(s->box[k].dev.name, names[k]);
		}
		assert_int_equal(channel_from_fd(fds[i], "peer", false, &s->ch), 0);
		s->p = malloc(sizeof(*s->p));
		protocol_init(s->p, s->ch, (enum protocol_side)i, PROTOCOL_LIVE);
		s->p->state = PROTOCOL_LOADED;
	}
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct pair *t = *state;

	for (int i = 0; i < 2; i++) {
		protocol_free(t->side[i].p);
		free(t->side[i].p);
		channel_close(t->side[i].ch);
	}
	free(t);
	return 0;
}

static void put(struct mailbox *box, const char *text)
{
	box->len = strlen(text);
	memcpy(box->data, text, box->len);
}

/* The source says its last words; how the destination takes them, up to COMMIT. */
static int cross(struct pair *t, struct error *err)
{
	struct side *source = &t->side[SIDE_SOURCE], *destination = &t->side[SIDE_DESTINATION];
	struct error none = { 0 };
	struct record rec;
	int ret;

	assert_int_equal(backlog_send(&source->m, source->p, &none), 0);
	assert_int_equal(protocol_send(source->p, RECORD_COMMIT, NULL, 0, 0, false, &none), 0);
	assert_int_equal(protocol_flush(source->p, &none), 0);
	do {
		ret = protocol_receive(destination->p, &rec, err);
		if (ret == 0 && rec.type == RECORD_BACKLOG)
			ret = backlog_receive(&destination->m, destination->p, &rec, err);
	} while (ret == 0 && rec.type != RECORD_COMMIT);
	return ret;
}

static void each_device_gets_its_own(void **state)
{
	struct pair *t = *state;
	struct mailbox *from = t->side[SIDE_SOURCE].box, *to = t->side[SIDE_DESTINATION].box;
	struct error err = { 0 };

	put(&from[0], "one");
	put(&from[1], "lost");
	put(&from[2], "three");
	assert_int_equal(cross(t, &err), 0);
	assert_int_equal(to[1].len, 0);
	for (int k = 0; k < 3; k += 2) {
		assert_int_equal(to[k].len, from[k].len);
		assert_memory_equal(to[k].data, from[k].data, from[k].len);
	}
	for (int i = 0; i < 2; i++)
		assert_int_equal(t->side[i].m.stats.backlog, 8);
}

static void nothing_is_no_record(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 };

	assert_int_equal(cross(t, &err), 0);
	assert_int_equal(t->side[SIDE_DESTINATION].p->reader.sequence, 1);
}

static void of_a_device_that_takes_none(void **state)
{
	struct pair *t = *state;
	struct mailbox *from = t->side[SIDE_SOURCE].box;
	const char *const names[] = { "deaf@2", "mailbox@4", "" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct error err = { 0 };

		if (i) {
			teardown(state);
			setup(state);
			t = *state;
			from = t->side[SIDE_SOURCE].box;
		}
		put(&from[0], "one");
		strcpy(from[0].dev.name, names[i]);
		assert_int_equal(cross(t, &err), -EPROTO);
		assert_string_equal(err.field, "device");
		assert_string_equal(err.got, names[i]);
	}
}

static void what_the_device_refuses(void **state)
{
	struct pair *t = *state;
	struct error err = { 0 };

	put(&t->side[SIDE_SOURCE].box[2], "three");
	t->side[SIDE_DESTINATION].box[2].refuse = 1;
	assert_int_equal(cross(t, &err), -EINVAL);
	assert_string_equal(err.device, "mailbox@3");
}

/* Metadata that are no name; a payload that is longer than any, and one that does not come. */
static void bad_records(void **state)
{
	static const uint8_t good[] = "\0\011mailbox@1", longer[] = "\0\011mailbox@1?",
			     cut[] = "\0\011mail";
	static const struct {
		const uint8_t *meta;
		size_t len;
		uint64_t payload;
		int ret;
	} cases[] = {
		{ longer, 12, 0, -EPROTO }, { cut, 6, 0, -EPROTO },    { good, 1, 0, -EPROTO },
		{ good, 0, 0, -EPROTO },    { good, 11, 100, -EPIPE },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct side *source, *destination;
		struct error err = { 0 };
		struct record rec;
		struct pair *t;

		teardown(state);
		setup(state);
		t = *state;
		source = &t->side[SIDE_SOURCE];
		destination = &t->side[SIDE_DESTINATION];
		assert_int_equal(protocol_send(source->p, RECORD_BACKLOG, cases[i].meta,
					       cases[i].len, cases[i].payload, false, &err),
				 0);
		assert_int_equal(protocol_flush(source->p, &err), 0);
		channel_shutdown(source->ch);
		assert_int_equal(protocol_receive(destination->p, &rec, &err), 0);
		assert_int_equal(backlog_receive(&destination->m, destination->p, &rec, &err),
				 cases[i].ret);
		assert_int_equal(destination->box[0].len, 0);
	}
	assert_int_equal(record_info(RECORD_BACKLOG)->payload_max, BACKLOG_PAYLOAD_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_device_gets_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_is_no_record, setup, teardown),
		cmocka_unit_test_setup_teardown(of_a_device_that_takes_none, setup, teardown),
		cmocka_unit_test_setup_teardown(what_the_device_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_records, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
