/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio over MMIO (virtio 1.2, section 4.2): the life of a device, its interrupts and its state.
 * Its registers are in virtio-mmio-regs.c. */
#include "devices/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TRANSPORT_FEATURES                                                  \
	(1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC | \
	 1ULL << VIRTIO_RING_F_EVENT_IDX)

static const struct field virtq_fields[] = {
	FIELD_INT(struct virtq_state, size, 0, VIRTIO_MAX_QUEUE_SIZE),
	FIELD_BOOL(struct virtq_state, ready),
	FIELD_ANY(struct virtq_state, desc),
	FIELD_ANY(struct virtq_state, driver),
	FIELD_ANY(struct virtq_state, device),
	FIELD_ANY(struct virtq_state, last_avail),
	FIELD_ANY(struct virtq_state, used),
	FIELD_ANY(struct virtq_state, published),
	FIELDS_END,
};

const struct field virtio_state_fields[] = {
	FIELD_INT(struct virtio_state, status, 0, 0xff),
	FIELD_ANY(struct virtio_state, features),
	FIELD_ANY(struct virtio_state, device_features_sel),
	FIELD_ANY(struct virtio_state, driver_features_sel),
	FIELD_ANY(struct virtio_state, queue_sel),
	FIELD_INT(struct virtio_state, interrupt_status, 0,
		  VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG),
	FIELD_ANY(struct virtio_state, config_generation),
	FIELD_INT(struct virtio_state, n_queues, 0, VIRTIO_MAX_QUEUES),
	FIELD_STRUCTS_N(struct virtio_state, queue, virtq_fields, n_queues),
	FIELDS_END,
};

static struct virtio_device *to_virtio(struct device *dev)
{
	return (struct virtio_device *)dev;
}

bool virtio_live(const struct virtio_device *vd)
{
	return (vd->state->status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET)) ==
	       VIRTIO_CONFIG_S_DRIVER_OK;
}

static void interrupt(struct virtio_device *vd, uint32_t cause)
{
	vd->state->interrupt_status |= cause;
	device_irq_pulse(vd->irq);
}

void virtio_config_changed(struct virtio_device *vd)
{
	vd->state->config_generation++;
	if (vd->state->status & VIRTIO_CONFIG_S_DRIVER_OK)
		interrupt(vd, VIRTIO_MMIO_INT_CONFIG);
}

void virtio_broken(struct virtio_device *vd, const char *reason, ...)
{
	char text[160];
	va_list ap;

	if (vd->state->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	/* 2.1.2: and a configuration change notification once the driver has set DRIVER_OK. */
	vd->state->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	virtio_config_changed(vd);
	if (vd->told)
		return;
	vd->told = true;
	va_start(ap, reason);
	vsnprintf(text, sizeof(text), reason, ap);
	va_end(ap);
	fprintf(stderr, "ferry: %s: the guest's driver broke the protocol, device stopped: %s\n",
		vd->dev.name, text);
}

void virtio_config_get(const void *config, size_t offset, void *data, size_t len)
{
	memcpy(data, (const uint8_t *)config + offset, len);
}

/* Queues */

void virtio_run_queue(struct virtio_device *vd, unsigned int q)
{
	struct virtq *vq = &vd->queue[q];

	pthread_mutex_lock(&vd->dev.lock);
	if (virtio_live(vd) && !vd->quiesced && vd->state->queue[q].ready) {
		/* A guest that never stops adding must not keep the loop thread for itself. */
		vq->budget = (int)vd->state->queue[q].size;
		vq->more = false;
		vd->ops->handle_queue(vd, q);
		vq->budget = -1;
		if (vq->more)
			virtq_kick(vd, q);
	}
	pthread_mutex_unlock(&vd->dev.lock);
}

static void on_kick(void *opaque, uint32_t events)
{
	struct virtq *vq = opaque;

	(void)events;
	virtio_run_queue(vq->vd, (unsigned int)(vq - vq->vd->queue));
}

void virtio_mmio_drain(struct virtio_device *vd)
{
	if (vd->ops->drain)
		vd->ops->drain(vd);
}

void virtio_mmio_reset_locked(struct virtio_device *vd)
{
	virtio_mmio_drain(vd);
	for (unsigned int q = 0; q < vd->ops->n_queues; q++)
		virtq_stop(vd, q);
	*vd->state = (struct virtio_state){ 0 };
	vd->state->n_queues = vd->ops->n_queues;
	if (vd->ops->reset)
		vd->ops->reset(vd);
}

/* Life */

static int realize_queue(struct virtio_device *vd, unsigned int q, struct error *err)
{
	struct virtq *vq = &vd->queue[q];
	int rc;

	vq->vd = vd;
	vq->budget = -1;
	if (vq->max == 0 || vq->max > vd->ops->queue_size[q])
		vq->max = vd->ops->queue_size[q];
	vq->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vq->kick < 0)
		return error_set(err, -errno, "realize", vd->dev.name, "eventfd", "", "%s",
				 strerror(errno));
	/* Edges: each signal is one, whatever the count is, so nobody needs to read it. */
	rc = loop_fd_add(device_loop(&vd->dev), vq->kick, EPOLLIN | EPOLLET, on_kick, vq,
			 &vq->kick_watch);
	if (rc)
		return error_set(err, rc, "realize", vd->dev.name, "eventfd", "", "%s",
				 strerror(-rc));
	rc = device_ioeventfd(&vd->dev, vd->base + VIRTIO_MMIO_QUEUE_NOTIFY, q, vq->kick, true,
			      err);
	vq->bound = rc == 0;
	return rc;
}

