/* SPDX-License-Identifier: BSD-2-Clause */
/* Parsing command lines, and the numbers in them. */
#include "vmm/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_COLUMN 28
#define NAME_ROOM   64

static unsigned int min3(unsigned int a, unsigned int b, unsigned int c)
{
	unsigned int ab = a < b ? a : b;

	return ab < c ? ab : c;
}

/* Levenshtein's edit distance, one row of the matrix at a time. */
static unsigned int distance(const char *a, size_t la, const char *b, size_t lb)
{
	unsigned int row[NAME_ROOM];

	for (unsigned int j = 0; j <= lb; j++)
		row[j] = j;
	for (unsigned int i = 1; i <= la; i++) {
		unsigned int diagonal = row[0];

		row[0] = i;
		for (unsigned int j = 1; j <= lb; j++) {
			unsigned int above = row[j];

			row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
			diagonal = above;
		}
	}
	return row[lb];
}

unsigned int name_distance(const char *name, size_t len, const char *known)
{
	size_t known_len = strlen(known);
	unsigned int d;

	if (len >= NAME_ROOM || known_len >= NAME_ROOM)
		return NAME_FAR;
	if (len >= 3 && strncmp(name, known, len) == 0)
		return 1; /* a beginning of it */
	d = distance(name, len, known, known_len);
	return d < len / 3 + 2 ? d : NAME_FAR;
}

/* The option that @name most likely was meant to be, NULL when none is near. */
static const char *nearest(const char *name, size_t len, const struct option_spec *specs,
			   unsigned int n)
{
	unsigned int best = NAME_FAR;
	const char *found = NULL;

	for (unsigned int i = 0; i < n; i++) {
		unsigned int d = name_distance(name, len, specs[i].name);

		if (d < best) {
			best = d;
			found = specs[i].name;
		}
	}
	return found;
}

static int unknown(const char *arg, size_t len, const struct option_spec *specs, unsigned int n,
		   struct error *err)
{
	size_t dashes = strspn(arg, "-");
	const char *near = nearest(arg + dashes, len - dashes, specs, n);
	char name[NAME_ROOM];

	snprintf(name, sizeof(name), "%.*s", (int)len, arg);
	if (near)
		return error_set(err, -EINVAL, "options", name, "", "",
				 "unknown option; did you mean --%s?", near);
	return error_set(err, -EINVAL, "options", name, "", "", "unknown option");
}

static const struct option_spec *find(const char *name, size_t len, const struct option_spec *specs,
				      unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		if (strlen(specs[i].name) == len && strncmp(specs[i].name, name, len) == 0)
			return &specs[i];
	}
	return NULL;
}

/* Set one option; @argv[*i] is its word, and *i is moved on when the value is the next one. */
static int parse_one(int argc, char **argv, int *i, const struct option_spec *specs,
		     unsigned int n_specs, struct error *err)
{
	const char *arg = argv[*i], *value = strchr(arg, '=');
	size_t len = value ? (size_t)(value - arg) : strlen(arg);
	const struct option_spec *spec = NULL;
	char name[NAME_ROOM];
	int ret;

	if (arg[1] == '-')
		spec = find(arg + 2, len - 2, specs, n_specs);
	if (!spec)
		return unknown(arg, len, specs, n_specs, err);
	snprintf(name, sizeof(name), "--%s", spec->name);
	if (value && !spec->arg)
		return error_set(err, -EINVAL, "options", name, "", "no value", "'%s'", value + 1);
	if (value)
		value++;
	else if (!spec->arg)
		value = "";
	else if (*i + 1 < argc)
		value = argv[++*i];
	else
		return error_set(err, -EINVAL, "options", name, "", spec->arg, "nothing");
	ret = spec->set(spec->opaque, value, err);
	/* parse_size() and its like do not know whose value they look at. */
	if (ret < 0 && err && !err->device[0])
		snprintf(err->device, sizeof(err->device), "%s", name);
	return ret;
}

