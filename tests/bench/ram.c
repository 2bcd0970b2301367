/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A migration without a guest: all of ferry's stream, protocol and RAM code, and no KVM.
 *
 *	ram receive [URI]			prints "uri=…", then its costs
 *	ram send URI MIB DATA CONTENT HOW IOVECS CHANNELS
 *
 * The sender has MIB of RAM, the first DATA of it written: CONTENT is "random", "mixed" with every
 * other page zero, or the path of a file, whose bytes then are repeated. HOW is "reference",
 * "copy", "zerocopy", "zstd", or "zstd-auto", CHANNELS how many data connections RAM goes over, 1
 * for none. Costs are printed as "ns=… cpu_ns=… …".
 */
#include <err.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "migration/compress.h"
#include "migration/migration.h"
#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

#define MIB	  (1UL << 20)
#define HOLE	  (3UL << 30)
#define AFTER	  (1UL << 32)
#define SECOND_NS 1000000000ULL

static void check(int ret, const struct error *e)
{
	if (ret < 0) {
		error_print(e);
		exit(1);
	}
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

static void print_costs(const struct migration *m, uint64_t cpu_began)
{
	const struct migration_stats *s = &m->stats;

	printf("ns=%ju cpu_ns=%ju bytes=%ju copied=%ju iovecs=%ju syscalls=%ju\n",
	       (uintmax_t)s->total_ns, (uintmax_t)(cpu_ns() - cpu_began), (uintmax_t)s->bytes_xfer,
	       (uintmax_t)s->bytes_copied, (uintmax_t)s->iovecs_sent, (uintmax_t)s->syscalls);
}

/* What vm_realize() does for RAM alone. */
static int realize(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	const fdt64_t *reg = fdt_getprop(fdt, fdt_path_offset(fdt, "/memory@0"), "reg", NULL);

	(void)incoming;
	vm->tree = malloc(fdt_totalsize(fdt));
	if (!vm->tree)
		return error_set(err, -ENOMEM, "bench", "tree", "", "memory", "none");
	memcpy(vm->tree, fdt, fdt_totalsize(fdt));
	return memory_alloc(&vm->memory, fdt64_ld(&reg[1]), MEMORY_ANON, HOLE, AFTER, err);
}

static void ended(struct migration *m, int ret)
{
	check(ret, &m->error);
	loop_stop(m->vm->loop);
}

/* A migration has been started: see it through and print what it cost. */
static int see_through(struct vm *vm, uint64_t cpu_began)
{
	vm->migration->ended = ended;
	loop_run(vm->loop);
	print_costs(vm->migration, cpu_began);
	return 0;
}

static int receive(const char *at)
{
	struct error e = { 0 };
	const char *uri;
	uint64_t began;
	struct vm *vm;

	check(vm_create(&vm, &e), &e);
	check(destination_prepare(vm, NULL, NULL, &e), &e);
	vm->migration->realize = realize;
	began = cpu_ns();
	check(destination_start(vm, at, &uri, &e), &e);
	printf("uri=%s\n", uri);
	fflush(stdout);
	return see_through(vm, began);
}

static void fill(struct memory *mem, uint64_t size, bool mixed)
{
	uint64_t seed = 1;

	for (uint64_t gpa = 0; gpa < size; gpa += PAGE_SIZE) {
		uint64_t *words = memory_hva(mem, gpa, PAGE_SIZE);

		for (size_t i = 0; i < PAGE_SIZE / sizeof(*words); i++) {
			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			words[i] = mixed && (gpa & PAGE_SIZE) ? 0 : seed;
		}
	}
}

static void fill_from(struct memory *mem, uint64_t size, const char *path)
{
	FILE *f = fopen(path, "re");
	uint64_t gpa = 0;

	if (!f)
		err(1, "%s", path);
	while (gpa < size) {
		uint64_t chunk = size - gpa < MIB ? size - gpa : MIB;
		size_t got = fread(memory_hva(mem, gpa, chunk), 1, chunk, f);

		if (!got && gpa == 0)
			errx(1, "%s: empty", path);
		if (!got)
			rewind(f);
		gpa += got;
	}
	fclose(f);
}

/* @argv: the arguments after "send". */
static int send_to(char **argv)
{
	struct machine_options options = { .cpus = 1, .backing = "anon" };
	struct error e = { 0 };
	struct machine_tree *mt;
	struct vm *vm;
	uint64_t began, data;
	void *fdt;

	options.memory = strtoull(argv[1], NULL, 10) * MIB;
	check(vm_create(&vm, &e), &e);
	check(machine_tree_new(&mt, &options, &e), &e);
	check(machine_tree_finish(mt, &fdt, &e), &e);
	check(realize(vm, fdt, false, &e), &e);
	data = strtoull(argv[2], NULL, 10) * MIB;
	if (strchr(argv[3], '/'))
		fill_from(&vm->memory, data, argv[3]);
	else
		fill(&vm->memory, data, !strcmp(argv[3], "mixed"));
	check(vm_set_state(vm, VM_RUNNING, &e), &e);
	if (!migration_get(vm))
		errx(1, "no memory");
	vm->migration->params.copy = !strcmp(argv[4], "copy");
	vm->migration->params.zero_copy = strcmp(argv[4], "zerocopy") ? ZEROCOPY_OFF : ZEROCOPY_ON;
	if (strncmp(argv[4], "zstd", 4) == 0)
		vm->migration->params.compress = argv[4][4] ? COMPRESS_AUTO : COMPRESS_ON;
	vm->migration->params.iovecs = atoi(argv[5]);
	vm->migration->params.channels = atoi(argv[6]);
	vm->migration->params.multifd = atoi(argv[6]) > 1;
	began = cpu_ns();
	check(source_start(vm, argv[0], &e), &e);
	return see_through(vm, began);
}

int main(int argc, char **argv)
{
	if ((argc == 2 || argc == 3) && !strcmp(argv[1], "receive"))
		return receive(argc == 3 ? argv[2] : "tcp:127.0.0.1:0");
	if (argc == 9 && !strcmp(argv[1], "send"))
		return send_to(argv + 2);
	errx(2, "see the top of ram.c");
}
