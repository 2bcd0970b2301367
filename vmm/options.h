/* SPDX-License-Identifier: BSD-2-Clause */
/* Command lines: sizes, numbers, a small table-driven parser and its help text. */
#ifndef VMM_OPTIONS_H
#define VMM_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/error.h"

struct option_spec {
	const char *name; /* long option without dashes */
	const char *arg;  /* shown in the help; NULL: takes none */
	const char *help;
	/* Called in command line order; @value is "" without @arg. */
	int (*set)(void *opaque, const char *value, struct error *err);
	void *opaque;
};

/*
 * Parse options --name VALUE, --name=VALUE, and "--". Others are collected in @rest (borrowed
 * pointers, room for @max_rest; *n_rest is set). --help and --version are left to the caller.
 * Unknown options are errors that name the nearest known one.
 */
int options_parse(int argc, char **argv, const struct option_spec *specs, unsigned int n_specs,
		  const char **rest, unsigned int max_rest, unsigned int *n_rest,
		  struct error *err);
/* Print the table as aligned help lines to stdout. */
void options_help(const struct option_spec *specs, unsigned int n_specs);

/* How far the first @len bytes of @name are from what they may have been meant to be, NAME_FAR when
 * nobody would think so. */
#define NAME_FAR 100U
unsigned int name_distance(const char *name, size_t len, const char *known);

/* "512", "64M", "1.5G" (powers of 1024; a bare number counts @unit bytes). */
int parse_size(const char *text, uint64_t unit, uint64_t *bytes, struct error *err);
int parse_uint(const char *text, uint64_t min, uint64_t max, uint64_t *value, struct error *err);

/* Ready-made setters: @opaque is the variable. Size: bytes, bare numbers are MiB. */
int option_set_string(void *opaque, const char *value, struct error *err); /* const char ** */
int option_set_flag(void *opaque, const char *value, struct error *err);   /* bool * */
int option_set_mib(void *opaque, const char *value, struct error *err);	   /* uint64_t * */

#endif
