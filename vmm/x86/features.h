/* SPDX-License-Identifier: BSD-2-Clause */
/* Where CPUID has feature bits, and what they are called. Constant; any thread. */
#ifndef VMM_X86_FEATURES_H
#define VMM_X86_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/x86/cpuid.h"

struct feature_word {
	uint32_t function, index;
	unsigned int reg; /* 0 to 3: eax to edx */
	bool indexed;	  /* the leaf has sub-leaves */
	uint32_t ours;	  /* bits that follow from the number of vCPUs, not from the host */
	const char *name; /* "CPUID.7.0:EBX" */
	const char *bits[32];
};

/* The @i-th word, NULL behind the last. */
const struct feature_word *feature_word(unsigned int i);
#define for_each_feature_word(f) \
	for (unsigned int f##_i = 0; ((f) = feature_word(f##_i)) != NULL; f##_i++)

/* Its value in @table, 0 when the leaf is not there. */
uint32_t feature_value(const struct cpuid_table *table, const struct feature_word *f);
/* Set it; nothing happens when the leaf is not there. */
void feature_set_value(struct cpuid_table *table, const struct feature_word *f, uint32_t value);

/* Whether @table has the feature of that name. False for a name that nobody knows. */
bool feature_has(const struct cpuid_table *table, const char *name);
/* Clear all features whose names begin with @prefix. */
void feature_clear(struct cpuid_table *table, const char *prefix);

/* Write "avx2 (bit 5), bmi2 (bit 8)" for the bits of @value; returns @buf. */
const char *feature_list(const struct feature_word *f, uint32_t value, char *buf, size_t size);

#endif
