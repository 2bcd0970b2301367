/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM that is to be kept as it is at one moment while the guest runs on: all of it is
 * write-protected by userfaultfd(2), and whoever writes to it, be it a vCPU, KVM or a thread of
 * ours, waits until what was there is in safety. A thread of the guard's own hears of such writes,
 * so it may take no lock and wait for nobody who may write to RAM.
 */
#ifndef MIGRATION_WRITE_GUARD_H
#define MIGRATION_WRITE_GUARD_H

#include <stdint.h>

#include "vmm/error.h"
#include "vmm/memory.h"

struct write_guard;

/* Somebody waits to write to page @page (bytes from the start of @region): see to it that it is
 * released soon. The guard's thread; an error ends it. */
typedef int write_guard_fn(void *opaque, unsigned int region, uint64_t page, struct error *err);

/*
 * Get ready, the guest running; nothing is protected yet. Errors by name, {"save", "RAM",
 * "background-snapshot", …}: -EPERM without the right to catch faults of the kernel, -EOPNOTSUPP
 * where the kernel, or the backing of the RAM, has no such protection.
 */
int write_guard_open(struct write_guard **out, struct memory *mem, write_guard_fn *fault,
		     void *opaque, struct error *err);

/* Protect all RAM. Nobody writes to it: the guest is paused. */
int write_guard_protect(struct write_guard *g, struct error *err);

/* Let whole pages [@from, @from + @len) of @region be written again, and wake who waits. Any
 * thread. */
int write_guard_release(struct write_guard *g, unsigned int region, uint64_t from, uint64_t len,
			struct error *err);

/* 0, or why its thread has ended; then all wait until the guard is closed. Any thread. */
int write_guard_check(const struct write_guard *g, struct error *err);

/* Let all RAM be written again, and end. Returns as write_guard_check(). NULL is allowed. */
int write_guard_close(struct write_guard *g, struct error *err);

#endif
