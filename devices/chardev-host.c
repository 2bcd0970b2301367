/* SPDX-License-Identifier: BSD-2-Clause */
/* What a character device can be connected to on the host; one row of a table each. */
#include "devices/chardev-host.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "devices/terminal.h"
#include "vmm/device.h"

#define KINDS "stdio, file:PATH, pty, unix:PATH or none"

static int host_error(struct device *dev, const char *expected, const char *path, struct error *err)
{
	int code = -errno;

	return error_set(err, code, "realize", dev->name, "host-backend", expected, "%s: %s", path,
			 strerror(-code));
}

/*
 * A descriptor of our own for what @fd refers to. O_NONBLOCK belongs to the open file, which we
 * share with the shell that started us, so the file is opened anew where that is possible: for
 * terminals and pipes. Sockets do without (see MSG_DONTWAIT below), regular files never block, and
 * a terminal that belongs to somebody else (su) may stall us, which is the lesser evil.
 */
static int reopen(int fd, int flags)
{
	char path[32];
	struct stat st;
	int ret = -1;

	if (fstat(fd, &st) < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode))
		ret = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return ret >= 0 ? ret : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int open_stdio(struct chardev_host *host, const char *path, struct device *dev,
		      struct error *err)
{
	int ret = terminal_claim(dev->name, &host->escapes, err);

	(void)path;
	if (ret < 0)
		return ret;
	host->terminal = true;
	/* Either may be closed; then there is nobody on that side. */
	host->in = reopen(STDIN_FILENO, O_RDONLY);
	host->out = reopen(STDOUT_FILENO, O_WRONLY);
	return 0;
}

/* `run` begins the file, `receive` goes on where the source, on the same host perhaps, ends. */
static int open_file(struct chardev_host *host, const char *path, struct device *dev,
		     struct error *err)
{
	int begin = device_is_incoming(dev) ? 0 : O_TRUNC;

	host->out = open(path,
			 O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_NONBLOCK | O_CLOEXEC | begin,
			 0666);
	return host->out < 0 ? host_error(dev, "a file that can be written", path, err) : 0;
}

static int open_pty(struct chardev_host *host, const char *path, struct device *dev,
		    struct error *err)
{
	struct termios mode;
	char name[64];

	(void)path;
	host->in = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (host->in < 0 || grantpt(host->in) < 0 || unlockpt(host->in) < 0 ||
	    ptsname_r(host->in, name, sizeof(name)) != 0)
		return host_error(dev, "a pseudo-terminal", "/dev/ptmx", err);
	host->out = fcntl(host->in, F_DUPFD_CLOEXEC, 0);
	host->slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (host->out < 0 || host->slave < 0 || tcgetattr(host->slave, &mode) < 0)
		return host_error(dev, "a pseudo-terminal", name, err);
	cfmakeraw(&mode);
	tcsetattr(host->slave, TCSANOW, &mode);
	host->lossy = true;
	fprintf(stderr, "ferry: %s: connected to %s\n", dev->name, name);
	return 0;
}

