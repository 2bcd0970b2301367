/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CPU models: the named baselines, which are the levels of the x86-64 psABI (System V ABI, AMD64
 * supplement, 3.1.1) and what a guest of KVM needs besides, and the largest common model of several
 * hosts. XSAVE is kept consistent with what is left (SDM volume 1, 13.1 to 13.4).
 */
#include "vmm/x86/model.h"

#include <errno.h>
#include <string.h>

#include "vmm/x86/features.h"

#define XSAVE_LEGACY 576 /* FXSAVE area and XSAVE header, SDM volume 1, 13.4 */
#define BASIC_LEAVES 0xdU
#define EXT_LEAVES   0x80000008U
/* What every processor of these levels has; a guest that was shown more could not go there. */
#define ADDRESS_BITS 0x3028U /* 48 linear, 40 physical */

/* A bit by its name is easier to check against the psABI than a mask. */
static const char *const v2_features[] = {
	/* x86-64, and what its kernels take for granted */
	"fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca",
	"cmov", "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm",
	/* x86-64-v2 */
	"cx16", "lahf_lm", "popcnt", "sse3", "sse4_1", "sse4_2", "ssse3",
	/* of KVM */
	"x2apic", "tsc_deadline", "hypervisor", "kvmclock", "kvmclock_old", "kvmclock_stable",
	/* state that is saved as every processor does it */
	"xsave", "xstate_x87", "xstate_sse", NULL
};

static const char *const v3_features[] = { "avx",	 "avx2", "bmi1", "bmi2",
					   "f16c",	 "fma",	 "abm",	 "movbe", /* abm is LZCNT */
					   "xstate_avx", NULL };

static const struct model {
	const char *name;
	const char *const *sets[2];
} models[] = {
	{ "host", { NULL } },
	{ "x86-64-v2", { v2_features } },
	{ "x86-64-v3", { v2_features, v3_features } },
};

/* A feature needs the XSAVE component that holds its registers, and the component the feature. */
static const struct {
	const char *feature; /* the first of those that begin with prefix */
	const char *prefix;
	uint32_t components;
} xsave_users[] = {
	{ "avx", "avx", 1U << 2 },	{ "avx", "fma", 1U << 2 },
	{ "avx", "f16c", 1U << 2 },	{ "avx", "xop", 1U << 2 },
	{ "avx", "vaes", 1U << 2 },	{ "avx", "vpclmulqdq", 1U << 2 },
	{ "mpx", "mpx", 3U << 3 },	{ "avx512f", "avx512", 7U << 5 },
	{ "pku", "pku", 1U << 9 },	{ "amx_tile", "amx_", 3U << 17 },
	{ "apx_f", "apx_f", 1U << 19 },
};

#define N_USERS (sizeof(xsave_users) / sizeof(xsave_users[0]))

static const struct model *find_model(const char *name)
{
	for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
		if (strcmp(models[i].name, name) == 0)
			return &models[i];
	}
	return NULL;
}

bool model_is_name(const char *name)
{
	return find_model(name);
}

static void remove_entries(struct cpuid_table *table,
			   bool (*keep)(const struct cpuid_table *, const struct kvm_cpuid_entry2 *,
					const void *),
			   const void *opaque)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < table->head.nent; i++) {
		struct kvm_cpuid_entry2 e = table->entries[i];

		if (keep(table, &e, opaque))
			table->entries[n++] = e;
	}
	memset(&table->entries[n], 0, (table->head.nent - n) * sizeof(table->entries[0]));
	table->head.nent = n;
}

static bool component_left(const struct cpuid_table *table, const struct kvm_cpuid_entry2 *e,
			   const void *opaque)
{
	const uint32_t *components = opaque;

	(void)table;
	return e->function != 0xd || e->index < 2 || (e->index < 32 && *components >> e->index & 1);
}

/* Size of an area with all @components, in the standard format or the compacted one (SDM volume 1,
 * 13.4.2 and 13.4.3); sub-leaf n tells size, offset and whether the compacted format aligns it. */
static uint32_t area_size(const struct cpuid_table *table, uint32_t components, bool compacted)
{
	uint32_t size = XSAVE_LEGACY;

	for (uint32_t i = 2; i < 32; i++) {
		const struct kvm_cpuid_entry2 *e = cpuid_entry(table, 0xd, i);
		uint32_t at;

		if (!e || !(components >> i & 1))
			continue;
		at = !compacted ? e->ebx : e->ecx & 2 ? (size + 63) / 64 * 64 : size;
		if (at + e->eax > size)
			size = at + e->eax;
	}
	return size;
}

