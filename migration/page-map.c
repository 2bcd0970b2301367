/* SPDX-License-Identifier: BSD-2-Clause */
/* Sets of pages, and the records that carry them. */
#include "migration/page-map.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#define WORD_BITS 64

static uint64_t n_pages(const struct page_map *map, unsigned int i)
{
	return map->mem->regions[i].size >> PAGE_SHIFT;
}

static uint64_t n_words(const struct page_map *map, unsigned int i)
{
	return (n_pages(map, i) + WORD_BITS - 1) / WORD_BITS;
}

int page_map_init(struct page_map *map, const struct memory *mem, struct error *err)
{
	map->mem = mem;
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		map->bits[i] = calloc(n_words(map, i), sizeof(*map->bits[i]));
		if (!map->bits[i])
			return error_set(err, -ENOMEM, "migrate", "RAM", "", "memory for a bitmap",
					 "none");
	}
	return 0;
}

void page_map_free(struct page_map *map)
{
	for (unsigned int i = 0; i < MEMORY_MAX_REGIONS; i++) {
		free((void *)(uintptr_t)map->bits[i]);
		map->bits[i] = NULL;
	}
}

void page_map_clear_all(struct page_map *map)
{
	for (unsigned int i = 0; i < map->mem->n_regions; i++) {
		for (uint64_t w = 0; w < n_words(map, i); w++)
			map->bits[i][w] = 0;
	}
}

/* The region of @gpa, which is RAM, and the page's number in it. */
static unsigned int find(const struct page_map *map, uint64_t gpa, uint64_t *page)
{
	unsigned int i = 0;

	while (gpa - map->mem->regions[i].gpa >= map->mem->regions[i].size)
		i++;
	*page = (gpa - map->mem->regions[i].gpa) >> PAGE_SHIFT;
	return i;
}

bool page_map_test(const struct page_map *map, uint64_t gpa)
{
	uint64_t page;
	unsigned int i = find(map, gpa, &page);

	return map->bits[i][page / WORD_BITS] >> page % WORD_BITS & 1;
}

bool page_map_set(struct page_map *map, uint64_t gpa)
{
	uint64_t page;
	unsigned int i = find(map, gpa, &page);
	uint64_t bit = 1ULL << page % WORD_BITS;

	return atomic_fetch_or(&map->bits[i][page / WORD_BITS], bit) & bit;
}

bool page_map_clear(struct page_map *map, uint64_t gpa)
{
	uint64_t page;
	unsigned int i = find(map, gpa, &page);
	uint64_t bit = 1ULL << page % WORD_BITS;

	return atomic_fetch_and(&map->bits[i][page / WORD_BITS], ~bit) & bit;
}

uint64_t page_map_count(const struct page_map *map)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < map->mem->n_regions; i++) {
		for (uint64_t w = 0; w < n_words(map, i); w++)
			n += (uint64_t)__builtin_popcountll(map->bits[i][w]);
	}
	return n;
}

bool page_map_is_within(const struct page_map *part, const struct page_map *map)
{
	for (unsigned int i = 0; i < map->mem->n_regions; i++) {
		for (uint64_t w = 0; w < n_words(map, i); w++) {
			if (part->bits[i][w] & ~map->bits[i][w])
				return false;
		}
	}
	return true;
}

/* The first page from @page on that is set, all of them if none is. */
static uint64_t next_in(const struct page_map *map, unsigned int i, uint64_t page)
{
	while (page < n_pages(map, i)) {
		uint64_t word = map->bits[i][page / WORD_BITS] >> page % WORD_BITS;

		if (word)
			return page + (uint64_t)__builtin_ctzll(word);
		page = (page / WORD_BITS + 1) * WORD_BITS;
	}
	return n_pages(map, i);
}

