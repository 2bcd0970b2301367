/* SPDX-License-Identifier: BSD-2-Clause */
/* --net, and the node that it makes: what is the machine's (address, queues, MTU), and, as
 * "host-…", where the frames go on this host. */
#include "devices/virtio-net-option.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "vmm/device.h"
#include "vmm/options.h"

/* 5.1.4.1: of IPv4 as RFC 791 has it, and what fits into a frame. */
#define MIN_MTU 68
#define MAX_MTU 65535

#define MAC_TEXT 18 /* "02:00:00:00:00:01" */

#define LOCAL 2 /* in the first byte: not one that a maker of cards has bought */
#define GROUP 1

static bool parse_mac(const char *text, uint8_t mac[ETH_ALEN])
{
	unsigned int b[ETH_ALEN];
	int end = 0;

	if (strlen(text) != MAC_TEXT - 1 ||
	    strspn(text, "0123456789abcdefABCDEF:") != MAC_TEXT - 1 ||
	    sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &end) != ETH_ALEN ||
	    end != MAC_TEXT - 1)
		return false;
	for (unsigned int i = 0; i < ETH_ALEN; i++)
		mac[i] = (uint8_t)b[i];
	return !(mac[0] & GROUP) && (b[0] | b[1] | b[2] | b[3] | b[4] | b[5]);
}

static int random_mac(char text[MAC_TEXT], struct error *err)
{
	uint8_t m[ETH_ALEN];

	if (getrandom(m, sizeof(m), 0) != sizeof(m))
		return error_set(err, -EIO, "options", "--net", "mac", "random numbers", "none");
	m[0] = (uint8_t)((m[0] | LOCAL) & ~GROUP);
	snprintf(text, MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4],
		 m[5]);
	return 0;
}

struct net_options {
	char *name, *fds, *socket; /* malloc'd */
	char mac[MAC_TEXT];
	uint64_t queues, mtu;
	bool vnet_hdr, no_offload;
};

static int set_string(char **to, const char *value, struct error *err)
{
	free(*to);
	*to = strdup(value);
	return *to ? 0 : error_set(err, -ENOMEM, "options", "--net", "", "memory", "none");
}

static int set_mac(struct net_options *o, const char *value, struct error *err)
{
	uint8_t mac[ETH_ALEN];

	if (!parse_mac(value, mac))
		return error_set(err, -EINVAL, "options", "--net", "mac",
				 "one host's address, as 02:00:00:00:00:01", "%s", value);
	memcpy(o->mac, value, sizeof(o->mac));
	return 0;
}

static int suboption(void *opaque, const char *key, const char *value, struct error *err)
{
	struct net_options *o = opaque;

	if (!strcmp(key, "name") && value)
		return set_string(&o->name, value, err);
	if (!strcmp(key, "fd") && value)
		return set_string(&o->fds, value, err);
	if (!strcmp(key, "socket") && value)
		return set_string(&o->socket, value, err);
	if (!strcmp(key, "mac") && value)
		return set_mac(o, value, err);
	if (!strcmp(key, "queues") && value)
		return parse_uint(value, 1, NET_MAX_PAIRS, &o->queues, err);
	if (!strcmp(key, "mtu") && value)
		return parse_uint(value, MIN_MTU, MAX_MTU, &o->mtu, err);
	if (!strcmp(key, "vnet-hdr") && !value)
		return o->vnet_hdr = true, 0;
	if (!strcmp(key, "no-offload") && !value)
		return o->no_offload = true, 0;
	return error_set(err, -EINVAL, "options", "--net", "",
			 "name=, fd=, socket=, vnet-hdr, mac=, queues=, mtu= or no-offload",
			 "%s%s%s", key, value ? "=" : "", value ? value : "");
}

static void write_node(struct machine_tree *mt, const struct net_options *o,
		       const struct net_spec *spec)
{
	machine_tree_string(mt, "mac", o->mac);
	machine_tree_u64(mt, "queues", o->queues);
	if (o->mtu)
		machine_tree_u64(mt, "mtu", o->mtu);
	if (o->no_offload)
		machine_tree_flag(mt, "no-offload");
	machine_tree_string(mt, "host-backend", spec->kind);
	if (spec->name)
		machine_tree_string(mt, "host-name", spec->name);
	if (spec->fds)
		machine_tree_string(mt, "host-fd", spec->fds);
	if (spec->socket)
		machine_tree_string(mt, "host-socket", spec->socket);
	if (spec->vnet_hdr)
		machine_tree_flag(mt, "host-vnet-hdr");
}

int net_option_add(struct machine_tree *mt, const struct device_class *class, const char *value,
		   struct error *err)
{
	struct net_options o = { .queues = 1 };
	char *kind = NULL;
	struct net_spec spec;
	int rc = option_split(value, &kind, suboption, &o, err);

	spec = (struct net_spec){ .kind = kind,
				  .name = o.name,
				  .fds = o.fds,
				  .socket = o.socket,
				  .vnet_hdr = o.vnet_hdr,
				  .pairs = (unsigned int)o.queues };
	if (!rc)
		rc = net_check(&spec, err);
	if (!rc && !o.mac[0])
		rc = random_mac(o.mac, err);
	if (!rc)
		rc = machine_tree_begin_mmio(mt, class, "virtio,mmio", err);
	if (!rc) {
		write_node(mt, &o, &spec);
		rc = machine_tree_end(mt, err);
	}
	free(kind);
	free(o.name);
	free(o.fds);
	free(o.socket);
	return rc;
}

int net_node_read(struct net_node *n, const void *fdt, int node, const char *device,
		  struct error *err)
{
	uint64_t queues = device_node_u64(fdt, node, "queues", 1);
	uint64_t mtu = device_node_u64(fdt, node, "mtu", 0);
	const char *mac = device_node_string(fdt, node, "mac");

	*n = (struct net_node){
		.spec = { .kind = device_node_string(fdt, node, "host-backend"),
			  .name = device_node_string(fdt, node, "host-name"),
			  .fds = device_node_string(fdt, node, "host-fd"),
			  .socket = device_node_string(fdt, node, "host-socket"),
			  .vnet_hdr = device_node_flag(fdt, node, "host-vnet-hdr"),
			  .pairs = (unsigned int)queues },
		.mtu = (uint16_t)mtu,
		.no_offload = device_node_flag(fdt, node, "no-offload"),
	};
	if (queues < 1 || queues > NET_MAX_PAIRS)
		return error_set(err, -EINVAL, "realize", device, "queues", "1 to 8", "%llu",
				 (unsigned long long)queues);
	if (mtu && (mtu < MIN_MTU || mtu > MAX_MTU))
		return error_set(err, -EINVAL, "realize", device, "mtu", "68 to 65535", "%llu",
				 (unsigned long long)mtu);
	if (!mac || !parse_mac(mac, n->mac))
		return error_set(err, -EINVAL, "realize", device, "mac", "one host's address", "%s",
				 mac ? mac : "none");
	return 0;
}
