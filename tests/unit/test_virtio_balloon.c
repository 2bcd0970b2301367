/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-balloon: pages given and hinted, by drivers that keep the rules and others that do not. */
#include "tests/unit/devrig.h"

#include <sys/mman.h>

#include "devices/virtio-balloon.h"
#include "tests/unit/guest-virtio.h"

#define SIZE	8
#define RINGS	0x10000ULL  /* three pages a queue */
#define BUFFERS 0x40000ULL  /* a page a descriptor */
#define PAGES	0x100000ULL /* what is given and hinted */
#define W	VRING_DESC_F_WRITE
#define CONFIG	VIRTIO_MMIO_CONFIG
#define ALL                                                                                 \
	(V1 | 1ULL << VIRTIO_BALLOON_F_STATS_VQ | 1ULL << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | \
	 1ULL << VIRTIO_BALLOON_F_FREE_PAGE_HINT | 1ULL << VIRTIO_BALLOON_F_PAGE_POISON |   \
	 1ULL << VIRTIO_BALLOON_F_REPORTING)

struct fixture {
	struct rig rig;
	struct virtio_device *vd;
	struct guest_queue queue[BALLOON_QUEUES];
	struct page_hints hints;
	struct {
		uint64_t gpa, len;
	} hinted[16];
	unsigned int n_hinted;
	struct vm_listener listener;
	uint64_t told; /* by the last change */
	unsigned int times;
};

