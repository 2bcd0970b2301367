/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line: its first word names the program, key=value words are the program's options. */
#include "machine.h"
#include "program.h"

const char *option_find(const char *key, const char *from, size_t *size)
{
	const char *p = from ? from : machine.cmdline;

	while (*p) {
		while (*p == ' ')
			p++;
		const char *k = key;
		const char *word = p;
		while (*k && *p == *k) {
			p++;
			k++;
		}
		bool found = word != from && !*k && *p == '=';
		const char *value = p + 1;
		while (*p && *p != ' ')
			p++;
		if (found) {
			*size = (size_t)(p - value);
			return value;
		}
	}
	return NULL;
}

/* Decimal or 0x…, up to @end or the first other character; *end tells where that is. */
uint64_t number_parse(const char *s, const char **end)
{
	uint64_t value = 0;
	unsigned base = 10;

	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	for (;; s++) {
		unsigned digit = *s >= '0' && *s <= '9'	  ? (unsigned)(*s - '0')
				 : *s >= 'a' && *s <= 'f' ? (unsigned)(*s - 'a' + 10)
							  : 99;
		if (digit >= base)
			break;
		value = value * base + digit;
	}
	if (end)
		*end = s;
	return value;
}

uint64_t option_number(const char *key, uint64_t otherwise)
{
	size_t size;
	const char *end, *s = option_find(key, NULL, &size);

	if (!s)
		return otherwise;
	uint64_t value = number_parse(s, &end);
	if (end != s + size || !size)
		fail("option %s: a number is expected", key);
	return value;
}

bool option_is(const char *key, const char *value, bool otherwise)
{
	size_t size;
	const char *s = option_find(key, NULL, &size);

	if (!s)
		return otherwise;
	return size == strlen(value) && memcmp(s, value, size) == 0;
}
