/* SPDX-License-Identifier: BSD-2-Clause */
/* Sending disks: rounds over the blocks that are dirty, runs, records. The twin of ram.c. */
#include "migration/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "migration/zero.h"

#define WORD_BITS 64

static uint64_t disk_blocks(const struct block_disk *disk)
{
	return (disk->size + MIRROR_BLOCK - 1) / MIRROR_BLOCK;
}

static size_t disk_words(const struct block_disk *disk)
{
	return (disk_blocks(disk) + WORD_BITS - 1) / WORD_BITS;
}

/* Only the last block may be shorter than the others. */
static uint64_t block_bytes(const struct block_disk *disk, uint64_t block)
{
	return MIN(MIRROR_BLOCK, disk->size - block * MIRROR_BLOCK);
}

static bool is_dirty(const struct block_disk *disk, uint64_t block)
{
	return disk->bitmap[block / WORD_BITS] >> (block % WORD_BITS) & 1;
}

static uint64_t dirty_bytes(const struct block_disk *disk)
{
	uint64_t last = disk_blocks(disk) - 1, n = 0;

	for (size_t w = 0; w < disk_words(disk); w++)
		n += (uint64_t)__builtin_popcountll(disk->bitmap[w]) * MIRROR_BLOCK;
	return is_dirty(disk, last) ? n - MIRROR_BLOCK + block_bytes(disk, last) : n;
}

static void count_dirty(struct block_save *s)
{
	s->dirty = 0;
	for (unsigned int i = 0; i < s->n_disks; i++)
		s->dirty += dirty_bytes(&s->disks[i]);
	s->m->stats.disk_remaining = s->dirty;
}

static int begin(struct block_disk *disk, struct error *err)
{
	int ret = disk->dev->class->block->track(disk->dev, err);

	if (ret < 0)
		return ret;
	disk->bitmap = calloc(disk_words(disk), sizeof(uint64_t));
	if (!disk->bitmap)
		return error_set(err, -ENOMEM, "mirror", disk->dev->name, "", "memory for a bitmap",
				 "none");
	for (uint64_t b = 0; b < disk_blocks(disk); b++)
		disk->bitmap[b / WORD_BITS] |= 1ULL << (b % WORD_BITS);
	return 0;
}

int block_save_init(struct block_save *s, struct migration *m, struct protocol *p,
		    struct ram_save *ram, uint64_t batch_max, struct error *err)
{
	int ret;

	memset(s, 0, sizeof(*s));
	s->m = m;
	s->p = p;
	s->limit = &ram->limit;
	s->batch_max = MIN(batch_max, BLOCK_PAYLOAD_MAX);
	if (batch_max < MIRROR_BLOCK)
		return error_set(err, -EOPNOTSUPP, "mirror", "destination", "block-record-max",
				 "a ferry that can mirror disks", "%llu",
				 (unsigned long long)batch_max);
	ret = block_find(m->vm, &s->disks, &s->n_disks, &s->data, err);
	for (unsigned int i = 0; i < s->n_disks && ret == 0; i++) {
		m->stats.disk_total += s->disks[i].size;
		ret = begin(&s->disks[i], err);
	}
	if (ret == 0)
		count_dirty(s);
	return ret;
}

void block_save_free(struct block_save *s)
{
	for (unsigned int i = 0; i < s->n_disks; i++) {
		s->disks[i].dev->class->block->untrack(s->disks[i].dev);
		free(s->disks[i].bitmap);
	}
	free(s->disks);
	free(s->data);
	s->n_disks = 0;
}

void block_save_fetch(struct block_save *s)
{
	for (unsigned int i = 0; i < s->n_disks; i++)
		s->disks[i].dev->class->block->fetch(s->disks[i].dev, s->disks[i].bitmap);
	if (s->n_disks)
		count_dirty(s);
}

uint64_t block_save_total(const struct block_save *s, const struct ram_save *ram)
{
	return s->dirty + ram_save_remaining(ram);
}

/* For disks the slower of two estimates: either may be of a burst that only filled a buffer. */
uint64_t block_save_total_ns(const struct block_save *s, const struct ram_save *ram)
{
	uint64_t ns = ram_save_remaining_ns(ram);
	double rate = bandwidth_get(&s->bandwidth), other = bandwidth_get(&ram->bandwidth);

	if (!s->dirty || ns == UINT64_MAX)
		return ns;
	if (rate <= 0 || (other > 0 && other < rate))
		rate = other;
	return rate > 0 ? ns + (uint64_t)((double)s->dirty / rate * 1e9) : UINT64_MAX;
}

int block_save_checksums(struct block_save *s, struct message *m, struct error *err)
{
	char name[BLOCK_CRC_NAME];
	uint32_t crc;

	for (unsigned int i = 0; i < s->n_disks; i++) {
		int ret = block_checksum(&s->disks[i], s->data, &crc, err);

		if (ret < 0)
			return ret;
		block_crc_name(&s->disks[i], name);
		message_u64(m, name, crc);
	}
	return 0;
}

