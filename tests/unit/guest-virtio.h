/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine without KVM, made by hand, and a guest's driver for its virtio devices: registers by
 * way of the bus, rings in guest memory.
 */
#ifndef TESTS_UNIT_GUEST_VIRTIO_H
#define TESTS_UNIT_GUEST_VIRTIO_H

#include <errno.h>
#include <libfdt.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "devices/virtio.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

/* Two regions, so that a gpa behind the hole is not an offset in RAM. */
#define RAM_LOW	 0x200000ULL
#define RAM_HOLE 0x100000000ULL
#define RAM_SIZE (2 * RAM_LOW)

#define STATUS_DRIVER (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
#define V1	      (1ULL << VIRTIO_F_VERSION_1)

__attribute__((noreturn)) static inline void test_die(const char *what, const struct error *err)
{
	fprintf(stderr, "%s\n", what);
	if (err->code)
		error_print(err);
	abort();
}

static inline void test_machine_init(struct vm *vm)
{
	struct error err = { 0 };

	memset(vm, 0, sizeof(*vm));
	vm->fd = vm->kvm_fd = -1;
	if (loop_create(&vm->loop, &err) ||
	    memory_alloc(&vm->memory, RAM_SIZE, MEMORY_ANON, RAM_LOW, RAM_HOLE, &err))
		test_die("machine", &err);
}

/* Make a device of @class as the option --… @value would, in the first MMIO slot that is free. One
 * without an option is in every tree. */
static inline struct device *test_device(struct vm *vm, const char *name, const char *value,
					 struct error *err)
{
	struct machine_options opt = { .memory = RAM_SIZE, .cpus = 1, .backing = "anon" };
	const struct device_class *class = NULL;
	struct machine_tree *mt;
	struct device *dev = NULL, **tail = &vm->devices;
	void *fdt;
	int node;

	for_each_class (pp)
		if (!strcmp((*pp)->name, name))
			class = *pp;
	if (machine_tree_new(&mt, &opt, err))
		test_die(name, err);
	/* Slots are given out in order: pass those that are taken. */
	for (struct device *d = vm->devices; d && class->option.add; d = d->next)
		machine_tree_begin_mmio(mt, class, "test,taken", err), machine_tree_end(mt, err);
	if (class->option.add && class->option.add(mt, value, err)) {
		machine_tree_free(mt);
		return NULL;
	}
	if (machine_tree_finish(mt, &fdt, err))
		test_die(name, err);
	for (node = -1; (node = fdt_node_offset_by_compatible(fdt, node, class->compatible)) >= 0;)
		if (fdt_node_check_compatible(fdt, node, "test,taken"))
			break;
	dev = calloc(1, class->size);
	dev->vm = vm;
	dev->class = class;
	snprintf(dev->name, sizeof(dev->name), "%s", fdt_get_name(fdt, node, NULL));
	pthread_mutex_init(&dev->lock, NULL);
	if (class->fields)
		state_reset(class->fields, (char *)dev + class->state_offset);
	if (class->realize(dev, fdt, node, err)) {
		class->unrealize(dev);
		pthread_mutex_destroy(&dev->lock);
		free(dev);
		free(fdt);
		return NULL;
	}
	free(fdt);
	while (*tail)
		tail = &(*tail)->next;
	*tail = dev;
	if (class->resume)
		class->resume(dev);
	return dev;
}

static inline void test_machine_free(struct vm *vm)
{
	while (vm->devices) {
		struct device *dev = vm->devices;

		vm->devices = dev->next;
		dev->class->unrealize(dev);
		pthread_mutex_destroy(&dev->lock);
		free(dev);
	}
	memory_free(&vm->memory);
	loop_destroy(vm->loop);
}

