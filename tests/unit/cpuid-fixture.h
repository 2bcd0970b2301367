/* SPDX-License-Identifier: BSD-2-Clause */
/* A processor made up for tests: AVX2 and AVX-512, as KVM would list it. */
#ifndef TESTS_UNIT_CPUID_FIXTURE_H
#define TESTS_UNIT_CPUID_FIXTURE_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/x86/features.h"

static inline struct kvm_cpuid_entry2 *add_entry(struct cpuid_table *t, uint32_t function,
						 uint32_t index, uint32_t flags, uint32_t eax,
						 uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	struct kvm_cpuid_entry2 *e = &t->entries[t->head.nent++];

	*e = (struct kvm_cpuid_entry2){ .function = function,
					.index = index,
					.flags = flags,
					.eax = eax,
					.ebx = ebx,
					.ecx = ecx,
					.edx = edx };
	return e;
}

/* Set or clear the feature of that name. */
static inline void set_feature(struct cpuid_table *t, const char *name, bool on)
{
	const struct feature_word *f;

	for_each_feature_word(f)
	{
		for (unsigned int bit = 0; bit < 32; bit++) {
			uint32_t value = feature_value(t, f);

			if (!f->bits[bit] || strcmp(f->bits[bit], name) != 0)
				continue;
			feature_set_value(t, f, on ? value | 1U << bit : value & ~(1U << bit));
			assert(feature_has(t, name) == on);
			return;
		}
	}
	abort(); /* no feature has that name */
}

/* 4 vCPUs of that host; AVX-512 and PKU are behind AVX in its XSAVE area. */
static inline void make_host(struct cpuid_table *t)
{
	const uint32_t sub = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

	memset(t, 0, sizeof(*t));
	add_entry(t, 0, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
	/* all but vme, ia64 and reserved bits; osxsave is what KVM makes of CR4 */
	add_entry(t, 1, 0, 0, 0x000806f8, 0x02040800, 0xf7fa3203, 0x1f8bfbfd);
	add_entry(t, 2, 0, 0, 0x00feff01, 0xf0, 0, 0);
	add_entry(t, 4, 0, sub, 0x7c004121, 0x02c0003f, 0x3f, 0);
	add_entry(t, 4, 1, sub, 0x7c004122, 0x01c0003f, 0x3f, 0);
	add_entry(t, 5, 0, 0, 0, 0, 3, 0);
	add_entry(t, 6, 0, 0, 4, 0, 0, 0);
	add_entry(t, 7, 0, sub, 1, 0xf1bf27eb, 0x1a405fde, 0xbc000410);
	add_entry(t, 7, 1, sub, 0x30, 0, 0, 0);
	add_entry(t, 0xb, 0, sub, 1, 2, 0x100, 2);
	add_entry(t, 0xb, 1, sub, 2, 4, 0x201, 2);
	add_entry(t, 0xd, 0, sub, 0x2e7, 2696, 2696, 0);
	add_entry(t, 0xd, 1, sub, 0xf, 2480, 0x1800, 0);
	add_entry(t, 0xd, 2, sub, 256, 576, 0, 0);
	add_entry(t, 0xd, 5, sub, 64, 1088, 0, 0);
	add_entry(t, 0xd, 6, sub, 512, 1152, 0, 0);
	add_entry(t, 0xd, 7, sub, 1024, 1664, 0, 0);
	add_entry(t, 0xd, 9, sub, 8, 2688, 0, 0);
	add_entry(t, 0xd, 11, sub, 16, 0, 1, 0);
	add_entry(t, 0xd, 12, sub, 24, 0, 1, 0);
	add_entry(t, 0x1f, 0, sub, 1, 2, 0x100, 2);
	add_entry(t, 0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add_entry(t, 0x40000001, 0, 0, 0x01007efb, 0, 0, 1);
	add_entry(t, 0x80000000, 0, 0, 0x80000021, 0, 0, 0);
	add_entry(t, 0x80000001, 0, 0, 0, 0, 0x121, 0x2c100800);
	add_entry(t, 0x80000007, 0, 0, 0, 0, 0, 0x100);
	add_entry(t, 0x80000008, 0, 0, 0x00303934, 0x0100d000, 0x2003, 0);
	add_entry(t, 0x8000000a, 0, 0, 1, 8, 0, 0x10010021);
	add_entry(t, 0x8000001e, 0, 0, 2, 0x102, 1, 0);
	add_entry(t, 0x80000021, 0, 0, 0x45, 0, 0, 0);
}

#endif
