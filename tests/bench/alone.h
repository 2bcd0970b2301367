/* SPDX-License-Identifier: BSD-2-Clause */
/* What the benches share that move or save RAM alone: a VM without vCPUs and devices. */
#ifndef TESTS_BENCH_ALONE_H
#define TESTS_BENCH_ALONE_H

#include <libfdt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "migration/migration.h"
#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/vm.h"

#define MIB	  (1UL << 20)
#define HOLE	  (3UL << 30)
#define AFTER	  (1UL << 32)
#define SECOND_NS 1000000000ULL

/* The gpa of byte @offset of RAM, the hole not counted. */
static inline uint64_t gpa_of(uint64_t offset)
{
	return offset < HOLE ? offset : offset - HOLE + AFTER;
}

static inline void check(int ret, const struct error *e)
{
	if (ret < 0) {
		error_print(e);
		exit(1);
	}
}

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

/* What vm_realize() does for RAM alone. */
static inline int realize(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	int len = 0, node = fdt_path_offset(fdt, "/memory@0");
	const fdt64_t *reg = fdt_getprop(fdt, node, "reg", &len);
	uint64_t size = 0;

	for (int i = 1; i < len / (int)sizeof(*reg); i += 2)
		size += fdt64_ld(&reg[i]);
	(void)incoming;
	vm->tree = malloc(fdt_totalsize(fdt));
	if (!vm->tree)
		return error_set(err, -ENOMEM, "bench", "tree", "", "memory", "none");
	memcpy(vm->tree, fdt, fdt_totalsize(fdt));
	return memory_alloc(&vm->memory, size, MEMORY_ANON, HOLE, AFTER, err);
}

/* As migration.ended: the loop has nothing left to wait for. */
static inline void ended(struct migration *m, int ret)
{
	check(ret, &m->error);
	loop_stop(m->vm->loop);
}

#endif
