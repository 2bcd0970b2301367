/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-balloon: pages given and statistics told, by drivers that keep the rules and others. */
#include "tests/unit/balloon-rig.h"

#include <sys/mman.h>

static void test_identity(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_DEVICE_ID), 5);
	assert_int_equal(guest_features(f->vd) & 0x3f, 0x3e);
	assert_int_equal(config(f, 0), 0);
	assert_int_equal(config(f, 4), 0);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
	assert_int_equal(config(f, 16), 0);
}

/* Neighbours in both directions, alone, twice, and in no order. */
static void test_inflate(void **state)
{
	static const uint32_t pages[] = { 1, 2, 3, 9, 8, 7, 20, 20, 13, 30, 4 };
	struct fixture *f = *state;
	uint32_t pfns[11];
	uint64_t given = 0;

	for (int i = 0; i < 11; i++) {
		pfns[i] = (uint32_t)(PAGES / PAGE_SIZE) + pages[i];
		given |= 1ULL << pages[i];
	}
	is_dirty(f, 0);
	say(f, BALLOON_INFLATE, 0, pfns, sizeof(pfns));
	assert_used(f, BALLOON_INFLATE, 1);
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(holds(f, i), !(given >> i & 1));
	/* A migration must hear of it. */
	assert_true(is_dirty(f, PAGES + 7 * PAGE_SIZE));
	say(f, BALLOON_DEFLATE, 0, pfns, sizeof(pfns));
	assert_used(f, BALLOON_DEFLATE, 1);
}

static void test_inflate_gives_memory_back(void **state)
{
	struct fixture *f = *state;
	uint32_t pfns[256];
	unsigned char there[256];
	void *hva = ram(f->vd, PAGES);

	for (uint32_t i = 0; i < 256; i++)
		pfns[i] = (uint32_t)(PAGES / PAGE_SIZE) + 255 - i;
	say(f, BALLOON_INFLATE, 0, pfns, sizeof(pfns));
	assert_return_code(mincore(hva, sizeof(there) * PAGE_SIZE, there), errno);
	for (int i = 0; i < 256; i++)
		assert_false(there[i] & 1);
}

/* Outside RAM, at its end, beyond any: nothing happens, and what is right among them is done. */
static void test_hostile_pfns(void **state)
{
	struct fixture *f = *state;
	uint32_t last = RIG_RAM / PAGE_SIZE - 1, good = PAGES / PAGE_SIZE;
	uint32_t pfns[] = { last + 1, UINT32_MAX, 0x80000000, good,	UINT32_MAX, last,
			    last + 1, last,	  0xc0000,    0x100000, good + 2 };
	char odd[7] = { 0 };

	memset(ram(f->vd, last * PAGE_SIZE), 0xff, PAGE_SIZE);
	say(f, BALLOON_INFLATE, 0, pfns, sizeof(pfns));
	assert_used(f, BALLOON_INFLATE, 1);
	assert_false(holds(f, 0));
	assert_true(holds(f, 1));
	assert_false(holds(f, 2));
	assert_int_equal(*(uint64_t *)ram(f->vd, last * PAGE_SIZE), 0);
	/* Less than a number at the end; no numbers at all; a buffer to be written. */
	say(f, BALLOON_INFLATE, 1, odd, sizeof(odd));
	say(f, BALLOON_INFLATE, 2, odd, 1);
	offer(f, BALLOON_INFLATE, 3, PAGES + 8 * PAGE_SIZE, PAGE_SIZE, W);
	assert_used(f, BALLOON_INFLATE, 4);
	assert_true(holds(f, 8));
}

/* The rest of an endless request is left alone. */
static void test_long_request(void **state)
{
	struct fixture *f = *state;
	uint32_t *pfn = ram(f->vd, BUFFERS);

	for (uint32_t i = 0; i < 2048; i++)
		pfn[i] = (uint32_t)(PAGES / PAGE_SIZE) + (i < 1024 ? 1 : 2);
	offer(f, BALLOON_INFLATE, 0, BUFFERS, 2048 * 4, 0);
	assert_used(f, BALLOON_INFLATE, 1);
	assert_false(holds(f, 1));
	assert_true(holds(f, 2));
}

