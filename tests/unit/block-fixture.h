/* SPDX-License-Identifier: BSD-2-Clause */
/* Disks that are no more than memory, and both ends of a stream between two of them. */
#ifndef TESTS_UNIT_BLOCK_FIXTURE_H
#define TESTS_UNIT_BLOCK_FIXTURE_H

#include "migration-fixture.h"

#include <stdio.h>

#include "memchannel.h"
#include "migration/block.h"

#define BLOCKS 6
#define TAIL   1536 /* of a last block that is not whole */
#define SIZE   (BLOCKS * MIRROR_BLOCK + TAIL)

/* ---- A disk that is memory ---- */

struct memdisk {
	struct device dev;
	uint8_t data[SIZE];
	uint64_t noted;
	bool tracked, opened, closed;
	unsigned int reads, syncs;
	int fail; /* negative errno of open, read and write */
	/* While block @during is read, but behind what is read, the guest writes to @written. */
	int during, written;
	unsigned int hole_from, hole_to; /* blocks */
};

static inline struct memdisk *memdisk(struct device *dev)
{
	return (struct memdisk *)dev;
}

static inline int failed(struct device *dev, struct error *err)
{
	int code = memdisk(dev)->fail;

	return code ? error_set(err, code, "mirror", dev->name, "", "", "%s", strerror(-code)) : 0;
}

static inline uint64_t memdisk_size(struct device *dev)
{
	(void)dev;
	return SIZE;
}

static inline int memdisk_track(struct device *dev, struct error *err)
{
	(void)err;
	memdisk(dev)->tracked = true;
	memdisk(dev)->noted = 0;
	return 0;
}

static inline void memdisk_untrack(struct device *dev)
{
	memdisk(dev)->tracked = false;
}

static inline void memdisk_fetch(struct device *dev, uint64_t *bitmap)
{
	assert_true(memdisk(dev)->tracked);
	*bitmap |= memdisk(dev)->noted;
	memdisk(dev)->noted = 0;
}

static inline uint64_t memdisk_next_data(struct device *dev, uint64_t offset)
{
	uint64_t block = offset / MIRROR_BLOCK;

	return block >= memdisk(dev)->hole_from && block < memdisk(dev)->hole_to
		       ? memdisk(dev)->hole_to * MIRROR_BLOCK
		       : offset;
}

static inline void guest_writes(struct memdisk *disk, unsigned int block, uint8_t value)
{
	memset(disk->data + block * MIRROR_BLOCK, value, block < BLOCKS ? MIRROR_BLOCK : TAIL);
	if (disk->tracked)
		disk->noted |= 1ULL << block;
}

static inline int memdisk_read(struct device *dev, uint64_t offset, void *buf, size_t len,
			       struct error *err)
{
	struct memdisk *disk = memdisk(dev);

	assert_true(offset <= SIZE && len <= SIZE - offset);
	memcpy(buf, disk->data + offset, len);
	disk->reads++;
	if (disk->during == (int)(offset / MIRROR_BLOCK)) {
		guest_writes(disk, (unsigned int)disk->written, 0x77);
		disk->during = -1;
	}
	return failed(dev, err);
}

static inline int memdisk_open(struct device *dev, struct error *err)
{
	memdisk(dev)->opened = !memdisk(dev)->fail;
	return failed(dev, err);
}

static inline int memdisk_write(struct device *dev, uint64_t offset, const void *buf, size_t len,
				struct error *err)
{
	assert_true(memdisk(dev)->opened);
	assert_true(offset <= SIZE && len <= SIZE - offset);
	memcpy(memdisk(dev)->data + offset, buf, len);
	return failed(dev, err);
}

static inline int memdisk_zero(struct device *dev, uint64_t offset, uint64_t len, struct error *err)
{
	assert_true(memdisk(dev)->opened);
	assert_true(offset <= SIZE && len <= SIZE - offset);
	memset(memdisk(dev)->data + offset, 0, len);
	return failed(dev, err);
}

static inline int memdisk_sync(struct device *dev, struct error *err)
{
	(void)err;
	memdisk(dev)->syncs++;
	return 0;
}

static inline int memdisk_close(struct device *dev, struct error *err)
{
	(void)err;
	memdisk(dev)->closed = true;
	return 0;
}

