/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Slowing a vCPU down: for the processor time that its thread has used it sleeps in proportion.
 *
 * It is the thread's own CPU clock that counts, and a timer on that clock is what gets the vCPU out
 * of the guest. So a vCPU that is halted pays nothing and is not woken for it, and one whose signal
 * came while it was not in KVM_RUN pays with the next. The sleep is a wait on the condition
 * variable that a pause signals, too: a pause does not take longer for it.
 */
#include <errno.h>
#include <signal.h>
#include <sys/param.h>
#include <time.h>

#include "vmm/vcpu.h"
#include "vmm/vm.h"

/* The kernel looks at these timers with its ticks only, which are 1 to 10 ms apart. */
#define SLICE_MAX_NS 20000000UL /* no more is charged at a time */
#define SECOND_NS    1000000000UL

/* The field's own name in the structure, which glibc 2.36 has no macro for. */
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static uint64_t cpu_time(const struct vcpu *vcpu)
{
	struct timespec ts;
	clockid_t clock;

	if (pthread_getcpuclockid(vcpu->thread, &clock) != 0 || clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

static int start_timer(struct vcpu *vcpu)
{
	const struct itimerspec slice = { { 0, VCPU_SLICE_NS }, { 0, VCPU_SLICE_NS } };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL };
	clockid_t clock;
	int ret = -pthread_getcpuclockid(vcpu->thread, &clock);

	event.sigev_notify_thread_id = vcpu->tid;
	if (ret == 0 && timer_create(clock, &event, &vcpu->throttle_timer) < 0)
		ret = -errno;
	if (ret == 0) {
		timer_settime(vcpu->throttle_timer, 0, &slice, NULL);
		vcpu->throttle_paid_ns = cpu_time(vcpu);
		vcpu->throttle_ticks = true;
	}
	return ret;
}

static void stop_timer(struct vcpu *vcpu)
{
	if (vcpu->throttle_ticks)
		timer_delete(vcpu->throttle_timer);
	vcpu->throttle_ticks = false;
}

int vcpu_throttle(struct vcpu *vcpu, unsigned int permille)
{
	int ret = 0;

	pthread_mutex_lock(&vcpu->lock);
	if (permille == 0)
		stop_timer(vcpu);
	else if (!vcpu->throttle_ticks)
		ret = start_timer(vcpu);
	if (ret == 0)
		vcpu->throttle = MIN(permille, VCPU_THROTTLE_MAX);
	/* Who sleeps counts anew. */
	pthread_cond_broadcast(&vcpu->cond);
	pthread_mutex_unlock(&vcpu->lock);
	return ret;
}

/* Sleep for @used ns in the guest, which began at @start; with the lock held. */
static void sleep_for(struct vcpu *vcpu, uint64_t start, uint64_t used)
{
	while (vcpu->throttle && !vcpu->want_park && !vcpu->want_quit) {
		uint64_t end = start + used * vcpu->throttle / (1000 - vcpu->throttle);
		struct timespec ts = { (time_t)(end / SECOND_NS), (long)(end % SECOND_NS) };

		if (now_ns() >= end)
			break;
		pthread_cond_clockwait(&vcpu->cond, &vcpu->lock, CLOCK_MONOTONIC, &ts);
	}
}

void vcpu_throttle_pay(struct vcpu *vcpu)
{
	uint64_t now, start;

	if (!vcpu->throttle)
		return;
	pthread_mutex_lock(&vcpu->lock);
	now = cpu_time(vcpu);
	start = now_ns();
	sleep_for(vcpu, start, MIN(now - vcpu->throttle_paid_ns, SLICE_MAX_NS));
	vcpu->throttle_paid_ns = now;
	vcpu->throttled_ns += now_ns() - start;
	pthread_mutex_unlock(&vcpu->lock);
}
