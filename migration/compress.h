/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM that goes compressed (zstd): a RAM_ZSTD record has the table of a RAM record, and its payload
 * is one frame of the pages of all data runs. Each thread that sends compresses what it sends, so
 * several channels (multifd.h) are as many workers, and no batch waits for another.
 *
 * With COMPRESS_AUTO that is done only where it wins. What a byte costs that goes plainly is
 * measured, and a sample tells what compressing one costs and what is left of it. If that promises
 * to win it is done, and then measured as a whole, for how much of it is hidden behind sending
 * depends on the socket's buffer. The way not taken is tried now and then, since links, loads and
 * memory change. Whole pages and differences (delta.h) are judged apart. Differences need copies,
 * so where a byte takes longer on its way than that costs, pages that go again are always copied.
 */
#ifndef MIGRATION_COMPRESS_H
#define MIGRATION_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/record.h"
#include "vmm/memory.h"

struct deltas;
struct stream;

#define COMPRESS_LEVEL_MAX 19
#define ZSTD_WITH_XOR	   2 /* "zstd" of a HELLO that takes differences, too */

enum compress_mode { COMPRESS_OFF, COMPRESS_ON, COMPRESS_AUTO };

/* ---- The choice ---- */

enum compress_what { COMPRESS_NOTHING, COMPRESS_SAMPLE, COMPRESS_ALL };

/* Bytes of RAM lately, and what they took. */
struct compress_cost {
	uint64_t bytes, ns;
};

struct compress_choice {
	/* For a byte of RAM, 0: not known yet. */
	double wire_ns;	  /* to send it plainly */
	double zipped_ns; /* to compress it and to send what is left, since this is the rule */
	double zip_ns;	  /* to compress it alone */
	double ratio;	  /* bytes left of it */

	bool on;		     /* compressing is the rule */
	bool proven;		     /* … and was seen to win */
	bool disproved;		     /* it promised to win and did not */
	unsigned int same, patience; /* records that followed the rule, until it is doubted */
	unsigned int plain_left;     /* plain records still to try */

	bool row_zipped;		/* the kind of the last records … */
	unsigned int row;		/* … that so many in a row were of */
	struct compress_cost window;	/* … since they were last judged by */
	struct compress_cost lately[2]; /* plain, compressed (in this trial): wire_ns, zipped_ns */
};

/* What of the next record shall be compressed? */
enum compress_what compress_choose(struct compress_choice *c);
/* @raw bytes were compressed to @left in @ns. */
void compress_was(struct compress_choice *c, uint64_t raw, uint64_t left, uint64_t ns);
/* A record of @raw bytes has gone, @zipped or not; it took @ns in all. */
void compress_sent(struct compress_choice *c, bool zipped, uint64_t raw, uint64_t ns);

/* ---- The source; each belongs to one thread ---- */

struct compressor;

/* 12 MiB at most. NULL without memory. @deltas, which several may share, must live longer; NULL:
 * pages only. */
struct compressor *compressor_new(enum compress_mode mode, int level, struct deltas *deltas);
void compressor_free(struct compressor *c); /* NULL is allowed */

/* What goes instead of the pages themselves. */
struct compressed {
	const void *bytes; /* NULL: nothing does. Valid until the next call */
	size_t len;
	bool zipped; /* or just copied */
};

/*
 * Compress the data runs of a record and its differences, @bytes in all, if that is worth it.
 * If it is not there are no differences in @runs any more. The guest may write to its pages
 * meanwhile.
 */
struct compressed compressor_run(struct compressor *c, const struct memory *mem,
				 struct ram_run *runs, unsigned int n, uint64_t bytes);
/* The record of @bytes, for which that was called, has gone; it took @ns, that call included. */
void compressor_sent(struct compressor *c, uint64_t bytes, uint64_t ns);

/* ---- The destination; each belongs to one thread ---- */

struct decompressor;

/* Read the payload of @rec and put the frame in it into its @n @runs, which lie in @mem and all of
 * which it must fill. *@d is made at the first call. 0, or a negative errno with @err. */
int decompress(struct decompressor **d, struct stream *s, const struct record_reader *r,
	       const struct record *rec, const struct memory *mem, const struct ram_run *runs,
	       unsigned int n, struct error *err);
void decompressor_free(struct decompressor *d); /* NULL is allowed */

#endif
