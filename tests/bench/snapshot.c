/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved machines without a guest: all of ferry's code for them, and no KVM.
 *
 *	snapshot save FILE MIB DATA THREADS HOW		HOW is paused, live, direct, live-direct or
 *stream snapshot restore FILE THREADS HOW		HOW is read, direct or lazy
 *
 * The machine has MIB of RAM, DATA of it random, from 16 MiB on; in the rest are zeroes. Costs are
 * printed as "total_ns=… blackout_ns=… cpu_ns=… bytes=… syscalls=…": total is until the file is on
 *the disk or the machine is there, blackout how long a guest would stand still.
 */
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alone.h"
#include "vmm/tree.h"

#define DATA_FROM (16 * MIB)

static uint64_t cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static void see_through(struct vm *vm)
{
	const struct migration_stats *s = &vm->migration->stats;
	uint64_t cpu = cpu_ns();

	vm->migration->ended = ended;
	loop_run(vm->loop);
	printf("total_ns=%ju blackout_ns=%ju cpu_ns=%ju bytes=%ju syscalls=%ju\n",
	       (uintmax_t)s->total_ns, (uintmax_t)s->blackout_ns, (uintmax_t)(cpu_ns() - cpu),
	       (uintmax_t)s->bytes_xfer, (uintmax_t)s->syscalls);
}

static void set_threads(struct vm *vm, const char *threads)
{
	if (!migration_get(vm))
		errx(1, "no memory");
	vm->migration->params.channels = atoi(threads);
	vm->migration->params.multifd = true;
}

static void fill(struct memory *mem, uint64_t from, uint64_t size)
{
	uint64_t seed = 1;

	for (uint64_t at = from; at < from + size; at += PAGE_SIZE) {
		uint64_t *words = memory_hva(mem, gpa_of(at), PAGE_SIZE);

		for (size_t i = 0; i < PAGE_SIZE / sizeof(*words); i++) {
			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			words[i] = seed;
		}
	}
}

static int save(char **argv)
{
	struct machine_options options = { .cpus = 1, .backing = "anon" };
	struct error e = { 0 };
	struct machine_tree *mt;
	const char *how = argv[4];
	char uri[256];
	struct vm *vm;
	void *fdt;

	options.memory = strtoull(argv[1], NULL, 10) * MIB;
	snprintf(uri, sizeof(uri), "file:%s", argv[0]);
	check(vm_create(&vm, &e), &e);
	check(machine_tree_new(&mt, &options, &e), &e);
	check(machine_tree_finish(mt, &fdt, &e), &e);
	check(realize(vm, fdt, false, &e), &e);
	fill(&vm->memory, DATA_FROM, strtoull(argv[2], NULL, 10) * MIB);
	check(vm_set_state(vm, VM_RUNNING, &e), &e);
	set_threads(vm, argv[3]);
	vm->migration->params.multifd = strcmp(how, "stream") != 0;
	vm->migration->params.mapped_ram = strcmp(how, "stream") != 0;
	vm->migration->params.background = strncmp(how, "live", 4) == 0;
	vm->migration->params.direct_io = strstr(how, "direct") != NULL;
	check(source_start(vm, uri, &e), &e);
	see_through(vm);
	return 0;
}

static int restore(char **argv)
{
	struct error e = { 0 };
	char uri[256];
	struct vm *vm;

	snprintf(uri, sizeof(uri), "file:%s", argv[0]);
	check(vm_create(&vm, &e), &e);
	check(destination_prepare(vm, NULL, NULL, &e), &e);
	set_threads(vm, argv[1]);
	vm->migration->realize = realize;
	vm->migration->params.direct_io = strcmp(argv[2], "direct") == 0;
	vm->migration->lazy = strcmp(argv[2], "lazy") == 0;
	check(destination_start(vm, uri, NULL, &e), &e);
	see_through(vm);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 7 && !strcmp(argv[1], "save"))
		return save(argv + 2);
	if (argc == 5 && !strcmp(argv[1], "restore"))
		return restore(argv + 2);
	errx(2, "see the top of snapshot.c");
}