bool page_map_next(const struct page_map *map, uint64_t *gpa)
{
	unsigned int n = map->mem->n_regions, first = 0;
	uint64_t page = 0;

	/* It may be just behind a region. */
	if (memory_hva(map->mem, *gpa, 1))
		first = find(map, *gpa, &page);
	else
		while (first < n - 1 && map->mem->regions[first].gpa < *gpa)
			first++;
	/* The region where it begins comes twice, the second time for what is before. */
	for (unsigned int k = 0; k <= n; k++) {
		unsigned int i = (first + k) % n;
		uint64_t at = next_in(map, i, k ? 0 : page);

		if (at == n_pages(map, i))
			continue;
		*gpa = map->mem->regions[i].gpa + (at << PAGE_SHIFT);
		return true;
	}
	return false;
}

uint64_t page_map_run(const struct page_map *map, uint64_t gpa, uint64_t max)
{
	uint64_t page, n = 0;
	unsigned int i = find(map, gpa, &page);

	while (n < max && page + n < n_pages(map, i) &&
	       map->bits[i][(page + n) / WORD_BITS] >> (page + n) % WORD_BITS & 1)
		n++;
	return n;
}

/* ---- On the wire ---- */

/* Words [@first, @first + @n) of region @i; nothing is sent if they are all zero. */
static int send_part(const struct page_map *map, unsigned int i, uint64_t first, uint64_t n,
		     struct protocol *p, struct error *err)
{
	uint8_t wire[PAGE_MAP_META_MAX];
	struct record_meta meta;
	uint64_t any = 0;

	record_meta_init(&meta, wire, sizeof(wire));
	record_put_be64(&meta, map->mem->regions[i].gpa + (first * WORD_BITS << PAGE_SHIFT));
	for (uint64_t w = first; w < first + n; w++) {
		uint64_t word = map->bits[i][w];

		any |= word;
		record_put_be64(&meta, word);
	}
	return any ? protocol_send(p, RECORD_MISSING, wire, meta.pos, 0, false, err) : 0;
}

int page_map_send(const struct page_map *map, struct protocol *p, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < map->mem->n_regions; i++) {
		uint64_t words = n_words(map, i);

		for (uint64_t w = 0; w < words && ret == 0; w += PAGE_MAP_WORDS)
			ret = send_part(map, i, w, MIN(words - w, PAGE_MAP_WORDS), p, err);
	}
	return ret;
}

static int bad_place(const struct record *rec, uint64_t gpa, struct error *err)
{
	return error_set(err, -EPROTO, "stream", rec->device, "gpa",
			 "64 pages, or a multiple, from the start of a region of RAM", "0x%llx",
			 (unsigned long long)gpa);
}

int page_map_receive(struct page_map *map, const struct record *rec, struct error *err)
{
	uint64_t gpa, page, n = rec->meta_len / 8 - 1, words[PAGE_MAP_WORDS];
	struct record_meta meta;
	unsigned int i;

	if (rec->meta_len < 16 || rec->meta_len % 8 || n > PAGE_MAP_WORDS)
		return error_set(err, -EPROTO, "stream", rec->device, "metadata length",
				 "a gpa and 1 to 512 words", "%u bytes", rec->meta_len);
	record_meta_parse(&meta, rec);
	gpa = record_get_be64(&meta);
	if (gpa % PAGE_SIZE || !memory_hva(map->mem, gpa, 1))
		return bad_place(rec, gpa, err);
	i = find(map, gpa, &page);
	if (page % WORD_BITS || page / WORD_BITS + n > n_words(map, i))
		return bad_place(rec, gpa, err);
	for (uint64_t w = 0; w < n; w++)
		words[w] = record_get_be64(&meta);
	if (page + n * WORD_BITS > n_pages(map, i) && words[n - 1] >> (n_pages(map, i) % WORD_BITS))
		return error_set(err, -EPROTO, "stream", rec->device, "bits",
				 "none beyond the end of RAM", "some");
	for (uint64_t w = 0; w < n; w++)
		atomic_fetch_or(&map->bits[i][page / WORD_BITS + w], words[w]);
	return 0;
}
