/* SPDX-License-Identifier: BSD-2-Clause */
/* Channels: every kind carries bytes, ends when told to, and names what is wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "migration/channel.h"

#define SOON 5000 /* ms; what should work is given this long */

static char dir[] = "/tmp/ferry-channel-XXXXXX";
static struct error err;

static int setup(void **state)
{
	(void)state;
	error_clear(&err);
	return 0;
}

static const char *in_dir(const char *scheme, const char *name)
{
	static char buf[2][128];
	static int i;

	i ^= 1;
	snprintf(buf[i], sizeof(buf[i]), "%s%s/%s", scheme, dir, name);
	return buf[i];
}

static void assert_error(int code, const char *phase, const char *device, const char *field,
			 const char *got)
{
	assert_int_equal(err.code, code);
	assert_string_equal(err.phase, phase);
	assert_string_equal(err.device, device);
	assert_string_equal(err.field, field);
	if (!strstr(err.got, got))
		fail_msg("\"%s\" is not in \"%s\"", got, err.got);
}

static void refused(const char *uri, int code, const char *field, const char *got)
{
	struct channel *ch;

	error_clear(&err);
	assert_int_equal(channel_connect(uri, SOON, -1, &ch, &err), code);
	assert_null(ch);
	assert_error(code, "connect", uri, field, got);
}

static void no_place(const char *uri, int code, const char *field, const char *got)
{
	struct channel_listener *l;

	error_clear(&err);
	assert_int_equal(channel_listen(uri, &l, &err), code);
	assert_null(l);
	assert_error(code, "listen", uri, field, got);
}

/* A question one way, an answer the other. */
static void converse(struct channel *a, struct channel *b)
{
	char got[6] = "";
	struct iovec put[2] = { { (char[]){ "ques" }, 3 }, { (char[]){ "st?" }, 3 } };
	struct iovec get[2] = { { got, 1 }, { got + 1, 5 } };

	assert_int_equal(a->ops->writev_buffer(a, put, 2), 6);
	assert_int_equal(b->ops->readv_buffer(b, get, 2), 6);
	assert_memory_equal(got, "quest?", 6);
	assert_int_equal(b->ops->put_buffer(b, "reply", 5), 5);
	assert_int_equal(a->ops->get_buffer(a, got, sizeof(got)), 5);
	assert_memory_equal(got, "reply", 5);
}

/* Listen at @uri, connect to where that is, and let both ends talk. */
static void both_ways(const char *uri)
{
	struct channel_listener *l;
	struct channel *a, *b;
	char byte;

	error_clear(&err);
	assert_int_equal(channel_listen(uri, &l, &err), 0);
	assert_int_equal(channel_connect(channel_listener_uri(l), SOON, -1, &a, &err), 0);
	assert_int_equal(channel_accept(l, SOON, -1, &b, &err), 0);
	channel_listener_close(l);
	assert_string_not_equal(a->name, "");
	assert_string_not_equal(b->name, "");
	converse(a, b);
	converse(b, a);
	assert_int_equal(channel_close(a), 0);
	assert_int_equal(b->ops->get_buffer(b, &byte, 1), 0); /* the end */
	assert_int_equal(channel_close(b), 0);
}

/* ---- tcp ---- */

static void tcp_ipv4(void **state)
{
	(void)state;
	both_ways("tcp:127.0.0.1:0");
}

static void tcp_name(void **state)
{
	(void)state;
	both_ways("tcp:localhost:0");
}

static void tcp_any_address(void **state)
{
	(void)state;
	both_ways("tcp::0");
}

static void tcp_ipv6(void **state)
{
	const struct sockaddr_in6 addr = { .sin6_family = AF_INET6,
					   .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	int has = fd >= 0 && !bind(fd, (const struct sockaddr *)&addr, sizeof(addr));

	(void)state;
	if (fd >= 0)
		close(fd);
	if (!has) {
		print_message("# no IPv6 here\n");
		skip();
	}
	both_ways("tcp:[::1]:0");
}

static void tcp_is_not_delayed(void **state)
{
	struct channel_listener *l;
	struct channel *a;
	int found = 0;

	(void)state;
	assert_int_equal(channel_listen("tcp:127.0.0.1:0", &l, &err), 0);
	assert_int_equal(channel_connect(channel_listener_uri(l), SOON, -1, &a, &err), 0);
	for (int fd = 3; fd < 64; fd++) {
		int on = 0;
		socklen_t len = sizeof(on);

		if (!getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &len) && on)
			found++;
	}
	assert_int_equal(found, 1);
	channel_close(a);
	channel_listener_close(l);
}

