/* SPDX-License-Identifier: BSD-2-Clause */
/* Writing guest RAM into a file, every page in its place, what is zero left out. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <unistd.h>

#include "migration/chunks.h"
#include "migration/ram-map.h"
#include "migration/untouched.h"
#include "migration/write-guard.h"
#include "migration/zero.h"

#define SLICE_NS 20000000ULL

static int fault(void *opaque, unsigned int region, uint64_t page, struct error *err);

static int open_file(struct ram_map_save *s, struct channel *ch, struct error *err)
{
	bool direct = s->m->params.direct_io;

	s->fd = channel_file(ch, O_WRONLY | (direct ? O_DIRECT : 0));
	if (s->fd >= 0)
		return 0;
	return error_set(err, s->fd, "save", ch->name, direct ? "direct-io" : "",
			 direct ? "a file system with O_DIRECT" : "a regular file", "%s",
			 strerror(-s->fd));
}

/* One with a position of its own, which ram_map_next_data() moves. */
static int open_memfd(struct ram_map_save *s, struct error *err)
{
	char path[32];

	if (s->mem->backing != MEMORY_SHARED)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->mem->fd);
	s->memfd = open(path, O_RDONLY | O_CLOEXEC);
	return s->memfd >= 0 ? 0
			     : error_set(err, -errno, "save", "RAM", "shared",
					 "its memfd to be opened", "%m");
}

int ram_map_save_init(struct ram_map_save *s, struct migration *m, struct channel *ch,
		      struct error *err)
{
	int ret;

	memset(s, 0, sizeof(*s));
	s->m = m;
	s->mem = &m->vm->memory;
	s->fd = s->memfd = -1;
	pthread_mutex_init(&s->limit_lock, NULL);
	s->taken = calloc(chunks_total(s->mem), sizeof(*s->taken));
	s->untouched = calloc(chunks_total(s->mem), sizeof(*s->untouched));
	if (!s->taken || !s->untouched)
		return error_set(err, -ENOMEM, "save", "RAM", "", "memory", "none");
	m->stats.ram_total = m->stats.remaining = s->mem->size;
	ret = open_file(s, ch, err);
	ret = ret < 0 ? ret : open_memfd(s, err);
	if (ret == 0 && m->params.background)
		ret = write_guard_open(&s->guard, s->mem, fault, s, err);
	return ret;
}

/* Done with the guest paused, before chunks are protected, which leaves marks in page tables. */
static void find_untouched(struct ram_map_save *s)
{
	int fd = untouched_open(s->mem);

	for (unsigned int i = 0; i < s->mem->n_regions && fd >= 0; i++) {
		const struct memory_region *r = &s->mem->regions[i];

		for (uint64_t at = 0; at < r->size; at += CHUNK_SIZE)
			s->untouched[chunks_index(s->mem, i, at)] =
				untouched(fd, (char *)r->hva + at, MIN(CHUNK_SIZE, r->size - at));
	}
	if (fd >= 0)
		close(fd);
}
_Static_assert(CHUNK_SIZE <= UNTOUCHED_MAX, "one question a chunk");

int ram_map_save_begin(struct ram_map_save *s, uint64_t used, struct error *err)
{
	const struct ram_extent *last;

	ram_map_place(&s->map, s->mem, used);
	last = &s->map.extents[s->map.n - 1];
	/* All of its length at once, for a hole may be what it ends with. */
	if (ftruncate(s->fd, (off_t)(last->offset + last->size)) < 0)
		return error_set(err, -errno, "save", s->m->uri, "size", "a file of that size",
				 "%m");
	find_untouched(s);
	return s->guard ? write_guard_protect(s->guard, err) : 0;
}

void ram_map_save_free(struct ram_map_save *s)
{
	if (!s->m)
		return;
	write_guard_close(s->guard, NULL);
	if (s->fd >= 0)
		close(s->fd);
	if (s->memfd >= 0)
		close(s->memfd);
	free((void *)(uintptr_t)s->taken);
	free(s->untouched);
	pthread_mutex_destroy(&s->limit_lock);
}

