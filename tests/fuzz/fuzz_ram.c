/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loads RAM from whatever a source may send: plain and compressed pages, differences, zero pages,
 * in RAM or beside it, with payloads that are right, damaged, cut short, or none. What RAM holds is
 * compared with a model that does the same page by page. RAM is in the middle of an area that must
 * stay as it is.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <zstd.h>

#include "input.h"
#include "migration/ram.h"
#include "tests/unit/memchannel.h"

#define PAGES	16 /* of RAM, in two regions with as many between them */
#define RUNS	6
#define RUN_MAX 8 /* pages */
#define GUARD	4 /* pages before and after each region */
#define SEALED	0xa5
#define AREA	(PAGES / 2 + 2 * GUARD)
#define ROOM	(RUNS * RUN_MAX * PAGE_SIZE)
#define FAULTY	8 /* one in so many is wrong, in each way that there is */

struct area {
	uint8_t page[2][AREA][PAGE_SIZE];
};

static struct area real, model;
static _Atomic uint64_t own[2];

static struct memory ram = {
	.regions = { { .size = PAGES / 2 * PAGE_SIZE, .hva = real.page[0][GUARD], .own = &own[0] },
		     { .gpa = PAGES * PAGE_SIZE,
		       .size = PAGES / 2 * PAGE_SIZE,
		       .hva = real.page[1][GUARD],
		       .own = &own[1] } },
	.n_regions = 2,
	.size = PAGES * PAGE_SIZE,
	.fd = -1,
};

static void seal(struct area *area)
{
	memset(area, SEALED, sizeof(*area));
	for (unsigned int i = 0; i < 2; i++)
		memset(area->page[i][GUARD], 0, PAGES / 2 * PAGE_SIZE);
}

/* Page number @page of the guest in the model, NULL where there is no RAM. */
static uint8_t *model_page(uint64_t page)
{
	if (page < PAGES / 2)
		return model.page[0][GUARD + page];
	if (page >= PAGES && page < PAGES + PAGES / 2)
		return model.page[1][GUARD + page - PAGES];
	return NULL;
}

struct recipe {
	bool zstd;
	unsigned int n;
	struct ram_run runs[RUNS];
	uint8_t pages[ROOM]; /* of the runs that are not zero */
	size_t len;
	bool damaged; /* on its way: who takes it all the same has other pages */
};

static bool faulty(struct input *in)
{
	return take(in, 1) % FAULTY == FAULTY - 1;
}

/* Mostly one after the other, all in RAM. */
static void take_runs(struct input *in, struct recipe *r)
{
	uint64_t page = 0;

	r->zstd = take(in, 1) & 1;
	r->n = 1 + take(in, 1) % RUNS;
	r->len = 0;
	for (unsigned int i = 0; i < r->n; i++) {
		struct ram_run *run = &r->runs[i];
		size_t len;

		page = faulty(in) ? take(in, 7) : page + take(in, 1) % 12;
		run->gpa = page * PAGE_SIZE + (faulty(in) ? take(in, 2) : 0);
		run->pages = faulty(in) ? (uint32_t)take(in, 4) : 1 + take(in, 1) % 3;
		run->kind = (uint8_t)(faulty(in) ? take(in, 1) : RAM_DATA + take(in, 1) % 3);
		page += run->pages;
		len = run->kind == RAM_ZERO ? 0 : MIN(run->pages, RUN_MAX) * PAGE_SIZE;
		memset(r->pages + r->len, (int)take(in, 1), len);
		for (size_t at = 0; at < len; at += PAGE_SIZE)
			r->pages[r->len + at + take(in, 1)] = (uint8_t)take(in, 1);
		r->len += len;
	}
}