static void tcp_nobody_listens(void **state)
{
	struct channel_listener *l;
	char uri[160];

	(void)state;
	assert_int_equal(channel_listen("tcp:127.0.0.1:0", &l, &err), 0);
	snprintf(uri, sizeof(uri), "%s", channel_listener_uri(l));
	channel_listener_close(l);
	refused(uri, -ECONNREFUSED, "address", "nobody listens");
	assert_string_equal(err.expected, "a listener");
}

static void tcp_name_does_not_resolve(void **state)
{
	(void)state;
	refused("tcp:no-such-host.invalid:80", -EADDRNOTAVAIL, "host", "no-such-host.invalid: ");
}

static void tcp_bad_uris(void **state)
{
	(void)state;
	refused("tcp:localhost", -EINVAL, "port", "no port");
	refused("tcp:localhost:", -EINVAL, "port", "\"\"");
	refused("tcp:localhost:0", -EINVAL, "port", "\"0\"");
	refused("tcp:localhost:65536", -EINVAL, "port", "65536");
	refused("tcp:localhost:99999999999999999999", -EINVAL, "port", "9999");
	refused("tcp:localhost:-1", -EINVAL, "port", "-1");
	refused("tcp:localhost: 1", -EINVAL, "port", "\" 1\"");
	refused("tcp:localhost:http", -EINVAL, "port", "http");
	refused("tcp:localhost:80x", -EINVAL, "port", "80x");
	refused("tcp::80", -EINVAL, "host", "none");
	refused("tcp:::1:80", -EINVAL, "host", "::1:80");
	refused("tcp:[::1:80", -EINVAL, "host", "bracket");
	refused("tcp:[:80", -EINVAL, "host", "bracket");
	refused("tcp:]:80", -EADDRNOTAVAIL, "host", "]");
	no_place("tcp:localhost", -EINVAL, "port", "no port");
	no_place("tcp:192.0.2.1:0", -EADDRNOTAVAIL, "address", "Cannot assign");
}

static void tcp_port_is_taken(void **state)
{
	struct channel_listener *l;
	char uri[160];

	(void)state;
	assert_int_equal(channel_listen("tcp:127.0.0.1:0", &l, &err), 0);
	snprintf(uri, sizeof(uri), "%s", channel_listener_uri(l));
	no_place(uri, -EADDRINUSE, "address", "in use");
	channel_listener_close(l);
}

/*
 * A port whose packets are dropped, as a packet filter does it: the queue of a listener that never
 * accepts is full, and Linux then ignores further SYNs (listen(2), tcp(7)).
 */
struct filtered {
	int fd, full[4];
	char uri[64];
};

static void filtered_open(struct filtered *f)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct sockaddr *sa = (struct sockaddr *)&addr;
	socklen_t len = sizeof(addr);

	f->fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(f->fd, sa, len), 0);
	assert_int_equal(listen(f->fd, 0), 0);
	assert_int_equal(getsockname(f->fd, sa, &len), 0);
	for (int i = 0; i < 4; i++) {
		f->full[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connect(f->full[i], sa, len);
	}
	snprintf(f->uri, sizeof(f->uri), "tcp:127.0.0.1:%d", ntohs(addr.sin_port));
}

static void filtered_close(struct filtered *f)
{
	for (int i = 0; i < 4; i++)
		close(f->full[i]);
	close(f->fd);
}

