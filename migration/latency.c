/* SPDX-License-Identifier: BSD-2-Clause */
/* A histogram with a bucket for each eighth of a power of two. */
#include "migration/latency.h"

#include <sys/param.h>

#define BUCKETS (LATENCY_OCTAVES * LATENCY_STEPS)

/* The bits below the highest one choose the eighth. */
static unsigned int bucket_of(uint64_t ns)
{
	unsigned int octave = ns ? 63 - (unsigned int)__builtin_clzll(ns) : 0;
	unsigned int step = octave < 3 ? 0 : ns >> (octave - 3) & (LATENCY_STEPS - 1);

	return MIN(octave * LATENCY_STEPS + step, BUCKETS - 1);
}

/* The first value beyond bucket @i. */
static uint64_t end_of(unsigned int i)
{
	unsigned int octave = i / LATENCY_STEPS;
	uint64_t eighth = octave < 3 ? 0 : 1ULL << (octave - 3);

	return octave < 3 ? 2ULL << octave : (1ULL << octave) + (i % LATENCY_STEPS + 1) * eighth;
}

void latency_add(struct latency *l, uint64_t ns)
{
	uint64_t max = l->max_ns;

	l->n++;
	l->total_ns += ns;
	l->buckets[bucket_of(ns)]++;
	while (ns > max && !atomic_compare_exchange_weak(&l->max_ns, &max, ns))
		;
}

uint64_t latency_within(const struct latency *l, unsigned int permille)
{
	uint64_t n = l->n, wanted = (n * permille + 999) / 1000, so_far = 0;

	/* The last one has no end. */
	for (unsigned int i = 0; i < BUCKETS - 1 && n; i++) {
		so_far += l->buckets[i];
		if (so_far >= wanted && so_far)
			return MIN(end_of(i), l->max_ns);
	}
	return l->max_ns;
}

/* 1024 ns are taken for a microsecond. */
uint64_t latency_octave_us(const struct latency *l, unsigned int i)
{
	uint64_t n = 0;

	for (unsigned int octave = i ? i + 10 : 0; octave <= i + 10 && octave < LATENCY_OCTAVES;
	     octave++) {
		for (unsigned int step = 0; step < LATENCY_STEPS; step++)
			n += l->buckets[octave * LATENCY_STEPS + step];
	}
	return n;
}
