/* SPDX-License-Identifier: BSD-2-Clause */
/* Page tables for high RAM (Intel SDM volume 3, 5.5.4), the free pages, and page contents. */
#include "machine.h"
#include "program.h"
#include "ram.h"

enum {
	WORDS = PAGE / 8,
	PTE_TABLE = 0x07, /* present, writable, user */
	PTE_LARGE = 0x87, /* the same, 2 MiB page */
};

#define GIB	(1ull << 30)
#define LOW_GIB 4		      /* mapped by entry.S */
#define MAX_GIB 512		      /* one page directory pointer table */
#define GOLDEN	0x9e3779b97f4a7c15ull /* 2^64 / golden ratio: the Weyl step of splitmix64 */

extern uint64_t pdpt[512];		     /* entry.S */
extern const char image_data[], image_end[]; /* guest.lds */

static struct {
	struct range free[32];
	unsigned count;
	uint64_t seed;
} ram;

void *ram_alloc(uint64_t pages, uint64_t align)
{
	for (unsigned i = 0; i < ram.count; i++) {
		uint64_t at = (ram.free[i].start + align - 1) & -align;
		if (at + pages * PAGE > ram.free[i].end || at >= LOW_GIB * GIB)
			continue;
		ram.free[i].start = at + pages * PAGE;
		return memset((void *)at, 0, pages * PAGE);
	}
	fail("no RAM for %lu pages of the kernel", pages);
}

static void map_gib(uint64_t n)
{
	uint64_t *table = ram_alloc(1, PAGE);

	for (unsigned i = 0; i < 512; i++)
		table[i] = (n * GIB + i * (2ull << 20)) | PTE_LARGE;
	__atomic_store_n(&pdpt[n], (uintptr_t)table | PTE_TABLE, __ATOMIC_RELEASE);
}

void ram_init(void)
{
	ram.seed = option_number("seed", 1);
	for (unsigned i = 0; i < machine.ram_count; i++) {
		struct range r = machine.ram[i];
		if (r.start < (uintptr_t)image_end)
			r.start = (uintptr_t)image_end;
		if (r.end > MAX_GIB * GIB)
			r.end = MAX_GIB * GIB;
		if (r.start < r.end)
			ram.free[ram.count++] = r;
	}
	for (unsigned i = 0; i < ram.count; i++)
		for (uint64_t n = LOW_GIB; n * GIB < ram.free[i].end; n++)
			if (ram.free[i].start < (n + 1) * GIB && !pdpt[n])
				map_gib(n);
}

uint64_t ram_pages(void)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < ram.count; i++)
		pages += (ram.free[i].end - ram.free[i].start) / PAGE;
	return pages;
}

uint64_t *ram_page(uint64_t i)
{
	for (unsigned r = 0; r < ram.count; r++) {
		uint64_t pages = (ram.free[r].end - ram.free[r].start) / PAGE;
		if (i < pages)
			return (uint64_t *)(ram.free[r].start + i * PAGE);
		i -= pages;
	}
	fail("page %lu of RAM asked for, but there are %lu", i, ram_pages());
}

struct range ram_in_use(void)
{
	return (struct range){ (uintptr_t)image_data, ram.free[0].start };
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
	return x ^ x >> 29;
}

static bool is_zero(enum content content, uint64_t number)
{
	return content == CONTENT_ZERO || (content == CONTENT_MIXED && number % 2 == 0);
}

enum content content_option(void)
{
	if (option_is("content", "zero", false))
		return CONTENT_ZERO;
	return option_is("content", "mixed", false) ? CONTENT_MIXED : CONTENT_RANDOM;
}

/* The first two words of a random page are its number and generation, in the clear to be read. */
void content_write(uint64_t *page, enum content content, uint64_t number, uint64_t generation)
{
	if (is_zero(content, number)) {
		memset(page, 0, PAGE);
		return;
	}
	uint64_t x = mix(mix(ram.seed + number * GOLDEN) + generation);
	page[0] = number;
	page[1] = generation;
	for (unsigned i = 2; i < WORDS; i++)
		page[i] = mix(x += GOLDEN);
}

unsigned content_check(const uint64_t *page, enum content content, uint64_t number,
		       uint64_t generation)
{
	bool zero = is_zero(content, number);
	uint64_t x = mix(mix(ram.seed + number * GOLDEN) + generation);

	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t want = zero ? 0 : i == 0 ? number : i == 1 ? generation : mix(x += GOLDEN);
		if (page[i] != want)
			return i * 8;
	}
	return PAGE;
}
