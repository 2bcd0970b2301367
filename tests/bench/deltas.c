/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What pages that are sent again would cost as they are, compressed, and as a difference to what
 *was sent before (XOR, then compressed), from RAM of one guest at two moments:
 *
 *	deltas BEFORE AFTER OFFSET SIZE [OFFSET SIZE]…
 *
 * The files are saved machines with RAM at OFFSET (ferry inspect tells). Prints "pages=… changed=…
 * zstd=… delta=… zstd_ns=… delta_ns=…": pages in all, those that differ, bytes of these by either
 * way, and CPU time.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include <zstd.h>

#define PAGE  4096UL
#define BATCH (4UL << 20) /* as a record of ferry */
#define LEVEL 1

struct batch {
	uint8_t bytes[BATCH];
	size_t used;
	uint64_t left, ns;
};

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void pack(struct batch *b)
{
	static uint8_t out[BATCH + BATCH / 128];
	uint64_t start = cpu_ns();
	size_t ret = ZSTD_compress(out, sizeof(out), b->bytes, b->used, LEVEL);

	if (ZSTD_isError(ret))
		errx(1, "zstd: %s", ZSTD_getErrorName(ret));
	b->left += ret;
	b->ns += cpu_ns() - start;
	b->used = 0;
}

static const uint8_t *map(const char *path, uint64_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st) < 0)
		err(1, "%s", path);
	*size = (uint64_t)st.st_size;
	p = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		err(1, "%s", path);
	return p;
}

/* A page that has changed, into both. */
static void add(struct batch *plain, struct batch *delta, const uint8_t *before,
		const uint8_t *after)
{
	uint64_t start = cpu_ns();

	memcpy(plain->bytes + plain->used, after, PAGE);
	for (size_t i = 0; i < PAGE; i++)
		delta->bytes[delta->used + i] = before[i] ^ after[i];
	delta->ns += cpu_ns() - start;
	plain->used += PAGE;
	delta->used += PAGE;
	if (plain->used == BATCH) {
		pack(plain);
		pack(delta);
	}
}

int main(int argc, char **argv)
{
	static struct batch plain, delta;
	static const uint8_t zero[PAGE];
	const uint8_t *before, *after;
	uint64_t sizes[2], pages = 0, changed = 0;

	if (argc < 5 || argc % 2 == 0)
		errx(2, "see the top of deltas.c");
	before = map(argv[1], &sizes[0]);
	after = map(argv[2], &sizes[1]);
	for (int i = 3; i < argc; i += 2) {
		uint64_t at = strtoull(argv[i], NULL, 0), end = at + strtoull(argv[i + 1], NULL, 0);

		if (at > end || end > sizes[0] || end > sizes[1])
			errx(1, "a file is too short");
		for (; at < end; at += PAGE, pages++) {
			/* Zero pages cost nothing anyway. */
			if (!memcmp(before + at, after + at, PAGE) ||
			    !memcmp(after + at, zero, PAGE))
				continue;
			changed++;
			add(&plain, &delta, before + at, after + at);
		}
	}
	if (plain.used) {
		pack(&plain);
		pack(&delta);
	}
	printf("pages=%ju changed=%ju zstd=%ju delta=%ju zstd_ns=%ju delta_ns=%ju\n",
	       (uintmax_t)pages, (uintmax_t)changed, (uintmax_t)plain.left, (uintmax_t)delta.left,
	       (uintmax_t)plain.ns, (uintmax_t)delta.ns);
	return 0;
}
