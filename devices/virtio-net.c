/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio network device (virtio 1.2, section 5.1): features, config space and life. Frames are in
 * virtio-net-io.c, places on the host in net.h. */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>

#include "devices/virtio-net.h"
#include "devices/virtio-net-option.h"

#define CONTROL_SIZE 64 /* entries of the control queue */

static const struct field net_fields[] = {
	FIELD_VIRTIO(struct net_state, virtio),
	FIELD_RAW(struct net_state, mac),
	FIELD_BOOL(struct net_state, announce),
	FIELD_BOOL(struct net_state, filter),
	FIELD_BOOL(struct net_state, more_unicast),
	FIELD_INT(struct net_state, more_pairs, 0, NET_MAX_PAIRS - 1),
	FIELDS_END,
};

static const char *const feature_names[24] = {
	[VIRTIO_NET_F_CSUM] = "VIRTIO_NET_F_CSUM",
	[VIRTIO_NET_F_GUEST_CSUM] = "VIRTIO_NET_F_GUEST_CSUM",
	[VIRTIO_NET_F_MTU] = "VIRTIO_NET_F_MTU",
	[VIRTIO_NET_F_MAC] = "VIRTIO_NET_F_MAC",
	[VIRTIO_NET_F_GUEST_TSO4] = "VIRTIO_NET_F_GUEST_TSO4",
	[VIRTIO_NET_F_GUEST_TSO6] = "VIRTIO_NET_F_GUEST_TSO6",
	[VIRTIO_NET_F_GUEST_ECN] = "VIRTIO_NET_F_GUEST_ECN",
	[VIRTIO_NET_F_GUEST_UFO] = "VIRTIO_NET_F_GUEST_UFO",
	[VIRTIO_NET_F_HOST_TSO4] = "VIRTIO_NET_F_HOST_TSO4",
	[VIRTIO_NET_F_HOST_TSO6] = "VIRTIO_NET_F_HOST_TSO6",
	[VIRTIO_NET_F_HOST_ECN] = "VIRTIO_NET_F_HOST_ECN",
	[VIRTIO_NET_F_HOST_UFO] = "VIRTIO_NET_F_HOST_UFO",
	[VIRTIO_NET_F_MRG_RXBUF] = "VIRTIO_NET_F_MRG_RXBUF",
	[VIRTIO_NET_F_STATUS] = "VIRTIO_NET_F_STATUS",
	[VIRTIO_NET_F_CTRL_VQ] = "VIRTIO_NET_F_CTRL_VQ",
	[VIRTIO_NET_F_CTRL_RX] = "VIRTIO_NET_F_CTRL_RX",
	[VIRTIO_NET_F_GUEST_ANNOUNCE] = "VIRTIO_NET_F_GUEST_ANNOUNCE",
	[VIRTIO_NET_F_MQ] = "VIRTIO_NET_F_MQ",
	[VIRTIO_NET_F_CTRL_MAC_ADDR] = "VIRTIO_NET_F_CTRL_MAC_ADDR",
};

/* The control queue is the last; of a driver without multiqueue, which knows of two others, the
 * third (5.1.2). */
static unsigned int control_queue(const struct virtio_net *net)
{
	return virtio_has(&net->vd, VIRTIO_NET_F_MQ) ? 2 * net->backend.pairs : 2;
}

static void net_handle_queue(struct virtio_device *vd, unsigned int q)
{
	struct virtio_net *net = to_net(vd);

	if (q > control_queue(net))
		return;
	if (q == control_queue(net))
		net_control(net, q);
	else if (q % 2)
		net_transmit(net, q / 2);
	else
		net_receive_kicked(net, q / 2);
}

/* Nothing but a frame that is half sent refers to anything, and that to a copy. */
static void net_drain(struct virtio_device *vd)
{
	struct virtio_net *net = to_net(vd);

	for (unsigned int i = 0; net->backend.ops && i < net->backend.pairs; i++)
		if (net->backend.ops->flush)
			net->backend.ops->flush(&net->backend, i);
}

static void net_driver_ok(struct virtio_device *vd)
{
	if (net_tell_backend(to_net(vd)) < 0)
		virtio_broken(vd, "the host cannot do what was negotiated");
}

static void net_reset(struct virtio_device *vd)
{
	struct virtio_net *net = to_net(vd);
	struct net_state *s = &net->state;

	*s = (struct net_state){ .virtio = s->virtio };
	memcpy(s->mac, net->mac, sizeof(s->mac));
	net_backlog_free(net);
	net_tell_backend(net);
}