/* Take away features without the component they need, and components without a feature. */
static void match_components(struct cpuid_table *table, struct kvm_cpuid_entry2 *user)
{
	for (size_t i = 0; i < N_USERS; i++) {
		if ((user->eax & xsave_users[i].components) != xsave_users[i].components)
			feature_clear(table, xsave_users[i].prefix);
	}
	for (size_t i = 0; i < N_USERS; i++) {
		if (!feature_has(table, xsave_users[i].feature))
			user->eax &= ~xsave_users[i].components;
	}
}

/* Bring features, components and sizes of leaf 0xd into line with each other. Sizes are those with
 * everything enabled; KVM replaces them as a guest goes on. */
static void fix_xsave(struct cpuid_table *table)
{
	struct kvm_cpuid_entry2 *user = cpuid_find(table, 0xd, 0);
	struct kvm_cpuid_entry2 *super = cpuid_find(table, 0xd, 1);
	uint32_t components;

	if (!user)
		return;
	if (!feature_has(table, "xsave"))
		user->eax = user->edx = 0;
	match_components(table, user);
	if (super && (!user->eax || !feature_has(table, "xsaves")))
		super->ecx = super->edx = 0;
	components = user->eax | (super ? super->ecx : 0);
	user->ebx = user->ecx = user->eax ? area_size(table, user->eax, false) : 0;
	if (super) /* only these two write the compacted format */
		super->ebx = feature_has(table, "xsavec") || feature_has(table, "xsaves")
				     ? area_size(table, components, true)
				     : 0;
	remove_entries(table, component_left, &components);
}

/* ---- baselines ---- */

static bool baseline_leaf(const struct cpuid_table *table, const struct kvm_cpuid_entry2 *e,
			  const void *opaque)
{
	(void)table;
	(void)opaque;
	if (e->function == 0x7)
		return e->index == 0;
	if (e->function == 0x5 || e->function == 0x6) /* MONITOR; power */
		return false;
	return e->function <= BASIC_LEAVES || e->function == 0x40000000 ||
	       e->function == 0x40000001 ||
	       (e->function >= 0x80000000 && e->function <= EXT_LEAVES);
}

/* Bits of a word that @model has. */
static uint32_t model_bits(const struct model *model, const struct feature_word *f)
{
	uint32_t bits = 0;

	for (unsigned int set = 0; set < 2 && model->sets[set]; set++) {
		for (const char *const *name = model->sets[set]; *name; name++) {
			for (unsigned int bit = 0; bit < 32; bit++) {
				if (f->bits[bit] && strcmp(f->bits[bit], *name) == 0)
					bits |= 1U << bit;
			}
		}
	}
	return bits;
}

/* AMD repeats part of leaf 1 in 0x80000001 (APM volume 3, E.4.1). */
#define AMD_REPEATED 0x0183f3ffU

static void set_baseline_words(const struct model *model, const struct cpuid_table *host,
			       struct cpuid_table *out)
{
	const struct feature_word *f;

	for_each_feature_word(f)
	{
		uint32_t bits = model_bits(model, f);

		if (f->function == 0x80000001 && f->reg == 3)
			bits |= feature_value(host, f) & AMD_REPEATED;
		feature_set_value(out, f, bits);
	}
}

static void limit(struct cpuid_table *table, uint32_t function, uint32_t max)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, function, 0);

	if (e && e->eax > max)
		e->eax = max;
}

/* Bits of physical, linear and a nested guest's physical addresses, a byte each; the last 0: those
 * of the first (APM volume 3, E.4.7). */
static void limit_addresses(struct cpuid_table *table, uint32_t max)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, EXT_LEAVES, 0);

	if (!e)
		return;
	if ((e->eax & 0xff) > (max & 0xff))
		e->eax = (e->eax & ~0xffU) | (max & 0xff);
	if ((e->eax & 0xff00) > (max & 0xff00))
		e->eax = (e->eax & ~0xff00U) | (max & 0xff00);
	if ((e->eax ^ max) & 0xff0000)
		e->eax &= ~0xff0000U;
}

