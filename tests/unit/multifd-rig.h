/* SPDX-License-Identifier: BSD-2-Clause */
/* A real source and a real destination on unix sockets, and RAM over several connections. */
#ifndef TESTS_UNIT_MULTIFD_RIG_H
#define TESTS_UNIT_MULTIFD_RIG_H

#include "migration-fixture.h"

#include <stdio.h>

struct rig {
	struct vm *from, *to;
	char uri[64]; /* where the destination listens */
};

static inline void rig_stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

static inline void *rig_run_loop(void *opaque)
{
	struct vm *vm = opaque;

	loop_run(vm->loop);
	return NULL;
}

/* The destination listens already, at @uri. */
static inline void rig_prepare_at(struct rig *r, const char *uri, uint64_t memory, int channels,
				  int deadline_ms)
{
	struct error err = { 0 };
	const char *bound;

	r->from = new_source(memory);
	r->to = new_destination();
	assert_non_null(migration_get(r->from));
	r->from->migration->params.multifd = true;
	r->from->migration->params.channels = channels;
	r->from->migration->params.deadline_ms = deadline_ms;
	r->to->migration->params.deadline_ms = deadline_ms;
	assert_int_equal(destination_start(r->to, uri, &bound, &err), 0);
	strcpy(r->uri, bound);
	r->to->migration->ended = rig_stop_loop;
}

static inline void rig_prepare(struct rig *r, uint64_t memory, int channels, int deadline_ms)
{
	char uri[48];

	snprintf(uri, sizeof(uri), "unix:/tmp/ferry-multifd-%d", (int)getpid());
	rig_prepare_at(r, uri, memory, channels, deadline_ms);
}

/* Migrate to @uri, and wait until both have come to an end. */
static inline void rig_cross(struct rig *r, const char *uri)
{
	struct error err = { 0 };
	pthread_t thread;

	assert_int_equal(source_start(r->from, uri, &err), 0);
	r->from->migration->ended = rig_stop_loop;
	assert_int_equal(pthread_create(&thread, NULL, rig_run_loop, r->to), 0);
	loop_run(r->from->loop);
	pthread_join(thread, NULL);
}

static inline void rig_finish(struct rig *r)
{
	vm_destroy(r->from);
	vm_destroy(r->to);
}

/* The guest is at the destination, which has all of it. */
static inline void assert_moved(const struct rig *r)
{
	if (r->from->migration->error.code)
		error_print(&r->from->migration->error);
	if (r->to->migration->error.code)
		error_print(&r->to->migration->error);
	assert_int_equal(r->from->state, VM_POSTMIGRATE);
	assert_int_equal(r->to->state, VM_RUNNING);
	assert_same_memory(&r->from->memory, &r->to->memory);
}

/* The guest runs where it was, and both sides know that it does. */
static inline void assert_stayed(const struct rig *r)
{
	assert_int_equal(r->from->state, VM_RUNNING);
	assert_int_equal(r->to->state, VM_INMIGRATE);
	assert_true(box_of(r->from)->owned);
	assert_true(r->from->migration->error.code < 0);
	assert_true(r->to->migration->error.code < 0);
}

#endif
