/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receiving guest RAM: check the whole table of a record, then let one readv put the pages where
 * they belong.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "migration/crc32c.h"
#include "migration/ram.h"

#define WORD_BITS 64

int ram_load_init(struct ram_load *l, struct migration *m, struct memory *mem, struct error *err)
{
	memset(l, 0, sizeof(*l));
	l->mem = mem;
	l->m = m;
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		uint64_t pages = mem->regions[i].size >> PAGE_SHIFT;

		l->touched[i] = calloc((pages + WORD_BITS - 1) / WORD_BITS, sizeof(*l->touched[i]));
		if (!l->touched[i])
			return error_set(err, -ENOMEM, "load", "RAM", "", "memory for a bitmap",
					 "none");
		memory_fetch_own(&mem->regions[i], 0, pages, (uint64_t *)(uintptr_t)l->touched[i]);
	}
	m->stats.ram_total = mem->size;
	return 0;
}

void ram_table_free(struct ram_table *t)
{
	decompressor_free(t->decompressor);
	t->decompressor = NULL;
}

void ram_load_free(struct ram_load *l)
{
	ram_table_free(&l->table);
	for (unsigned int i = 0; i < MEMORY_MAX_REGIONS; i++)
		free((void *)(uintptr_t)l->touched[i]);
}

static uint64_t run_bytes(const struct ram_run *run)
{
	return (uint64_t)run->pages << PAGE_SHIFT;
}

/* Every run lies in RAM, and after the one before: so no page is named twice. */
int ram_load_check_runs(const struct ram_load *l, const struct ram_table *t,
			const struct record *rec, unsigned int n, struct error *err)
{
	uint64_t end = 0;
	char field[32];

	for (unsigned int i = 0; i < n; i++) {
		const struct ram_run *run = &t->runs[i];

		snprintf(field, sizeof(field), "run %u gpa", i);
		if (!memory_hva(l->mem, run->gpa, run_bytes(run)))
			return error_set(err, -EPROTO, "stream", rec->device, field,
					 "pages of the guest's RAM", "%u pages at 0x%llx",
					 run->pages, (unsigned long long)run->gpa);
		if (run->gpa < end) {
			error_set(err, -EPROTO, "stream", rec->device, field, "", "0x%llx",
				  (unsigned long long)run->gpa);
			error_expected(err, "at least 0x%llx, where the run before ends",
				       (unsigned long long)end);
			return -EPROTO;
		}
		end = run->gpa + run_bytes(run);
	}
	return 0;
}

/* The region of @run, and where it begins there. */
static unsigned int find_region(const struct ram_load *l, const struct ram_run *run, uint64_t *from)
{
	unsigned int i = 0;

	while (run->gpa - l->mem->regions[i].gpa >= l->mem->regions[i].size)
		i++;
	*from = run->gpa - l->mem->regions[i].gpa;
	return i;
}

/* What was never written is zero already, and is better left without memory of its own. */
void ram_load_zero(struct ram_load *l, unsigned int i, uint64_t from, uint64_t len)
{
	for (uint64_t page = from >> PAGE_SHIFT, end = (from + len) >> PAGE_SHIFT; page < end;
	     page++) {
		if (l->touched[i][page / WORD_BITS] >> (page % WORD_BITS) & 1)
			memset((char *)l->mem->regions[i].hva + (page << PAGE_SHIFT), 0, PAGE_SIZE);
	}
}

/* Threads that load write to words of the map that are theirs only if the source is honest. */
void ram_load_touch(struct ram_load *l, unsigned int i, uint64_t from, uint64_t len)
{
	uint64_t page = from >> PAGE_SHIFT, end = (from + len) >> PAGE_SHIFT;

	for (uint64_t bits; page < end; page += bits) {
		bits = MIN(end - page, WORD_BITS - page % WORD_BITS);
		atomic_fetch_or_explicit(&l->touched[i][page / WORD_BITS],
					 (~0ULL >> (WORD_BITS - bits)) << (page % WORD_BITS),
					 memory_order_relaxed);
	}
}

int ram_load_record(struct ram_load *l, struct ram_table *t, struct protocol *p,
		    const struct record *rec, struct error *err)
{
	struct migration_stats *stats = &l->m->stats;
	int n = ram_runs_decode(rec, t->runs, err);
	size_t n_iov = 0;
	int ret;

	ret = n < 0 ? n : ram_load_check_runs(l, t, rec, (unsigned int)n, err);
	if (ret < 0)
		return ret;
	for (int i = 0; i < n; i++) {
		const struct ram_run *run = &t->runs[i];
		uint64_t from;
		unsigned int region = find_region(l, run, &from);

		if (run->kind == RAM_ZERO) {
			ram_load_zero(l, region, from, run_bytes(run));
			stats->pages_zero += run->pages;
			continue;
		}
		ram_load_touch(l, region, from, run_bytes(run));
		if (rec->type == RECORD_RAM)
			t->iov[n_iov++] =
				(struct iovec){ memory_hva(l->mem, run->gpa, run_bytes(run)),
						run_bytes(run) };
		stats->pages_data += run->pages;
		stats->delta_pages += run->kind == RAM_XOR ? run->pages : 0;
	}
	if (rec->type == RECORD_RAM_ZSTD) {
		ret = decompress(&t->decompressor, &p->stream, &p->reader, rec, l->mem, t->runs,
				 (unsigned int)n, err);
	} else {
		ret = stream_readv(&p->stream, t->iov, n_iov);
		ret = record_payload_result(&p->reader, rec, ret, err);
	}
	stats->records++;
	migration_count(l->m, p);
	return ret;
}

uint32_t ram_checksum(const struct memory *mem)
{
	uint32_t crc = 0;

	for (unsigned int i = 0; i < mem->n_regions; i++)
		crc = crc32c(crc, mem->regions[i].hva, mem->regions[i].size);
	return crc;
}