static void tcp_port_is_filtered(void **state)
{
	struct filtered f;
	struct channel *ch;
	int64_t start;

	(void)state;
	filtered_open(&f);
	start = channel_now_ms();
	assert_int_equal(channel_connect(f.uri, 100, -1, &ch, &err), -ETIMEDOUT);
	assert_in_range(channel_now_ms() - start, 99, 2000);
	assert_error(-ETIMEDOUT, "connect", f.uri, "address", "no answer");
	filtered_close(&f);
}

struct later {
	int fd;
	struct channel *ch;
	pthread_t thread;
};

/* Long enough after the start that the other thread is waiting, and harmless if it is not yet. */
static void pause_ms(int ms)
{
	poll(NULL, 0, ms);
}

static void *cancel_thread(void *arg)
{
	struct later *l = arg;

	pause_ms(50);
	eventfd_write(l->fd, 1);
	return NULL;
}

static void cancel_later(struct later *l)
{
	l->fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&l->thread, NULL, cancel_thread, l), 0);
}

static void cancel_done(struct later *l)
{
	pthread_join(l->thread, NULL);
	close(l->fd);
}

static void connect_is_cancelled(void **state)
{
	struct filtered f;
	struct channel *ch;
	struct later later;

	(void)state;
	filtered_open(&f);
	cancel_later(&later);
	assert_int_equal(channel_connect(f.uri, -1, later.fd, &ch, &err), -ECANCELED);
	assert_error(-ECANCELED, "connect", f.uri, "", "cancelled");
	cancel_done(&later);
	filtered_close(&f);
}

static void name_lookup_is_cancelled(void **state)
{
	struct channel *ch;
	int fd = eventfd(1, EFD_CLOEXEC);

	(void)state;
	assert_int_equal(channel_connect("tcp:localhost:1", -1, fd, &ch, &err), -ECANCELED);
	close(fd);
}

static void accept_is_cancelled_or_late(void **state)
{
	struct channel_listener *l;
	struct channel *ch;
	struct later later;
	const char *uris[2] = { "tcp:127.0.0.1:0", in_dir("unix:", "accept") };

	(void)state;
	for (int i = 0; i < 2; i++) {
		error_clear(&err);
		assert_int_equal(channel_listen(uris[i], &l, &err), 0);
		assert_int_equal(channel_accept(l, 30, -1, &ch, &err), -ETIMEDOUT);
		assert_error(-ETIMEDOUT, "listen", channel_listener_uri(l), "", "none");
		assert_string_equal(err.expected, "a connection within 30 ms");
		error_clear(&err);
		cancel_later(&later);
		assert_int_equal(channel_accept(l, -1, later.fd, &ch, &err), -ECANCELED);
		assert_error(-ECANCELED, "listen", channel_listener_uri(l), "", "cancelled");
		cancel_done(&later);
		channel_listener_close(l);
	}
}

/* ---- unix ---- */

static void unix_both_ways(void **state)
{
	(void)state;
	both_ways(in_dir("unix:", "socket"));
	assert_int_equal(access(in_dir("", "socket"), F_OK), -1); /* removed again */
}

static void unix_left_over_socket_is_replaced(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)state;
	strcpy(addr.sun_path, in_dir("", "stale"));
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	refused(in_dir("unix:", "stale"), -ECONNREFUSED, "path", "nobody listens");
	close(fd); /* as if killed: the file stays */
	both_ways(in_dir("unix:", "stale"));
}

