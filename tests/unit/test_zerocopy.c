/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MSG_ZEROCOPY over loopback, where the kernel copies after all and says so; that everything
 * arrives, is counted once, and that where it cannot be had a plain send takes its place.
 */
#include "multifd-rig.h"

#include <sys/resource.h>
#include <sys/wait.h>

static void crosses(enum zerocopy_mode mode, int channels, struct migration_stats *stats)
{
	struct rig r;

	rig_prepare_at(&r, "tcp:127.0.0.1:0", 48 * MIB, channels, 20000);
	fill_random(&r.from->memory, 11);
	/* Single pages between others, so that tables are long. */
	for (uint64_t gpa = 0; gpa < 8 * MIB; gpa += 2 * PAGE_SIZE)
		memset(memory_hva(&r.from->memory, gpa, PAGE_SIZE), 0, PAGE_SIZE);
	r.from->migration->params.zero_copy = mode;
	rig_cross(&r, r.uri);
	assert_moved(&r);
	*stats = r.from->migration->stats;
	assert_int_equal(stats->bytes_xfer, r.to->migration->stats.bytes_xfer);
	rig_finish(&r);
}

static void on(void **state)
{
	static const int channels[] = { 1, 4, 16 };

	(void)state;
	for (size_t i = 0; i < sizeof(channels) / sizeof(channels[0]); i++) {
		struct migration_stats s;

		crosses(ZEROCOPY_ON, channels[i], &s);
		/* All pages, and nothing but pages; they have all left by now. */
		assert_int_equal(s.zerocopy_bytes, s.pages_data * PAGE_SIZE);
		assert_int_equal(s.zerocopy_copied, s.zerocopy_bytes);
		assert_int_equal(s.zerocopy_fallbacks, 0);
	}
}

static void automatic(void **state)
{
	struct migration_stats s;

	(void)state;
	crosses(ZEROCOPY_AUTO, 1, &s);
	assert_in_range(s.zerocopy_bytes, 1, 36 * MIB);
	assert_true(s.zerocopy_copied > 0);
	assert_int_equal(s.zerocopy_fallbacks, 1);
	crosses(ZEROCOPY_AUTO, 4, &s);
	assert_in_range(s.zerocopy_fallbacks, 1, 4);
	crosses(ZEROCOPY_OFF, 4, &s);
	assert_int_equal(s.zerocopy_bytes + s.zerocopy_fallbacks, 0);
}

static void not_over_unix(void **state)
{
	struct rig r;

	(void)state;
	rig_prepare(&r, 4 * MIB, 2, 5000);
	r.from->migration->params.zero_copy = ZEROCOPY_AUTO;
	rig_cross(&r, r.uri);
	assert_moved(&r);
	assert_int_equal(r.from->migration->stats.zerocopy_fallbacks, 2);
	rig_finish(&r);
	rig_prepare(&r, 4 * MIB, 2, 5000);
	r.from->migration->params.zero_copy = ZEROCOPY_ON;
	rig_cross(&r, r.uri);
	assert_stayed(&r);
	assert_string_equal(r.from->migration->error.field, "zero-copy");
	rig_finish(&r);
}

/* Somebody without rights may pin next to nothing; what cannot be pinned is copied. */
static void memory_that_may_not_be_pinned(void **state)
{
	const struct rlimit none = { 0, 0 };
	int status;
	pid_t pid;

	(void)state;
	fflush(NULL);
	pid = fork();
	assert_return_code(pid, errno);
	if (pid == 0) {
		struct migration_stats s = { 0 };

		if (setrlimit(RLIMIT_MEMLOCK, &none) < 0 ||
		    (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0))
			_exit(2);
		crosses(ZEROCOPY_ON, 2, &s);
		_exit(s.zerocopy_fallbacks > 0 && s.zerocopy_bytes == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on),
		cmocka_unit_test(automatic),
		cmocka_unit_test(not_over_unix),
		cmocka_unit_test(memory_that_may_not_be_pinned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
