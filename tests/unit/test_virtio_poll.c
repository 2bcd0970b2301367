/* SPDX-License-Identifier: BSD-2-Clause */
/* Queues that the loop looks at: no kicks meanwhile, kicks afterwards, and nothing once it is
 * quiet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "guest-virtio.h"

#define RING   0x10000ULL
#define BUFFER 0x30000ULL
#define SIZE   8
#define W      VRING_DESC_F_WRITE
#define EVENT  (1ULL << VIRTIO_RING_F_EVENT_IDX)
#define MS     1000000LL

struct fixture {
	struct vm vm;
	struct device *dev;
	struct virtio_device *vd;
	struct guest_queue gq;
	struct loop_timer *timer;
	bool looked; /* what the loop saw to while the test's callback was over */
	uint16_t used, wanted, flags;
	uint8_t *ram;
};

static void stop(void *opaque)
{
	loop_stop(((struct fixture *)opaque)->vm.loop);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	test_machine_init(&f->vm);
	f->dev = test_device(&f->vm, "virtio-rng", "", &err);
	assert_non_null(f->dev);
	f->vd = (struct virtio_device *)f->dev;
	assert_int_equal(loop_timer_add(f->vm.loop, stop, f, &f->timer), 0);
	f->ram = malloc(RAM_LOW);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_timer_del(f->timer);
	test_machine_free(&f->vm);
	free(f->ram);
	free(f);
	return 0;
}

static void open_queue(struct fixture *f, uint64_t features)
{
	guest_start(&f->gq, f->dev, V1 | features, SIZE, RING);
	for (unsigned int i = 0; i < SIZE; i++)
		guest_desc(&f->gq, i, BUFFER + i * 64, 64, W, 0);
}

static void start(struct fixture *f, uint64_t features)
{
	open_queue(f, features);
	loop_timer_set(f->timer, 2 * MS);
	loop_run(f->vm.loop);
	assert_int_equal(f->vd->empty, 0); /* the first kick, of DRIVER_OK, found nothing */
	f->vd->poll.skip = 0;
}

/* Run @fn in the loop, and the loop for some ms more. */
static void in_loop(struct fixture *f, void (*fn)(void *opaque))
{
	loop_timer_set(f->timer, 5 * MS);
	loop_post(f->vm.loop, fn, f);
	loop_run(f->vm.loop);
}

static uint16_t used_flags(struct fixture *f)
{
	return *(uint16_t *)ram(f->vd, f->gq.used);
}

/* Work on one request, so that the loop looks for a second one; which comes without a kick. */
static void add_two(void *opaque)
{
	struct fixture *f = opaque;

	guest_add(&f->gq, 0);
	virtio_run_queue(f->vd, 0);
	f->used = guest_used_index(&f->gq);
	f->wanted = guest_avail_event(&f->gq);
	f->flags = used_flags(f);
	f->looked = f->vd->empty;
	guest_add(&f->gq, 1);
}

static void seen_without_a_kick(void **state)
{
	struct fixture *f = *state;

	start(f, EVENT);
	assert_int_equal(guest_avail_event(&f->gq), 0);
	in_loop(f, add_two);
	assert_true(f->looked);
	assert_int_equal(f->used, 1);
	assert_int_equal(f->wanted, 0); /* which has passed: no kick for the second */
	assert_int_equal(guest_used_index(&f->gq), 2);
	/* The loop sleeps: a kick for the third. */
	assert_int_equal(guest_avail_event(&f->gq), 2);
	assert_int_equal(f->vd->empty, 0);
	assert_int_equal(f->vd->poll.misses, 0);
}

/* The same for a driver without event index, by the flag (2.7.10). */
static void seen_without_event_index(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	assert_int_equal(used_flags(f), 0);
	in_loop(f, add_two);
	assert_true(f->looked);
	assert_int_equal(f->flags, VRING_USED_F_NO_NOTIFY);
	assert_int_equal(guest_used_index(&f->gq), 2);
	assert_int_equal(used_flags(f), 0);
}

static void pause_now(void *opaque)
{
	struct fixture *f = opaque;

	add_two(f);
	f->dev->class->quiesce(f->dev);
	memcpy(f->ram, memory_hva(&f->vm.memory, 0, RAM_LOW), RAM_LOW);
}

/* Nothing is written, nor taken, once it is quiesced; the ring is as if nobody had looked. */
static void quiesced_while_looked_at(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 2; i++) {
		start(f, i ? EVENT : 0);
		in_loop(f, pause_now);
		assert_true(f->looked);
		assert_int_equal(guest_used_index(&f->gq), 1);
		assert_memory_equal(f->ram, memory_hva(&f->vm.memory, 0, RAM_LOW), RAM_LOW);
		if (i)
			assert_int_equal(guest_avail_event(&f->gq), 1);
		else
			assert_int_equal(used_flags(f), 0);
		/* What came without a kick is seen to when the guest runs on. */
		f->dev->class->resume(f->dev);
		assert_int_equal(guest_used_index(&f->gq), 2);
	}
}

