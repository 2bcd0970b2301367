/* SPDX-License-Identifier: BSD-2-Clause */
/* The other side of a postcopy made by hand, which says whatever it wants. */
#ifndef TESTS_UNIT_POSTCOPY_FAKE_H
#define TESTS_UNIT_POSTCOPY_FAKE_H

#include "postcopy-rig.h"

#include <endian.h>

#include "migration/messages.h"

#define RAM_SIZE (4 * MIB)

struct fake {
	struct rig r;
	pthread_t loop;
	struct channel *ch[1 + LINES]; /* main, background, faults */
	struct protocol *p[1 + LINES];
	char token[TOKEN_SIZE];
	struct error err;
};

static inline void adopt(struct fake *f, unsigned int i, enum protocol_side side)
{
	channel_set_timeout(f->ch[i], 10000);
	f->p[i] = malloc(sizeof(*f->p[i]));
	protocol_init(f->p[i], f->ch[i], side, i ? PROTOCOL_PAGES : PROTOCOL_LIVE);
}

static inline void drop(struct fake *f)
{
	for (unsigned int i = 0; i < 1 + LINES; i++) {
		if (!f->p[i])
			continue;
		protocol_free(f->p[i]);
		free(f->p[i]);
		channel_close(f->ch[i]);
		f->p[i] = NULL;
	}
}

static inline void say(struct fake *f, unsigned int i, uint16_t type, const void *meta, size_t len)
{
	protocol_send(f->p[i], type, meta, len, 0, false, &f->err);
	protocol_flush(f->p[i], &f->err);
}

static inline void say_missing(struct fake *f, unsigned int i, uint64_t gpa, uint64_t bits)
{
	const uint64_t wire[] = { htobe64(gpa), htobe64(bits) };

	say(f, i, RECORD_MISSING, wire, sizeof(wire));
}

static inline void wait_for(struct vm *vm, enum migration_status status)
{
	for (int i = 0; vm->migration->status != status; i++) {
		if (i == 50000)
			fail_msg("never %s", migration_status_name(status));
		snooze();
	}
}

/* The pause has @code, for @field. */
static inline void assert_paused(struct vm *vm, int code, const char *field)
{
	struct error why = { 0 };

	wait_for(vm, MIGRATION_POSTCOPY_PAUSED);
	assert_true(postcopy_why(vm->migration, &why));
	if (why.code != code || strcmp(why.field, field) != 0)
		error_print(&why);
	assert_int_equal(why.code, code);
	assert_string_equal(why.field, field);
}

#endif