static void start_driver(struct fixture *f, uint64_t features, uint32_t poison)
{
	assert_true(guest_negotiate(f->vd, features));
	memset(ram(f->vd, RINGS), 0, BALLOON_QUEUES * 3 * PAGE_SIZE);
	for (unsigned int i = 0; i < BALLOON_QUEUES; i++) {
		uint64_t gpa = RINGS + i * 3 * PAGE_SIZE;

		f->queue[i] = (struct guest_queue){ .vd = f->vd,
						    .index = i,
						    .size = SIZE,
						    .desc = gpa,
						    .avail = gpa + PAGE_SIZE,
						    .used = gpa + 2 * PAGE_SIZE };
		guest_set_queue(&f->queue[i], 1);
	}
	reg_write(f->vd, CONFIG + 12, poison);
	reg_write(f->vd, VIRTIO_MMIO_STATUS,
		  STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void add_hint(struct page_hints *hints, uint64_t gpa, uint64_t len)
{
	struct fixture *f = (struct fixture *)((char *)hints - offsetof(struct fixture, hints));

	assert_in_range(f->n_hinted, 0, 15);
	f->hinted[f->n_hinted].gpa = gpa;
	f->hinted[f->n_hinted++].len = len;
}

static void on_ram(void *opaque, uint64_t bytes)
{
	struct fixture *f = opaque;

	f->told = bytes;
	f->times++;
}

static void open_fixture(struct fixture *f)
{
	rig_open(&f->rig, "virtio-balloon", "");
	f->vd = (struct virtio_device *)f->rig.dev;
	f->hints.add = add_hint;
	f->listener = (struct vm_listener){ .ram = on_ram, .opaque = f };
	vm_listen(f->rig.vm, &f->listener);
	for (uint64_t *p = ram(f->vd, PAGES), *end = p + 0x100000 / 8; p < end; p++)
		*p = ~0ULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	open_fixture(f);
	start_driver(f, ALL, 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_close(&f->rig);
	free(f);
	return 0;
}

/* Descriptor @i of a queue: @len bytes at @gpa. */
static void offer(struct fixture *f, unsigned int q, uint16_t i, uint64_t gpa, uint32_t len,
		  uint16_t flags)
{
	guest_desc(&f->queue[q], i, gpa, len, flags, 0);
	guest_add(&f->queue[q], i);
	virtio_run_queue(f->vd, q);
}

static void say(struct fixture *f, unsigned int q, uint16_t i, const void *data, uint32_t len)
{
	memcpy(ram(f->vd, BUFFERS + i * PAGE_SIZE), data, len);
	offer(f, q, i, BUFFERS + i * PAGE_SIZE, len, 0);
}

static void command(struct fixture *f, uint16_t i, uint32_t id)
{
	say(f, BALLOON_HINT, i, &id, sizeof(id));
}

static void assert_used(struct fixture *f, unsigned int q, unsigned int n)
{
	assert_false(guest_needs_reset(f->vd));
	assert_int_equal(guest_used_index(&f->queue[q]), n);
}

static uint32_t config(struct fixture *f, unsigned int offset)
{
	return reg_read(f->vd, CONFIG + offset);
}

static uint32_t cmd_id(struct fixture *f)
{
	return config(f, 8);
}

static const struct device_ram_ops *ops(struct fixture *f)
{
	return f->rig.dev->class->ram;
}

/* Pages from PAGES on that still hold what was there. */
static bool holds(struct fixture *f, unsigned int page)
{
	uint64_t *p = ram(f->vd, PAGES + page * PAGE_SIZE);

	assert_true(*p == 0 || *p == ~0ULL);
	return *p;
}

static bool is_dirty(struct fixture *f, uint64_t gpa)
{
	uint64_t bitmap[RIG_RAM / PAGE_SIZE / 64] = { 0 };

	memory_fetch_own(&f->rig.vm->memory.regions[0], 0, RIG_RAM / PAGE_SIZE, bitmap);
	return bitmap[gpa / PAGE_SIZE / 64] >> gpa / PAGE_SIZE % 64 & 1;
}

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

static void test_hints(void **state)
{
	struct fixture *f = *state;
	uint32_t id;

	/* Nobody has asked. */
	command(f, 0, VIRTIO_BALLOON_CMD_ID_DONE);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	ops(f)->hint_start(f->rig.dev, &f->hints);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG,
			 VIRTIO_MMIO_INT_CONFIG);
	id = cmd_id(f);
	assert_true(id > VIRTIO_BALLOON_CMD_ID_DONE);
	/* The command comes first. */
	offer(f, BALLOON_HINT, 2, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 0);
	command(f, 3, id);
	offer(f, BALLOON_HINT, 4, PAGES, 16 * PAGE_SIZE, W);
	/* Whole pages only. */
	offer(f, BALLOON_HINT, 5, PAGES + 1, 3 * PAGE_SIZE, W);
	offer(f, BALLOON_HINT, 6, PAGES + 1, PAGE_SIZE, W);
	offer(f, BALLOON_HINT, 7, PAGES + PAGE_SIZE - 1, 1, W);
	assert_used(f, BALLOON_HINT, 8);
	assert_int_equal(f->n_hinted, 2);
	assert_int_equal(f->hinted[0].gpa, PAGES);
	assert_int_equal(f->hinted[0].len, 16 * PAGE_SIZE);
	assert_int_equal(f->hinted[1].gpa, PAGES + PAGE_SIZE);
	assert_int_equal(f->hinted[1].len, 2 * PAGE_SIZE);
	/* A hint takes nothing away here. */
	for (unsigned int i = 0; i < 16; i++)
		assert_true(holds(f, i));
}

static void test_wrong_commands(void **state)
{
	struct fixture *f = *state;
	uint32_t first;

	ops(f)->hint_start(f->rig.dev, &f->hints);
	first = cmd_id(f);
	command(f, 0, first + 1);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	command(f, 2, VIRTIO_BALLOON_CMD_ID_STOP);
	offer(f, BALLOON_HINT, 3, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 0);
	command(f, 4, first);
	offer(f, BALLOON_HINT, 5, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 1);
	ops(f)->hint_stop(f->rig.dev, false);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_STOP);
	offer(f, BALLOON_HINT, 6, PAGES, PAGE_SIZE, W);
	ops(f)->hint_stop(f->rig.dev, true);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
	/* The next one has another number, and what still comes for this one is too old. */
	ops(f)->hint_start(f->rig.dev, &f->hints);
	assert_int_not_equal(cmd_id(f), first);
	offer(f, BALLOON_HINT, 7, PAGES, PAGE_SIZE, W);
	command(f, 0, first);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 1);
	command(f, 2, cmd_id(f));
	offer(f, BALLOON_HINT, 3, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 2);
}

/* Numbers 0 and 1 are taken, also after all others. */
static void test_command_numbers_wrap(void **state)
{
	struct fixture *f = *state;

	((struct balloon *)f->rig.dev)->state.last_id = UINT32_MAX;
	ops(f)->hint_start(f->rig.dev, &f->hints);
	assert_int_equal(cmd_id(f), 2);
}

