/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A channel over a file descriptor, and fd:N, the plain use of it.
 *
 * A socket stays blocking: one sendmsg or recvmsg then moves a whole batch, where a non-blocking
 * one would return each time the kernel's buffer is full. SO_SNDTIMEO and SO_RCVTIMEO keep the
 * deadline (socket(7): a call that moved something returns the count instead), shutdown(2) wakes it
 * up. A pipe or terminal has neither, so it is non-blocking and waited for with poll.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/channel-fd.h"

static struct fd_channel *fd_channel(struct channel *ch)
{
	return (struct fd_channel *)ch;
}

int fd_stalled(struct fd_channel *c, int error, short events, int64_t since,
	       _Atomic uint64_t *calls)
{
	int timeout = c->timeout_ms;
	struct channel_wait wait = { timeout < 0 ? -1 : since + timeout, c->wake };

	if (c->shut)
		return -ECANCELED;
	if (error == EINTR)
		return channel_wait_left(&wait) ? 0 : -ETIMEDOUT;
	if (error != EAGAIN && error != EWOULDBLOCK)
		return -error;
	/* What waits in the error queue would make it look ready. */
	if (c->zerocopy && !channel_wait_left(&wait))
		return -ETIMEDOUT;
	channel_count(calls);
	return channel_wait_fd(c->fd, events, &wait);
}

int fd_advance(struct iovec **iov, int n, size_t done)
{
	for (; n && done >= (*iov)->iov_len; ++*iov, n--)
		done -= (*iov)->iov_len;
	if (n) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
	return n;
}

ssize_t fd_send(struct channel *ch, struct iovec *iov, int n, int flags)
{
	struct fd_channel *c = fd_channel(ch);
	int64_t since = channel_now_ms();
	ssize_t total = 0;

	while (n) {
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };
		ssize_t ret;

		if (c->shut)
			return -ECANCELED;
		channel_count(&ch->writes);
		ret = c->socket ? rights_sendmsg(c->fd, &msg, flags | MSG_NOSIGNAL, &c->out)
				: writev(c->fd, iov, n);
		if (ret <= 0) {
			ret = fd_stalled(c, ret ? errno : EIO, POLLOUT, since, &ch->writes);
			if (ret)
				return ret;
			continue;
		}
		total += ret;
		n = fd_advance(&iov, n, (size_t)ret);
		if (n)
			since = channel_now_ms();
	}
	return total;
}

static ssize_t fd_writev_buffer(struct channel *ch, struct iovec *iov, int n)
{
	return fd_send(ch, iov, n, 0);
}

static ssize_t fd_put_buffer(struct channel *ch, const void *buf, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };

	return len ? fd_writev_buffer(ch, &iov, 1) : 0;
}

static ssize_t receive(struct channel *ch, const struct iovec *iov, int n, int flags)
{
	struct fd_channel *c = fd_channel(ch);
	int64_t since = channel_now_ms();
	ssize_t ret;

	for (;;) {
		struct msghdr msg = {
			.msg_iov = (struct iovec *)(uintptr_t)iov,
			.msg_iovlen = (size_t)n,
		};

		if (c->shut)
			return -ECANCELED;
		channel_count(&ch->reads);
		ret = c->socket ? rights_recvmsg(c->fd, &msg, flags, &c->in) : readv(c->fd, iov, n);
		if (ret > 0)
			return ret;
		if (!ret)
			return c->shut ? -ECANCELED : 0;
		ret = fd_stalled(c, errno, POLLIN, since, &ch->reads);
		if (ret)
			return ret;
	}
}

static ssize_t fd_readv_buffer(struct channel *ch, const struct iovec *iov, int n)
{
	return receive(ch, iov, n, MSG_WAITALL);
}

static ssize_t fd_get_buffer(struct channel *ch, void *buf, size_t len)
{
	return receive(ch, &(struct iovec){ buf, len }, 1, 0);
}

static void fd_shutdown(struct channel *ch)
{
	struct fd_channel *c = fd_channel(ch);

	c->shut = true;
	if (c->socket)
		shutdown(c->fd, SHUT_RDWR);
	else if (c->wake >= 0)
		eventfd_write(c->wake, 1);
}

static void fd_set_timeout(struct channel *ch, int ms)
{
	struct fd_channel *c = fd_channel(ch);
	struct timeval tv = { 0 }; /* for ever */

	if (ms >= 0) {
		tv.tv_sec = ms / 1000;
		tv.tv_usec = MAX(1, ms % 1000 * 1000);
	}
	c->timeout_ms = ms;
	if (c->socket) {
		setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
		setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	}
}

/* What waits in the socket's queue, tcp(7) and unix(7). */
static uint64_t fd_pending(struct channel *ch)
{
	const struct fd_channel *c = fd_channel(ch);
	int bytes = 0;

	if (!c->socket || ioctl(c->fd, SIOCOUTQ, &bytes) < 0 || bytes < 0)
		return 0;
	return (uint64_t)bytes;
}

static int fd_give_fds(struct channel *ch, const int *fds, unsigned int n)
{
	struct rights *out = &fd_channel(ch)->out;

	if (n > RIGHTS_MAX - out->n)
		return -E2BIG;
	memcpy(out->fd + out->n, fds, n * sizeof(*fds));
	out->n += n;
	return 0;
}

static int fd_take_fd(struct channel *ch)
{
	return rights_take(&fd_channel(ch)->in);
}

static int fd_file(const struct channel *ch)
{
	int fd = ((const struct fd_channel *)ch)->fd;
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? fd : -EINVAL;
}

