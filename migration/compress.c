/* SPDX-License-Identifier: BSD-2-Clause */
/* Compressing the pages of a record, and putting them back (libzstd, RFC 8878). */
#include "migration/compress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <time.h>

#include <zstd.h>

#include "migration/delta.h"
#include "migration/stream.h"

/* Frames that ask for more memory than this are not ours: 2^22 is RAM_ZSTD_MAX. */
#define WINDOW_LOG 22
#define SAMPLE	   (256UL << 10)
/* A byte is on its way longer than a copy and a comparison of it take: 1 GB/s. */
#define COPY_WORTH_NS 1.0

struct compressor {
	enum compress_mode mode;
	struct compress_choice choices[2]; /* for pages, for differences */
	struct compress_choice *choice;	   /* of this record */
	struct compress_choice *before;	   /* … of the last one */
	struct deltas *deltas;
	bool zipped; /* the last record */
	ZSTD_CCtx *zstd;
	uint8_t in[RAM_ZSTD_MAX];
	uint8_t out[RAM_ZSTD_MAX];
};

struct compressor *compressor_new(enum compress_mode mode, int level, struct deltas *deltas)
{
	struct compressor *c = malloc(sizeof(*c));

	if (!c)
		return NULL;
	c->mode = mode;
	c->deltas = deltas;
	memset(c->choices, 0, sizeof(c->choices));
	c->before = NULL;
	c->zipped = false;
	c->zstd = ZSTD_createCCtx();
	if (!c->zstd) {
		free(c);
		return NULL;
	}
	ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, level);
	/* TCP and the CRC of RAM at switchover, if one is wanted, look at the bytes already. */
	ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_checksumFlag, 0);
	ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_windowLog, WINDOW_LOG);
	/* The first sample shall tell what compressing costs, not what memory does. */
	memset(c->in, 1, SAMPLE);
	ZSTD_compress2(c->zstd, c->out, SAMPLE, c->in, SAMPLE);
	memset(c->out, 0, SAMPLE);
	return c;
}

void compressor_free(struct compressor *c)
{
	if (c)
		ZSTD_freeCCtx(c->zstd);
	free(c);
}

static bool keeps_copies(const struct compressor *c)
{
	if (!c->deltas || !deltas_wanted(c->deltas))
		return false;
	return c->mode == COMPRESS_ON || c->choices[0].wire_ns > COPY_WORTH_NS;
}

/* Copy @want bytes of the runs, or (@deltas) what there is to send of them: the guest may change
 * its pages at any time, and the library expects that nobody does. */
static void gather(struct compressor *c, const struct memory *mem, const struct ram_run *runs,
		   size_t want, struct deltas *deltas)
{
	for (size_t used = 0; used < want; runs++) {
		size_t len = MIN((size_t)runs->pages << PAGE_SHIFT, want - used);

		if (runs->kind == RAM_ZERO)
			continue;
		if (deltas)
			deltas_take(deltas, runs, c->in + used);
		else
			memcpy(c->in + used, memory_hva(mem, runs->gpa, len), len);
		used += len;
	}
}

/* What is sent is not known exactly: no copy is right any more. */
static void forget(struct deltas *d, struct ram_run *runs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		if (runs[i].kind == RAM_XOR)
			runs[i].kind = RAM_DATA;
		deltas_forget(d, &runs[i]);
	}
}

/* Pages again of what was gathered. */
static struct compressed use_pages(struct compressor *c, struct ram_run *runs, unsigned int n,
				   size_t bytes)
{
	size_t used = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (runs[i].kind == RAM_ZERO)
			continue;
		if (runs[i].kind == RAM_XOR)
			deltas_whole(c->deltas, &runs[i], c->in + used);
		runs[i].kind = RAM_DATA;
		used += (size_t)runs[i].pages << PAGE_SHIFT;
	}
	return (struct compressed){ c->in, bytes, false };
}

/* The time of others is not what compressing costs. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* By what they have cost, are mostly differences or mostly pages worth it? */
static enum compress_what choose(struct compressor *c, const struct ram_run *runs, unsigned int n,
				 uint64_t bytes)
{
	uint64_t differences = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (runs[i].kind == RAM_XOR)
			differences += (uint64_t)runs[i].pages << PAGE_SHIFT;
	}
	c->choice = &c->choices[differences > bytes / 2];
	if (c->choice->wire_ns <= 0)
		c->choice->wire_ns = c->choices[0].wire_ns;
	return c->mode == COMPRESS_AUTO ? compress_choose(c->choice) : COMPRESS_ALL;
}

/* Compress @take bytes of what was gathered, of which *@left are left. False: it gets no smaller.
 */
static bool zip(struct compressor *c, size_t take, size_t *left)
{
	size_t ret = ZSTD_compress2(c->zstd, c->out, take - 1, c->in, take);

	/* An error means that there was no room. */
	*left = ZSTD_isError(ret) ? take : ret;
	return *left < take;
}

/* @keep: copies, which what is sent comes from then. */
static struct compressed run(struct compressor *c, const struct memory *mem, struct ram_run *runs,
			     unsigned int n, uint64_t bytes, bool keep)
{
	enum compress_what what = choose(c, runs, n, bytes);
	size_t take = what == COMPRESS_SAMPLE ? MIN(bytes, SAMPLE) : bytes, left = take;
	uint64_t start = cpu_ns();

	if (what == COMPRESS_NOTHING && !keep)
		return (struct compressed){ 0 };
	gather(c, mem, runs, keep ? bytes : take, keep ? c->deltas : NULL);
	if (what != COMPRESS_NOTHING) {
		c->zipped = zip(c, take, &left) && what == COMPRESS_ALL;
		compress_was(c->choice, take, left, cpu_ns() - start);
	}
	if (c->zipped)
		return (struct compressed){ c->out, left, true };
	return keep ? use_pages(c, runs, n, bytes) : (struct compressed){ 0 };
}

