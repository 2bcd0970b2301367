/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A real source and a real destination on unix sockets, and a guest that goes before its memory.
 * What it does there a thread does: it waits until the machine runs, and then touches all of RAM.
 */
#ifndef TESTS_UNIT_POSTCOPY_RIG_H
#define TESTS_UNIT_POSTCOPY_RIG_H

#include "multifd-rig.h"

#include <time.h>

#include "migration/postcopy.h"
#include "migration/userfault.h"

#define PREPARED_MS 10000

struct guest {
	struct rig r;
	unsigned int threads;
	pthread_t thread[4];
	uint64_t first, pages;	       /* what each of them touches, in order; 0, 0: all, in any */
	_Atomic uint64_t read, differ; /* pages */
	bool cancel;		       /* guest_told() does that instead */
	pthread_t teller;
	_Atomic bool over; /* the migration is: nobody waits for the guest any more */
};

static inline void snooze(void)
{
	nanosleep(&(struct timespec){ 0, 200000 }, NULL);
}

/* Every third page is not zero, until there are @n of these. */
static inline void fill_some(struct memory *mem, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		memset(memory_hva(mem, 3 * i * PAGE_SIZE, 1), (int)i + 1, PAGE_SIZE);
}

static inline bool guest_waits(const struct guest *g)
{
	return !g->over && g->r.to->state != VM_RUNNING;
}

static inline uint64_t pages_to_touch(const struct guest *g)
{
	return g->pages ? g->pages : g->r.from->memory.size >> PAGE_SHIFT;
}

/* Each begins elsewhere and jumps about, so that the background is not always faster. */
static inline void *guest_touch(void *opaque)
{
	struct guest *g = opaque;
	const struct memory *from = &g->r.from->memory, *to = &g->r.to->memory;
	uint64_t seed = (uint64_t)pthread_self() >> 12;

	while (guest_waits(g))
		snooze();
	if (g->r.to->state != VM_RUNNING)
		return NULL;
	for (uint64_t i = 0; i < pages_to_touch(g); i++) {
		uint64_t gpa = (i * 769 + seed * 31) % (from->size >> PAGE_SHIFT) << PAGE_SHIFT;

		gpa = g->pages ? (g->first + i) << PAGE_SHIFT : gpa;
		g->differ += memcmp(memory_hva(from, gpa, PAGE_SIZE),
				    memory_hva(to, gpa, PAGE_SIZE), PAGE_SIZE) != 0;
		g->read++;
	}
	return NULL;
}

static inline void guest_tell(void *opaque)
{
	struct guest *g = opaque;
	struct migration *m = g->r.from->migration;
	struct error err = { 0 };

	assert_int_equal(g->cancel ? migration_cancel(m, NULL, &err) : postcopy_start_now(m, &err),
			 0);
}

/* Once pages have gone, tell the source what is wanted. */
static inline void *guest_told(void *opaque)
{
	struct guest *g = opaque;

	while (!g->over && g->r.to->migration->stats.pages_data < 16)
		snooze();
	loop_call(g->r.from->loop, guest_tell, g);
	return NULL;
}

static inline void guest_prepare_at(struct guest *g, const char *uri, uint64_t memory, int when)
{
	memset(g, 0, sizeof(*g));
	rig_prepare_at(&g->r, uri, memory, 1, PREPARED_MS);
	g->r.from->migration->params.multifd = false;
	g->r.from->migration->params.postcopy = true;
	g->r.from->migration->params.postcopy_when = when;
	g->threads = 2;
}

static inline void guest_prepare(struct guest *g, uint64_t memory, int when)
{
	char uri[48];

	snprintf(uri, sizeof(uri), "unix:/tmp/ferry-postcopy-%d", (int)getpid());
	guest_prepare_at(g, uri, memory, when);
}

static inline void guest_cross(struct guest *g, const char *uri)
{
	for (unsigned int i = 0; i < g->threads; i++)
		pthread_create(&g->thread[i], NULL, guest_touch, g);
	rig_cross(&g->r, uri);
	g->over = true;
	for (unsigned int i = 0; i < g->threads; i++)
		pthread_join(g->thread[i], NULL);
}

/* The guest is there, and has found everything. */
static inline void assert_followed(const struct guest *g)
{
	assert_moved(&g->r);
	assert_int_equal(g->r.from->migration->error.code, 0);
	assert_int_equal(g->r.to->migration->error.code, 0);
	assert_int_equal(g->read, g->threads * pages_to_touch(g));
	assert_int_equal(g->differ, 0);
	assert_true(box_of(g->r.to)->owned);
	assert_false(box_of(g->r.from)->owned);
	assert_false(g->r.to->memory.keep);
}

#endif
