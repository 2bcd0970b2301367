/* SPDX-License-Identifier: BSD-2-Clause */
/* The metadata of BLOCK records, described in block-runs.h. */
#include "migration/block-runs.h"

#include <errno.h>
#include <stdio.h>

#include "vmm/device.h"

size_t block_runs_encode(const char *name, const struct block_run *runs, size_t n, uint8_t *wire)
{
	struct record_meta m;

	record_meta_init(&m, wire, BLOCK_META_MAX);
	record_put_string(&m, name);
	for (size_t i = 0; i < n; i++) {
		record_put_be64(&m, runs[i].offset);
		record_put_be64(&m, runs[i].len);
		record_put_be64(&m, (uint64_t)runs[i].kind << 56);
	}
	return m.pos;
}

static int bad_run(const struct record *rec, size_t i, const char *what, const char *expected,
		   uint64_t got, struct error *err)
{
	char field[32];

	snprintf(field, sizeof(field), "run %zu %s", i, what);
	return error_set(err, -EPROTO, "stream", rec->device, field, expected, "0x%llx",
			 (unsigned long long)got);
}

/* Run @i, which must not begin before @end. */
static int decode_run(const struct record *rec, struct record_meta *m, size_t i, uint64_t end,
		      struct block_run *run, struct error *err)
{
	uint64_t last;

	run->offset = record_get_be64(m);
	run->len = record_get_be64(m);
	last = record_get_be64(m);
	run->kind = (uint8_t)(last >> 56);
	if (run->offset % MIRROR_BLOCK)
		return bad_run(rec, i, "offset", "a multiple of 65536", run->offset, err);
	if (run->offset < end)
		return bad_run(rec, i, "offset", "not before the end of the run before",
			       run->offset, err);
	if (run->len == 0)
		return bad_run(rec, i, "length", "at least 1", 0, err);
	if (run->offset > INT64_MAX || run->len > INT64_MAX - run->offset)
		return bad_run(rec, i, "length", "an end within 63 bits", run->len, err);
	if (run->kind != RAM_DATA && run->kind != RAM_ZERO)
		return bad_run(rec, i, "kind", "1 (data) or 2 (zero)", run->kind, err);
	if (last << 8)
		return bad_run(rec, i, "reserved bytes", "0", last << 8 >> 8, err);
	return 0;
}

int block_runs_decode(const struct record *rec, char *name, struct block_run *runs,
		      struct error *err)
{
	struct record_meta m;
	uint64_t data = 0, end = 0; /* runs do not overlap, so neither do their sums overflow */
	char expected[64];
	size_t n, left;

	record_meta_parse(&m, rec);
	record_get_string(&m, name, BLOCK_NAME_MAX);
	for (char *c = name; *c; c++)
		*c = *c >= ' ' && *c <= '~' ? *c : '?'; /* it goes to a terminal */
	left = m.size - m.pos;
	n = left / BLOCK_RUN_WIRE;
	if (m.overrun || left % BLOCK_RUN_WIRE || n < 1 || n > BLOCK_RUNS_MAX)
		return error_set(err, -EPROTO, "stream", rec->device, "metadata",
				 "a name and 1 to 64 descriptors of 24 bytes", "%u bytes",
				 rec->meta_len);
	for (size_t i = 0; i < n; i++) {
		int ret = decode_run(rec, &m, i, end, &runs[i], err);

		if (ret < 0)
			return ret;
		end = runs[i].offset + runs[i].len;
		data += runs[i].kind == RAM_DATA ? runs[i].len : 0;
	}
	if (data == rec->payload_len)
		return (int)n;
	snprintf(expected, sizeof(expected), "%llu bytes, as its data runs have",
		 (unsigned long long)data);
	return error_set(err, -EPROTO, "stream", rec->device, "payload length", expected, "%llu",
			 (unsigned long long)rec->payload_len);
}
