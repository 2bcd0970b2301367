/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * balloon: a driver of the virtio balloon (virtio 1.2, section 5.5) that knows what its memory
 * should hold. The first half of fill= MiB is kept. The second half is hinted as free when the
 * device asks; of every four pages there one is taken back at once, before the device can have
 * looked, one is rewritten again and again, and two are left to the device until it says that it is
 * done. What is behind is for the balloon, as much as the device wants.
 */
#include "kernel/clock.h"
#include "kernel/program.h"
#include "kernel/ram.h"
#include "kernel/virtio.h"

enum { /* 5.5.2, 5.5.4, 5.5.6.3, 5.5.6.4 */
       INFLATE = 0,
       DEFLATE = 1,
       STATS = 2,
       HINT = 3,
       QUEUES = 4,
       CONFIG_NUM_PAGES = 0,
       CONFIG_ACTUAL = 4,
       CONFIG_CMD_ID = 8,
       STAT_FREE = 4,
       STAT_TOTAL = 5,
       CMD_STOP = 0,
       CMD_DONE = 1,
};

#define F_STATS_VQ	 (1u << 1)
#define F_DEFLATE_ON_OOM (1u << 2)
#define F_HINT		 (1u << 3)
#define POLL_NS		 5000000 /* between looks at the configuration */
#define BATCH		 256	 /* page numbers of one request */
#define RUN		 4	 /* pages of one hint, and a period of what becomes of them */

struct page {
	uint32_t generation;
	bool left; /* hinted, and not taken back: it may hold anything */
};

struct balloon {
	struct virtio v;
	uint64_t pages, kept; /* of the pattern; the first that is hinted */
	struct page *page;
	uint64_t first, room, actual; /* the balloon's pages, and how many it has */
	uint32_t cmd_id, asked;	      /* of the device; the last one that was answered */
	uint64_t at;		      /* next page to hint, `pages` when all are */
	uint64_t again;		      /* … to rewrite */
	uint64_t hinted, rewritten, lost, emptied;
	uint64_t looked; /* when the configuration was read */
	uint32_t command;
	uint32_t pfns[BATCH];
	struct __attribute__((packed)) {
		uint16_t tag;
		uint64_t value;
	} stats[2];
};

static void submit(struct balloon *b, unsigned queue, const void *data, uint32_t size)
{
	struct virtio_buffer buffer = { data, size, false };

	b->v.busy++;
	virtio_submit(&b->v, queue, 0, &buffer, 1);
}

/* One request, and its answer. */
static void request(struct balloon *b, unsigned queue, const void *data, uint32_t size)
{
	uint32_t written;

	submit(b, queue, data, size);
	while (virtio_done(&b->v, queue, &written) < 0)
		virtio_due(&b->v);
	b->v.busy--;
}

/* ---- Contents ---- */

static void rewrite(struct balloon *b, uint64_t i)
{
	struct page *p = &b->page[i];

	p->left = false;
	content_write(ram_page(i), CONTENT_RANDOM, i, ++p->generation);
}

static bool holds(struct balloon *b, uint64_t i)
{
	return content_check(ram_page(i), CONTENT_RANDOM, i, b->page[i].generation) == PAGE;
}

static void check(struct balloon *b, uint64_t i)
{
	const uint64_t *page = ram_page(i);

	if (!holds(b, i))
		fail("gpa 0x%lx: page %lu, generation %u is expected; it holds page 0x%lx, "
		     "generation 0x%lx",
		     (uint64_t)(uintptr_t)page, i, b->page[i].generation, page[0], page[1]);
}

static uint64_t verify(struct balloon *b)
{
	uint64_t left = 0;

	for (uint64_t i = 0; i < b->pages; i++) {
		left += b->page[i].left;
		if (!b->page[i].left)
			check(b, i);
	}
	return left;
}

/* ---- Hints ---- */

static void say_command(struct balloon *b, uint32_t command)
{
	b->command = command;
	request(b, HINT, &b->command, sizeof(b->command));
}

/*
 * Hint the next pages, and use some of them again before the device has answered, as a driver may:
 * the write is newer than the hint, whenever that is looked at.
 */
static void hint_some(struct balloon *b)
{
	struct virtio_buffer buffers[RUN];
	uint64_t first = b->at;
	uint32_t size;

	for (unsigned i = 0; i < RUN; i++)
		buffers[i] = (struct virtio_buffer){ ram_page(first + i), PAGE, true };
	b->v.busy++;
	virtio_submit(&b->v, HINT, 0, buffers, RUN);
	for (uint64_t i = first; i < first + RUN; i++)
		b->page[i].left = true;
	rewrite(b, first + 1);
	while (virtio_done(&b->v, HINT, &size) < 0)
		virtio_due(&b->v);
	b->v.busy--;
	rewrite(b, first + 2);
	b->hinted += RUN;
	b->at += RUN;
	if (b->at == b->pages)
		say_command(b, CMD_STOP);
}

/* The device has no use for hinted pages any more. How many have not kept what they held? */
static void take_back(struct balloon *b)
{
	for (uint64_t i = b->kept; i < b->pages; i++) {
		if (!b->page[i].left)
			continue;
		b->lost += !holds(b, i);
		rewrite(b, i);
	}
}