/* Make room for a socket at @sun: what an earlier ferry left behind is removed, all else stays. */
static int clear_socket(const struct sockaddr_un *sun)
{
	struct stat st;
	int fd, ret;

	if (lstat(sun->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -1;
	if (!S_ISSOCK(st.st_mode)) {
		errno = ENOTSOCK;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	ret = connect(fd, (const struct sockaddr *)sun, sizeof(*sun));
	/* With a full backlog it fails with EAGAIN: somebody does listen. */
	if (ret == 0 || errno != ECONNREFUSED)
		ret = -1, errno = EADDRINUSE;
	else
		ret = unlink(sun->sun_path);
	close(fd);
	return ret;
}

static int open_unix(struct chardev_host *host, const char *path, struct device *dev,
		     struct error *err)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(sun.sun_path))
		return error_set(err, -ENAMETOOLONG, "realize", dev->name, "host-backend",
				 "a path of at most 107 bytes", "%zu bytes", strlen(path));
	strcpy(sun.sun_path, path);
	if (clear_socket(&sun) < 0)
		return host_error(dev, "a path where no socket is in use", path, err);
	host->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (host->listener < 0 ||
	    bind(host->listener, (const struct sockaddr *)&sun, sizeof(sun)) < 0)
		return host_error(dev, "a path for a socket", path, err);
	strcpy(host->path, path);
	if (lstat(path, &host->made) < 0 || listen(host->listener, 1) < 0)
		return host_error(dev, "a socket to listen on", path, err);
	return 0;
}

static int open_none(struct chardev_host *host, const char *path, struct device *dev,
		     struct error *err)
{
	(void)host, (void)path, (void)dev, (void)err;
	return 0;
}

/* ---- By what another process has handed on: the order is that of chardev_host_hand_on() ---- */

static int take_fd(struct device_fds *given, unsigned int i)
{
	int fd = i < given->n ? given->fd[i] : -1;

	if (fd >= 0)
		given->fd[i] = -1;
	return fd;
}

static int take_file(struct chardev_host *host, const char *path, struct device_fds *given)
{
	(void)path;
	host->out = take_fd(given, 0);
	return host->out < 0 ? -EBADF : 0;
}

static int take_pty(struct chardev_host *host, const char *path, struct device_fds *given)
{
	(void)path;
	host->in = take_fd(given, 0);
	host->slave = take_fd(given, 1);
	host->out = fcntl(host->in, F_DUPFD_CLOEXEC, 0);
	host->lossy = true;
	return host->out < 0 || host->slave < 0 ? -EBADF : 0;
}

static int take_unix(struct chardev_host *host, const char *path, struct device_fds *given)
{
	host->listener = take_fd(given, 0);
	host->in = take_fd(given, 1);
	host->out = host->in < 0 ? -1 : fcntl(host->in, F_DUPFD_CLOEXEC, 0);
	/* Only the file that belongs to the listener is ours to remove some day. */
	if (strlen(path) < sizeof(host->path) && lstat(path, &host->made) == 0 &&
	    host->made.st_ino == given->note)
		strcpy(host->path, path);
	return host->listener < 0 || (host->in >= 0 && host->out < 0) ? -EBADF : 0;
}

void chardev_host_hand_on(const struct chardev_host *host, struct device_fds *fds)
{
	if (host->slave >= 0) {
		fds->fd[fds->n++] = host->in;
		fds->fd[fds->n++] = host->slave;
	} else if (host->listener >= 0) {
		fds->fd[fds->n++] = host->listener;
		if (host->in >= 0)
			fds->fd[fds->n++] = host->in;
		fds->note = host->made.st_ino;
	} else if (!host->terminal && host->out >= 0) {
		fds->fd[fds->n++] = host->out;
	}
}

static const struct kind {
	const char *name; /* with ':' when a path follows */
	int (*open)(struct chardev_host *host, const char *path, struct device *dev,
		    struct error *err);
	/* NULL: standard input and output are inherited, and none is none. */
	int (*take)(struct chardev_host *host, const char *path, struct device_fds *given);
} kinds[] = {
	{ "stdio", open_stdio, NULL }, { "file:", open_file, take_file },
	{ "pty", open_pty, take_pty }, { "unix:", open_unix, take_unix },
	{ "none", open_none, NULL },
};

static const struct kind *find_kind(const char *spec, const char **path)
{
	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t len = strlen(kinds[i].name);
		bool takes_path = kinds[i].name[len - 1] == ':';

		*path = spec + len;
		if (strncmp(spec, kinds[i].name, len) == 0 && takes_path == (**path != '\0'))
			return &kinds[i];
	}
	return NULL;
}

int chardev_host_check(const char *spec, const char *what, struct error *err)
{
	const char *path;

	if (find_kind(spec, &path))
		return 0;
	return error_set(err, -EINVAL, "options", what, "", KINDS, "\"%s\"", spec);
}

int chardev_host_open(struct chardev_host *host, const char *spec, struct device *dev,
		      struct error *err)
{
	const char *path;
	const struct kind *kind = find_kind(spec, &path);
	struct device_fds *given = device_given(dev);
	int ret;

	*host = (struct chardev_host){ .in = -1, .out = -1, .listener = -1, .slave = -1 };
	if (!kind)
		return error_set(err, -EINVAL, "realize", dev->name, "host-backend", KINDS,
				 "\"%s\"", spec);
	/* A pipe whose reader has gone is an error of write(), not the end of ferry. */
	signal(SIGPIPE, SIG_IGN);
	host->lent = device_is_heir(dev);
	if (!given || !kind->take)
		ret = kind->open(host, path, dev, err);
	else if ((ret = kind->take(host, path, given)) < 0)
		error_set(err, ret, "realize", dev->name, "host-backend",
			  "descriptors that were handed on", "others than %s has", spec);
	if (ret < 0)
		chardev_host_close(host);
	return ret;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void chardev_host_close_in(struct chardev_host *host)
{
	close_fd(&host->in);
	if (host->listener >= 0)
		close_fd(&host->out);
}

void chardev_host_close_out(struct chardev_host *host)
{
	close_fd(&host->out);
	if (host->listener >= 0)
		close_fd(&host->in);
}

void chardev_host_close(struct chardev_host *host)
{
	struct stat st;

	close_fd(&host->in);
	close_fd(&host->out);
	close_fd(&host->slave);
	close_fd(&host->listener);
	if (host->path[0] && !host->lent && lstat(host->path, &st) == 0 &&
	    st.st_ino == host->made.st_ino && st.st_dev == host->made.st_dev)
		unlink(host->path);
	host->path[0] = '\0';
	/* A mode that another process needs is put back when we exit (terminal.c). */
	if (host->terminal && !host->lent)
		terminal_release();
	host->terminal = false;
}

bool chardev_host_accept(struct chardev_host *host)
{
	host->in = accept4(host->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (host->in >= 0)
		host->out = fcntl(host->in, F_DUPFD_CLOEXEC, 0);
	if (host->out < 0)
		chardev_host_close_in(host);
	return host->in >= 0;
}

ssize_t chardev_host_write(const struct chardev_host *host, const void *data, size_t len)
{
	ssize_t n = send(host->out, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	return n < 0 && errno == ENOTSOCK ? write(host->out, data, len) : n;
}
