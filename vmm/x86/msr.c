/* SPDX-License-Identifier: BSD-2-Clause */
/* Model specific registers: which ones a migration carries, reading and writing them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/x86/x86.h"

struct msr_batch {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[MSR_MAX];
};

/*
 * Left out: the TSC and its deadline, which have their own place in the order of a restore; the
 * capabilities of nested VMX (read-only, and no guest of ours uses them); Hyper-V's synthetic MSRs,
 * which no guest of ours is offered.
 */
static bool is_carried(uint32_t index)
{
	return index != MSR_TSC && index != MSR_TSC_DEADLINE && (index < 0x480 || index > 0x491) &&
	       (index < 0x40000000 || index > 0x400001ff);
}

int x86_msr_probe(struct x86_vm *x86, int kvm_fd, int vcpu_fd, struct error *err)
{
	struct {
		struct kvm_msr_list head;
		uint32_t indices[1024];
	} list = { .head.nmsrs = 1024 };

	if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &list) < 0)
		return error_set(err, -errno, "kvm", "cpus", "MSRs", "KVM's list", "%m");
	x86->n_msrs = 0;
	for (uint32_t i = 0; i < list.head.nmsrs; i++) {
		struct x86_msr msr = { .index = list.indices[i] };

		if (!is_carried(msr.index) || x86_msr_get(vcpu_fd, &msr, 1, NULL, "") < 0)
			continue;
		if (x86->n_msrs == MSR_MAX)
			return error_set(err, -E2BIG, "kvm", "cpus", "MSRs", "at most 256",
					 "%u listed", list.head.nmsrs);
		x86->msrs[x86->n_msrs++] = msr.index;
	}
	return 0;
}

int x86_msr_get(int vcpu_fd, struct x86_msr *msrs, uint32_t n, struct error *err,
		const char *device)
{
	struct msr_batch batch;
	int done;

	memset(&batch.head, 0, sizeof(batch.head));
	batch.head.nmsrs = n;
	for (uint32_t i = 0; i < n; i++)
		batch.entries[i] = (struct kvm_msr_entry){ .index = msrs[i].index };
	done = ioctl(vcpu_fd, KVM_GET_MSRS, &batch);
	if (done != (int)n)
		return error_set(err, -EIO, "save", device, "MSR", "to be readable", "0x%x is not",
				 msrs[done < 0 ? 0 : done].index);
	for (uint32_t i = 0; i < n; i++)
		msrs[i].value = batch.entries[i].data;
	return 0;
}

int x86_msr_set(int vcpu_fd, const struct x86_msr *msrs, uint32_t n, struct error *err,
		const char *device)
{
	while (n > 0) {
		struct msr_batch batch;
		struct x86_msr there;
		int done;

		memset(&batch.head, 0, sizeof(batch.head));
		batch.head.nmsrs = n;
		for (uint32_t i = 0; i < n; i++)
			batch.entries[i] = (struct kvm_msr_entry){ .index = msrs[i].index,
								   .data = msrs[i].value };
		done = ioctl(vcpu_fd, KVM_SET_MSRS, &batch);
		if (done < 0)
			return error_set(err, -errno, "load", device, "MSRs", "KVM to take them",
					 "%m");
		if (done == (int)n)
			return 0;
		msrs += done;
		n -= (uint32_t)done;
		there = (struct x86_msr){ .index = msrs->index }; /* 0 when the host lacks it */
		x86_msr_get(vcpu_fd, &there, 1, NULL, device);
		if (there.value != msrs->value) {
			error_set(err, -EINVAL, "load", device, "MSR", "",
				  "0x%x, which KVM refused to set to 0x%llx", msrs->index,
				  (unsigned long long)msrs->value);
			error_expected(err, "an MSR that this host has");
			return -EINVAL;
		}
		msrs++;
		n--;
	}
	return 0;
}
