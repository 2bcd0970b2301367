/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio block device (virtio 1.2, section 5.2) on a file or block device of the host (disk.h). */
#include "devices/virtio-blk.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/options.h"

static const struct field blk_fields[] = {
	FIELD_VIRTIO(struct blk_state, virtio),
	FIELD_BOOL(struct blk_state, writethrough),
	FIELDS_END,
};

static void blk_drain(struct virtio_device *vd)
{
	struct virtio_blk *blk = (struct virtio_blk *)vd;

	disk_drain(&blk->disk);
	virtq_flush(vd, 0);
}

/* A host that does not answer in time leaves requests in flight; the guest then stays here. */
static int blk_pre_save(struct device *dev, struct error *err)
{
	struct virtio_blk *blk = (struct virtio_blk *)dev;

	if (blk->disk.in_flight == 0)
		return 0;
	return error_set(err, -ETIMEDOUT, "save", dev->name, "requests in flight", "0",
			 "%u after %u ms", blk->disk.in_flight, blk->disk.drain_ms);
}

static void blk_reset(struct virtio_device *vd)
{
	((struct virtio_blk *)vd)->state.writethrough = false;
}

/* Config space: our copy, with the one field the driver may change. */

static void blk_read_config(struct virtio_device *vd, size_t offset, void *data, size_t len)
{
	struct virtio_blk *blk = (struct virtio_blk *)vd;
	struct virtio_blk_config config = blk->config;

	config.wce = !blk->state.writethrough;
	virtio_config_get(&config, offset, data, len);
}

static void blk_write_config(struct virtio_device *vd, size_t offset, const void *data, size_t len)
{
	struct virtio_blk *blk = (struct virtio_blk *)vd;
	size_t wce = offsetof(struct virtio_blk_config, wce);

	if (offset <= wce && wce < offset + len && virtio_has(vd, VIRTIO_BLK_F_CONFIG_WCE))
		blk->state.writethrough = !((const uint8_t *)data)[wce - offset];
}

static const char *const blk_features[24] = {
	[VIRTIO_BLK_F_SEG_MAX] = "VIRTIO_BLK_F_SEG_MAX",
	[VIRTIO_BLK_F_RO] = "VIRTIO_BLK_F_RO",
	[VIRTIO_BLK_F_BLK_SIZE] = "VIRTIO_BLK_F_BLK_SIZE",
	[VIRTIO_BLK_F_FLUSH] = "VIRTIO_BLK_F_FLUSH",
	[VIRTIO_BLK_F_CONFIG_WCE] = "VIRTIO_BLK_F_CONFIG_WCE",
	[VIRTIO_BLK_F_DISCARD] = "VIRTIO_BLK_F_DISCARD",
	[VIRTIO_BLK_F_WRITE_ZEROES] = "VIRTIO_BLK_F_WRITE_ZEROES",
};

static const struct virtio_ops blk_ops = {
	.device_id = VIRTIO_ID_BLOCK,
	.features = 1U << VIRTIO_BLK_F_SEG_MAX | 1U << VIRTIO_BLK_F_BLK_SIZE |
		    1U << VIRTIO_BLK_F_FLUSH | 1U << VIRTIO_BLK_F_CONFIG_WCE,
	.feature_names = blk_features,
	.n_queues = 1,
	.queue_size = { VIRTIO_MAX_QUEUE_SIZE },
	.config_size = sizeof(struct virtio_blk_config),
	.read_config = blk_read_config,
	.write_config = blk_write_config,
	.handle_queue = blk_handle_queue,
	.poll = blk_poll,
	.drain = blk_drain,
	.reset = blk_reset,
};

/* Life */

static void fill_config(struct virtio_blk *blk, uint32_t blk_size, uint32_t queue_size)
{
	struct virtio_blk_config *c = &blk->config;

	c->capacity = blk->disk.size / DISK_SECTOR;
	c->seg_max = queue_size - 2; /* header and status are the others */
	c->blk_size = blk_size;
	if (blk->disk.readonly) {
		blk->vd.features |= 1U << VIRTIO_BLK_F_RO;
		return;
	}
	blk->vd.features |= 1U << VIRTIO_BLK_F_DISCARD | 1U << VIRTIO_BLK_F_WRITE_ZEROES;
	c->max_discard_sectors = BLK_MAX_DISCARD;
	c->max_discard_seg = 1;
	c->discard_sector_alignment = blk_size / DISK_SECTOR;
	c->max_write_zeroes_sectors = BLK_MAX_WRITE_ZEROES;
	c->max_write_zeroes_seg = 1;
	c->write_zeroes_may_unmap = 1;
}

