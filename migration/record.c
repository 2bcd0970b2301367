/* SPDX-License-Identifier: BSD-2-Clause */
/* Records: framing, limits and checks. The layout is described in record.h. */
#include "migration/record.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migration/block-runs.h"
#include "migration/crc32c.h"
#include "migration/postcopy.h"
#include "migration/stream.h"

#define KIB(n) ((n)*1024u)
#define MIB(n) ((n)*1024u * 1024u)

static const struct record_info infos[] = {
	{ RECORD_HELLO, RECORD_MANDATORY, "HELLO", KIB(64), 0 },
	{ RECORD_MACHINE, RECORD_MANDATORY, "MACHINE", MIB(4), 0 },
	{ RECORD_ACCEPT, RECORD_MANDATORY, "ACCEPT", KIB(64), 0 },
	{ RECORD_REJECT, RECORD_MANDATORY, "REJECT", KIB(64), 0 },
	{ RECORD_RAM, RECORD_MANDATORY, "RAM", RAM_RUNS_MAX *RAM_RUN_WIRE, RAM_PAYLOAD_MAX },
	{ RECORD_STOPPED, RECORD_MANDATORY, "STOPPED", KIB(64), 0 },
	{ RECORD_STATE, RECORD_MANDATORY, "STATE", MIB(4), 0 },
	{ RECORD_LOADED, RECORD_MANDATORY, "LOADED", KIB(64), 0 },
	{ RECORD_FAILED, RECORD_MANDATORY, "FAILED", KIB(64), 0 },
	{ RECORD_COMMIT, RECORD_MANDATORY, "COMMIT", KIB(64), 0 },
	{ RECORD_RUNNING, RECORD_MANDATORY, "RUNNING", KIB(64), 0 },
	{ RECORD_END, RECORD_MANDATORY, "END", KIB(64), 0 },
	{ RECORD_PROGRESS, 0, "PROGRESS", KIB(64), 0 },
	{ RECORD_BLOCK, RECORD_MANDATORY, "BLOCK", BLOCK_META_MAX, BLOCK_PAYLOAD_MAX },
	{ RECORD_CHANNEL, RECORD_MANDATORY, "CHANNEL", KIB(64), 0 },
	{ RECORD_ROUND, RECORD_MANDATORY, "ROUND", KIB(64), 0 },
	{ RECORD_BACKLOG, 0, "BACKLOG", BACKLOG_META_MAX, BACKLOG_PAYLOAD_MAX },
	{ RECORD_RAM_FD, RECORD_MANDATORY, "RAM_FD", KIB(64), 0 },
	{ RECORD_DEVICE_FD, RECORD_MANDATORY, "DEVICE_FD", KIB(64), 0 },
	{ RECORD_MISSING, RECORD_MANDATORY, "MISSING", PAGE_MAP_META_MAX, 0 },
	{ RECORD_LISTEN, RECORD_MANDATORY, "LISTEN", KIB(64), 0 },
	{ RECORD_READY, RECORD_MANDATORY, "READY", KIB(64), 0 },
	{ RECORD_REQUEST, RECORD_MANDATORY, "REQUEST", REQUEST_META_MAX, 0 },
	{ RECORD_RAM_MAP, RECORD_MANDATORY, "RAM_MAP", KIB(1), 0 },
	{ RECORD_RAM_ZSTD, RECORD_MANDATORY, "RAM_ZSTD", RAM_RUNS_MAX *RAM_RUN_WIRE, RAM_ZSTD_MAX },
};

/* What an optional record of a later version may have, to be skipped. */
static const struct record_info unknown = { 0, 0, "unknown", KIB(64), RAM_PAYLOAD_MAX };

const struct record_info *record_info(uint16_t type)
{
	for (size_t i = 0; i < sizeof(infos) / sizeof(infos[0]); i++) {
		if (infos[i].type == type)
			return &infos[i];
	}
	return NULL;
}

const char *record_name(uint16_t type)
{
	const struct record_info *info = record_info(type);

	return info ? info->name : unknown.name;
}

/* The header as it is on the wire. */
struct wire_header {
	uint32_t magic;
	uint16_t type;
	uint16_t flags;
	uint32_t sequence;
	uint32_t meta_len;
	uint64_t payload_len;
	uint32_t meta_crc;
	uint32_t header_crc;
};
_Static_assert(sizeof(struct wire_header) == RECORD_HEADER, "no padding on the wire");

/* ---- Sending ---- */

void record_writer_init(struct record_writer *w, struct stream *stream)
{
	*w = (struct record_writer){ .stream = stream };
	w->payload_end = stream_put_position(stream);
}

