/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM in a file, where every page has its place: one RAM_MAP record says at which offset each
 * region begins, and the page of address gpa lies at that offset plus (gpa - the region's gpa).
 * What is zero is a hole. So threads can write and read it in any order, and it can be mapped.
 *
 * Metadata of the record, for each region 32 bytes, at most MEMORY_MAX_REGIONS of them:
 *
 *      0     8  gpa, a multiple of 4096
 *      8     8  size in bytes, likewise, not 0
 *     16     8  offset in the file, likewise
 *     24     8  sum of the CRC32C of every page that is not zero, modulo 2^64; the CRC of a page is
 *               that of its gpa (8 bytes, big-endian) and its 4096 bytes
 *
 * A sum does not depend on the order in which threads come by. The gpa is in it, so that pages that
 * change places are noticed, and it is no exclusive or, in which equal damage to two pages cancels
 * out, CRCs being linear.
 */
#ifndef MIGRATION_RAM_MAP_H
#define MIGRATION_RAM_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/rate.h"
#include "migration/record.h"
#include "vmm/memory.h"

#define RAM_MAP_WIRE  32 /* bytes a region */
#define RAM_MAP_ALIGN (2UL << 20)

struct ram_extent {
	uint64_t gpa, size, offset;
	_Atomic uint64_t sum;
};

struct ram_map {
	unsigned int n;
	struct ram_extent extents[MEMORY_MAX_REGIONS];
};

/* Lay out @mem in a file, behind its first @used bytes; sums are zero. */
void ram_map_place(struct ram_map *map, const struct memory *mem, uint64_t used);

/* Room for the metadata at @wire: map->n times RAM_MAP_WIRE, which is returned. */
size_t ram_map_encode(const struct ram_map *map, uint8_t *wire);

/*
 * Read RAM_MAP record @rec. Checked: numbers as above, no overflow, extents in ascending order of
 * gpa and offset without overlap, all behind the record.
 */
int ram_map_decode(const struct record *rec, struct ram_map *map, struct error *err);

/* Is @map that of @mem, and all of it within a file of @file_size bytes? */
int ram_map_check(const struct ram_map *map, const struct memory *mem, uint64_t file_size,
		  const struct record *rec, struct error *err);

/* What the pages of @len bytes at @page, from @gpa on, add to the sum. Any thread. *@data counts
 * those that are not zero. */
uint64_t ram_map_sum(const void *page, uint64_t gpa, uint64_t len, uint64_t *data);

/*
 * The next range in [@pos, @end) of @fd that is no hole, in whole pages; false if there is none. On
 * file systems that cannot tell, all of it. Moves the descriptor's position.
 */
bool ram_map_next_data(int fd, uint64_t pos, uint64_t end, uint64_t *from, uint64_t *to);

/* ---- Writing, ram-map-save.c ---- */

struct write_guard;

struct ram_map_save {
	struct migration *m;
	struct memory *mem;
	struct ram_map map;
	int fd, memfd; /* of the file, and of RAM that is MEMORY_SHARED; our own */
	/* Of a guest that runs meanwhile, else NULL: may write to a page once it is in the file. */
	struct write_guard *guard;
	_Atomic bool failed;	    /* a thread, or the guard's; the others are not to dally */
	_Atomic bool *taken;	    /* a chunk each: somebody has it */
	bool *untouched;	    /* … nobody ever wrote to it */
	pthread_mutex_t limit_lock; /* of max-bandwidth, a leaf */
	struct rate_limit limit;
};

/*
 * Get ready to write all RAM into the file at @ch; with m->params.background while the guest goes
 * on, which runs still. ram_map_save_free() in any case.
 */
int ram_map_save_init(struct ram_map_save *s, struct migration *m, struct channel *ch,
		      struct error *err);
/* The guest is paused: what RAM holds now is what is written, behind the first @used bytes of the
 * file. With m->params.background it may go on then. */
int ram_map_save_begin(struct ram_map_save *s, uint64_t used, struct error *err);
/* Write it, and complete the sums of s->map. All threads are gone on return, and nothing is
 * protected any more. */
int ram_map_save_run(struct ram_map_save *s, struct error *err);
void ram_map_save_free(struct ram_map_save *s);

/* ---- Reading, ram-map-load.c ---- */

struct ram_load;

/*
 * RAM_MAP record @rec has come over @ch, a file: read all that it says into RAM, by several
 * threads, and compare the sums; or, with m->lazy, only map it.
 */
int ram_map_load(struct ram_load *l, struct channel *ch, const struct record *rec,
		 struct error *err);

#endif