/* Take a snapshot of @from's state into @to, as a migration does: 0 or the error of the load. */
static inline int test_migrate(struct device *from, struct device *to, struct error *err)
{
	const struct device_class *class = from->class;
	void *fdt = malloc(65536), *staged = calloc(1, class->state_size);
	int rc = 0;

	fdt_create(fdt, 65536);
	fdt_finish_reservemap(fdt);
	fdt_begin_node(fdt, "");
	if (state_save(fdt, class->fields, (char *)from + class->state_offset))
		abort();
	fdt_end_node(fdt);
	fdt_finish(fdt);
	rc = state_load(fdt, 0, class->fields, staged, STATE_VERSION, to->name, err);
	if (!rc)
		rc = class->check(to, staged, err);
	if (!rc) {
		memcpy((char *)to + class->state_offset, staged, class->state_size);
		rc = class->post_load(to, err);
	}
	free(staged);
	free(fdt);
	return rc;
}

/* Pages that the VMM has logged as written since the last call, as a list of gpa. */
static inline unsigned int test_dirty(struct vm *vm, uint64_t *gpas, unsigned int max)
{
	unsigned int n = 0;

	for (unsigned int r = 0; r < vm->memory.n_regions; r++) {
		struct memory_region *region = &vm->memory.regions[r];
		uint64_t bitmap[RAM_SIZE / PAGE_SIZE / 64] = { 0 };

		memory_fetch_own(region, 0, region->size / PAGE_SIZE, bitmap);
		for (uint64_t p = 0; p < region->size / PAGE_SIZE; p++)
			if (bitmap[p / 64] >> p % 64 & 1 && n < max)
				gpas[n++] = region->gpa + p * PAGE_SIZE;
	}
	return n;
}

/* The guest's side */

struct guest_queue {
	struct virtio_device *vd;
	unsigned int index;
	uint16_t size;
	uint64_t desc, avail, used;
	uint16_t next_avail, next_used;
	uint16_t next_desc;
};

static inline void *ram(struct virtio_device *vd, uint64_t gpa)
{
	return memory_hva(&vd->dev.vm->memory, gpa, 1);
}

static inline uint32_t reg_read(struct virtio_device *vd, uint64_t reg)
{
	uint32_t value = 0;

	pthread_mutex_lock(&vd->dev.lock);
	virtio_mmio_registers.read(&vd->dev, reg, &value, 4);
	pthread_mutex_unlock(&vd->dev.lock);
	return value;
}

static inline void reg_write(struct virtio_device *vd, uint64_t reg, uint32_t value)
{
	pthread_mutex_lock(&vd->dev.lock);
	virtio_mmio_registers.write(&vd->dev, reg, &value, 4);
	pthread_mutex_unlock(&vd->dev.lock);
}