int model_build(const char *name, const struct cpuid_table *host, struct cpuid_table *out,
		struct error *err)
{
	const struct model *model = find_model(name);
	struct kvm_cpuid_entry2 *leaf;

	*out = *host;
	if (!model)
		return error_set(err, -EINVAL, "realize", "cpus", PROP_CPU_MODEL,
				 "host, x86-64-v2 or x86-64-v3", "%s", name);
	if (!model->sets[0])
		return 0;
	remove_entries(out, baseline_leaf, NULL);
	limit(out, 0, BASIC_LEAVES);
	limit(out, 0x40000000, 0x40000001);
	limit(out, 0x80000000, EXT_LEAVES);
	limit_addresses(out, ADDRESS_BITS);
	leaf = cpuid_find(out, 0x7, 0);
	if (leaf)
		leaf->eax = 0; /* no sub-leaf but this one */
	leaf = cpuid_find(out, 0x40000001, 0);
	if (leaf)
		leaf->edx = 0; /* hints, not features */
	set_baseline_words(model, host, out);
	/* Where the host lacks a whole leaf, nothing could be set: ask for it as well. */
	for (unsigned int i = 0; feature_word(i); i++) {
		const struct feature_word *f = feature_word(i);
		char names[100];

		if (feature_value(out, f) != model_bits(model, f) &&
		    !cpuid_entry(out, f->function, f->index)) {
			error_set(err, -ENOTSUP, "realize", "cpus", f->name, "", "no such leaf");
			error_expected(err, "a host CPU with %s, which %s has",
				       feature_list(f, model_bits(model, f), names, sizeof(names)),
				       name);
			return -ENOTSUP;
		}
	}
	fix_xsave(out);
	return cpuid_fits(out, host, name, err);
}

/* ---- the largest common model ---- */

static bool both_have(const struct cpuid_table *table, const struct kvm_cpuid_entry2 *e,
		      const void *opaque)
{
	const struct cpuid_table *other = opaque;

	(void)table;
	return cpuid_entry(other, e->function, e->index);
}

/* Components that processors keep at different places can be of no use to both. */
static void drop_moved_components(struct cpuid_table *table, const struct cpuid_table *other)
{
	struct kvm_cpuid_entry2 *user = cpuid_find(table, 0xd, 0),
				*super = cpuid_find(table, 0xd, 1);

	for (uint32_t i = 2; i < 32; i++) {
		const struct kvm_cpuid_entry2 *a = cpuid_entry(table, 0xd, i);
		const struct kvm_cpuid_entry2 *b = cpuid_entry(other, 0xd, i);

		if (a && b && a->eax == b->eax && a->ebx == b->ebx)
			continue;
		if (user)
			user->eax &= ~(1U << i);
		if (super)
			super->ecx &= ~(1U << i);
	}
}

static void lower_limits(struct cpuid_table *table, const struct cpuid_table *other)
{
	static const uint32_t leaves[] = { 0, 0x7, 0x14, 0x17, 0x18, 0x1d, 0x40000000, 0x80000000 };
	const struct kvm_cpuid_entry2 *addresses = cpuid_entry(other, EXT_LEAVES, 0);

	for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
		const struct kvm_cpuid_entry2 *e = cpuid_entry(other, leaves[i], 0);

		if (e)
			limit(table, leaves[i], e->eax);
	}
	if (addresses)
		limit_addresses(table, addresses->eax);
}

int model_intersect(struct cpuid_table *table, const struct cpuid_table *other, struct error *err)
{
	const struct kvm_cpuid_entry2 *a = cpuid_entry(table, 0, 0), *b = cpuid_entry(other, 0, 0);
	const struct feature_word *f;

	if (!a || !b)
		return error_set(err, -EINVAL, "cpu", "CPUID.0", "", "a vendor", "none");
	if (a->ebx != b->ebx || a->ecx != b->ecx || a->edx != b->edx)
		return error_set(err, -ENOTSUP, "cpu", "CPU vendor", "", "one vendor", "two");
	for_each_feature_word(f)
		feature_set_value(table, f, feature_value(table, f) & feature_value(other, f));
	lower_limits(table, other);
	drop_moved_components(table, other);
	fix_xsave(table);
	remove_entries(table, both_have, other);
	return 0;
}