static void reset_now(void *opaque)
{
	struct fixture *f = opaque;

	add_two(f);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0); /* as a vCPU does */
}

static void reset_while_looked_at(void **state)
{
	struct fixture *f = *state;

	start(f, EVENT);
	in_loop(f, reset_now);
	assert_true(f->looked);
	assert_int_equal(guest_used_index(&f->gq), 1);
	start(f, EVENT);
	in_loop(f, add_two);
	assert_int_equal(guest_used_index(&f->gq), 2);
}

/* A request now and then, none soon after another: the loop soon gives up looking. */
static void add_one(void *opaque)
{
	struct fixture *f = opaque;

	guest_add(&f->gq, 0);
	virtio_run_queue(f->vd, 0);
	f->used += f->vd->empty & 1;
}

static void idle_guest(void **state)
{
	struct fixture *f = *state;

	start(f, EVENT);
	f->used = 0;
	for (unsigned int i = 0; i < 300; i++) {
		loop_timer_set(f->timer, MS / 5);
		loop_post(f->vm.loop, add_one, f);
		loop_run(f->vm.loop);
		assert_int_equal(guest_used_index(&f->gq), i + 1);
		assert_int_equal(guest_avail_event(&f->gq), i + 1);
	}
	assert_true(f->used >= 1);
	assert_true(f->used <= 10); /* after 0, 1, 3, … 63, 63 others */
}

/* ---- A driver in a thread of its own, which kicks when it is told to ---- */

struct driver {
	struct fixture *f;
	atomic_bool end;
	_Atomic unsigned int answers;
	unsigned int kicks;
};

static void *run_loop(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static void drive(struct driver *d, unsigned int requests)
{
	struct guest_queue *gq = &d->f->gq;
	uint32_t head, len;

	for (unsigned int i = 0; i < requests && !d->end; i++) {
		uint16_t old = gq->next_avail, event;

		guest_add(gq, (uint16_t)(i % SIZE));
		atomic_thread_fence(memory_order_seq_cst);
		event = guest_avail_event(gq);
		if (vring_need_event(event, gq->next_avail, old)) {
			eventfd_write(d->f->vd->queue[0].kick, 1); /* as the ioeventfd does */
			d->kicks++;
		}
		while (!guest_get(gq, &head, &len) && !d->end)
			sched_yield();
		d->answers++;
	}
}

static void *driver(void *opaque)
{
	struct driver *d = opaque;

	for (unsigned int i = 0; i < 20 && !d->end; i++) {
		drive(d, 500);
		if (d->end)
			break;
		/* And all over again, whatever the loop does just now. */
		open_queue(d->f, EVENT);
	}
	return NULL;
}

static void do_quiesce(void *opaque)
{
	struct fixture *f = opaque;

	f->dev->class->quiesce(f->dev);
}

static void do_resume(void *opaque)
{
	struct fixture *f = opaque;

	f->dev->class->resume(f->dev);
}

/* No request is lost, whoever looks, sleeps, resets or makes a pause when. */
static void driver_in_a_thread(void **state)
{
	struct fixture *f = *state;
	struct driver d = { .f = f };
	pthread_t loop, guest;

	open_queue(f, EVENT);
	assert_int_equal(pthread_create(&loop, NULL, run_loop, f->vm.loop), 0);
	assert_int_equal(pthread_create(&guest, NULL, driver, &d), 0);
	for (unsigned int i = 0; i < 100; i++) {
		loop_call(f->vm.loop, do_quiesce, f);
		usleep(100);
		loop_call(f->vm.loop, do_resume, f);
	}
	for (unsigned int i = 0; d.answers < 20 * 500; i++) {
		if (i == 30000) {
			d.end = true;
			break;
		}
		usleep(1000);
	}
	pthread_join(guest, NULL);
	loop_stop(f->vm.loop);
	pthread_join(loop, NULL);
	assert_int_equal(d.answers, 20 * 500);
	print_message("%u requests, %u kicks\n", d.answers, d.kicks);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(seen_without_a_kick),
		TEST(seen_without_event_index),
		TEST(quiesced_while_looked_at),
		TEST(reset_while_looked_at),
		TEST(idle_guest),
		TEST(driver_in_a_thread),
	};

	return cmocka_run_group_tests_name("virtio-poll", tests, NULL, NULL);
}
