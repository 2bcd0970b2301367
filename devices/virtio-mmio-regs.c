/* SPDX-License-Identifier: BSD-2-Clause */
/* The registers of virtio over MMIO (virtio 1.2, section 4.2.2). */
#include "devices/virtio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <string.h>

#define MAGIC	0x74726976 /* "virt" */
#define VERSION 2
#define VENDOR	0x59525246 /* "FRRY" */

static struct virtio_device *to_virtio(struct device *dev)
{
	return (struct virtio_device *)dev;
}

static void write_status(struct virtio_device *vd, uint32_t value)
{
	uint32_t *status = &vd->state->status;
	uint32_t set = value & ~*status;

	if (value == 0) {
		virtio_mmio_reset_locked(vd);
		return;
	}
	/* 3.1.1: a driver that finds FEATURES_OK not set gives up. */
	if (set & VIRTIO_CONFIG_S_FEATURES_OK &&
	    (vd->state->features & ~vd->features ||
	     !(vd->state->features & 1ULL << VIRTIO_F_VERSION_1)))
		set &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	*status |= set & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			  VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED);
	if (!(set & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	if (!(*status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		virtio_broken(vd, "DRIVER_OK without FEATURES_OK");
		return;
	}
	*status |= VIRTIO_CONFIG_S_DRIVER_OK;
	if (vd->ops->driver_ok)
		vd->ops->driver_ok(vd);
	for (unsigned int q = 0; q < vd->ops->n_queues; q++)
		virtq_kick(vd, q);
}

/* The selected queue, NULL when there is none of that number. */
static struct virtq_state *selected(struct virtio_device *vd)
{
	uint32_t q = vd->state->queue_sel;

	return q < vd->ops->n_queues ? &vd->state->queue[q] : NULL;
}

static uint32_t read_register(struct virtio_device *vd, uint64_t offset)
{
	const struct virtio_state *s = vd->state;
	const struct virtq_state *qs = selected(vd);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return vd->ops->device_id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return s->device_features_sel > 1
			       ? 0
			       : (uint32_t)(vd->features >> (32 * s->device_features_sel));
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return qs ? vd->queue[s->queue_sel].max : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return qs ? qs->ready : 0;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return s->interrupt_status;
	case VIRTIO_MMIO_STATUS:
		return s->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* no shared memory region */
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return s->config_generation;
	default:
		return 0;
	}
}

static void set_low(uint64_t *to, uint32_t value)
{
	*to = (*to & 0xffffffff00000000) | value;
}

static void set_high(uint64_t *to, uint32_t value)
{
	*to = (*to & 0xffffffff) | (uint64_t)value << 32;
}

static void set_ready(struct virtio_device *vd, unsigned int q, bool ready)
{
	struct virtq_state *s = &vd->state->queue[q];
	const char *bad;

	if (s->ready == ready)
		return;
	if (!ready) {
		virtio_mmio_drain(vd);
		virtq_stop(vd, q);
		return;
	}
	bad = virtq_map(vd, s, &vd->queue[q]);
	if (bad) {
		virtio_broken(vd, "queue %u: %s (%u entries, 0x%llx, 0x%llx, 0x%llx)", q, bad,
			      s->size, (unsigned long long)s->desc, (unsigned long long)s->driver,
			      (unsigned long long)s->device);
		return;
	}
	s->ready = true;
	s->last_avail = s->used = s->published = 0;
}

/* The registers of the selected queue. */
static void write_queue_register(struct virtio_device *vd, uint64_t offset, uint32_t value)
{
	struct virtq_state *qs = selected(vd);

	if (!qs)
		return;
	if (offset == VIRTIO_MMIO_QUEUE_READY) {
		set_ready(vd, vd->state->queue_sel, value & 1);
		return;
	}
	/* 4.2.2.2: none of them while the queue is in use. */
	if (qs->ready) {
		virtio_broken(vd, "queue %u: register 0x%llx written while ready",
			      vd->state->queue_sel, (unsigned long long)offset);
		return;
	}
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		qs->size = value <= VIRTIO_MAX_QUEUE_SIZE ? value : 0;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
		set_low(&qs->desc, value);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_high(&qs->desc, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
		set_low(&qs->driver, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_high(&qs->driver, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
		set_low(&qs->device, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_high(&qs->device, value);
		break;
	default:
		break;
	}
}

static void write_driver_features(struct virtio_device *vd, uint32_t value)
{
	/* Settled once FEATURES_OK is set (3.1.1). */
	if (vd->state->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	if (vd->state->driver_features_sel == 0)
		set_low(&vd->state->features, value);
	else if (vd->state->driver_features_sel == 1)
		set_high(&vd->state->features, value);
}

static void write_register(struct virtio_device *vd, uint64_t offset, uint32_t value)
{
	struct virtio_state *s = vd->state;

	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		s->device_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		s->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_driver_features(vd, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		s->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		/* Only reached without an ioeventfd. */
		if (value < vd->ops->n_queues)
			virtq_kick(vd, value);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		s->interrupt_status &= ~value;
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(vd, value);
		break;
	default:
		write_queue_register(vd, offset, value);
		break;
	}
}

/* The part of [@offset, @offset + @len) that the device's config space has. */
static size_t config_part(const struct virtio_device *vd, uint64_t offset, size_t len)
{
	if (offset >= vd->ops->config_size)
		return 0;
	return len < vd->ops->config_size - offset ? len : vd->ops->config_size - offset;
}

static void mmio_read(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	struct virtio_device *vd = to_virtio(dev);
	uint32_t value;
	size_t n;

	memset(data, 0, len);
	if (offset >= VIRTIO_MMIO_CONFIG) {
		n = config_part(vd, offset - VIRTIO_MMIO_CONFIG, len);
		if (n && vd->ops->read_config)
			vd->ops->read_config(vd, offset - VIRTIO_MMIO_CONFIG, data, n);
	} else if (len == 4) { /* 4.2.2.2: 32 bits wide and aligned */
		value = read_register(vd, offset);
		memcpy(data, &value, sizeof(value));
	}
}

static void mmio_write(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	struct virtio_device *vd = to_virtio(dev);
	uint32_t value;
	size_t n;

	if (offset >= VIRTIO_MMIO_CONFIG) {
		n = config_part(vd, offset - VIRTIO_MMIO_CONFIG, len);
		if (n && vd->ops->write_config)
			vd->ops->write_config(vd, offset - VIRTIO_MMIO_CONFIG, data, n);
	} else if (len == 4) {
		memcpy(&value, data, sizeof(value));
		write_register(vd, offset, value);
	}
}

const struct bus_ops virtio_mmio_registers = { .read = mmio_read, .write = mmio_write };