/* Open what the node names; it must be what the guest has seen, if it has seen one. */
static int open_disk(struct virtio_blk *blk, const void *fdt, int node, uint32_t depth,
		     struct error *err)
{
	const char *path = device_node_string(fdt, node, "host-path");
	uint64_t size = device_node_u64(fdt, node, "size", 0);
	uint64_t blk_size = device_node_u64(fdt, node, "block-size", DISK_SECTOR);
	unsigned int flags = (device_node_flag(fdt, node, "host-direct") ? DISK_DIRECT : 0) |
			     (device_node_flag(fdt, node, "host-sync") ? DISK_SYNC : 0);
	const char *name = blk->vd.dev.name;
	struct device_fds *given = device_given(&blk->vd.dev);
	char file[32];
	int rc;

	if (!path)
		return error_set(err, -EINVAL, "realize", name, "host-path", "a path", "none");
	/* Whatever bears its name by now, it is the file that the guest has. Opened anew, for its
	 * lock belongs to an open file. */
	if (given)
		snprintf(file, sizeof(file), "/proc/self/fd/%d", given->fd[0]);
	rc = disk_open(&blk->disk, given ? file : path, device_node_flag(fdt, node, "readonly"),
		       flags, depth, err);
	if (rc)
		return rc;
	if (given && (rc = disk_rename(&blk->disk, path)) < 0)
		return error_set(err, rc, "realize", name, "", "memory", "none");
	if (size != blk->disk.size) {
		error_set(err, -EINVAL, "realize", name, "size", "", "%llu bytes in %s",
			  (unsigned long long)blk->disk.size, path);
		error_expected(err, "%llu bytes", (unsigned long long)size);
		return -EINVAL;
	}
	if (blk_size < blk->disk.align || blk_size > 4096 || (blk_size & (blk_size - 1))) {
		error_set(err, -EINVAL, "realize", name, "block-size", "", "%llu",
			  (unsigned long long)blk_size);
		error_expected(err, "%u to 4096", blk->disk.align);
		return -EINVAL;
	}
	fill_config(blk, (uint32_t)blk_size, depth);
	return 0;
}

static int blk_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct virtio_blk *blk = (struct virtio_blk *)dev;
	uint64_t n = device_node_u64(fdt, node, "queue-size", VIRTIO_MAX_QUEUE_SIZE);
	const char *id = device_node_string(fdt, node, "id");
	int rc;

	blk->mirror_fd = -1;
	if (n < 4 || n > VIRTIO_MAX_QUEUE_SIZE || (n & (n - 1)))
		return error_set(err, -EINVAL, "realize", dev->name, "queue-size",
				 "a power of two from 4 to 256", "%llu", (unsigned long long)n);
	rc = open_disk(blk, fdt, node, (uint32_t)n, err);
	if (rc)
		return rc;
	if (id)
		memcpy(blk->id, id, strnlen(id, sizeof(blk->id)));
	blk->n_requests = (unsigned int)n;
	blk->requests = calloc(n, sizeof(*blk->requests));
	blk->free = calloc(n, sizeof(*blk->free));
	if (!blk->requests || !blk->free)
		return error_set(err, -ENOMEM, "realize", dev->name, "", "", "out of memory");
	while (blk->n_free < n) {
		blk->free[blk->n_free] = (uint16_t)(n - 1 - blk->n_free);
		blk->n_free++;
	}
	if (disk_event_fd(&blk->disk) >= 0) {
		rc = loop_fd_add(device_loop(dev), disk_event_fd(&blk->disk), EPOLLIN, blk_on_disk,
				 blk, &blk->watch);
		if (rc)
			return error_set(err, rc, "realize", dev->name, "io_uring", "", "%s",
					 strerror(-rc));
	}
	blk->vd.queue[0].max = (uint16_t)n;
	return virtio_mmio_realize(&blk->vd, &blk_ops, fdt, node, err);
}

