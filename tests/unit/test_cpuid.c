/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of CPUID leaves: hostile ones, each feature, the tree's form, topology. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "cpuid-fixture.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

#define SUB KVM_CPUID_FLAG_SIGNIFCANT_INDEX

static void refused(const struct cpuid_table *t, const char *field, const char *got)
{
	struct error err = { 0 };

	assert_int_equal(cpuid_check(t, &err), -EINVAL);
	assert_string_equal(err.phase, "realize");
	assert_string_equal(err.device, "cpus");
	assert_string_equal(err.field, field);
	assert_string_equal(err.got, got);
}

static void a_good_table(void **state)
{
	struct cpuid_table t, empty = { .head.nent = 0 };

	(void)state;
	make_host(&t);
	assert_int_equal(cpuid_check(&t, NULL), 0);
	assert_int_equal(cpuid_check(&empty, NULL), 0);
	/* A table as old kernels gave it. */
	cpuid_find(&t, 2, 0)->flags = KVM_CPUID_FLAG_STATEFUL_FUNC | KVM_CPUID_FLAG_STATE_READ_NEXT;
	assert_int_equal(cpuid_check(&t, NULL), 0);
}

static void leaves_that_are_there_twice(void **state)
{
	struct cpuid_table host, t;
	char field[40];

	(void)state;
	make_host(&host);
	for (uint32_t i = 0; i < host.head.nent; i++) {
		const struct kvm_cpuid_entry2 *e = &host.entries[i];

		t = host;
		t.entries[t.head.nent] = *e;
		t.entries[t.head.nent++].ecx ^= 1U << 13;
		snprintf(field, sizeof(field), "CPUID.%X.%X", e->function, e->index);
		refused(&t, field, "two");
		if (e->flags & SUB)
			continue;
		/* The index of such a leaf means nothing. */
		t.entries[t.head.nent - 1].index = 77;
		snprintf(field, sizeof(field), "CPUID.%X.4D", e->function);
		refused(&t, field, "two");
	}
}

static void significant_and_insignificant(void **state)
{
	struct cpuid_table t;

	(void)state;
	make_host(&t);
	add_entry(&t, 4, 9, 0, 0, 0, 0, 0);
	refused(&t, "CPUID.4.9", "both");
	make_host(&t);
	add_entry(&t, 2, 1, SUB, 0, 0, 0, 0);
	refused(&t, "CPUID.2.1", "both");
	/* Where features are, even one alone. */
	make_host(&t);
	cpuid_find(&t, 1, 0)->flags = SUB;
	refused(&t, "CPUID.1.0", "some");
	make_host(&t);
	cpuid_find(&t, 1, 0)->index = 3;
	assert_int_equal(cpuid_check(&t, NULL), 0); /* means nothing */
	cpuid_find(&t, 1, 0)->flags = SUB;
	refused(&t, "CPUID.1.3", "some");
	make_host(&t);
	cpuid_find(&t, 0xd, 9)->flags = 0;
	refused(&t, "CPUID.D.9", "none");
}

static void unknown_flags_and_counts(void **state)
{
	struct cpuid_table t;

	(void)state;
	for (unsigned int bit = 3; bit < 32; bit++) {
		make_host(&t);
		cpuid_find(&t, 0x80000008, 0)->flags |= 1U << bit;
		refused(&t, "CPUID.80000008.0", "others");
	}
	make_host(&t);
	t.head.nent = CPUID_MAX + 1;
	refused(&t, "ferry,cpuid", "129");
	t.head.nent = UINT32_MAX;
	refused(&t, "ferry,cpuid", "4294967295");
}

static void each_feature_is_asked_for(void **state)
{
	struct cpuid_table host, guest;
	const struct feature_word *f;
	unsigned int n = 0;

	(void)state;
	for_each_feature_word(f)
	{
		for (unsigned int bit = 0; bit < 32; bit++) {
			struct error err = { 0 };
			char name[64];

			if (f->function == 0xd && f->index == 0 && f->reg == 0)
				continue; /* components have a test of their own */
			make_host(&host);
			if (!cpuid_find(&host, f->function, f->index))
				add_entry(&host, f->function, f->index, SUB, 0, 0, 0, 0);
			guest = host;
			feature_set_value(&host, f, feature_value(&host, f) & ~(1U << bit));
			feature_set_value(&guest, f, feature_value(&host, f) | 1U << bit);
			assert_int_equal(cpuid_check(&guest, NULL), 0);
			assert_int_equal(cpuid_fits(&host, &guest, "x", NULL), 0);
			if (f->ours >> bit & 1) {
				assert_int_equal(cpuid_fits(&guest, &host, "x", NULL), 0);
				continue;
			}
			assert_int_equal(cpuid_fits(&guest, &host, "the guest", &err), -ENOTSUP);
			assert_string_equal(err.field, f->name);
			snprintf(name, sizeof(name),
				 f->bits[bit] ? "%s (bit %u), which the guest"
					      : "%sbit %u, which the guest",
				 f->bits[bit] ? f->bits[bit] : "", bit);
			assert_non_null(strstr(err.expected, name));
			n++;
		}
	}
	assert_true(n > 600);
}

