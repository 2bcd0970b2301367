/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a machine: its states, pausing and resuming, requests, reset.
 *
 * All of it happens on the loop thread, others get there by loop_call(). That is the whole locking
 * rule: the loop thread may wait for vCPU threads to park, so vCPU threads never wait for the
 * loop; they file requests.
 */
#include "vmm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/boot.h"
#include "vmm/command.h"
#include "vmm/machine.h"
#include "vmm/successor.h"
#include "vmm/vcpu.h"

#define BIT(n) (1U << (n))

static const struct {
	const char *name;
	unsigned int to; /* the legal moves, a bit each */
} states[VM_STATES] = {
	[VM_PRELAUNCH] = { "prelaunch", BIT(VM_RUNNING) | BIT(VM_INMIGRATE) | BIT(VM_PAUSED) |
						BIT(VM_FINISH_MIGRATE) | BIT(VM_SHUTDOWN) },
	[VM_INMIGRATE] = { "inmigrate", BIT(VM_RUNNING) | BIT(VM_PAUSED) | BIT(VM_PRELAUNCH) |
						BIT(VM_SHUTDOWN) },
	[VM_RUNNING] = { "running", BIT(VM_PAUSED) | BIT(VM_FINISH_MIGRATE) | BIT(VM_SHUTDOWN) |
					    BIT(VM_INTERNAL_ERROR) },
	[VM_PAUSED] = { "paused", BIT(VM_RUNNING) | BIT(VM_FINISH_MIGRATE) | BIT(VM_SHUTDOWN) |
					  BIT(VM_INTERNAL_ERROR) },
	[VM_FINISH_MIGRATE] = { "finish-migrate", BIT(VM_RUNNING) | BIT(VM_PAUSED) |
							  BIT(VM_PRELAUNCH) | BIT(VM_HANDED_OVER) |
							  BIT(VM_POSTMIGRATE) | BIT(VM_SHUTDOWN) |
							  BIT(VM_INTERNAL_ERROR) },
	[VM_HANDED_OVER] = { "handed-over",
			     BIT(VM_RUNNING) | BIT(VM_POSTMIGRATE) | BIT(VM_SHUTDOWN) },
	[VM_POSTMIGRATE] = { "postmigrate", BIT(VM_SHUTDOWN) },
	/* … by a reset first. */
	[VM_SHUTDOWN] = { "shutdown", BIT(VM_RUNNING) | BIT(VM_PAUSED) },
	[VM_INTERNAL_ERROR] = { "internal-error",
				BIT(VM_RUNNING) | BIT(VM_PAUSED) | BIT(VM_SHUTDOWN) },
};

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

const char *vm_state_name(enum vm_state state)
{
	return states[state].name;
}

static void vm_pause(struct vm *vm)
{
	if (!vm->vcpus_run)
		return;
	for (unsigned int i = 0; i < vm->n_vcpus; i++)
		vcpu_park(vm->vcpus[i]);
	for (unsigned int i = 0; i < vm->n_vcpus; i++)
		vcpu_wait_parked(vm->vcpus[i]);
	vm->paused_at = now_ns();
	vm->vcpus_run = false;
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->quiesce)
			dev->class->quiesce(dev);
	}
}

static void vm_resume(struct vm *vm)
{
	if (vm->vcpus_run)
		return;
	arch_resume(vm);
	vm->vcpus_run = true;
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->resume)
			dev->class->resume(dev);
	}
	vm->resumed_at = now_ns();
	for (unsigned int i = 0; i < vm->n_vcpus; i++)
		vcpu_unpark(vm->vcpus[i]);
}

static void tell_listeners(struct vm *vm, enum vm_state from, enum vm_state to)
{
	for (struct vm_listener *l = vm->listeners, *next; l; l = next) {
		next = l->next;
		if (l->changed)
			l->changed(l->opaque, from, to);
	}
}

/* The guest has ended; the process follows unless it was told to stay. */
static void vm_end(struct vm *vm, enum vm_state to, int status)
{
	enum vm_state from = vm->state;

	vm_pause(vm);
	vm->exit_status = status;
	vm->state = to;
	tell_listeners(vm, from, to);
	if (!vm->stay)
		loop_stop(vm->loop);
}

/* Paused, and paused it stays. */
static int reset_machine(struct vm *vm, bool guest, struct error *err)
{
	int ret;

	machine_reset(vm);
	ret = boot_load(vm, err);
	if (ret < 0)
		return ret;
	for (struct vm_listener *l = vm->listeners, *next; l; l = next) {
		next = l->next;
		if (l->reset)
			l->reset(l->opaque, guest);
	}
	return 0;
}

/* Carry out what the guest asked for, and pause it for that. True when there is still a guest. */
static bool take_guest_requests(struct vm *vm)
{
	struct error err = { 0 };
	unsigned int asked;

	if (!(vm->requests & ~(unsigned int)VM_REQUEST_QUIT))
		return true;
	/* Then take them: what other vCPUs still ask for is of the same guest, not of the next. */
	vm_pause(vm);
	asked = atomic_fetch_and(&vm->requests, VM_REQUEST_QUIT);
	if (asked & VM_REQUEST_EXIT) {
		vm_end(vm, VM_SHUTDOWN, vm->exit_status);
		return false;
	}
	if ((asked & VM_REQUEST_CRASH) && !vm->reset_on_crash) {
		vm_end(vm, VM_INTERNAL_ERROR, STATUS_CRASH);
		return false;
	}
	if ((asked & VM_REQUEST_RESET) && vm->exit_on_reset) {
		vm_end(vm, VM_SHUTDOWN, STATUS_OK);
		return false;
	}
	if (reset_machine(vm, true, &err) < 0) {
		error_print(&err);
		vm_end(vm, VM_INTERNAL_ERROR, STATUS_ERROR);
		return false;
	}
	return true;
}

