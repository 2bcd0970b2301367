/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine. Everything hangs off struct vm; there is no other state in the process, so a test
 * can hold two machines at once.
 *
 * Life: vm_create() makes an empty one with a loop; vm_realize() builds what a machine tree
 * describes, paused; vm_reset() puts the boot image in place; vm_set_state() lets it run and holds
 * it; loop_run(vm->loop) dispatches until the machine has ended.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/bus.h"
#include "vmm/device.h"
#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/memory.h"

/* Numbers of xAPICs are bytes, and 255 means all of them. */
#define VM_MAX_VCPUS 255

/* Named as in the public QMP schema where that has a name for it. */
enum vm_state {
	VM_PRELAUNCH, /* realized or about to be, has never run */
	VM_INMIGRATE, /* waits for, or receives, a machine */
	VM_RUNNING,
	VM_PAUSED,	   /* by a person */
	VM_FINISH_MIGRATE, /* paused by a migration that can still fail */
	VM_HANDED_OVER,	   /* COMMIT was sent; whether the other side runs it is not known */
	VM_POSTMIGRATE,	   /* the other side runs it */
	VM_SHUTDOWN,	   /* the guest has ended */
	VM_INTERNAL_ERROR, /* the guest has crashed */
	VM_STATES,
};

/* How KVM tells which pages are dirty (dirty-ring.c). */
enum dirty_tracking { DIRTY_AUTO, DIRTY_BITMAP, DIRTY_RING };
const char *dirty_tracking_name(enum dirty_tracking tracking);

struct vcpu;
struct successor;
struct control;
struct migration;

/* Called on the loop thread, after the fact; members may be NULL. */
struct vm_listener {
	void (*changed)(void *opaque, enum vm_state from, enum vm_state to);
	/* The machine was reset, by the guest or by a person. */
	void (*reset)(void *opaque, bool guest);
	/* The guest has taken or given back RAM; it has @bytes for itself. */
	void (*ram)(void *opaque, uint64_t bytes);
	/* The machine is about to be destroyed: end the threads that use it. */
	void (*gone)(void *opaque);
	void *opaque;
	struct vm_listener *next;
};

struct vm {
	struct loop *loop;
	int kvm_fd, fd; /* /dev/kvm and the VM, -1 before vm_realize */
	struct memory memory;
	struct bus mmio, pio;
	struct vcpu *vcpus[VM_MAX_VCPUS];
	unsigned int n_vcpus;
	struct device *devices; /* in the order of the tree */
	void *tree;		/* the machine tree, malloc'd, fdt_totalsize() bytes */
	char *name;		/* --name, may be NULL */

	_Atomic enum vm_state state;   /* changed on the loop thread only, read by any */
	bool vcpus_run;		       /* not paused; loop thread */
	_Atomic unsigned int requests; /* VM_REQUEST_* filed for the loop thread */
	int request_fd;		       /* eventfd that wakes it */
	struct loop_fd *request_watch;
	int signal_fd; /* SIGINT and the like, by serve.c; -1 before */
	struct loop_fd *signal_watch;
	int leash_fd; /* of an heir (successor.h), else -1 */
	struct loop_fd *leash_watch;
	struct successor *successor; /* started by ferry upgrade, else NULL */
	_Atomic int exit_status;
	bool exit_on_reset;  /* --on-reboot exit */
	bool reset_on_crash; /* --on-crash reset */
	bool quit;	     /* the process ends because somebody here said so, not the guest */
	bool stay;	     /* --stay: do not end when the guest has left, ended or crashed */
	bool handing_on; /* … this process hands all that is open on to another (ferry upgrade) */
	enum dirty_tracking dirty_tracking; /* --dirty */
	uint32_t ring_entries;		    /* of each vCPU's dirty ring; 0: a bitmap instead */
	pthread_mutex_t ring_lock;	    /* dirty-ring.h; a leaf */
	_Atomic uint64_t ring_full;	    /* how often a vCPU had to stop for a full ring */
	bool manual_protect;		    /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on */
	bool dirty_logging;

	uint64_t paused_at; /* ns of CLOCK_MONOTONIC: last pause had every vCPU out of the guest */
	_Atomic uint64_t resumed_at; /* ns: vCPUs were let go */
	struct vm_listener *listeners;
	struct control *control;      /* NULL without --control */
	pthread_mutex_t control_lock; /* of its coming and going, for other threads */
	struct migration *migration;  /* of migration/, opaque here */
	struct device_fds *given;     /* for devices that are yet to be realized; see device.h */
	void *arch;		      /* of vmm/x86/ */
};

