/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The CPU model is one table of CPUID leaves for the whole machine, kept in /cpus of the machine
 * tree so that the destination of a migration gives its guest the very same one, or refuses by
 * name. Here is what needs no KVM: the table is as hostile as the stream it came in.
 */
#include "vmm/x86/cpuid.h"

#include <errno.h>
#include <libfdt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "vmm/x86/features.h"

#define PROP_CPUID "ferry,cpuid"
#define CELLS	   7 /* function, index, flags, eax, ebx, ecx, edx */
#define KNOWN_FLAGS                                                       \
	(KVM_CPUID_FLAG_SIGNIFCANT_INDEX | KVM_CPUID_FLAG_STATEFUL_FUNC | \
	 KVM_CPUID_FLAG_STATE_READ_NEXT)

static bool indexed(const struct kvm_cpuid_entry2 *e)
{
	return e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
}

const struct kvm_cpuid_entry2 *cpuid_entry(const struct cpuid_table *table, uint32_t function,
					   uint32_t index)
{
	for (uint32_t i = 0; i < table->head.nent; i++) {
		const struct kvm_cpuid_entry2 *e = &table->entries[i];

		if (e->function == function && (e->index == index || !indexed(e)))
			return e;
	}
	return NULL;
}

struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = cpuid_entry(table, function, index);

	return e ? &table->entries[e - table->entries] : NULL;
}

uint32_t *cpuid_reg(struct kvm_cpuid_entry2 *e, unsigned int reg)
{
	uint32_t *const regs[4] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	return regs[reg];
}

static int bad_entry(const struct kvm_cpuid_entry2 *e, const char *expected, const char *got,
		     struct error *err)
{
	char field[40];

	snprintf(field, sizeof(field), "CPUID.%X.%X", e->function, e->index);
	return error_set(err, -EINVAL, "realize", "cpus", field, expected, "%s", got);
}

/* Two entries that both could answer for one leaf. */
static int check_pair(const struct kvm_cpuid_entry2 *a, const struct kvm_cpuid_entry2 *b,
		      struct error *err)
{
	if (a->function != b->function)
		return 0;
	if (indexed(a) != indexed(b))
		return bad_entry(b, "sub-leaves, or one entry for all of them", "both", err);
	if (!indexed(a) || a->index == b->index)
		return bad_entry(b, "one entry", "two", err);
	return 0;
}

/* With an index where CPUID has none, bits could hide where feature_value() does not look. */
static int check_feature_leaf(const struct kvm_cpuid_entry2 *e, struct error *err)
{
	const struct feature_word *f;

	for_each_feature_word(f)
	{
		if (f->function == e->function && f->indexed != indexed(e))
			return bad_entry(e, f->indexed ? "sub-leaves" : "no sub-leaves",
					 f->indexed ? "none" : "some", err);
	}
	return 0;
}

int cpuid_check(const struct cpuid_table *table, struct error *err)
{
	int ret = 0;

	if (table->head.nent > CPUID_MAX)
		return error_set(err, -EINVAL, "realize", "cpus", PROP_CPUID, "up to 128 entries",
				 "%u", table->head.nent);
	for (uint32_t i = 0; i < table->head.nent && ret == 0; i++) {
		const struct kvm_cpuid_entry2 *e = &table->entries[i];

		if (e->flags & ~KNOWN_FLAGS)
			return bad_entry(e, "flags that KVM knows", "others", err);
		ret = check_feature_leaf(e, err);
		for (uint32_t j = 0; j < i && ret == 0; j++)
			ret = check_pair(&table->entries[j], e, err);
	}
	return ret;
}

int cpuid_from_tree(const void *fdt, struct cpuid_table *table, struct error *err)
{
	int len;
	const fdt32_t *cells = fdt_getprop(fdt, fdt_path_offset(fdt, "/cpus"), PROP_CPUID, &len);

	memset(table, 0, sizeof(*table));
	if (!cells)
		return -ENOENT;
	if (len % (CELLS * 4) || len / (CELLS * 4) > CPUID_MAX)
		return error_set(err, -EINVAL, "realize", "cpus", PROP_CPUID,
				 "up to 128 entries of 7 cells", "%d bytes", len);
	table->head.nent = (uint32_t)len / (CELLS * 4);
	for (uint32_t i = 0; i < table->head.nent; i++, cells += CELLS) {
		table->entries[i] = (struct kvm_cpuid_entry2){
			.function = fdt32_ld(&cells[0]),
			.index = fdt32_ld(&cells[1]),
			.flags = fdt32_ld(&cells[2]),
			.eax = fdt32_ld(&cells[3]),
			.ebx = fdt32_ld(&cells[4]),
			.ecx = fdt32_ld(&cells[5]),
			.edx = fdt32_ld(&cells[6]),
		};
	}
	return cpuid_check(table, err);
}

size_t cpuid_tree_room(const struct cpuid_table *table)
{
	return (size_t)table->head.nent * CELLS * 4 + sizeof(PROP_CPUID) + 16;
}

