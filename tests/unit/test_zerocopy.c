/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MSG_ZEROCOPY over loopback, where the kernel copies after all and says so; that everything
 * arrives, is counted once, and that where it cannot be had a plain send takes its place.
 */
#include "multifd-rig.h"

#include <fcntl.h>
#include <sched.h>
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

/* ---- Between two network namespaces ---- */

#define NO_NAMESPACES 77

static int new_namespace(void)
{
	return unshare(CLONE_NEWNET) < 0 ? -1 : open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* 10.9.9.1 in the namespace of @there, 10.9.9.2 here. Leaves us there. */
static bool connect_namespaces(int there)
{
	char command[256];

	snprintf(command, sizeof(command),
		 "exec 2>/dev/null; ip link add here type veth peer name there netns "
		 "/proc/%d/fd/%d && "
		 "ip addr add 10.9.9.2/24 dev here && ip link set here up",
		 (int)getpid(), there);
	return system(command) == 0 && setns(there, CLONE_NEWNET) == 0 &&
	       system("ip addr add 10.9.9.1/24 dev there && ip link set there up") == 0;
}

static int cross_namespaces(void)
{
	int there = new_namespace(), here = new_namespace();
	const struct migration_stats *s;
	struct rig r;

	if (there < 0 || here < 0 || !connect_namespaces(there))
		return NO_NAMESPACES;
	rig_prepare_at(&r, "tcp:10.9.9.1:0", 48 * MIB, 4, 20000);
	if (setns(here, CLONE_NEWNET) < 0)
		return 2;
	fill_random(&r.from->memory, 13);
	r.from->migration->params.zero_copy = ZEROCOPY_ON;
	rig_cross(&r, r.uri);
	assert_moved(&r);
	s = &r.from->migration->stats;
	if (s->zerocopy_bytes != s->pages_data * PAGE_SIZE ||
	    s->zerocopy_copied > s->zerocopy_bytes)
		return 1;
	printf("# %ju of %ju bytes were copied by the kernel\n", (uintmax_t)s->zerocopy_copied,
	       (uintmax_t)s->zerocopy_bytes);
	fflush(stdout);
	rig_finish(&r);
	return 0;
}

static void over_veth(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	fflush(NULL);
	pid = fork();
	assert_return_code(pid, errno);
	if (pid == 0)
		_exit(cross_namespaces());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == NO_NAMESPACES)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on),
		cmocka_unit_test(automatic),
		cmocka_unit_test(not_over_unix),
		cmocka_unit_test(memory_that_may_not_be_pinned),
		cmocka_unit_test(over_veth),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
