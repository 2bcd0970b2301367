/* SPDX-License-Identifier: BSD-2-Clause */
/* Free page hints: what they may take out of a round, and that no write is lost by one. */
#include "ram-pair.h"

#define PAGES(n) ((n)*PAGE_SIZE)
#define HIGH	 (1UL << 32) /* where RAM goes on behind the hole */

/* A device that lets the test hint as it likes. */
struct hinter {
	struct device dev;
	struct page_hints *hints;
	unsigned int starts, stops, overs;
};

static void hint_start(struct device *dev, struct page_hints *hints)
{
	struct hinter *h = (struct hinter *)dev;

	h->hints = hints;
	h->starts++;
}

static void hint_stop(struct device *dev, bool over)
{
	struct hinter *h = (struct hinter *)dev;

	h->stops++;
	h->overs += over;
}

static int hinter_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	(void)dev, (void)fdt, (void)node, (void)err;
	return 0;
}

static const struct device_ram_ops hinter_ops = { .hint_start = hint_start,
						  .hint_stop = hint_stop };
static const struct device_class hinter_class = {
	.name = "hinter",
	.compatible = "ferry,test-hinter",
	.size = sizeof(struct hinter),
	.realize = hinter_realize,
	.ram = &hinter_ops,
};

struct hint_pair {
	struct pair *t;
	struct hinter *h;
	struct memory *mem;
};

/* Full of random bytes, and asked for hints. */
static void open_pair(struct hint_pair *p, bool verify)
{
	struct error err = { 0 };

	p->t = new_pair(8 * MIB, HOLE, HIGH);
	p->mem = &p->t->vm[0]->memory;
	p->h = calloc(1, sizeof(*p->h));
	p->h->dev.vm = p->t->vm[0];
	p->h->dev.class = &hinter_class;
	strcpy(p->h->dev.name, "hinter");
	pthread_mutex_init(&p->h->dev.lock, NULL);
	p->t->vm[0]->devices = &p->h->dev;
	p->t->vm[0]->migration->params.verify = verify;
	fill_random(p->mem, 3);
	begin(p->t);
	assert_int_equal(ram_hints_start(p->t->save, &err), 0);
}

static void hint(struct hint_pair *p, uint64_t gpa, uint64_t len)
{
	p->h->hints->add(p->h->hints, gpa, len);
}

static void fetch(struct hint_pair *p)
{
	struct error err = { 0 };

	assert_int_equal(ram_save_fetch(p->t->save, &err), 0);
}

static void poke(struct hint_pair *p, uint64_t gpa, const char *text)
{
	assert_int_equal(memory_write(p->mem, gpa, text, strlen(text)), 0);
}

/* What is counted as still to send is what the bitmap says. */
static uint64_t pages_left(struct hint_pair *p)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < p->mem->n_regions; i++) {
		for (uint64_t w = 0; w < p->mem->regions[i].size / PAGE_SIZE / 64; w++)
			n += (uint64_t)__builtin_popcountll(p->t->save->bitmap[i][w]);
	}
	assert_int_equal(ram_save_remaining(p->t->save), PAGES(n));
	return n;
}

static uint64_t hinted(struct hint_pair *p)
{
	return stats(p->t, 0)->pages_hinted;
}

/* Both sides hold the same page; or the other one has never heard of it. */
static bool arrived(struct hint_pair *p, uint64_t gpa)
{
	const char *there = memory_hva(&p->t->vm[1]->memory, gpa, PAGE_SIZE);
	static const char zeros[PAGE_SIZE];

	if (memcmp(memory_hva(p->mem, gpa, PAGE_SIZE), there, PAGE_SIZE) == 0)
		return true;
	assert_memory_equal(there, zeros, PAGE_SIZE);
	return false;
}

static void close_pair(struct hint_pair *p)
{
	ram_hints_over(p->t->save);
	free_pair(p->t);
}

