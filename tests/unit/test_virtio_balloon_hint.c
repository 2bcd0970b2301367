/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-balloon: hints of free pages, by drivers that keep to the protocol and others. */
#include "tests/unit/balloon-rig.h"

static void test_hints(void **state)
{
	struct fixture *f = *state;
	uint32_t id;

	/* Nobody has asked. */
	command(f, 0, VIRTIO_BALLOON_CMD_ID_DONE);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	ops(f)->hint_start(f->rig.dev, &f->hints);
	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG,
			 VIRTIO_MMIO_INT_CONFIG);
	id = cmd_id(f);
	assert_true(id > VIRTIO_BALLOON_CMD_ID_DONE);
	/* The command comes first. */
	offer(f, BALLOON_HINT, 2, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 0);
	command(f, 3, id);
	offer(f, BALLOON_HINT, 4, PAGES, 16 * PAGE_SIZE, W);
	/* Whole pages only. */
	offer(f, BALLOON_HINT, 5, PAGES + 1, 3 * PAGE_SIZE, W);
	offer(f, BALLOON_HINT, 6, PAGES + 1, PAGE_SIZE, W);
	offer(f, BALLOON_HINT, 7, PAGES + PAGE_SIZE - 1, 1, W);
	assert_used(f, BALLOON_HINT, 8);
	assert_int_equal(f->n_hinted, 2);
	assert_int_equal(f->hinted[0].gpa, PAGES);
	assert_int_equal(f->hinted[0].len, 16 * PAGE_SIZE);
	assert_int_equal(f->hinted[1].gpa, PAGES + PAGE_SIZE);
	assert_int_equal(f->hinted[1].len, 2 * PAGE_SIZE);
	/* A hint takes nothing away here. */
	for (unsigned int i = 0; i < 16; i++)
		assert_true(holds(f, i));
}

static void test_wrong_commands(void **state)
{
	struct fixture *f = *state;
	uint32_t first;

	ops(f)->hint_start(f->rig.dev, &f->hints);
	first = cmd_id(f);
	command(f, 0, first + 1);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	command(f, 2, VIRTIO_BALLOON_CMD_ID_STOP);
	offer(f, BALLOON_HINT, 3, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 0);
	command(f, 4, first);
	offer(f, BALLOON_HINT, 5, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 1);
	ops(f)->hint_stop(f->rig.dev, false);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_STOP);
	offer(f, BALLOON_HINT, 6, PAGES, PAGE_SIZE, W);
	ops(f)->hint_stop(f->rig.dev, true);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
	/* The next one has another number, and what still comes for this one is too old. */
	ops(f)->hint_start(f->rig.dev, &f->hints);
	assert_int_not_equal(cmd_id(f), first);
	offer(f, BALLOON_HINT, 7, PAGES, PAGE_SIZE, W);
	command(f, 0, first);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 1);
	command(f, 2, cmd_id(f));
	offer(f, BALLOON_HINT, 3, PAGES, PAGE_SIZE, W);
	assert_int_equal(f->n_hinted, 2);
}

/* Numbers 0 and 1 are taken, also after all others. */
static void test_command_numbers_wrap(void **state)
{
	struct fixture *f = *state;

	((struct balloon *)f->rig.dev)->state.last_id = UINT32_MAX;
	ops(f)->hint_start(f->rig.dev, &f->hints);
	assert_int_equal(cmd_id(f), 2);
}

static void test_hint_outside_ram(void **state)
{
	struct fixture *f = *state;

	ops(f)->hint_start(f->rig.dev, &f->hints);
	command(f, 0, cmd_id(f));
	offer(f, BALLOON_HINT, 1, RIG_RAM - PAGE_SIZE, 2 * PAGE_SIZE, W);
	assert_true(guest_needs_reset(f->vd));
	assert_int_equal(f->n_hinted, 0);
	/* After a reset nobody is bound by the command any more. */
	start_driver(f, ALL, 0);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_STOP);
	ops(f)->hint_stop(f->rig.dev, true);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
}

static void test_short_command(void **state)
{
	struct fixture *f = *state;

	ops(f)->hint_start(f->rig.dev, &f->hints);
	say(f, BALLOON_HINT, 0, "abc", 3);
	assert_true(guest_needs_reset(f->vd));
}

/* Who did not ask for hints is not asked, nor who needs free pages to hold something. */
static void test_not_asked(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 2; i++) {
		if (i == 0)
			start_driver(f, ALL & ~(1ULL << VIRTIO_BALLOON_F_FREE_PAGE_HINT), 0);
		else
			start_driver(f, ALL, 0xaaaaaaaa);
		ops(f)->hint_start(f->rig.dev, &f->hints);
		assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
		ops(f)->hint_stop(f->rig.dev, false);
		assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
		ops(f)->hint_stop(f->rig.dev, true);
	}
	assert_int_equal(config(f, 12), 0xaaaaaaaa);
	offer(f, BALLOON_REPORT, 0, PAGES, 4 * PAGE_SIZE, W);
	assert_used(f, BALLOON_REPORT, 1);
	assert_true(holds(f, 0));
}

/* The guest moves after hints have stopped: there it hears that it may have its pages back. */
static void test_move(void **state)
{
	struct fixture *f = *state, *g = calloc(1, sizeof(*g));
	struct error err = { 0 };
	uint32_t id;

	ops(f)->resize(f->rig.dev, RIG_RAM - 5 * PAGE_SIZE);
	reg_write(f->vd, CONFIG + 4, 4);
	ops(f)->hint_start(f->rig.dev, &f->hints);
	id = cmd_id(f);
	command(f, 0, id);
	offer(f, BALLOON_HINT, 1, PAGES, PAGE_SIZE, W);
	ops(f)->hint_stop(f->rig.dev, false);
	/* A pause in between decides nothing. */
	rig_quiesce(&f->rig);
	rig_resume(&f->rig);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_STOP);
	rig_quiesce(&f->rig);

	open_fixture(g);
	rig_quiesce(&g->rig);
	memcpy(g->rig.vm->memory.regions[0].hva, f->rig.vm->memory.regions[0].hva, RIG_RAM);
	assert_int_equal(rig_copy(&f->rig, &g->rig, &err), 0);
	rig_assert_same_state(&f->rig, &g->rig);
	reg_write(g->vd, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	guest_interrupts(g->vd);
	rig_resume(&g->rig);
	assert_int_equal(cmd_id(g), VIRTIO_BALLOON_CMD_ID_DONE);
	assert_true(guest_interrupts(g->vd) > 0);
	assert_int_equal(config(g, 0), 5);
	assert_int_equal(config(g, 4), 4);
	/* Its next migration's command is a new one. */
	ops(g)->hint_start(g->rig.dev, &g->hints);
	assert_true(cmd_id(g) == id + 1);
	/* Here it goes on as well, if it has to. */
	ops(f)->hint_stop(f->rig.dev, true);
	rig_resume(&f->rig);
	assert_int_equal(cmd_id(f), VIRTIO_BALLOON_CMD_ID_DONE);
	rig_close(&g->rig);
	free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BALLOON_TEST(test_hints),
		BALLOON_TEST(test_wrong_commands),
		BALLOON_TEST(test_command_numbers_wrap),
		BALLOON_TEST(test_hint_outside_ram),
		BALLOON_TEST(test_short_command),
		BALLOON_TEST(test_not_asked),
		BALLOON_TEST(test_move),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
