/* SPDX-License-Identifier: BSD-2-Clause */
/* The control queue of the virtio network device (virtio 1.2, 5.1.6.5). */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "devices/virtio-net.h"

/* Addresses of a filter table that are looked at. */
#define MAX_TABLE 64

static bool pull_u8(struct virtq_chain *chain, uint8_t *value)
{
	return chain->out_len == 1 && virtq_pull(chain, value, 1);
}

/*
 * 5.1.6.5.1: filters are as good as the device makes them, and ours is a simple one: all frames
 * for groups pass, and all others once the driver is promiscuous.
 */
static bool set_rx_mode(struct virtio_net *net, uint8_t cmd, struct virtq_chain *chain)
{
	uint8_t on;

	if (!virtio_has(&net->vd, VIRTIO_NET_F_CTRL_RX) || !pull_u8(chain, &on) || on > 1 ||
	    cmd > VIRTIO_NET_CTRL_RX_ALLMULTI)
		return false;
	if (cmd == VIRTIO_NET_CTRL_RX_PROMISC)
		net->state.filter = !on;
	return true;
}

static bool is_unicast(const uint8_t *mac)
{
	static const uint8_t none[ETH_ALEN];

	return !(mac[0] & 1) && memcmp(mac, none, ETH_ALEN) != 0;
}

/* 5.1.6.5.2: a table of single addresses, one of groups. */
static bool set_table(struct virtio_net *net, struct virtq_chain *chain)
{
	uint8_t mac[ETH_ALEN];
	bool more = false;
	uint32_t n;

	if (!virtio_has(&net->vd, VIRTIO_NET_F_CTRL_RX) || !virtq_pull(chain, &n, sizeof(n)) ||
	    n > chain->out_len / ETH_ALEN)
		return false;
	for (uint32_t i = 0; i < n && i < MAX_TABLE; i++) {
		virtq_pull(chain, mac, sizeof(mac));
		more = more || memcmp(mac, net->state.mac, sizeof(mac)) != 0;
	}
	net->state.more_unicast = more || n > MAX_TABLE;
	return true;
}

static bool set_mac(struct virtio_net *net, uint8_t cmd, struct virtq_chain *chain)
{
	uint8_t mac[ETH_ALEN];

	if (cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
		return set_table(net, chain);
	if (cmd != VIRTIO_NET_CTRL_MAC_ADDR_SET ||
	    !virtio_has(&net->vd, VIRTIO_NET_F_CTRL_MAC_ADDR) || chain->out_len != sizeof(mac) ||
	    !virtq_pull(chain, mac, sizeof(mac)) || !is_unicast(mac))
		return false;
	memcpy(net->state.mac, mac, sizeof(mac));
	return true;
}

static bool ack_announce(struct virtio_net *net, uint8_t cmd)
{
	if (cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK ||
	    !virtio_has(&net->vd, VIRTIO_NET_F_GUEST_ANNOUNCE))
		return false;
	net->state.announce = false;
	return true;
}

static bool set_pairs(struct virtio_net *net, uint8_t cmd, struct virtq_chain *chain)
{
	uint32_t before = net->state.more_pairs;
	uint16_t pairs;

	if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !virtio_has(&net->vd, VIRTIO_NET_F_MQ) ||
	    chain->out_len != sizeof(pairs) || !virtq_pull(chain, &pairs, sizeof(pairs)) ||
	    pairs == 0 || pairs > net->backend.pairs)
		return false;
	net->state.more_pairs = pairs - 1U;
	if (net_tell_backend(net) < 0) {
		net->state.more_pairs = before;
		return false;
	}
	for (unsigned int i = before + 1; i < pairs; i++)
		net_receive_kicked(net, i);
	return true;
}

static bool command(struct virtio_net *net, struct virtq_chain *chain)
{
	struct virtio_net_ctrl_hdr hdr;

	if (!virtq_pull(chain, &hdr, sizeof(hdr)))
		return false;
	switch (hdr.class) {
	case VIRTIO_NET_CTRL_RX:
		return set_rx_mode(net, hdr.cmd, chain);
	case VIRTIO_NET_CTRL_MAC:
		return set_mac(net, hdr.cmd, chain);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return ack_announce(net, hdr.cmd);
	case VIRTIO_NET_CTRL_MQ:
		return set_pairs(net, hdr.cmd, chain);
	default:
		return false;
	}
}

void net_control(struct virtio_net *net, unsigned int q)
{
	struct virtq_chain *chain = &net->chain;

	while (virtq_pop(&net->vd, q, chain)) {
		uint8_t ack = command(net, chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;

		virtq_push(&net->vd, q, chain,
			   (uint32_t)virtq_write(&net->vd, chain, 0, &ack, sizeof(ack)));
	}
	virtq_flush(&net->vd, q);
}

static unsigned int offloads_of(const struct virtio_net *net)
{
	static const struct {
		unsigned int bit, flag;
	} map[] = {
		{ VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM }, { VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4 },
		{ VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6 }, { VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN },
		{ VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO },
	};
	unsigned int flags = 0;

	for (unsigned int i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (virtio_has(&net->vd, map[i].bit))
			flags |= map[i].flag;
	/* 5.1.3.1: what the others require. */
	if (!(flags & TUN_F_CSUM))
		return 0;
	return flags & (TUN_F_TSO4 | TUN_F_TSO6) ? flags : flags & ~(unsigned int)TUN_F_TSO_ECN;
}

int net_tell_backend(struct virtio_net *net)
{
	struct net_backend *nb = &net->backend;
	unsigned int offloads = virtio_live(&net->vd) ? offloads_of(net) : 0;
	int ret = 0;

	if (net->given)
		return 0;
	if (nb->ops->set_offloads)
		ret = nb->ops->set_offloads(nb, offloads & nb->offloads);
	if (ret == 0 && nb->ops->set_pairs)
		ret = nb->ops->set_pairs(nb, net->state.more_pairs + 1);
	return ret;
}
