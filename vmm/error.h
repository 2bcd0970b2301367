/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors are data: the same five facts on both sides of a migration, on the control socket and, as
 * one sentence, on stderr. Functions that can fail return a negative errno and fill one of these.
 */
#ifndef VMM_ERROR_H
#define VMM_ERROR_H

#include <stddef.h>

struct error {
	int code;	    /* negative errno, 0 when nothing is recorded */
	char phase[32];	    /* what was being done: "options", "boot", "load", "connect", … */
	char device[64];    /* which thing: a tree node, a file, an address */
	char field[64];	    /* which part of it, "" when the thing as a whole is meant */
	char expected[160]; /* what would have been right, "" when there is nothing to say */
	char got[256];	    /* what was found instead */
};

/*
 * Record what went wrong and return @code, so that a caller can write `return error_set(…)`.
 * The first error wins: a later call on a filled @err changes nothing but still returns @code.
 * @err may be NULL. @got is a printf format. Any thread, @err is the caller's.
 */
__attribute__((format(printf, 7, 8))) int error_set(struct error *err, int code, const char *phase,
						    const char *device, const char *field,
						    const char *expected, const char *got, ...);

/* Replace the expectation by a formatted one (ranges, sizes). Meant to follow error_set. */
__attribute__((format(printf, 2, 3))) void error_expected(struct error *err, const char *fmt, ...);

/* Forget what is recorded. */
void error_clear(struct error *err);

/* Write the error as one sentence without a newline; returns @buf. */
const char *error_sentence(const struct error *err, char *buf, size_t size);

/* Print the sentence to stderr, "ferry: …\n". */
void error_print(const struct error *err);

#endif
