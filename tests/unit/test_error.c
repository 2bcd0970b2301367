/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "vmm/error.h"

static char buf[640];

static void first_error_wins(void **state)
{
	struct error err = { 0 };

	(void)state;
	assert_int_equal(error_set(&err, -EIO, "load", "disk", "size", "1 MiB", "%d MiB", 2), -EIO);
	assert_int_equal(error_set(&err, -EPERM, "a", "b", "c", "d", "e"), -EPERM);
	assert_int_equal(err.code, -EIO);
	assert_string_equal(error_sentence(&err, buf, sizeof(buf)),
			    "load: disk: size: expected 1 MiB, found 2 MiB");
	error_clear(&err);
	assert_int_equal(err.code, 0);
	assert_int_equal(error_set(NULL, -EIO, "a", "b", "c", "d", "e"), -EIO);
}

static void empty_facts_leave_no_gap(void **state)
{
	struct error err = { 0 };

	(void)state;
	error_set(&err, -EIO, "boot", NULL, "", NULL, "trouble");
	assert_string_equal(error_sentence(&err, buf, sizeof(buf)), "boot: trouble");
	error_expected(&err, "%d things", 2);
	assert_string_equal(error_sentence(&err, buf, sizeof(buf)),
			    "boot: expected 2 things, found trouble");
}

static void control_characters_are_disarmed(void **state)
{
	struct error err = { 0 };

	(void)state;
	error_set(&err, -EIO, "load", "\x1b[2J", "\n", "\x7f", "a%sb", "\r");
	error_sentence(&err, buf, sizeof(buf));
	assert_string_equal(buf, "load: ?[2J: ?: expected ?, found a?b");
	error_expected(&err, "\t\xc3\xa4");
	assert_string_equal(err.expected, "?\xc3\xa4");
}

/* What is kept is UTF-8, so that it can go into JSON and onto any terminal. */
static void broken_characters_are_disarmed(void **state)
{
	static const struct {
		const char *text, *kept;
	} cases[] = {
		{ "\xc3\xa4 \xe2\x80\xa6 \xf0\x9f\x90\x88",
		  "\xc3\xa4 \xe2\x80\xa6 \xf0\x9f\x90\x88" },
		{ "\xff\x80 a", "?? a" },
		{ "\xc2\x9b"
		  "2J",
		  "??2J" },	      /* CSI */
		{ "\xc0\x9b", "??" }, /* longer than need be: ESC */
		{ "\xe0\x80\x9b", "???" },
		{ "\xf0\x80\x80\x9b", "????" },
		{ "\xe2\x80", "??" }, /* cut */
		{ "\xc3", "?" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct error err = { 0 };

		error_set(&err, -EIO, "load", cases[i].text, "", "", "x");
		assert_string_equal(err.device, cases[i].kept);
	}
}

static void long_texts_are_cut(void **state)
{
	struct error err = { 0 };
	char text[2000];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	error_set(&err, -EIO, text, text, text, text, "%s", text);
	assert_int_equal(strlen(err.got), sizeof(err.got) - 1);
	assert_true(strlen(error_sentence(&err, buf, sizeof(buf))) < sizeof(buf));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_error_wins),
		cmocka_unit_test(empty_facts_leave_no_gap),
		cmocka_unit_test(control_characters_are_disarmed),
		cmocka_unit_test(broken_characters_are_disarmed),
		cmocka_unit_test(long_texts_are_cut),
	};

	return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
