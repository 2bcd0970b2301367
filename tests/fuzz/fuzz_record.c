/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Feeds the record reader with anything. A checksum stops a fuzzer at the first record, so the
 * input is mostly a recipe: each step gives the fields of one header and its metadata, which are
 * put together with checksums that are right. An input that starts with an odd byte is a raw
 * stream.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "migration/block-runs.h"
#include "migration/page-map.h"
#include "migration/ram-map.h"
#include "migration/record.h"
#include "migration/stream.h"
#include "migration/crc32c.h"
#include "tests/unit/memchannel.h"

#define STEP 16 /* bytes of a recipe that make a header */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t number(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

static void store(uint8_t *p, size_t n, uint64_t v)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

/* One of the types that this build knows. */
static uint16_t known_type(uint8_t choice)
{
	uint16_t type = choice % 64;

	while (!record_info(type))
		type = (uint16_t)((type + 1) % 64);
	return type;
}

/* What a step may get wrong; all else is right, so that most records are good ones. */
enum {
	WRONG_FLAGS = 1,    /* byte 2 */
	WRONG_SEQUENCE = 2, /* byte 3 */
	WRONG_LENGTH = 4,   /* of the metadata, bytes 4 to 7 */
	WRONG_TYPE = 8,	    /* bytes 4 and 5 */
	HAS_PAYLOAD = 16,   /* its length is in bytes 10 to 15 */
};

/*
 * A step is 16 bytes and the metadata: 0 type, 1 what is wrong, 8-9 metadata length. The payload is
 * whatever comes next.
 */
static void cook(struct mem_channel *mem, const uint8_t *data, size_t size)
{
	for (uint8_t sequence = 0; size >= STEP; sequence++) {
		uint8_t header[RECORD_HEADER], wrong = data[1];
		size_t meta = MIN(number(data + 8, 2) & 0xfff, size - STEP);

		store(header, 4, RECORD_MAGIC);
		store(header + 4, 2,
		      wrong & WRONG_TYPE ? number(data + 4, 2) : known_type(data[0]));
		store(header + 6, 2, wrong & WRONG_FLAGS ? data[2] : RECORD_MANDATORY);
		store(header + 8, 4, wrong & WRONG_SEQUENCE ? data[3] : sequence);
		store(header + 12, 4, wrong & WRONG_LENGTH ? number(data + 4, 4) : meta);
		store(header + 16, 8, wrong & HAS_PAYLOAD ? number(data + 10, 6) : 0);
		store(header + 24, 4, crc32c(0, data + STEP, meta));
		store(header + 28, 4, crc32c(0, header, 28));
		mem_put(&mem->base, header, sizeof(header));
		mem_put(&mem->base, data + STEP, meta);
		data += STEP + meta;
		size -= STEP + meta;
	}
	mem_put(&mem->base, data, size);
}

/* Into a map of two regions, one of which does not end with a word; the RAM itself is not touched.
 */
static int receive_map(const struct record *rec, struct error *err)
{
	static char ram[1];
	static const struct memory mem = {
		.regions = { { .gpa = 0, .size = 100 << PAGE_SHIFT, .hva = ram },
			     { .gpa = 1UL << 32, .size = 128 << PAGE_SHIFT, .hva = ram } },
		.n_regions = 2,
		.size = 228 << PAGE_SHIFT,
	};
	struct page_map map = { 0 };
	int ret = page_map_init(&map, &mem, err);

	ret = ret < 0 ? ret : page_map_receive(&map, rec, err);
	if (ret == 0 && page_map_count(&map) > mem.size >> PAGE_SHIFT)
		abort();
	page_map_free(&map);
	return ret;
}

/* Use a record as its receivers do. */
static int use(struct record_reader *reader, const struct record *rec, struct error *err)
{
	static struct ram_run runs[RAM_RUNS_MAX];
	static struct block_run blocks[BLOCK_RUNS_MAX];
	char name[BLOCK_NAME_MAX];
	struct ram_map map;
	struct record_meta m;
	char text[32];
	int ret;

	record_meta_parse(&m, rec);
	record_get_be16(&m);
	record_get_string(&m, text, sizeof(text));
	record_get_be64(&m);
	record_get_be32(&m);
	record_meta_end(&m, rec, NULL);
	if (rec->type == RECORD_BLOCK) {
		ret = block_runs_decode(rec, name, blocks, err);
		if (ret < 0)
			return ret;
	}
	if (rec->type == RECORD_RAM_MAP) {
		ret = ram_map_decode(rec, &map, err);
		if (ret < 0)
			return ret;
	}
	if (rec->type == RECORD_RAM || rec->type == RECORD_RAM_ZSTD) {
		ret = ram_runs_decode(rec, runs, err);
		if (ret < 0)
			return ret;
	}
	if (rec->type == RECORD_MISSING) {
		ret = receive_map(rec, err);
		if (ret < 0)
			return ret;
	}
	ret = stream_skip(reader->stream, rec->payload_len);
	return record_payload_result(reader, rec, ret, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct stream stream;
	struct record_reader reader;
	struct mem_channel mem;
	struct error err = { 0 };
	struct record rec;

	if (size < 2)
		return 0;
	mem_init(&mem, true);
	mem.step = data[1]; /* short reads */
	if (data[0] & 1)
		mem_put(&mem.base, data + 2, size - 2);
	else
		cook(&mem, data + 2, size - 2);
	stream_init(&stream, &mem.base);
	record_reader_init(&reader, &stream);
	while (!record_read(&reader, &rec, &err) && !use(&reader, &rec, &err))
		;
	/* Whatever it was, it ended with a reason. */
	if (!err.code || !err.phase[0] || !err.device[0])
		abort();
	record_reader_free(&reader);
	channel_close(&mem.base);
	return 0;
}
