/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Records are what is on the wire: typed, numbered, length-prefixed, big-endian.
 *
 *   byte  size
 *      0     4  magic "FRRY"
 *      4     2  type, enum record_type
 *      6     2  flags: bit 0 mandatory (a reader that does not know the type must refuse), rest 0
 *      8     4  sequence number, 0, 1, 2, … in each direction
 *     12     4  metadata length m, limited for each type
 *     16     8  payload length p, limited for each type
 *     24     4  CRC32C of the metadata
 *     28     4  CRC32C of bytes 0 to 27
 *     32     m  metadata: numbers, a tree, or the descriptors of RAM
 *   32+m     p  payload: raw guest memory, not covered by a CRC
 *
 * The header has a CRC of its own, so that a damaged length is seen before anything waits for it.
 *
 * Metadata of a RAM record: up to RAM_RUNS_MAX descriptors of 16 bytes,
 *
 *      0     8  gpa, a multiple of 4096
 *      8     4  number of pages of 4096 bytes, at least 1
 *     12     1  kind, enum ram_kind
 *     13     3  zero
 *
 * and as payload the pages of all data runs, in that order, back to back. RAM_ZSTD has the same
 * metadata, and as payload one zstd frame of these pages, which is shorter than they are; there
 * may be runs of differences (XOR) among them.
 *
 * Errors: {"stream", "RAM record at byte 4711", field, expected, got}. Codes: -ENODATA the stream
 * ended between two records, -EPIPE it ended inside one, -EBADMSG a CRC is wrong, -EPROTO a value
 * is, -EOPNOTSUPP an unknown mandatory record, else what the channel returned.
 */
#ifndef MIGRATION_RECORD_H
#define MIGRATION_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/error.h"

struct stream;

#define RECORD_MAGIC	 0x46525259u /* "FRRY" */
#define RECORD_HEADER	 32
#define RECORD_MANDATORY 0x0001

/* On the wire: never renumber. The order is about that of a migration. */
enum record_type {
	RECORD_HELLO = 1,
	RECORD_MACHINE = 2, /* metadata: the machine tree, an FDT */
	RECORD_ACCEPT = 3,
	RECORD_REJECT = 4,
	RECORD_RAM = 5, /* metadata: struct ram_run, payload: pages */
	RECORD_STOPPED = 6,
	RECORD_STATE = 7, /* metadata: the state tree, an FDT */
	RECORD_LOADED = 8,
	RECORD_FAILED = 9,
	RECORD_COMMIT = 10,
	RECORD_RUNNING = 11,
	RECORD_END = 12,       /* last record of a file */
	RECORD_PROGRESS = 13,  /* optional, may be skipped */
	RECORD_BLOCK = 14,     /* metadata: block-runs.h, payload: parts of a disk */
	RECORD_CHANNEL = 15,   /* first record of a data connection, multifd.h */
	RECORD_ROUND = 16,     /* a round over RAM is complete */
	RECORD_BACKLOG = 17,   /* optional: what came for the guest since it was stopped */
	RECORD_RAM_FD = 20,    /* all of RAM, as a descriptor beside it */
	RECORD_DEVICE_FD = 21, /* what a device has open, likewise */
	RECORD_MISSING = 24,   /* metadata: a part of a bitmap, page-map.h */
	RECORD_LISTEN = 25,    /* postcopy.h: all that is missing has been named */
	RECORD_READY = 26,     /* … and is known to the other side */
	RECORD_REQUEST = 27,   /* metadata: gpas of pages that somebody waits for */
	RECORD_RAM_MAP = 30,   /* where RAM lies in the file, ram-map.h */
	RECORD_RAM_ZSTD = 40   /* as RAM, the payload compressed: compress.h */
};

#define RECORD_TYPE_MAX 63 /* no number above it is in use */

/* One row a type: the only place that knows its name and limits. */
struct record_info {
	uint16_t type;
	uint16_t flags; /* sent with it */
	const char *name;
	uint32_t meta_max;
	uint64_t payload_max;
};

/* The row of @type, NULL if this build does not know it. */
const struct record_info *record_info(uint16_t type);

/* "RAM", or "unknown". */
const char *record_name(uint16_t type);

/* ---- Sending ---- */

/* One a direction. Never NULL @stream; the stream is not owned. */
struct record_writer {
	struct stream *stream;
	uint32_t sequence;
	uint64_t payload_end; /* stream position at which the payload announced last ends */
};

void record_writer_init(struct record_writer *w, struct stream *stream);

/*
 * Queue a record, metadata copied; @meta may be freed at once. The caller then puts exactly
 * @payload_len bytes into the stream (stream_put_buffer_async for RAM) and flushes when it wants
 * them sent. Returns 0, or a negative errno with @err: the stream's error, -EMSGSIZE beyond the
 * type's limits, -EPROTO when the payload of the record before is not what was announced.
 */
