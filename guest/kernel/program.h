/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a program of guest/ needs first: to register, to read its options, to print and to end.
 * A program is a function that returns when all is well and calls fail() otherwise.
 */
#ifndef GUEST_PROGRAM_H
#define GUEST_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "mem.h"

struct program {
	const char *name;
	const char *help; /* one line, options included */
	void (*run)(void);
};

/* Adds a program; the linker collects these lines (guest.lds), so no other list names it. */
#define PROGRAM_NAMED(name, function, text)                                                     \
	static const struct program program_##name                                              \
		__attribute__((section(".programs." #name), used, aligned(8))) = { #name, text, \
										   function }
#define PROGRAM(function, text) PROGRAM_NAMED(function, function, text)

/* Console. print knows %s %c %d %u %x with l, ll, 0 and a width; whole calls are not mixed. */
__attribute__((format(printf, 1, 2))) void print(const char *fmt, ...);

/* Looks at the clock for @gap at each character that is printed, so that a pause meanwhile is seen.
 * Of a program that runs on one CPU, which gives it up (NULL) before @gap is gone. */
struct gap;
void console_watch(struct gap *gap);

/* A byte from the console, -1 when there is none. */
int console_get(void);

/*
 * What a person or a test asks of a running program by a byte on the console: 's' status,
 * 'v' verify, 'r' reset the gap, 'q' finish. Looks at the port once in 10 ms, 0 when nothing came.
 */
int console_command(uint64_t now_ns);

/* Ends with `FAIL program: reason`. Any CPU. */
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *fmt, ...);

/* Options are key=value words of the command line; numbers are decimal or 0x…. */
uint64_t option_number(const char *key, uint64_t otherwise);
bool option_is(const char *key, const char *value, bool otherwise);

/*
 * The word after @key= from @from on (NULL: the whole command line), NULL when there is none.
 * *size is its length; calling again with the result as @from finds the next one.
 */
const char *option_find(const char *key, const char *from, size_t *size);

#endif