int cpuid_to_tree(const struct cpuid_table *table, void *fdt)
{
	uint32_t n = table->head.nent;
	fdt32_t *cells;
	int ret = fdt_setprop_placeholder(fdt, fdt_path_offset(fdt, "/cpus"), PROP_CPUID,
					  (int)(n * CELLS * 4), (void **)&cells);

	for (uint32_t i = 0; ret == 0 && i < n; i++, cells += CELLS) {
		const struct kvm_cpuid_entry2 *e = &table->entries[i];
		uint32_t row[CELLS] = { e->function, e->index, e->flags, e->eax,
					e->ebx,	     e->ecx,   e->edx };

		for (unsigned int j = 0; j < CELLS; j++)
			fdt32_st(&cells[j], row[j]);
	}
	return ret;
}

static int check_vendor(const struct cpuid_table *guest, const struct cpuid_table *host,
			struct error *err)
{
	const struct kvm_cpuid_entry2 *g = cpuid_entry(guest, 0, 0), *h = cpuid_entry(host, 0, 0);

	if (!g || !h || g->ebx != h->ebx || g->ecx != h->ecx || g->edx != h->edx)
		return error_set(err, -ENOTSUP, "realize", "cpus", "CPU vendor",
				 "the vendor the guest was started on", "another");
	return 0;
}

static int check_features(const struct cpuid_table *guest, const struct cpuid_table *host,
			  const char *whose, struct error *err)
{
	const struct feature_word *f;
	char names[100];

	for_each_feature_word(f)
	{
		uint32_t has = feature_value(host, f);
		uint32_t lacks = feature_value(guest, f) & ~has & ~f->ours;

		if (lacks) {
			error_set(err, -ENOTSUP, "realize", "cpus", f->name, "", "0x%08x", has);
			error_expected(err, "a host CPU with %s, which %s has",
				       feature_list(f, lacks, names, sizeof(names)), whose);
			return -ENOTSUP;
		}
	}
	return 0;
}

/* XSAVE of a processor puts a component where that processor has it; a guest has read where. */
static int check_components(const struct cpuid_table *guest, const struct cpuid_table *host,
			    struct error *err)
{
	const struct kvm_cpuid_entry2 *user = cpuid_entry(guest, 0xd, 0);

	for (uint32_t i = 2; user && i < 32; i++) {
		const struct kvm_cpuid_entry2 *g = cpuid_entry(guest, 0xd, i);
		const struct kvm_cpuid_entry2 *h = cpuid_entry(host, 0xd, i);

		if (!(user->eax >> i & 1))
			continue;
		if (!g || !h || g->eax != h->eax || g->ebx != h->ebx) {
			error_set(err, -ENOTSUP, "realize", "cpus", "XSAVE area", "",
				  "%u bytes at %u", h ? h->eax : 0, h ? h->ebx : 0);
			error_expected(err, "component %u, of %u bytes, at byte %u", i,
				       g ? g->eax : 0, g ? g->ebx : 0);
			return -ENOTSUP;
		}
	}
	return 0;
}

static uint32_t address_bits(const struct cpuid_table *table)
{
	const struct kvm_cpuid_entry2 *e = cpuid_entry(table, 0x80000008, 0);

	return e ? e->eax & 0xff : 36; /* SDM volume 3, 4.1.4 */
}

static int check_addresses(const struct cpuid_table *guest, const struct cpuid_table *host,
			   struct error *err)
{
	uint32_t wants = address_bits(guest), has = address_bits(host);

	if (wants <= has)
		return 0;
	error_set(err, -ENOTSUP, "realize", "cpus", "physical addresses", "", "%u bits", has);
	error_expected(err, "a host CPU with %u bits", wants);
	return -ENOTSUP;
}

int cpuid_fits(const struct cpuid_table *guest, const struct cpuid_table *host, const char *whose,
	       struct error *err)
{
	int ret = check_vendor(guest, host, err);

	ret = ret ? ret : check_features(guest, host, whose, err);
	ret = ret ? ret : check_components(guest, host, err);
	return ret ? ret : check_addresses(guest, host, err);
}

static void set_topology(struct kvm_cpuid_entry2 *e, uint32_t id, uint32_t n)
{
	uint32_t bits = n > 1 ? 32 - (uint32_t)__builtin_clz(n - 1) : 0;

	switch (e->function) {
	case 0x1:
		e->ebx = (e->ebx & 0xffff) | (n & 0xff) << 16 | id << 24;
		e->edx = n > 1 ? e->edx | 1U << 28 : e->edx & ~(1U << 28);
		break;
	case 0x4: /* cores sharing the package */
		e->eax = (e->eax & 0x3fff) | (n - 1) << 26;
		break;
	case 0xb:
	case 0x1f:
		e->edx = id;
		e->eax = e->index == 0 ? 0 : e->index == 1 ? bits : 0;
		e->ebx = e->index == 0 ? 1 : e->index == 1 ? n : 0;
		e->ecx = (e->index & 0xff) | (e->index == 0   ? 1U << 8
					      : e->index == 1 ? 2U << 8
							      : 0);
		break;
	case 0x80000008:
		e->ecx = (e->ecx & ~0xf0ffU) | (n - 1) | bits << 12;
		break;
	case 0x8000001e:
		e->eax = id;
		e->ebx = id;
		e->ecx = 0;
		break;
	default:
		break;
	}
}

void cpuid_set_topology(struct cpuid_table *table, uint32_t id, uint32_t n)
{
	for (uint32_t i = 0; i < table->head.nent; i++)
		set_topology(&table->entries[i], id, n);
}
