/* SPDX-License-Identifier: BSD-2-Clause */
/* CPU models: the named ones, the common one of several hosts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpuid-fixture.h"
#include "vmm/x86/model.h"

static void build(const char *name, const struct cpuid_table *host, struct cpuid_table *out)
{
	struct error err = { 0 };

	if (model_build(name, host, out, &err) < 0)
		fail_msg("%s: %s: expected %s, found %s", name, err.field, err.expected, err.got);
	assert_int_equal(cpuid_check(out, NULL), 0);
	assert_int_equal(cpuid_fits(out, host, name, NULL), 0);
}

static void host_is_all(void **state)
{
	struct cpuid_table host, t;

	(void)state;
	make_host(&host);
	build("host", &host, &t);
	assert_memory_equal(&t, &host, sizeof(t));
	assert_true(model_is_name("host") && model_is_name("x86-64-v2"));
	assert_false(model_is_name("x86-64-v9") || model_is_name("") || model_is_name("Host"));
	assert_int_equal(model_build("x86-64-v9", &host, &t, NULL), -EINVAL);
}

static void has(const struct cpuid_table *t, bool expected, const char *const *names)
{
	for (; *names; names++) {
		if (feature_has(t, *names) != expected)
			fail_msg("%s: expected %d", *names, expected);
	}
}

static const char *const v2[] = { "cx16",   "lahf_lm", "popcnt",       "sse3",	     "sse4_1",
				  "sse4_2", "ssse3",   "cmov",	       "cx8",	     "fpu",
				  "fxsr",   "mmx",     "syscall",      "sse",	     "sse2",
				  "lm",	    "x2apic",  "tsc_deadline", "hypervisor", "kvmclock",
				  "xsave",  NULL };
static const char *const v3[] = {
	"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", NULL
};
static const char *const none[] = { "avx512f",	   "avx512bw",
				    "avx512_vnni", "avx_vnni",
				    "avx512_bf16", "aes",
				    "pku",	   "vaes",
				    "pdpe1gb",	   "rdtscp",
				    "svm",	   "invtsc",
				    "xsaveopt",	   "xsavec",
				    "xsaves",	   "arch_capabilities",
				    "arat",	   "kvm_steal_time",
				    "clzero",	   "no_nested_data_bp",
				    NULL };

static void baselines(void **state)
{
	struct cpuid_table host, t;
	const struct kvm_cpuid_entry2 *e;

	(void)state;
	make_host(&host);
	build("x86-64-v2", &host, &t);
	has(&t, true, v2);
	has(&t, false, v3);
	has(&t, false, none);
	e = cpuid_entry(&t, 0xd, 0);
	assert_true(e->eax == 3 && e->ecx == 576 && e->ebx == 576 && e->edx == 0);
	assert_null(cpuid_entry(&t, 0xd, 2));
	e = cpuid_entry(&t, 0xd, 1);
	assert_true(e->eax == 0 && e->ebx == 0 && e->ecx == 0 && e->edx == 0);

	build("x86-64-v3", &host, &t);
	has(&t, true, v2);
	has(&t, true, v3);
	has(&t, false, none);
	e = cpuid_entry(&t, 0xd, 0);
	assert_true(e->eax == 7 && e->ecx == 832 && e->ebx == 832);
	assert_non_null(cpuid_entry(&t, 0xd, 2));
	assert_null(cpuid_entry(&t, 0xd, 5));
	assert_int_equal(cpuid_entry(&t, 0, 0)->eax, 0xd);
	assert_int_equal(cpuid_entry(&t, 0x80000000, 0)->eax, 0x80000008);
	assert_int_equal(cpuid_entry(&t, 0x80000008, 0)->eax, 0x3028);
	assert_int_equal(cpuid_entry(&t, 7, 0)->eax, 0);
	assert_null(cpuid_entry(&t, 7, 1));
	assert_null(cpuid_entry(&t, 0x1f, 0));
	assert_null(cpuid_entry(&t, 0x80000021, 0));
}

/* A guest with a baseline may go to a host that is poorer or richer than its first. */
static void baselines_fit_unlike_hosts(void **state)
{
	struct cpuid_table host, poor, a, b;

	(void)state;
	make_host(&host);
	poor = host;
	feature_clear(&poor, "avx512");
	feature_clear(&poor, "pku");
	feature_clear(&poor, "xsaves");
	cpuid_find(&poor, 0xd, 0)->eax = 7;
	cpuid_find(&poor, 0x80000008, 0)->eax = 0x3028;
	assert_int_equal(cpuid_fits(&host, &poor, "x", NULL), -ENOTSUP);
	for (unsigned int i = 2; i < 4; i++) {
		build(i == 2 ? "x86-64-v2" : "x86-64-v3", &host, &a);
		build(i == 2 ? "x86-64-v2" : "x86-64-v3", &poor, &b);
		assert_memory_equal(&a, &b, sizeof(a));
		assert_int_equal(cpuid_fits(&a, &poor, "x", NULL), 0);
	}
}

