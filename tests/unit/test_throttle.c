/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Throttling, with a thread that computes instead of a guest: it sees its kicks as KVM_RUN would,
 * by the signal.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/vcpu.h"
#include "vmm/vm.h"

#define MS 1000000UL

struct rig {
	struct vcpu vcpu;
	bool idle;
	_Atomic bool quit;
	_Atomic uint64_t turns, kicks;
};

static _Thread_local volatile sig_atomic_t kicked;

static void on_kick(int sig)
{
	(void)sig;
	kicked = 1;
}

static void *compute(void *opaque)
{
	struct rig *r = opaque;

	pthread_mutex_lock(&r->vcpu.lock);
	r->vcpu.tid = gettid();
	pthread_cond_broadcast(&r->vcpu.cond);
	pthread_mutex_unlock(&r->vcpu.lock);
	while (!r->quit) {
		r->turns++;
		if (r->idle)
			usleep(1000);
		if (!kicked)
			continue;
		kicked = 0;
		r->kicks++;
		vcpu_throttle_pay(&r->vcpu);
	}
	return NULL;
}

static struct rig *start(bool idle)
{
	struct sigaction sa = { .sa_handler = on_kick };
	struct rig *r = calloc(1, sizeof(*r));

	sigaction(KICK_SIGNAL, &sa, NULL);
	r->idle = idle;
	pthread_mutex_init(&r->vcpu.lock, NULL);
	pthread_cond_init(&r->vcpu.cond, NULL);
	assert_int_equal(pthread_create(&r->vcpu.thread, NULL, compute, r), 0);
	pthread_mutex_lock(&r->vcpu.lock);
	while (!r->vcpu.tid)
		pthread_cond_wait(&r->vcpu.cond, &r->vcpu.lock);
	pthread_mutex_unlock(&r->vcpu.lock);
	return r;
}

static void stop(struct rig *r)
{
	r->quit = true;
	vcpu_throttle(&r->vcpu, 0);
	pthread_join(r->vcpu.thread, NULL);
	pthread_cond_destroy(&r->vcpu.cond);
	pthread_mutex_destroy(&r->vcpu.lock);
	free(r);
}

static uint64_t cpu_ns(struct rig *r)
{
	struct timespec ts;
	clockid_t clock;

	pthread_getcpuclockid(r->vcpu.thread, &clock);
	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000 * MS + (uint64_t)ts.tv_nsec;
}

/* The thread sleeps nine times as long as it runs, however busy the machine is otherwise. */
static void sleeps_in_proportion(void **state)
{
	struct rig *r = start(false);
	uint64_t used;

	(void)state;
	assert_int_equal(vcpu_throttle(&r->vcpu, 900), 0);
	used = cpu_ns(r);
	while (r->vcpu.throttled_ns < 600 * MS)
		usleep(1000);
	used = cpu_ns(r) - used;
	assert_in_range(used, 40 * MS, 120 * MS);
	stop(r);
}

/* Who does not run owes nothing. */
static void idle_is_not_slowed(void **state)
{
	struct rig *r = start(true);
	uint64_t turns;

	(void)state;
	assert_int_equal(vcpu_throttle(&r->vcpu, 990), 0);
	turns = r->turns;
	usleep(300000);
	assert_true(r->turns - turns > 50);
	assert_true(r->vcpu.throttled_ns < 150 * MS);
	stop(r);
}

static bool wait_asleep(struct rig *r)
{
	uint64_t kicks = r->kicks, turns;

	while (r->kicks == kicks)
		usleep(100);
	turns = r->turns;
	usleep(2000);
	return turns == r->turns;
}

/* At 99 % of some 4 ms it sleeps for 400 ms; to go on takes no more than waking up. */
static void released_at_once(void **state)
{
	struct rig *r = start(false);
	uint64_t from, turns, kicks;

	(void)state;
	assert_int_equal(vcpu_throttle(&r->vcpu, VCPU_THROTTLE_MAX), 0);
	assert_true(wait_asleep(r));
	turns = r->turns;
	from = now_ns();
	vcpu_throttle(&r->vcpu, 0);
	while (r->turns == turns)
		usleep(100);
	assert_true(now_ns() - from < 200 * MS);
	/* And nobody kicks it any more. */
	kicks = r->kicks;
	from = cpu_ns(r);
	while (cpu_ns(r) - from < 50 * MS)
		usleep(1000);
	assert_true(r->kicks - kicks <= 1);
	stop(r);
}

/* A pause does not wait for the end of the sleep. */
static void parks_at_once(void **state)
{
	struct rig *r = start(false);
	uint64_t from, turns;

	(void)state;
	assert_int_equal(vcpu_throttle(&r->vcpu, VCPU_THROTTLE_MAX), 0);
	assert_true(wait_asleep(r));
	turns = r->turns;
	from = now_ns();
	pthread_mutex_lock(&r->vcpu.lock); /* as vcpu_park() does */
	r->vcpu.want_park = true;
	pthread_cond_broadcast(&r->vcpu.cond);
	pthread_mutex_unlock(&r->vcpu.lock);
	while (r->turns == turns)
		usleep(100);
	assert_true(now_ns() - from < 200 * MS);
	stop(r);
}

static void limits(void **state)
{
	struct rig *r = start(true);

	(void)state;
	assert_int_equal(vcpu_throttle(&r->vcpu, 5000), 0);
	assert_int_equal(r->vcpu.throttle, VCPU_THROTTLE_MAX);
	assert_int_equal(vcpu_throttle(&r->vcpu, 1), 0);
	assert_int_equal(r->vcpu.throttle, 1);
	assert_int_equal(vcpu_throttle(&r->vcpu, 0), 0);
	assert_int_equal(vcpu_throttle(&r->vcpu, 0), 0);
	stop(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sleeps_in_proportion),
		cmocka_unit_test(idle_is_not_slowed),
		cmocka_unit_test(released_at_once),
		cmocka_unit_test(parks_at_once),
		cmocka_unit_test(limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
