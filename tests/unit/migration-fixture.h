/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Machines without KVM for tests of migration: RAM, a tree, and one device that carries a number,
 * owns something, and remembers what happened to it.
 */
#ifndef TESTS_UNIT_MIGRATION_FIXTURE_H
#define TESTS_UNIT_MIGRATION_FIXTURE_H

#include <errno.h>
#include <libfdt.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "migration/migration.h"
#include "migration/protocol.h"
#include "vmm/device.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

#define MIB (1UL << 20)

struct box_state {
	uint32_t number;
	uint8_t bytes[16];
};

struct box {
	struct device dev;
	struct box_state state;
	_Atomic bool owned;
	_Atomic unsigned int claims, yields, resumes;
	int claim_fails; /* so many times */
};

static const struct field box_fields[] = {
	FIELD_INT(struct box_state, number, 0, 1000000),
	FIELD_RAW(struct box_state, bytes),
	FIELDS_END,
};

static inline int box_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	(void)dev, (void)fdt, (void)node, (void)err;
	return 0;
}

static inline void box_resume(struct device *dev)
{
	((struct box *)dev)->resumes++;
}

static inline int box_claim(struct device *dev, struct error *err)
{
	struct box *box = (struct box *)dev;

	if (box->claim_fails > 0) {
		box->claim_fails--;
		return error_set(err, -EBUSY, "claim", dev->name, "", "to own it", "another owner");
	}
	box->claims++;
	box->owned = true;
	return 0;
}

static inline void box_yield(struct device *dev)
{
	struct box *box = (struct box *)dev;

	box->yields++;
	box->owned = false;
}

static const struct device_class box_class = {
	.name = "box",
	.compatible = "ferry,test-box",
	.stage = STAGE_DEVICE,
	.size = sizeof(struct box),
	.state_offset = offsetof(struct box, state),
	.state_size = sizeof(struct box_state),
	.fields = box_fields,
	.realize = box_realize,
	.resume = box_resume,
	.claim = box_claim,
	.yield = box_yield,
};

static inline struct box *box_of(struct vm *vm)
{
	return (struct box *)vm->devices;
}

/* Where RAM is split in two, and what it is. */
static uint64_t fake_hole = 1UL << 30;
static enum memory_backing fake_backing = MEMORY_ANON;

/* What vm_realize does, without KVM. */
static inline int fake_realize(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	const fdt64_t *reg = fdt_getprop(fdt, fdt_path_offset(fdt, "/memory@0"), "reg", NULL);
	struct box *box;
	int ret;

	(void)incoming;
	ret = memory_alloc(&vm->memory, fdt64_ld(&reg[1]), fake_backing, fake_hole, 1UL << 32, err);
	if (ret < 0) {
		memory_free(&vm->memory);
		return ret;
	}
	vm->tree = malloc(fdt_totalsize(fdt));
	memcpy(vm->tree, fdt, fdt_totalsize(fdt));
	box = calloc(1, sizeof(*box));
	box->dev.vm = vm;
	box->dev.class = &box_class;
	strcpy(box->dev.name, "box");
	pthread_mutex_init(&box->dev.lock, NULL);
	vm->devices = &box->dev;
	return 0;
}

static inline void *fake_tree(uint64_t memory)
{
	struct machine_options opt = { .memory = memory, .cpus = 1, .backing = "anon" };
	struct error err = { 0 };
	struct machine_tree *mt;
	void *fdt;

	assert_int_equal(machine_tree_new(&mt, &opt, &err), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, &err), 0);
	return fdt;
}

static inline void fill_random(struct memory *mem, uint64_t seed)
{
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		uint64_t *words = mem->regions[i].hva;

		for (uint64_t n = 0; n < mem->regions[i].size / 8; n++) {
			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			words[n] = seed;
		}
	}
}

/* A machine that has a guest: running, owning its box. */
static inline struct vm *new_source(uint64_t memory)
{
	struct error err = { 0 };
	void *fdt = fake_tree(memory);
	struct vm *vm;

	assert_int_equal(vm_create(&vm, &err), 0);
	assert_int_equal(fake_realize(vm, fdt, false, &err), 0);
	free(fdt);
	assert_int_equal(vm_claim(vm, &err), 0);
	box_of(vm)->state.number = 4711;
	strcpy((char *)box_of(vm)->state.bytes, "carried along");
	assert_int_equal(vm_set_state(vm, VM_RUNNING, &err), 0);
	return vm;
}

/* An empty machine that waits. */
static inline struct vm *new_destination(void)
{
	struct error err = { 0 };
	struct vm *vm;

	assert_int_equal(vm_create(&vm, &err), 0);
	assert_int_equal(destination_prepare(vm, NULL, NULL, &err), 0);
	vm->migration->realize = fake_realize;
	return vm;
}

static inline void assert_same_memory(const struct memory *a, const struct memory *b)
{
	assert_int_equal(a->n_regions, b->n_regions);
	for (unsigned int i = 0; i < a->n_regions; i++) {
		assert_int_equal(a->regions[i].size, b->regions[i].size);
		assert_true(memcmp(a->regions[i].hva, b->regions[i].hva, a->regions[i].size) == 0);
	}
}

#endif