static void net_read_config(struct virtio_device *vd, size_t offset, void *data, size_t len)
{
	struct virtio_net *net = to_net(vd);
	struct virtio_net_config config = {
		.status = (uint16_t)((net->gone ? 0 : VIRTIO_NET_S_LINK_UP) |
				     (net->state.announce ? VIRTIO_NET_S_ANNOUNCE : 0)),
		.max_virtqueue_pairs = (uint16_t)net->backend.pairs,
		.mtu = net->mtu,
	};

	memcpy(config.mac, net->state.mac, sizeof(config.mac));
	virtio_config_get(&config, offset, data, len);
}

static const struct virtio_ops net_ops_template = {
	.device_id = VIRTIO_ID_NET,
	.features = 1U << VIRTIO_NET_F_MAC | 1U << VIRTIO_NET_F_STATUS |
		    1U << VIRTIO_NET_F_MRG_RXBUF | 1U << VIRTIO_NET_F_CTRL_VQ |
		    1U << VIRTIO_NET_F_CTRL_RX | 1U << VIRTIO_NET_F_CTRL_MAC_ADDR |
		    1U << VIRTIO_NET_F_GUEST_ANNOUNCE,
	.feature_names = feature_names,
	.config_size = offsetof(struct virtio_net_config, mtu) + sizeof(uint16_t),
	.read_config = net_read_config,
	.handle_queue = net_handle_queue,
	.drain = net_drain,
	.reset = net_reset,
	.driver_ok = net_driver_ok,
};

/* Life */

/* What frames may have either way depends on the place where they go. */
static uint64_t offload_features(unsigned int offloads)
{
	uint64_t f = 0;

	if (!(offloads & TUN_F_CSUM))
		return 0;
	f |= 1U << VIRTIO_NET_F_CSUM | 1U << VIRTIO_NET_F_GUEST_CSUM;
	if (offloads & TUN_F_TSO4)
		f |= 1U << VIRTIO_NET_F_HOST_TSO4 | 1U << VIRTIO_NET_F_GUEST_TSO4;
	if (offloads & TUN_F_TSO6)
		f |= 1U << VIRTIO_NET_F_HOST_TSO6 | 1U << VIRTIO_NET_F_GUEST_TSO6;
	if (offloads & TUN_F_TSO_ECN)
		f |= 1U << VIRTIO_NET_F_HOST_ECN | 1U << VIRTIO_NET_F_GUEST_ECN;
	if (offloads & TUN_F_UFO)
		f |= 1U << VIRTIO_NET_F_HOST_UFO | 1U << VIRTIO_NET_F_GUEST_UFO;
	return f;
}

static int watch_backend(struct virtio_net *net, struct error *err)
{
	struct device *dev = &net->vd.dev;
	int rc = loop_timer_add(device_loop(dev), net_on_timer, net, &net->timer);

	for (unsigned int i = 0; rc == 0 && i < net->backend.pairs; i++) {
		net->pair[i].net = net;
		rc = loop_timer_add(device_loop(dev), net_on_buffers, &net->pair[i],
				    &net->pair[i].timer);
		if (rc == 0 && net->backend.fd[i] >= 0)
			rc = loop_fd_add(device_loop(dev), net->backend.fd[i], 0, net_on_backend,
					 &net->pair[i], &net->pair[i].watch);
	}
	return rc < 0 ? error_set(err, rc, "realize", dev->name, "host-backend", "", "%s",
				  strerror(-rc))
		      : 0;
}

static void prepare_ops(struct virtio_net *net, bool offload)
{
	unsigned int n = 2 * net->backend.pairs + 1;

	net->ops = net_ops_template;
	net->ops.n_queues = n;
	for (unsigned int q = 0; q < n; q++)
		net->ops.queue_size[q] = VIRTIO_MAX_QUEUE_SIZE;
	net->vd.features |= offload ? offload_features(net->backend.offloads) : 0;
	net->vd.features |= net->backend.pairs > 1 ? 1U << VIRTIO_NET_F_MQ : 0;
	net->vd.features |= net->mtu ? 1U << VIRTIO_NET_F_MTU : 0;
}

/* The place by what another process has handed on; "N:N…" into @text. */
static void take_given(struct virtio_net *net, struct net_spec *spec, char *text, size_t size)
{
	const struct device_fds *given = device_given(&net->vd.dev);
	size_t len = 0;

	if (!given)
		return;
	for (unsigned int i = 0; i < given->n && len < size; i++)
		len += (size_t)snprintf(text + len, size - len, "%s%d", i ? ":" : "", given->fd[i]);
	spec->name = NULL;
	spec->fds = text;
	spec->given = net->given = true;
	spec->offloads = (unsigned int)given->note;
}

static void net_hand_on(struct device *dev, struct device_fds *fds)
{
	const struct net_backend *nb = &((struct virtio_net *)dev)->backend;

	/* Of passt's stream there may be half a frame here: a new one is started. */
	if (nb->ops != &net_tap && nb->ops != &net_socket)
		return;
	for (unsigned int q = 0; q < nb->pairs; q++)
		fds->fd[fds->n++] = nb->fd[q];
	fds->note = nb->offloads;
}

