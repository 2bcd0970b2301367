/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vio: drives all virtio devices at once, each by its own test: blk.c, net.c, and here the entropy
 * device and the console (virtio 1.2, sections 5.4 and 5.3).
 */
#include "kernel/cpu.h"
#include "kernel/program.h"
#include "kernel/ram.h"
#include "vio.h"

/* ---- rng: two reads are never the same ---- */

#define RNG_BYTES 64
#define RNG_ROUND 16 /* reads */

struct rng {
	struct virtio v;
	uint8_t data[RNG_BYTES], before[RNG_BYTES];
	uint64_t reads, bytes;
};

static void rng_read(struct rng *r)
{
	struct virtio_buffer b = { r->data, RNG_BYTES, true };

	memset(r->data, 0, RNG_BYTES);
	r->v.busy = 1;
	virtio_submit(&r->v, 0, 0, &b, 1);
}

static struct virtio *rng_start(const struct device *device, const struct vio_mode *mode)
{
	struct rng *r = ram_alloc(1, PAGE);

	(void)mode;
	virtio_open(&r->v, device, 0, 1, 1);
	rng_read(r);
	return &r->v;
}

static bool rng_step(struct virtio *v, const struct vio_mode *mode)
{
	struct rng *r = (struct rng *)v;
	uint32_t size;

	while (virtio_done(v, 0, &size) >= 0) {
		v->busy = 0;
		if (size == 0 || size > RNG_BYTES)
			fail("rng: %u bytes of %u", size, RNG_BYTES);
		if (size >= 8 && memcmp(r->data, r->before, size) == 0)
			fail("rng: the same %u bytes twice", size);
		memcpy(r->before, r->data, RNG_BYTES);
		r->reads++;
		r->bytes += size;
		if (mode->stop || (mode->once && r->reads == RNG_ROUND))
			return true;
		rng_read(r);
	}
	return false;
}

static void rng_report(const struct virtio *v)
{
	const struct rng *r = (const struct rng *)v;

	print("vio rng reads=%lu bytes=%lu\n", r->reads, r->bytes);
}

/* ---- console: numbered lines out, and what comes in goes out again ---- */

#define RECEIVE	     0 /* queues */
#define TRANSMIT     1
#define CONSOLE_SIZE 256
#define CONSOLE_ECHO 4 /* receive slots; transmit slot k echoes receive slot k */

struct console {
	struct virtio v;
	char data[CONSOLE_ECHO + 1][CONSOLE_SIZE]; /* the last one is for lines */
	uint64_t lines, echoed, limit;
};

static void console_receive(struct console *c, unsigned slot)
{
	struct virtio_buffer b = { c->data[slot], CONSOLE_SIZE, true };

	virtio_submit(&c->v, RECEIVE, slot, &b, 1);
}

static void console_send(struct console *c, unsigned slot, uint32_t size)
{
	struct virtio_buffer b = { c->data[slot], size, false };

	c->v.busy++;
	virtio_submit(&c->v, TRANSMIT, slot, &b, 1);
}

/* "vio line 00000001\n" */
static void console_line(struct console *c)
{
	static const char text[] = "vio line 00000000\n";
	char *line = c->data[CONSOLE_ECHO];
	uint64_t n = c->lines++;

	memcpy(line, text, sizeof(text) - 1);
	for (unsigned i = sizeof(text) - 3; n; i--, n /= 10)
		line[i] = (char)('0' + n % 10);
	console_send(c, CONSOLE_ECHO, sizeof(text) - 1);
}

static struct virtio *console_start(const struct device *device, const struct vio_mode *mode)
{
	struct console *c = ram_alloc(1, PAGE);

	(void)mode;
	virtio_open(&c->v, device, 0, 2, CONSOLE_ECHO + 1);
	c->limit = option_number("lines", 1);
	for (unsigned i = 0; i < CONSOLE_ECHO; i++)
		console_receive(c, i);
	if (c->limit)
		console_line(c);
	return &c->v;
}

static bool console_step(struct virtio *v, const struct vio_mode *mode)
{
	struct console *c = (struct console *)v;
	uint32_t size;
	int slot;

	while ((slot = virtio_done(v, TRANSMIT, &size)) >= 0) {
		v->busy--;
		if (slot < CONSOLE_ECHO)
			console_receive(c, (unsigned)slot);
		else if (c->lines < c->limit && !mode->stop)
			console_line(c);
	}
	while ((slot = virtio_done(v, RECEIVE, &size)) >= 0) {
		if (size == 0 || size > CONSOLE_SIZE || slot >= CONSOLE_ECHO)
			fail("console: %u bytes of %u in slot %d", size, CONSOLE_SIZE, slot);
		c->echoed += size;
		console_send(c, (unsigned)slot, size);
	}
	return !v->busy && (mode->stop || mode->once);
}

