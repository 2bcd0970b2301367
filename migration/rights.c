/* SPDX-License-Identifier: BSD-2-Clause */
/* Sending and receiving descriptors beside bytes. */
#include "migration/rights.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Aligned as the kernel expects it (cmsg(3)). */
union control {
	char buf[CMSG_SPACE(sizeof(int) * RIGHTS_MAX)];
	struct cmsghdr align;
};

bool rights_possible(int fd)
{
	int domain = 0;
	socklen_t len = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

ssize_t rights_sendmsg(int fd, struct msghdr *msg, int flags, struct rights *r)
{
	union control control = { 0 };
	struct cmsghdr *c = &control.align;
	ssize_t ret;

	if (r->n) {
		msg->msg_control = control.buf;
		msg->msg_controllen = CMSG_SPACE(sizeof(int) * r->n);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * r->n);
		memcpy(CMSG_DATA(c), r->fd, sizeof(int) * r->n);
	}
	ret = sendmsg(fd, msg, flags);
	if (ret > 0)
		r->n = 0;
	return ret;
}

static void keep(struct rights *r, const struct cmsghdr *c)
{
	size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
		if (r->n < RIGHTS_MAX)
			r->fd[r->n++] = fd;
		else
			close(fd);
	}
}

ssize_t rights_recvmsg(int fd, struct msghdr *msg, int flags, struct rights *r)
{
	union control control;
	ssize_t ret;

	msg->msg_control = control.buf;
	msg->msg_controllen = sizeof(control.buf);
	ret = recvmsg(fd, msg, flags | MSG_CMSG_CLOEXEC);
	if (ret < 0)
		return ret;
	/* More than there is room for the kernel has closed (MSG_CTRUNC). */
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			keep(r, c);
	}
	return ret;
}

int rights_take(struct rights *r)
{
	int fd;

	if (!r->n)
		return -ENOENT;
	fd = r->fd[0];
	memmove(r->fd, r->fd + 1, --r->n * sizeof(r->fd[0]));
	return fd;
}

void rights_close(struct rights *r)
{
	while (r->n)
		close(r->fd[--r->n]);
}
