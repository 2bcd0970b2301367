/* SPDX-License-Identifier: BSD-2-Clause */
/* How long things took: a histogram fine enough for percentiles. Any thread; all zeros is empty. */
#ifndef MIGRATION_LATENCY_H
#define MIGRATION_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

/* Eight buckets for each power of two: what is read off is at most an eighth too large. */
#define LATENCY_STEPS	8
#define LATENCY_OCTAVES 40 /* of ns: up to 18 minutes */

struct latency {
	_Atomic uint64_t n, total_ns, max_ns;
	_Atomic uint64_t buckets[LATENCY_OCTAVES * LATENCY_STEPS];
};

void latency_add(struct latency *l, uint64_t ns);
/* The ns within which @permille of a thousand were done, 0 if there were none. */
uint64_t latency_within(const struct latency *l, unsigned int permille);
/* How many took from 2^@i us on, but less than twice that; 0 also counts what was shorter. */
uint64_t latency_octave_us(const struct latency *l, unsigned int i);

#endif
