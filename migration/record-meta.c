/* SPDX-License-Identifier: BSD-2-Clause */
/* What is inside metadata: single fields, and the descriptors of RAM. */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "migration/record.h"

/* ---- Fields ---- */

void record_meta_init(struct record_meta *m, void *data, size_t size)
{
	*m = (struct record_meta){ .data = data, .size = size };
}

void record_meta_parse(struct record_meta *m, const struct record *rec)
{
	*m = (struct record_meta){
		.data = (uint8_t *)(uintptr_t)rec->meta,
		.size = rec->meta_len,
	};
}

/* The next @len bytes, or NULL and an overrun that stays. */
static uint8_t *take(struct record_meta *m, size_t len)
{
	uint8_t *at = m->data + m->pos;

	if (m->overrun || len > m->size - m->pos) {
		m->overrun = true;
		return NULL;
	}
	m->pos += len;
	return at;
}

static void put(struct record_meta *m, const void *value, size_t len)
{
	uint8_t *to = take(m, len);

	if (to && len)
		memcpy(to, value, len);
}

static void get(struct record_meta *m, void *value, size_t len)
{
	const uint8_t *from = take(m, len);

	if (from)
		memcpy(value, from, len);
}

void record_put_be16(struct record_meta *m, uint16_t v)
{
	v = htobe16(v);
	put(m, &v, sizeof(v));
}

void record_put_be32(struct record_meta *m, uint32_t v)
{
	v = htobe32(v);
	put(m, &v, sizeof(v));
}

void record_put_be64(struct record_meta *m, uint64_t v)
{
	v = htobe64(v);
	put(m, &v, sizeof(v));
}

void record_put_string(struct record_meta *m, const char *text)
{
	size_t len = strlen(text);

	if (len > UINT16_MAX) {
		m->overrun = true;
		return;
	}
	record_put_be16(m, (uint16_t)len);
	put(m, text, len);
}

uint16_t record_get_be16(struct record_meta *m)
{
	uint16_t v = 0;

	get(m, &v, sizeof(v));
	return be16toh(v);
}

uint32_t record_get_be32(struct record_meta *m)
{
	uint32_t v = 0;

	get(m, &v, sizeof(v));
	return be32toh(v);
}

uint64_t record_get_be64(struct record_meta *m)
{
	uint64_t v = 0;

	get(m, &v, sizeof(v));
	return be64toh(v);
}

void record_get_string(struct record_meta *m, char *text, size_t size)
{
	size_t len = record_get_be16(m);
	const uint8_t *from = take(m, len);

	text[0] = '\0';
	if (!from)
		return;
	if (len >= size || memchr(from, 0, len)) {
		m->overrun = true;
		return;
	}
	memcpy(text, from, len);
	text[len] = '\0';
}

int record_meta_end(const struct record_meta *m, const struct record *rec, struct error *err)
{
	char expected[64];

	if (!m->overrun && m->pos == m->size)
		return 0;
	if (m->overrun)
		return error_set(err, -EPROTO, "stream", rec->device, "metadata",
				 "all fields of the record", "%zu bytes that do not hold them",
				 m->size);
	snprintf(expected, sizeof(expected), "%zu bytes", m->pos);
	return error_set(err, -EPROTO, "stream", rec->device, "metadata length", expected, "%zu",
			 m->size);
}

/* ---- RAM descriptors ---- */

struct wire_run {
	uint64_t gpa;
	uint32_t pages;
	uint8_t kind;
	uint8_t zero[3];
};
_Static_assert(sizeof(struct wire_run) == RAM_RUN_WIRE, "no padding on the wire");

size_t ram_runs_encode(const struct ram_run *runs, size_t n, uint8_t *wire)
{
	for (size_t i = 0; i < n; i++) {
		const struct wire_run w = {
			.gpa = htobe64(runs[i].gpa),
			.pages = htobe32(runs[i].pages),
			.kind = runs[i].kind,
		};

		memcpy(wire + i * sizeof(w), &w, sizeof(w));
	}
	return n * RAM_RUN_WIRE;
}

