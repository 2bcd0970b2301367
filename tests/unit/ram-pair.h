/* SPDX-License-Identifier: BSD-2-Clause */
/* Two machines with RAM only and a stream between them, for tests of what crosses it. */
#ifndef TESTS_UNIT_RAM_PAIR_H
#define TESTS_UNIT_RAM_PAIR_H

#include "migration-fixture.h"

#include "migration/ram.h"

#define HOLE (3 * MIB)

struct pair {
	struct vm *vm[2];
	struct channel *ch[2];
	struct protocol *p[2];
	struct ram_save *save;
	struct ram_load *load;
	pthread_t receiver;
	int result; /* of the receiver */
	struct error error;
	bool slow; /* it waits before it begins */
};

static inline struct pair *new_pair(uint64_t size, uint64_t hole_start, uint64_t hole_end)
{
	struct pair *t = calloc(1, sizeof(*t));
	struct error err = { 0 };
	int fds[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(vm_create(&t->vm[i], &err), 0);
		assert_int_equal(memory_alloc(&t->vm[i]->memory, size, MEMORY_ANON, hole_start,
					      hole_end, &err),
				 0);
		assert_non_null(migration_get(t->vm[i]));
		assert_int_equal(channel_from_fd(fds[i], "peer", false, &t->ch[i]), 0);
		t->p[i] = malloc(sizeof(*t->p[i]));
		protocol_init(t->p[i], t->ch[i], (enum protocol_side)i, PROTOCOL_LIVE);
		t->p[i]->state = PROTOCOL_RAM;
	}
	t->save = calloc(1, sizeof(*t->save));
	t->load = calloc(1, sizeof(*t->load));
	return t;
}

static inline void free_pair(struct pair *t)
{
	for (int i = 0; i < 2; i++) {
		protocol_free(t->p[i]);
		free(t->p[i]);
		channel_close(t->ch[i]);
		vm_destroy(t->vm[i]);
	}
	ram_save_free(t->save);
	ram_load_free(t->load);
	free(t->save);
	free(t->load);
	free(t);
}

static inline void *receive(void *opaque)
{
	struct pair *t = opaque;
	struct record rec;

	if (t->slow)
		usleep(100000);
	do {
		t->result = protocol_receive(t->p[1], &rec, &t->error);
		if (t->result == 0 && rec.type != RECORD_STOPPED)
			t->result =
				ram_load_record(t->load, &t->load->table, t->p[1], &rec, &t->error);
	} while (t->result == 0 && rec.type != RECORD_STOPPED);
	return NULL;
}

static inline void begin(struct pair *t)
{
	struct error err = { 0 };

	assert_int_equal(dirty_log_start(t->vm[0], &err), 0);
	assert_int_equal(ram_save_init(t->save, t->vm[0]->migration, t->p[0], 1UL << 30, &err), 0);
	assert_int_equal(ram_load_init(t->load, t->vm[1]->migration, &t->vm[1]->memory, &err), 0);
	assert_int_equal(pthread_create(&t->receiver, NULL, receive, t), 0);
}

static inline void send_round(struct pair *t, bool live)
{
	struct error err = { 0 };

	assert_int_equal(ram_save_round(t->save, live, &err), 0);
}

static inline void end(struct pair *t)
{
	struct error err = { 0 };

	assert_int_equal(protocol_say(t->p[0], RECORD_STOPPED, NULL, &err), 0);
	assert_int_equal(pthread_join(t->receiver, NULL), 0);
	assert_int_equal(t->result, 0);
	assert_int_equal(ram_save_remaining(t->save), 0);
}

static inline struct migration_stats *stats(struct pair *t, int side)
{
	return &t->vm[side]->migration->stats;
}

/* A guest that writes anywhere in @size bytes from @first on, or, if that is 0, below the hole,
 * until it is told to stop. */
struct writer {
	struct memory *mem;
	_Atomic bool stop;
	uint64_t first, size;
};

static inline void *write_wildly(void *opaque)
{
	struct writer *w = opaque;
	uint64_t size = w->size ? w->size : HOLE;

	for (uint64_t i = 1; !w->stop; i++) {
		uint64_t gpa = w->first + i * 0x9e3779b97f4a7c15ULL % (size - 8);

		assert_int_equal(memory_write(w->mem, gpa, &i, sizeof(i)), 0);
	}
	return NULL;
}

#endif
