/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hash: one number for all RAM, again and again. What changes while it runs is left out: the
 * image's data with the stacks, and the page tables. Nothing else may change by itself.
 */
#include "kernel/clock.h"
#include "kernel/machine.h"
#include "kernel/program.h"
#include "kernel/ram.h"

static uint64_t digest(uint64_t h, uint64_t start, uint64_t end)
{
	for (const uint64_t *p = (const uint64_t *)start; p < (const uint64_t *)end; p++) {
		h = (h ^ *p) * 0x9fb21c651e98df25ull;
		h ^= h >> 32;
	}
	return h;
}

static uint64_t digest_all(uint64_t *pages)
{
	struct range used = ram_in_use();
	uint64_t h = 0;

	*pages = 0;
	for (unsigned i = 0; i < machine.ram_count; i++) {
		struct range r = machine.ram[i];
		uint64_t before = used.start < r.start ? r.start
				  : used.start < r.end ? used.start
						       : r.end;
		uint64_t after = used.end < r.start ? r.start : used.end < r.end ? used.end : r.end;
		h = digest(digest(h, r.start, before), after, r.end);
		*pages += (before - r.start + r.end - after) / PAGE;
	}
	return h;
}

static void hash(void)
{
	uint64_t rounds = option_number("rounds", 2), seconds = option_number("seconds", 0);
	uint64_t fill = option_number("fill", 0) * PAGE_MIB, first = 0, pages, start = clock_ns();
	int command = 0;

	for (uint64_t i = 0; i < fill && i < ram_pages(); i++)
		content_write(ram_page(i), content_option(), i, 0);
	for (uint64_t n = 0; command != 'q'; n++) {
		uint64_t now = clock_ns(), h = digest_all(&pages);
		if (seconds ? now > start + seconds * SECOND_NS : n == rounds)
			return;
		first = n ? first : h;
		command = console_command(now);
		if (n < 2 || command == 's' || h != first)
			print("hash round=%lu pages=%lu digest=0x%016lx %s\n", n, pages, h,
			      !n	   ? "first"
			      : h == first ? "same"
					   : "changed");
		if (h != first)
			fail("the digest was 0x%016lx and is 0x%016lx", first, h);
	}
}

PROGRAM(hash, "digest of all RAM: rounds=2 seconds=0 fill=0 (MiB) content=random|zero|mixed");
