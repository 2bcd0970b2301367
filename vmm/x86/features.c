/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names of feature bits: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; for leaf
 * 0x40000001 Linux Documentation/virt/kvm/x86/cpuid.rst. Spelled as /proc/cpuinfo does where it
 * has them. Bits of 0x80000001:EDX that repeat those of leaf 1 have no name of their own.
 */
#include "vmm/x86/features.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */
static const struct feature_word words[] = {
	{ 0x1, 0, 2, false, 0, "CPUID.1:ECX", {
		"sse3", "pclmulqdq", "dtes64", "monitor", "ds_cpl", "vmx", "smx", "est",
		"tm2", "ssse3", "cid", "sdbg", "fma", "cx16", "xtpr", "pdcm",
		[17] = "pcid", "dca", "sse4_1", "sse4_2", "x2apic", "movbe", "popcnt",
		"tsc_deadline", "aes", "xsave", "osxsave", "avx", "f16c", "rdrand", "hypervisor" } },
	{ 0x1, 0, 3, false, 1U << 28, "CPUID.1:EDX", {
		"fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic",
		[11] = "sep", "mtrr", "pge", "mca", "cmov", "pat", "pse36", "pn", "clflush",
		[21] = "dts", "acpi", "mmx", "fxsr", "sse", "sse2", "ss", "ht", "tm",
		[31] = "pbe" } },
	{ 0x6, 0, 0, false, 0, "CPUID.6:EAX", { "dtherm", "ida", "arat" } },
	{ 0x7, 0, 1, true, 0, "CPUID.7.0:EBX", {
		"fsgsbase", "tsc_adjust", "sgx", "bmi1", "hle", "avx2", "fdp_excptn_only", "smep",
		"bmi2", "erms", "invpcid", "rtm", "cqm", "zero_fcs_fds", "mpx", "rdt_a",
		"avx512f", "avx512dq", "rdseed", "adx", "smap", "avx512ifma",
		[23] = "clflushopt", "clwb", "intel_pt", "avx512pf", "avx512er", "avx512cd",
		"sha_ni", "avx512bw", "avx512vl" } },
	{ 0x7, 0, 2, true, 0, "CPUID.7.0:ECX", {
		"prefetchwt1", "avx512vbmi", "umip", "pku", "ospke", "waitpkg", "avx512_vbmi2",
		"shstk", "gfni", "vaes", "vpclmulqdq", "avx512_vnni", "avx512_bitalg", "tme",
		"avx512_vpopcntdq", [16] = "la57", [22] = "rdpid", "kl", "bus_lock_detect",
		"cldemote", [27] = "movdiri", "movdir64b", "enqcmd", "sgx_lc", "pks" } },
	{ 0x7, 0, 3, true, 0, "CPUID.7.0:EDX", {
		[1] = "sgx_keys", "avx512_4vnniw", "avx512_4fmaps", "fsrm", "uintr",
		[8] = "avx512_vp2intersect", "srbds_ctrl", "md_clear", "rtm_always_abort",
		[13] = "tsx_force_abort", "serialize", "hybrid", "tsxldtrk", [18] = "pconfig",
		"arch_lbr", "ibt", [22] = "amx_bf16", "avx512_fp16", "amx_tile", "amx_int8",
		"spec_ctrl", "intel_stibp", "flush_l1d", "arch_capabilities",
		"core_capabilities", "spec_ctrl_ssbd" } },
	{ 0x7, 1, 0, true, 0, "CPUID.7.1:EAX", {
		"sha512", "sm3", "sm4", [4] = "avx_vnni", "avx512_bf16", [7] = "cmpccxadd",
		[10] = "fzrm", "fsrs", "fsrc", [17] = "fred", "lkgs", "wrmsrns",
		[21] = "amx_fp16", "hreset", "avx_ifma", [26] = "lam" } },
	{ 0x7, 1, 3, true, 0, "CPUID.7.1:EDX", {
		[4] = "avx_vnni_int8", "avx_ne_convert", [8] = "amx_complex",
		[10] = "avx_vnni_int16", [14] = "prefetchi", [19] = "avx10", [21] = "apx_f" } },
	{ 0x7, 2, 3, true, 0, "CPUID.7.2:EDX", {
		"psfd", "ipred_ctrl", "rrsba_ctrl", "ddpd_u", "bhi_ctrl", "mcdt_no" } },
	{ 0xd, 0, 0, true, 0, "CPUID.D.0:EAX", {
		"xstate_x87", "xstate_sse", "xstate_avx", "xstate_bndregs", "xstate_bndcsr",
		"xstate_opmask", "xstate_zmm_hi256", "xstate_hi16_zmm", [9] = "xstate_pkru",
		[17] = "xstate_tilecfg", "xstate_tiledata", "xstate_apx" } },
	{ 0xd, 0, 3, true, 0, "CPUID.D.0:EDX", { NULL } },
	{ 0xd, 1, 0, true, 0, "CPUID.D.1:EAX", {
		"xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd" } },
	{ 0xd, 1, 2, true, 0, "CPUID.D.1:ECX", {
		[8] = "xstate_pt", [10] = "xstate_pasid", "xstate_cet_u", "xstate_cet_s" } },
	{ 0xd, 1, 3, true, 0, "CPUID.D.1:EDX", { NULL } },
	{ 0x40000001, 0, 0, false, 0, "CPUID.40000001:EAX", {
		"kvmclock_old", "kvm_nop_io_delay", "kvm_mmu", "kvmclock", "kvm_asyncpf",
		"kvm_steal_time", "kvm_pv_eoi", "kvm_pv_unhalt", [9] = "kvm_pv_tlb_flush",
		"kvm_asyncpf_vmexit", "kvm_pv_ipi", "kvm_poll_control", "kvm_pv_sched_yield",
		"kvm_asyncpf_int", "kvm_msi_ext_dest_id", "kvm_hc_map_gpa_range",
		"kvm_migration_control", [24] = "kvmclock_stable" } },
	{ 0x80000001, 0, 2, false, 0, "CPUID.80000001:ECX", {
		"lahf_lm", "cmp_legacy", "svm", "extapic", "cr8_legacy", "abm", "sse4a",
		"misalignsse", "3dnowprefetch", "osvw", "ibs", "xop", "skinit", "wdt",
		[15] = "lwp", "fma4", "tce", [19] = "nodeid_msr", [21] = "tbm", "topoext",
		"perfctr_core", "perfctr_nb", [26] = "bpext", "ptsc", "perfctr_llc", "mwaitx" } },
	{ 0x80000001, 0, 3, false, 0, "CPUID.80000001:EDX", {
		[11] = "syscall", [19] = "mp", "nx", [22] = "mmxext", [25] = "fxsr_opt",
		"pdpe1gb", "rdtscp", [29] = "lm", "3dnowext", "3dnow" } },
	{ 0x80000007, 0, 3, false, 0, "CPUID.80000007:EDX", { [8] = "invtsc" } },
	{ 0x80000008, 0, 1, false, 0, "CPUID.80000008:EBX", {
		"clzero", "irperf", "xsaveerptr", [4] = "rdpru", [8] = "mcommit", "wbnoinvd",
		[12] = "amd_ibpb", [14] = "amd_ibrs", "amd_stibp", "amd_ibrs_always_on",
		"amd_stibp_always_on", [23] = "amd_ppin", "amd_ssbd", "virt_ssbd", "amd_ssb_no",
		"cppc", "amd_psfd", "btc_no", "amd_ibpb_ret" } },
	{ 0x8000000a, 0, 3, false, 0, "CPUID.8000000A:EDX", {
		"npt", "lbrv", "svm_lock", "nrip_save", "tsc_scale", "vmcb_clean", "flushbyasid",
		"decodeassists", [10] = "pausefilter", [12] = "pfthreshold", "avic",
		[15] = "v_vmsave_vmload", "vgif", [20] = "v_spec_ctrl", [25] = "vnmi" } },
	{ 0x80000021, 0, 0, false, 0, "CPUID.80000021:EAX", {
		"no_nested_data_bp", [2] = "lfence_rdtsc", [6] = "null_sel_clr_base",
		[8] = "autoibrs", "no_smm_ctl_msr" } },
};
/* clang-format on */

