/* SPDX-License-Identifier: BSD-2-Clause */
/* file:PATH: a stream kept in a file. It is on the disk when channel_close has returned 0. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/channel.h"

/* A saved guest holds all its secrets, so nobody else may read the file. */
#define FILE_MODE 0600

/* O_NONBLOCK: opening a FIFO must not wait for its other end. Regular files ignore it. */
#define FILE_FLAGS (O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

static int file_open(const char *phase, const char *uri, const char *path, int flags,
		     const char *expected, struct stat *st, struct error *err)
{
	int fd = open(path, flags | FILE_FLAGS, FILE_MODE);

	if (fd < 0)
		return error_set(err, -errno, phase, uri, "path", expected, "%s", strerror(errno));
	if (fstat(fd, st) < 0 || S_ISDIR(st->st_mode)) {
		close(fd);
		return error_set(err, -EISDIR, phase, uri, "path", expected, "a directory");
	}
	return fd;
}

/* Empty the file, unless another ferry writes to it. Where there are no locks, one must not. */
static int make_ours(int fd, const char *uri, struct error *err)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_SETLK, &fl) < 0 && (errno == EAGAIN || errno == EACCES))
		return error_set(err, -EBUSY, "connect", uri, "path",
				 "a file that nobody else writes to or has mapped", "a locked one");
	return ftruncate(fd, 0) < 0 ? -errno : 0;
}

static int file_connect(const char *uri, const char *rest, const struct channel_wait *wait,
			struct channel **ch, struct error *err)
{
	struct stat st;
	int fd = file_open("connect", uri, rest, O_WRONLY | O_CREAT, "a file to write", &st, err);

	(void)wait;
	if (fd < 0)
		return fd;
	if (S_ISREG(st.st_mode)) {
		int ret = make_ours(fd, uri, err);

		if (ret < 0) {
			close(fd);
			return ret;
		}
	}
	return channel_from_fd(fd, uri, S_ISREG(st.st_mode), ch);
}

static int file_listen(const char *uri, const char *rest, struct channel_listener **listener,
		       struct error *err)
{
	struct stat st;
	int fd = file_open("listen", uri, rest, O_RDONLY, "a saved stream", &st, err);

	return fd < 0 ? fd : channel_listener_from_fd(fd, uri, listener);
}

static const struct channel_type file_type = {
	.scheme = "file",
	.form = "file:PATH",
	.connect = file_connect,
	.listen = file_listen,
};
CHANNEL_TYPE(file_type);
