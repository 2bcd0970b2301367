/* SPDX-License-Identifier: BSD-2-Clause */
/* What the destination has of the pages that are sent again and again. */
#include "migration/delta.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/param.h>

#define WORD_BITS 64
#define NOBODY	  UINT64_MAX

struct deltas {
	const struct memory *mem;
	unsigned int round;
	uint32_t *slots[MEMORY_MAX_REGIONS]; /* of each page: the slot with its copy, from 1 */
	uint32_t n;
	uint64_t *owners;	 /* of each slot: the page's gpa, or NOBODY */
	uint32_t *free;		 /* slots to take in this round … */
	_Atomic uint32_t n_free; /* … their number */
	uint8_t *pages;
};

struct deltas *deltas_new(const struct memory *mem, uint64_t bytes)
{
	struct deltas *d = calloc(1, sizeof(*d));
	bool ok = d != NULL;

	if (!d)
		return NULL;
	d->mem = mem;
	d->n = (uint32_t)(MIN(bytes, mem->size) >> PAGE_SHIFT);
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		d->slots[i] = calloc(mem->regions[i].size >> PAGE_SHIFT, sizeof(*d->slots[i]));
		ok &= d->slots[i] != NULL;
	}
	d->owners = malloc(d->n * sizeof(*d->owners));
	d->free = malloc(d->n * sizeof(*d->free));
	d->pages = mmap(NULL, (size_t)d->n << PAGE_SHIFT, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!ok || !d->owners || !d->free || d->pages == MAP_FAILED) {
		deltas_free(d);
		return NULL;
	}
	for (uint32_t slot = 0; slot < d->n; slot++)
		d->owners[slot] = NOBODY;
	return d;
}

void deltas_free(struct deltas *d)
{
	if (!d)
		return;
	for (unsigned int i = 0; i < MEMORY_MAX_REGIONS; i++)
		free(d->slots[i]);
	free(d->owners);
	free(d->free);
	if (d->pages && d->pages != MAP_FAILED)
		munmap(d->pages, (size_t)d->n << PAGE_SHIFT);
	free(d);
}

static unsigned int find_region(const struct deltas *d, uint64_t gpa, uint64_t *page)
{
	unsigned int i = 0;

	while (gpa - d->mem->regions[i].gpa >= d->mem->regions[i].size)
		i++;
	*page = (gpa - d->mem->regions[i].gpa) >> PAGE_SHIFT;
	return i;
}

static uint8_t *copy_of(const struct deltas *d, uint32_t slot)
{
	return d->pages + ((uint64_t)(slot - 1) << PAGE_SHIFT);
}

static void forget_page(struct deltas *d, uint32_t *slot)
{
	if (*slot)
		d->owners[*slot - 1] = NOBODY;
	*slot = 0;
}

/* ---- Between rounds ---- */

static void give_up_those_at_rest(struct deltas *d, uint64_t *const bitmap[])
{
	for (uint32_t slot = 0; slot < d->n; slot++) {
		uint64_t page;
		unsigned int i;

		if (d->owners[slot] == NOBODY)
			continue;
		i = find_region(d, d->owners[slot], &page);
		if (!(bitmap[i][page / WORD_BITS] >> (page % WORD_BITS) & 1))
			forget_page(d, &d->slots[i][page]);
	}
}

static void count_free(struct deltas *d)
{
	uint32_t n = 0;

	for (uint32_t slot = d->n; slot > 0; slot--) {
		if (d->owners[slot - 1] == NOBODY)
			d->free[n++] = slot;
	}
	d->n_free = n;
}

void deltas_begin_round(struct deltas *d, uint64_t *const bitmap[], uint64_t dirty)
{
	d->round++;
	count_free(d);
	if (d->n_free >= dirty)
		return;
	give_up_those_at_rest(d, bitmap);
	count_free(d);
}

/* ---- In a round ---- */

bool deltas_wanted(const struct deltas *d)
{
	return d->round > 1;
}

bool deltas_has(const struct deltas *d, unsigned int i, uint64_t page)
{
	return d->slots[i][page] != 0;
}

/* 0: there is none. */
static uint32_t take_slot(struct deltas *d, uint64_t gpa)
{
	uint32_t n = d->n_free;

	while (n && !atomic_compare_exchange_weak(&d->n_free, &n, n - 1))
		;
	if (!n)
		return 0;
	d->owners[d->free[n - 1] - 1] = gpa;
	return d->free[n - 1];
}

void page_xor(void *to, const void *other)
{
	uint64_t *a = to;
	const uint64_t *b = other;

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*a); i++)
		a[i] ^= b[i];
}

/* The guest's page is read once, into @out. */
void deltas_take(struct deltas *d, const struct ram_run *run, void *out)
{
	uint64_t first;
	uint32_t *slots = d->slots[find_region(d, run->gpa, &first)] + first;
	uint8_t now[PAGE_SIZE], *to = out;

	memcpy(out, memory_hva(d->mem, run->gpa, (uint64_t)run->pages << PAGE_SHIFT),
	       (size_t)run->pages << PAGE_SHIFT);
	for (uint32_t i = 0; i < run->pages; i++, to += PAGE_SIZE) {
		if (!slots[i])
			slots[i] = take_slot(d, run->gpa + ((uint64_t)i << PAGE_SHIFT));
		if (!slots[i])
			continue;
		memcpy(now, to, PAGE_SIZE);
		if (run->kind == RAM_XOR)
			page_xor(to, copy_of(d, slots[i]));
		memcpy(copy_of(d, slots[i]), now, PAGE_SIZE);
	}
}

void deltas_whole(const struct deltas *d, const struct ram_run *run, void *out)
{
	uint64_t first;
	const uint32_t *slots = d->slots[find_region(d, run->gpa, &first)] + first;

	for (uint32_t i = 0; i < run->pages; i++)
		memcpy((uint8_t *)out + ((size_t)i << PAGE_SHIFT), copy_of(d, slots[i]), PAGE_SIZE);
}

void deltas_forget(struct deltas *d, const struct ram_run *run)
{
	uint64_t first;
	uint32_t *slots = d->slots[find_region(d, run->gpa, &first)] + first;

	for (uint32_t i = 0; i < run->pages; i++)
		forget_page(d, &slots[i]);
}
