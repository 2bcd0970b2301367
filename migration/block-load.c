/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receiving disks: check the whole table of a record, then write what it says; and what both sides
 * need, finding disks and their checksums.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "migration/block.h"
#include "migration/crc32c.h"

#define BUFFER_ALIGN 4096

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "mirror", "disks", "", "memory", "none");
}

int block_find(struct vm *vm, struct block_disk **disks, unsigned int *n, uint8_t **data,
	       struct error *err)
{
	unsigned int count = 0;

	for (struct device *dev = vm->devices; dev; dev = dev->next)
		count += dev->class->block != NULL;
	*disks = calloc(count ? count : 1, sizeof(**disks));
	*data = aligned_alloc(BUFFER_ALIGN, BLOCK_PAYLOAD_MAX);
	if (!*disks || !*data)
		return no_memory(err);
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->block)
			(*disks)[(*n)++] = (struct block_disk){
				.dev = dev,
				.size = dev->class->block->size(dev),
				.crc = UINT64_MAX,
			};
	}
	return 0;
}

int block_checksum(const struct block_disk *disk, uint8_t *buf, uint32_t *crc, struct error *err)
{
	*crc = 0;
	for (uint64_t at = 0; at < disk->size;) {
		size_t len = MIN(BLOCK_PAYLOAD_MAX, disk->size - at);
		int ret = disk->dev->class->block->read(disk->dev, at, buf, len, err);

		if (ret < 0)
			return ret;
		*crc = crc32c(*crc, buf, len);
		at += len;
	}
	return 0;
}

void block_crc_name(const struct block_disk *disk, char *name)
{
	snprintf(name, BLOCK_CRC_NAME, "disk-crc-%s", disk->dev->name);
}

int block_load_init(struct block_load *l, struct migration *m, struct error *err)
{
	int ret = block_find(m->vm, &l->disks, &l->n_disks, &l->data, err);

	l->m = m;
	for (unsigned int i = 0; i < l->n_disks && ret == 0; i++) {
		m->stats.disk_total += l->disks[i].size;
		ret = l->disks[i].dev->class->block->open(l->disks[i].dev, err);
	}
	return ret;
}

void block_load_free(struct block_load *l)
{
	free(l->disks);
	free(l->data);
}

static struct block_disk *find_disk(struct block_load *l, const char *name)
{
	for (unsigned int i = 0; i < l->n_disks; i++) {
		if (strcmp(l->disks[i].dev->name, name) == 0)
			return &l->disks[i];
	}
	return NULL;
}

/* Every run lies in the disk, and only one up to its end may have a part of a block. */
static int check_runs(const struct block_load *l, const struct block_disk *disk,
		      const struct record *rec, int n, struct error *err)
{
	for (int i = 0; i < n; i++) {
		const struct block_run *run = &l->runs[i];
		uint64_t end = run->offset + run->len;
		char field[32];

		if (end == disk->size || (end < disk->size && end % MIRROR_BLOCK == 0))
			continue;
		snprintf(field, sizeof(field), "run %d length", i);
		error_set(err, -EPROTO, "stream", rec->device, field, "",
			  "%llu bytes from %llu on of %s", (unsigned long long)run->len,
			  (unsigned long long)run->offset, disk->dev->name);
		error_expected(err, "whole blocks of its %llu bytes",
			       (unsigned long long)disk->size);
		return -EPROTO;
	}
	return 0;
}

/* Write the @n runs, whose data are in our buffer. */
static int write_runs(struct block_load *l, struct block_disk *disk, int n, struct error *err)
{
	const struct block_ops *ops = disk->dev->class->block;
	struct migration_stats *stats = &l->m->stats;
	const uint8_t *data = l->data;
	int ret = 0;

	for (int i = 0; i < n && ret == 0; i++) {
		const struct block_run *run = &l->runs[i];

		if (run->kind == RAM_ZERO) {
			ret = ops->zero(disk->dev, run->offset, run->len, err);
			stats->disk_zero += run->len;
			continue;
		}
		ret = ops->write(disk->dev, run->offset, data, run->len, err);
		data += run->len;
		disk->unsynced += run->len;
		stats->disk_data += run->len;
	}
	if (ret == 0 && disk->unsynced >= BLOCK_SYNC) {
		disk->unsynced = 0;
		ret = ops->sync(disk->dev, err);
	}
	return ret;
}

int block_load_record(struct block_load *l, struct protocol *p, const struct record *rec,
		      struct error *err)
{
	const struct iovec iov = { l->data, rec->payload_len };
	char name[BLOCK_NAME_MAX];
	int n = block_runs_decode(rec, name, l->runs, err), ret;
	struct block_disk *disk = n < 0 ? NULL : find_disk(l, name);

	if (n < 0)
		return n;
	if (!disk)
		return error_set(err, -EPROTO, "stream", rec->device, "device",
				 "a disk that is mirrored", "%s", name);
	ret = check_runs(l, disk, rec, n, err);
	if (ret < 0)
		return ret;
	ret = record_payload_result(&p->reader, rec, stream_readv(&p->stream, &iov, 1), err);
	l->m->stats.records++;
	migration_count(l->m, p);
	return ret < 0 ? ret : write_runs(l, disk, n, err);
}

void block_load_stopped(struct block_load *l, const void *fdt)
{
	char name[BLOCK_CRC_NAME];

	for (unsigned int i = 0; i < l->n_disks; i++) {
		block_crc_name(&l->disks[i], name);
		l->disks[i].crc = message_get_u64(fdt, name, UINT64_MAX);
	}
}

static int verify(const struct block_load *l, const struct block_disk *disk, struct error *err)
{
	char expected[32];
	uint32_t crc;
	int ret;

	if (disk->crc == UINT64_MAX)
		return 0;
	ret = block_checksum(disk, l->data, &crc, err);
	if (ret < 0 || crc == disk->crc)
		return ret;
	snprintf(expected, sizeof(expected), "0x%08llx", (unsigned long long)disk->crc);
	return error_set(err, -EBADMSG, "load", disk->dev->name, "checksum", expected, "0x%08x",
			 crc);
}

int block_load_finish(struct block_load *l, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < l->n_disks && ret == 0; i++) {
		const struct block_disk *disk = &l->disks[i];
		const struct block_ops *ops = disk->dev->class->block;

		ret = ops->sync(disk->dev, err);
		ret = ret < 0 ? ret : verify(l, disk, err);
		ret = ret < 0 ? ret : ops->close(disk->dev, err);
	}
	return ret;
}
