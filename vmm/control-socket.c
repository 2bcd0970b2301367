/* SPDX-License-Identifier: BSD-2-Clause */
/* The control socket's place in the file system: who may have it, and when it appears and goes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/control-server.h"

#define BACKLOG	 16
#define MAX_PATH 96 /* so that a dot and a pid fit into a socket's address too */

/* Remove a socket at @addr that nobody listens on: its process was killed. */
static int make_way(const struct sockaddr_un *addr, struct error *err)
{
	const char *path = addr->sun_path;
	struct stat st;
	int fd, ret;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EEXIST, "control", path, "", "a free path or an old socket",
				 "another kind of file");
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set(err, -errno, "control", path, "", "a socket", "%s",
				 strerror(errno));
	ret = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? errno : 0;
	close(fd);
	if (ret != ECONNREFUSED)
		return error_set(err, -EADDRINUSE, "control", path, "", "a free path",
				 "the socket of a process that lives");
	unlink(path);
	return 0;
}

/* The file appears at its path once somebody listens: who waits for it may connect at once. */
int control_bind(struct control *control, const char *path, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;
	char *temporary = addr.sun_path;
	int ret;

	if (!*path || strlen(path) > MAX_PATH)
		return error_set(err, -EINVAL, "control", path, "path", "1 to 96 bytes",
				 "%zu bytes", strlen(path));
	strcpy(addr.sun_path, path);
	ret = make_way(&addr, err);
	if (ret < 0)
		return ret;
	control->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(temporary, sizeof(addr.sun_path), "%s.%d", path, getpid());
	/* The mode a socket has before bind is that of its file: owner only, at no time more. */
	if (control->fd < 0 || fchmod(control->fd, 0600) < 0 ||
	    bind(control->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return error_set(err, -errno, "control", path, "", "a path for a socket", "%s",
				 strerror(errno));
	control->path = strdup(path);
	if (!control->path || listen(control->fd, BACKLOG) < 0 || lstat(temporary, &st) < 0 ||
	    rename(temporary, path) < 0) {
		ret = control->path ? -errno : -ENOMEM;
		unlink(temporary);
		return error_set(err, ret, "control", path, "", "a path for a socket", "%s",
				 strerror(-ret));
	}
	control->dev = st.st_dev;
	control->ino = st.st_ino;
	return 0;
}

int control_take(struct control *control, const char *path, int fd, struct error *err)
{
	struct stat st = { 0 };
	int listening = 0;
	socklen_t len = sizeof(listening);

	control->inherited = true;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening)
		return error_set(err, -EBADF, "control", path, "", "a listening socket",
				 "none as descriptor %d", fd);
	control->fd = fd;
	control->path = strdup(path);
	if (!control->path)
		return error_set(err, -ENOMEM, "control", path, "", "memory", "none");
	/* It may have been removed; then there is nothing for us to remove. */
	lstat(path, &st);
	control->dev = st.st_dev;
	control->ino = st.st_ino;
	return 0;
}

void control_unbind(struct control *control)
{
	struct stat st;

	/* Another's, ours, or has somebody put a new one there? */
	if (control->path && !control->inherited && !control->vm->handing_on &&
	    lstat(control->path, &st) == 0 && st.st_dev == control->dev &&
	    st.st_ino == control->ino)
		unlink(control->path);
	if (control->fd >= 0)
		close(control->fd);
	free(control->path);
}
