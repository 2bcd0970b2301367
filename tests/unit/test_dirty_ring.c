/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading a dirty ring, with a thread that fills it as KVM does. */
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/dirty-ring.h"
#include "vmm/memory.h"

#define MIB	(1UL << 20)
#define ENTRIES 64U

/* Two regions of 1024 pages. */
static struct memory new_memory(void)
{
	struct error err = { 0 };
	struct memory mem;

	assert_int_equal(memory_alloc(&mem, 8 * MIB, MEMORY_ANON, 4 * MIB, 1UL << 32, &err), 0);
	return mem;
}

static unsigned int count(struct memory *mem, unsigned int region, uint64_t *bitmap)
{
	unsigned int n = 0;

	memset(bitmap, 0, 1024 / 8);
	memory_fetch_own(&mem->regions[region], 0, 1024, bitmap);
	for (unsigned int i = 0; i < 1024 / 64; i++)
		n += (unsigned int)__builtin_popcountll(bitmap[i]);
	return n;
}

/* What KVM does to note a page. False: the entry has not been given back. */
static bool push(struct kvm_dirty_gfn *ring, uint32_t at, uint32_t slot, uint64_t offset)
{
	struct kvm_dirty_gfn *e = &ring[at % ENTRIES];

	if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) != 0)
		return false;
	e->slot = slot;
	e->offset = offset;
	__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	return true;
}

static void entries_become_bits(void **state)
{
	struct kvm_dirty_gfn ring[ENTRIES] = { 0 };
	struct memory mem = new_memory();
	uint64_t bitmap[1024 / 64];
	uint32_t next = UINT32_MAX - 1; /* the index wraps */

	(void)state;
	push(ring, UINT32_MAX - 1, 0, 5);
	push(ring, UINT32_MAX, 1, 1023);
	push(ring, 0, 1, 64);
	assert_int_equal(dirty_ring_read(&mem, ring, ENTRIES, &next), 3);
	assert_int_equal(next, 1);
	assert_int_equal(count(&mem, 0, bitmap), 1);
	assert_true(bitmap[0] == 1UL << 5);
	assert_int_equal(count(&mem, 1, bitmap), 2);
	assert_true(bitmap[1] == 1 && bitmap[15] == 1UL << 63);
	/* They are given back, and not read again. */
	assert_int_equal(ring[0].flags, KVM_DIRTY_GFN_F_RESET);
	assert_int_equal(dirty_ring_read(&mem, ring, ENTRIES, &next), 0);
	memory_free(&mem);
}

static void a_full_ring_is_read_once(void **state)
{
	struct kvm_dirty_gfn ring[ENTRIES] = { 0 };
	struct memory mem = new_memory();
	uint64_t bitmap[1024 / 64];
	uint32_t next = 10;

	(void)state;
	for (uint32_t i = 0; i < ENTRIES; i++)
		assert_true(push(ring, 10 + i, 0, i));
	assert_false(push(ring, 10 + ENTRIES, 0, 0));
	assert_int_equal(dirty_ring_read(&mem, ring, ENTRIES, &next), ENTRIES);
	assert_int_equal(count(&mem, 0, bitmap), ENTRIES);
	memory_free(&mem);
}

/* The address space of SMM is the same RAM; what is no RAM of ours is left out. */
static void strange_entries(void **state)
{
	struct kvm_dirty_gfn ring[ENTRIES] = { 0 };
	struct memory mem = new_memory();
	uint64_t bitmap[1024 / 64];
	uint32_t next = 0;

	(void)state;
	push(ring, 0, 1 << 16, 7);
	push(ring, 1, 2, 0);
	push(ring, 2, 0, 1024);
	push(ring, 3, 0, UINT64_MAX >> PAGE_SHIFT);
	push(ring, 4, 0, 1UL << 52);
	push(ring, 5, 0xffff, UINT64_MAX);
	assert_int_equal(dirty_ring_read(&mem, ring, ENTRIES, &next), 6);
	assert_int_equal(count(&mem, 0, bitmap), 1);
	assert_int_equal(count(&mem, 1, bitmap), 0);
	memory_free(&mem);
}

struct race {
	struct kvm_dirty_gfn ring[ENTRIES];
	struct memory mem;
};

#define PAGES 20000U

/* KVM and KVM_RESET_DIRTY_RINGS: an entry that was given back is used again. */
static void *fill(void *opaque)
{
	struct race *r = opaque;

	for (uint32_t i = 0; i < PAGES;) {
		struct kvm_dirty_gfn *e = &r->ring[i % ENTRIES];

		if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_RESET)
			__atomic_store_n(&e->flags, 0, __ATOMIC_RELEASE);
		i += push(r->ring, i, 1, i % 1024);
	}
	return NULL;
}

static void none_is_lost_while_it_fills(void **state)
{
	struct race *r = calloc(1, sizeof(*r));
	uint64_t bitmap[1024 / 64];
	uint32_t next = 0;
	unsigned int sum = 0;
	pthread_t thread;

	(void)state;
	r->mem = new_memory();
	assert_int_equal(pthread_create(&thread, NULL, fill, r), 0);
	while (sum < PAGES)
		sum += dirty_ring_read(&r->mem, r->ring, ENTRIES, &next);
	pthread_join(thread, NULL);
	assert_int_equal(sum, PAGES);
	assert_int_equal(count(&r->mem, 1, bitmap), 1024);
	memory_free(&r->mem);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_become_bits),
		cmocka_unit_test(a_full_ring_is_read_once),
		cmocka_unit_test(strange_entries),
		cmocka_unit_test(none_is_lost_while_it_fills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
