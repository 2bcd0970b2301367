/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which pages were written: KVM's dirty log for the guest's writes, our own bits for the VMM's. The
 * log is a bitmap, or a ring for each vCPU (dirty-ring.c), which ends up in our own bits.
 *
 * Logging is on only while somebody migrates. With manual protection a fetch leaves KVM's bits set,
 * and dirty_log_clear() takes them chunk by chunk just before the chunk is sent, so that pages
 * written in the meantime are not sent twice.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/dirty-ring.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

int dirty_log_start(struct vm *vm, struct error *err)
{
	int ret;

	if (vm->fd >= 0) {
		ret = kvm_set_slots(vm, true, err);
		if (ret < 0) {
			kvm_set_slots(vm, false, NULL);
			return ret;
		}
	}
	vm->dirty_logging = true;
	return 0;
}

void dirty_log_stop(struct vm *vm)
{
	if (!vm->dirty_logging)
		return;
	if (vm->fd >= 0)
		kvm_set_slots(vm, false, NULL);
	vm->dirty_logging = false;
}

uint64_t dirty_log_count(const struct vm *vm, unsigned int vcpu)
{
	return vm->ring_entries ? vm->vcpus[vcpu]->ring_pages : vcpu_faults(vm->vcpus[vcpu]);
}

bool dirty_log_running(const struct vm *vm)
{
	return vm->dirty_logging;
}

static int fetch_ring(struct vm *vm, struct memory_region *region, uint64_t *bitmap,
		      struct error *err)
{
	int ret;

	pthread_mutex_lock(&vm->ring_lock);
	ret = dirty_ring_collect(vm, err);
	if (ret == 0)
		memory_fetch_own(region, 0, region->size >> PAGE_SHIFT, bitmap);
	pthread_mutex_unlock(&vm->ring_lock);
	return ret;
}

int dirty_log_fetch(struct vm *vm, struct memory_region *region, uint64_t *bitmap,
		    struct error *err)
{
	uint64_t pages = region->size >> PAGE_SHIFT;
	size_t words = (pages + 63) / 64;
	struct kvm_dirty_log log = { .slot = region->slot };
	uint64_t *kvm;
	int ret = 0;

	if (vm->ring_entries)
		return fetch_ring(vm, region, bitmap, err);
	memory_fetch_own(region, 0, pages, bitmap);
	if (vm->fd < 0)
		return 0;
	kvm = calloc(words, sizeof(*kvm));
	if (!kvm)
		return error_set(err, -ENOMEM, "dirty log", "memory", "", "memory for a bitmap",
				 "none");
	log.dirty_bitmap = kvm;
	if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0)
		ret = error_set(err, -errno, "dirty log", "memory", "", "KVM's bitmap", "%m");
	for (size_t i = 0; ret == 0 && i < words; i++)
		bitmap[i] |= kvm[i];
	free(kvm);
	return ret;
}

int dirty_log_clear(struct vm *vm, struct memory_region *region, uint64_t first, uint64_t n,
		    const uint64_t *bitmap, struct error *err)
{
	struct kvm_clear_dirty_log clear = {
		.slot = region->slot,
		.num_pages = (uint32_t)n,
		.first_page = first,
		.dirty_bitmap = (void *)(uintptr_t)(bitmap + first / 64),
	};

	if (vm->fd < 0 || !vm->manual_protect)
		return 0;
	if (ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
		return error_set(err, -errno, "dirty log", "memory", "", "cleared bits",
				 "%m at page %llu", (unsigned long long)first);
	return 0;
}
