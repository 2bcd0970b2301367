/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio balloon (virtio 1.2, section 5.5): RAM that the guest lends to the host, and hints of what
 * it does not use, for migrations. This file is its life and its configuration; what comes through
 * its queues is in virtio-balloon-queue.c.
 *
 * Hints (5.5.6.4): free_page_hint_cmd_id has the number of a command while hints are wanted. It
 * becomes STOP when they come too late; the driver keeps what it hinted, since the pages may still
 * turn out to be empty: on the other side, if the guest moves. It becomes DONE when that has been
 * decided: here when the migration is over, and there when the guest first runs.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio-balloon.h"

#define BALLOON_ID	5
#define QUEUE_SIZE	64
#define EVENT_PAUSE_NS	1000000000LL /* the public schema: at most one event a second */
#define FEATURE(f)	(1ULL << VIRTIO_BALLOON_F_##f)
#define FIELD_AT(field) offsetof(struct virtio_balloon_config, field)

/* A reset does not take back what the guest was asked for, nor make old commands new. */
#define FIELD_KEPT(s, m)                                                           \
	{                                                                          \
		.name = #m, .type = FIELD_UINT, .since = 1, .flags = FIELD_KEEP,   \
		.offset = offsetof(s, m), .size = sizeof(((s *)0)->m), .count = 1, \
		.count_offset = NO_COUNT, .max = UINT64_MAX                        \
	}

static const struct field balloon_fields[] = {
	FIELD_VIRTIO(struct balloon_state, virtio),
	FIELD_KEPT(struct balloon_state, num_pages),
	FIELD_ANY(struct balloon_state, actual),
	FIELD_ANY(struct balloon_state, cmd_id),
	FIELD_ANY(struct balloon_state, poison_val),
	FIELD_KEPT(struct balloon_state, last_id),
	FIELDS_END,
};

static struct balloon *to_balloon(struct device *dev)
{
	return (struct balloon *)dev;
}

/* RAM that the guest has for itself; what the driver says need not be true. Lock held. */
static uint64_t size_locked(struct balloon *b)
{
	uint64_t given = (uint64_t)b->state.actual * PAGE_SIZE;
	uint64_t all = device_memory(&b->vd.dev)->size;

	return all - (given < all ? given : all);
}

/* ---- Configuration ---- */

static void read_config(struct virtio_device *vd, size_t offset, void *data, size_t len)
{
	const struct balloon_state *s = &((struct balloon *)vd)->state;
	struct virtio_balloon_config config = {
		.num_pages = s->num_pages,
		.actual = s->actual,
		.free_page_hint_cmd_id = s->cmd_id,
		.poison_val = s->poison_val,
	};

	virtio_config_get(&config, offset, data, len);
}

static void write_config(struct virtio_device *vd, size_t offset, const void *data, size_t len)
{
	struct balloon *b = (struct balloon *)vd;
	uint32_t value;

	if (len != sizeof(value)) /* 4.2.2.2 */
		return;
	memcpy(&value, data, sizeof(value));
	if (offset == FIELD_AT(poison_val))
		b->state.poison_val = value;
	if (offset != FIELD_AT(actual) || value == b->state.actual)
		return;
	b->state.actual = value;
	eventfd_write(b->changed, 1);
}

/* Tell of it, and be silent for a while: what changes meanwhile waits in the eventfd. */
static void on_changed(void *opaque, uint32_t events)
{
	struct balloon *b = opaque;
	uint64_t bytes;
	eventfd_t n;

	(void)events;
	if (eventfd_read(b->changed, &n) < 0)
		return;
	pthread_mutex_lock(&b->vd.dev.lock);
	bytes = size_locked(b);
	pthread_mutex_unlock(&b->vd.dev.lock);
	device_ram_changed(&b->vd.dev, bytes);
	loop_fd_events(b->changed_watch, 0);
	loop_timer_set(b->calm, EVENT_PAUSE_NS);
}

