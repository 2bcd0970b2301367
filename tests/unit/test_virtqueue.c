/* SPDX-License-Identifier: BSD-2-Clause */
/* Split virtqueues, as a well-behaved and as a hostile guest uses them. The device is virtio-rng:
 * whatever is put into its queue comes back filled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest-virtio.h"

#define RING	 0x10000ULL
#define TABLE	 0x20000ULL /* of indirect descriptors */
#define BUFFER	 0x30000ULL
#define FEATURES (V1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT	 (1ULL << VIRTIO_RING_F_EVENT_IDX)

#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT
#define I VRING_DESC_F_INDIRECT

struct fixture {
	struct vm vm;
	struct device *dev;
	struct guest_queue gq;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	test_machine_init(&f->vm);
	f->dev = test_device(&f->vm, "virtio-rng", "", &err);
	assert_non_null(f->dev);
	guest_start(&f->gq, f->dev, FEATURES, 8, RING);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	test_machine_free(&f->vm);
	free(f);
	return 0;
}

static void indirect(struct fixture *f, unsigned int i, uint64_t addr, uint32_t len, uint16_t flags,
		     uint16_t next)
{
	struct vring_desc *d = ram(f->gq.vd, TABLE);

	d[i] = (struct vring_desc){ addr, len, flags, next };
}

/* One request came back with @len bytes, and the device is well. */
static void expect(struct fixture *f, uint32_t head, uint32_t len)
{
	uint32_t id, n;

	virtio_run_queue(f->gq.vd, 0);
	assert_true(guest_get(&f->gq, &id, &n));
	assert_int_equal(id, head);
	assert_int_equal(n, len);
	assert_false(guest_needs_reset(f->gq.vd));
}