static void test_hint_outside_ram(void **state)
{
	struct fixture *f = *state;

	ops(f)->hint_start(f->rig.dev, &f->hints);
	command(f, 0, cmd_id(f));
	offer(f, BALLOON_HINT, 1, RIG_RAM - PAGE_SIZE, 2 * PAGE_SIZE, W);
	assert_true(guest_needs_reset(f->vd));
	assert_int_equal(f->n_hinted, 0);
	/* After a reset nobody is bound by the command any more. */
	start_driver(f, ALL, 0);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_STOP);
	ops(f)->hint_stop(f->rig.dev, true);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
}

static void test_short_command(void **state)
{
	struct fixture *f = *state;

	ops(f)->hint_start(f->rig.dev, &f->hints);
	say(f, BALLOON_HINT, 0, "abc", 3);
	assert_true(guest_needs_reset(f->vd));
}

/* Who did not ask for hints is not asked, nor who needs free pages to hold something. */
static void test_not_asked(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 2; i++) {
		if (i == 0)
			start_driver(f, ALL & ~(1ULL << VIRTIO_BALLOON_F_FREE_PAGE_HINT), 0);
		else
			start_driver(f, ALL, 0xaaaaaaaa);
		ops(f)->hint_start(f->rig.dev, &f->hints);
		assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
		ops(f)->hint_stop(f->rig.dev, false);
		assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
		ops(f)->hint_stop(f->rig.dev, true);
	}
	assert_int_equal(config(f, 12), 0xaaaaaaaa);
	offer(f, BALLOON_REPORT, 0, PAGES, 4 * PAGE_SIZE, W);
	assert_used(f, BALLOON_REPORT, 1);
	assert_true(holds(f, 0));
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

/* The guest moves after hints have stopped: there it hears that it may have its pages back. */
static void test_move(void **state)
{
	struct fixture *f = *state, *g = calloc(1, sizeof(*g));
	struct error err = { 0 };
	uint32_t id;

	ops(f)->resize(f->rig.dev, RIG_RAM - 5 * PAGE_SIZE);
	reg_write(f->vd, CONFIG + 4, 4);
	ops(f)->hint_start(f->rig.dev, &f->hints);
	id = cmd_id(f);
	command(f, 0, id);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	ops(f)->hint_stop(f->rig.dev, false);
	/* A pause in between decides nothing. */
	rig_quiesce(&f->rig);
	rig_resume(&f->rig);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_STOP);
	rig_quiesce(&f->rig);

	open_fixture(g);
	rig_quiesce(&g->rig);
	memcpy(g->rig.vm->memory.regions[0].hva, f->rig.vm->memory.regions[0].hva, RIG_RAM);
	assert_int_equal(rig_copy(&f->rig, &g->rig, &err), 0);
	rig_assert_same_state(&f->rig, &g->rig);
	reg_write(g->vd, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	guest_interrupts(g->vd);
	rig_resume(&g->rig);
	assert_int_equal(cmd_id(g), VIRTIO_BALLOON_CMD_ID_DONE);
	assert_true(guest_interrupts(g->vd) > 0);
	assert_int_equal(config(g, 0), 5);
	assert_int_equal(config(g, 4), 4);
	/* Its next migration's command is a new one. */
	ops(g)->hint_start(g->rig.dev, &g->hints);
	assert_true(cmd_id(g) == id + 1);
	/* Here it goes on as well, if it has to. */
	ops(f)->hint_stop(f->rig.dev, true);
	rig_resume(&f->rig);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
	rig_close(&g->rig);
	free(g);
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

#define BALLOON_TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

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
		BALLOON_TEST(test_hints),
		BALLOON_TEST(test_wrong_commands),
		BALLOON_TEST(test_command_numbers_wrap),
		BALLOON_TEST(test_hint_outside_ram),
		BALLOON_TEST(test_short_command),
		BALLOON_TEST(test_not_asked),
		BALLOON_TEST(test_report),
		BALLOON_TEST(test_move),
		BALLOON_TEST(test_hostile_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
