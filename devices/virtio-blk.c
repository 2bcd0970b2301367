/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio block device (virtio 1.2, section 5.2) on a file or block device of the host (disk.h). */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "devices/disk.h"
#include "devices/virtio.h"
#include "vmm/options.h"

/* Longest read or write: one system call does it (the kernel's limit is just below 2 GiB). */
#define MAX_BYTES (1U << 30)

/* Limits of one request, in sectors. Writing zeroes may mean to write them. */
#define MAX_DISCARD	 (1U << 22)
#define MAX_WRITE_ZEROES (1U << 15)

struct blk_state {
	struct virtio_state virtio;
	bool writethrough; /* the inverse of config.writeback (5.2.5) */
};

static const struct field blk_fields[] = {
	FIELD_VIRTIO(struct blk_state, virtio),
	FIELD_BOOL(struct blk_state, writethrough),
	FIELDS_END,
};

struct blk_request {
	struct disk_request io; /* first */
	struct virtio_blk *blk;
	uint64_t status_gpa; /* of the byte that tells the driver how it went */
	struct virtq_chain chain;
};

struct virtio_blk {
	struct virtio_device vd;
	struct blk_state state;
	struct disk disk;
	struct loop_fd *watch;
	struct virtio_blk_config config;
	char id[VIRTIO_BLK_ID_BYTES];
	struct blk_request *requests; /* as many as the queue has entries */
	uint16_t *free;		      /* stack of the indices of those not in use */
	unsigned int n_requests, n_free;
};

/* Finish a request: tell the driver @status, having written the first @len bytes of in. */
static void answer(struct blk_request *r, uint8_t status, size_t len)
{
	struct virtio_blk *blk = r->blk;

	/* Data and status byte are all of in, or the status byte stands alone behind a gap. */
	memory_write(device_memory(&blk->vd.dev), r->status_gpa, &status, 1);
	virtq_push(&blk->vd, 0, &r->chain, len == r->chain.in_len ? (uint32_t)len + 1 : 0);
	if (blk->n_free == 0)
		virtq_kick(&blk->vd, 0); /* handle_queue may have stopped for want of one */
	blk->free[blk->n_free++] = (uint16_t)(r - blk->requests);
}

static void io_done(struct disk_request *io, int rc)
{
	struct blk_request *r = (struct blk_request *)io;
	size_t len = io->op == DISK_READ ? r->chain.in_len : 0;

	if (rc == 0) {
		answer(r, VIRTIO_BLK_S_OK, len);
		return;
	}
	/* A failed read may have written any part of the buffer. */
	virtq_dirty(&r->blk->vd, &r->chain, 0, len);
	answer(r, VIRTIO_BLK_S_IOERR, 0);
}

static void start(struct blk_request *r, enum disk_op op, uint64_t sector, uint64_t len)
{
	r->io.op = op;
	r->io.offset = sector * DISK_SECTOR;
	r->io.len = len;
	disk_start(&r->blk->disk, &r->io);
}

/* Whether [@sector, + @len bytes) is whole sectors of the disk. */
static bool in_range(const struct virtio_blk *blk, uint64_t sector, uint64_t len)
{
	uint64_t capacity = blk->config.capacity;

	return len % blk->config.blk_size == 0 &&
	       sector % (blk->config.blk_size / DISK_SECTOR) == 0 && sector <= capacity &&
	       len / DISK_SECTOR <= capacity - sector;
}

/* Without FLUSH, or when the driver has chosen so, a write that is done is durable (5.2.6.2). */
static bool writethrough(const struct virtio_blk *blk)
{
	return !virtio_has(&blk->vd, VIRTIO_BLK_F_FLUSH) || blk->state.writethrough;
}

static void read_write(struct blk_request *r, bool write, uint64_t sector)
{
	struct virtio_blk *blk = r->blk;
	uint64_t len = write ? r->chain.out_len : r->chain.in_len;

	if (len > MAX_BYTES || !in_range(blk, sector, len) || (write && blk->disk.readonly)) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	r->io.iov = write ? r->chain.out : r->chain.in;
	r->io.n_iov = write ? r->chain.n_out : r->chain.n_in;
	start(r,
	      !write		  ? DISK_READ
	      : writethrough(blk) ? DISK_WRITE_THROUGH
				  : DISK_WRITE,
	      sector, len);
}

