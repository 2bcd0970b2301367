/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The CPU model: one table of CPUID leaves for the whole machine, kept in /cpus of the machine tree
 * so that the destination of a migration gives its guest the very same one, or refuses by name.
 */
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/kvm.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"
#include "vmm/x86/x86.h"

#define PROP_CPUID	       "ferry,cpuid"
#define CELLS		       7 /* function, index, flags, eax, ebx, ecx, edx */
#define CPUID_1_ECX_DEADLINE   (1U << 24)
#define CPUID_1_ECX_HYPERVISOR (1U << 31)

/* Where CPUID has feature bits (SDM volume 2, CPUID; KVM's CPUID bits documentation). */
static const struct feature_word {
	uint32_t function, index;
	unsigned int reg; /* 0 to 3: eax to edx */
	const char *name;
} feature_words[] = {
	{ 0x1, 0, 2, "CPUID.1:ECX" },
	{ 0x1, 0, 3, "CPUID.1:EDX" },
	{ 0x7, 0, 1, "CPUID.7.0:EBX" },
	{ 0x7, 0, 2, "CPUID.7.0:ECX" },
	{ 0x7, 0, 3, "CPUID.7.0:EDX" },
	{ 0x7, 1, 0, "CPUID.7.1:EAX" },
	{ 0xd, 0, 0, "CPUID.D.0:EAX" },
	{ 0xd, 1, 0, "CPUID.D.1:EAX" },
	{ 0x40000001, 0, 0, "CPUID.40000001:EAX" },
	{ 0x80000001, 0, 2, "CPUID.80000001:ECX" },
	{ 0x80000001, 0, 3, "CPUID.80000001:EDX" },
	{ 0x80000007, 0, 3, "CPUID.80000007:EDX" },
	{ 0x80000008, 0, 1, "CPUID.80000008:EBX" },
};

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *table, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < table->nent; i++) {
		struct kvm_cpuid_entry2 *e = &table->entries[i];

		if (e->function == function &&
		    (e->index == index || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return e;
	}
	return NULL;
}

static uint32_t word(struct kvm_cpuid2 *table, const struct feature_word *f)
{
	const struct kvm_cpuid_entry2 *e = find(table, f->function, f->index);
	uint32_t regs[4] = { 0 };

	if (e)
		memcpy(regs, &e->eax, sizeof(regs));
	return regs[f->reg];
}

/* What this host can give a guest. */
static int host_table(struct vm *vm, struct kvm_cpuid2 *table, struct error *err)
{
	struct kvm_cpuid_entry2 *leaf1;

	table->nent = CPUID_MAX;
	if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, table) < 0)
		return error_set(err, -errno, "kvm", "cpus", "CPUID", "KVM's table", "%m");
	leaf1 = find(table, 1, 0);
	if (!leaf1)
		return error_set(err, -ENOTSUP, "kvm", "cpus", "CPUID", "leaf 1", "none");
	/* KVM leaves these two to the VMM: the guest finds kvmclock only with the first. */
	leaf1->ecx |= CPUID_1_ECX_HYPERVISOR;
	if (kvm_extension(vm, KVM_CAP_TSC_DEADLINE_TIMER))
		leaf1->ecx |= CPUID_1_ECX_DEADLINE;
	return 0;
}

static int check_host(struct kvm_cpuid2 *guest, struct kvm_cpuid2 *host, struct error *err)
{
	const struct kvm_cpuid_entry2 *g = find(guest, 0, 0), *h = find(host, 0, 0);

	if (!g || !h || memcmp(&g->ebx, &h->ebx, 12) != 0)
		return error_set(err, -ENOTSUP, "realize", "cpus", "CPU vendor",
				 "the vendor the guest was started on", "another");
	for (unsigned int i = 0; i < sizeof(feature_words) / sizeof(feature_words[0]); i++) {
		const struct feature_word *f = &feature_words[i];
		uint32_t wants = word(guest, f), has = word(host, f);

		if (wants & ~has) {
			error_set(err, -ENOTSUP, "realize", "cpus", f->name, "", "0x%08x", has);
			error_expected(err, "a host CPU with bit %d, of 0x%08x",
				       __builtin_ctz(wants & ~has), wants);
			return -ENOTSUP;
		}
	}
	return 0;
}