int options_parse(int argc, char **argv, const struct option_spec *specs, unsigned int n_specs,
		  const char **rest, unsigned int max_rest, unsigned int *n_rest, struct error *err)
{
	bool only_rest = false;
	int ret;

	*n_rest = 0;
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];

		if (!only_rest && strcmp(arg, "--") == 0) {
			only_rest = true;
		} else if (!only_rest && arg[0] == '-' && arg[1]) {
			ret = parse_one(argc, argv, &i, specs, n_specs, err);
			if (ret < 0)
				return ret;
		} else if (*n_rest < max_rest) {
			rest[(*n_rest)++] = arg;
		} else {
			error_set(err, -EINVAL, "options", "arguments", "", "", "'%s' besides",
				  arg);
			error_expected(err, "at most %u without dashes", max_rest);
			return -EINVAL;
		}
	}
	return 0;
}

void options_help(const struct option_spec *specs, unsigned int n_specs)
{
	for (unsigned int i = 0; i < n_specs; i++) {
		int n = printf("  --%s%s%s", specs[i].name, specs[i].arg ? " " : "",
			       specs[i].arg ? specs[i].arg : "");

		if (n >= HELP_COLUMN) {
			printf("\n");
			n = 0;
		}
		printf("%*s%s\n", HELP_COLUMN - n, "", specs[i].help);
	}
}

/* Decimal digits at *@text, which is moved behind them. False when there are none or too many. */
static bool digits(const char **text, uint64_t *value)
{
	const char *begin = *text;

	*value = 0;
	for (; **text >= '0' && **text <= '9'; ++*text) {
		if (__builtin_mul_overflow(*value, 10, value) ||
		    __builtin_add_overflow(*value, (uint64_t)(**text - '0'), value))
			return false;
	}
	return *text > begin;
}

/* The unit that the suffix at @text stands for, 0 when there is no such suffix. */
static uint64_t suffix_unit(const char *text, uint64_t unit)
{
	static const char letters[] = "KMGT";
	const char *letter;

	if (!text[0])
		return unit;
	letter = memchr(letters, text[0] & ~0x20, strlen(letters));
	if (!letter || text[1])
		return 0;
	return 1ULL << 10 * (letter - letters + 1);
}

int parse_size(const char *text, uint64_t unit, uint64_t *bytes, struct error *err)
{
	const char *p = text, *begin;
	uint64_t whole, fraction = 0, scale = 1;
	unsigned __int128 total;
	bool ok = digits(&p, &whole);

	if (ok && *p == '.') {
		begin = ++p;
		ok = digits(&p, &fraction) && p - begin <= 15;
		for (; ok && begin < p; begin++)
			scale *= 10;
	}
	if (ok)
		unit = suffix_unit(p, unit);
	if (!ok || !unit)
		return error_set(err, -EINVAL, "options", "", "", "a size such as 512M or 1.5G",
				 "'%s'", text);
	total = (unsigned __int128)whole * unit + (unsigned __int128)fraction * unit / scale;
	if (total > UINT64_MAX)
		return error_set(err, -ERANGE, "options", "", "", "less than 16777216T", "'%s'",
				 text);
	*bytes = (uint64_t)total;
	return 0;
}

int parse_uint(const char *text, uint64_t min, uint64_t max, uint64_t *value, struct error *err)
{
	const char *p = text;
	uint64_t v = 0;
	char *end;
	bool ok;

	if (text[0] == '0' && (text[1] | 0x20) == 'x' &&
	    strspn(text + 2, "0123456789abcdefABCDEF")) {
		errno = 0;
		v = strtoull(text, &end, 16);
		ok = !*end && errno == 0;
	} else {
		ok = digits(&p, &v) && !*p;
	}
	if (ok && v >= min && v <= max) {
		*value = v;
		return 0;
	}
	error_set(err, -EINVAL, "options", "", "", "", "'%s'", text);
	error_expected(err, "a number from %" PRIu64 " to %" PRIu64, min, max);
	return -EINVAL;
}

int option_set_string(void *opaque, const char *value, struct error *err)
{
	(void)err;
	*(const char **)opaque = value;
	return 0;
}

int option_set_flag(void *opaque, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	*(bool *)opaque = true;
	return 0;
}

int option_set_mib(void *opaque, const char *value, struct error *err)
{
	return parse_size(value, 1 << 20, opaque, err);
}
