/* SPDX-License-Identifier: BSD-2-Clause */
/* Where the frames of a network device go: the table of kinds, and what they share. */
#include "devices/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/device.h"

#define DISCARD_MAX 65536 /* frames; no queue of a host is that long */

/* none: a cable that leads nowhere */

static int none_open(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
		     struct error *err)
{
	(void)spec, (void)dev, (void)err;
	nb->vnet_hdr = true;
	nb->offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
	return 0;
}

static ssize_t none_recv(struct net_backend *nb, unsigned int q, const struct iovec *iov,
			 unsigned int n, size_t len)
{
	(void)nb, (void)q, (void)iov, (void)n, (void)len;
	return -EAGAIN;
}

static int none_send(struct net_backend *nb, unsigned int q, const struct iovec *iov,
		     unsigned int n, size_t len)
{
	(void)nb, (void)q, (void)iov, (void)n, (void)len;
	return 0;
}

static const struct net_ops net_none = {
	.kind = "none", .open = none_open, .recv = none_recv, .send = none_send
};

static const struct net_ops *const kinds[] = { &net_tap, &net_user, &net_socket, &net_none };

static const struct net_ops *find_kind(const char *name)
{
	for (unsigned int i = 0; name && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(kinds[i]->kind, name) == 0)
			return kinds[i];
	return NULL;
}

/* The number that part @i of "N:N…" is, -1 when there is none. */
static int parse_fd(const char *fds, unsigned int i)
{
	char *end;
	long fd;

	for (; i > 0; i--) {
		fds = strchr(fds, ':');
		if (!fds)
			return -1;
		fds++;
	}
	if (*fds < '0' || *fds > '9')
		return -1;
	errno = 0;
	fd = strtol(fds, &end, 10);
	return errno || (*end && *end != ':') || fd > INT32_MAX ? -1 : (int)fd;
}

static int bad(struct error *err, const char *field, const char *expected, const char *got)
{
	return error_set(err, -EINVAL, "options", "--net", field, expected, "%s", got);
}

int net_check(const struct net_spec *spec, struct error *err)
{
	const struct net_ops *kind = find_kind(spec->kind);

	if (!kind)
		return bad(err, "", "tap, user, socket or none", spec->kind ? spec->kind : "none");
	if (spec->name && kind != &net_tap)
		return bad(err, "name", "only with tap", spec->name);
	if (spec->name &&
	    (!*spec->name || strlen(spec->name) >= IFNAMSIZ || strpbrk(spec->name, "/% ")))
		return bad(err, "name", "the name of an interface, up to 15 characters",
			   spec->name);
	if (spec->socket && kind != &net_user)
		return bad(err, "socket", "only with user", spec->socket);
	if (spec->vnet_hdr && kind != &net_socket)
		return bad(err, "vnet-hdr", "only with socket", kind->kind);
	if (spec->fds && kind != &net_tap && kind != &net_socket)
		return bad(err, "fd", "only with tap and socket", spec->fds);
	if (!spec->fds && kind == &net_socket)
		return bad(err, "fd", "a descriptor of the socket", "none");
	if (spec->fds && spec->name)
		return bad(err, "fd", "a name or descriptors", "both");
	for (unsigned int i = 0; spec->fds && i < spec->pairs; i++)
		if (parse_fd(spec->fds, i) < 0)
			return bad(err, "fd", "a number for each queue, N:N…", spec->fds);
	return 0;
}

int net_take_fd(const struct net_spec *spec, unsigned int i, struct device *dev, struct error *err)
{
	int given = parse_fd(spec->fds, i);
	int fd = fcntl(given, F_DUPFD_CLOEXEC, 3), code;

	if (fd >= 0 && fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) == 0)
		return fd;
	code = -errno;
	if (fd >= 0)
		close(fd);
	return error_set(err, code, "realize", dev->name, "host-fd", "an open descriptor", "%d: %s",
			 given, strerror(-code));
}

int net_open(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
	     struct error *err)
{
	const struct net_ops *kind = find_kind(spec->kind);
	int ret;

	*nb = (struct net_backend){ .pairs = spec->pairs };
	for (unsigned int q = 0; q < NET_MAX_PAIRS; q++)
		nb->fd[q] = -1;
	/* The node may come from a stream. */
	ret = net_check(spec, err);
	if (ret < 0)
		return ret;
	nb->ops = kind;
	ret = kind->open(nb, spec, dev, err);
	if (ret < 0)
		net_close(nb);
	return ret;
}

void net_close(struct net_backend *nb)
{
	if (!nb->ops)
		return;
	for (unsigned int q = 0; q < NET_MAX_PAIRS; q++) {
		if (nb->fd[q] >= 0)
			close(nb->fd[q]);
		nb->fd[q] = -1;
	}
	if (nb->ops->close)
		nb->ops->close(nb);
	nb->ops = NULL;
}

void net_discard(struct net_backend *nb)
{
	uint8_t byte;
	struct iovec iov = { &byte, 1 };

	for (unsigned int q = 0; q < nb->pairs; q++)
		for (unsigned int n = 0; n < DISCARD_MAX; n++)
			if (nb->ops->recv(nb, q, &iov, 1, 1) <= 0)
				break;
}

void net_send_frame(struct net_backend *nb, const void *frame, size_t len)
{
	uint8_t hdr[NET_HDR] = { 0 };
	struct iovec iov[2] = { { hdr, sizeof(hdr) }, { .iov_base = NULL, .iov_len = len } };

	memcpy(&iov[1].iov_base, &frame, sizeof(frame)); /* an iovec cannot say const */
	if (nb->vnet_hdr)
		nb->ops->send(nb, 0, iov, 2, len + NET_HDR);
	else
		nb->ops->send(nb, 0, iov + 1, 1, len);
}