/* Check a record that is to be sent and queue its header. */
static int send_header(struct record_writer *w, uint16_t type, const void *meta, size_t meta_len,
		       uint64_t payload_len, struct error *err)
{
	const struct record_info *info = record_info(type);
	struct wire_header h;

	if (stream_error(w->stream))
		return stream_check(w->stream, err);
	if (!info || meta_len > info->meta_max || payload_len > info->payload_max)
		return error_set(err, -EMSGSIZE, "stream", record_name(type), "length",
				 "a record within its limits", "%zu + %llu bytes", meta_len,
				 (unsigned long long)payload_len);
	if (stream_put_position(w->stream) != w->payload_end) {
		error_set(err, -EPROTO, "stream", record_name(type), "payload before it", "",
			  "%lld bytes too many",
			  (long long)(stream_put_position(w->stream) - w->payload_end));
		return -EPROTO;
	}
	h = (struct wire_header){
		.magic = htobe32(RECORD_MAGIC),
		.type = htobe16(type),
		.flags = htobe16(info->flags),
		.sequence = htobe32(w->sequence++),
		.meta_len = htobe32((uint32_t)meta_len),
		.payload_len = htobe64(payload_len),
		.meta_crc = htobe32(crc32c(0, meta, meta_len)),
	};
	h.header_crc = htobe32(crc32c(0, &h, offsetof(struct wire_header, header_crc)));
	stream_put_buffer(w->stream, &h, sizeof(h));
	w->payload_end += sizeof(h) + meta_len + payload_len;
	return 0;
}

int record_send(struct record_writer *w, uint16_t type, const void *meta, size_t meta_len,
		uint64_t payload_len, struct error *err)
{
	int ret = send_header(w, type, meta, meta_len, payload_len, err);

	if (!ret) {
		stream_put_buffer(w->stream, meta, meta_len);
		ret = stream_check(w->stream, err);
	}
	return ret;
}

int record_send_async(struct record_writer *w, uint16_t type, const void *meta, size_t meta_len,
		      uint64_t payload_len, struct error *err)
{
	int ret = send_header(w, type, meta, meta_len, payload_len, err);

	if (!ret) {
		stream_put_buffer_async(w->stream, meta, meta_len);
		ret = stream_check(w->stream, err);
	}
	return ret;
}

/* ---- Receiving ---- */

void record_reader_init(struct record_reader *r, struct stream *stream)
{
	*r = (struct record_reader){ .stream = stream };
	r->payload_end = stream_get_position(stream);
}

void record_reader_free(struct record_reader *r)
{
	free(r->meta);
	r->meta = NULL;
	r->meta_size = 0;
}

/* Say why a read of @what, @want bytes from stream position @from, has failed. */
static int read_failed(const struct record_reader *r, const char *device, const char *what,
		       uint64_t from, uint64_t want, int code, struct error *err)
{
	unsigned long long came = stream_get_position(r->stream) - from;
	char expected[64];

	snprintf(expected, sizeof(expected), "%llu bytes", (unsigned long long)want);
	switch (code) {
	case -ENODATA:
		return error_set(err, -EPIPE, "stream", device, what, expected,
				 "the end of the stream after %llu bytes", came);
	case -ETIMEDOUT:
		return error_set(err, code, "stream", device, what, expected,
				 "%llu bytes, then none within the time limit", came);
	case -ECANCELED:
		return error_set(err, code, "stream", device, what, "", "cancelled");
	default:
		return error_set(err, code, "stream", device, what, expected, "%llu bytes, then %s",
				 came, strerror(-code));
	}
}

/* A value in the header that differs from the one it must have. */
static int mismatch(int code, const struct record *rec, const char *field, uint32_t expected,
		    uint32_t got, bool hex, struct error *err)
{
	char want[32], have[32];

	snprintf(want, sizeof(want), hex ? "0x%08x" : "%u", expected);
	snprintf(have, sizeof(have), hex ? "0x%08x" : "%u", got);
	return error_set(err, code, "stream", rec->device, field, want, "%s", have);
}

static int over_limit(const struct record *rec, const char *field, uint64_t max, uint64_t got,
		      struct error *err)
{
	char limit[48];

	snprintf(limit, sizeof(limit), "at most %llu bytes", (unsigned long long)max);
	return error_set(err, -EPROTO, "stream", rec->device, field, limit, "%llu",
			 (unsigned long long)got);
}

/* Judge a header: whole, in order, of a known type or an optional one, and within its limits. */
static int check_header(const struct record_reader *r, const struct wire_header *h,
			struct record *rec, struct error *err)
{
	const struct record_info *info = record_info(rec->type);
	uint32_t crc = crc32c(0, h, offsetof(struct wire_header, header_crc));