/* One record, as @r says or not. */
static void send_record(struct input *in, struct recipe *r, struct record_writer *w)
{
	uint16_t type = r->zstd ? RECORD_RAM_ZSTD : RECORD_RAM;
	static uint8_t payload[ZSTD_COMPRESSBOUND(ROOM)];
	size_t len = r->len;
	uint8_t wire[RUNS * RAM_RUN_WIRE];
	struct error err;

	if (r->zstd)
		len = ZSTD_compress(payload, sizeof(payload), r->pages, r->len, 1);
	else
		memcpy(payload, r->pages, len);
	r->damaged = faulty(in);
	if (r->damaged && len)
		payload[take(in, 3) % len] ^= (uint8_t)take(in, 1);
	if (faulty(in)) {
		memset(payload + len, 0, sizeof(payload) - len);
		len = take(in, 3) % sizeof(payload);
	}
	ram_runs_encode(r->runs, r->n, wire);
	if (record_send(w, type, wire, r->n * RAM_RUN_WIRE, len, &err) == 0)
		stream_put_buffer(w->stream, payload, len);
	stream_flush(w->stream);
}

static void xor_page(uint8_t *to, const uint8_t *from)
{
	uint64_t a, b;

	for (unsigned int i = 0; i < PAGE_SIZE; i += sizeof(a)) {
		memcpy(&a, to + i, sizeof(a));
		memcpy(&b, from + i, sizeof(b));
		a ^= b;
		memcpy(to + i, &a, sizeof(a));
	}
}

/* What a record that was taken must have done. */
static void apply(const struct recipe *r)
{
	const uint8_t *from = r->pages;

	for (unsigned int i = 0; i < r->n; i++) {
		uint64_t page = r->runs[i].gpa / PAGE_SIZE;

		for (uint32_t k = 0; k < r->runs[i].pages; k++, page++) {
			uint8_t *to = model_page(page);

			if (!to)
				abort(); /* outside of RAM, and not refused */
			if (r->runs[i].kind == RAM_ZERO) {
				memset(to, 0, PAGE_SIZE);
				continue;
			}
			if (r->runs[i].kind == RAM_DATA)
				memcpy(to, from, PAGE_SIZE);
			else
				xor_page(to, from);
			from += PAGE_SIZE;
		}
	}
}

static bool same_beside_ram(void)
{
	for (unsigned int i = 0; i < 2; i++)
		if (memcmp(real.page[i], model.page[i], GUARD * PAGE_SIZE) != 0 ||
		    memcmp(real.page[i][AREA - GUARD], model.page[i][AREA - GUARD],
			   GUARD * PAGE_SIZE) != 0)
			return false;
	return true;
}

/* False when the stream has ended, with a reason. */
static bool load_one(struct ram_load *load, struct protocol *p, const struct recipe *r)
{
	struct error err = { 0 };
	struct record rec;
	int ret = record_read(&p->reader, &rec, &err);

	ret = ret < 0 ? ret : ram_load_record(load, &load->table, p, &rec, &err);
	if (!same_beside_ram())
		abort();
	if (ret < 0) {
		if (!err.code || !err.phase[0] || !err.device[0])
			abort();
		return false;
	}
	apply(r);
	if (r->damaged)
		model = real;
	else if (memcmp(&real, &model, sizeof(real)) != 0)
		abort();
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct migration m;
	static struct stream out;
	static struct ram_load load;
	static struct protocol p;
	struct input in = { data, size };
	struct record_writer writer;
	struct mem_channel mem;
	struct recipe r;
	struct error err;

	seal(&real);
	seal(&model);
	mem_init(&mem, true);
	mem.step = take(&in, 1) * 64; /* short reads */
	stream_init(&out, &mem.base);
	record_writer_init(&writer, &out);
	protocol_init(&p, &mem.base, SIDE_DESTINATION, PROTOCOL_LIVE);
	if (ram_load_init(&load, &m, &ram, &err) < 0)
		abort();
	do {
		take_runs(&in, &r);
		send_record(&in, &r, &writer);
	} while (load_one(&load, &p, &r) && in.left);
	ram_load_free(&load);
	protocol_free(&p);
	channel_close(&mem.base);
	return 0;
}