static void a_leaf_that_the_host_lacks(void **state)
{
	struct cpuid_table host, guest;
	struct error err = { 0 };

	(void)state;
	make_host(&host);
	guest = host;
	host.head.nent--; /* 0x80000021 */
	assert_int_equal(cpuid_fits(&guest, &host, "the guest", &err), -ENOTSUP);
	assert_string_equal(err.field, "CPUID.80000021:EAX");
	assert_non_null(strstr(err.expected, "no_nested_data_bp (bit 0), lfence_rdtsc (bit 2)"));
}

static void vendors(void **state)
{
	struct cpuid_table host, guest;

	(void)state;
	for (unsigned int reg = 1; reg < 4; reg++) {
		struct error err = { 0 };

		make_host(&host);
		guest = host;
		++*cpuid_reg(&guest.entries[0], reg);
		assert_int_equal(cpuid_fits(&guest, &host, "the guest", &err), -ENOTSUP);
		assert_string_equal(err.field, "CPU vendor");
	}
	guest.head.nent = 0;
	assert_int_equal(cpuid_fits(&guest, &host, "the guest", NULL), -ENOTSUP);
	assert_int_equal(cpuid_fits(&host, &guest, "the guest", NULL), -ENOTSUP);
}

static void xsave_components(void **state)
{
	struct cpuid_table host, guest;
	struct error err = { 0 };

	(void)state;
	make_host(&host);
	guest = host;
	cpuid_find(&host, 0xd, 9)->ebx = 832; /* as processors without AVX-512 have it */
	assert_int_equal(cpuid_fits(&guest, &host, "the guest", &err), -ENOTSUP);
	assert_string_equal(err.field, "XSAVE area");
	assert_string_equal(err.expected, "component 9, of 8 bytes, at byte 2688");
	cpuid_find(&guest, 0xd, 0)->eax &= ~(1U << 9);
	assert_int_equal(cpuid_fits(&guest, &host, "the guest", NULL), 0);
	/* A component that has no leaf of its own. */
	cpuid_find(&guest, 0xd, 6)->index = 40;
	assert_int_equal(cpuid_fits(&guest, &host, "the guest", NULL), -ENOTSUP);
}

static void physical_addresses(void **state)
{
	struct cpuid_table host, guest;
	struct error err = { 0 };

	(void)state;
	make_host(&host);
	guest = host;
	cpuid_find(&guest, 0x80000008, 0)->eax--;
	assert_int_equal(cpuid_fits(&guest, &host, "the guest", NULL), 0);
	assert_int_equal(cpuid_fits(&host, &guest, "the guest", &err), -ENOTSUP);
	assert_string_equal(err.field, "physical addresses");
	assert_string_equal(err.got, "51 bits");
}

/* A machine tree with room for a table. */
static void *make_tree(void)
{
	struct machine_options opt = { .memory = 2UL << 20, .cpus = 1 };
	struct machine_tree *mt;
	void *fdt, *big = malloc(65536);

	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, NULL), 0);
	assert_int_equal(fdt_open_into(fdt, big, 65536), 0);
	free(fdt);
	return big;
}

static void through_a_tree(void **state)
{
	struct cpuid_table t, back;
	void *fdt = make_tree();

	(void)state;
	assert_int_equal(cpuid_from_tree(fdt, &back, NULL), -ENOENT);
	make_host(&t);
	assert_int_equal(cpuid_to_tree(&t, fdt), 0);
	assert_int_equal(cpuid_from_tree(fdt, &back, NULL), 0);
	assert_memory_equal(&back, &t, sizeof(t));
	/* As large as can be. */
	while (t.head.nent < CPUID_MAX)
		add_entry(&t, 0x1000 + t.head.nent, 0, 0, 1, 2, 3, 4);
	assert_int_equal(cpuid_to_tree(&t, fdt), 0);
	assert_int_equal(cpuid_from_tree(fdt, &back, NULL), 0);
	assert_memory_equal(&back, &t, sizeof(t));
	assert_int_equal(fdt_pack(fdt), 0);
	assert_int_equal(cpuid_to_tree(&t, fdt), 0); /* in place */
	t.head.nent = 0;
	assert_int_equal(cpuid_to_tree(&t, fdt), 0);
	assert_int_equal(cpuid_from_tree(fdt, &back, NULL), 0);
	assert_int_equal(back.head.nent, 0);
	free(fdt);
}

