/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A set of pages of guest RAM: a bit each, changed by any thread without a lock. And how such a set
 * crosses: as MISSING records, a part of the bitmap each, that is
 *
 *      0     8  gpa of the first page, a multiple of 64 pages from the start of its region
 *      8   8*n  n words (1 to 512), bit 0 of a word is its first page; none beyond the region's end
 *
 * Parts that would have no bit set are left out.
 */
#ifndef MIGRATION_PAGE_MAP_H
#define MIGRATION_PAGE_MAP_H

#include "migration/protocol.h"
#include "vmm/memory.h"

#define PAGE_MAP_WORDS	  512 /* of one record: 128 MiB of RAM */
#define PAGE_MAP_META_MAX (8 + 8 * PAGE_MAP_WORDS)

struct page_map {
	const struct memory *mem;
	_Atomic uint64_t *bits[MEMORY_MAX_REGIONS];
};

/* Empty. page_map_free() also after an error, and of one that is all zeros. */
int page_map_init(struct page_map *map, const struct memory *mem, struct error *err);
void page_map_free(struct page_map *map);
void page_map_clear_all(struct page_map *map);

/* The page at @gpa, which is RAM. The last two return what it was before. */
bool page_map_test(const struct page_map *map, uint64_t gpa);
bool page_map_set(struct page_map *map, uint64_t gpa);
bool page_map_clear(struct page_map *map, uint64_t gpa);

uint64_t page_map_count(const struct page_map *map);
/* Is every page of @part in @map? */
bool page_map_is_within(const struct page_map *part, const struct page_map *map);
/* Move *@gpa to the first page from there on that is set, and after the last one on from the start;
 * false when none is. */
bool page_map_next(const struct page_map *map, uint64_t *gpa);
/* Pages from @gpa on that are set without a gap, @max at most, in one region. */
uint64_t page_map_run(const struct page_map *map, uint64_t gpa, uint64_t max);

/* Queue the set as MISSING records on @p. */
int page_map_send(const struct page_map *map, struct protocol *p, struct error *err);
/* Add what MISSING record @rec has, checked. */
int page_map_receive(struct page_map *map, const struct record *rec, struct error *err);

#endif