static void blk_unrealize(struct device *dev)
{
	struct virtio_blk *blk = (struct virtio_blk *)dev;

	virtio_mmio_unrealize(&blk->vd);
	if (blk->watch)
		loop_fd_del(blk->watch);
	blk_mirror_free(blk);
	disk_close(&blk->disk);
	free(blk->requests);
	free(blk->free);
}

static int blk_claim(struct device *dev, struct error *err)
{
	return disk_lock(&((struct virtio_blk *)dev)->disk, err);
}

static void blk_yield(struct device *dev)
{
	disk_unlock(&((struct virtio_blk *)dev)->disk);
}

static void blk_hand_on(struct device *dev, struct device_fds *fds)
{
	fds->fd[fds->n++] = ((struct virtio_blk *)dev)->disk.fd;
}

/* --disk */

struct blk_options {
	bool readonly, direct, sync;
	char id[VIRTIO_BLK_ID_BYTES + 1];
	uint64_t queue_size;
};

static int blk_suboption(void *opaque, const char *key, const char *value, struct error *err)
{
	struct blk_options *o = opaque;

	if (!strcmp(key, "readonly") && !value) {
		o->readonly = true;
	} else if (!strcmp(key, "direct") && !value) {
		o->direct = true;
	} else if (!strcmp(key, "sync") && !value) {
		o->sync = true;
	} else if (!strcmp(key, "id") && value && strlen(value) < sizeof(o->id)) {
		memcpy(o->id, value, strlen(value) + 1);
	} else if (!strcmp(key, "queue-size") && value) {
		return parse_uint(value, 4, VIRTIO_MAX_QUEUE_SIZE, &o->queue_size, err);
	} else {
		return error_set(err, -EINVAL, "options", "--disk", "",
				 "readonly, direct, sync, id=TEXT (up to 20 bytes) or queue-size=N",
				 "%s%s%s", key, value ? "=" : "", value ? value : "");
	}
	return 0;
}

static const struct device_class blk_class;

static int blk_add(struct machine_tree *mt, const char *value, struct error *err)
{
	struct blk_options o = { .queue_size = VIRTIO_MAX_QUEUE_SIZE };
	uint64_t size;
	uint32_t align;
	char *path = NULL;
	int rc;

	rc = option_split(value, &path, blk_suboption, &o, err);
	if (!rc)
		rc = disk_probe(path, o.direct ? DISK_DIRECT : 0, &size, &align, err);
	if (!rc)
		rc = machine_tree_begin_mmio(mt, &blk_class, "virtio,mmio", err);
	if (rc)
		goto out;
	machine_tree_string(mt, "host-path", path);
	machine_tree_u64(mt, "size", size);
	machine_tree_u64(mt, "block-size", align);
	machine_tree_u64(mt, "queue-size", o.queue_size);
	if (o.id[0])
		machine_tree_string(mt, "id", o.id);
	if (o.readonly)
		machine_tree_flag(mt, "readonly");
	if (o.direct)
		machine_tree_flag(mt, "host-direct");
	if (o.sync)
		machine_tree_flag(mt, "host-sync");
	rc = machine_tree_end(mt, err);
out:
	free(path);
	return rc;
}

static const struct device_class blk_class = {
	.name = "virtio-blk",
	.compatible = "ferry,virtio-blk",
	.stage = STAGE_DEVICE,
	.option = { .name = "disk",
		    .arg = "FILE[,readonly][,direct][,sync][,id=TEXT][,queue-size=N]",
		    .help = "virtio disk on a raw file or block device",
		    .add = blk_add },
	.size = sizeof(struct virtio_blk),
	.state_offset = offsetof(struct virtio_blk, state),
	.state_size = sizeof(struct blk_state),
	.fields = blk_fields,
	.realize = blk_realize,
	.unrealize = blk_unrealize,
	.reset = virtio_mmio_reset,
	.quiesce = virtio_mmio_quiesce,
	.resume = virtio_mmio_resume,
	.pre_save = blk_pre_save,
	.check = virtio_mmio_check,
	.post_load = virtio_mmio_post_load,
	.claim = blk_claim,
	.yield = blk_yield,
	.hand_on = blk_hand_on,
	.block = &blk_mirror_ops,
};
DEVICE_CLASS(blk_class);
