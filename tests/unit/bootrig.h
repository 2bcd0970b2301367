/* SPDX-License-Identifier: BSD-2-Clause */
/* What tests of loaders share: 2 MiB of RAM, a tree, and a file in an exact copy, for ASan. */
#ifndef TESTS_UNIT_BOOTRIG_H
#define TESTS_UNIT_BOOTRIG_H

#include <stdlib.h>
#include <string.h>

#include "vmm/loader.h"
#include "vmm/tree.h"
#include "vmm/vm.h"
#include "vmm/x86/platform.h"

#define RAM (2UL << 20)

struct rig {
	struct vm *vm;
	uint8_t file[16384];
	struct boot_image image; /* kernel.size bytes of file */
	uint32_t entry;
	struct error err;
};

static inline struct rig *rig_new(void)
{
	struct machine_options opt = { .memory = RAM, .cpus = 1 };
	struct rig *r = calloc(1, sizeof(*r));
	struct machine_tree *mt;

	assert_int_equal(vm_create(&r->vm, NULL), 0);
	assert_int_equal(memory_alloc(&r->vm->memory, RAM, MEMORY_ANON, HOLE_START, HOLE_END, NULL),
			 0);
	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &r->vm->tree, NULL), 0);
	r->image.kernel.path = "kernel";
	r->image.cmdline = "";
	return r;
}

static inline void rig_free(struct rig *r)
{
	vm_destroy(r->vm);
	free(r);
}

/* Give @place the file as it is now. An error has been recorded, or the entry is in RAM. */
static inline int rig_place(struct rig *r, int (*place)(struct rig *r))
{
	uint8_t *copy = malloc(r->image.kernel.size ? r->image.kernel.size : 1);
	int ret;

	memcpy(copy, r->file, r->image.kernel.size);
	r->image.kernel.data = copy;
	memset(&r->err, 0, sizeof(r->err));
	r->entry = 0;
	ret = place(r);
	r->image.kernel.data = NULL;
	free(copy);
	if (ret < 0) {
		assert_int_equal(r->err.code, ret);
		assert_string_equal(r->err.phase, "boot");
	} else {
		assert_non_null(memory_hva(&r->vm->memory, r->entry, 1));
	}
	return ret;
}

static inline void *at(struct rig *r, uint64_t gpa, uint64_t len)
{
	void *hva = memory_hva(&r->vm->memory, gpa, len);

	assert_non_null(hva);
	return hva;
}

#endif
