/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A tap interface of the host (Linux, Documentation/networking/tuntap): made if that is allowed,
 * or one that is there, by its name or by descriptors. Frames have virtio's header on both sides,
 * so offloads go through untouched, and it is the kernel that checks what a guest asks for.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net.h"
#include "vmm/device.h"

static int tap_error(struct device *dev, const char *field, const char *expected, const char *got,
		     struct error *err)
{
	int code = -errno;

	return error_set(err, code, "realize", dev->name, field, expected, "%s%s%s", got,
			 *got ? ": " : "", strerror(-code));
}

/* One queue more of the interface; the first one finds out whether it has several. */
static int attach(int fd, struct ifreq *ifr, bool first)
{
	int ret = ioctl(fd, TUNSETIFF, ifr);

	/* What `ip tuntap add … multi_queue` made wants to be opened as such. */
	if (ret < 0 && errno == EINVAL && first && !(ifr->ifr_flags & IFF_MULTI_QUEUE)) {
		ifr->ifr_flags |= IFF_MULTI_QUEUE;
		ret = ioctl(fd, TUNSETIFF, ifr);
	}
	return ret;
}

static int set_up(const char *name)
{
	struct ifreq ifr = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret = -1;

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &ifr) == 0) {
		ifr.ifr_flags |= IFF_UP;
		ret = ioctl(fd, SIOCSIFFLAGS, &ifr);
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

static int open_by_name(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
			struct error *err)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	const char *name = spec->name ? spec->name : "ferry%d"; /* the kernel chooses a number */
	bool made = !spec->name || if_nametoindex(name) == 0;

	if (nb->pairs > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	for (unsigned int q = 0; q < nb->pairs; q++) {
		nb->fd[q] = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (nb->fd[q] < 0)
			return tap_error(dev, "host-name", "a tap interface", "/dev/net/tun", err);
		if (attach(nb->fd[q], &ifr, q == 0) < 0)
			return tap_error(dev, "host-name",
					 made ? "the right to make a tap interface"
					      : "a free tap interface",
					 name, err);
	}
	snprintf(nb->name, sizeof(nb->name), "%s", ifr.ifr_name);
	if (!spec->name)
		fprintf(stderr, "ferry: %s: connected to %s\n", dev->name, nb->name);
	/* One that was there before is as its owner wants it. */
	if (made && set_up(nb->name) < 0)
		return tap_error(dev, "host-name", "an interface that can be set up", nb->name,
				 err);
	return 0;
}

static int open_by_fd(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
		      struct error *err)
{
	struct ifreq ifr = { 0 };

	for (unsigned int q = 0; q < nb->pairs; q++) {
		nb->fd[q] = net_take_fd(spec, q, dev, err);
		if (nb->fd[q] < 0)
			return nb->fd[q];
		if (ioctl(nb->fd[q], TUNGETIFF, &ifr) < 0)
			return tap_error(dev, "host-fd", "a tap interface", spec->fds, err);
		if ((ifr.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) !=
		    (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
			return error_set(err, -EINVAL, "realize", dev->name, "host-fd",
					 "IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", "%s: flags 0x%x",
					 ifr.ifr_name, (unsigned int)(uint16_t)ifr.ifr_flags);
	}
	snprintf(nb->name, sizeof(nb->name), "%s", ifr.ifr_name);
	return 0;
}

/* What this kernel can do; afterwards all is off. */
static unsigned int probe_offloads(int fd)
{
	unsigned int all = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	unsigned int can = 0;

	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)(all | TUN_F_UFO)) == 0)
		can = all | TUN_F_UFO;
	else if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)all) == 0)
		can = all;
	else if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)TUN_F_CSUM) == 0)
		can = TUN_F_CSUM;
	ioctl(fd, TUNSETOFFLOAD, 0UL);
	return can;
}

static int tap_open(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
		    struct error *err)
{
	int ret = spec->fds ? open_by_fd(nb, spec, dev, err) : open_by_name(nb, spec, dev, err);
	int size = NET_HDR;

	if (ret < 0)
		return ret;
	for (unsigned int q = 0; q < nb->pairs; q++)
		if (ioctl(nb->fd[q], TUNSETVNETHDRSZ, &size) < 0)
			return tap_error(dev, "host-name", "headers of 12 bytes", nb->name, err);
	nb->vnet_hdr = true;
	nb->offloads = spec->given ? spec->offloads : probe_offloads(nb->fd[0]);
	return 0;
}

static ssize_t tap_recv(struct net_backend *nb, unsigned int q, const struct iovec *iov,
			unsigned int n, size_t len)
{
	ssize_t ret = readv(nb->fd[q], iov, (int)n);

	(void)len;
	if (ret >= 0)
		return ret;
	/* The interface was removed; or its queue taken away from us. */
	return errno == EFAULT || errno == EBADFD ? 0 : -EAGAIN;
}

static int tap_send(struct net_backend *nb, unsigned int q, const struct iovec *iov, unsigned int n,
		    size_t len)
{
	(void)len;
	return writev(nb->fd[q], iov, (int)n) < 0 ? -errno : 0;
}

static int tap_set_offloads(struct net_backend *nb, unsigned int offloads)
{
	/* Of the interface, not of a queue. */
	return ioctl(nb->fd[0], TUNSETOFFLOAD, (unsigned long)offloads) < 0 ? -errno : 0;
}

/* Frames are spread over the queues that are attached. */
static int tap_set_pairs(struct net_backend *nb, unsigned int pairs)
{
	for (unsigned int q = 1; q < nb->pairs; q++) {
		struct ifreq ifr = { .ifr_flags = q < pairs ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

		/* EINVAL: it is so already. */
		if (ioctl(nb->fd[q], TUNSETQUEUE, &ifr) < 0 && errno != EINVAL)
			return -errno;
	}
	return 0;
}

const struct net_ops net_tap = {
	.kind = "tap",
	.open = tap_open,
	.recv = tap_recv,
	.send = tap_send,
	.set_offloads = tap_set_offloads,
	.set_pairs = tap_set_pairs,
};
