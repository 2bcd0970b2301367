/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * dirty: memory that is worth migrating and knows what it should hold. The first fill= MiB are
 * written once, the ws= MiB behind them again and again in page order, so that round and position
 * tell the generation of every page: it is checked before each rewrite, and all are on request.
 * With compute=1 the other CPUs compute meanwhile, and write next to nothing. Command t: how long
 * it takes to touch pages here and there, of which some may still have to come.
 */
#include "kernel/clock.h"
#include "kernel/cpus.h"
#include "kernel/machine.h"
#include "kernel/program.h"
#include "kernel/ram.h"

#define LATE_NS 10000000 /* behind by more, the pace starts anew instead of catching up */

struct dirty {
	uint64_t fill, ws; /* pages */
	enum content content;
	uint64_t round, at; /* pages before `at` have generation round + 1, the others round */
	uint64_t page_ns;   /* pace, 0: none */
	uint64_t due;	    /* when the next page may be written */
	uint64_t written;   /* pages */
	uint64_t absent_ns; /* touching what is there takes less */
	struct gap gap;
};

#define TURN 10000 /* steps between two looks of the world */

#define TOUCHES 256
#define PRIME	1000003 /* so that jumps of it reach all pages, unless their number is a multiple */

static volatile uint64_t turns[MAX_CPUS];

static void compute(struct cpu *cpu)
{
	for (;;) {
		for (unsigned i = 0; i < TURN; i++)
			__asm__ volatile("" : "+r"(i));
		turns[cpu->id]++;
	}
}

static void check(struct dirty *d, uint64_t number)
{
	bool working = number >= d->fill;
	enum content content = working ? CONTENT_RANDOM : d->content;
	uint64_t generation = working ? d->round + (number - d->fill < d->at) : 0;
	uint64_t *page = ram_page(number);
	unsigned bad = content_check(page, content, number, generation);

	if (bad < PAGE)
		fail("gpa 0x%lx: page %lu, generation %lu is expected; it holds page 0x%lx, "
		     "generation 0x%lx",
		     (uint64_t)(uintptr_t)page + bad, number, generation, page[0], page[1]);
}

static void verify(struct dirty *d)
{
	for (uint64_t i = 0; i < d->fill + d->ws; i++) {
		check(d, i);
		gap_look(&d->gap);
	}
	print("verify ok pages=%lu rounds=%lu\n", d->fill + d->ws, d->round);
}

static void sort(uint64_t *v, unsigned n)
{
	for (unsigned i = 1; i < n; i++)
		for (unsigned j = i; j && v[j] < v[j - 1]; j--) {
			uint64_t smaller = v[j];

			v[j] = v[j - 1];
			v[j - 1] = smaller;
		}
}

static void touch(struct dirty *d)
{
	static uint64_t ns[TOUCHES];
	unsigned n = 0, last;

	for (uint64_t i = 0; i < TOUCHES; i++) {
		volatile uint64_t *page = ram_page((i + 1) * PRIME % (d->fill + d->ws));
		uint64_t begun = gap_look(&d->gap);

		(void)*page;
		ns[n] = gap_look(&d->gap) - begun;
		n += ns[n] >= d->absent_ns;
	}
	sort(ns, n);
	last = n ? n - 1 : 0;
	print("touch pages=%u absent=%u p50_ns=%lu p99_ns=%lu max_ns=%lu\n", TOUCHES, n,
	      n ? ns[last / 2] : 0, n ? ns[last * 99 / 100] : 0, n ? ns[last] : 0);
}

static void status(struct dirty *d)
{
	uint64_t max = d->gap.max;

	d->gap.max = 0; /* a pause while this is printed is the next answer's */
	print("dirty rounds=%lu mib=%lu gap_us=%lu now_ns=%lu stopped=%u\n", d->round,
	      d->written / PAGE_MIB, max / 1000, d->gap.last, clock_stopped());
	for (unsigned i = 1; i < machine.cpu_count && turns[i]; i++)
		print("compute cpu=%u turns=%lu\n", i, turns[i]);
}

static void fill(struct dirty *d)
{
	for (uint64_t i = 0; i < d->fill + d->ws; i++)
		content_write(ram_page(i), i < d->fill ? d->content : CONTENT_RANDOM, i, 0);
	print("dirty ready fill=%lu ws=%lu\n", d->fill / PAGE_MIB, d->ws / PAGE_MIB);
	d->due = clock_ns();
}

static void rewrite(struct dirty *d, uint64_t now)
{
	if (now < d->due)
		return;
	d->due = now - d->due > LATE_NS ? now : d->due + d->page_ns;
	uint64_t number = d->fill + d->at;
	check(d, number);
	content_write(ram_page(number), CONTENT_RANDOM, number, d->round + 1);
	d->written++;
	if (++d->at == d->ws) {
		d->at = 0;
		d->round++;
	}
}

static void dirty(void)
{
	uint64_t rate = option_number("rate", 0), seconds = option_number("seconds", 0);
	bool idle = option_number("idle", 0);
	struct dirty d = { .fill = option_number("fill", 8) * PAGE_MIB,
			   .ws = option_number("ws", 4) * PAGE_MIB,
			   .content = content_option(),
			   .absent_ns = option_number("absent_us", 20) * 1000,
			   .page_ns = rate ? SECOND_NS / (rate * PAGE_MIB) : 0 };
	int command = 0;

	if (d.fill + d.ws > ram_pages())
		fail("fill and ws want %lu pages, %lu are free", d.fill + d.ws, ram_pages());
	if (option_number("compute", 0))
		cpus_start(compute);
	fill(&d);
	console_watch(&d.gap);
	uint64_t now = d.due, end = seconds ? now + seconds * SECOND_NS : ~0ull;
	while (command != 'q' && now < end) {
		now = gap_look(&d.gap);
		if (!idle && d.ws)
			rewrite(&d, now);
		command = console_command(now);
		if (command == 's')
			status(&d);
		else if (command == 't')
			touch(&d);
		else if (command == 'v')
			verify(&d);
	}
	status(&d);
	verify(&d);
	console_watch(NULL);
}

PROGRAM(dirty,
	"dirties and checks memory: fill=8 ws=4 (MiB) rate=0 (MiB/s) content=random|zero|mixed "
	"seed=1 idle=0 compute=0 seconds=0 absent_us=20");
