/* SPDX-License-Identifier: BSD-2-Clause */
/* Is a page all zero? Found with the widest vector unit this CPU has. */
#ifndef MIGRATION_ZERO_H
#define MIGRATION_ZERO_H

#include <stdbool.h>
#include <stddef.h>

#define ZERO_PAGE_SIZE 4096

/*
 * True when all 4096 bytes at @page (aligned to 4096) are zero. Stops at the first piece that is
 * not. Any thread. The guest may write the page meanwhile; the answer is then that of some moment,
 * which is good enough because the page is dirty again.
 */
bool page_is_zero(const void *page);

/* One way to find out, for tests and the bench. */
struct zero_variant {
	const char *name;
	bool (*supported)(void); /* may this CPU run it? */
	bool (*is_zero)(const void *page);
};

/* All variants, widest first; *@n receives their number. */
const struct zero_variant *zero_variants(size_t *n);

#endif