static int fd_wait(struct channel *ch, int wake_fd, int ms)
{
	struct channel_wait wait = { ms < 0 ? -1 : channel_now_ms() + ms, wake_fd };
	struct fd_channel *c = fd_channel(ch);

	channel_count(&ch->reads);
	return c->socket ? channel_wait_fd(c->fd, POLLIN, &wait) : 0;
}

static int fd_close(struct channel *ch)
{
	struct fd_channel *c = fd_channel(ch);
	int ret = 0;

	rights_close(&c->in);
	if (c->sync && !c->shut && fsync(c->fd) < 0)
		ret = -errno;
	if (c->flags >= 0)
		fcntl(c->fd, F_SETFL, c->flags);
	if (close(c->fd) < 0 && !ret)
		ret = -errno;
	if (c->wake >= 0)
		close(c->wake);
	free(c->zerocopy);
	free(c);
	return ret;
}

const struct channel_ops fd_ops = {
	.put_buffer = fd_put_buffer,
	.get_buffer = fd_get_buffer,
	.close = fd_close,
	.writev_buffer = fd_writev_buffer,
	.readv_buffer = fd_readv_buffer,
	.shutdown = fd_shutdown,
	.set_timeout = fd_set_timeout,
	.pending = fd_pending,
	.give_fds = fd_give_fds,
	.take_fd = fd_take_fd,
	.file = fd_file,
	.wait = fd_wait,
};

int channel_from_fd(int fd, const char *name, bool sync, struct channel **ch)
{
	struct fd_channel *c = calloc(1, sizeof(*c));
	struct stat st;
	int ret = -ENOMEM;

	if (!c)
		goto fail;
	c->base.ops = &fd_ops;
	snprintf(c->base.name, sizeof(c->base.name), "%s", name);
	c->fd = fd;
	c->wake = c->flags = -1;
	c->timeout_ms = -1;
	c->sync = sync;
	if (fstat(fd, &st) < 0)
		goto fail_errno;
	c->socket = S_ISSOCK(st.st_mode);
	c->base.carries_fds = c->socket && rights_possible(fd);
	if (!c->socket && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		c->flags = fcntl(fd, F_GETFL);
		if (c->flags < 0 || fcntl(fd, F_SETFL, c->flags | O_NONBLOCK) < 0)
			goto fail_errno;
		c->wake = eventfd(0, EFD_CLOEXEC);
		if (c->wake < 0)
			goto fail_errno;
	}
	*ch = &c->base;
	return 0;
fail_errno:
	ret = -errno;
fail:
	free(c);
	close(fd);
	return ret;
}

/* ---- A listener that has one channel to give ---- */

struct once_listener {
	struct channel_listener base;
	int fd; /* -1: given */
};

static int once_accept(struct channel_listener *listener, const struct channel_wait *wait,
		       struct channel **ch, struct error *err)
{
	struct once_listener *l = (struct once_listener *)listener;
	int fd = l->fd;

	(void)wait;
	if (fd < 0)
		return error_set(err, -EBUSY, "listen", listener->uri, "", "one connection",
				 "another wish for one");
	l->fd = -1;
	return channel_from_fd(fd, listener->uri, false, ch);
}

static void once_close(struct channel_listener *listener)
{
	struct once_listener *l = (struct once_listener *)listener;

	if (l->fd >= 0)
		close(l->fd);
	free(l);
}

int channel_listener_from_fd(int fd, const char *uri, struct channel_listener **listener)
{
	struct once_listener *l = calloc(1, sizeof(*l));

	if (!l) {
		close(fd);
		return -ENOMEM;
	}
	l->base.accept = once_accept;
	l->base.close = once_close;
	l->base.once = true;
	snprintf(l->base.uri, sizeof(l->base.uri), "%s", uri);
	l->fd = fd;
	*listener = &l->base;
	return 0;
}

/* ---- fd:N ---- */

/* The descriptor that @rest names, or a negative errno. */
static int parse_fd(const char *phase, const char *uri, const char *rest, struct error *err)
{
	int type = SOCK_STREAM, listening = 0;
	socklen_t len = sizeof(type);
	char *end;
	long fd;

	errno = 0;
	fd = strtol(rest, &end, 10);
	if (*rest < '0' || *rest > '9' || *end || errno || fd > INT32_MAX)
		return error_set(err, -EINVAL, phase, uri, "descriptor", "a number", "\"%s\"",
				 rest);
	if (fcntl((int)fd, F_GETFD) < 0)
		return error_set(err, -EBADF, phase, uri, "descriptor", "an open descriptor",
				 "%ld is not open", fd);
	getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &len);
	getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len);
	if (type != SOCK_STREAM || listening)
		return error_set(err, -EINVAL, phase, uri, "descriptor",
				 "a connected stream socket, a pipe or a file", "%s",
				 listening ? "a listening socket" : "a socket of another type");
	return (int)fd;
}

static int fd_connect(const char *uri, const char *rest, const struct channel_wait *wait,
		      struct channel **ch, struct error *err)
{
	int fd = parse_fd("connect", uri, rest, err);

	(void)wait;
	return fd < 0 ? fd : channel_from_fd(fd, uri, false, ch);
}

static int fd_listen(const char *uri, const char *rest, struct channel_listener **listener,
		     struct error *err)
{
	int fd = parse_fd("listen", uri, rest, err);

	return fd < 0 ? fd : channel_listener_from_fd(fd, uri, listener);
}

static const struct channel_type fd_type = {
	.scheme = "fd",
	.form = "fd:N",
	.connect = fd_connect,
	.listen = fd_listen,
};
CHANNEL_TYPE(fd_type);