static void hinted_pages_are_not_sent(void **state)
{
	struct hint_pair p;

	(void)state;
	open_pair(&p, false);
	assert_int_equal(p.h->starts, 1);
	hint(&p, 0x10000, PAGES(5));
	hint(&p, HIGH + 0x3000, PAGES(300));
	assert_int_equal(hinted(&p), 305);
	assert_int_equal(pages_left(&p), 2048 - 305);
	send_round(p.t, true);
	fetch(&p);
	assert_int_equal(p.h->stops, 1);
	assert_int_equal(pages_left(&p), 0);
	end(p.t);
	for (uint64_t gpa = 0; gpa < HOLE; gpa += PAGE_SIZE)
		assert_int_equal(arrived(&p, gpa), gpa < 0x10000 || gpa >= 0x15000);
	for (uint64_t gpa = HIGH; gpa < HIGH + 5 * MIB; gpa += PAGE_SIZE)
		assert_int_equal(arrived(&p, gpa), gpa < HIGH + 0x3000 || gpa >= HIGH + 0x12f000);
	ram_hints_over(p.t->save);
	assert_int_equal(p.h->stops, 2);
	assert_int_equal(p.h->overs, 1);
	ram_hints_over(p.t->save);
	assert_int_equal(p.h->stops, 2);
	close_pair(&p);
}

/* A guest may take a page back before its hint is looked at, and after it. */
static void what_is_written_is_sent(void **state)
{
	struct hint_pair p;

	(void)state;
	open_pair(&p, false);
	poke(&p, 0x200000, "before the hint");
	hint(&p, 0x200000, PAGES(3));
	poke(&p, 0x201000, "after the hint");
	assert_int_equal(hinted(&p), 3);
	send_round(p.t, true);
	fetch(&p);
	assert_int_equal(pages_left(&p), 2);
	send_round(p.t, false);
	end(p.t);
	assert_true(arrived(&p, 0x200000));
	assert_true(arrived(&p, 0x201000));
	assert_false(arrived(&p, 0x202000));
	close_pair(&p);
}

/* The bits that a fetch brings may be of writes that are younger than a hint. */
static void late_hints_are_ignored(void **state)
{
	struct hint_pair p;

	(void)state;
	open_pair(&p, false);
	send_round(p.t, true);
	poke(&p, 0x200000, "written");
	fetch(&p);
	assert_int_equal(pages_left(&p), 1);
	hint(&p, 0, HOLE);
	assert_int_equal(pages_left(&p), 1);
	send_round(p.t, true);
	fetch(&p);
	hint(&p, 0, HOLE);
	end(p.t);
	assert_int_equal(hinted(&p), 0);
	assert_same_memory(p.mem, &p.t->vm[1]->memory);
	close_pair(&p);
}

/* KVM's log has been cleared again for what the round has begun with, and writes before the hint
 * with it. */
static void hints_for_what_was_begun_are_ignored(void **state)
{
	struct hint_pair p;

	(void)state;
	open_pair(&p, false);
	ram_hints_pass(p.t->save, 0, 256);
	hint(&p, PAGES(255), PAGE_SIZE);
	hint(&p, 0, PAGES(256));
	assert_int_equal(hinted(&p), 0);
	hint(&p, PAGES(250), PAGES(7));
	assert_int_equal(hinted(&p), 1);
	/* Each region has its own mark. */
	hint(&p, HIGH, PAGES(2));
	assert_int_equal(hinted(&p), 3);
	ram_hints_pass(p.t->save, 1, 1280);
	hint(&p, HIGH, 5 * MIB);
	assert_int_equal(hinted(&p), 3);
	send_round(p.t, true);
	end(p.t);
	close_pair(&p);
}