static int net_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct virtio_net *net = (struct virtio_net *)dev;
	struct net_node n;
	char fds[128];
	int rc = net_node_read(&n, fdt, node, dev->name, err);

	if (rc == 0)
		take_given(net, &n.spec, fds, sizeof(fds));
	if (rc == 0)
		rc = net_open(&net->backend, &n.spec, dev, err);
	if (rc < 0)
		return rc;
	net->mtu = n.mtu;
	memcpy(net->mac, n.mac, sizeof(net->mac));
	memcpy(net->state.mac, n.mac, sizeof(net->mac));
	prepare_ops(net, !n.no_offload);
	rc = watch_backend(net, err);
	return rc ? rc : virtio_mmio_realize(&net->vd, &net->ops, fdt, node, err);
}

static void net_unrealize(struct device *dev)
{
	struct virtio_net *net = (struct virtio_net *)dev;

	virtio_mmio_unrealize(&net->vd);
	for (unsigned int i = 0; i < NET_MAX_PAIRS; i++) {
		loop_fd_del(net->pair[i].watch);
		loop_timer_del(net->pair[i].timer);
	}
	if (net->timer)
		loop_timer_del(net->timer);
	net_backlog_free(net);
	net_close(&net->backend);
}

static void net_quiesce(struct device *dev)
{
	net_announce_pause((struct virtio_net *)dev);
	virtio_mmio_quiesce(dev);
}

static void net_resume(struct device *dev)
{
	struct virtio_net *net = (struct virtio_net *)dev;

	pthread_mutex_lock(&dev->lock);
	if (net->given) {
		net->given = false;
		net_tell_backend(net);
	}
	if (net->arrived)
		net_announce(net);
	net->arrived = net->expected = false;
	pthread_mutex_unlock(&dev->lock);
	virtio_mmio_resume(dev);
	net_announce_resume(net);
}

static void net_announce_here(struct device *dev)
{
	pthread_mutex_lock(&dev->lock);
	net_announce_place((struct virtio_net *)dev);
	pthread_mutex_unlock(&dev->lock);
}

static int net_check_state(struct device *dev, const void *staged, struct error *err)
{
	struct virtio_net *net = (struct virtio_net *)dev;
	const struct net_state *s = staged;
	int rc = virtio_mmio_check(dev, staged, err);

	if (rc)
		return rc;
	if (s->more_pairs >= net->backend.pairs ||
	    (s->more_pairs && !(s->virtio.features & 1U << VIRTIO_NET_F_MQ)))
		return error_set(err, -EINVAL, "load", dev->name, "more_pairs",
				 "as many pairs of queues as were negotiated", "%u more than one",
				 s->more_pairs);
	if (s->mac[0] & 1)
		return error_set(err, -EINVAL, "load", dev->name, "mac", "one host's address",
				 "a group's");
	return 0;
}

static int net_post_load(struct device *dev, struct error *err)
{
	struct virtio_net *net = (struct virtio_net *)dev;
	int rc = virtio_mmio_post_load(dev, err);

	if (rc)
		return rc;
	pthread_mutex_lock(&dev->lock);
	rc = net_tell_backend(net);
	/* It may have got where it was what came here before it was stopped. */
	if (!net->expected && !net->given)
		net_discard(&net->backend);
	net->arrived = !net->given;
	pthread_mutex_unlock(&dev->lock);
	if (rc < 0)
		return error_set(err, rc, "load", dev->name, "features",
				 "a network that can do what was negotiated", "%s", strerror(-rc));
	return 0;
}

static const struct device_class net_class;

static int net_add(struct machine_tree *mt, const char *value, struct error *err)
{
	return net_option_add(mt, &net_class, value, err);
}

static const struct device_class net_class = {
	.name = "virtio-net",
	.compatible = "ferry,virtio-net",
	.stage = STAGE_DEVICE,
	.option = { .name = "net",
		    .arg = "tap|user|socket|none[,name=NAME][,fd=N][,socket=PATH][,vnet-hdr]"
			   "[,mac=MAC][,queues=N][,mtu=N][,no-offload]",
		    .help = "virtio network on a tap, passt, a given socket, or nothing",
		    .add = net_add },
	.size = sizeof(struct virtio_net),
	.state_offset = offsetof(struct virtio_net, state),
	.state_size = sizeof(struct net_state),
	.fields = net_fields,
	.realize = net_realize,
	.unrealize = net_unrealize,
	.reset = virtio_mmio_reset,
	.quiesce = net_quiesce,
	.resume = net_resume,
	.check = net_check_state,
	.post_load = net_post_load,
	.announce = net_announce_here,
	.backlog = net_backlog,
	.take_backlog = net_take_backlog,
	.hand_on = net_hand_on,
};
DEVICE_CLASS(net_class);