static int bad_run(const struct record *rec, size_t i, const char *what, const char *expected,
		   uint64_t got, struct error *err)
{
	char field[32];

	snprintf(field, sizeof(field), "run %zu %s", i, what);
	return error_set(err, -EPROTO, "stream", rec->device, field, expected, "0x%llx",
			 (unsigned long long)got);
}

static int decode_run(const struct record *rec, size_t i, struct ram_run *run, struct error *err)
{
	struct wire_run w;

	memcpy(&w, rec->meta + i * sizeof(w), sizeof(w));
	*run = (struct ram_run){ be64toh(w.gpa), be32toh(w.pages), w.kind };
	if (run->gpa & ((1u << RAM_PAGE_SHIFT) - 1))
		return bad_run(rec, i, "gpa", "a multiple of 4096", run->gpa, err);
	if (!run->pages)
		return bad_run(rec, i, "pages", "at least 1", 0, err);
	if (((uint64_t)run->pages << RAM_PAGE_SHIFT) - 1 > UINT64_MAX - run->gpa)
		return bad_run(rec, i, "pages", "an end within 64 bits", run->pages, err);
	if (w.zero[0] | w.zero[1] | w.zero[2])
		return bad_run(rec, i, "reserved bytes", "0",
			       (uint64_t)(w.zero[0] << 16 | w.zero[1] << 8 | w.zero[2]), err);
	if (run->kind == RAM_DATA || run->kind == RAM_ZERO)
		return 0;
	if (rec->type != RECORD_RAM_ZSTD)
		return bad_run(rec, i, "kind", "1 (data) or 2 (zero)", run->kind, err);
	return run->kind == RAM_XOR
		       ? 0
		       : bad_run(rec, i, "kind", "1 (data), 2 (zero) or 3 (difference)", run->kind,
				 err);
}

/* @n if the payload can be that of @data bytes, compressed. */
static int check_zipped(const struct record *rec, uint64_t data, int n, struct error *err)
{
	char expected[64];

	if (data > RAM_ZSTD_MAX)
		return error_set(err, -EPROTO, "stream", rec->device, "pages",
				 "at most 4 MiB of data", "%llu bytes", (unsigned long long)data);
	if (rec->payload_len && rec->payload_len < data)
		return n;
	snprintf(expected, sizeof(expected), "fewer than the %llu bytes of its data runs",
		 (unsigned long long)data);
	return error_set(err, -EPROTO, "stream", rec->device, "payload length", expected, "%llu",
			 (unsigned long long)rec->payload_len);
}

int ram_runs_decode(const struct record *rec, struct ram_run *runs, struct error *err)
{
	size_t n = rec->meta_len / RAM_RUN_WIRE;
	uint64_t data = 0; /* n runs of 2^44 bytes at most: no overflow */
	char expected[64];

	if (rec->meta_len % RAM_RUN_WIRE || n < 1 || n > RAM_RUNS_MAX)
		return error_set(err, -EPROTO, "stream", rec->device, "metadata length",
				 "1 to 512 descriptors of 16 bytes", "%u bytes", rec->meta_len);
	for (size_t i = 0; i < n; i++) {
		int ret = decode_run(rec, i, &runs[i], err);

		if (ret)
			return ret;
		if (runs[i].kind != RAM_ZERO)
			data += (uint64_t)runs[i].pages << RAM_PAGE_SHIFT;
	}
	if (rec->type == RECORD_RAM_ZSTD)
		return check_zipped(rec, data, (int)n, err);
	if (data == rec->payload_len)
		return (int)n;
	snprintf(expected, sizeof(expected), "%llu bytes, as its data runs have",
		 (unsigned long long)data);
	return error_set(err, -EPROTO, "stream", rec->device, "payload length", expected, "%llu",
			 (unsigned long long)rec->payload_len);
}