static void new_command(struct balloon *b, uint32_t cmd_id)
{
	if (cmd_id == b->cmd_id)
		return;
	b->cmd_id = cmd_id;
	print("balloon command=%u\n", cmd_id);
	if (cmd_id > CMD_DONE) {
		b->at = b->kept;
		say_command(b, cmd_id);
	} else if (b->at < b->pages) {
		b->at = b->pages;
		say_command(b, CMD_STOP);
	}
	if (cmd_id == CMD_DONE)
		take_back(b);
}

/* ---- The balloon ---- */

/* Put pages [actual, @to) in, which the host may empty, or take [@to, actual) out and use them. */
static void move_pages(struct balloon *b, uint64_t to)
{
	bool in = to > b->actual;
	uint64_t low = in ? b->actual : to, n = (in ? to : b->actual) - low;

	if (n > BATCH) {
		n = BATCH;
		low = in ? b->actual : b->actual - n;
	}
	for (uint64_t i = 0; i < n; i++) {
		uint64_t *page = ram_page(b->first + low + i);

		if (in)
			content_write(page, CONTENT_RANDOM, b->first + low + i, 0);
		b->pfns[i] = (uint32_t)((uintptr_t)page / PAGE);
	}
	request(b, in ? INFLATE : DEFLATE, b->pfns, (uint32_t)n * sizeof(b->pfns[0]));
	for (uint64_t i = 0; !in && i < n; i++) {
		uint64_t *page = ram_page(b->first + low + i);

		b->emptied += page[0] == 0 && page[PAGE / 8 - 1] == 0;
		content_write(page, CONTENT_RANDOM, b->first + low + i, 1);
	}
	b->actual = in ? low + n : low;
	virtio_config_set(&b->v, CONFIG_ACTUAL, (uint32_t)b->actual);
}

static void tell_stats(struct balloon *b)
{
	struct virtio_buffer buffer = { b->stats, sizeof(b->stats), false };

	b->stats[0].tag = STAT_FREE;
	b->stats[0].value = (b->room - b->actual) * PAGE;
	b->stats[1].tag = STAT_TOTAL;
	b->stats[1].value = ram_pages() * PAGE;
	virtio_submit(&b->v, STATS, 0, &buffer, 1);
}

/* ---- The program ---- */

static void look(struct balloon *b, uint64_t now)
{
	uint64_t wanted;
	uint32_t size;

	if (now - b->looked < POLL_NS)
		return;
	b->looked = now;
	wanted = virtio_config(&b->v, CONFIG_NUM_PAGES, 4);
	if (wanted > b->room)
		wanted = b->room;
	if (wanted != b->actual)
		move_pages(b, wanted);
	if (b->v.features & F_HINT)
		new_command(b, (uint32_t)virtio_config(&b->v, CONFIG_CMD_ID, 4));
	if (b->v.features & F_STATS_VQ && virtio_done(&b->v, STATS, &size) >= 0)
		tell_stats(b);
}

static void status(struct balloon *b)
{
	print("balloon actual=%lu emptied=%lu hinted=%lu rewritten=%lu lost=%lu command=%u\n",
	      b->actual, b->emptied, b->hinted, b->rewritten, b->lost, b->cmd_id);
}

static void verify_and_say(struct balloon *b)
{
	uint64_t left = verify(b);

	print("verify ok pages=%lu left=%lu lost=%lu\n", b->pages - left, left, b->lost);
}

/* One of the pages that were hinted and are in use again. */
static void rewrite_one(struct balloon *b)
{
	uint64_t i = b->kept + 2 + b->again * RUN;

	if (b->again++ >= (b->pages - b->kept) / RUN - 1)
		b->again = 0;
	if (b->page[i].left)
		return;
	check(b, i);
	rewrite(b, i);
	b->rewritten++;
}

static void open(struct balloon *b)
{
	unsigned i = 0;

	while (i < machine.virtio_count && virtio_probe(&machine.virtio[i]) != VIRTIO_BALLOON)
		i++;
	if (i == machine.virtio_count)
		fail("%u virtio devices, none is a balloon", machine.virtio_count);
	virtio_open(&b->v, &machine.virtio[i], F_STATS_VQ | F_DEFLATE_ON_OOM | F_HINT, QUEUES, 1);
	b->cmd_id = CMD_DONE;
	b->pages = option_number("fill", 8) * PAGE_MIB;
	b->kept = b->pages / 2;
	b->at = b->pages;
	b->page = ram_alloc((b->pages * sizeof(*b->page) + PAGE - 1) / PAGE, PAGE);
	b->first = b->pages;
	if (!b->pages || b->pages > ram_pages())
		fail("fill wants %lu pages, %lu are free", b->pages, ram_pages());
	b->room = ram_pages() - b->pages;
	for (uint64_t p = 0; p < b->pages; p++)
		rewrite(b, p);
	if (b->v.features & F_STATS_VQ)
		tell_stats(b);
	print("balloon ready pages=%lu room=%lu features=0x%lx\n", b->pages, b->room,
	      b->v.features);
}

static void balloon(void)
{
	struct balloon *b = ram_alloc((sizeof(*b) + PAGE - 1) / PAGE, PAGE);
	int command = 0;

	open(b);
	while (command != 'q') {
		uint64_t now = clock_ns();

		look(b, now);
		if (b->at < b->pages)
			hint_some(b);
		else
			rewrite_one(b);
		command = console_command(now);
		if (command == 's')
			status(b);
		else if (command == 'v')
			verify_and_say(b);
	}
	status(b);
	verify_and_say(b);
	virtio_close(&b->v);
}

PROGRAM(balloon, "drives a virtio balloon: fill=8 (MiB, the second half is hinted as free)");