struct compressed compressor_run(struct compressor *c, const struct memory *mem,
				 struct ram_run *runs, unsigned int n, uint64_t bytes)
{
	bool possible = bytes && bytes <= RAM_ZSTD_MAX, keep = possible && keeps_copies(c);

	c->zipped = false;
	if (c->deltas && !keep)
		forget(c->deltas, runs, n);
	return possible ? run(c, mem, runs, n, bytes, keep) : (struct compressed){ 0 };
}

void compressor_sent(struct compressor *c, uint64_t bytes, uint64_t ns)
{
	/* A row ends where the other choice had a record, which may still be on its way. */
	if (c->choice != c->before)
		c->choice->row = 0;
	c->before = c->choice;
	compress_sent(c->choice, c->zipped, bytes, ns);
}

/* ---- The destination ---- */

struct decompressor {
	ZSTD_DCtx *zstd;
	uint8_t in[RAM_ZSTD_MAX];
	uint8_t difference[PAGE_SIZE];
};

static int get(struct decompressor **d, const struct record *rec, struct error *err)
{
	struct decompressor *new;

	if (*d)
		return 0;
	new = malloc(sizeof(*new));
	if (new)
		new->zstd = ZSTD_createDCtx();
	if (!new || !new->zstd) {
		free(new);
		return error_set(err, -ENOMEM, "stream", rec->device, "payload",
				 "memory to decompress it", "none");
	}
	ZSTD_DCtx_setParameter(new->zstd, ZSTD_d_windowLogMax, WINDOW_LOG);
	*d = new;
	return 0;
}

void decompressor_free(struct decompressor *d)
{
	if (d)
		ZSTD_freeDCtx(d->zstd);
	free(d);
}

static int damaged(const struct record *rec, const char *why, struct error *err)
{
	return error_set(err, -EPROTO, "stream", rec->device, "payload",
			 "one zstd frame of just the pages named", "%s", why);
}

/* A frame being read; @want: bytes it would like to have next, 0 at its end. */
struct unpacking {
	ZSTD_DCtx *zstd;
	ZSTD_inBuffer in;
	size_t want;
	const struct record *rec;
};

/* Each piece is filled before the next one is begun. */
static int fill(struct unpacking *u, void *to, size_t len, struct error *err)
{
	ZSTD_outBuffer out = { to, len, 0 };

	if (u->want == 0)
		return damaged(u->rec, "fewer pages", err);
	u->want = ZSTD_decompressStream(u->zstd, &out, &u->in);
	if (ZSTD_isError(u->want))
		return damaged(u->rec, ZSTD_getErrorName(u->want), err);
	if (out.pos < out.size)
		return damaged(u->rec, u->want ? "an unfinished frame" : "fewer pages", err);
	return 0;
}

static int fill_run(struct unpacking *u, struct decompressor *d, const struct memory *mem,
		    const struct ram_run *run, struct error *err)
{
	uint64_t len = (uint64_t)run->pages << PAGE_SHIFT;
	uint8_t *hva = memory_hva(mem, run->gpa, len);
	int ret = 0;

	if (run->kind == RAM_DATA)
		return fill(u, hva, len, err);
	for (uint64_t at = 0; at < len && ret == 0; at += PAGE_SIZE) {
		ret = fill(u, d->difference, PAGE_SIZE, err);
		if (ret == 0)
			page_xor(hva + at, d->difference);
	}
	return ret;
}

/* The frame must end with the last of the pages. */
static int end_frame(struct unpacking *u, struct error *err)
{
	ZSTD_outBuffer out = { NULL, 0, 0 };

	/* What has no bytes of a page may still be to come. */
	if (u->want)
		u->want = ZSTD_decompressStream(u->zstd, &out, &u->in);
	if (ZSTD_isError(u->want))
		return damaged(u->rec, ZSTD_getErrorName(u->want), err);
	if (u->want)
		return damaged(u->rec, "more pages, or an unfinished frame", err);
	return u->in.pos == u->in.size ? 0 : damaged(u->rec, "bytes after the frame", err);
}

int decompress(struct decompressor **d, struct stream *s, const struct record_reader *r,
	       const struct record *rec, const struct memory *mem, const struct ram_run *runs,
	       unsigned int n, struct error *err)
{
	struct unpacking u = { .rec = rec, .want = 1 };
	int ret = get(d, rec, err);

	if (ret < 0)
		return ret;
	ret = stream_readv(s, &(struct iovec){ (*d)->in, rec->payload_len }, 1);
	ret = record_payload_result(r, rec, ret, err);
	u.zstd = (*d)->zstd;
	u.in = (ZSTD_inBuffer){ (*d)->in, rec->payload_len, 0 };
	ZSTD_DCtx_reset(u.zstd, ZSTD_reset_session_only);
	for (unsigned int i = 0; i < n && ret == 0; i++) {
		if (runs[i].kind != RAM_ZERO)
			ret = fill_run(&u, *d, mem, &runs[i], err);
	}
	return ret < 0 ? ret : end_frame(&u, err);
}