static void console_report(const struct virtio *v)
{
	const struct console *c = (const struct console *)v;

	print("vio console lines=%lu echoed=%lu\n", c->lines, c->echoed);
}

/* ---- memory rewritten meanwhile, so that a guest that answers is worth migrating ---- */

#define LATE_NS 10000000 /* behind by more, the pace starts anew instead of catching up */

struct work {
	uint64_t pages, at, round, page_ns, due, written;
};

/* After the devices have theirs, for free pages are numbered from the first that is left. */
static void work_start(struct work *w)
{
	uint64_t rate = option_number("rate", 0);

	w->pages = option_number("ws", 0) * PAGE_MIB;
	w->page_ns = rate ? SECOND_NS / (rate * PAGE_MIB) : 0;
	w->due = clock_ns();
	if (w->pages > ram_pages())
		fail("ws wants %lu pages, %lu are free", w->pages, ram_pages());
	for (uint64_t i = 0; i < w->pages; i++)
		content_write(ram_page(i), CONTENT_RANDOM, i, 0);
}

/* Pages before `at` have generation round + 1, the others round. */
static void work_step(struct work *w, uint64_t now)
{
	if (!w->pages || now < w->due)
		return;
	w->due = now - w->due > LATE_NS ? now : w->due + w->page_ns;
	unsigned bad = content_check(ram_page(w->at), CONTENT_RANDOM, w->at, w->round);
	if (bad < PAGE)
		fail("page %lu, generation %lu is expected; byte %u differs", w->at, w->round, bad);
	content_write(ram_page(w->at), CONTENT_RANDOM, w->at, w->round + 1);
	w->written++;
	if (++w->at == w->pages) {
		w->at = 0;
		w->round++;
	}
}

static void work_report(const struct work *w)
{
	if (w->pages)
		print("vio work ns=%lu rounds=%lu pages=%lu\n", clock_ns(), w->round, w->written);
}

/* ---- the program ---- */

static const struct vio_test vio_rng = { VIRTIO_RNG, "rng", rng_start, rng_step, rng_report };
static const struct vio_test vio_console = { VIRTIO_CONSOLE, "console", console_start, console_step,
					     console_report };
static const struct vio_test *const tests[] = { &vio_blk, &vio_net, &vio_rng, &vio_console };

struct running {
	const struct vio_test *test;
	struct virtio *v;
	bool over;
};

static unsigned start_all(struct running *running, const struct vio_mode *mode)
{
	unsigned n = 0;

	for (unsigned i = 0; i < machine.virtio_count; i++) {
		uint32_t id = virtio_probe(&machine.virtio[i]);
		for (unsigned t = 0; t < sizeof(tests) / sizeof(tests[0]); t++)
			if (tests[t]->id == id && (option_is("dev", "all", true) ||
						   option_is("dev", tests[t]->name, true)))
				running[n++] = (struct running){
					tests[t], tests[t]->start(&machine.virtio[i], mode), false
				};
	}
	return n;
}

static void vio(void)
{
	struct running running[32];
	struct work work = { 0 };
	struct vio_mode mode = { .depth = (unsigned)option_number("depth", 8) };
	uint64_t seconds = option_number("seconds", 0), start = clock_ns(), stopped = 0;

	mode.once = !seconds;
	unsigned n = start_all(running, &mode), left = n;
	if (!n)
		fail("%u virtio devices, none that dev= means", machine.virtio_count);
	work_start(&work);
	print("vio ready devices=%u\n", n);
	for (struct running *r = running; r < running + n; r++)
		r->over = r->test->step(r->v, &mode);
	while (left) {
		uint64_t now = clock_ns();
		int command = console_command(now);
		bool stop = command == 'q' || (seconds && now > start + seconds * SECOND_NS);
		work_step(&work, now);
		if (command == 's')
			work_report(&work);
		left = 0;
		if (stop && !mode.stop)
			stopped = 1;
		mode.stop |= stop;
		for (struct running *r = running; r < running + n; r++) {
			if (!r->over && (virtio_due(r->v) || stopped))
				r->over = r->test->step(r->v, &mode);
			if (command == 's')
				r->test->report(r->v);
			left += !r->over;
		}
		stopped = 0;
	}
	for (struct running *r = running; r < running + n; r++) {
		r->test->report(r->v);
		virtio_close(r->v);
	}
}

PROGRAM(vio,
	"virtio devices: dev=all|blk|net|console|rng seconds=0 depth=8 irq=0 indirect=1 "
	"event_idx=1 "
	"lines=1 limit=0 (MiB of the disk) ip=10.0.0.2 peer=10.0.0.1 send=0 mrg=0 csum=0 pairs=1 "
	"ws=0 (MiB) rate=0 (MiB/s)");
