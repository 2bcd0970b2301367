/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a BLOCK record says: which parts of which disk. Its metadata is the name of the device's
 * node, a string, and up to BLOCK_RUNS_MAX descriptors of 24 bytes,
 *
 *      0     8  offset in the disk, a multiple of MIRROR_BLOCK
 *      8     8  length in bytes, at least 1; a multiple of MIRROR_BLOCK but at the disk's end
 *     16     1  kind, enum ram_kind
 *     17     7  zero
 *
 * in ascending order and without overlaps. The payload is what the data runs hold, back to back.
 */
#ifndef MIGRATION_BLOCK_RUNS_H
#define MIGRATION_BLOCK_RUNS_H

#include "migration/record.h"

#define BLOCK_RUNS_MAX	  64
#define BLOCK_RUN_WIRE	  24
#define BLOCK_NAME_MAX	  64 /* with its NUL */
#define BLOCK_META_MAX	  (2 + BLOCK_NAME_MAX - 1 + BLOCK_RUNS_MAX * BLOCK_RUN_WIRE)
#define BLOCK_PAYLOAD_MAX (4u << 20)

struct block_run {
	uint64_t offset, len;
	uint8_t kind;
};

/* Write @n runs of device @name to @wire, BLOCK_META_MAX bytes. Returns the bytes written. */
size_t block_runs_encode(const char *name, const struct block_run *runs, size_t n, uint8_t *wire);

/*
 * Read what BLOCK record @rec says into @name (BLOCK_NAME_MAX bytes, printable) and @runs
 * (BLOCK_RUNS_MAX). Checked here: 1 to BLOCK_RUNS_MAX whole descriptors, offsets, kinds, zero
 * bytes, ends within 63 bits, order, and that the payload is exactly the data runs. Left to the
 * caller, who knows the disk: that all lie in it. Returns the number of runs or a negative errno
 * with @err.
 */
int block_runs_decode(const struct record *rec, char *name, struct block_run *runs,
		      struct error *err);

#endif