int virtio_mmio_realize(struct virtio_device *vd, const struct virtio_ops *ops, const void *fdt,
			int node, struct error *err)
{
	uint64_t size;
	bool pio;
	int rc;

	vd->ops = ops;
	vd->state = (struct virtio_state *)((char *)vd + vd->dev.class->state_offset);
	vd->state->n_queues = ops->n_queues;
	vd->features |= ops->features | TRANSPORT_FEATURES;
	vd->irq = -1;
	vd->quiesced = true;
	virtio_poll_init(vd);
	for (unsigned int q = 0; q < VIRTIO_MAX_QUEUES; q++)
		vd->queue[q].kick = -1;
	rc = device_node_reg(fdt, node, &vd->base, &size, &pio, err);
	if (rc)
		return rc;
	if (pio || size < VIRTIO_MMIO_CONFIG + ops->config_size)
		return error_set(err, -EINVAL, "realize", vd->dev.name, "reg", "MMIO, a page",
				 "%s, 0x%llx bytes", pio ? "ports" : "MMIO",
				 (unsigned long long)size);
	rc = device_node_irq(fdt, node, &vd->gsi, err);
	if (!rc)
		rc = device_irq_open(&vd->dev, vd->gsi, &vd->irq, err);
	for (unsigned int q = 0; !rc && q < ops->n_queues; q++)
		rc = realize_queue(vd, q, err);
	if (!rc)
		rc = device_claim_mmio(&vd->dev, vd->base, size, &virtio_mmio_registers, err);
	return rc;
}

void virtio_mmio_unrealize(struct virtio_device *vd)
{
	if (!vd->ops)
		return;
	virtio_poll_end(vd);
	virtio_mmio_drain(vd);
	device_release_ranges(&vd->dev);
	for (unsigned int q = 0; q < VIRTIO_MAX_QUEUES; q++) {
		struct virtq *vq = &vd->queue[q];

		if (vq->kick < 0)
			continue;
		if (vq->bound)
			device_ioeventfd(&vd->dev, vd->base + VIRTIO_MMIO_QUEUE_NOTIFY, q, vq->kick,
					 false, NULL);
		if (vq->kick_watch)
			loop_fd_del(vq->kick_watch);
		close(vq->kick);
		vq->kick = -1;
		virtq_stop(vd, q);
	}
	if (vd->irq >= 0)
		device_irq_close(&vd->dev, vd->gsi, vd->irq);
	vd->ops = NULL;
}

void virtio_mmio_reset(struct device *dev)
{
	struct virtio_device *vd = to_virtio(dev);

	pthread_mutex_lock(&dev->lock);
	virtio_mmio_reset_locked(vd);
	pthread_mutex_unlock(&dev->lock);
}