enum {
	VM_REQUEST_RESET = 1 << 0,
	VM_REQUEST_CRASH = 1 << 1, /* after the report has been printed */
	VM_REQUEST_EXIT = 1 << 2,  /* exit_status has been set */
	VM_REQUEST_QUIT = 1 << 3,  /* SIGINT, SIGTERM, quit */
};

/* Make an empty machine in VM_PRELAUNCH, or destroy it with all it holds. */
int vm_create(struct vm **out, struct error *err);
void vm_destroy(struct vm *vm);

/*
 * Build the machine that @fdt describes (copied): memory, vCPUs, devices, reset and paused. Hostile
 * input: the tree may come from a stream. After an error the machine is empty again. With
 * @incoming, devices do not claim what only one machine may own. Loop thread, or any while the
 * loop does not run or waits in loop_call.
 */
int vm_realize(struct vm *vm, const void *fdt, bool incoming, struct error *err);

/*
 * Move to another state; illegal moves (the table is in vm.c) return -EINVAL and change nothing.
 * VM_RUNNING runs, all others do not: leaving it stops every vCPU, then the queue work of every
 * device, so that from the return of this nothing writes guest memory. A guest that has ended on
 * the way out of VM_RUNNING gives -ECANCELED. The work and the listeners are done on the loop
 * thread. Any thread but a vCPU's.
 */
int vm_set_state(struct vm *vm, enum vm_state to, struct error *err);
const char *vm_state_name(enum vm_state state);

/* Reset all devices and vCPUs and put the boot image of /chosen in place. Keeps the state (a
 * running machine runs on), but when that fails a guest that was there is lost: internal error.
 * @guest: the guest asked for it. Loop thread. */
int vm_reset(struct vm *vm, bool guest, struct error *err);

/* File a request for the loop thread. Any thread, also a signal handler. */
void vm_request(struct vm *vm, unsigned int request);
/* File VM_REQUEST_EXIT. */
void vm_request_exit(struct vm *vm, int status);

void vm_listen(struct vm *vm, struct vm_listener *listener);
void vm_unlisten(struct vm *vm, struct vm_listener *listener);

/*
 * State of all devices, vCPUs among them (they are devices of the tree too). Paused machine.
 * vm_save returns a malloc'd FDT. vm_load_state validates everything into staging copies before
 * it applies anything; on an error the machine is untouched if it came from validation (then
 * *applied is false) and unusable otherwise.
 */
int vm_save_state(struct vm *vm, void **fdt, struct error *err);
int vm_load_state(struct vm *vm, const void *fdt, size_t size, bool *applied, struct error *err);

/* Ownership of host resources, see struct device_class. claim is all or nothing. */
int vm_claim(struct vm *vm, struct error *err);
void vm_yield(struct vm *vm);

/* Lead here what others send to the guest, see struct device_class. Loop thread. */
void vm_announce(struct vm *vm);

/* vmm/guest-ram.c: devices that move RAM between guest and host, see struct device_ram_ops. */
/* The first device that can resize, NULL when there is none. */
struct device *vm_ram_device(struct vm *vm);
/* Whether there is a device that passes on hints; start and stop all that do. Any thread. */
bool vm_can_hint(const struct vm *vm);
void vm_hint_start(struct vm *vm, struct page_hints *hints);
void vm_hint_stop(struct vm *vm, bool over);

/* Dirty log, vmm/dirty.c. Bitmaps have one bit a page of the region, in words of 64. */
int dirty_log_start(struct vm *vm, struct error *err);
void dirty_log_stop(struct vm *vm);
bool dirty_log_running(const struct vm *vm);
/* How many pages vCPU number @vcpu has dirtied while the log runs, as far as can be told: the
 * difference of two calls counts. Not exact; pages of the VMM are nobody's. */
uint64_t dirty_log_count(const struct vm *vm, unsigned int vcpu);
/* Or the pages of @region written since they were last cleared into @bitmap; our own bits are
 * cleared by this, and those of a ring, KVM's bitmap stays set until dirty_log_clear. */
int dirty_log_fetch(struct vm *vm, struct memory_region *region, uint64_t *bitmap,
		    struct error *err);
/* Clear KVM's bits that @bitmap has set among pages [@first, @first + @n), both multiples of 64 or
 * the region's end, and let new writes be seen. Before the pages are queued for sending. */
int dirty_log_clear(struct vm *vm, struct memory_region *region, uint64_t first, uint64_t n,
		    const uint64_t *bitmap, struct error *err);

/* ns of CLOCK_MONOTONIC. */
uint64_t now_ns(void);

#endif