	if (be32toh(h->magic) != RECORD_MAGIC)
		return mismatch(-EPROTO, rec, "magic", RECORD_MAGIC, be32toh(h->magic), true, err);
	if (be32toh(h->header_crc) != crc)
		return mismatch(-EBADMSG, rec, "header checksum", crc, be32toh(h->header_crc), true,
				err);
	/* Only now is the type worth naming. */
	snprintf(rec->device, sizeof(rec->device), "%s record at byte %llu", record_name(rec->type),
		 (unsigned long long)rec->offset);
	if (rec->flags & ~RECORD_MANDATORY)
		return mismatch(-EPROTO, rec, "flags", rec->flags & RECORD_MANDATORY, rec->flags,
				true, err);
	if (rec->sequence != r->sequence)
		return mismatch(-EPROTO, rec, "sequence number", r->sequence, rec->sequence, false,
				err);
	if (!info && rec->flags & RECORD_MANDATORY)
		return error_set(err, -EOPNOTSUPP, "stream", rec->device, "type",
				 "a type this version knows, or an optional one", "%u", rec->type);
	if (!info)
		info = &unknown;
	if (rec->meta_len > info->meta_max)
		return over_limit(rec, "metadata length", info->meta_max, rec->meta_len, err);
	if (rec->payload_len > info->payload_max)
		return over_limit(rec, "payload length", info->payload_max, rec->payload_len, err);
	return 0;
}

static int read_header(struct record_reader *r, struct wire_header *h, struct record *rec,
		       struct error *err)
{
	int ret;

	*rec = (struct record){ .offset = stream_get_position(r->stream) };
	snprintf(rec->device, sizeof(rec->device), "record at byte %llu",
		 (unsigned long long)rec->offset);
	if (rec->offset != r->payload_end)
		return error_set(err, -EPROTO, "stream", rec->device, "payload before it",
				 "all of it read", "%lld bytes left",
				 (long long)(r->payload_end - rec->offset));
	ret = stream_get_buffer(r->stream, h, sizeof(*h));
	if (ret) {
		ret = read_failed(r, rec->device, "header", rec->offset, sizeof(*h), ret, err);
		return ret == -EPIPE && stream_get_position(r->stream) == rec->offset ? -ENODATA
										      : ret;
	}
	rec->type = be16toh(h->type);
	rec->flags = be16toh(h->flags);
	rec->sequence = be32toh(h->sequence);
	rec->meta_len = be32toh(h->meta_len);
	rec->payload_len = be64toh(h->payload_len);
	return check_header(r, h, rec, err);
}

static int read_meta(struct record_reader *r, const struct wire_header *h, struct record *rec,
		     struct error *err)
{
	uint64_t from = stream_get_position(r->stream);
	uint32_t crc;
	int ret;

	/* Empty metadata is a pointer too. */
	if (!r->meta || rec->meta_len > r->meta_size) {
		free(r->meta);
		r->meta_size = 0;
		r->meta = malloc(rec->meta_len ? rec->meta_len : 1);
		if (!r->meta)
			return error_set(err, -ENOMEM, "stream", rec->device, "metadata", "",
					 "no memory for %u bytes", rec->meta_len);
		r->meta_size = rec->meta_len;
	}
	/* Exactly this much: what follows is payload, which is not to be read ahead. */
	ret = stream_readv(r->stream, &(struct iovec){ r->meta, rec->meta_len }, 1);
	if (ret)
		return read_failed(r, rec->device, "metadata", from, rec->meta_len, ret, err);
	crc = crc32c(0, r->meta, rec->meta_len);
	if (be32toh(h->meta_crc) != crc)
		return mismatch(-EBADMSG, rec, "metadata checksum", crc, be32toh(h->meta_crc), true,
				err);
	rec->meta = r->meta;
	return 0;
}

int record_read(struct record_reader *r, struct record *rec, struct error *err)
{
	struct wire_header h;
	int ret;

	for (;;) {
		ret = read_header(r, &h, rec, err);
		if (!ret)
			ret = read_meta(r, &h, rec, err);
		if (ret)
			return ret;
		r->sequence++;
		r->payload_end = stream_get_position(r->stream) + rec->payload_len;
		if (record_info(rec->type))
			return 0;
		ret = stream_skip(r->stream, rec->payload_len);
		if (ret)
			return record_payload_result(r, rec, ret, err);
	}
}

int record_payload_result(const struct record_reader *r, const struct record *rec, int code,
			  struct error *err)
{
	if (!code)
		return 0;
	return read_failed(r, rec->device, "payload", r->payload_end - rec->payload_len,
			   rec->payload_len, code, err);
}
