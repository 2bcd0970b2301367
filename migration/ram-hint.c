/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Free page hints: RAM that the guest does not need is not sent in the first round.
 *
 * A hint may be old when it arrives: the guest may have taken the page back and written to it
 * (virtio 1.2, section 5.5.6.4: it need not even wait for the device). So a hint only ever takes
 * away a bit of the round's bitmap, and what was written after the guest was asked must stand in a
 * log that the hint does not touch, and nobody clears, before the page is sent or the next fetch:
 *
 * - The guest is asked after every page's bit in KVM's log was cleared. From then on each write
 * sets it again, as each write of ours sets a bit of our own. (As KVM starts a log with manual
 *   protection all bits are set already, KVM API 4.8, 7.18, and a write leaves no trace.)
 * - A piece of RAM is cleared in KVM's log again just before it is sent. A hint that took away a
 * bit between these two would lose a write that came before the clearing; so hints for a piece that
 *   the round has begun with are ignored.
 * - Hints have ended before the log is fetched, for the bits it brings are of writes that may be
 *   younger than a hint. The guest is not asked again: in later rounds there is little to spare.
 *
 * What was hinted and never written since is never sent, and is zero on the other side. Until the
 * guest runs there it may also go on here, so only then, or when the migration has failed, is it
 * told that its pages keep what they hold ("over" in struct device_ram_ops).
 *
 * The checksum of all RAM (x-verify) would find these pages to differ, as they may. It is there to
 * prove that every byte arrives, so with it nothing is hinted; and if it is asked for after pages
 * were spared it is left out.
 */
#include <sys/param.h>

#include "migration/ram.h"

#define WORD_BITS 64

/* Take bits [@page, @end) out of the bitmap; returns how many were set. */
static uint64_t clear_bits(uint64_t *bitmap, uint64_t page, uint64_t end)
{
	uint64_t n = 0;

	while (page < end) {
		uint64_t *word = &bitmap[page / WORD_BITS], from = page % WORD_BITS;
		uint64_t bits = MIN(end - page, WORD_BITS - from);
		uint64_t mask = (~0ULL >> (WORD_BITS - bits)) << from;

		n += (uint64_t)__builtin_popcountll(*word & mask);
		*word &= ~mask;
		page += bits;
	}
	return n;
}

/* The whole pages of [gpa, gpa + len) in region @i that the round has not begun with. Lock held. */
static void spare(struct ram_save *s, unsigned int i, uint64_t gpa, uint64_t len)
{
	const struct memory_region *region = &s->vm->memory.regions[i];
	uint64_t from = MAX(gpa, region->gpa), end = MIN(gpa + len, region->gpa + region->size);
	uint64_t page, n;

	if (from >= end)
		return;
	page = (from - region->gpa + PAGE_SIZE - 1) >> PAGE_SHIFT;
	n = clear_bits(s->bitmap[i], MAX(page, s->begun[i]), (end - region->gpa) >> PAGE_SHIFT);
	s->dirty -= n;
	s->m->stats.pages_hinted += n;
}

static void add(struct page_hints *hints, uint64_t gpa, uint64_t len)
{
	struct ram_save *s = (struct ram_save *)((char *)hints - offsetof(struct ram_save, hints));

	if (gpa + len < gpa)
		return;
	pthread_mutex_lock(&s->hint_lock);
	for (unsigned int i = 0; s->hinting && i < s->vm->memory.n_regions; i++)
		spare(s, i, gpa, len);
	pthread_mutex_unlock(&s->hint_lock);
}

/* Clear every bit in KVM's log. All pages are to be sent anyway. */
static int arm_log(struct ram_save *s, struct error *err)
{
	for (unsigned int i = 0; i < s->vm->memory.n_regions; i++) {
		struct memory_region *region = &s->vm->memory.regions[i];
		uint64_t pages = region->size >> PAGE_SHIFT;

		for (uint64_t first = 0; first < pages; first += RAM_CLEAR_PAGES) {
			int ret = dirty_log_clear(s->vm, region, first,
						  MIN(RAM_CLEAR_PAGES, pages - first), s->bitmap[i],
						  err);

			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

int ram_hints_start(struct ram_save *s, struct error *err)
{
	int ret;

	if (s->m->params.verify || !vm_can_hint(s->vm))
		return 0;
	ret = arm_log(s, err);
	if (ret < 0)
		return ret;
	s->hints.add = add;
	s->hinting = true; /* nobody knows of s->hints yet */
	s->hinted = true;
	vm_hint_start(s->vm, &s->hints);
	return 0;
}

void ram_hints_pass(struct ram_save *s, unsigned int i, uint64_t page)
{
	pthread_mutex_lock(&s->hint_lock);
	s->begun[i] = MAX(s->begun[i], page);
	pthread_mutex_unlock(&s->hint_lock);
}

void ram_hints_stop(struct ram_save *s)
{
	bool was;

	pthread_mutex_lock(&s->hint_lock);
	was = s->hinting;
	s->hinting = false;
	pthread_mutex_unlock(&s->hint_lock);
	if (was)
		vm_hint_stop(s->vm, false);
}

void ram_hints_over(struct ram_save *s)
{
	ram_hints_stop(s);
	if (s->hinted)
		vm_hint_stop(s->vm, true);
	s->hinted = false;
}