static void test_size(void **state)
{
	struct fixture *f = *state;
	uint32_t generation = reg_read(f->vd, VIRTIO_MMIO_CONFIG_GENERATION);

	ops(f)->resize(f->rig.dev, RIG_RAM - 3 * PAGE_SIZE);
	assert_int_equal(config(f, 0), 3);
	assert_int_not_equal(reg_read(f->vd, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(ops(f)->size(f->rig.dev), RIG_RAM);
	reg_write(f->vd, CONFIG + 4, 3);
	assert_int_equal(ops(f)->size(f->rig.dev), RIG_RAM - 3 * PAGE_SIZE);
	RIG_UNTIL(&f->rig, f->times == 1);
	assert_int_equal(f->told, RIG_RAM - 3 * PAGE_SIZE);
	/* A driver that talks all the time is told of once a second, and lies cost nothing. */
	for (int i = 0; i < 100; i++) {
		reg_write(f->vd, CONFIG + 4, UINT32_MAX - (uint32_t)i);
		rig_turn(&f->rig);
	}
	assert_int_equal(f->times, 1);
	assert_int_equal(ops(f)->size(f->rig.dev), 0);
	RIG_UNTIL(&f->rig, f->times == 2);
	assert_int_equal(f->told, 0);
	/* What is asked for is not the driver's to change. */
	reg_write(f->vd, CONFIG, 77);
	reg_write(f->vd, CONFIG + 8, 77);
	assert_int_equal(config(f, 0), 3);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
	/* Nor does it end with a reset; what the guest gave does. */
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(config(f, 0), 3);
	assert_int_equal(config(f, 4), 0);
	ops(f)->resize(f->rig.dev, UINT64_MAX);
	assert_int_equal(config(f, 0), 0);
}

static void collect(void *opaque, const char *name, uint64_t value)
{
	uint64_t *sum = opaque;

	assert_true(strcmp(name, "stat-free-memory") == 0
			    ? value == 1234
			    : strcmp(name, "stat-htlb-pgfail") == 0 && value == 7);
	(*sum)++;
}

static void test_stats(void **state)
{
	struct virtio_balloon_stat stats[] = { { VIRTIO_BALLOON_S_MEMFREE, 1234 },
					       { VIRTIO_BALLOON_S_NR, 1 },
					       { 0xffff, 2 },
					       { VIRTIO_BALLOON_S_HTLB_PGFAIL, 7 } };
	struct fixture *f = *state;
	uint64_t n = 0;

	ops(f)->stats(f->rig.dev, collect, &n);
	assert_int_equal(n, 0);
	say(f, BALLOON_STATS, 0, stats, sizeof(stats));
	assert_used(f, BALLOON_STATS, 0); /* kept until it is asked for */
	ops(f)->stats(f->rig.dev, collect, &n);
	assert_int_equal(n, 2);
	assert_used(f, BALLOON_STATS, 1);
	ops(f)->stats(f->rig.dev, collect, &n);
	assert_int_equal(n, 4);
	assert_used(f, BALLOON_STATS, 1);
	say(f, BALLOON_STATS, 1, stats, 9);
	ops(f)->stats(f->rig.dev, collect, &n);
	assert_used(f, BALLOON_STATS, 2);
}

/* A driver that goes by the event index is to kick for each answer (2.7.10). */
static void test_stats_by_event_index(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_stat stat = { VIRTIO_BALLOON_S_MEMFREE, 1234 };
	uint64_t n = 0;

	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
	start_driver(f, ALL | 1ULL << VIRTIO_RING_F_EVENT_IDX, 0);
	for (uint16_t i = 0; i < 3; i++) {
		assert_int_equal(guest_avail_event(&f->queue[BALLOON_STATS]), i);
		say(f, BALLOON_STATS, i, &stat, sizeof(stat));
		ops(f)->stats(f->rig.dev, collect, &n); /* and asks for more */
	}
}

static void test_report(void **state)
{
	struct fixture *f = *state;

	offer(f, BALLOON_REPORT, 0, PAGES + 1, 4 * PAGE_SIZE, W);
	offer(f, BALLOON_REPORT, 1, PAGES + 8 * PAGE_SIZE, PAGE_SIZE, 0);
	assert_used(f, BALLOON_REPORT, 2);
	assert_true(holds(f, 0));
	for (unsigned int i = 1; i < 4; i++)
		assert_false(holds(f, i));
	assert_true(holds(f, 4));
	assert_true(holds(f, 8));
	start_driver(f, ALL & ~(1ULL << VIRTIO_BALLOON_F_REPORTING), 0);
	offer(f, BALLOON_REPORT, 0, PAGES + 16 * PAGE_SIZE, PAGE_SIZE, W);
	assert_true(holds(f, 16));
}

static void test_hostile_state(void **state)
{
	struct fixture *f = *state, *g = calloc(1, sizeof(*g));
	struct error err = { 0 };

	open_fixture(g);
	((struct balloon *)f->rig.dev)->state.num_pages = RIG_RAM / PAGE_SIZE + 1;
	assert_int_equal(rig_copy(&f->rig, &g->rig, &err), -EINVAL);
	assert_string_equal(err.field, "num_pages");
	rig_close(&g->rig);
	free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BALLOON_TEST(test_identity),
		BALLOON_TEST(test_inflate),
		BALLOON_TEST(test_inflate_gives_memory_back),
		BALLOON_TEST(test_hostile_pfns),
		BALLOON_TEST(test_long_request),
		BALLOON_TEST(test_size),
		BALLOON_TEST(test_stats),
		BALLOON_TEST(test_stats_by_event_index),
		BALLOON_TEST(test_report),
		BALLOON_TEST(test_hostile_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