static void unix_others_are_left_alone(void **state)
{
	struct channel_listener *l;
	struct stat st;
	int fd = open(in_dir("", "plain"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	(void)state;
	close(fd);
	no_place(in_dir("unix:", "plain"), -EEXIST, "path", "no socket");
	refused(in_dir("unix:", "plain"), -ECONNREFUSED, "path", "no socket");
	refused(in_dir("unix:", "absent"), -ENOENT, "path", "No such file");
	no_place(in_dir("unix:", "absent/deeper"), -ENOENT, "path", "No such file");
	assert_int_equal(channel_listen(in_dir("unix:", "live"), &l, &err), 0);
	no_place(in_dir("unix:", "live"), -EADDRINUSE, "path", "another process");
	/* Somebody puts another file there: it is not ours to remove. */
	assert_int_equal(rename(in_dir("", "plain"), in_dir("", "live")), 0);
	channel_listener_close(l);
	assert_int_equal(stat(in_dir("", "live"), &st), 0);
	unlink(in_dir("", "live"));
}

static void unix_path_lengths(void **state)
{
	char uri[200] = "unix:";

	(void)state;
	refused("unix:", -EINVAL, "path", "0 bytes");
	memset(uri + 5, 'x', 108);
	error_clear(&err);
	assert_int_equal(channel_connect(uri, 0, -1, &(struct channel *){ NULL }, &err), -EINVAL);
	assert_string_equal(err.got, "108 bytes");
	uri[5 + 107] = '\0';
	error_clear(&err);
	assert_int_equal(channel_connect(uri, 0, -1, &(struct channel *){ NULL }, &err), -ENOENT);
}

/* ---- fd ---- */

static void fd_socket_and_pipe(void **state)
{
	struct channel_listener *l;
	struct channel *a, *b;
	char uri[2][16], got[5];
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	snprintf(uri[0], sizeof(uri[0]), "fd:%d", fds[0]);
	snprintf(uri[1], sizeof(uri[1]), "fd:%d", fds[1]);
	assert_int_equal(channel_connect(uri[0], 0, -1, &a, &err), 0);
	assert_int_equal(channel_listen(uri[1], &l, &err), 0);
	assert_int_equal(channel_accept(l, 0, -1, &b, &err), 0);
	assert_int_equal(channel_accept(l, 0, -1, &(struct channel *){ NULL }, &err), -EBUSY);
	channel_listener_close(l);
	converse(a, b);
	assert_int_equal(channel_close(a), 0);
	assert_int_equal(fcntl(fds[0], F_GETFD), -1); /* it was the channel's */
	channel_close(b);

	error_clear(&err);
	assert_int_equal(pipe(fds), 0);
	snprintf(uri[0], sizeof(uri[0]), "fd:%d", fds[0]);
	snprintf(uri[1], sizeof(uri[1]), "fd:%d", fds[1]);
	assert_int_equal(channel_connect(uri[0], 0, -1, &a, &err), 0);
	assert_int_equal(channel_connect(uri[1], 0, -1, &b, &err), 0);
	assert_int_equal(b->ops->put_buffer(b, "piped", 5), 5);
	assert_int_equal(a->ops->get_buffer(a, got, 5), 5);
	channel_close(b);
	assert_int_equal(a->ops->get_buffer(a, got, 5), 0);
	channel_close(a);
}

static void fd_flags_are_given_back(void **state)
{
	struct channel *ch;
	int fds[2], copy;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	copy = dup(fds[0]); /* the same open file, as a parent process has it */
	assert_int_equal(channel_from_fd(fds[0], "pipe", false, &ch), 0);
	assert_true(fcntl(copy, F_GETFL) & O_NONBLOCK);
	channel_close(ch);
	assert_false(fcntl(copy, F_GETFL) & O_NONBLOCK);
	close(copy);
	close(fds[1]);
}

static void fd_bad_uris(void **state)
{
	int datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
	int listening = socket(AF_INET, SOCK_STREAM, 0);
	char uri[16];

	(void)state;
	assert_int_equal(listen(listening, 1), 0);
	refused("fd:", -EINVAL, "descriptor", "\"\"");
	refused("fd:x", -EINVAL, "descriptor", "x");
	refused("fd:-1", -EINVAL, "descriptor", "-1");
	refused("fd:1x", -EINVAL, "descriptor", "1x");
	refused("fd:4294967297", -EINVAL, "descriptor", "4294967297");
	refused("fd:999", -EBADF, "descriptor", "999 is not open");
	no_place("fd:999", -EBADF, "descriptor", "999 is not open");
	snprintf(uri, sizeof(uri), "fd:%d", datagram);
	refused(uri, -EINVAL, "descriptor", "another type");
	snprintf(uri, sizeof(uri), "fd:%d", listening);
	no_place(uri, -EINVAL, "descriptor", "listening");
	close(datagram);
	close(listening);
}

/* ---- file ---- */

static void file_saves_and_restores(void **state)
{
	const char *uri = in_dir("file:", "saved");
	struct channel_listener *l;
	struct channel *ch;
	struct stat st;
	char got[8];

	(void)state;
	for (int round = 0; round < 2; round++) { /* the second replaces the first */
		const char *text = round ? "short" : "longer";

		assert_int_equal(channel_connect(uri, 0, -1, &ch, &err), 0);
		assert_int_equal(ch->ops->put_buffer(ch, text, strlen(text)), strlen(text));
		assert_int_equal(channel_close(ch), 0);
	}
	assert_int_equal(stat(uri + 5, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(channel_listen(uri, &l, &err), 0);
	assert_int_equal(channel_accept(l, 0, -1, &ch, &err), 0);
	channel_listener_close(l);
	channel_set_timeout(ch, 1);
	assert_int_equal(ch->ops->readv_buffer(ch, &(struct iovec){ got, 8 }, 1), 5);
	assert_memory_equal(got, "short", 5);
	assert_int_equal(ch->ops->get_buffer(ch, got, 8), 0);
	channel_shutdown(ch);
	assert_int_equal(ch->ops->get_buffer(ch, got, 8), -ECANCELED);
	assert_int_equal(channel_close(ch), 0);
	unlink(uri + 5);
}

static void file_bad_uris(void **state)
{
	struct channel *ch;

	(void)state;
	refused(in_dir("file:", "no/such"), -ENOENT, "path", "No such file");
	no_place(in_dir("file:", "absent"), -ENOENT, "path", "No such file");
	refused(in_dir("file:", ""), -EISDIR, "path", "directory");
	no_place(in_dir("file:", ""), -EISDIR, "path", "directory");
	refused("file:", -ENOENT, "path", "No such file");
	error_clear(&err);
	assert_int_equal(channel_connect("file:/dev/full", 0, -1, &ch, &err), 0);
	assert_int_equal(ch->ops->put_buffer(ch, "x", 1), -ENOSPC);
	channel_close(ch);
}

static void unknown_schemes(void **state)
{
	(void)state;
	refused("rdma:host:1", -EINVAL, "URI", "rdma:host:1");
	refused("tcp", -EINVAL, "URI", "tcp");
	refused("", -EINVAL, "URI", "");
	no_place("TCP:localhost:1", -EINVAL, "URI", "TCP");
	assert_non_null(strstr(err.expected, "tcp:HOST:PORT"));
	assert_non_null(strstr(err.expected, "unix:PATH"));
	assert_non_null(strstr(err.expected, "fd:N"));
	assert_non_null(strstr(err.expected, "file:PATH"));
}

/* Nothing of all this may leave a descriptor behind. */
static int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int before;

static int make_dir(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	before = open_fds();
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir); /* fails when a socket file was left */
}

static void no_descriptor_is_left(void **state)
{
	(void)state;
	/* A lookup that was cancelled ends on its own; wait for its descriptor. */
	for (int i = 0; i < 100 && open_fds() != before; i++)
		pause_ms(10);
	assert_int_equal(open_fds(), before);
}

#define TEST(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tcp_ipv4),
		TEST(tcp_name),
		TEST(tcp_any_address),
		TEST(tcp_ipv6),
		TEST(tcp_is_not_delayed),
		TEST(tcp_nobody_listens),
		TEST(tcp_name_does_not_resolve),
		TEST(tcp_bad_uris),
		TEST(tcp_port_is_taken),
		TEST(tcp_port_is_filtered),
		TEST(connect_is_cancelled),
		TEST(name_lookup_is_cancelled),
		TEST(accept_is_cancelled_or_late),
		TEST(unix_both_ways),
		TEST(unix_left_over_socket_is_replaced),
		TEST(unix_others_are_left_alone),
		TEST(unix_path_lengths),
		TEST(fd_socket_and_pipe),
		TEST(fd_flags_are_given_back),
		TEST(fd_bad_uris),
		TEST(file_saves_and_restores),
		TEST(file_bad_uris),
		TEST(unknown_schemes),
		TEST(no_descriptor_is_left),
	};

	return cmocka_run_group_tests_name("channels", tests, make_dir, remove_dir);
}