/* ---- Records ---- */

static int send_record(struct block_save *s, const struct block_disk *disk, struct error *err)
{
	size_t len = block_runs_encode(disk->dev->name, s->runs, s->n, s->wire);
	int ret = protocol_send(s->p, RECORD_BLOCK, s->wire, len, s->payload, true, err);

	if (ret < 0)
		return ret;
	if (s->payload)
		stream_put_buffer_async(&s->p->stream, s->data, s->payload);
	return protocol_flush(s->p, err);
}

static void count_record(struct block_save *s)
{
	struct migration_stats *stats = &s->m->stats;

	stats->disk_data += s->payload;
	stats->disk_zero += s->bytes - s->payload;
	stats->records++;
	stats->disk_remaining = s->dirty;
	stats->bandwidth = (uint64_t)bandwidth_get(&s->bandwidth);
	migration_count(s->m, s->p);
}

/* As for RAM, waiting for the rate limit counts as sending; so does reading the disk. */
static int flush_record(struct block_save *s, const struct block_disk *disk, bool live,
			struct error *err)
{
	uint64_t start = now_ns(), wait = 0, ns;
	int ret;

	if (!s->n)
		return 0;
	if (live)
		wait = rate_take(s->limit, s->m->params.max_bandwidth,
				 s->payload + s->n * BLOCK_RUN_WIRE + RECORD_HEADER, start);
	migration_sleep(s->m, wait);
	ret = migration_check(s->m, err);
	ret = ret < 0 ? ret : send_record(s, disk, err);
	if (ret < 0)
		return ret;
	ns = now_ns() - start + s->read_ns;
	if (s->payload)
		bandwidth_add(&s->bandwidth, s->payload, ns);
	s->m->stats.send_ns += ns;
	count_record(s);
	s->n = 0;
	s->payload = s->bytes = s->blocks = s->read_ns = 0;
	return 0;
}

static bool is_full(const struct block_save *s, bool live)
{
	uint64_t rate = live ? s->m->params.max_bandwidth : 0;
	uint64_t max = rate ? MAX(MIRROR_BLOCK, MIN(s->batch_max, rate / 20)) : s->batch_max;

	return s->n == BLOCK_RUNS_MAX || s->blocks == BLOCK_BATCH ||
	       s->payload + MIRROR_BLOCK > max;
}

static bool is_zero(uint8_t *data, uint64_t len)
{
	memset(data + len, 0, -len % ZERO_PAGE_SIZE);
	for (uint64_t i = 0; i < len; i += ZERO_PAGE_SIZE) {
		if (!page_is_zero(data + i))
			return false;
	}
	return true;
}

/* Look at a block, whose dirty bit is clear, and add it to the record, which has room. */
static int add_block(struct block_save *s, struct block_disk *disk, uint64_t block,
		     struct error *err)
{
	const struct block_ops *ops = disk->dev->class->block;
	uint64_t offset = block * MIRROR_BLOCK, len = block_bytes(disk, block);
	struct block_run *last = s->n ? &s->runs[s->n - 1] : NULL;
	uint64_t start = now_ns();
	bool zero;
	int ret = 0;

	if (offset >= disk->data_from)
		disk->data_from = ops->next_data(disk->dev, offset);
	zero = offset + len <= disk->data_from;
	if (!zero) {
		ret = ops->read(disk->dev, offset, s->data + s->payload, len, err);
		zero = ret == 0 && is_zero(s->data + s->payload, len);
	}
	s->read_ns += now_ns() - start;
	if (ret < 0)
		return ret;
	if (last && last->kind == (zero ? RAM_ZERO : RAM_DATA) &&
	    last->offset + last->len == offset)
		last->len += len;
	else
		s->runs[s->n++] = (struct block_run){ offset, len, zero ? RAM_ZERO : RAM_DATA };
	s->payload += zero ? 0 : len;
	s->bytes += len;
	s->blocks++;
	s->dirty -= len;
	return 0;
}

static bool round_is_over(const struct block_save *s, bool live)
{
	return live && s->m->timed_out && s->m->params.force;
}

static int save_disk(struct block_save *s, struct block_disk *disk, bool live, struct error *err)
{
	int ret = 0;

	disk->data_from = 0;
	for (uint64_t b = 0; b < disk_blocks(disk) && ret == 0 && !round_is_over(s, live); b++) {
		uint64_t *word = &disk->bitmap[b / WORD_BITS];

		if (!is_dirty(disk, b))
			continue;
		if (is_full(s, live))
			ret = flush_record(s, disk, live, err);
		*word &= ~(1ULL << (b % WORD_BITS));
		ret = ret < 0 ? ret : add_block(s, disk, b, err);
	}
	return ret < 0 ? ret : flush_record(s, disk, live, err);
}

int block_save_round(struct block_save *s, bool live, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < s->n_disks && ret == 0; i++)
		ret = save_disk(s, &s->disks[i], live, err);
	return ret;
}
