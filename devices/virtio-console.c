/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio console (virtio 1.2, section 5.3): one port, bytes in and out.
 *
 * Output that the host does not take yet stays in the guest's buffer: the chain goes back on the
 * ring, with a note of how much of it is done. Input stays in the character device until the guest
 * has buffers for it. So both cross a migration once.
 */
#include <string.h>

#include "devices/chardev.h"
#include "devices/virtio.h"

#define CONSOLE_ID	    3
#define CONSOLE_QUEUE_SIZE  64
#define FEATURE_EMERG_WRITE (1ULL << 2)

enum { QUEUE_RX, QUEUE_TX, QUEUES };

/* 5.3.4; fields of features that are not offered read as 0. */
struct console_config {
	uint16_t cols, rows;
	uint32_t max_ports;
	uint32_t emerg_wr;
};

struct console_state {
	struct virtio_state virtio;
	uint32_t tx_done; /* bytes of the next chain of the transmit queue that are out already */
	struct chardev_state chardev;
};

static const struct field console_fields[] = {
	FIELD_VIRTIO(struct console_state, virtio),
	FIELD_ANY(struct console_state, tx_done),
	FIELD_CHARDEV(struct console_state, chardev),
	FIELDS_END,
};

struct console {
	struct virtio_device vd;
	struct console_state state;
	struct chardev *chardev;
};

static void console_read_config(struct virtio_device *vd, size_t offset, void *data, size_t len)
{
	static const struct console_config config;

	(void)vd;
	virtio_config_get(&config, offset, data, len);
}

/* A driver in trouble prints without queues. */
static void console_write_config(struct virtio_device *vd, size_t offset, const void *data,
				 size_t len)
{
	if (offset == offsetof(struct console_config, emerg_wr) && len > 0)
		chardev_write(((struct console *)vd)->chardev, data, 1);
}

/* Print what is not printed yet of a chain. False when the host took just a part of it. */
static bool send_chain(struct console *console, const struct virtq_chain *chain)
{
	uint32_t *done = &console->state.tx_done;
	size_t skip = *done;

	for (unsigned int i = 0; i < chain->n_out; i++) {
		size_t len = chain->out[i].iov_len, n;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		n = chardev_write(console->chardev, (uint8_t *)chain->out[i].iov_base + skip,
				  len - skip);
		*done += (uint32_t)n;
		if (n < len - skip)
			return false;
		skip = 0;
	}
	*done = 0;
	return true;
}

static void send_queue(struct console *console)
{
	struct virtio_device *vd = &console->vd;
	struct virtq_chain chain;

	while (virtq_pop(vd, QUEUE_TX, &chain)) {
		if (!send_chain(console, &chain)) {
			virtq_unpop(vd, QUEUE_TX, &chain);
			break;
		}
		virtq_push(vd, QUEUE_TX, &chain, 0);
	}
	virtq_flush(vd, QUEUE_TX);
}

static void console_handle_queue(struct virtio_device *vd, unsigned int q)
{
	struct console *console = (struct console *)vd;

	if (q == QUEUE_TX)
		send_queue(console);
	else
		chardev_poke(console->chardev);
}

static size_t console_receive(struct device *dev, const uint8_t *data, size_t len)
{
	struct virtio_device *vd = (struct virtio_device *)dev;
	struct virtq_chain chain;
	size_t done = 0, n;

	while (done < len && virtq_pop(vd, QUEUE_RX, &chain)) {
		n = virtq_write(vd, &chain, 0, data + done, len - done);
		virtq_push(vd, QUEUE_RX, &chain, (uint32_t)n);
		done += n;
	}
	virtq_flush(vd, QUEUE_RX);
	return done;
}

static void console_writable(struct device *dev)
{
	send_queue((struct console *)dev);
}

static const struct chardev_ops console_chardev_ops = { console_receive, console_writable };

static void console_reset_driver(struct virtio_device *vd)
{
	((struct console *)vd)->state.tx_done = 0;
}

static const char *const feature_names[24] = { "SIZE", "MULTIPORT", "EMERG_WRITE" };

static const struct virtio_ops console_ops = {
	.device_id = CONSOLE_ID,
	.features = FEATURE_EMERG_WRITE,
	.feature_names = feature_names,
	.n_queues = QUEUES,
	.queue_size = { CONSOLE_QUEUE_SIZE, CONSOLE_QUEUE_SIZE },
	.config_size = sizeof(struct console_config),
	.read_config = console_read_config,
	.write_config = console_write_config,
	.handle_queue = console_handle_queue,
	.reset = console_reset_driver,
};

static int console_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct console *console = (struct console *)dev;
	int ret;

	console->vd.state = &console->state.virtio;
	ret = chardev_open(&console->chardev, dev, device_node_string(fdt, node, "host-backend"),
			   &console_chardev_ops, &console->state.chardev, err);
	return ret < 0 ? ret : virtio_mmio_realize(&console->vd, &console_ops, fdt, node, err);
}

static void console_unrealize(struct device *dev)
{
	struct console *console = (struct console *)dev;

	virtio_mmio_unrealize(&console->vd);
	chardev_close(console->chardev);
	console->chardev = NULL;
}

static void console_quiesce(struct device *dev)
{
	virtio_mmio_quiesce(dev);
	chardev_stop(((struct console *)dev)->chardev);
}

static void console_resume(struct device *dev)
{
	chardev_start(((struct console *)dev)->chardev);
	virtio_mmio_resume(dev);
}

static int console_claim(struct device *dev, struct error *err)
{
	(void)err;
	chardev_claim(((struct console *)dev)->chardev);
	return 0;
}

static void console_yield(struct device *dev)
{
	chardev_yield(((struct console *)dev)->chardev);
}

static void console_hand_on(struct device *dev, struct device_fds *fds)
{
	chardev_hand_on(((struct console *)dev)->chardev, fds);
}

static const struct device_class virtio_console_class;

static int console_add(struct machine_tree *mt, const char *value, struct error *err)
{
	int ret = chardev_check(value, "--console", err);

	if (ret == 0)
		ret = machine_tree_begin_mmio(mt, &virtio_console_class, "virtio,mmio", err);
	if (ret < 0)
		return ret;
	machine_tree_string(mt, "host-backend", value);
	return machine_tree_end(mt, err);
}

static const struct device_class virtio_console_class = {
	.name = "virtio-console",
	.compatible = "ferry,virtio-console",
	.stage = STAGE_DEVICE,
	.option = { .name = "console",
		    .arg = "stdio|file:PATH|pty|unix:PATH|none",
		    .help = "add a virtio console connected to that",
		    .add = console_add },
	.size = sizeof(struct console),
	.state_offset = offsetof(struct console, state),
	.state_size = sizeof(struct console_state),
	.fields = console_fields,
	.realize = console_realize,
	.unrealize = console_unrealize,
	.reset = virtio_mmio_reset,
	.quiesce = console_quiesce,
	.resume = console_resume,
	.check = virtio_mmio_check,
	.post_load = virtio_mmio_post_load,
	.claim = console_claim,
	.yield = console_yield,
	.hand_on = console_hand_on,
};
DEVICE_CLASS(virtio_console_class);
