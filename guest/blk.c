/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The disk part of vio (virtio 1.2, section 5.2). A round reads every chunk, checks that it holds
 * what was written last, and writes the next generation, several chunks at a time. So a request
 * that is lost, or done twice, shows in the next round or in the last one, which only reads.
 */
#include "kernel/program.h"
#include "kernel/ram.h"
#include "vio.h"

enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
	S_OK = 0,
	CONFIG_CAPACITY = 0,
	SECTOR = 512,
	CHUNK = PAGE, /* bytes that are read and written together */
	ID_BYTES = 20,
};

#define F_RO	       (1u << 5)
#define F_FLUSH	       (1u << 9)
#define F_DISCARD      (1u << 13)
#define F_WRITE_ZEROES (1u << 14)

struct slot {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	uint8_t status;
	bool busy;
	uint64_t chunk;
	uint64_t *data;
};

struct blk {
	struct virtio v;
	uint64_t sectors, chunks;
	uint64_t round;	  /* generation of the chunks from `written` on; one more before */
	uint64_t next;	  /* chunk to start with */
	uint64_t written; /* all chunks before are written in this round, or are about to be */
	uint64_t requests;
	bool checking; /* the last round */
	struct slot slots[VIRTIO_SLOTS];
};

static uint32_t chunk_bytes(const struct blk *b, uint64_t chunk)
{
	uint64_t left = b->sectors * SECTOR - chunk * CHUNK;

	return left < CHUNK ? (uint32_t)left : CHUNK;
}

static void request(struct blk *b, unsigned k, uint32_t type, uint64_t sector, uint32_t size)
{
	struct slot *s = &b->slots[k];
	struct virtio_buffer parts[3] = { { &s->header, 16, false } };
	unsigned n = 1;

	s->header.type = type;
	s->header.sector = sector;
	s->status = 0xff;
	s->busy = true;
	if (size)
		parts[n++] =
			(struct virtio_buffer){ s->data, size, type == T_IN || type == T_GET_ID };
	parts[n++] = (struct virtio_buffer){ &s->status, 1, true };
	b->v.busy++;
	b->requests++;
	virtio_submit(&b->v, 0, k, parts, n);
}

/* Frees the slot of a request that is finished; -1 when none is. */
static int finished(struct blk *b)
{
	uint32_t size;
	int k = virtio_done(&b->v, 0, &size);

	if (k < 0)
		return -1;
	struct slot *s = &b->slots[k];
	if (!s->busy)
		fail("blk: slot %d was answered twice", k);
	if (*(volatile uint8_t *)&s->status != S_OK)
		fail("blk: request type %u at sector %lu has status %u", s->header.type,
		     s->header.sector, s->status);
	s->busy = false;
	b->v.busy--;
	return k;
}

/* One request in slot 0, while there is no other. */
static void request_alone(struct blk *b, uint32_t type, uint64_t sector, uint32_t size)
{
	struct patience wait = { 0 };

	request(b, 0, type, sector, size);
	while (finished(b) < 0)
		if (patience_over(&wait, 5 * SECOND_NS))
			fail("blk: no answer to request type %u", type);
}

static void start_chunk(struct blk *b, unsigned k)
{
	struct slot *s = &b->slots[k];

	s->chunk = b->next++;
	if (!b->checking)
		b->written = b->next;
	if (b->round || b->checking) {
		request(b, k, T_IN, s->chunk * (CHUNK / SECTOR), chunk_bytes(b, s->chunk));
		return;
	}
	content_write(s->data, CONTENT_RANDOM, s->chunk, 1);
	request(b, k, T_OUT, s->chunk * (CHUNK / SECTOR), chunk_bytes(b, s->chunk));
}