static void hostile_hints(void **state)
{
	struct hint_pair p;

	(void)state;
	open_pair(&p, false);
	hint(&p, HOLE, MIB);
	hint(&p, HIGH - PAGE_SIZE, PAGE_SIZE);
	hint(&p, HIGH + 5 * MIB, UINT32_MAX);
	hint(&p, UINT64_MAX, 1);
	hint(&p, UINT64_MAX - PAGE_SIZE, UINT64_MAX);
	hint(&p, PAGE_SIZE, UINT64_MAX);
	hint(&p, 0, 0);
	/* No whole page. */
	hint(&p, 0, PAGE_SIZE - 1);
	hint(&p, 1, PAGE_SIZE);
	hint(&p, 1, PAGES(2) - 2);
	assert_int_equal(hinted(&p), 0);
	assert_int_equal(pages_left(&p), 2048);
	hint(&p, 1, PAGES(2) - 1);
	assert_int_equal(pages_left(&p), 2047);
	/* Twice is once. */
	hint(&p, 0, PAGES(2));
	hint(&p, 0, PAGES(2));
	assert_int_equal(hinted(&p), 2);
	/* Over both regions and the hole: what is RAM of it. */
	hint(&p, HOLE - PAGE_SIZE, HIGH + PAGE_SIZE - (HOLE - PAGE_SIZE));
	assert_int_equal(hinted(&p), 4);
	assert_int_equal(pages_left(&p), 2044);
	hint(&p, 0, UINT64_MAX);
	assert_int_equal(hinted(&p), 2048);
	assert_int_equal(pages_left(&p), 0);
	send_round(p.t, true);
	end(p.t);
	close_pair(&p);
}

/* A digest of all RAM shall mean what it says. */
static void nobody_is_asked_when_all_is_verified(void **state)
{
	struct hint_pair p;

	(void)state;
	open_pair(&p, true);
	assert_int_equal(p.h->starts, 0);
	send_round(p.t, true);
	fetch(&p);
	end(p.t);
	assert_same_memory(p.mem, &p.t->vm[1]->memory);
	close_pair(&p);
}

struct guest {
	struct hint_pair *p;
	_Atomic bool stop;
};

#define TAKEN(page) ((page) % 4 == 1) /* used again at once, before or after the hint is seen */

static void *hint_wildly(void *opaque)
{
	struct guest *g = opaque;

	for (uint64_t i = 1; !g->stop; i++) {
		uint64_t page = i * 0x9e3779b97f4a7c15ULL % (HOLE / PAGE_SIZE);

		if (TAKEN(page) && i % 2)
			memory_write(g->p->mem, PAGES(page), &i, sizeof(i));
		hint(g->p, PAGES(page), PAGE_SIZE);
		if (TAKEN(page))
			memory_write(g->p->mem, PAGES(page) + 8, &i, sizeof(i));
	}
	return NULL;
}

/* Hints and writes come while rounds go on: what was written last is there. */
static void hinted_while_sent(void **state)
{
	struct hint_pair p;
	struct guest g = { .p = &p };
	pthread_t thread;

	(void)state;
	open_pair(&p, false);
	assert_int_equal(pthread_create(&thread, NULL, hint_wildly, &g), 0);
	for (int i = 0; i < 10; i++) {
		send_round(p.t, true);
		fetch(&p);
	}
	g.stop = true;
	pthread_join(thread, NULL);
	fetch(&p);
	send_round(p.t, false);
	end(p.t);
	for (uint64_t page = 0; page < HOLE / PAGE_SIZE; page++) {
		if (TAKEN(page))
			assert_true(arrived(&p, PAGES(page)));
		else
			arrived(&p, PAGES(page)); /* it, or nothing */
	}
	close_pair(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hinted_pages_are_not_sent),
		cmocka_unit_test(what_is_written_is_sent),
		cmocka_unit_test(late_hints_are_ignored),
		cmocka_unit_test(hints_for_what_was_begun_are_ignored),
		cmocka_unit_test(hostile_hints),
		cmocka_unit_test(nobody_is_asked_when_all_is_verified),
		cmocka_unit_test(hinted_while_sent),
	};

	return cmocka_run_group_tests_name("hints of free pages", tests, NULL, NULL);
}
