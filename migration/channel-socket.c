/* SPDX-License-Identifier: BSD-2-Clause */
/* Connecting and accepting with a deadline and a way to cancel, for the types made of sockets. */
#include "migration/channel-socket.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One is accepted, its data connections come all at once, a few others may be early. */
#define BACKLOG 128

static int set_nonblocking(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

/* Wait for the end of a connect(2) that goes on in the kernel, and fetch its result. */
static int connect_result(int fd, const struct channel_wait *wait)
{
	int error = 0, ret = channel_wait_fd(fd, POLLOUT, wait);
	socklen_t len = sizeof(error);

	if (ret)
		return ret;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	return -error;
}

int socket_connect(const struct sockaddr *addr, socklen_t len, const struct channel_wait *wait)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret;

	if (fd < 0)
		return -errno;
	ret = connect(fd, addr, len) < 0 ? -errno : 0;
	if (ret == -EINPROGRESS || ret == -EINTR)
		ret = connect_result(fd, wait);
	if (!ret)
		ret = set_nonblocking(fd, false);
	if (ret) {
		close(fd);
		return ret;
	}
	if (addr->sa_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	return fd;
}

/* ---- Listening ---- */

/* May accept be tried again? These concern only the one connection that went away (accept(2)). */
static bool transient(int error)
{
	return error == EAGAIN || error == EINTR || error == ECONNABORTED || error == EPROTO ||
	       error == ENETDOWN || error == EHOSTDOWN || error == EHOSTUNREACH ||
	       error == ENETUNREACH;
}

static int socket_accept(struct channel_listener *listener, const struct channel_wait *wait,
			 struct channel **ch, struct error *err)
{
	struct socket_listener *l = (struct socket_listener *)listener;
	struct sockaddr_storage addr = { 0 };
	struct sockaddr *peer = (struct sockaddr *)&addr;
	socklen_t len;
	char name[160], text[NI_MAXHOST];
	int fd, ret;

	(void)err;
	do {
		ret = channel_wait_fd(l->fd, POLLIN, wait);
		if (ret)
			return ret;
		len = sizeof(addr);
		fd = accept4(l->fd, peer, &len, SOCK_CLOEXEC);
	} while (fd < 0 && transient(errno));
	if (fd < 0)
		return -errno;
	if (peer->sa_family == AF_UNIX) {
		snprintf(name, sizeof(name), "%s", listener->uri);
	} else {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
		socket_address(peer, len, text, sizeof(text));
		snprintf(name, sizeof(name), "tcp:%.100s", text);
	}
	return channel_from_fd(fd, name, false, ch);
}

static void socket_listener_close(struct channel_listener *listener)
{
	struct socket_listener *l = (struct socket_listener *)listener;
	struct stat st;

	/* Another process may have put its own socket there meanwhile: leave that alone. */
	if (l->path[0] && !lstat(l->path, &st) && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	close(l->fd);
	free(l);
}

int socket_listener_new(int fd, const char *uri, struct socket_listener **listener)
{
	struct socket_listener *l = calloc(1, sizeof(*l));
	int ret = l ? set_nonblocking(fd, true) : -ENOMEM;

	if (!ret && listen(fd, BACKLOG) < 0)
		ret = -errno;
	if (ret) {
		close(fd);
		free(l);
		return ret;
	}
	l->base.accept = socket_accept;
	l->base.close = socket_listener_close;
	snprintf(l->base.uri, sizeof(l->base.uri), "%s", uri);
	l->fd = fd;
	*listener = l;
	return 0;
}

const char *socket_address(const struct sockaddr *addr, socklen_t len, char *buf, size_t size)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE] = "?", port[8] = "?";

	getnameinfo(addr, len, host, sizeof(host), port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(buf, size, addr->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
	return buf;
}