static inline uint64_t guest_features(struct virtio_device *vd)
{
	uint64_t low;

	reg_write(vd, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	low = reg_read(vd, VIRTIO_MMIO_DEVICE_FEATURES);
	reg_write(vd, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	return low | (uint64_t)reg_read(vd, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

/* Reset and negotiate up to FEATURES_OK (3.1.1); whether the device agreed. */
static inline bool guest_negotiate(struct virtio_device *vd, uint64_t features)
{
	reg_write(vd, VIRTIO_MMIO_STATUS, 0);
	reg_write(vd, VIRTIO_MMIO_STATUS, STATUS_DRIVER);
	reg_write(vd, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	reg_write(vd, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	reg_write(vd, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	reg_write(vd, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	reg_write(vd, VIRTIO_MMIO_STATUS, STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	return reg_read(vd, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static inline void guest_set_queue(struct guest_queue *gq, unsigned int ready)
{
	struct virtio_device *vd = gq->vd;

	reg_write(vd, VIRTIO_MMIO_QUEUE_SEL, gq->index);
	reg_write(vd, VIRTIO_MMIO_QUEUE_NUM, gq->size);
	reg_write(vd, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)gq->desc);
	reg_write(vd, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(gq->desc >> 32));
	reg_write(vd, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)gq->avail);
	reg_write(vd, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(gq->avail >> 32));
	reg_write(vd, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)gq->used);
	reg_write(vd, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(gq->used >> 32));
	reg_write(vd, VIRTIO_MMIO_QUEUE_READY, ready);
}

/* The loop may still look at the index of a queue that was reset (virtio-poll.c). */
static inline void guest_clear(struct virtio_device *vd, uint64_t gpa, size_t len)
{
	uint16_t *words = ram(vd, gpa);

	for (size_t i = 0; i < len / sizeof(*words); i++)
		__atomic_store_n(&words[i], 0, __ATOMIC_RELAXED);
}

/* Reset, negotiate, set up queue 0 of @size at @gpa (three pages), DRIVER_OK. */
static inline void guest_start(struct guest_queue *gq, struct device *dev, uint64_t features,
			       uint16_t size, uint64_t gpa)
{
	*gq = (struct guest_queue){ .vd = (struct virtio_device *)dev,
				    .size = size,
				    .desc = gpa,
				    .avail = gpa + PAGE_SIZE,
				    .used = gpa + 2 * PAGE_SIZE };
	reg_write(gq->vd, VIRTIO_MMIO_STATUS, 0); /* before the device's rings are touched */
	guest_clear(gq->vd, gpa, 3 * PAGE_SIZE);
	guest_negotiate(gq->vd, features);
	guest_set_queue(gq, 1);
	reg_write(gq->vd, VIRTIO_MMIO_STATUS,
		  STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static inline void guest_desc(struct guest_queue *gq, unsigned int i, uint64_t addr, uint32_t len,
			      uint16_t flags, uint16_t next)
{
	struct vring_desc *d = ram(gq->vd, gq->desc);

	d[i] = (struct vring_desc){ addr, len, flags, next };
}

static inline void guest_add(struct guest_queue *gq, uint16_t head)
{
	uint16_t *avail = ram(gq->vd, gq->avail);

	avail[2 + gq->next_avail++ % gq->size] = head;
	__atomic_store_n(&avail[1], gq->next_avail, __ATOMIC_RELEASE);
}

/* used_event: interrupt when the used index passes @index (2.7.10). */
static inline void guest_used_event(struct guest_queue *gq, uint16_t index)
{
	uint16_t *event = &((uint16_t *)ram(gq->vd, gq->avail))[2 + gq->size];

	__atomic_store_n(event, index, __ATOMIC_SEQ_CST);
}

static inline uint16_t guest_avail_event(struct guest_queue *gq)
{
	uint16_t *event = ram(gq->vd, gq->used + 4 + 8ULL * gq->size);

	return __atomic_load_n(event, __ATOMIC_SEQ_CST);
}

static inline uint16_t guest_used_index(struct guest_queue *gq)
{
	return __atomic_load_n(&((uint16_t *)ram(gq->vd, gq->used))[1], __ATOMIC_ACQUIRE);
}

/* Take one element off the used ring; ~0 for both when there is none. */
static inline bool guest_get(struct guest_queue *gq, uint32_t *head, uint32_t *len)
{
	struct vring_used_elem *elems = ram(gq->vd, gq->used + 4);

	*head = *len = UINT32_MAX;
	if (guest_used_index(gq) == gq->next_used)
		return false;
	*head = elems[gq->next_used % gq->size].id;
	*len = elems[gq->next_used++ % gq->size].len;
	return true;
}

/* Let the device do all there is to do in queue 0, without a loop. */
static inline void guest_settle(struct guest_queue *gq)
{
	struct device *dev = &gq->vd->dev;

	virtio_run_queue(gq->vd, 0);
	dev->class->quiesce(dev);
	dev->class->resume(dev);
}

/* Edges on the interrupt since the last call. */
static inline unsigned int guest_interrupts(struct virtio_device *vd)
{
	eventfd_t n = 0;

	return eventfd_read(vd->irq, &n) ? 0 : (unsigned int)n;
}

static inline bool guest_needs_reset(struct virtio_device *vd)
{
	return reg_read(vd, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

#endif
