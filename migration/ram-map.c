/* SPDX-License-Identifier: BSD-2-Clause */
/* The RAM_MAP record: where RAM lies in a file. */
#include "migration/ram-map.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/param.h>
#include <unistd.h>

#include "migration/crc32c.h"
#include "migration/zero.h"

static uint64_t align_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

void ram_map_place(struct ram_map *map, const struct memory *mem, uint64_t used)
{
	memset(map, 0, sizeof(*map));
	map->n = mem->n_regions;
	for (unsigned int i = 0; i < map->n; i++) {
		struct ram_extent *e = &map->extents[i];

		e->gpa = mem->regions[i].gpa;
		e->size = mem->regions[i].size;
		e->offset = align_up(used, RAM_MAP_ALIGN);
		used = e->offset + e->size;
	}
}

size_t ram_map_encode(const struct ram_map *map, uint8_t *wire)
{
	struct record_meta meta;

	record_meta_init(&meta, wire, map->n * RAM_MAP_WIRE);
	for (unsigned int i = 0; i < map->n; i++) {
		const struct ram_extent *e = &map->extents[i];

		record_put_be64(&meta, e->gpa);
		record_put_be64(&meta, e->size);
		record_put_be64(&meta, e->offset);
		record_put_be64(&meta, e->sum);
	}
	return meta.pos;
}

static int bad(const struct record *rec, unsigned int i, const char *what, const char *expected,
	       uint64_t got, struct error *err)
{
	char field[32];

	snprintf(field, sizeof(field), "region %u %s", i, what);
	return error_set(err, -EPROTO, "stream", rec->device, field, expected, "0x%llx",
			 (unsigned long long)got);
}

/* Region @i alone, and against where the one before, or the record, has ended. */
static int check_extent(const struct record *rec, unsigned int i, const struct ram_extent *e,
			uint64_t gpa_min, uint64_t offset_min, struct error *err)
{
	if (e->gpa % PAGE_SIZE)
		return bad(rec, i, "gpa", "a multiple of 4096", e->gpa, err);
	if (!e->size || e->size % PAGE_SIZE)
		return bad(rec, i, "size", "a multiple of 4096, not 0", e->size, err);
	if (e->offset % PAGE_SIZE)
		return bad(rec, i, "offset", "a multiple of 4096", e->offset, err);
	/* Offsets of files are signed. */
	if (e->size > INT64_MAX || e->gpa > INT64_MAX - e->size)
		return bad(rec, i, "size", "an end within 63 bits", e->size, err);
	if (e->offset > INT64_MAX - e->size)
		return bad(rec, i, "offset", "an end within 63 bits", e->offset, err);
	if (e->gpa < gpa_min)
		return bad(rec, i, "gpa", "one behind the region before", e->gpa, err);
	if (e->offset < offset_min)
		return bad(rec, i, "offset", "one behind what comes before", e->offset, err);
	return 0;
}

int ram_map_decode(const struct record *rec, struct ram_map *map, struct error *err)
{
	uint64_t gpa_min = 0, offset_min = rec->offset + RECORD_HEADER + rec->meta_len;
	struct record_meta meta;

	memset(map, 0, sizeof(*map));
	map->n = rec->meta_len / RAM_MAP_WIRE;
	if (!map->n || map->n > MEMORY_MAX_REGIONS || rec->meta_len % RAM_MAP_WIRE)
		return error_set(err, -EPROTO, "stream", rec->device, "metadata length",
				 "32 bytes for each of 1 or 2 regions", "%u bytes", rec->meta_len);
	if (rec->payload_len)
		return error_set(err, -EPROTO, "stream", rec->device, "payload length", "0", "%llu",
				 (unsigned long long)rec->payload_len);
	record_meta_parse(&meta, rec);
	for (unsigned int i = 0; i < map->n; i++) {
		struct ram_extent *e = &map->extents[i];
		int ret;

		e->gpa = record_get_be64(&meta);
		e->size = record_get_be64(&meta);
		e->offset = record_get_be64(&meta);
		e->sum = record_get_be64(&meta);
		ret = check_extent(rec, i, e, gpa_min, offset_min, err);
		if (ret < 0)
			return ret;
		gpa_min = e->gpa + e->size;
		offset_min = e->offset + e->size;
	}
	return record_meta_end(&meta, rec, err);
}

static int differs(const struct record *rec, unsigned int i, const char *what, uint64_t expected,
		   uint64_t got, struct error *err)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)expected);
	return bad(rec, i, what, text, got, err);
}

int ram_map_check(const struct ram_map *map, const struct memory *mem, uint64_t file_size,
		  const struct record *rec, struct error *err)
{
	if (map->n != mem->n_regions) {
		error_set(err, -EPROTO, "stream", rec->device, "regions", "", "%u", map->n);
		error_expected(err, "%u, as the machine has", mem->n_regions);
		return -EPROTO;
	}
	for (unsigned int i = 0; i < map->n; i++) {
		const struct ram_extent *e = &map->extents[i];

		if (e->gpa != mem->regions[i].gpa)
			return differs(rec, i, "gpa", mem->regions[i].gpa, e->gpa, err);
		if (e->size != mem->regions[i].size)
			return differs(rec, i, "size", mem->regions[i].size, e->size, err);
		/* Of what is mapped behind the end every access would be a SIGBUS. */
		if (e->offset + e->size > file_size) {
			error_set(err, -EPIPE, "stream", rec->device, "file", "", "%llu bytes",
				  (unsigned long long)file_size);
			error_expected(err, "%llu bytes, with all of RAM",
				       (unsigned long long)(e->offset + e->size));
			return -EPIPE;
		}
	}
	return 0;
}

uint64_t ram_map_sum(const void *page, uint64_t gpa, uint64_t len, uint64_t *data)
{
	uint64_t sum = 0;

	for (uint64_t at = 0; at < len; at += PAGE_SIZE) {
		const char *p = (const char *)page + at;
		uint64_t name = htobe64(gpa + at);

		if (page_is_zero(p))
			continue;
		sum += crc32c(crc32c(0, &name, sizeof(name)), p, PAGE_SIZE);
		++*data;
	}
	return sum;
}

bool ram_map_next_data(int fd, uint64_t pos, uint64_t end, uint64_t *from, uint64_t *to)
{
	off_t data = lseek(fd, (off_t)pos, SEEK_DATA), hole;

	if (data < 0 && errno == ENXIO)
		return false;
	if (data < 0)
		data = (off_t)pos;
	if ((uint64_t)data >= end)
		return false;
	hole = lseek(fd, data, SEEK_HOLE);
	*from = MAX(pos, (uint64_t)data / PAGE_SIZE * PAGE_SIZE);
	*to = hole < 0 ? end : MIN(end, align_up((uint64_t)hole, PAGE_SIZE));
	return true;
}