static void on_calm(void *opaque)
{
	loop_fd_events(((struct balloon *)opaque)->changed_watch, EPOLLIN);
}

/* ---- What others ask of it ---- */

static uint64_t balloon_size(struct device *dev)
{
	uint64_t bytes;

	pthread_mutex_lock(&dev->lock);
	bytes = size_locked(to_balloon(dev));
	pthread_mutex_unlock(&dev->lock);
	return bytes;
}

static void balloon_resize(struct device *dev, uint64_t bytes)
{
	struct balloon *b = to_balloon(dev);
	uint64_t all = device_memory(dev)->size;

	pthread_mutex_lock(&dev->lock);
	b->state.num_pages = (uint32_t)((all - (bytes < all ? bytes : all)) / PAGE_SIZE);
	virtio_config_changed(&b->vd);
	pthread_mutex_unlock(&dev->lock);
}

static void balloon_stats(struct device *dev,
			  void (*each)(void *opaque, const char *name, uint64_t value),
			  void *opaque)
{
	/* The schema's names, whose last two are not the header's. */
	static const char *const names[VIRTIO_BALLOON_S_NR] = {
		"stat-swap-in",		 "stat-swap-out",    "stat-major-faults",
		"stat-minor-faults",	 "stat-free-memory", "stat-total-memory",
		"stat-available-memory", "stat-disk-caches", "stat-htlb-pgalloc",
		"stat-htlb-pgfail",
	};
	struct balloon *b = to_balloon(dev);

	pthread_mutex_lock(&dev->lock);
	for (unsigned int i = 0; i < VIRTIO_BALLOON_S_NR; i++) {
		if (b->stats_known >> i & 1)
			each(opaque, names[i], b->stats[i]);
	}
	balloon_ask_stats(b);
	pthread_mutex_unlock(&dev->lock);
}

static void set_command(struct balloon *b, uint32_t id)
{
	if (b->state.cmd_id == id)
		return;
	b->state.cmd_id = id;
	virtio_config_changed(&b->vd);
}

static void hint_start(struct device *dev, struct page_hints *hints)
{
	struct balloon *b = to_balloon(dev);

	pthread_mutex_lock(&dev->lock);
	if (virtio_live(&b->vd) && virtio_has(&b->vd, VIRTIO_BALLOON_F_FREE_PAGE_HINT) &&
	    !balloon_is_poisoned(b)) {
		b->hints = hints;
		b->moving = true;
		if (++b->state.last_id <= VIRTIO_BALLOON_CMD_ID_DONE)
			b->state.last_id = VIRTIO_BALLOON_CMD_ID_DONE + 1;
		set_command(b, b->state.last_id);
	}
	pthread_mutex_unlock(&dev->lock);
}

static void hint_stop(struct device *dev, bool over)
{
	struct balloon *b = to_balloon(dev);

	pthread_mutex_lock(&dev->lock);
	b->hints = NULL;
	if (b->moving)
		set_command(b, over ? VIRTIO_BALLOON_CMD_ID_DONE : VIRTIO_BALLOON_CMD_ID_STOP);
	if (over)
		b->moving = false;
	pthread_mutex_unlock(&dev->lock);
}

static const struct device_ram_ops balloon_ram_ops = {
	.size = balloon_size,
	.resize = balloon_resize,
	.stats = balloon_stats,
	.hint_start = hint_start,
	.hint_stop = hint_stop,
};

/* ---- Life ---- */

/* Without a driver nothing is in the balloon, and nobody answers to a command. */
static void reset_driver(struct virtio_device *vd)
{
	struct balloon *b = (struct balloon *)vd;

	b->state.actual = 0;
	b->state.poison_val = 0;
	b->state.cmd_id = b->moving ? VIRTIO_BALLOON_CMD_ID_STOP : VIRTIO_BALLOON_CMD_ID_DONE;
	b->hints = NULL;
	b->driver_id = VIRTIO_BALLOON_CMD_ID_STOP;
	b->stats_known = 0;
}

