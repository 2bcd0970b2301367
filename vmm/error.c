/* SPDX-License-Identifier: BSD-2-Clause */
/* Errors as data: recording one, and saying it as a sentence. */
#include "vmm/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the UTF-8 character at @s (RFC 3629, 4), 0 when it is none, or a control character. */
static size_t printable(const unsigned char *s)
{
	size_t n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (s[0] < 0x80)
		return s[0] >= ' ' && s[0] != 0x7f;
	if (s[0] < 0xc2 || s[0] > 0xf4 || (s[0] == 0xc2 && s[1] < 0xa0) ||
	    (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90))
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

/* Texts come from streams, trees and peers too: no escape sequence may reach a terminal. */
static void disarm(char *text)
{
	while (*text) {
		size_t n = printable((unsigned char *)text);

		if (!n)
			*text = '?';
		text += n ? n : 1;
	}
}

static void copy(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from ? from : "");
	disarm(to);
}

int error_set(struct error *err, int code, const char *phase, const char *device, const char *field,
	      const char *expected, const char *got, ...)
{
	va_list ap;

	if (!err || err->code)
		return code;
	err->code = code;
	copy(err->phase, sizeof(err->phase), phase);
	copy(err->device, sizeof(err->device), device);
	copy(err->field, sizeof(err->field), field);
	copy(err->expected, sizeof(err->expected), expected);
	va_start(ap, got);
	vsnprintf(err->got, sizeof(err->got), got, ap);
	va_end(ap);
	disarm(err->got);
	return code;
}

void error_expected(struct error *err, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	vsnprintf(err->expected, sizeof(err->expected), fmt, ap);
	va_end(ap);
	disarm(err->expected);
}

void error_clear(struct error *err)
{
	memset(err, 0, sizeof(*err));
}

const char *error_sentence(const struct error *err, char *buf, size_t size)
{
	snprintf(buf, size, "%s%s%s%s%s: %s%s%s%s", err->phase, err->device[0] ? ": " : "",
		 err->device, err->field[0] ? ": " : "", err->field,
		 err->expected[0] ? "expected " : "", err->expected,
		 err->expected[0] ? ", found " : "", err->got);
	return buf;
}

void error_print(const struct error *err)
{
	char buf[640];

	fprintf(stderr, "ferry: %s\n", error_sentence(err, buf, sizeof(buf)));
}
