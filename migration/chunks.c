/* SPDX-License-Identifier: BSD-2-Clause */
/* Threads that go over guest RAM together. */
#include "migration/chunks.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/param.h>
#include <unistd.h>

/* Unless somebody says how many: more than this few disks can use. */
#define THREADS_DEFAULT 4

struct chunks {
	struct migration *m;
	const struct memory *mem;
	chunk_fn *fn;
	void *opaque;
	_Atomic uint64_t next;
	_Atomic bool failed;
	pthread_mutex_t lock; /* of the error */
	int ret;
	struct error error;
};

unsigned int chunks_threads(const struct migration *m)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (m->params.multifd)
		return (unsigned int)m->params.channels;
	return (unsigned int)MAX(1, MIN(cpus, THREADS_DEFAULT));
}

static uint64_t region_chunks(const struct memory *mem, unsigned int region)
{
	return (mem->regions[region].size + CHUNK_SIZE - 1) / CHUNK_SIZE;
}

uint64_t chunks_total(const struct memory *mem)
{
	return chunks_index(mem, mem->n_regions, 0);
}

uint64_t chunks_index(const struct memory *mem, unsigned int region, uint64_t from)
{
	uint64_t n = from / CHUNK_SIZE;

	for (unsigned int i = 0; i < region; i++)
		n += region_chunks(mem, i);
	return n;
}

/* Do chunk number @n; false when there is none. */
static bool do_chunk(struct chunks *c, uint64_t n, int *ret, struct error *err)
{
	for (unsigned int i = 0; i < c->mem->n_regions; i++) {
		if (n < region_chunks(c->mem, i)) {
			uint64_t from = n * CHUNK_SIZE;

			*ret = c->fn(c->opaque, i, from,
				     MIN(CHUNK_SIZE, c->mem->regions[i].size - from), err);
			return *ret == 0;
		}
		n -= region_chunks(c->mem, i);
	}
	return false;
}

static void fail(struct chunks *c, int ret, const struct error *err)
{
	pthread_mutex_lock(&c->lock);
	if (!c->ret) {
		c->ret = ret;
		c->error = *err;
	}
	c->failed = true;
	pthread_mutex_unlock(&c->lock);
}

static void *work(void *opaque)
{
	struct chunks *c = opaque;
	struct error err = { 0 };
	int ret = 0;

	while (ret == 0 && !c->failed) {
		ret = migration_check(c->m, &err);
		if (ret == 0 && !do_chunk(c, atomic_fetch_add(&c->next, 1), &ret, &err))
			break;
	}
	if (ret < 0)
		fail(c, ret, &err);
	return NULL;
}

int chunks_run(struct migration *m, const struct memory *mem, chunk_fn *fn, void *opaque,
	       struct error *err)
{
	struct chunks c = { .m = m, .mem = mem, .fn = fn, .opaque = opaque };
	uint64_t n = MIN(chunks_threads(m), chunks_total(mem));
	pthread_t threads[CHANNELS_MAX];
	unsigned int started = 0;

	pthread_mutex_init(&c.lock, NULL);
	/* One that cannot be had is done without. */
	while (started + 1 < n && pthread_create(&threads[started], NULL, work, &c) == 0)
		started++;
	work(&c);
	for (unsigned int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&c.lock);
	if (c.ret && err && !err->code)
		*err = c.error;
	return c.ret;
}
