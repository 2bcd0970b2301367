/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which vCPU dirties memory, where only the bitmap tells that somebody does: as the dirty log makes
 * pages read-only, each page's first write since then is a page fault, and KVM counts these for
 * each vCPU (KVM API 4.133, KVM_GET_STATS_FD; the names are those of struct kvm_vcpu_stat). A
 * processor that logs writes itself (Intel's page modification log) takes no fault for it: there
 * the counts say little, and whoever asks takes what is left over as everybody's.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/vcpu.h"

#define DESCRIPTORS_MAX 1024
#define NAME_MAX_BYTES	256

/* Faults that KVM mended, with its MMU lock and without. */
static const char *const counted[VCPU_FAULT_STATS] = { "pf_fixed", "pf_fast" };

static void find(struct vcpu *vcpu, const struct kvm_stats_header *h, const char *block,
		 size_t each)
{
	for (unsigned int i = 0; i < h->num_desc; i++) {
		struct kvm_stats_desc desc;
		const char *name = block + i * each + sizeof(desc);

		memcpy(&desc, block + i * each, sizeof(desc));
		for (unsigned int k = 0; k < VCPU_FAULT_STATS; k++) {
			if (desc.size == 1 && strncmp(name, counted[k], h->name_size) == 0)
				vcpu->faults_at[k] = (int64_t)h->data_offset + desc.offset;
		}
	}
}

void vcpu_faults_open(struct vcpu *vcpu)
{
	struct kvm_stats_header h;
	size_t each, size;
	char *block;

	vcpu->stats_fd = ioctl(vcpu->fd, KVM_GET_STATS_FD, NULL);
	if (vcpu->stats_fd < 0)
		return;
	if (pread(vcpu->stats_fd, &h, sizeof(h), 0) == sizeof(h) && h.num_desc <= DESCRIPTORS_MAX &&
	    h.name_size <= NAME_MAX_BYTES) {
		each = sizeof(struct kvm_stats_desc) + h.name_size;
		size = h.num_desc * each;
		block = malloc(size);
		if (block && pread(vcpu->stats_fd, block, size, h.desc_offset) == (ssize_t)size)
			find(vcpu, &h, block, each);
		free(block);
	}
	if (!vcpu->faults_at[0] && !vcpu->faults_at[1])
		vcpu_faults_close(vcpu);
}

uint64_t vcpu_faults(const struct vcpu *vcpu)
{
	uint64_t sum = 0, n;

	for (unsigned int k = 0; k < VCPU_FAULT_STATS && vcpu->stats_fd >= 0; k++) {
		if (vcpu->faults_at[k] &&
		    pread(vcpu->stats_fd, &n, sizeof(n), vcpu->faults_at[k]) == sizeof(n))
			sum += n;
	}
	return sum;
}

void vcpu_faults_close(struct vcpu *vcpu)
{
	if (vcpu->stats_fd >= 0)
		close(vcpu->stats_fd);
	vcpu->stats_fd = -1;
}
