/* SPDX-License-Identifier: BSD-2-Clause */
/* A balloon in a machine without KVM, and a driver with all of its queues. */
#ifndef TESTS_UNIT_BALLOON_RIG_H
#define TESTS_UNIT_BALLOON_RIG_H

#include "tests/unit/devrig.h"

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

static inline void start_driver(struct fixture *f, uint64_t features, uint32_t poison)
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

static inline void add_hint(struct page_hints *hints, uint64_t gpa, uint64_t len)
{
	struct fixture *f = (struct fixture *)((char *)hints - offsetof(struct fixture, hints));

	assert_in_range(f->n_hinted, 0, 15);
	f->hinted[f->n_hinted].gpa = gpa;
	f->hinted[f->n_hinted++].len = len;
}

static inline void on_ram(void *opaque, uint64_t bytes)
{
	struct fixture *f = opaque;

	f->told = bytes;
	f->times++;
}

static inline void open_fixture(struct fixture *f)
{
	rig_open(&f->rig, "virtio-balloon", "");
	f->vd = (struct virtio_device *)f->rig.dev;
	f->hints.add = add_hint;
	f->listener = (struct vm_listener){ .ram = on_ram, .opaque = f };
	vm_listen(f->rig.vm, &f->listener);
	for (uint64_t *p = ram(f->vd, PAGES), *end = p + 0x100000 / 8; p < end; p++)
		*p = ~0ULL;
}

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	open_fixture(f);
	start_driver(f, ALL, 0);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	rig_close(&f->rig);
	free(f);
	return 0;
}

/* Descriptor @i of a queue: @len bytes at @gpa. */
static inline void offer(struct fixture *f, unsigned int q, uint16_t i, uint64_t gpa, uint32_t len,
			 uint16_t flags)
{
	guest_desc(&f->queue[q], i, gpa, len, flags, 0);
	guest_add(&f->queue[q], i);
	virtio_run_queue(f->vd, q);
}

static inline void say(struct fixture *f, unsigned int q, uint16_t i, const void *data,
		       uint32_t len)
{
	memcpy(ram(f->vd, BUFFERS + i * PAGE_SIZE), data, len);
	offer(f, q, i, BUFFERS + i * PAGE_SIZE, len, 0);
}

static inline void command(struct fixture *f, uint16_t i, uint32_t id)
{
	say(f, BALLOON_HINT, i, &id, sizeof(id));
}

static inline void assert_used(struct fixture *f, unsigned int q, unsigned int n)
{
	assert_false(guest_needs_reset(f->vd));
	assert_int_equal(guest_used_index(&f->queue[q]), n);
}

static inline uint32_t config(struct fixture *f, unsigned int offset)
{
	return reg_read(f->vd, CONFIG + offset);
}

static inline uint32_t cmd_id(struct fixture *f)
{
	return config(f, 8);
}

static inline const struct device_ram_ops *ops(struct fixture *f)
{
	return f->rig.dev->class->ram;
}

/* Pages from PAGES on that still hold what was there. */
static inline bool holds(struct fixture *f, unsigned int page)
{
	uint64_t *p = ram(f->vd, PAGES + page * PAGE_SIZE);

	assert_true(*p == 0 || *p == ~0ULL);
	return *p;
}

static inline bool is_dirty(struct fixture *f, uint64_t gpa)
{
	uint64_t bitmap[RIG_RAM / PAGE_SIZE / 64] = { 0 };

	memory_fetch_own(&f->rig.vm->memory.regions[0], 0, RIG_RAM / PAGE_SIZE, bitmap);
	return bitmap[gpa / PAGE_SIZE / 64] >> gpa / PAGE_SIZE % 64 & 1;
}

#define BALLOON_TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

#endif
