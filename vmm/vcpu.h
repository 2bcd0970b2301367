/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU and its thread. The thread runs KVM_RUN and does register access to devices; everything
 * else about a vCPU is done by others while it is parked.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>

#include "vmm/error.h"

struct vm;

/* Sent to a vCPU's thread to get it out of KVM_RUN. */
#define KICK_SIGNAL SIGUSR1

/* The last exits, always recorded: a crash report without them says little. */
#define VCPU_TRACE 32

#define VCPU_FAULT_STATS 2

struct vcpu_exit {
	uint64_t addr; /* port or gpa */
	uint64_t data;
	uint32_t reason; /* KVM_EXIT_* */
	uint8_t len;
	bool write;
};

struct vcpu {
	struct vm *vm;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	size_t run_size;

	pthread_t thread;
	bool started;	      /* the thread exists */
	pid_t tid;	      /* its kernel id, for people to find it */
	pthread_mutex_t lock; /* of the three below */
	pthread_cond_t cond;
	bool want_park, want_quit;
	bool parked;

	/* throttle.c; the lock guards the timer. */
	_Atomic unsigned int throttle; /* thousandths of its time that it sleeps */
	bool throttle_ticks;
	timer_t throttle_timer;
	uint64_t throttle_paid_ns;     /* of the thread's CPU time; the thread's after start */
	_Atomic uint64_t throttled_ns; /* slept so far */

	/* dirty-ring.c; NULL without. By who holds vm->ring_lock. */
	struct kvm_dirty_gfn *ring;
	uint32_t ring_next;
	_Atomic uint64_t ring_pages; /* read from it so far */

	/* vcpu-faults.c */
	int stats_fd; /* -1: none */
	int64_t faults_at[VCPU_FAULT_STATS];
	_Atomic uint64_t dirty_rate; /* pages a second, as a migration has seen it; else 0 */

	struct vcpu_exit trace[VCPU_TRACE]; /* a ring; owned by the thread */
	unsigned int trace_next;
};

/* Make vCPU @index with its parked thread. Registers come from arch_vcpu_reset or a loaded state.
 */
int vcpu_create(struct vm *vm, unsigned int index, struct vcpu **out, struct error *err);
void vcpu_destroy(struct vcpu *vcpu);

/* Ask it to leave the guest and park; does not wait. vcpu_wait_parked() does. Not on its own
 * thread. */
void vcpu_park(struct vcpu *vcpu);
void vcpu_wait_parked(struct vcpu *vcpu);
/* Let it run. */
void vcpu_unpark(struct vcpu *vcpu);

/*
 * Have it sleep @permille thousandths of the time, VCPU_THROTTLE_MAX at most, in which it would
 * otherwise run; 0 lets it go on at once. What it is halted does not count. -EAGAIN when there is
 * no timer for it. Any thread but its own, one at a time.
 */
#define VCPU_THROTTLE_MAX 990U
#define VCPU_SLICE_NS	  4000000L /* of processor time between two sleeps */
int vcpu_throttle(struct vcpu *vcpu, unsigned int permille);
/* Sleep for what it has run, unless it shall park. Its own thread, after a kick. */
void vcpu_throttle_pay(struct vcpu *vcpu);

/* KVM's count of page faults that it mended for this vCPU, 0 when there is none. Opened before it
 * runs for the first time; read by one thread at a time. */
void vcpu_faults_open(struct vcpu *vcpu);
uint64_t vcpu_faults(const struct vcpu *vcpu);
void vcpu_faults_close(struct vcpu *vcpu);

/* Note the access that the exit at hand was about. Its own thread. */
void vcpu_trace_access(struct vcpu *vcpu, uint64_t addr, const void *data, unsigned int len,
		       bool write);
/* Print the exits before now, oldest first. */
void vcpu_trace_print(const struct vcpu *vcpu, FILE *out);
const char *vcpu_exit_name(uint32_t reason);

#endif