static void hostile_properties(void **state)
{
	void *fdt = make_tree(), *cells = calloc(1, 129 * 28);
	int node = fdt_path_offset(fdt, "/cpus");
	struct cpuid_table t;

	(void)state;
	for (int len = 0; len <= 129 * 28; len++) {
		struct error err = { 0 };
		int ret;

		assert_int_equal(fdt_setprop(fdt, node, "ferry,cpuid", cells, len), 0);
		ret = cpuid_from_tree(fdt, &t, &err);
		/* Two of them are one leaf twice. */
		assert_int_equal(ret, len == 0 || len == 28 ? 0 : -EINVAL);
		assert_string_equal(err.field, ret == 0			? ""
					       : len % 28 || len > 3584 ? "ferry,cpuid"
									: "CPUID.0.0");
	}
	free(cells);
	free(fdt);
}

static uint32_t ceil_log2(uint32_t n)
{
	uint32_t bits = 0;

	while (1U << bits < n)
		bits++;
	return bits;
}

static void check_topology(struct cpuid_table *t, uint32_t id, uint32_t n)
{
	const struct kvm_cpuid_entry2 *e = cpuid_entry(t, 1, 0);

	assert_int_equal(e->ebx, id << 24 | n << 16 | 0x800);
	assert_int_equal(e->edx >> 28 & 1, n > 1);
	e = cpuid_entry(t, 4, 1);
	assert_int_equal(e->eax >> 26, n - 1);
	assert_int_equal(e->eax >> 14 & 0xfff, 0); /* each core has its own */
	assert_int_equal(e->eax & 0x3fff, 0x122);
	e = cpuid_entry(t, 0xb, 0);
	assert_true(e->eax == 0 && e->ebx == 1 && e->ecx == 0x100 && e->edx == id);
	e = cpuid_entry(t, 0xb, 1);
	assert_true(e->eax == ceil_log2(n) && e->ebx == n && e->ecx == 0x201 && e->edx == id);
	e = cpuid_entry(t, 0x1f, 0);
	assert_true(e->eax == 0 && e->ebx == 1 && e->ecx == 0x100 && e->edx == id);
	e = cpuid_entry(t, 0x80000008, 0);
	assert_int_equal(e->ecx & 0xff, n - 1);
	assert_int_equal(e->ecx >> 12 & 0xf, ceil_log2(n));
	assert_int_equal(e->eax, 0x00303934);
	e = cpuid_entry(t, 0x8000001e, 0);
	assert_true(e->eax == id && e->ebx == id && e->ecx == 0);
}

static void topology_of_1_to_32_vcpus(void **state)
{
	struct cpuid_table host, t;

	(void)state;
	make_host(&host);
	for (uint32_t n = 1; n <= 32; n++) {
		for (uint32_t id = 0; id < n; id++) {
			t = host;
			cpuid_set_topology(&t, id, n);
			check_topology(&t, id, n);
			/* Nothing is left of what was there before, and nothing else changed. */
			cpuid_set_topology(&t, 3, 4);
			check_topology(&t, 3, 4);
			assert_int_equal(cpuid_fits(&t, &host, "x", NULL), 0);
			assert_int_equal(cpuid_fits(&host, &t, "x", NULL), 0);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_table),
		cmocka_unit_test(leaves_that_are_there_twice),
		cmocka_unit_test(significant_and_insignificant),
		cmocka_unit_test(unknown_flags_and_counts),
		cmocka_unit_test(each_feature_is_asked_for),
		cmocka_unit_test(a_leaf_that_the_host_lacks),
		cmocka_unit_test(vendors),
		cmocka_unit_test(xsave_components),
		cmocka_unit_test(physical_addresses),
		cmocka_unit_test(through_a_tree),
		cmocka_unit_test(hostile_properties),
		cmocka_unit_test(topology_of_1_to_32_vcpus),
	};

	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