static int write_run(struct ram_map_save *s, const char *from, uint64_t len, uint64_t offset,
		     struct error *err)
{
	while (len) {
		ssize_t n = pwrite(s->fd, from, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_set(err, n ? -errno : -EIO, "save", s->m->uri, "RAM",
					 "room for all of it", "%s at byte %llu",
					 n ? strerror(errno) : "nothing written",
					 (unsigned long long)offset);
		s->m->stats.syscalls++;
		s->m->stats.bytes_xfer += (uint64_t)n;
		s->m->stats.bytes_referenced += (uint64_t)n;
		from += n;
		len -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/*
 * Of a memfd, a hole is not even looked at, for that would fill it with memory: the next range of
 * [@pos, @end) that may hold something.
 */
static bool next_used(struct ram_map_save *s, unsigned int region, uint64_t pos, uint64_t end,
		      uint64_t *from, uint64_t *to)
{
	uint64_t base = 0;

	*from = pos;
	*to = end;
	if (s->mem->backing != MEMORY_SHARED)
		return pos < end;
	for (unsigned int i = 0; i < region; i++)
		base += s->mem->regions[i].size;
	if (pos == end || !ram_map_next_data(s->memfd, base + pos, base + end, from, to))
		return false;
	*from -= base;
	*to -= base;
	return true;
}

/* Write the runs of pages of [@from, @end) that are not zero, *@data more of them. Nobody writes to
 * it meanwhile. */
static int write_used(struct ram_map_save *s, unsigned int region, uint64_t from, uint64_t end,
		      uint64_t *data, struct error *err)
{
	struct ram_extent *e = &s->map.extents[region];
	const char *base = s->mem->regions[region].hva;
	uint64_t run = from, before = *data;
	int ret = 0;

	e->sum += ram_map_sum(base + from, e->gpa + from, end - from, data);
	for (uint64_t at = from; at <= end && *data > before && ret == 0; at += PAGE_SIZE) {
		if (at < end && !page_is_zero(base + at))
			continue;
		if (at > run)
			ret = write_run(s, base + run, at - run, e->offset + run, err);
		run = at + PAGE_SIZE;
	}
	return ret;
}

static int write_chunk(struct ram_map_save *s, unsigned int region, uint64_t from, uint64_t len,
		       uint64_t *data, struct error *err)
{
	uint64_t end = from + len, start;
	int ret = 0;

	while (ret == 0 && next_used(s, region, from, end, &start, &from))
		ret = write_used(s, region, start, from, data, err);
	return ret;
}

/* Whoever takes a chunk has it written, and only then lets the guest write to it again. */
static int save_chunk(struct ram_map_save *s, unsigned int region, uint64_t from, uint64_t len,
		      uint64_t *data, struct error *err)
{
	struct migration_stats *stats = &s->m->stats;
	uint64_t chunk = chunks_index(s->mem, region, from);
	int ret = 0;

	*data = 0;
	if (atomic_exchange(&s->taken[chunk], true))
		return 0;
	if (!s->untouched[chunk])
		ret = write_chunk(s, region, from, len, data, err);
	stats->pages_data += *data;
	stats->pages_zero += (len >> PAGE_SHIFT) - *data;
	stats->remaining -= len;
	if (ret == 0 && s->guard)
		ret = write_guard_release(s->guard, region, from, len, err);
	return ret;
}

/* Somebody waits to write to @page. */
static int fault(void *opaque, unsigned int region, uint64_t page, struct error *err)
{
	struct ram_map_save *s = opaque;
	uint64_t from = page / CHUNK_SIZE * CHUNK_SIZE, data;
	int ret = save_chunk(s, region, from, MIN(CHUNK_SIZE, s->mem->regions[region].size - from),
			     &data, err);

	s->failed |= ret < 0;
	return ret;
}

/* While the guest runs, max-bandwidth is kept; what it waits for does not wait for that. */
static void keep_limit(struct ram_map_save *s, uint64_t data)
{
	uint64_t wait;

	pthread_mutex_lock(&s->limit_lock);
	wait = rate_take(&s->limit, s->m->params.max_bandwidth, data << PAGE_SHIFT, now_ns());
	pthread_mutex_unlock(&s->limit_lock);
	/* Should one of us fail, the guest is not to wait for the others to wake up. */
	for (uint64_t ns; wait && !s->failed && !s->m->cancelled; wait -= ns) {
		ns = MIN(wait, SLICE_NS);
		migration_sleep(s->m, ns);
	}
}

static int next_chunk(void *opaque, unsigned int region, uint64_t from, uint64_t len,
		      struct error *err)
{
	struct ram_map_save *s = opaque;
	uint64_t data;
	int ret = s->guard ? write_guard_check(s->guard, err) : 0;

	ret = ret < 0 ? ret : save_chunk(s, region, from, len, &data, err);
	if (ret == 0 && s->guard)
		keep_limit(s, data);
	s->failed |= ret < 0;
	return ret;
}

int ram_map_save_run(struct ram_map_save *s, struct error *err)
{
	struct migration_stats *stats = &s->m->stats;
	uint64_t start = now_ns(), ns;
	int ret, guarded;

	stats->rounds++;
	ret = chunks_run(s->m, s->mem, next_chunk, s, err);
	guarded = write_guard_close(s->guard, ret < 0 ? NULL : err);
	s->guard = NULL;
	ns = now_ns() - start;
	stats->send_ns += ns;
	if (ns)
		stats->bandwidth =
			(uint64_t)((double)(stats->pages_data << PAGE_SHIFT) * 1e9 / (double)ns);
	return ret < 0 ? ret : guarded;
}
