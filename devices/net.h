/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where the frames of a network device go on the host. A kind of place is a struct net_ops in a
 * file of its own and a row of the table in net.c. All calls come with the device's lock held.
 */
#ifndef DEVICES_NET_H
#define DEVICES_NET_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "vmm/error.h"

struct device;

#define NET_MAX_PAIRS 8
/* struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6), which precedes a frame in guest memory always and
 * on the host where net_backend.vnet_hdr is set. */
#define NET_HDR 12U
/* Longest frame with segmentation offload: an IP packet of 64 KiB behind an Ethernet header with a
 * VLAN tag. Shortest: the Ethernet header alone. */
#define NET_MAX_FRAME (65535U + 18)
#define NET_MIN_FRAME 14U

/* Properties of the node that name a place; strings are borrowed, NULL when absent. */
struct net_spec {
	const char *kind;
	const char *name;   /* of a tap */
	const char *fds;    /* "N" or "N:N…", descriptors that ferry was started with */
	const char *socket; /* path */
	bool vnet_hdr;	    /* the frames of a socket have headers */
	unsigned int pairs; /* of queues */
	/* fds are in use by another process, with these offloads to be had: change nothing. */
	bool given;
	unsigned int offloads;
};

struct net_backend;

struct net_ops {
	const char *kind;
	/* Connect to @spec; sets fd[] (non-blocking), vnet_hdr and offloads. Neither sends nor
	 * receives. On an error close is called too. */
	int (*open)(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
		    struct error *err);
	/* Undo what goes beyond closing fd[]. Optional. */
	void (*close)(struct net_backend *nb);
	/*
	 * Take one frame off queue @q into @iov, @len bytes in all. Returns its length, but @len
	 * when it is longer and was cut; 0 when the other side has gone; -EAGAIN when there is
	 * none: fd[q] polls readable, edge-triggered, when there is.
	 */
	ssize_t (*recv)(struct net_backend *nb, unsigned int q, const struct iovec *iov,
			unsigned int n, size_t len);
	/*
	 * Send one frame. 0; -EINPROGRESS: it is taken, but flush must be called for the rest of
	 * it; -EAGAIN: not now. For both fd[q] will poll writable. Any other error: this frame
	 * cannot be sent.
	 */
	int (*send)(struct net_backend *nb, unsigned int q, const struct iovec *iov, unsigned int n,
		    size_t len);
	/* 0: no frame is half sent (any more); else -EAGAIN or an error. Optional. */
	int (*flush)(struct net_backend *nb, unsigned int q);
	/* Let frames that come in have @offloads (TUN_F_…), which are some of nb->offloads.
	 * Optional. */
	int (*set_offloads)(struct net_backend *nb, unsigned int offloads);
	/* Use the first @pairs queues only. Optional. */
	int (*set_pairs)(struct net_backend *nb, unsigned int pairs);
};

struct net_backend {
	const struct net_ops *ops; /* NULL: not open */
	int fd[NET_MAX_PAIRS];	   /* -1: there is nothing to wait for */
	unsigned int pairs;
	bool vnet_hdr;
	unsigned int offloads; /* TUN_F_…: what frames may have, either way */
	char name[IFNAMSIZ];   /* of the interface, "" */
	void *own;	       /* of the kind */
};

/* Is @spec complete and without contradiction? The error names the option. */
int net_check(const struct net_spec *spec, struct error *err);

/* Open the place for @dev. net_close() may be called in any case. Loop thread. */
int net_open(struct net_backend *nb, const struct net_spec *spec, struct device *dev,
	     struct error *err);
void net_close(struct net_backend *nb);

/* Throw away all that has come in so far. */
void net_discard(struct net_backend *nb);

/* Send @len bytes of a frame without offloads, if it can be sent at once. */
void net_send_frame(struct net_backend *nb, const void *frame, size_t len);

/* Descriptor number @i of @spec->fds as one of our own, non-blocking; negative errno. */
int net_take_fd(const struct net_spec *spec, unsigned int i, struct device *dev, struct error *err);

extern const struct net_ops net_tap, net_user, net_socket;

#endif
