/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The dirty ring: KVM notes each page that a vCPU dirties in a ring of that vCPU's, which is mapped
 * here (KVM API 8.29, KVM_CAP_DIRTY_LOG_RING). Reading it costs by what was written, the bitmap by
 * how much RAM there is; and it tells which vCPU wrote. On the other hand a vCPU whose ring is full
 * has to leave the guest, and each page is noted one by one.
 *
 * It is chosen before there are vCPUs, and then there is no bitmap. What is read from a ring
 * becomes bits among those of our own writes (memory.h). The order that loses no write: read the
 * entries, have KVM make their pages read-only again, and only then let anybody fetch these bits
 * and look at the pages. So both is done under one lock; nothing is locked under it.
 */
#include "vmm/dirty-ring.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/param.h>

#include "vmm/kvm.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

/* Entries of a ring; 16 bytes each, so 64 KiB a vCPU, and 16 MiB written to before it is full. */
#define ENTRIES 4096U
/* From where on `auto` takes the ring; why: tests/bench/README.md, "Dirty log". */
#define AUTO_BYTES (64ULL << 30)

const char *dirty_tracking_name(enum dirty_tracking tracking)
{
	static const char *const names[] = {
		[DIRTY_AUTO] = "auto", [DIRTY_BITMAP] = "bitmap", [DIRTY_RING] = "ring"
	};

	return names[tracking];
}

int dirty_ring_enable(struct vm *vm, struct error *err)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL };
	unsigned int max = (unsigned int)kvm_extension(vm, cap.cap);
	enum dirty_tracking wanted = vm->dirty_tracking;

	if (!max) {
		cap.cap = KVM_CAP_DIRTY_LOG_RING;
		max = (unsigned int)kvm_extension(vm, cap.cap);
	}
	vm->ring_entries = 0;
	if (wanted == DIRTY_BITMAP ||
	    (wanted == DIRTY_AUTO && (!max || vm->memory.size < AUTO_BYTES)))
		return 0;
	if (!max)
		return error_set(err, -ENOTSUP, "kvm", "dirty ring", "", "a kernel that has it",
				 "one that has not (--dirty bitmap does without)");
	cap.args[0] = MIN(max, ENTRIES * sizeof(struct kvm_dirty_gfn));
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap) < 0)
		return error_set(err, -errno, "kvm", "dirty ring", "", "to be enabled", "%m");
	vm->ring_entries = (uint32_t)(cap.args[0] / sizeof(struct kvm_dirty_gfn));
	return 0;
}

int dirty_ring_map(struct vcpu *vcpu)
{
	size_t size = vcpu->vm->ring_entries * sizeof(*vcpu->ring);
	void *ring;

	if (!size)
		return 0;
	ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd,
		    KVM_DIRTY_LOG_PAGE_OFFSET * (off_t)PAGE_SIZE);
	if (ring == MAP_FAILED)
		return -errno;
	vcpu->ring = ring;
	return 0;
}

void dirty_ring_unmap(struct vcpu *vcpu)
{
	if (vcpu->ring)
		munmap(vcpu->ring, vcpu->vm->ring_entries * sizeof(*vcpu->ring));
	vcpu->ring = NULL;
}

/* Slots are numbered as regions are; the upper half is the address space, which x86 has for SMM. */
static void mark(const struct memory *mem, const struct kvm_dirty_gfn *e)
{
	uint64_t slot = e->slot & 0xffff, offset = e->offset;

	if (slot < mem->n_regions && offset < mem->regions[slot].size >> PAGE_SHIFT)
		memory_mark_dirty(mem, mem->regions[slot].gpa + (offset << PAGE_SHIFT), PAGE_SIZE);
}

unsigned int dirty_ring_read(const struct memory *mem, struct kvm_dirty_gfn *ring, uint32_t entries,
			     uint32_t *next)
{
	unsigned int n = 0;

	/* KVM writes the flag last and waits for ours before it uses an entry again. */
	for (; n < entries; n++, ++*next) {
		struct kvm_dirty_gfn *e = &ring[*next % entries];

		if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		mark(mem, e);
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	return n;
}

/*
 * Have KVM take back the @n entries that were read, and see the next write to their pages. From
 * Linux 6.17 on a signal makes it stop before the last one, so there is none meanwhile, and it is
 * asked again.
 */
static int reset_rings(struct vm *vm, unsigned int n, struct error *err)
{
	sigset_t all, old;
	int ret = 1;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (unsigned int done = 0; done < n && ret > 0; done += (unsigned int)ret)
		ret = ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, 0);
	if (ret < 0)
		ret = -errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret > 0)
		return 0;
	return error_set(err, ret ? ret : -EIO, "dirty log", "memory", "", "KVM's rings reset",
			 "%s", ret ? strerror(-ret) : "not all of them");
}

int dirty_ring_collect(struct vm *vm, struct error *err)
{
	unsigned int sum = 0;

	for (unsigned int i = 0; i < vm->n_vcpus; i++) {
		struct vcpu *vcpu = vm->vcpus[i];
		unsigned int n = dirty_ring_read(&vm->memory, vcpu->ring, vm->ring_entries,
						 &vcpu->ring_next);

		vcpu->ring_pages += n;
		sum += n;
	}
	return reset_rings(vm, sum, err);
}

int dirty_ring_full(struct vcpu *vcpu)
{
	int ret;

	vcpu->vm->ring_full++;
	pthread_mutex_lock(&vcpu->vm->ring_lock);
	ret = dirty_ring_collect(vcpu->vm, NULL);
	pthread_mutex_unlock(&vcpu->vm->ring_lock);
	return ret;
}
