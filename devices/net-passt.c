/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A network without privileges: passt (https://passt.top) translates between frames and sockets of
 * the host. It is started as a child, or reached at its unix socket. On the stream each frame
 * follows its length, 4 bytes big-endian (passt(1), the protocol of QEMU's stream netdev).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/net.h"
#include "vmm/device.h"

#define PROGRAM	 "passt"
#define CHILD_FD 3
#define IOVS	 1024 /* IOV_MAX */

extern char **environ;

struct passt {
	/* What the socket did not take of a frame that it took a part of. */
	size_t n_rest;
	uint8_t rest[sizeof(uint32_t) + NET_MAX_FRAME];
	struct iovec iov[IOVS];
};

static int user_error(struct device *dev, int code, const char *expected, const char *got,
		      struct error *err)
{
	return error_set(err, code, "realize", dev->name, "host-socket", expected, "%s: %s", got,
			 strerror(-code));
}

static int connect_to(const char *path, struct device *dev, struct error *err)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd, code;

	if (strlen(path) >= sizeof(sun.sun_path))
		return user_error(dev, -ENAMETOOLONG, "a path of at most 107 bytes", path, err);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return user_error(dev, -errno, "a socket", path, err);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	code = -errno;
	close(fd);
	return user_error(dev, code, "a passt that listens", path, err);
}

/*
 * Start passt with @theirs as its connection. When it is ready it goes on in the background, by a
 * child of its own, and the one that we started ends; it ends when its connection is closed,
 * however ferry comes to its end.
 */
static int start(int theirs)
{
	char fd[16];
	char *argv[] = { (char[]){ PROGRAM },
			 (char[]){ "--quiet" },
			 (char[]){ "--one-off" },
			 (char[]){ "--fd" },
			 fd,
			 NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, broken;
	int ret, status;
	pid_t pid;

	snprintf(fd, sizeof(fd), "%d", CHILD_FD);
	sigemptyset(&none);
	sigemptyset(&broken);
	sigaddset(&broken, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	/* Ferry takes its signals by a descriptor, and ignores this one. */
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &broken);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_adddup2(&actions, theirs, CHILD_FD);
	/* Descriptors that ferry was started with are not passt's. */
	posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
	ret = -posix_spawnp(&pid, PROGRAM, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	if (ret < 0)
		return ret;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return status == 0 ? 0 : -ENETDOWN;
}

static int user_open(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
		     struct error *err)
{
	struct passt *p = calloc(1, sizeof(*p));
	int pair[2], ret;

	nb->own = p;
	if (!p)
		return error_set(err, -ENOMEM, "realize", dev->name, "", "memory", "none");
	if (nb->pairs > 1)
		return error_set(err, -EINVAL, "realize", dev->name, "queues",
				 "1, which is all that passt has", "%u", nb->pairs);
	if (spec->socket) {
		nb->fd[0] = connect_to(spec->socket, dev, err);
		return nb->fd[0] < 0 ? nb->fd[0] : 0;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return user_error(dev, -errno, "a pair of sockets", "", err);
	nb->fd[0] = pair[0];
	ret = start(pair[1]);
	close(pair[1]);
	return ret < 0 ? user_error(dev, ret, "passt, installed and content with this host",
				    PROGRAM, err)
		       : 0;
}

static void user_close(struct net_backend *nb)
{
	free(nb->own);
	nb->own = NULL;
}

/* Prepend the length; false when there are too many pieces. */
static bool prepend(struct passt *p, uint32_t *len, const struct iovec *iov, unsigned int n)
{
	if (n + 1 > IOVS)
		return false;
	p->iov[0] = (struct iovec){ len, sizeof(*len) };
	memcpy(p->iov + 1, iov, n * sizeof(*iov));
	return true;
}

/* Throw @len bytes away; false when they are not there. */
static bool skip(int fd, uint32_t len)
{
	uint8_t buf[4096];

	while (len > 0) {
		ssize_t n = recv(fd, buf, len < sizeof(buf) ? len : sizeof(buf), MSG_DONTWAIT);

		if (n <= 0)
			return false;
		len -= (uint32_t)n;
	}
	return true;
}

/*
 * A frame is only taken when all of it has come, for then it goes straight into the guest. Until
 * then it waits in the socket, which has room for several of the largest.
 */
static ssize_t user_recv(struct net_backend *nb, unsigned int q, const struct iovec *iov,
			 unsigned int n, size_t room)
{
	struct passt *p = nb->own;
	struct msghdr msg = { .msg_iov = p->iov, .msg_iovlen = n + 1 };
	uint32_t be, len;
	int there = 0;
	ssize_t ret = recv(nb->fd[q], &be, sizeof(be), MSG_PEEK | MSG_DONTWAIT);

	if (ret == 0 || (ret < 0 && errno != EAGAIN && errno != EINTR))
		return 0;
	if (ret < (ssize_t)sizeof(be) || ioctl(nb->fd[q], FIONREAD, &there) < 0)
		return -EAGAIN;
	len = ntohl(be);
	if (len == 0 || len > NET_MAX_FRAME)
		return 0; /* not passt, or out of step with it */
	if ((size_t)there < sizeof(be) + len)
		return -EAGAIN;
	if (!prepend(p, &be, iov, n))
		return 0;
	/* What follows belongs to the next frame. */
	for (unsigned int i = 1, left = len; i <= n; i++) {
		if (p->iov[i].iov_len > left)
			p->iov[i].iov_len = left;
		left -= (unsigned int)p->iov[i].iov_len;
	}
	ret = recvmsg(nb->fd[q], &msg, MSG_DONTWAIT) - (ssize_t)sizeof(be);
	if (ret != (ssize_t)(len < room ? len : room))
		return 0;
	return skip(nb->fd[q], len - (uint32_t)ret) ? ret : 0;
}

/* Send what is left of a frame; 0 when nothing is. */
static int flush_rest(struct net_backend *nb, struct passt *p)
{
	while (p->n_rest > 0) {
		ssize_t n = send(nb->fd[0], p->rest, p->n_rest, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p->n_rest -= (size_t)n;
		memmove(p->rest, p->rest + n, p->n_rest);
	}
	return 0;
}

/* Keep all but the first @done bytes of what p->iov[0] to [@n] refer to. */
static void keep_rest(struct passt *p, unsigned int n, size_t done)
{
	for (unsigned int i = 0; i <= n; i++) {
		size_t len = p->iov[i].iov_len, skipped = done < len ? done : len;

		memcpy(p->rest + p->n_rest, (const uint8_t *)p->iov[i].iov_base + skipped,
		       len - skipped);
		p->n_rest += len - skipped;
		done -= skipped;
	}
}

static int user_send(struct net_backend *nb, unsigned int q, const struct iovec *iov,
		     unsigned int n, size_t len)
{
	struct passt *p = nb->own;
	struct msghdr msg = { .msg_iov = p->iov, .msg_iovlen = n + 1 };
	uint32_t be = htonl((uint32_t)len);
	int ret = flush_rest(nb, p);
	ssize_t sent;

	if (ret < 0)
		return ret;
	if (len > NET_MAX_FRAME || !prepend(p, &be, iov, n))
		return -EMSGSIZE;
	sent = sendmsg(nb->fd[q], &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return -errno;
	if ((size_t)sent == sizeof(be) + len)
		return 0;
	keep_rest(p, n, (size_t)sent);
	return -EINPROGRESS;
}

static int user_flush(struct net_backend *nb, unsigned int q)
{
	(void)q;
	return flush_rest(nb, nb->own);
}

const struct net_ops net_user = {
	.kind = "user",
	.open = user_open,
	.close = user_close,
	.recv = user_recv,
	.send = user_send,
	.flush = user_flush,
};
