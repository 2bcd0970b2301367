/* SPDX-License-Identifier: BSD-2-Clause */
/* --net, and the node of the machine tree that it makes. */
#ifndef DEVICES_VIRTIO_NET_OPTION_H
#define DEVICES_VIRTIO_NET_OPTION_H

#include <linux/if_ether.h>

#include "devices/net.h"

struct machine_tree;
struct device_class;

/* What a node says; strings are the tree's. */
struct net_node {
	struct net_spec spec;
	uint8_t mac[ETH_ALEN];
	uint16_t mtu; /* 0: not said */
	bool no_offload;
};

int net_node_read(struct net_node *n, const void *fdt, int node, const char *device,
		  struct error *err);

/* device_option.add */
int net_option_add(struct machine_tree *mt, const struct device_class *class, const char *value,
		   struct error *err);

#endif