static const struct block_ops memdisk_ops = {
	.size = memdisk_size,
	.track = memdisk_track,
	.untrack = memdisk_untrack,
	.fetch = memdisk_fetch,
	.next_data = memdisk_next_data,
	.read = memdisk_read,
	.open = memdisk_open,
	.write = memdisk_write,
	.zero = memdisk_zero,
	.sync = memdisk_sync,
	.close = memdisk_close,
};

static inline void no_unrealize(struct device *dev)
{
	(void)dev;
}

static const struct device_class memdisk_class = {
	.name = "memdisk",
	.compatible = "ferry,test-memdisk",
	.stage = STAGE_DEVICE,
	.size = sizeof(struct memdisk),
	.unrealize = no_unrealize,
	.block = &memdisk_ops,
};

static inline struct memdisk *new_memdisk(struct vm *vm, const char *name)
{
	struct memdisk *disk = calloc(1, sizeof(*disk));

	disk->dev.vm = vm;
	disk->dev.class = &memdisk_class;
	disk->during = -1;
	strcpy(disk->dev.name, name);
	pthread_mutex_init(&disk->dev.lock, NULL);
	return disk;
}

/* ---- Both ends of a stream that is kept in memory ---- */

struct ends {
	struct vm vm[2];
	struct migration m[2];
	struct memdisk *from, *to;
	struct ram_save ram;
	struct block_save save;
	struct block_load load;
	struct mem_channel mem;
	struct protocol p[2];
	struct error err;
};

static inline int setup(void **state)
{
	struct ends *e = calloc(1, sizeof(*e));

	mem_init(&e->mem, true);
	for (int i = 0; i < 2; i++) {
		e->m[i].vm = &e->vm[i];
		e->m[i].cancel_fd = -1;
		pthread_mutex_init(&e->m[i].lock, NULL);
		protocol_init(&e->p[i], &e->mem.base, i ? SIDE_DESTINATION : SIDE_SOURCE,
			      PROTOCOL_LIVE);
		e->p[i].state = PROTOCOL_RAM;
	}
	e->from = new_memdisk(&e->vm[0], "disk@1");
	e->to = new_memdisk(&e->vm[1], "disk@1");
	e->vm[0].devices = &e->from->dev;
	e->vm[1].devices = &e->to->dev;
	for (unsigned int b = 0; b <= BLOCKS; b++)
		guest_writes(e->from, b, (uint8_t)(b + 1));
	memset(e->to->data, 0xff, SIZE);
	*state = e;
	return 0;
}

static inline int teardown(void **state)
{
	struct ends *e = *state;

	block_save_free(&e->save);
	block_load_free(&e->load);
	assert_false(e->from->tracked);
	for (int i = 0; i < 2; i++)
		protocol_free(&e->p[i]);
	channel_close(&e->mem.base);
	free(e->from);
	free(e->to);
	free(e);
	return 0;
}

static inline void begin(struct ends *e, uint64_t batch_max)
{
	assert_int_equal(block_save_init(&e->save, &e->m[0], &e->p[0], &e->ram, batch_max, &e->err),
			 0);
	assert_int_equal(block_load_init(&e->load, &e->m[1], &e->err), 0);
	assert_true(e->from->tracked && e->to->opened);
	assert_int_equal(block_save_total(&e->save, &e->ram), SIZE);
}

static inline void send_round(struct ends *e, bool live)
{
	assert_int_equal(block_save_round(&e->save, live, &e->err), 0);
}

/* Let the destination have all that was sent; the records there were, or what was wrong. */
static inline int receive(struct ends *e)
{
	struct record rec;
	int ret, n = 0;

	while (e->mem.pos < e->mem.len || e->p[1].stream.rx.pos < e->p[1].stream.rx.len) {
		ret = protocol_expect(&e->p[1], RECORD_BLOCK, &rec, &e->err);
		ret = ret ? ret : block_load_record(&e->load, &e->p[1], &rec, &e->err);
		if (ret < 0)
			return ret;
		n++;
	}
	return n;
}

static inline void same_disks(const struct ends *e)
{
	assert_memory_equal(e->from->data, e->to->data, SIZE);
}

#endif
