/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vCPU threads.
 *
 * To park one, its `immediate_exit` is set and the thread signalled: whether it is in the guest,
 * halted in the kernel or on its way there, the next KVM_RUN returns EINTR. Only then does it park,
 * and by then KVM has finished the I/O of the exit before it, so that the registers are complete
 * (KVM API 5, "immediate_exit").
 */
#include "vmm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/dirty-ring.h"
#include "vmm/vm.h"

static void on_kick(int sig)
{
	(void)sig; /* Being delivered is all it is for. */
}

static void kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(vcpu->thread, KICK_SIGNAL);
}

/* Wait while parked. False when the thread shall end. */
static bool wait_unparked(struct vcpu *vcpu)
{
	bool quit;

	pthread_mutex_lock(&vcpu->lock);
	while (vcpu->want_park && !vcpu->want_quit) {
		vcpu->parked = true;
		pthread_cond_broadcast(&vcpu->cond);
		pthread_cond_wait(&vcpu->cond, &vcpu->lock);
	}
	vcpu->parked = false;
	quit = vcpu->want_quit;
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&vcpu->lock);
	return !quit;
}

/* From the vCPU's own thread: run no further guest instruction until the loop has decided. */
static void park_self(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->want_park = true;
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&vcpu->lock);
}

static struct vcpu_exit *trace(struct vcpu *vcpu)
{
	struct vcpu_exit *e = &vcpu->trace[vcpu->trace_next++ % VCPU_TRACE];

	memset(e, 0, sizeof(*e));
	e->reason = vcpu->run->exit_reason;
	return e;
}

void vcpu_trace_access(struct vcpu *vcpu, uint64_t addr, const void *data, unsigned int len,
		       bool write)
{
	struct vcpu_exit *e = &vcpu->trace[(vcpu->trace_next - 1) % VCPU_TRACE];

	e->addr = addr;
	e->len = (uint8_t)len;
	e->write = write;
	memcpy(&e->data, data, len < sizeof(e->data) ? len : sizeof(e->data));
}

static void handle_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->mmio.is_write)
		bus_write(&vcpu->vm->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(&vcpu->vm->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	vcpu_trace_access(vcpu, run->mmio.phys_addr, run->mmio.data, run->mmio.len,
			  run->mmio.is_write);
}

/* Park without one more KVM_RUN: it may go on failing, in which case it would never be EINTR. */
static bool crash(struct vcpu *vcpu)
{
	arch_vcpu_report(vcpu, stderr);
	park_self(vcpu);
	vm_request(vcpu->vm, VM_REQUEST_CRASH);
	return wait_unparked(vcpu);
}

/* One turn in the guest. False when the thread shall end. */
static bool run_once(struct vcpu *vcpu)
{
	if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
		if (errno == EINTR) {
			vcpu_throttle_pay(vcpu);
			return wait_unparked(vcpu);
		}
		if (errno == EAGAIN)
			return true; /* was waiting for SIPI and woke up */
		vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
		vcpu->run->hw.hardware_exit_reason = (uint64_t)errno;
	}
	trace(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_MMIO)
		handle_mmio(vcpu);
	else if (vcpu->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL && vcpu->ring)
		return dirty_ring_full(vcpu) == 0 || crash(vcpu);
	else if (arch_vcpu_exit(vcpu) != 0)
		return crash(vcpu);
	if (vcpu->vm->requests)
		park_self(vcpu);
	return true;
}

static void *vcpu_main(void *opaque)
{
	struct vcpu *vcpu = opaque;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(pthread_self(), name);
	vcpu->tid = gettid();
	if (!wait_unparked(vcpu))
		return NULL;
	while (run_once(vcpu))
		;
	return NULL;
}