static void baselines_that_the_host_lacks(void **state)
{
	struct cpuid_table host, t;

	(void)state;
	for (const char *const *name = v2; *name; name++) {
		struct error err = { 0 };

		make_host(&host);
		set_feature(&host, *name, false);
		assert_int_equal(model_build("x86-64-v2", &host, &t, &err), -ENOTSUP);
		assert_non_null(strstr(err.expected, *name));
		assert_non_null(strstr(err.expected, "which x86-64-v2 has"));
	}
	for (const char *const *name = v3; *name; name++) {
		struct error err = { 0 };

		make_host(&host);
		set_feature(&host, *name, false);
		build("x86-64-v2", &host, &t);
		assert_int_equal(model_build("x86-64-v3", &host, &t, &err), -ENOTSUP);
		assert_non_null(strstr(err.expected, *name));
	}
}

static void baselines_of_hosts_without_whole_leaves(void **state)
{
	static const uint32_t leaves[] = { 0x1, 0x7, 0xd, 0x40000001, 0x80000001 };
	struct cpuid_table host, t;

	(void)state;
	for (unsigned int i = 0; i < 5; i++) {
		make_host(&host);
		for (uint32_t j = 0; j < host.head.nent; j++) {
			if (host.entries[j].function == leaves[i])
				host.entries[j].function = 0x50000000 + j;
		}
		assert_int_equal(model_build("x86-64-v3", &host, &t, NULL), -ENOTSUP);
	}
	memset(&host, 0, sizeof(host));
	assert_int_equal(model_build("x86-64-v2", &host, &t, NULL), -ENOTSUP);
}

static void the_common_model(void **state)
{
	struct cpuid_table a, b, ab, ba;
	const struct kvm_cpuid_entry2 *e;

	(void)state;
	make_host(&a);
	b = a;
	ab = a;
	assert_int_equal(model_intersect(&ab, &a, NULL), 0);
	assert_memory_equal(&ab, &a, sizeof(a)); /* nothing is lost */
	feature_clear(&b, "avx512");
	cpuid_find(&b, 0xd, 0)->eax &= ~(7U << 5);
	set_feature(&a, "fsgsbase", false);
	cpuid_find(&a, 0, 0)->eax = 0x16;
	cpuid_find(&b, 0x80000000, 0)->eax = 0x80000008;
	cpuid_find(&b, 0x80000008, 0)->eax = 0x302e;
	memset(&b.entries[--b.head.nent], 0, sizeof(b.entries[0])); /* 0x80000021 */
	ab = a;
	ba = b;
	assert_int_equal(model_intersect(&ab, &b, NULL), 0);
	assert_int_equal(model_intersect(&ba, &a, NULL), 0);
	assert_memory_equal(&ab, &ba, sizeof(ab));
	assert_int_equal(cpuid_check(&ab, NULL), 0);
	assert_int_equal(cpuid_fits(&ab, &a, "x", NULL), 0);
	assert_int_equal(cpuid_fits(&ab, &b, "x", NULL), 0);
	assert_false(feature_has(&ab, "avx512f") || feature_has(&ab, "fsgsbase"));
	assert_true(feature_has(&ab, "avx2") && feature_has(&ab, "pku"));
	e = cpuid_entry(&ab, 0xd, 0);
	assert_true(e->eax == 0x207 && e->ecx == 2696);
	assert_null(cpuid_entry(&ab, 0xd, 6));
	assert_int_equal(cpuid_entry(&ab, 0, 0)->eax, 0x16);
	assert_int_equal(cpuid_entry(&ab, 0x80000000, 0)->eax, 0x80000008);
	assert_int_equal(cpuid_entry(&ab, 0x80000008, 0)->eax, 0x302e);
}

static void components_at_different_places(void **state)
{
	struct cpuid_table a, b;

	(void)state;
	make_host(&a);
	b = a;
	cpuid_find(&b, 0xd, 9)->ebx = 832;
	assert_int_equal(model_intersect(&a, &b, NULL), 0);
	assert_false(feature_has(&a, "pku"));
	assert_true(feature_has(&a, "avx512f"));
	assert_int_equal(cpuid_entry(&a, 0xd, 0)->eax, 0xe7);
	assert_int_equal(cpuid_entry(&a, 0xd, 0)->ecx, 2688);
	assert_int_equal(cpuid_fits(&a, &b, "x", NULL), 0);
	/* And without XSAVE there is none of it. */
	make_host(&a);
	set_feature(&b, "xsave", false);
	assert_int_equal(model_intersect(&a, &b, NULL), 0);
	assert_int_equal(cpuid_entry(&a, 0xd, 0)->eax, 0);
	assert_int_equal(cpuid_entry(&a, 0xd, 0)->ecx, 0);
	assert_false(feature_has(&a, "avx") || feature_has(&a, "avx2") || feature_has(&a, "fma"));
}

static void vendors_differ(void **state)
{
	struct cpuid_table a, b;
	struct error err = { 0 };

	(void)state;
	make_host(&a);
	b = a;
	b.entries[0].ecx++;
	assert_int_equal(model_intersect(&a, &b, &err), -ENOTSUP);
	assert_string_equal(err.device, "CPU vendor");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_is_all),
		cmocka_unit_test(baselines),
		cmocka_unit_test(baselines_fit_unlike_hosts),
		cmocka_unit_test(baselines_that_the_host_lacks),
		cmocka_unit_test(baselines_of_hosts_without_whole_leaves),
		cmocka_unit_test(the_common_model),
		cmocka_unit_test(components_at_different_places),
		cmocka_unit_test(vendors_differ),
	};

	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