static int from_tree(const fdt32_t *cells, int len, struct kvm_cpuid2 *table, struct error *err)
{
	if (len % (CELLS * 4) || len / (CELLS * 4) > CPUID_MAX)
		return error_set(err, -EINVAL, "realize", "cpus", PROP_CPUID,
				 "up to 128 entries of 7 cells", "%d bytes", len);
	table->nent = (uint32_t)len / (CELLS * 4);
	for (uint32_t i = 0; i < table->nent; i++, cells += CELLS) {
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
	return 0;
}

/* A destination builds the guest's CPUs from this instead of from its own. */
static int to_tree(struct vm *vm, const struct x86_vm *x86, struct error *err)
{
	uint32_t n = x86->cpuid.head.nent;
	size_t size = fdt_totalsize(vm->tree) + (size_t)n * CELLS * 4 + 256;
	void *tree = realloc(vm->tree, size);
	fdt32_t *cells;
	int node, ret;

	if (!tree)
		return error_set(err, -ENOMEM, "realize", "cpus", "", "memory", "none");
	vm->tree = tree;
	ret = fdt_open_into(tree, tree, (int)size);
	node = fdt_path_offset(tree, "/cpus");
	ret = ret ? ret : fdt_setprop_u32(tree, node, "ferry,tsc-khz", x86->tsc_khz);
	if (ret == 0)
		ret = fdt_setprop_placeholder(tree, node, PROP_CPUID, (int)(n * CELLS * 4),
					      (void **)&cells);
	for (uint32_t i = 0; ret == 0 && i < n; i++, cells += CELLS) {
		const struct kvm_cpuid_entry2 *e = &x86->cpuid.entries[i];
		uint32_t row[CELLS] = { e->function, e->index, e->flags, e->eax,
					e->ebx,	     e->ecx,   e->edx };

		for (unsigned int j = 0; j < CELLS; j++)
			fdt32_st(&cells[j], row[j]);
	}
	ret = ret ? ret : fdt_pack(tree);
	if (ret)
		return error_set(err, -EINVAL, "realize", "cpus", PROP_CPUID, "room in the tree",
				 "%s", fdt_strerror(ret));
	return 0;
}

int x86_cpuid_init(struct vm *vm, struct error *err)
{
	struct x86_vm *x86 = vm->arch;
	int node = fdt_path_offset(vm->tree, "/cpus");
	const fdt32_t *cells, *khz;
	struct kvm_cpuid2 *host;
	int len, ret;

	khz = fdt_getprop(vm->tree, node, "ferry,tsc-khz", &len);
	x86->tsc_khz = khz && len == 4 ? fdt32_ld(khz) : 0;
	cells = fdt_getprop(vm->tree, node, PROP_CPUID, &len);
	if (!cells) {
		int host_khz = ioctl(vm->fd, KVM_GET_TSC_KHZ, 0);

		x86->tsc_khz = host_khz > 0 ? (uint32_t)host_khz : 0;
		ret = host_table(vm, &x86->cpuid.head, err);
		return ret ? ret : to_tree(vm, x86, err);
	}
	host = calloc(1, sizeof(x86->cpuid));
	if (!host)
		return error_set(err, -ENOMEM, "realize", "cpus", "", "memory", "none");
	ret = from_tree(cells, len, &x86->cpuid.head, err);
	ret = ret ? ret : host_table(vm, host, err);
	ret = ret ? ret : check_host(&x86->cpuid.head, host, err);
	free(host);
	return ret;
}

/* One package, a core a vCPU, APIC id = index. */
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

int x86_cpuid_set(struct vcpu *vcpu, unsigned int n_vcpus, struct error *err)
{
	const struct x86_vm *x86 = vcpu->vm->arch;
	struct kvm_cpuid2 *table = malloc(sizeof(x86->cpuid));
	int ret = 0;

	if (!table)
		return error_set(err, -ENOMEM, "realize", "cpus", "", "memory", "none");
	memcpy(table, &x86->cpuid, sizeof(x86->cpuid));
	for (uint32_t i = 0; i < table->nent; i++)
		set_topology(&table->entries[i], vcpu->index, n_vcpus);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, table) < 0)
		ret = error_set(err, -errno, "realize", "cpus", "CPUID", "a table that KVM takes",
				"%m");
	free(table);
	return ret;
}
