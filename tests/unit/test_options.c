/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "vmm/options.h"

struct values {
	const char *kernel, *log;
	uint64_t memory;
	bool paused;
};

static int add_to_log(void *opaque, const char *value, struct error *err)
{
	(void)err;
	strcat(opaque, value);
	return 0;
}

static const char *rest[2];
static unsigned int n_rest;
static char log_text[64];

/* Parse "run" and the words of @line. */
static int parse(const char *line, struct values *v, struct error *err)
{
	const struct option_spec specs[] = {
		{ "kernel", "FILE", "boot image", option_set_string, &v->kernel },
		{ "memory", "SIZE", "RAM", option_set_mib, &v->memory },
		{ "paused", NULL, "do not start", option_set_flag, &v->paused },
		{ "log", "TEXT", "more of it", add_to_log, log_text },
	};
	static char words[256], run[] = "run";
	char *argv[16] = { run };
	int argc = 1;

	memset(v, 0, sizeof(*v));
	memset(err, 0, sizeof(*err));
	log_text[0] = 0;
	strcpy(words, line);
	for (char *w = strtok(words, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	return options_parse(argc, argv, specs, 4, rest, 2, &n_rest, err);
}

static void both_forms_and_the_rest(void **state)
{
	struct values v;
	struct error err;

	(void)state;
	assert_int_equal(parse("a --kernel=k=1 --memory 64 --paused --log 1 b --log=2", &v, &err),
			 0);
	assert_string_equal(v.kernel, "k=1");
	assert_int_equal(v.memory, 64 << 20);
	assert_true(v.paused);
	assert_string_equal(log_text, "12");
	assert_int_equal(n_rest, 2);
	assert_string_equal(rest[0], "a");
	assert_string_equal(rest[1], "b");
	assert_int_equal(parse("-- --kernel -", &v, &err), 0);
	assert_null(v.kernel);
	assert_string_equal(rest[0], "--kernel");
	assert_string_equal(rest[1], "-");
	/* A value may look like an option, or be empty. */
	assert_int_equal(parse("--kernel --paused --log=", &v, &err), 0);
	assert_string_equal(v.kernel, "--paused");
	assert_false(v.paused);
}

static void bad_line(const char *line, const char *sentence)
{
	struct values v;
	struct error err;
	char buf[640];

	assert_int_equal(parse(line, &v, &err), -EINVAL);
	assert_string_equal(error_sentence(&err, buf, sizeof(buf)), sentence);
}

static void mistakes_are_named(void **state)
{
	(void)state;
	bad_line("--kernal x", "options: --kernal: unknown option; did you mean --kernel?");
	bad_line("--mem=5", "options: --mem: unknown option; did you mean --memory?");
	bad_line("-paused", "options: -paused: unknown option; did you mean --paused?");
	bad_line("--frobnicate", "options: --frobnicate: unknown option");
	bad_line("--x", "options: --x: unknown option");
	bad_line("--=x", "options: --: unknown option");
	bad_line("--kernel", "options: --kernel: expected FILE, found nothing");
	bad_line("--paused=yes", "options: --paused: expected no value, found 'yes'");
	bad_line("a b c",
		 "options: arguments: expected at most 2 without dashes, found 'c' besides");
	bad_line("--memory lots",
		 "options: --memory: expected a size such as 512M or 1.5G, found 'lots'");
}

static void overlong_words(void **state)
{
	char line[200] = "--";
	struct values v;
	struct error err;

	(void)state;
	memset(line + 2, 'k', sizeof(line) - 3);
	assert_int_equal(parse(line, &v, &err), -EINVAL);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },	      { "512", 512 << 20 },
		{ "64K", 64 << 10 },  { "64k", 64 << 10 },
		{ "3M", 3 << 20 },    { "1.5G", 3ULL << 29 },
		{ "2T", 2ULL << 40 }, { "0.25M", 1 << 18 },
		{ "1.5", 3 << 19 },   { "16383T", 16383ULL << 40 },
		{ "0.1K", 102 },      { "16777215.999T", 18446744072610039988ULL },
	};
	static const char *const bad[] = {
		"",
		"M",
		"-1",
		"+1",
		"1.",
		".5G",
		"1.5.5",
		"5MB",
		"5 M",
		" 5",
		"5 ",
		"0x10",
		"1e3",
		"5X",
		"1.0000000000000001",
		"99999999999999999999",
	};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(parse_size(good[i].text, 1 << 20, &bytes, NULL), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse_size(bad[i], 1, &bytes, NULL), -EINVAL);
	assert_int_equal(parse_size("16777216T", 1, &bytes, NULL), -ERANGE);
	assert_int_equal(parse_size("18446744073709551615K", 1, &bytes, NULL), -ERANGE);
	assert_int_equal(parse_size("18446744073709551615", 1, &bytes, NULL), 0);
	assert_int_equal(bytes, UINT64_MAX);
}

static void numbers(void **state)
{
	static const char *const bad[] = { "",
					   "0",
					   "33",
					   "-1",
					   "+1",
					   "1 ",
					   " 1",
					   "1x",
					   "0x",
					   "0x21",
					   "0x1g",
					   "0x-1",
					   "1.0",
					   "99999999999999999999",
					   "0x10000000000000001" };
	struct error err = { 0 };
	uint64_t v;

	(void)state;
	assert_int_equal(parse_uint("32", 1, 32, &v, NULL), 0);
	assert_int_equal(v, 32);
	assert_int_equal(parse_uint("0x1F", 1, 32, &v, NULL), 0);
	assert_int_equal(v, 31);
	assert_int_equal(parse_uint("18446744073709551615", 0, UINT64_MAX, &v, NULL), 0);
	assert_int_equal(v, UINT64_MAX);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse_uint(bad[i], 1, 32, &v, NULL), -EINVAL);
	parse_uint("99", 1, 32, &v, &err);
	assert_string_equal(err.expected, "a number from 1 to 32");
	assert_string_equal(err.got, "'99'");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_forms_and_the_rest),
		cmocka_unit_test(mistakes_are_named),
		cmocka_unit_test(overlong_words),
		cmocka_unit_test(sizes),
		cmocka_unit_test(numbers),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
