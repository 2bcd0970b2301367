/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net: frames that wait for receive buffers, and when the driver is to tell of these. */
#include "tests/unit/net-fixture.h"

#define EVENT (1ULL << VIRTIO_RING_F_EVENT_IDX)

static struct net_pair *pair(struct fixture *f)
{
	return &((struct virtio_net *)f->vd)->pair[0];
}

/* Without a kick; whether the driver would have been told to. */
static bool add(struct fixture *f, unsigned int i)
{
	struct guest_queue *gq = &f->queue[RX];
	uint16_t old = gq->next_avail;

	guest_desc(gq, i, buffer(i), 1530, W, 0);
	guest_add(gq, (uint16_t)i);
	return vring_need_event(guest_avail_event(gq), gq->next_avail, old);
}

static uint16_t used(struct fixture *f)
{
	return guest_used_index(&f->queue[RX]);
}

/* More frames than buffers, of which there were 16. Without a turn of the loop at the end, nor the
 * timer's. */
static void run_out(struct fixture *f)
{
	start_driver(f, FEATURES | F(MRG_RXBUF) | EVENT);
	for (uint32_t i = 0; i < 60; i++)
		network_sends(f, 0, own_mac, i, 60);
	RIG_UNTIL(&f->rig, pair(f)->readable);
	assert_false(pair(f)->timed);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++)
		add(f, i);
	virtio_run_queue(f->vd, RX);
	assert_int_equal(used(f), QUEUE_SIZE);
	assert_true(pair(f)->timed);
}

/* A driver that gives them back one by one kicks but now and then. */
static void kicks_are_few(void **state)
{
	struct fixture *f = *state;
	unsigned int kicks = 0;

	run_out(f);
	for (unsigned int i = 0; i < 32; i++) {
		if (!add(f, i % QUEUE_SIZE))
			continue;
		kicks++;
		virtio_run_queue(f->vd, RX);
		assert_int_equal(used(f), QUEUE_SIZE + i + 1);
	}
	assert_int_equal(kicks, 32 / (QUEUE_SIZE / 2 + 1));
}

/* One that gives back just a few is found out by the timer, and kicks at once from then on. */
static void few_buffers(void **state)
{
	struct fixture *f = *state;

	run_out(f);
	for (unsigned int i = 0; i < 3; i++)
		assert_false(add(f, i));
	RIG_UNTIL(&f->rig, used(f) == QUEUE_SIZE + 3);
	assert_int_equal(guest_avail_event(&f->queue[RX]), QUEUE_SIZE + 3);
	assert_true(add(f, 3));
	kick(&f->queue[RX]);
	RIG_UNTIL(&f->rig, used(f) == QUEUE_SIZE + 4);
	assert_int_equal(guest_avail_event(&f->queue[RX]), QUEUE_SIZE + 4);
}

/* Nobody looks again and again for a driver that gives none. */
static void no_buffers(void **state)
{
	struct fixture *f = *state;

	run_out(f);
	RIG_UNTIL(&f->rig, !pair(f)->timed);
	for (int i = 0; i < 20; i++) {
		rig_turn(&f->rig);
		assert_false(pair(f)->timed);
	}
	assert_int_equal(guest_avail_event(&f->queue[RX]), QUEUE_SIZE);
}

/* Neither does the timer during a pause, however it falls. */
static void pause_without_buffers(void **state)
{
	struct fixture *f = *state;
	void *before = malloc(RIG_RAM), *now = memory_hva(&f->rig.vm->memory, 0, RIG_RAM);

	run_out(f);
	rig_quiesce(&f->rig);
	for (unsigned int i = 0; i < 3; i++)
		add(f, i);
	memcpy(before, now, RIG_RAM);
	for (int i = 0; i < 10; i++)
		rig_turn(&f->rig);
	assert_false(pair(f)->timed);
	assert_memory_equal(before, now, RIG_RAM);
	rig_resume(&f->rig);
	RIG_UNTIL(&f->rig, used(f) == QUEUE_SIZE + 3);
	free(before);
}

/* A new driver, with fewer buffers, is not measured by the old one. */
static void reset(void **state)
{
	struct fixture *f = *state;

	run_out(f);
	start_driver(f, FEATURES | F(MRG_RXBUF) | EVENT);
	add(f, 0);
	kick(&f->queue[RX]);
	RIG_UNTIL(&f->rig, used(f) == 1);
	assert_int_equal(guest_avail_event(&f->queue[RX]), 1);
	assert_false(pair(f)->timed && f->queue[RX].vd->queue[RX].most > 1);
}

/* Without event index there is no telling a driver to wait: it kicks for each. */
static void without_event_index(void **state)
{
	struct fixture *f = *state;

	start_driver(f, FEATURES | F(MRG_RXBUF));
	for (uint32_t i = 0; i < 40; i++)
		network_sends(f, 0, own_mac, i, 60);
	for (unsigned int i = 0; i < 40; i++) {
		offer(f, RX, (uint16_t)(i % QUEUE_SIZE), 1530);
		expect_used(f, RX, i % QUEUE_SIZE, 72);
		assert_false(pair(f)->timed);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, plug_in_headers, teardown)
	const struct CMUnitTest tests[] = {
		TEST(kicks_are_few),	     TEST(few_buffers), TEST(no_buffers),
		TEST(pause_without_buffers), TEST(reset),	TEST(without_event_index),
	};

	return cmocka_run_group_tests_name("virtio-net-buffers", tests, NULL, NULL);
}