/* A chunk was read: is it what was written last? In a writing round its next generation follows. */
static void check_chunk(struct blk *b, unsigned k)
{
	struct slot *s = &b->slots[k];
	uint64_t generation = b->round + (b->checking && s->chunk < b->written);
	unsigned bad =
		generation ? content_check(s->data, CONTENT_RANDOM, s->chunk, generation) : CHUNK;

	if (bad < chunk_bytes(b, s->chunk))
		fail("blk: sector %lu: chunk %lu, generation %lu is expected; it holds chunk "
		     "0x%lx, "
		     "generation 0x%lx",
		     s->header.sector + bad / SECTOR, s->chunk, generation, s->data[0], s->data[1]);
	if (b->checking)
		return;
	content_write(s->data, CONTENT_RANDOM, s->chunk, b->round + 1);
	request(b, k, T_OUT, s->header.sector, chunk_bytes(b, s->chunk));
}

/* Write zeroes, and discard, whose result is not defined, on the first chunk. */
static void test_ranges(struct blk *b)
{
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} *range = (void *)b->slots[0].data;
	uint32_t size = chunk_bytes(b, 0);

	if (b->v.features & F_WRITE_ZEROES) {
		*range = (typeof(*range)){ 0, size / SECTOR, 0 };
		request_alone(b, T_WRITE_ZEROES, 0, sizeof(*range));
		request_alone(b, T_IN, 0, size);
		for (unsigned i = 0; i < size / 8; i++)
			if (b->slots[0].data[i])
				fail("blk: byte %u is not zero after write zeroes", i * 8);
	}
	if (b->v.features & F_DISCARD) {
		*range = (typeof(*range)){ 0, size / SECTOR, 0 };
		request_alone(b, T_DISCARD, 0, sizeof(*range));
	}
}

static struct virtio *blk_start(const struct device *device, const struct vio_mode *mode)
{
	struct blk *b = ram_alloc((sizeof(*b) + PAGE - 1) / PAGE, PAGE);
	uint64_t limit = option_number("limit", 0) * (1 << 20) / CHUNK;
	char id[ID_BYTES + 1] = "";

	virtio_open(&b->v, device, F_RO | F_FLUSH | F_DISCARD | F_WRITE_ZEROES, 1, mode->depth);
	for (unsigned i = 0; i < b->v.queue[0].slots; i++)
		b->slots[i].data = ram_alloc(1, PAGE);
	b->sectors = virtio_config(&b->v, CONFIG_CAPACITY, 8);
	b->chunks = (b->sectors * SECTOR + CHUNK - 1) / CHUNK;
	if (limit && limit < b->chunks)
		b->chunks = limit;
	b->checking = b->v.features & F_RO;
	request_alone(b, T_GET_ID, 0, ID_BYTES);
	memcpy(id, b->slots[0].data, ID_BYTES);
	print("vio blk id=\"%s\" sectors=%lu depth=%u features=0x%lx%s\n", id, b->sectors,
	      b->v.queue[0].slots, b->v.features, b->checking ? " read-only" : "");
	return &b->v;
}

static bool end_of_round(struct blk *b)
{
	b->next = 0;
	if (b->checking)
		return true;
	if (b->v.features & F_FLUSH)
		request_alone(b, T_FLUSH, 0, 0);
	if (b->written == b->chunks) {
		b->round++;
		b->written = 0;
	}
	return false;
}

static bool blk_step(struct virtio *v, const struct vio_mode *mode)
{
	struct blk *b = (struct blk *)v;
	int k;

	while ((k = finished(b)) >= 0)
		if (b->slots[k].header.type == T_IN)
			check_chunk(b, (unsigned)k);
	bool stop = !b->checking && (mode->stop || (mode->once && b->round));
	if (!v->busy && (b->next == b->chunks || stop)) {
		if (end_of_round(b)) {
			if (!(v->features & F_RO))
				test_ranges(b);
			return true;
		}
		b->checking = mode->stop || (mode->once && b->round);
		stop = false;
	}
	for (unsigned i = 0; i < v->queue[0].slots && b->next < b->chunks && !stop; i++)
		if (!b->slots[i].busy)
			start_chunk(b, i);
	return false;
}

static void blk_report(const struct virtio *v)
{
	const struct blk *b = (const struct blk *)v;

	print("vio blk rounds=%lu requests=%lu%s\n", b->round, b->requests,
	      b->checking ? " checked" : "");
}

const struct vio_test vio_blk = { VIRTIO_BLK, "blk", blk_start, blk_step, blk_report };
