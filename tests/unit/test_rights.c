/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors beside the bytes of a channel, and which of them may be a guest's RAM. */
#include "hand-over-fixture.h"

#include "migration/rights.h"

/* ---- Descriptors beside bytes ---- */

static void pair(struct channel *ch[2])
{
	int fds[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	for (int i = 0; i < 2; i++)
		assert_int_equal(channel_from_fd(fds[i], "end", false, &ch[i]), 0);
}

static void descriptors_cross(void **state)
{
	unsigned int before = open_fds();
	struct channel *ch[2];
	struct stat want, got;
	int fds[2], fd;
	char buf[8];

	(void)state;
	pair(ch);
	assert_true(channel_carries_fds(ch[0]));
	assert_return_code(pipe(fds), errno);
	assert_int_equal(channel_give_fds(ch[0], fds, 2), 0);
	assert_int_equal(channel_take_fd(ch[1]), -ENOENT);
	assert_int_equal(ch[0]->ops->put_buffer(ch[0], "abc", 3), 3);
	assert_int_equal(ch[0]->ops->put_buffer(ch[0], "def", 3), 3); /* with none */
	assert_int_equal(ch[1]->ops->get_buffer(ch[1], buf, 1), 1);
	for (int i = 0; i < 2; i++) {
		fd = channel_take_fd(ch[1]);
		assert_true(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
		fstat(fds[i], &want);
		fstat(fd, &got);
		assert_true(want.st_ino == got.st_ino);
		close(fd);
		close(fds[i]);
	}
	assert_int_equal(channel_take_fd(ch[1]), -ENOENT);
	channel_close(ch[0]);
	channel_close(ch[1]);
	assert_int_equal(open_fds(), before);
}

/* Nobody asked for them, and there are more than there is room for. */
static void unwanted_ones_are_closed(void **state)
{
	unsigned int before = open_fds();
	int fds[RIGHTS_MAX];
	struct channel *ch[2];
	char buf[8];

	(void)state;
	pair(ch);
	for (int i = 0; i < RIGHTS_MAX; i++)
		fds[i] = 0;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(channel_give_fds(ch[0], fds, RIGHTS_MAX), 0);
		assert_int_equal(channel_give_fds(ch[0], fds, 1), -E2BIG);
		assert_int_equal(ch[0]->ops->put_buffer(ch[0], "x", 1), 1);
		assert_int_equal(ch[1]->ops->get_buffer(ch[1], buf, 8), 1);
	}
	assert_int_equal(open_fds(), before + 2 + RIGHTS_MAX);
	channel_close(ch[0]);
	channel_close(ch[1]);
	assert_int_equal(open_fds(), before);
}

static void only_over_unix_sockets(void **state)
{
	struct channel *ch;
	int fds[2];

	(void)state;
	assert_return_code(pipe(fds), errno);
	assert_int_equal(channel_from_fd(fds[1], "pipe", false, &ch), 0);
	assert_false(channel_carries_fds(ch));
	assert_int_equal(channel_give_fds(ch, fds, 1), -EOPNOTSUPP);
	assert_int_equal(channel_take_fd(ch), -ENOENT);
	channel_close(ch);
	close(fds[0]);
}

/* ---- What may be adopted ---- */

static int make_memfd(uint64_t size, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_return_code(ftruncate(fd, (off_t)size), errno);
	assert_return_code(fcntl(fd, F_ADD_SEALS, seals), errno);
	return fd;
}

static int sealed(void)
{
	return make_memfd(RAM, F_SEAL_SHRINK | F_SEAL_GROW);
}

static void refused(enum memory_backing backing, int fd, const char *field, const char *got)
{
	struct error err = { 0 };
	struct memory mem;

	assert_int_equal(memory_alloc(&mem, RAM, backing, 1UL << 30, 1UL << 32, &err), 0);
	assert_true(memory_adopt(&mem, fd, &err) < 0);
	assert_string_equal(err.device, "RAM");
	assert_string_equal(err.field, field);
	assert_string_equal(err.got, got);
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* closed */
	*(char *)mem.regions[0].hva = 1;	  /* still our own */
	memory_free(&mem);
}

static void bad_descriptors_are_refused_by_name(void **state)
{
	unsigned int before = open_fds();
	char name[32];
	int fd, ro;

	(void)state;
	refused(MEMORY_SHARED, make_memfd(RAM - PAGE_SIZE, F_SEAL_SHRINK | F_SEAL_GROW), "size",
		"6287360 bytes");
	refused(MEMORY_SHARED, make_memfd(RAM, F_SEAL_GROW), "seals", "a memfd without them");
	refused(MEMORY_SHARED, make_memfd(RAM, F_SEAL_SHRINK), "seals", "a memfd without them");
	refused(MEMORY_SHARED, make_memfd(RAM, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE),
		"descriptor", "one that cannot");
	refused(MEMORY_SHARED, open("/dev/null", O_RDWR), "descriptor", "something else");
	refused(MEMORY_SHARED, open("/proc/self/exe", O_RDONLY), "descriptor", "something else");
	refused(MEMORY_ANON, sealed(), "descriptor", "a machine with other RAM");
	fd = sealed();
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	ro = open(name, O_RDONLY);
	close(fd);
	refused(MEMORY_SHARED, ro, "descriptor", "one that cannot");
	assert_int_equal(open_fds(), before);
}

static void one_writes_at_a_time(void **state)
{
	struct memory from, to;
	struct error err = { 0 };

	(void)state;
	/* Two regions, as around the hole below 4 GiB. */
	assert_int_equal(memory_alloc(&from, RAM, MEMORY_SHARED, 2 * MIB, 1UL << 32, &err), 0);
	assert_int_equal(memory_alloc(&to, RAM, MEMORY_SHARED, 2 * MIB, 1UL << 32, &err), 0);
	fill_random(&from, 3);
	assert_int_equal(memory_adopt(&to, dup(from.fd), &err), 0);
	assert_same_memory(&from, &to);
	assert_true(write_kills(&to));
	assert_int_equal(memory_adopt(&to, dup(from.fd), &err), -EINVAL);
	assert_string_equal(err.got, "one more");
	error_clear(&err);

	from.given = true;
	memory_give_up(&from);
	assert_true(write_kills(&from));
	assert_int_equal(memory_check_given(&from, &err), -EPERM);
	assert_int_equal(memory_take_over(&to, NULL), 0);
	fill_random(&to, 4);
	assert_same_memory(&from, &to);
	memory_free(&from);
	assert_false(write_kills(&to));
	memory_free(&to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors_cross),
		cmocka_unit_test(unwanted_ones_are_closed),
		cmocka_unit_test(only_over_unix_sockets),
		cmocka_unit_test(bad_descriptors_are_refused_by_name),
		cmocka_unit_test(one_writes_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
