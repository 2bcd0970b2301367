/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CPU models as files. "cpuid" is the model, a row a leaf: function, index, flags as KVM counts
 * them, and the four registers, in hexadecimal. The rest is for people, and not read.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/x86/features.h"
#include "vmm/x86/model.h"

#define FORMAT	 1
#define ROW_SIZE 64
#define NUMBERS	 7 /* in a row */

static const char *format_row(const struct kvm_cpuid_entry2 *e, char row[ROW_SIZE])
{
	snprintf(row, ROW_SIZE, "%08x %08x %x: %08x %08x %08x %08x", e->function, e->index,
		 e->flags, e->eax, e->ebx, e->ecx, e->edx);
	return row;
}

static json_t *levels_of(const struct cpuid_table *table)
{
	static const char *const names[] = { "x86-64-v2", "x86-64-v3" };
	json_t *levels = json_array();

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct cpuid_table *model = malloc(sizeof(*model));

		if (model && model_build(names[i], table, model, NULL) == 0)
			json_array_append_new(levels, json_string(names[i]));
		free(model);
	}
	return levels;
}

static json_t *features_of(const struct cpuid_table *table)
{
	json_t *words = json_object();
	const struct feature_word *f;

	for_each_feature_word(f)
	{
		uint32_t value = feature_value(table, f);
		char names[512] = "";
		size_t len = 0;

		for (unsigned int bit = 0; bit < 32; bit++) {
			if (value >> bit & 1 && f->bits[bit] && len < sizeof(names))
				len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%s",
							len ? " " : "", f->bits[bit]);
		}
		if (len)
			json_object_set_new(words, f->name, json_string(names));
	}
	return words;
}

static json_t *rows_of(const struct cpuid_table *table)
{
	json_t *rows = json_array();
	char row[ROW_SIZE];

	for (uint32_t i = 0; i < table->head.nent; i++)
		json_array_append_new(rows, json_string(format_row(&table->entries[i], row)));
	return rows;
}

/* The vendor's name is in EBX, EDX, ECX of leaf 0. */
static json_t *vendor_of(const struct cpuid_table *table)
{
	const struct kvm_cpuid_entry2 *e = cpuid_entry(table, 0, 0);
	uint32_t regs[3] = { e ? e->ebx : 0, e ? e->edx : 0, e ? e->ecx : 0 };
	char text[sizeof(regs) + 1] = { 0 };

	memcpy(text, regs, sizeof(regs));
	for (char *p = text; *p; p++) {
		if (*p < ' ' || *p > '~')
			*p = '?';
	}
	return json_string(text);
}

int model_write(FILE *out, const struct cpuid_table *table, struct error *err)
{
	json_t *json = json_pack("{s:i, s:o, s:o, s:o, s:o}", "ferry-cpu", FORMAT, "vendor",
				 vendor_of(table), "levels", levels_of(table), "features",
				 features_of(table), "cpuid", rows_of(table));
	int ret = json ? json_dumpf(json, out, JSON_INDENT(2)) : -1;

	json_decref(json);
	if (ret < 0 || fputc('\n', out) == EOF || fflush(out) != 0)
		return error_set(err, -EIO, "cpu", "output", "", "to be written", "%m");
	return 0;
}

/* A row is what format_row() makes of it, so nothing that sscanf() takes besides is taken. */
static int read_row(const char *text, struct kvm_cpuid_entry2 *e, const char *path,
		    struct error *err)
{
	char row[ROW_SIZE];

	memset(e, 0, sizeof(*e));
	if (text && strlen(text) < ROW_SIZE &&
	    sscanf(text, "%8x %8x %8x: %8x %8x %8x %8x", &e->function, &e->index, &e->flags,
		   &e->eax, &e->ebx, &e->ecx, &e->edx) == NUMBERS &&
	    strcmp(format_row(e, row), text) == 0)
		return 0;
	return error_set(err, -EINVAL, "cpu", path, "cpuid",
			 "rows of 8 digits: function index flags: eax ebx ecx edx", "'%.60s'",
			 text ? text : "another type");
}

static int read_rows(const json_t *json, struct cpuid_table *table, const char *path,
		     struct error *err)
{
	const json_t *rows = json_object_get(json, "cpuid");
	size_t n = json_array_size(rows);
	int ret = 0;

	if (json_integer_value(json_object_get(json, "ferry-cpu")) != FORMAT)
		return error_set(err, -EINVAL, "cpu", path, "ferry-cpu",
				 "what 'ferry cpu' has written, of version 1", "something else");
	if (n < 1 || n > CPUID_MAX)
		return error_set(err, -EINVAL, "cpu", path, "cpuid", "1 to 128 rows", "%zu", n);
	memset(table, 0, sizeof(*table));
	table->head.nent = (uint32_t)n;
	for (size_t i = 0; i < n && ret == 0; i++)
		ret = read_row(json_string_value(json_array_get(rows, i)), &table->entries[i], path,
			       err);
	return ret;
}

int model_read(const char *path, struct cpuid_table *table, struct error *err)
{
	FILE *in = fopen(path, "re");
	json_error_t why;
	json_t *json;
	int ret;

	if (!in)
		return error_set(err, -errno, "cpu", path, "",
				 "a file that 'ferry cpu' has written", "%m");
	json = json_loadf(in, JSON_REJECT_DUPLICATES, &why);
	fclose(in);
	if (!json)
		return error_set(err, -EINVAL, "cpu", path, "",
				 "a file that 'ferry cpu' has written", "line %d: %s", why.line,
				 why.text);
	ret = read_rows(json, table, path, err);
	ret = ret ? ret : cpuid_check(table, err);
	json_decref(json);
	if (ret == 0)
		cpuid_set_topology(table, 0, 1);
	return ret;
}
