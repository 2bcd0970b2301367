/* SPDX-License-Identifier: BSD-2-Clause */
/* The dirty ring, for dirty.c and for who makes vCPUs. */
#ifndef VMM_DIRTY_RING_H
#define VMM_DIRTY_RING_H

#include <linux/kvm.h>
#include <stdint.h>

#include "vmm/error.h"

struct memory;
struct vcpu;
struct vm;

/* Before vCPUs are made: choose as vm->dirty_tracking says, and enable it if that is the ring. */
int dirty_ring_enable(struct vm *vm, struct error *err);
/* Map the ring of a new vCPU, if there is one, and undo it. */
int dirty_ring_map(struct vcpu *vcpu);
void dirty_ring_unmap(struct vcpu *vcpu);

/*
 * With vm->ring_lock held: move all entries to the bits of memory_fetch_own(), and have KVM note
 * these pages again. Who fetches the bits does it under the same lock. @err may be NULL.
 */
int dirty_ring_collect(struct vm *vm, struct error *err);
/* The exit of a vCPU whose ring is full. Its own thread. */
int dirty_ring_full(struct vcpu *vcpu);

/* Read a ring of @entries from *@next on; how many there were. Entries outside RAM are passed over.
 */
unsigned int dirty_ring_read(const struct memory *mem, struct kvm_dirty_gfn *ring, uint32_t entries,
			     uint32_t *next);

#endif
