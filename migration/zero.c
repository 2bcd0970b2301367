/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Zero pages by vector units. Each variant ORs four vectors at a time: one branch for each 64 to
 * 256 bytes. A data page is mostly told by its first word, which page_is_zero looks at before all
 * else.
 */
#include "migration/zero.h"

#include <stdint.h>

/* The page is read as vectors of any type; the guest may write meanwhile, hence no assumptions. */
typedef uint64_t word __attribute__((may_alias));

static bool always(void)
{
	return true;
}

static bool zero_scalar(const void *page)
{
	const word *p = page;

	for (size_t i = 0; i < ZERO_PAGE_SIZE / sizeof(*p); i += 8) {
		if (p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] |
		    p[i + 7])
			return false;
	}
	return true;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("sse2"))) static bool zero_sse2(const void *page)
{
	const __m128i *p = page;
	const __m128i none = _mm_setzero_si128();

	for (size_t i = 0; i < ZERO_PAGE_SIZE / sizeof(*p); i += 4) {
		__m128i any = _mm_or_si128(_mm_or_si128(p[i], p[i + 1]),
					   _mm_or_si128(p[i + 2], p[i + 3]));

		if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, none)) != 0xffff)
			return false;
	}
	return true;
}

__attribute__((target("avx2"))) static bool zero_avx2(const void *page)
{
	const __m256i *p = page;

	for (size_t i = 0; i < ZERO_PAGE_SIZE / sizeof(*p); i += 4) {
		__m256i any = _mm256_or_si256(_mm256_or_si256(p[i], p[i + 1]),
					      _mm256_or_si256(p[i + 2], p[i + 3]));

		if (!_mm256_testz_si256(any, any))
			return false;
	}
	return true;
}

__attribute__((target("avx512f"))) static bool zero_avx512(const void *page)
{
	const __m512i *p = page;

	for (size_t i = 0; i < ZERO_PAGE_SIZE / sizeof(*p); i += 4) {
		__m512i any = _mm512_or_si512(_mm512_or_si512(p[i], p[i + 1]),
					      _mm512_or_si512(p[i + 2], p[i + 3]));

		if (_mm512_test_epi64_mask(any, any))
			return false;
	}
	return true;
}

static bool has_sse2(void)
{
	return __builtin_cpu_supports("sse2");
}

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2");
}

static bool has_avx512(void)
{
	return __builtin_cpu_supports("avx512f");
}
#endif

static const struct zero_variant variants[] = {
#if defined(__x86_64__)
	{ "avx512", has_avx512, zero_avx512 },
	{ "avx2", has_avx2, zero_avx2 },
	{ "sse2", has_sse2, zero_sse2 },
#endif
	{ "scalar", always, zero_scalar },
};

const struct zero_variant *zero_variants(size_t *n)
{
	*n = sizeof(variants) / sizeof(variants[0]);
	return variants;
}

bool page_is_zero(const void *page)
{
	const struct zero_variant *v = variants;

	if (*(const word *)page)
		return false;
	while (!v->supported())
		v++;
	return v->is_zero(page);
}
