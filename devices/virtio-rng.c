/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio entropy device (virtio 1.2, section 5.4): the host's getrandom() for the guest. */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/random.h>

#include "devices/virtio.h"

#define QUEUE_SIZE 64
/* Bytes at most for one request; a driver asks again. */
#define MAX_BYTES 4096

struct virtio_rng {
	struct virtio_device vd;
	struct virtio_state state;
	struct virtq_chain chain;
};

/* Fill the chain's buffers, returns how many bytes. */
static uint32_t fill(const struct virtq_chain *chain)
{
	size_t done = 0;

	for (unsigned int i = 0; i < chain->n_in && done < MAX_BYTES; i++) {
		size_t len = chain->in[i].iov_len;
		ssize_t n;

		if (len > MAX_BYTES - done)
			len = MAX_BYTES - done;
		n = getrandom(chain->in[i].iov_base, len, 0);
		if (n > 0)
			done += (size_t)n;
		if (n < 0 || (size_t)n < len)
			break;
	}
	return (uint32_t)done;
}

static void rng_handle_queue(struct virtio_device *vd, unsigned int q)
{
	struct virtq_chain *chain = &((struct virtio_rng *)vd)->chain;

	while (virtq_pop(vd, q, chain))
		virtq_push(vd, q, chain, fill(chain));
	virtq_flush(vd, q);
}

static const struct virtio_ops rng_ops = {
	.device_id = VIRTIO_ID_RNG,
	.n_queues = 1,
	.queue_size = { QUEUE_SIZE },
	.handle_queue = rng_handle_queue,
};

static int rng_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	return virtio_mmio_realize((struct virtio_device *)dev, &rng_ops, fdt, node, err);
}

static void rng_unrealize(struct device *dev)
{
	virtio_mmio_unrealize((struct virtio_device *)dev);
}

static const struct device_class rng_class;

static int rng_add(struct machine_tree *mt, const char *value, struct error *err)
{
	int rc = machine_tree_begin_mmio(mt, &rng_class, "virtio,mmio", err);

	(void)value;
	return rc ? rc : machine_tree_end(mt, err);
}

static const struct device_class rng_class = {
	.name = "virtio-rng",
	.compatible = "ferry,virtio-rng",
	.stage = STAGE_DEVICE,
	.option = { .name = "rng", .help = "virtio source of random numbers", .add = rng_add },
	.size = sizeof(struct virtio_rng),
	.state_offset = offsetof(struct virtio_rng, state),
	.state_size = sizeof(struct virtio_state),
	.fields = virtio_state_fields,
	.realize = rng_realize,
	.unrealize = rng_unrealize,
	.reset = virtio_mmio_reset,
	.quiesce = virtio_mmio_quiesce,
	.resume = virtio_mmio_resume,
	.check = virtio_mmio_check,
	.post_load = virtio_mmio_post_load,
};
DEVICE_CLASS(rng_class);
