/* SPDX-License-Identifier: BSD-2-Clause */
/* Compressing the pages of a record, and putting them back (libzstd, RFC 8878). */
#include "migration/compress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <time.h>

#include <zstd.h>

#include "migration/stream.h"

/* Frames that ask for more memory than this are not ours: 2^22 is RAM_ZSTD_MAX. */
#define WINDOW_LOG 22
#define SAMPLE	   (256UL << 10)

struct compressor {
	enum compress_mode mode;
	struct compress_choice choice;
	bool zipped; /* the last record */
	ZSTD_CCtx *zstd;
	uint8_t in[RAM_ZSTD_MAX];
	uint8_t out[RAM_ZSTD_MAX];
};

struct compressor *compressor_new(enum compress_mode mode, int level)
{
	struct compressor *c = malloc(sizeof(*c));

	if (!c)
		return NULL;
	c->mode = mode;
	c->choice = (struct compress_choice){ 0 };
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

/* Copy the first @want bytes of the runs: the guest may change its pages at any time, and the
 * library expects that nobody does. */
static void gather(struct compressor *c, const struct memory *mem, const struct ram_run *runs,
		   size_t want)
{
	for (size_t used = 0; used < want; runs++) {
		size_t len = MIN((size_t)runs->pages << PAGE_SHIFT, want - used);

		if (runs->kind != RAM_DATA)
			continue;
		memcpy(c->in + used, memory_hva(mem, runs->gpa, len), len);
		used += len;
	}
}

/* The time of others is not what compressing costs. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

const void *compressor_run(struct compressor *c, const struct memory *mem,
			   const struct ram_run *runs, uint64_t bytes, size_t *left)
{
	enum compress_what what = COMPRESS_ALL;
	size_t ret, take = bytes;
	uint64_t start = cpu_ns();

	c->zipped = false;
	if (!bytes || bytes > RAM_ZSTD_MAX)
		return NULL;
	if (c->mode == COMPRESS_AUTO)
		what = compress_choose(&c->choice);
	if (what == COMPRESS_NOTHING)
		return NULL;
	if (what == COMPRESS_SAMPLE)
		take = MIN(bytes, SAMPLE);
	gather(c, mem, runs, take);
	/* An error means that it does not get smaller: there is no room for more. */
	ret = ZSTD_compress2(c->zstd, c->out, take - 1, c->in, take);
	*left = ZSTD_isError(ret) ? take : ret;
	compress_was(&c->choice, take, *left, cpu_ns() - start);
	c->zipped = what == COMPRESS_ALL && *left < take;
	return c->zipped ? c->out : NULL;
}

void compressor_sent(struct compressor *c, uint64_t bytes, uint64_t ns)
{
	compress_sent(&c->choice, c->zipped, bytes, ns);
}

/* ---- The destination ---- */

struct decompressor {
	ZSTD_DCtx *zstd;
	uint8_t in[RAM_ZSTD_MAX];
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

/* Each piece is filled before the next one is begun. The frame must end with the last of them. */
static int unpack(ZSTD_DCtx *zstd, ZSTD_inBuffer *in, const struct iovec *iov, size_t n,
		  const struct record *rec, struct error *err)
{
	ZSTD_outBuffer out = { 0 };
	size_t want = 1; /* bytes it would like to have next, 0 at the end of the frame */

	ZSTD_DCtx_reset(zstd, ZSTD_reset_session_only);
	for (size_t i = 0; i < n; i++) {
		if (want == 0)
			return damaged(rec, "fewer pages", err);
		out = (ZSTD_outBuffer){ iov[i].iov_base, iov[i].iov_len, 0 };
		want = ZSTD_decompressStream(zstd, &out, in);
		if (ZSTD_isError(want))
			return damaged(rec, ZSTD_getErrorName(want), err);
		if (out.pos < out.size)
			return damaged(rec, want ? "an unfinished frame" : "fewer pages", err);
	}
	/* What has no bytes of a page may still be to come. */
	if (want) {
		out.pos = out.size;
		want = ZSTD_decompressStream(zstd, &out, in);
	}
	if (ZSTD_isError(want))
		return damaged(rec, ZSTD_getErrorName(want), err);
	return want == 0 ? 0 : damaged(rec, "more pages, or an unfinished frame", err);
}

int decompress(struct decompressor **d, struct stream *s, const struct record_reader *r,
	       const struct record *rec, const struct iovec *iov, size_t n, struct error *err)
{
	ZSTD_inBuffer in = { .size = rec->payload_len };
	int ret = get(d, rec, err);

	if (ret < 0)
		return ret;
	in.src = (*d)->in;
	ret = stream_readv(s, &(struct iovec){ (*d)->in, rec->payload_len }, 1);
	ret = record_payload_result(r, rec, ret, err);
	ret = ret < 0 ? ret : unpack((*d)->zstd, &in, iov, n, rec, err);
	if (ret == 0 && in.pos != in.size)
		ret = damaged(rec, "bytes after the frame", err);
	return ret;
}
