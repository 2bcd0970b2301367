/* SPDX-License-Identifier: BSD-2-Clause */
/* A guest that writes all the time, in a thread, until its machine is paused. */
#ifndef TESTS_UNIT_GUEST_WRITER_H
#define TESTS_UNIT_GUEST_WRITER_H

#include "migration-fixture.h"

#include <stdatomic.h>

struct writer {
	struct memory *mem;
	_Atomic uint64_t writes;
	_Atomic bool stop;
	pthread_t thread;
	struct vm_listener listener;
};

/* That a guest writes to what is being read is what migration is made for; TSan need not tell. */
__attribute__((noinline, no_sanitize("thread"))) static void
write_as_a_guest(struct memory *mem, uint64_t gpa, uint64_t value)
{
	uint64_t *at = memory_hva(mem, gpa, sizeof(value));

	*at = value;
	memory_mark_dirty(mem, gpa, sizeof(value));
}

static inline void *write_wildly(void *opaque)
{
	struct writer *w = opaque;

	for (uint64_t i = 1; !w->stop; i++) {
		write_as_a_guest(w->mem, i * 0x9e3779b97f4a7c15ULL % w->mem->size & ~7ULL, i);
		w->writes++;
		if (i % 256 == 0)
			usleep(1);
	}
	return NULL;
}

/* From the return of this on nothing is written, as from a pause of vCPUs. */
static inline void pause_writer(void *opaque, enum vm_state from, enum vm_state to)
{
	struct writer *w = opaque;

	(void)from;
	if (to != VM_FINISH_MIGRATE)
		return;
	w->stop = true;
	pthread_join(w->thread, NULL);
}

static inline void writer_start(struct writer *w, struct vm *vm)
{
	memset(w, 0, sizeof(*w));
	w->mem = &vm->memory;
	w->listener = (struct vm_listener){ .changed = pause_writer, .opaque = w };
	vm_listen(vm, &w->listener);
	assert_int_equal(pthread_create(&w->thread, NULL, write_wildly, w), 0);
	while (!w->writes)
		usleep(100);
}

#endif