static const char *const feature_names[24] = {
	"MUST_TELL_HOST", "STATS_VQ",	 "DEFLATE_ON_OOM",
	"FREE_PAGE_HINT", "PAGE_POISON", "REPORTING",
};

static const struct virtio_ops balloon_ops = {
	.device_id = BALLOON_ID,
	.features = FEATURE(STATS_VQ) | FEATURE(DEFLATE_ON_OOM) | FEATURE(FREE_PAGE_HINT) |
		    FEATURE(PAGE_POISON) | FEATURE(REPORTING),
	.feature_names = feature_names,
	.n_queues = BALLOON_QUEUES,
	.queue_size = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE },
	.config_size = sizeof(struct virtio_balloon_config),
	.read_config = read_config,
	.write_config = write_config,
	.handle_queue = balloon_handle_queue,
	.reset = reset_driver,
};

static int balloon_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct balloon *b = to_balloon(dev);
	int ret;

	b->changed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->changed < 0)
		return error_set(err, -errno, "realize", dev->name, "", "an eventfd", "%m");
	ret = loop_fd_add(device_loop(dev), b->changed, EPOLLIN, on_changed, b, &b->changed_watch);
	if (ret == 0)
		ret = loop_timer_add(device_loop(dev), on_calm, b, &b->calm);
	if (ret < 0)
		return error_set(err, ret, "realize", dev->name, "", "a place in the loop", "%s",
				 strerror(-ret));
	return virtio_mmio_realize(&b->vd, &balloon_ops, fdt, node, err);
}

static void balloon_unrealize(struct device *dev)
{
	struct balloon *b = to_balloon(dev);

	virtio_mmio_unrealize(&b->vd);
	if (b->calm)
		loop_timer_del(b->calm);
	if (b->changed_watch)
		loop_fd_del(b->changed_watch);
	if (b->changed >= 0)
		close(b->changed);
}

/* A command of a migration that brought the guest here, or left it here: its time is over. */
static void balloon_resume(struct device *dev)
{
	struct balloon *b = to_balloon(dev);

	pthread_mutex_lock(&dev->lock);
	if (!b->moving)
		set_command(b, VIRTIO_BALLOON_CMD_ID_DONE);
	pthread_mutex_unlock(&dev->lock);
	virtio_mmio_resume(dev);
}

static int balloon_check(struct device *dev, const void *staged, struct error *err)
{
	const struct balloon_state *s = staged;
	uint64_t pages = device_memory(dev)->size / PAGE_SIZE;

	if (s->num_pages <= pages)
		return virtio_mmio_check(dev, staged, err);
	error_set(err, -EINVAL, "load", dev->name, "num_pages", "", "%u", s->num_pages);
	error_expected(err, "at most %llu, the guest's RAM", (unsigned long long)pages);
	return -EINVAL;
}

static const struct device_class virtio_balloon_class;

static int balloon_add(struct machine_tree *mt, const char *value, struct error *err)
{
	int ret = machine_tree_begin_mmio(mt, &virtio_balloon_class, "virtio,mmio", err);

	(void)value;
	return ret < 0 ? ret : machine_tree_end(mt, err);
}

static const struct device_class virtio_balloon_class = {
	.name = "virtio-balloon",
	.compatible = "ferry,virtio-balloon",
	.stage = STAGE_DEVICE,
	.option = { .name = "balloon",
		    .help = "virtio balloon: takes RAM back, spares migrations free pages",
		    .add = balloon_add },
	.size = sizeof(struct balloon),
	.state_offset = offsetof(struct balloon, state),
	.state_size = sizeof(struct balloon_state),
	.fields = balloon_fields,
	.realize = balloon_realize,
	.unrealize = balloon_unrealize,
	.reset = virtio_mmio_reset,
	.quiesce = virtio_mmio_quiesce,
	.resume = balloon_resume,
	.check = balloon_check,
	.post_load = virtio_mmio_post_load,
	.ram = &balloon_ram_ops,
};
DEVICE_CLASS(virtio_balloon_class);