/* DISCARD and WRITE_ZEROES: one segment, as config says. */
static void clear(struct blk_request *r, bool zero)
{
	struct virtio_blk *blk = r->blk;
	struct virtio_blk_discard_write_zeroes seg;
	bool unmap;

	if (r->chain.out_len != sizeof(seg) || !virtq_pull(&r->chain, &seg, sizeof(seg))) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	unmap = seg.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	if (seg.flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (unmap && !zero)) {
		answer(r, VIRTIO_BLK_S_UNSUPP, 0); /* 5.2.6.2 */
		return;
	}
	if (blk->disk.readonly || seg.num_sectors == 0 ||
	    seg.num_sectors > (zero ? MAX_WRITE_ZEROES : MAX_DISCARD) ||
	    !in_range(blk, seg.sector, (uint64_t)seg.num_sectors * DISK_SECTOR)) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	start(r,
	      !zero   ? DISK_DISCARD
	      : unmap ? DISK_ZERO_UNMAP
		      : DISK_ZERO,
	      seg.sector, (uint64_t)seg.num_sectors * DISK_SECTOR);
}

static void get_id(struct blk_request *r)
{
	struct virtio_blk *blk = r->blk;
	size_t n = virtq_write(&blk->vd, &r->chain, 0, blk->id, sizeof(blk->id));

	answer(r, n == sizeof(blk->id) ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR, n);
}

/* Look at a request that has just been popped and start it, or answer at once. */
static void handle(struct blk_request *r)
{
	struct virtio_blk *blk = r->blk;
	struct virtio_blk_outhdr hdr;

	/* Without a place for the status there is no way to complain to the driver. */
	if (!virtq_cut(&r->chain, 1, &r->status_gpa)) {
		virtio_broken(&blk->vd, "request without a status byte");
		blk->free[blk->n_free++] = (uint16_t)(r - blk->requests);
		return;
	}
	if (!virtq_pull(&r->chain, &hdr, sizeof(hdr))) {
		answer(r, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	switch (hdr.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		read_write(r, hdr.type == VIRTIO_BLK_T_OUT, hdr.sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		start(r, DISK_FLUSH, 0, 0);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(r);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		clear(r, hdr.type == VIRTIO_BLK_T_WRITE_ZEROES);
		break;
	default:
		answer(r, VIRTIO_BLK_S_UNSUPP, 0);
	}
}

static void blk_handle_queue(struct virtio_device *vd, unsigned int q)
{
	struct virtio_blk *blk = (struct virtio_blk *)vd;

	while (blk->n_free) {
		struct blk_request *r = &blk->requests[blk->free[blk->n_free - 1]];

		if (!virtq_pop(vd, q, &r->chain))
			break;
		blk->n_free--;
		r->blk = blk;
		r->io.done = io_done;
		handle(r);
	}
	disk_submit(&blk->disk);
	virtq_flush(vd, q); /* what was answered at once */
}

static void on_disk(void *opaque, uint32_t events)
{
	struct virtio_blk *blk = opaque;

	(void)events;
	pthread_mutex_lock(&blk->vd.dev.lock);
	disk_reap(&blk->disk);
	virtq_flush(&blk->vd, 0);
	pthread_mutex_unlock(&blk->vd.dev.lock);
}

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
	c->max_discard_sectors = MAX_DISCARD;
	c->max_discard_seg = 1;
	c->discard_sector_alignment = blk_size / DISK_SECTOR;
	c->max_write_zeroes_sectors = MAX_WRITE_ZEROES;
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
	int rc;

	if (!path)
		return error_set(err, -EINVAL, "realize", name, "host-path", "a path", "none");
	rc = disk_open(&blk->disk, path, device_node_flag(fdt, node, "readonly"), flags, depth,
		       err);
	if (rc)
		return rc;
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
		rc = loop_fd_add(device_loop(dev), disk_event_fd(&blk->disk), EPOLLIN, on_disk, blk,
				 &blk->watch);
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
};
DEVICE_CLASS(blk_class);
