/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages that are sent again, as differences. Mostly little has changed in them, so what is
 * compressed then is the XOR with what was sent before: a run of kind RAM_XOR in a RAM_ZSTD record.
 *
 * From the second round on pages go from a copy, up to a limit: what goes by reference is not known
 * exactly, for the guest writes to it meanwhile. So a copy is just what the destination has, or
 * there is none.
 *
 * In a round a page belongs to the thread that sends it, and between rounds all do to one; the
 * barrier between them (multifd.h) puts that in order. Only the stock of free slots is shared.
 */
#ifndef MIGRATION_DELTA_H
#define MIGRATION_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/record.h"
#include "vmm/memory.h"

struct deltas;

/* Copies of @bytes at most, which take no memory before they are made. NULL without memory.
 * @mem must live longer. */
struct deltas *deltas_new(const struct memory *mem, uint64_t bytes);
void deltas_free(struct deltas *d); /* NULL is allowed */

/* Before each round, no thread sending: @dirty pages will go, whose bits are set in @bitmap. If
 * there is not room for all, copies of pages that rest are given up. */
void deltas_begin_round(struct deltas *d, uint64_t *const bitmap[], uint64_t dirty);

/* Is there a copy of this page of region @i? Then it may go as RAM_XOR. */
bool deltas_has(const struct deltas *d, unsigned int i, uint64_t page);

/* Are copies made in this round? */
bool deltas_wanted(const struct deltas *d);

/* Put what there is to send of @run, whose memory the guest may write to, into @out, differences or
 * pages, and keep copies. Just that must be sent, or what deltas_whole() says. */
void deltas_take(struct deltas *d, const struct ram_run *run, void *out);
/* After that, of a run of differences: the pages. */
void deltas_whole(const struct deltas *d, const struct ram_run *run, void *out);

/* The destination is sent something else of these pages. */
void deltas_forget(struct deltas *d, const struct ram_run *run);

/* @to ^= @other, a page each. */
void page_xor(void *to, const void *other);

#endif
