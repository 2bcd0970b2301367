/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sockets that keep frames apart (SOCK_DGRAM, SOCK_SEQPACKET, AF_PACKET's SOCK_RAW), given by
 * descriptor: a frame is a message. For programs that make their own network, and for tests.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/socket.h>

#include "devices/net.h"
#include "vmm/device.h"

static int socket_open(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
		       struct error *err)
{
	for (unsigned int q = 0; q < nb->pairs; q++) {
		int type = 0;
		socklen_t len = sizeof(type);

		nb->fd[q] = net_take_fd(spec, q, dev, err);
		if (nb->fd[q] < 0)
			return nb->fd[q];
		if (getsockopt(nb->fd[q], SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
		    type == SOCK_STREAM)
			return error_set(err, -EINVAL, "realize", dev->name, "host-fd",
					 "a socket that keeps messages apart", "%s", spec->fds);
	}
	nb->vnet_hdr = spec->vnet_hdr;
	if (nb->vnet_hdr)
		nb->offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
	return 0;
}

static ssize_t socket_recv(struct net_backend *nb, unsigned int q, const struct iovec *iov,
			   unsigned int n, size_t len)
{
	struct msghdr msg = { .msg_iovlen = n };
	ssize_t ret;

	(void)len;
	memcpy(&msg.msg_iov, &iov, sizeof(iov)); /* recvmsg does not change it */
	ret = recvmsg(nb->fd[q], &msg, MSG_DONTWAIT);
	if (ret >= 0)
		return ret;
	return errno == EAGAIN || errno == EINTR || errno == ENOMEM || errno == ENOBUFS ? -EAGAIN
											: 0;
}

static int socket_send(struct net_backend *nb, unsigned int q, const struct iovec *iov,
		       unsigned int n, size_t len)
{
	struct msghdr msg = { .msg_iovlen = n };

	(void)len;
	memcpy(&msg.msg_iov, &iov, sizeof(iov));
	return sendmsg(nb->fd[q], &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

const struct net_ops net_socket = {
	.kind = "socket", .open = socket_open, .recv = socket_recv, .send = socket_send
};
