/* SPDX-License-Identifier: BSD-2-Clause */
/* Any flattened tree as text that dtc reads again. */
#include <ctype.h>
#include <inttypes.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>

#include "vmm/tree.h"

static const char escaped[] = "\a\b\t\n\v\f\r\"\\", letters[] = "abtnvfr\"\\";

static bool is_text(unsigned char c)
{
	return isprint(c) || (c && strchr(escaped, c));
}

/* A flattened tree does not say of what type a value is. dtc's guess: strings when all could be
 * characters and no more than half of them are NULs. */
static bool looks_like_strings(const unsigned char *p, int len)
{
	int nuls = 0;

	for (int i = 0; i < len; i++) {
		if (p[i] && !is_text(p[i]))
			return false;
		nuls += p[i] == 0;
	}
	return p[len - 1] == 0 && nuls <= len - nuls;
}

static void print_strings(FILE *out, const char *p, int len)
{
	for (const char *end = p + len; p < end; p++) {
		fputc('"', out);
		for (; *p; p++) {
			const char *e = strchr(escaped, *p);

			if (e)
				fprintf(out, "\\%c", letters[e - escaped]);
			else
				fputc(*p, out);
		}
		fputs(p + 1 < end ? "\", " : "\"", out);
	}
}

static void print_value(FILE *out, const void *value, int len)
{
	const unsigned char *bytes = value;
	const fdt32_t *cells = value;

	if (looks_like_strings(value, len)) {
		print_strings(out, value, len);
	} else if (len % 4 == 0) {
		for (int i = 0; i < len / 4; i++)
			fprintf(out, "%s0x%02" PRIx32, i ? " " : "<", fdt32_ld(&cells[i]));
		fputc('>', out);
	} else {
		for (int i = 0; i < len; i++)
			fprintf(out, "%s%02x", i ? " " : "[", bytes[i]);
		fputc(']', out);
	}
}

static void indent(FILE *out, int depth)
{
	while (depth-- > 0)
		fputc('\t', out);
}

/* Names may come from a stream, and the text go to a terminal. */
static void print_name(FILE *out, const char *name)
{
	for (; *name; name++)
		fputc(isprint((unsigned char)*name) ? *name : '?', out);
}

static void print_property(FILE *out, const void *fdt, int offset, int depth)
{
	const char *name;
	int len;
	const void *value = fdt_getprop_by_offset(fdt, offset, &name, &len);

	if (!value)
		return;
	indent(out, depth);
	print_name(out, name);
	if (len > 0) {
		fputs(" = ", out);
		print_value(out, value, len);
	}
	fputs(";\n", out);
}

void tree_print(FILE *out, const void *fdt)
{
	int depth = 0, next = 0;
	uint32_t tag;

	fputs("/dts-v1/;\n", out);
	do {
		int offset = next;

		tag = fdt_next_tag(fdt, offset, &next);
		if (tag == FDT_BEGIN_NODE) {
			fputc('\n', out);
			indent(out, depth++);
			print_name(out, offset ? fdt_get_name(fdt, offset, NULL) : "/");
			fputs(" {\n", out);
		} else if (tag == FDT_PROP) {
			print_property(out, fdt, offset, depth);
		} else if (tag == FDT_END_NODE) {
			indent(out, --depth);
			fputs("};\n", out);
		}
	} while (tag != FDT_END && next >= 0);
}
