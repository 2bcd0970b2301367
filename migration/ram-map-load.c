/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM from a file where every page has its place: read in parallel and straight to where it
 * belongs, or only mapped.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/chunks.h"
#include "migration/ram-map.h"
#include "migration/ram.h"

struct load {
	struct ram_load *ram;
	struct ram_map map;
	_Atomic uint64_t sums[MEMORY_MAX_REGIONS];
	int fd; /* a descriptor of its own, for its position is moved */
};

static int read_run(struct load *l, char *to, uint64_t len, uint64_t offset, struct error *err)
{
	struct migration *m = l->ram->m;

	while (len) {
		ssize_t n = pread(l->fd, to, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_set(err, n ? -errno : -EPIPE, "load", m->uri, "RAM",
					 "all of it", "%s at byte %llu",
					 n ? strerror(errno) : "the end of the file",
					 (unsigned long long)offset);
		m->stats.syscalls++;
		m->stats.bytes_xfer += (uint64_t)n;
		m->stats.bytes_referenced += (uint64_t)n;
		to += n;
		len -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static int load_chunk(void *opaque, unsigned int region, uint64_t from, uint64_t len,
		      struct error *err)
{
	struct load *l = opaque;
	const struct ram_extent *e = &l->map.extents[region];
	uint64_t pos = from, end = from + len, data = 0, start, stop;
	char *hva = l->ram->mem->regions[region].hva;
	int ret = 0;

	while (ret == 0 && pos < end &&
	       ram_map_next_data(l->fd, e->offset + pos, e->offset + end, &start, &stop)) {
		start -= e->offset;
		stop -= e->offset;
		ram_load_zero(l->ram, region, pos, start - pos);
		ret = read_run(l, hva + start, stop - start, e->offset + start, err);
		ram_load_touch(l->ram, region, start, stop - start);
		l->sums[region] += ram_map_sum(hva + start, e->gpa + start, stop - start, &data);
		pos = stop;
	}
	if (ret == 0)
		ram_load_zero(l->ram, region, pos, end - pos);
	l->ram->m->stats.pages_data += data;
	l->ram->m->stats.pages_zero += (len >> PAGE_SHIFT) - data;
	return ret;
}

static int compare_sums(const struct load *l, const struct record *rec, struct error *err)
{
	for (unsigned int i = 0; i < l->map.n; i++) {
		uint64_t sum = l->map.extents[i].sum;
		char device[32], expected[32];

		if (l->sums[i] == sum)
			continue;
		snprintf(device, sizeof(device), "RAM at 0x%llx",
			 (unsigned long long)l->map.extents[i].gpa);
		snprintf(expected, sizeof(expected), "0x%llx, as %s says", (unsigned long long)sum,
			 record_name(rec->type));
		return error_set(err, -EBADMSG, "load", device, "checksum", expected, "0x%llx",
				 (unsigned long long)l->sums[i]);
	}
	return 0;
}

/* The guest reads from the file what it comes to need. No sum is looked at: that would be to read
 * all of it. */
static int map_all(struct load *l, struct error *err)
{
	uint64_t offsets[MEMORY_MAX_REGIONS];
	int fd = l->fd;

	for (unsigned int i = 0; i < l->map.n; i++)
		offsets[i] = l->map.extents[i].offset;
	l->fd = -1;
	return memory_map_file(l->ram->mem, fd, offsets, err);
}

static int load(struct load *l, const struct record *rec, struct error *err)
{
	struct memory *mem = l->ram->mem;
	struct stat st;
	int ret;

	if (fstat(l->fd, &st) < 0)
		return error_set(err, -errno, "load", rec->device, "file", "its size", "%m");
	ret = ram_map_check(&l->map, mem, (uint64_t)st.st_size, rec, err);
	if (ret < 0)
		return ret;
	if (l->ram->m->lazy)
		return map_all(l, err);
	ret = chunks_run(l->ram->m, mem, load_chunk, l, err);
	return ret < 0 ? ret : compare_sums(l, rec, err);
}

int ram_map_load(struct ram_load *ram, struct channel *ch, const struct record *rec,
		 struct error *err)
{
	struct load l = { .ram = ram };
	int direct = ram->m->params.direct_io && !ram->m->lazy ? O_DIRECT : 0;
	int ret = ram_map_decode(rec, &l.map, err);

	if (ret < 0)
		return ret;
	l.fd = channel_file(ch, O_RDONLY | direct);
	if (l.fd < 0)
		return error_set(err, l.fd, "load", ch->name, direct ? "direct-io" : "",
				 direct ? "a file system with O_DIRECT" : "a regular file", "%s",
				 strerror(-l.fd));
	ret = load(&l, rec, err);
	if (l.fd >= 0)
		close(l.fd);
	return ret;
}