/* The thread takes no signal but the kick; SIGINT and the like are the loop's. */
static int start_thread(struct vcpu *vcpu)
{
	struct sigaction sa = { .sa_handler = on_kick };
	sigset_t all, old;
	int ret;

	sigaction(KICK_SIGNAL, &sa, NULL);
	sigfillset(&all);
	sigdelset(&all, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	vcpu->started = ret == 0;
	return -ret;
}

int vcpu_create(struct vm *vm, unsigned int index, struct vcpu **out, struct error *err)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
	int size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	char name[16];
	int ret;

	*out = NULL;
	snprintf(name, sizeof(name), "cpu@%u", index);
	if (!vcpu)
		return error_set(err, -ENOMEM, "realize", name, "", "memory", "none");
	vcpu->vm = vm;
	vcpu->index = index;
	vcpu->want_park = true;
	vcpu->stats_fd = -1;
	vcpu->run = MAP_FAILED;
	pthread_mutex_init(&vcpu->lock, NULL);
	pthread_cond_init(&vcpu->cond, NULL);
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd >= 0 && size > 0) {
		vcpu->run_size = (size_t)size;
		vcpu->run =
			mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	}
	if (vcpu->run == MAP_FAILED)
		ret = error_set(err, -errno, "realize", name, "", "a vCPU from KVM", "%m");
	else if ((ret = dirty_ring_map(vcpu)) < 0)
		error_set(err, ret, "realize", name, "", "its dirty ring", "%s", strerror(-ret));
	else if ((ret = start_thread(vcpu)) < 0)
		error_set(err, ret, "realize", name, "", "a thread", "%s", strerror(-ret));
	if (ret < 0) {
		vcpu_destroy(vcpu);
		return ret;
	}
	vcpu_wait_parked(vcpu);
	if (!vm->ring_entries)
		vcpu_faults_open(vcpu);
	*out = vcpu;
	return 0;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	if (vcpu->started) {
		vcpu_throttle(vcpu, 0);
		pthread_mutex_lock(&vcpu->lock);
		vcpu->want_quit = true;
		pthread_cond_broadcast(&vcpu->cond);
		pthread_mutex_unlock(&vcpu->lock);
		kick(vcpu);
		pthread_join(vcpu->thread, NULL);
	}
	if (vcpu->run != MAP_FAILED)
		munmap(vcpu->run, vcpu->run_size);
	dirty_ring_unmap(vcpu);
	vcpu_faults_close(vcpu);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	pthread_cond_destroy(&vcpu->cond);
	pthread_mutex_destroy(&vcpu->lock);
	free(vcpu);
}

void vcpu_park(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->want_park = true;
	kick(vcpu);
	pthread_cond_broadcast(&vcpu->cond); /* it may sleep (throttle.c) */
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_wait_parked(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	while (!vcpu->parked)
		pthread_cond_wait(&vcpu->cond, &vcpu->lock);
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_unpark(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->want_park = false;
	pthread_cond_broadcast(&vcpu->cond);
	pthread_mutex_unlock(&vcpu->lock);
}

const char *vcpu_exit_name(uint32_t reason)
{
	static const char *const names[] = {
		[KVM_EXIT_UNKNOWN] = "unknown",
		[KVM_EXIT_EXCEPTION] = "exception",
		[KVM_EXIT_IO] = "io",
		[KVM_EXIT_DEBUG] = "debug",
		[KVM_EXIT_HLT] = "hlt",
		[KVM_EXIT_MMIO] = "mmio",
		[KVM_EXIT_SHUTDOWN] = "shutdown",
		[KVM_EXIT_FAIL_ENTRY] = "failed entry",
		[KVM_EXIT_INTR] = "intr",
		[KVM_EXIT_INTERNAL_ERROR] = "internal error",
		[KVM_EXIT_SYSTEM_EVENT] = "system event",
		[KVM_EXIT_DIRTY_RING_FULL] = "dirty ring full",
	};

	if (reason < sizeof(names) / sizeof(names[0]) && names[reason])
		return names[reason];
	return "other";
}

void vcpu_trace_print(const struct vcpu *vcpu, FILE *out)
{
	unsigned int n = vcpu->trace_next < VCPU_TRACE ? vcpu->trace_next : VCPU_TRACE;

	for (unsigned int i = vcpu->trace_next - n; i != vcpu->trace_next; i++) {
		const struct vcpu_exit *e = &vcpu->trace[i % VCPU_TRACE];

		if (e->len)
			fprintf(out, "  %s %s 0x%" PRIx64 " len %u data 0x%" PRIx64 "\n",
				vcpu_exit_name(e->reason), e->write ? "write" : "read", e->addr,
				e->len, e->data);
		else
			fprintf(out, "  %s (%u)\n", vcpu_exit_name(e->reason), e->reason);
	}
}