int record_send(struct record_writer *w, uint16_t type, const void *meta, size_t meta_len,
		uint64_t payload_len, struct error *err);

/* The same, but @meta is only referred to: it must stay until the next stream_flush returns. */
int record_send_async(struct record_writer *w, uint16_t type, const void *meta, size_t meta_len,
		      uint64_t payload_len, struct error *err);

/* ---- Receiving ---- */

struct record {
	uint16_t type;
	uint16_t flags;
	uint32_t sequence;
	uint32_t meta_len;
	uint64_t payload_len;
	uint64_t offset;     /* of its first byte in the stream */
	const uint8_t *meta; /* the reader's, until its next record_read; aligned as by malloc */
	char device[64];     /* "RAM record at byte 4711", for errors about this record */
};

struct record_reader {
	struct stream *stream;
	uint32_t sequence;
	uint64_t payload_end;
	uint8_t *meta;
	size_t meta_size;
};

void record_reader_init(struct record_reader *r, struct stream *stream);
void record_reader_free(struct record_reader *r);

/*
 * Read the next record this build knows: header and metadata are checked and in @rec, the payload
 * is still in the stream and has to be read by the caller (stream_readv, stream_skip) before the
 * next call. Unknown optional records are skipped. Returns 0 or a negative errno with @err.
 */
int record_read(struct record_reader *r, struct record *rec, struct error *err);

/*
 * Complete a read of the payload of @rec: pass on 0, or turn the failed @code of stream_readv into
 * an error that says how much of the payload came. Returns @code (-EPIPE for -ENODATA).
 */
int record_payload_result(const struct record_reader *r, const struct record *rec, int code,
			  struct error *err);

/* ---- Fields inside metadata: a bounded cursor, for building and for parsing ---- */

/*
 * Puts and gets beyond @size set @overrun and do nothing (a get gives 0), so check once at the end.
 */
struct record_meta {
	uint8_t *data;
	size_t size, pos;
	bool overrun;
};

void record_meta_init(struct record_meta *m, void *data, size_t size);
void record_put_be16(struct record_meta *m, uint16_t v);
void record_put_be32(struct record_meta *m, uint32_t v);
void record_put_be64(struct record_meta *m, uint64_t v);
/* A string: u16 length, then the bytes, no NUL. At most 65535 of them. */
void record_put_string(struct record_meta *m, const char *text);
/* Parse the metadata of @rec; the puts must not be used on it. */
void record_meta_parse(struct record_meta *m, const struct record *rec);
uint16_t record_get_be16(struct record_meta *m);
uint32_t record_get_be32(struct record_meta *m);
uint64_t record_get_be64(struct record_meta *m);
/* Into @text with a NUL; a string that does not fit or has a NUL in it counts as an overrun. */
void record_get_string(struct record_meta *m, char *text, size_t size);
/* 0 when exactly all metadata was used, else -EPROTO and an error about @rec. */
int record_meta_end(const struct record_meta *m, const struct record *rec, struct error *err);

/* ---- RAM descriptors ---- */

#define RAM_RUNS_MAX	512
#define RAM_RUN_WIRE	16
#define RAM_PAGE_SHIFT	12
#define RAM_PAYLOAD_MAX (256ull << 20) /* of one RAM record */
#define RAM_ZSTD_MAX	(4u << 20)     /* of a RAM_ZSTD record, and of what is in it */

#define BACKLOG_META_MAX    65		 /* a device's name */
#define BACKLOG_PAYLOAD_MAX (1ull << 20) /* of one BACKLOG record */

enum ram_kind {
	RAM_DATA = 1, /* the pages are in the payload */
	RAM_ZERO = 2, /* the pages are all zero, nothing follows */
	RAM_XOR = 3   /* their differences to what the destination has are: in RAM_ZSTD only */
};

struct ram_run {
	uint64_t gpa;
	uint32_t pages;
	uint8_t kind;
};

/* Write @n runs (at most RAM_RUNS_MAX) to @wire, RAM_RUN_WIRE bytes each. Returns the bytes
 * written. */
size_t ram_runs_encode(const struct ram_run *runs, size_t n, uint8_t *wire);

/*
 * Read the descriptors of RAM record @rec into @runs (room for RAM_RUNS_MAX). Checked here: whole
 * descriptors, 1 to RAM_RUNS_MAX of them, alignment, kind, zero bytes, gpa + length within 64 bits,
 * and that the payload is exactly the data runs. Left to the caller, who knows the guest: that each
 * run lies in RAM. Returns the number of runs or a negative errno with @err.
 */
int ram_runs_decode(const struct record *rec, struct ram_run *runs, struct error *err);

#endif