const struct feature_word *feature_word(unsigned int i)
{
	return i < sizeof(words) / sizeof(words[0]) ? &words[i] : NULL;
}

uint32_t feature_value(const struct cpuid_table *table, const struct feature_word *f)
{
	const struct kvm_cpuid_entry2 *e = cpuid_entry(table, f->function, f->index);
	uint32_t regs[4] = { 0 };

	if (e)
		memcpy(regs, &e->eax, sizeof(regs));
	return regs[f->reg];
}

void feature_set_value(struct cpuid_table *table, const struct feature_word *f, uint32_t value)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, f->function, f->index);

	if (e)
		*cpuid_reg(e, f->reg) = value;
}

bool feature_has(const struct cpuid_table *table, const char *name)
{
	const struct feature_word *f;

	for_each_feature_word(f)
	{
		for (unsigned int bit = 0; bit < 32; bit++) {
			if (f->bits[bit] && strcmp(f->bits[bit], name) == 0)
				return feature_value(table, f) >> bit & 1;
		}
	}
	return false;
}

void feature_clear(struct cpuid_table *table, const char *prefix)
{
	const struct feature_word *f;

	for_each_feature_word(f)
	{
		uint32_t mask = 0;

		for (unsigned int bit = 0; bit < 32; bit++) {
			if (f->bits[bit] && strncmp(f->bits[bit], prefix, strlen(prefix)) == 0)
				mask |= 1U << bit;
		}
		feature_set_value(table, f, feature_value(table, f) & ~mask);
	}
}

const char *feature_list(const struct feature_word *f, uint32_t value, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = 0;
	for (unsigned int bit = 0; bit < 32 && len < size; bit++) {
		const char *name = f->bits[bit];

		if (!(value >> bit & 1))
			continue;
		len += (size_t)snprintf(buf + len, size - len,
					name ? "%s%s (bit %u)" : "%s%sbit %u", len ? ", " : "",
					name ? name : "", bit);
	}
	return buf;
}
