/* SPDX-License-Identifier: BSD-2-Clause */
/* unix:PATH: a stream socket in the file system. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "migration/channel-socket.h"

static int parse(const char *phase, const char *uri, const char *path, struct sockaddr_un *addr,
		 struct error *err)
{
	size_t len = strlen(path);

	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!len || len >= sizeof(addr->sun_path)) {
		error_set(err, -EINVAL, phase, uri, "path", "1 to 107 bytes", "%zu bytes", len);
		return -EINVAL;
	}
	memcpy(addr->sun_path, path, len);
	return 0;
}

/* What is at the path of a socket that could not be reached? */
static const char *found(const char *path, int error)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return strerror(errno);
	if (stat(path, &st) < 0)
		return "a link that leads nowhere";
	if (!S_ISSOCK(st.st_mode))
		return "a file that is no socket";
	if (error == -ECONNREFUSED)
		return "a socket that nobody listens on";
	if (error == -EAGAIN)
		return "a socket with too many connections waiting";
	return strerror(-error);
}

static int unix_connect(const char *uri, const char *rest, const struct channel_wait *wait,
			struct channel **ch, struct error *err)
{
	struct sockaddr_un addr;
	int ret = parse("connect", uri, rest, &addr, err);

	if (ret)
		return ret;
	ret = socket_connect((struct sockaddr *)&addr, sizeof(addr), wait);
	if (ret >= 0)
		return channel_from_fd(ret, uri, false, ch);
	if (ret == -ECANCELED || ret == -ETIMEDOUT)
		return ret;
	return error_set(err, ret, "connect", uri, "path", "a socket with a listener", "%s",
			 found(rest, ret));
}

/*
 * Make way for our own socket file. Only a socket that nobody listens on is removed: it was left by
 * a process that was killed.
 */
static int make_way(const char *uri, const struct sockaddr_un *addr, struct error *err)
{
	const struct channel_wait at_once = { 0, -1 };
	struct stat st;
	int fd;

	if (lstat(addr->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EEXIST, "listen", uri, "path", "a free path",
				 "a file that is no socket");
	fd = socket_connect((const struct sockaddr *)addr, sizeof(*addr), &at_once);
	if (fd == -ECONNREFUSED) {
		unlink(addr->sun_path);
		return 0;
	}
	if (fd >= 0)
		close(fd);
	return error_set(err, -EADDRINUSE, "listen", uri, "path", "a free path",
			 "a socket that another process listens on");
}

static int unix_listen(const char *uri, const char *rest, struct channel_listener **listener,
		       struct error *err)
{
	struct socket_listener *l;
	struct sockaddr_un addr;
	struct stat st;
	int fd, ret = parse("listen", uri, rest, &addr, err);

	if (!ret)
		ret = make_way(uri, &addr, err);
	if (ret)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || lstat(rest, &st) < 0) {
		ret = -errno;
		close(fd);
		return error_set(err, ret, "listen", uri, "path", "a path that can be made", "%s",
				 strerror(-ret));
	}
	ret = socket_listener_new(fd, uri, &l);
	if (ret) {
		unlink(rest);
		return ret;
	}
	memcpy(l->path, addr.sun_path, sizeof(l->path));
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	*listener = &l->base;
	return 0;
}

static const struct channel_type unix_type = {
	.scheme = "unix",
	.form = "unix:PATH",
	.many = true,
	.connect = unix_connect,
	.listen = unix_listen,
};
CHANNEL_TYPE(unix_type);