static void on_request(void *opaque, uint32_t events)
{
	struct vm *vm = opaque;
	struct error err = { 0 };
	uint64_t n;

	(void)events;
	if (read(vm->request_fd, &n, sizeof(n)) < 0)
		return;
	if (atomic_fetch_and(&vm->requests, ~VM_REQUEST_QUIT) & VM_REQUEST_QUIT) {
		vm->quit = true;
		vm->stay = false;
		if (vm->state == VM_INMIGRATE) {
			error_set(&err, -ECANCELED, "receive", "machine", "", "one to arrive",
				  "that ferry was told to end first");
			error_print(&err);
		}
		vm_end(vm, vm->state == VM_RUNNING ? VM_SHUTDOWN : vm->state,
		       vm->state == VM_INMIGRATE ? STATUS_ERROR : STATUS_OK);
		return;
	}
	/* A request filed just before a pause is taken by the pause, or once the guest runs on. */
	if (vm->state == VM_RUNNING && take_guest_requests(vm))
		vm_resume(vm);
}

struct state_change {
	struct vm *vm;
	enum vm_state to;
	struct error *err;
	int ret;
};

static void set_state(void *opaque)
{
	struct state_change *c = opaque;
	struct vm *vm = c->vm;
	enum vm_state from = vm->state;

	if (from == c->to)
		return;
	if (!(states[from].to & BIT(c->to))) {
		c->ret = error_set(c->err, -EINVAL, "state", vm_state_name(from), "",
				   "a machine that can become that", "a wish for %s",
				   vm_state_name(c->to));
		return;
	}
	if (from == VM_RUNNING) {
		vm_pause(vm);
		if (!take_guest_requests(vm)) {
			c->ret = error_set(c->err, -ECANCELED, "state", "guest", "",
					   "a running guest", "that it has just ended");
			return;
		}
	}
	vm->state = c->to;
	if (c->to == VM_RUNNING) {
		vm_resume(vm);
		/* The other side was told of the stop, and may have announced the guest. */
		if (from == VM_FINISH_MIGRATE || from == VM_HANDED_OVER)
			vm_announce(vm);
		/* Whoever filed one while the machine was paused waits for it, its vCPU parked. */
		if (vm->requests)
			vm_request(vm, 0);
	}
	tell_listeners(vm, from, c->to);
}

int vm_set_state(struct vm *vm, enum vm_state to, struct error *err)
{
	struct state_change c = { .vm = vm, .to = to, .err = err };

	loop_call(vm->loop, set_state, &c);
	return c.ret;
}

int vm_reset(struct vm *vm, bool guest, struct error *err)
{
	int ret;

	vm_pause(vm);
	ret = reset_machine(vm, guest, err);
	if (ret == 0 && vm->state == VM_RUNNING)
		vm_resume(vm);
	/* The guest that was there is lost. */
	if (ret < 0 && (states[vm->state].to & BIT(VM_INTERNAL_ERROR)))
		vm_end(vm, VM_INTERNAL_ERROR, STATUS_ERROR);
	return ret;
}

void vm_request(struct vm *vm, unsigned int request)
{
	uint64_t one = 1;

	atomic_fetch_or(&vm->requests, request);
	/* The counter cannot overflow, and a wake-up that is pending already is as good. */
	if (write(vm->request_fd, &one, sizeof(one)) < 0)
		return;
}

void vm_request_exit(struct vm *vm, int status)
{
	vm->exit_status = status;
	vm_request(vm, VM_REQUEST_EXIT);
}

void vm_listen(struct vm *vm, struct vm_listener *listener)
{
	listener->next = vm->listeners;
	vm->listeners = listener;
}

void vm_unlisten(struct vm *vm, struct vm_listener *listener)
{
	for (struct vm_listener **p = &vm->listeners; *p; p = &(*p)->next) {
		if (*p == listener) {
			*p = listener->next;
			return;
		}
	}
}

int vm_create(struct vm **out, struct error *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int ret;

	*out = NULL;
	if (!vm)
		return error_set(err, -ENOMEM, "start", "machine", "", "memory", "none");
	vm->kvm_fd = vm->fd = vm->signal_fd = vm->leash_fd = -1;
	vm->memory.fd = -1;
	vm->state = VM_PRELAUNCH;
	pthread_mutex_init(&vm->control_lock, NULL);
	pthread_mutex_init(&vm->ring_lock, NULL);
	vm->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->request_fd < 0) {
		ret = error_set(err, -errno, "start", "machine", "", "an eventfd", "%m");
		free(vm);
		return ret;
	}
	ret = loop_create(&vm->loop, err);
	if (ret == 0 && (ret = loop_fd_add(vm->loop, vm->request_fd, EPOLLIN, on_request, vm,
					   &vm->request_watch)) < 0)
		error_set(err, ret, "start", "machine", "", "its eventfd to be watched", "%s",
			  strerror(-ret));
	if (ret < 0) {
		vm_destroy(vm);
		return ret;
	}
	*out = vm;
	return 0;
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	while (vm->listeners) {
		struct vm_listener *l = vm->listeners;

		vm->listeners = l->next;
		if (l->gone)
			l->gone(l->opaque);
	}
	vm_pause(vm);
	successor_abandon(vm);
	machine_unrealize(vm);
	device_fds_free(&vm->given);
	if (vm->request_watch)
		loop_fd_del(vm->request_watch);
	if (vm->loop)
		loop_destroy(vm->loop);
	close(vm->request_fd);
	pthread_mutex_destroy(&vm->control_lock);
	pthread_mutex_destroy(&vm->ring_lock);
	free(vm);
}
