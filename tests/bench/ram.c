/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A migration without a guest: all of ferry's stream, protocol and RAM code, and no KVM.
 *
 *	ram receive [URI]			prints "uri=…", then its costs
 *	ram send URI MIB DATA CONTENT HOW IOVECS CHANNELS [WRITES]
 *
 * The sender has MIB of RAM, the first DATA of it written: CONTENT is "random", "mixed" with every
 * other page zero, or the path of a file, whose bytes then are repeated. HOW is "reference",
 * "copy", "zerocopy", "zstd", "zstd-auto", or "zstd-whole" (pages that go again are not compared),
 * CHANNELS how many data connections RAM goes over, 1 for none. With WRITES it plays a guest that
 * writes to so many pages a second, 64 bytes in each, over all of DATA, until it is stopped: when
 * the rest takes 300 ms at most, or after 20 s. Costs are printed as "ns=… cpu_ns=… …".
 */
#include <err.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alone.h"
#include "migration/compress.h"
#include "vmm/tree.h"

static uint64_t cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static void print_costs(const struct migration *m, uint64_t cpu_began)
{
	const struct migration_stats *s = &m->stats;

	printf("ns=%ju cpu_ns=%ju bytes=%ju copied=%ju iovecs=%ju syscalls=%ju rounds=%ju "
	       "blackout_ns=%ju\n",
	       (uintmax_t)s->total_ns, (uintmax_t)(cpu_ns() - cpu_began), (uintmax_t)s->bytes_xfer,
	       (uintmax_t)s->bytes_copied, (uintmax_t)s->iovecs_sent, (uintmax_t)s->syscalls,
	       (uintmax_t)s->rounds, (uintmax_t)s->blackout_ns);
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

	for (uint64_t at = 0; at < size; at += PAGE_SIZE) {
		uint64_t *words = memory_hva(mem, gpa_of(at), PAGE_SIZE);

		for (size_t i = 0; i < PAGE_SIZE / sizeof(*words); i++) {
			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			words[i] = mixed && (at & PAGE_SIZE) ? 0 : seed;
		}
	}
}

static void fill_from(struct memory *mem, uint64_t size, const char *path)
{
	FILE *f = fopen(path, "re");
	uint64_t at = 0;

	if (!f)
		err(1, "%s", path);
	while (at < size) {
		uint64_t chunk = size - at < MIB ? size - at : MIB;
		size_t got = fread(memory_hva(mem, gpa_of(at), chunk), 1, chunk, f);

		if (!got && at == 0)
			errx(1, "%s: empty", path);
		if (!got)
			rewind(f);
		at += got;
	}
	fclose(f);
}

/* ---- A guest that writes ---- */

struct guest {
	struct memory *mem;
	uint64_t size, rate; /* bytes, pages a second */
	_Atomic bool stop;
	pthread_t thread;
	struct vm_listener listener;
};

static void *write_all_the_time(void *opaque)
{
	const struct timespec tick = { 0, 1000000 };
	struct guest *g = opaque;
	uint64_t line[8], written = 0, began = clock_ns(CLOCK_MONOTONIC), n = 0;

	while (!g->stop) {
		for (; written < (clock_ns(CLOCK_MONOTONIC) - began) * g->rate / SECOND_NS;
		     written++) {
			uint64_t page = ++n * 0x9e3779b97f4a7c15ULL % (g->size >> PAGE_SHIFT);

			for (size_t i = 0; i < 8; i++)
				line[i] = n * (i + 1);
			memory_write(g->mem, gpa_of(page << PAGE_SHIFT) + n % 64 * sizeof(line),
				     line, sizeof(line));
		}
		nanosleep(&tick, NULL);
	}
	return NULL;
}

static void stop_writing(void *opaque, enum vm_state from, enum vm_state to)
{
	struct guest *g = opaque;

	(void)from;
	if (to != VM_FINISH_MIGRATE)
		return;
	g->stop = true;
	pthread_join(g->thread, NULL);
}

static void start_writing(struct guest *g, struct vm *vm, uint64_t size, uint64_t rate)
{
	*g = (struct guest){ .mem = &vm->memory, .size = size, .rate = rate };
	g->listener = (struct vm_listener){ .changed = stop_writing, .opaque = g };
	vm_listen(vm, &g->listener);
	vm->migration->params.timeout = 20;
	vm->migration->params.force = true;
	if (pthread_create(&g->thread, NULL, write_all_the_time, g))
		errx(1, "no thread");
}

/* ---- The source ---- */

static void choose_way(struct migration_params *p, const char *how)
{
	p->copy = !strcmp(how, "copy");
	p->zero_copy = strcmp(how, "zerocopy") ? ZEROCOPY_OFF : ZEROCOPY_ON;
	if (strncmp(how, "zstd", 4) == 0)
		p->compress = strcmp(how, "zstd-auto") ? COMPRESS_ON : COMPRESS_AUTO;
	if (strcmp(how, "zstd-whole") == 0)
		p->delta_memory = 0;
}

/* @argv: the arguments after "send". */
static int send_to(char **argv)
{
	struct machine_options options = { .cpus = 1, .backing = "anon" };
	struct error e = { 0 };
	struct machine_tree *mt;
	struct guest guest;
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
	choose_way(&vm->migration->params, argv[4]);
	vm->migration->params.iovecs = atoi(argv[5]);
	vm->migration->params.channels = atoi(argv[6]);
	vm->migration->params.multifd = atoi(argv[6]) > 1;
	if (argv[7])
		start_writing(&guest, vm, data, strtoull(argv[7], NULL, 10));
	began = cpu_ns();
	check(source_start(vm, argv[0], &e), &e);
	return see_through(vm, began);
}

int main(int argc, char **argv)
{
	if ((argc == 2 || argc == 3) && !strcmp(argv[1], "receive"))
		return receive(argc == 3 ? argv[2] : "tcp:127.0.0.1:0");
	if ((argc == 9 || argc == 10) && !strcmp(argv[1], "send"))
		return send_to(argv + 2);
	errx(2, "see the top of ram.c");
}
