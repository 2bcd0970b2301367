/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All of guest RAM, chunk by chunk, by several threads: each takes the next number from one atomic
 * counter until none is left, or one has failed, or the migration is cancelled.
 */
#ifndef MIGRATION_CHUNKS_H
#define MIGRATION_CHUNKS_H

#include <stdint.h>

#include "migration/migration.h"
#include "vmm/memory.h"

/* Whole huge pages, and few enough bytes to stay in a cache between two looks at them. */
#define CHUNK_SIZE (2UL << 20)

/* Do bytes [@from, @from + @len) of region @region. Any thread; 0 or a negative errno with @err. */
typedef int chunk_fn(void *opaque, unsigned int region, uint64_t from, uint64_t len,
		     struct error *err);

/* How many threads m's parameters ask for. */
unsigned int chunks_threads(const struct migration *m);

/*
 * Call @fn for all chunks of @mem, from chunks_threads() threads, the caller's among them, which
 * all are done on return. 0, or the first error.
 */
int chunks_run(struct migration *m, const struct memory *mem, chunk_fn *fn, void *opaque,
	       struct error *err);

/* Chunks of all regions, and the number of that at @from in @region. A chunk is in one region. */
uint64_t chunks_total(const struct memory *mem);
uint64_t chunks_index(const struct memory *mem, unsigned int region, uint64_t from);

#endif