void virtio_mmio_quiesce(struct device *dev)
{
	struct virtio_device *vd = to_virtio(dev);

	pthread_mutex_lock(&dev->lock);
	virtio_poll_end(vd);
	vd->quiesced = true;
	virtio_mmio_drain(vd);
	pthread_mutex_unlock(&dev->lock);
}

void virtio_mmio_resume(struct device *dev)
{
	struct virtio_device *vd = to_virtio(dev);

	pthread_mutex_lock(&dev->lock);
	vd->quiesced = false;
	/* The edge of an interrupt may have been lost with the old host; one too many is
	 * harmless. */
	if (vd->state->interrupt_status)
		device_irq_pulse(vd->irq);
	pthread_mutex_unlock(&dev->lock);
	/* So may a kick. */
	for (unsigned int q = 0; q < vd->ops->n_queues; q++)
		virtio_run_queue(vd, q);
}

/* State may come from a hostile stream. */

static const char *feature_name(const struct virtio_device *vd, unsigned int bit)
{
	const char *name = NULL;

	if (bit < 24 && vd->ops->feature_names)
		name = vd->ops->feature_names[bit];
	else if (bit == VIRTIO_RING_F_INDIRECT_DESC)
		name = "VIRTIO_F_INDIRECT_DESC";
	else if (bit == VIRTIO_RING_F_EVENT_IDX)
		name = "VIRTIO_F_EVENT_IDX";
	return name ? name : "unknown";
}

static int check_features(struct virtio_device *vd, const struct virtio_state *s, struct error *err)
{
	uint64_t extra = s->features & ~vd->features;
	unsigned int bit;

	if (!(s->status & VIRTIO_CONFIG_S_FEATURES_OK) || !extra)
		return 0;
	bit = (unsigned int)__builtin_ctzll(extra);
	error_set(err, -EINVAL, "load", vd->dev.name, "features", "", "bit %u (%s) negotiated", bit,
		  feature_name(vd, bit));
	error_expected(err, "no more than 0x%llx", (unsigned long long)vd->features);
	return -EINVAL;
}

int virtio_mmio_check(struct device *dev, const void *staged, struct error *err)
{
	const struct virtio_state *s = staged;
	struct virtio_device *vd = to_virtio(dev);
	char field[32];
	const char *bad;

	if (s->n_queues != vd->ops->n_queues) {
		error_set(err, -EINVAL, "load", dev->name, "n_queues", "", "%u", s->n_queues);
		error_expected(err, "%u", vd->ops->n_queues);
		return -EINVAL;
	}
	if (check_features(vd, s, err))
		return -EINVAL;
	for (unsigned int q = 0; q < s->n_queues; q++) {
		const struct virtq_state *qs = &s->queue[q];
		struct virtq scratch = { .max = vd->queue[q].max };

		if (!qs->ready)
			continue;
		bad = virtq_map(vd, qs, &scratch);
		/* Chains popped and not pushed are at most the ring. */
		if (!bad && (uint16_t)(qs->last_avail - qs->used) > qs->size)
			bad = "used";
		if (!bad)
			continue;
		snprintf(field, sizeof(field), "queue@%u.%s", q, bad);
		return error_set(err, -EINVAL, "load", dev->name, field, "a usable ring",
				 "size %u at 0x%llx, 0x%llx, 0x%llx, indices %u, %u, %u", qs->size,
				 (unsigned long long)qs->desc, (unsigned long long)qs->driver,
				 (unsigned long long)qs->device, qs->last_avail, qs->used,
				 qs->published);
	}
	return 0;
}

int virtio_mmio_post_load(struct device *dev, struct error *err)
{
	struct virtio_device *vd = to_virtio(dev);

	(void)err;
	pthread_mutex_lock(&dev->lock);
	for (unsigned int q = 0; q < vd->ops->n_queues; q++) {
		vd->queue[q].epoch++;
		if (vd->state->queue[q].ready) /* checked by virtio_mmio_check */
			virtq_map(vd, &vd->state->queue[q], &vd->queue[q]);
	}
	pthread_mutex_unlock(&dev->lock);
	return 0;
}
