/* SPDX-License-Identifier: BSD-2-Clause */
/* RAM that a program may use, counted in pages, and the contents that pages are filled with. */
#ifndef GUEST_RAM_H
#define GUEST_RAM_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE	 4096
#define PAGE_MIB 256 /* pages in a MiB */

/* Maps the RAM above 4 GiB and finds what lies behind the image. */
void ram_init(void);

/* How many pages are free; the free page number @i, which need not neighbour the one before. */
uint64_t ram_pages(void);
uint64_t *ram_page(uint64_t i);

/* @pages neighbouring pages below 4 GiB, aligned to @align bytes, zeroed; fail() without them. */
void *ram_alloc(uint64_t pages, uint64_t align);

/* Image and allocations: what changes while a program runs. */
struct range;
struct range ram_in_use(void);

/*
 * What a page holds: a function of seed, page number and generation, all 4096 bytes of it.
 * A random page compresses with nothing; mixed ones are zero every other page.
 */
enum content { CONTENT_RANDOM, CONTENT_ZERO, CONTENT_MIXED };

enum content content_option(void);
void content_write(uint64_t *page, enum content content, uint64_t number, uint64_t generation);

/* The first byte that differs, PAGE when the page holds what was written. */
unsigned content_check(const uint64_t *page, enum content content, uint64_t number,
		       uint64_t generation);

#endif