/* The device wants a reset, told the guest so once, stays quiet, and works after the reset. */
static void expect_broken(struct fixture *f)
{
	struct virtio_device *vd = f->gq.vd;
	uint32_t id, n;

	guest_interrupts(vd);
	reg_write(vd, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	virtio_run_queue(vd, 0);
	assert_true(guest_needs_reset(vd));
	assert_int_equal(reg_read(vd, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(guest_interrupts(vd), 1);
	guest_desc(&f->gq, 0, BUFFER, 16, W, 0);
	guest_add(&f->gq, 0);
	virtio_run_queue(vd, 0);
	assert_false(guest_get(&f->gq, &id, &n));
	assert_int_equal(guest_interrupts(vd), 0);

	guest_start(&f->gq, f->dev, FEATURES, 8, RING);
	guest_desc(&f->gq, 0, BUFFER, 16, W, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 16);
}

static void one_buffer_is_filled(void **state)
{
	struct fixture *f = *state;
	const uint8_t *p = ram(f->gq.vd, BUFFER);
	unsigned int zeroes = 0;

	guest_desc(&f->gq, 3, BUFFER, 64, W, 0);
	guest_add(&f->gq, 3);
	expect(f, 3, 64);
	for (unsigned int i = 0; i < 64; i++)
		zeroes += p[i] == 0;
	assert_in_range(zeroes, 0, 10); /* of 64 random bytes */
	assert_int_equal(p[64], 0);
	assert_int_equal(reg_read(f->gq.vd, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	assert_int_equal(guest_interrupts(f->gq.vd), 1);
}

static void a_chain_may_lie_in_both_regions(void **state)
{
	struct fixture *f = *state;

	guest_desc(&f->gq, 0, RAM_LOW - 8, 8, N | W, 1);
	guest_desc(&f->gq, 1, RAM_HOLE, 8, N | W, 2);
	guest_desc(&f->gq, 2, RAM_HOLE + RAM_LOW - 8, 8, W, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 24);
}

static void indirect_descriptors_are_followed(void **state)
{
	struct fixture *f = *state;

	/* 2.7.5.3.2: ordinary descriptors, then one that refers to a table. */
	for (unsigned int i = 0; i < 20; i++)
		indirect(f, i, BUFFER + 64 * i, 16, i < 19 ? W | N : W, (uint16_t)(i + 1));
	guest_desc(&f->gq, 0, BUFFER + 0x1000, 16, W | N, 1);
	guest_desc(&f->gq, 1, TABLE, 20 * 16, I, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 21 * 16);
}

static void indices_wrap(void **state)
{
	struct fixture *f = *state;

	guest_desc(&f->gq, 0, BUFFER, 1, W, 0);
	for (unsigned int i = 0; i < 70000; i++) {
		guest_add(&f->gq, 0);
		virtio_run_queue(f->gq.vd, 0);
	}
	f->gq.next_used = (uint16_t)69999;
	expect(f, 0, 1);
}

/* A device whose guest adds one more chain whenever one is taken. */
struct flooded {
	struct virtio_ops ops;
	struct fixture *f;
	unsigned int served;
};

static void serve_flood(struct virtio_device *vd, unsigned int q)
{
	struct flooded *flooded = (struct flooded *)(uintptr_t)vd->ops;
	static struct virtq_chain chain;

	while (flooded->served < 1000 && virtq_pop(vd, q, &chain)) {
		virtq_push(vd, q, &chain, 0);
		virtq_flush(vd, q);
		guest_add(&flooded->f->gq, 0);
		flooded->served++;
	}
}

static void a_flood_does_not_hold_the_loop(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *vd = f->gq.vd;
	const struct virtio_ops *ops = vd->ops;
	struct flooded flooded = { .ops = *ops, .f = f };
	eventfd_t kicks;

	flooded.ops.handle_queue = serve_flood;
	vd->ops = &flooded.ops;
	guest_desc(&f->gq, 0, BUFFER, 1, W, 0);
	guest_add(&f->gq, 0);
	eventfd_read(vd->queue[0].kick, &kicks);
	virtio_run_queue(vd, 0);
	assert_int_equal(flooded.served, 8); /* the ring once around, and then a kick to go on */
	assert_int_equal(eventfd_read(vd->queue[0].kick, &kicks), 0);
	virtio_run_queue(vd, 0);
	assert_int_equal(flooded.served, 16);
	vd->ops = ops;
}

static void interrupts_can_be_turned_off(void **state)
{
	struct fixture *f = *state;
	uint16_t *avail = ram(f->gq.vd, f->gq.avail);

	avail[0] = VRING_AVAIL_F_NO_INTERRUPT;
	guest_desc(&f->gq, 0, BUFFER, 1, W, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 1);
	assert_int_equal(guest_interrupts(f->gq.vd), 0);
	assert_int_equal(reg_read(f->gq.vd, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

static void event_index_holds_interrupts_back(void **state)
{
	struct fixture *f = *state;

	guest_start(&f->gq, f->dev, FEATURES | EVENT, 8, RING);
	guest_desc(&f->gq, 0, BUFFER, 1, W, 0);
	guest_used_event(&f->gq, 2); /* when the third is used */
	for (unsigned int i = 0; i < 5; i++) {
		guest_add(&f->gq, 0);
		expect(f, 0, 1);
		assert_int_equal(guest_interrupts(f->gq.vd), i == 2);
		/* The device asks to be kicked for the next one, and for nothing earlier. */
		assert_int_equal(guest_avail_event(&f->gq), i + 1);
	}
}

static void zero_sized_queue_work_is_harmless(void **state)
{
	struct fixture *f = *state;

	/* Readable buffers only: nothing to write to. */
	guest_desc(&f->gq, 0, BUFFER, 64, 0, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 0);
}

static void dirty_marks_cover_what_was_written(void **state)
{
	struct fixture *f = *state;
	uint64_t pages[16];

	guest_start(&f->gq, f->dev, FEATURES | EVENT, 8, RING);
	test_dirty(&f->vm, pages, 16);
	/* Three pages of buffer of which the request limit reaches two; the last untouched. */
	guest_desc(&f->gq, 0, BUFFER + 0x800, 0x1000, W | N, 1);
	guest_desc(&f->gq, 1, BUFFER + 0x5000, 0x1000, W, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 4096);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 3);
	assert_int_equal(pages[0], f->gq.used);
	assert_int_equal(pages[1], BUFFER);
	assert_int_equal(pages[2], BUFFER + 0x1000);
	/* Nothing to do, nothing written. */
	virtio_run_queue(f->gq.vd, 0);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 0);
}

static void event_fields_are_marked_too(void **state)
{
	struct fixture *f = *state;
	uint64_t pages[4];

	/* Used ring of 256 entries that ends, with avail_event, on the next page. */
	f->gq.size = 64;
	guest_negotiate(f->gq.vd, FEATURES | EVENT);
	f->gq.used = RING + 3 * PAGE_SIZE - 4 - 8 * 64;
	f->gq.next_avail = f->gq.next_used = 0;
	memset(ram(f->gq.vd, RING), 0, 4 * PAGE_SIZE);
	guest_set_queue(&f->gq, 1);
	reg_write(f->gq.vd, VIRTIO_MMIO_STATUS, 15);
	test_dirty(&f->vm, pages, 4);
	guest_desc(&f->gq, 0, BUFFER, 8, W, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 8);
	assert_int_equal(test_dirty(&f->vm, pages, 4), 3);
	assert_int_equal(pages[0], RING + 2 * PAGE_SIZE);
	assert_int_equal(pages[1], RING + 3 * PAGE_SIZE); /* avail_event */
	assert_int_equal(pages[2], BUFFER);
}

/* Hostile chains. Each is put into the ring as chain 0 (or 9, where there are 8). */
struct bad_chain {
	const char *name;
	uint16_t head;
	struct vring_desc desc[3], indirect[3];
};

static const struct bad_chain bad_chains[] = {
	{ "head beyond the table", 9, { { BUFFER, 16, W, 0 } }, { { 0 } } },
	{ "next beyond the table", 0, { { BUFFER, 16, W | N, 8 } }, { { 0 } } },
	{ "loop of one", 0, { { BUFFER, 16, W | N, 0 } }, { { 0 } } },
	{ "loop of two", 0, { { BUFFER, 16, W | N, 1 }, { BUFFER, 16, W | N, 0 } }, { { 0 } } },
	{ "empty buffer", 0, { { BUFFER, 0, W, 0 } }, { { 0 } } },
	{ "buffer in the hole", 0, { { RAM_LOW, 16, W, 0 } }, { { 0 } } },
	{ "buffer across the end of RAM", 0, { { RAM_LOW - 8, 16, W, 0 } }, { { 0 } } },
	{ "buffer across the end of all", 0, { { RAM_HOLE + RAM_LOW - 1, 2, W, 0 } }, { { 0 } } },
	{ "buffer that wraps", 0, { { ~0ULL - 7, 16, W, 0 } }, { { 0 } } },
	{ "longest buffer", 0, { { BUFFER, ~0U, W, 0 } }, { { 0 } } },
	{ "readable after writable",
	  0,
	  { { BUFFER, 16, W | N, 1 }, { BUFFER, 16, 0, 0 } },
	  { { 0 } } },
	{ "indirect table of no bytes", 0, { { TABLE, 0, I, 0 } }, { { 0 } } },
	{ "indirect table of half a descriptor", 0, { { TABLE, 24, I, 0 } }, { { 0 } } },
	{ "indirect table of 4 GiB", 0, { { TABLE, 0xfffffff0, I, 0 } }, { { 0 } } },
	{ "indirect table of 257", 0, { { TABLE, 257 * 16, I, 0 } }, { { 0 } } },
	{ "indirect table outside RAM", 0, { { RAM_LOW, 16, I, 0 } }, { { 0 } } },
	{ "indirect table that wraps", 0, { { ~0ULL - 15, 32, I, 0 } }, { { 0 } } },
	{ "indirect and next", 0, { { TABLE, 16, I | N, 1 } }, { { BUFFER, 16, W, 0 } } },
	{ "indirect in indirect",
	  0,
	  { { TABLE, 32, I, 0 } },
	  { { BUFFER, 8, W | N, 1 }, { TABLE, 16, I, 0 } } },
	{ "loop in the indirect table",
	  0,
	  { { TABLE, 32, I, 0 } },
	  { { BUFFER, 8, W | N, 1 }, { BUFFER, 8, W | N, 0 } } },
	{ "next beyond the indirect table",
	  0,
	  { { TABLE, 32, I, 0 } },
	  { { BUFFER, 8, W | N, 2 }, { BUFFER, 8, W, 0 }, { BUFFER, 8, W, 0 } } },
	{ "indirect buffer outside RAM", 0, { { TABLE, 16, I, 0 } }, { { RAM_LOW + 5, 8, W, 0 } } },
};

static void hostile_chains_stop_the_device(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(bad_chains) / sizeof(bad_chains[0]); i++) {
		const struct bad_chain *bad = &bad_chains[i];

		print_message("# %s\n", bad->name);
		memcpy(ram(f->gq.vd, f->gq.desc), bad->desc, sizeof(bad->desc));
		memcpy(ram(f->gq.vd, TABLE), bad->indirect, sizeof(bad->indirect));
		guest_add(&f->gq, bad->head);
		expect_broken(f);
	}
}

static void indirect_needs_the_feature(void **state)
{
	struct fixture *f = *state;

	guest_start(&f->gq, f->dev, V1, 8, RING);
	indirect(f, 0, BUFFER, 8, W, 0);
	guest_desc(&f->gq, 0, TABLE, 16, I, 0);
	guest_add(&f->gq, 0);
	expect_broken(f);
}

static void a_chain_has_at_most_256_buffers(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 256; i++)
		indirect(f, i, BUFFER + i, 1, i < 255 ? W | N : W, (uint16_t)(i + 1));
	guest_desc(&f->gq, 0, TABLE, 256 * 16, I, 0);
	guest_add(&f->gq, 0);
	expect(f, 0, 256);
	guest_desc(&f->gq, 0, BUFFER + 256, 1, W | N, 1);
	guest_desc(&f->gq, 1, TABLE, 256 * 16, I, 0);
	guest_add(&f->gq, 0);
	expect_broken(f);
}

static void avail_index_may_not_jump(void **state)
{
	struct fixture *f = *state;
	uint16_t *avail = ram(f->gq.vd, f->gq.avail);

	guest_desc(&f->gq, 0, BUFFER, 16, W, 0);
	avail[1] = 9;
	expect_broken(f);
	avail[1] = 0; /* it was 1: backwards is as bad */
	expect_broken(f);
}

static void bad_queue_addresses_are_refused(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
	} bad[] = {
		{ 0, RING, RING + 0x1000, RING + 0x2000 },
		{ 3, RING, RING + 0x1000, RING + 0x2000 },
		{ 128, RING, RING + 0x1000, RING + 0x2000 }, /* largest is 64 */
		{ 512, RING, RING + 0x1000, RING + 0x2000 },
		{ 8, RING + 8, RING + 0x1000, RING + 0x2000 },
		{ 8, RING, RING + 0x1001, RING + 0x2000 },
		{ 8, RING, RING + 0x1000, RING + 0x2002 },
		{ 8, RAM_LOW - 64, RING + 0x1000, RING + 0x2000 },
		{ 8, RING, RAM_LOW - 16, RING + 0x2000 },
		{ 8, RING, RING + 0x1000, RAM_HOLE + RAM_LOW - 68 },
		{ 8, ~0ULL - 15, RING + 0x1000, RING + 0x2000 },
	};
	struct fixture *f = *state;
	struct virtio_device *vd = f->gq.vd;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		guest_negotiate(vd, FEATURES);
		f->gq.size = bad[i].size;
		f->gq.desc = bad[i].desc;
		f->gq.avail = bad[i].avail;
		f->gq.used = bad[i].used;
		guest_set_queue(&f->gq, 1);
		assert_int_equal(reg_read(vd, VIRTIO_MMIO_QUEUE_READY), 0);
		assert_true(guest_needs_reset(vd));
		reg_write(vd, VIRTIO_MMIO_STATUS, 15);
		virtio_run_queue(vd, 0);
	}
}

static void a_ready_queue_cannot_be_moved(void **state)
{
	struct fixture *f = *state;
	static const uint32_t regs[] = { VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_DESC_LOW,
					 VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW };

	for (size_t i = 0; i < sizeof(regs) / sizeof(regs[0]); i++) {
		reg_write(f->gq.vd, regs[i], 4);
		assert_true(guest_needs_reset(f->gq.vd));
		guest_start(&f->gq, f->dev, FEATURES, 8, RING);
		guest_desc(&f->gq, 0, BUFFER, 16, W, 0);
		guest_add(&f->gq, 0);
		expect(f, 0, 16);
	}
}

static void a_chain_from_before_a_reset_is_never_used(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *vd = f->gq.vd;
	static struct virtq_chain chain;

	guest_desc(&f->gq, 0, BUFFER, 16, W, 0);
	guest_add(&f->gq, 0);
	assert_true(virtq_pop(vd, 0, &chain));
	guest_start(&f->gq, f->dev, FEATURES, 8, RING);
	virtq_push(vd, 0, &chain, 16);
	virtq_unpop(vd, 0, &chain);
	virtq_flush(vd, 0);
	assert_int_equal(guest_used_index(&f->gq), 0);
	guest_add(&f->gq, 0);
	guest_desc(&f->gq, 0, BUFFER, 16, W, 0);
	expect(f, 0, 16);
}

static void chains_can_be_put_back(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *vd = f->gq.vd;
	static struct virtq_chain chain;

	guest_desc(&f->gq, 5, BUFFER, 16, W, 0);
	guest_add(&f->gq, 5);
	assert_true(virtq_waiting(vd, 0));
	assert_true(virtq_pop(vd, 0, &chain));
	assert_false(virtq_waiting(vd, 0));
	virtq_unpop(vd, 0, &chain);
	assert_true(virtq_waiting(vd, 0));
	expect(f, 5, 16);
}

static void parts_of_a_chain_are_pulled_cut_and_written(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *vd = f->gq.vd;
	static struct virtq_chain chain;
	uint64_t gpa, pages[8];
	char buf[16];

	memcpy(ram(vd, BUFFER), "abcdef", 6);
	guest_desc(&f->gq, 0, BUFFER, 2, N, 1);
	guest_desc(&f->gq, 1, BUFFER + 2, 4, N, 2);
	guest_desc(&f->gq, 2, BUFFER + 0x1ffe, 4, W | N, 3);
	guest_desc(&f->gq, 3, BUFFER + 0x4000, 3, W | N, 4);
	guest_desc(&f->gq, 4, BUFFER + 0x5000, 1, W, 0);
	guest_add(&f->gq, 0);
	assert_true(virtq_pop(vd, 0, &chain));
	assert_int_equal(chain.out_len, 6);
	assert_int_equal(chain.in_len, 8);
	assert_false(virtq_pull(&chain, buf, 7));
	assert_true(virtq_pull(&chain, buf, 3));
	assert_memory_equal(buf, "abc", 3);
	assert_int_equal(chain.n_out, 1);
	assert_true(virtq_pull(&chain, buf, 3));
	assert_memory_equal(buf, "def", 3);
	assert_int_equal(chain.n_out, 0);
	assert_false(virtq_cut(&chain, 2, &gpa)); /* in two pieces */
	assert_true(virtq_cut(&chain, 1, &gpa));
	assert_int_equal(gpa, BUFFER + 0x5000);
	assert_true(virtq_cut(&chain, 1, &gpa));
	assert_int_equal(gpa, BUFFER + 0x4002);
	assert_int_equal(chain.in_len, 6);
	test_dirty(&f->vm, pages, 8);
	assert_int_equal(virtq_write(vd, &chain, 1, "123456789", 9), 5);
	assert_memory_equal((char *)ram(vd, BUFFER + 0x1fff), "123", 3);
	assert_memory_equal((char *)ram(vd, BUFFER + 0x4000), "45", 3);
	assert_int_equal(test_dirty(&f->vm, pages, 8), 3);
	assert_int_equal(virtq_write(vd, &chain, 3, "x", 1), 1);
	assert_int_equal(test_dirty(&f->vm, pages, 8), 1);
	assert_int_equal(pages[0], BUFFER + 0x2000);
	virtq_push(vd, 0, &chain, 2);
	assert_int_equal(test_dirty(&f->vm, pages, 8), 2); /* and the used ring */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(one_buffer_is_filled),
		TEST(a_chain_may_lie_in_both_regions),
		TEST(indirect_descriptors_are_followed),
		TEST(indices_wrap),
		TEST(a_flood_does_not_hold_the_loop),
		TEST(interrupts_can_be_turned_off),
		TEST(event_index_holds_interrupts_back),
		TEST(zero_sized_queue_work_is_harmless),
		TEST(dirty_marks_cover_what_was_written),
		TEST(event_fields_are_marked_too),
		TEST(a_chain_from_before_a_reset_is_never_used),
		TEST(chains_can_be_put_back),
		TEST(parts_of_a_chain_are_pulled_cut_and_written),
		TEST(hostile_chains_stop_the_device),
		TEST(indirect_needs_the_feature),
		TEST(a_chain_has_at_most_256_buffers),
		TEST(avail_index_may_not_jump),
		TEST(bad_queue_addresses_are_refused),
		TEST(a_ready_queue_cannot_be_moved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
