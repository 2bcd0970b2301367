/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All that a device needs to know of the machine.
 *
 * A device is one .c file in devices/. It defines a struct whose first member is a struct device, a
 * plain struct with the state that a migration carries, a table of its fields (vmm/state.h), and a
 * struct device_class that says all this, registered by one line: DEVICE_CLASS(my_class). From then
 * on it has an option in --help, a node in the machine tree, a reset, and it migrates.
 */
#ifndef VMM_DEVICE_H
#define VMM_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/bus.h"
#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/memory.h"
#include "vmm/state.h"

struct vm;
struct machine_tree;
struct device;

/* In which order states are applied; within a stage, the order of the machine tree. */
enum device_stage {
	STAGE_CPU,    /* vCPU registers, first: the interrupt controllers refer to them */
	STAGE_IRQ,    /* interrupt controllers and their timers */
	STAGE_CLOCK,  /* the guest's clock, before any vCPU runs */
	STAGE_DEVICE, /* all else */
	STAGES,
};

/*
 * Whom a device tells of RAM whose contents the guest does not need. Pages named by add may lose
 * what they held when the guest was asked (hint_start below); what is written to them from then on
 * is kept. @gpa and @len are bytes of RAM. Any thread; takes no lock but its own, the last one.
 */
struct page_hints {
	void (*add)(struct page_hints *hints, uint64_t gpa, uint64_t len);
};

/* What a device can do that moves RAM between guest and host. Each may be NULL. */
struct device_ram_ops {
	/* Bytes of RAM that the guest has for itself, and what it is asked to make do with (at most
	 * its RAM). Loop thread. */
	uint64_t (*size)(struct device *dev);
	void (*resize)(struct device *dev, uint64_t bytes);
	/* Call @each for every number that the guest last told of its use of RAM, and ask it for
	 * new ones. Names are those of the public schema. Loop thread. */
	void (*stats)(struct device *dev,
		      void (*each)(void *opaque, const char *name, uint64_t value), void *opaque);
	/* Ask the guest for free pages, and pass on what it says to @hints until hint_stop has
	 * returned. Any thread, the guest runs. */
	void (*hint_start)(struct device *dev, struct page_hints *hints);
	/* No more hints. @over: pages that were named keep what they hold from now on, the guest
	 * may have them all back; else that comes when the guest runs somewhere else. Any thread.
	 */
	void (*hint_stop)(struct device *dev, bool over);
};

/* Descriptors of a device that go from one process to another, which goes on with the guest. */
#define DEVICE_MAX_FDS 16
struct device_fds {
	char device[64]; /* its name */
	unsigned int n;
	int fd[DEVICE_MAX_FDS]; /* whoever takes one puts -1 there */
	uint64_t note;		/* between the two devices */
	struct device_fds *next;
};

struct device_option {
	const char *name; /* of the long option, without dashes */
	const char *arg;  /* "FILE[,readonly]"; NULL for none */
	const char *help; /* one line */
	/* Add the node of a device that @value asks for. @value is "" where @arg is NULL. */
	int (*add)(struct machine_tree *mt, const char *value, struct error *err);
	/*
	 * Add the node that a machine has when the option was not given; NULL: none. A class
	 * without name and add but with this is part of every machine.
	 */
	int (*add_default)(struct machine_tree *mt, struct error *err);
};

/* Unit in which it is noted what was written to a disk, bytes. */
#define MIRROR_BLOCK 65536UL

/*
 * What a migration needs to copy a disk while the guest works on it. Offsets and lengths are bytes,
 * multiples of MIRROR_BLOCK but for the last ones of a disk; buffers are aligned to 4096. All are
 * called by the migration's thread, and none of them makes the guest's requests wait.
 */
struct block_ops {
	uint64_t (*size)(struct device *dev);

	/* At the source: begin, and stop, to note which blocks are written to. */
	int (*track)(struct device *dev, struct error *err);
	void (*untrack)(struct device *dev);
	/*
	 * Or what was noted since the last call into @bitmap, a bit a block, and forget it. The
	 * blocks are to be read afterwards: a request that is under way then is noted when it
	 * has ended, so whatever part of it was read, the next call repairs it.
	 */
	void (*fetch)(struct device *dev, uint64_t *bitmap);
	/* The first byte from @offset on that need not be zero; the size, if there is none. */
	uint64_t (*next_data)(struct device *dev, uint64_t offset);
	int (*read)(struct device *dev, uint64_t offset, void *buf, size_t len, struct error *err);

	/* At the destination: own the disk alone, be it read-only for the guest or not. An error
	 * when somebody else has it; nothing was written then. */
	int (*open)(struct device *dev, struct error *err);
	int (*write)(struct device *dev, uint64_t offset, const void *buf, size_t len,
		     struct error *err);
	int (*zero)(struct device *dev, uint64_t offset, uint64_t len, struct error *err);
	/* Put what was written on stable storage. */
	int (*sync)(struct device *dev, struct error *err);
	/* All is there: own it from now on as claim does. */
	int (*close)(struct device *dev, struct error *err);
};

struct device_class {
	const char *name;	/* "serial"; first part of node names */
	const char *compatible; /* the tree's name for the class */
	enum device_stage stage;
	struct device_option option;

	size_t size;	     /* of the whole struct, struct device first */
	size_t state_offset; /* of its state struct */
	size_t state_size;
	const struct field *fields; /* NULL: no state */

	/*
	 * Come to life from node @node of the tree @fdt (valid during the call only): claim
	 * register ranges and interrupts, open host resources. State has been reset by the table.
	 * On an error unrealize is called too. Loop thread, no vCPU runs.
	 */
	int (*realize)(struct device *dev, const void *fdt, int node, struct error *err);
	/* Let go of all that realize took. */
	void (*unrealize)(struct device *dev);

	/* The rest are optional. All with no vCPU running, on the loop thread unless said. */

	/* Machine reset; the state was reset by the table just before. */
	void (*reset)(struct device *dev);
	/* Stop touching guest memory: finish or park requests in flight. Nothing is written there
	 * from the return of this until resume. */
	void (*quiesce)(struct device *dev);
	/* The machine runs on, or runs for the first time: pick up what came meanwhile. */
	void (*resume)(struct device *dev);
	/* Bring the state struct up to date. Quiesced. Any thread. */
	int (*pre_save)(struct device *dev, struct error *err);
	/* Check @staged (fields are in range already) against this device: indices against sizes,
	 * addresses against RAM. Must change nothing. Hostile input. Any thread. */
	int (*check)(struct device *dev, const void *staged, struct error *err);
	/* The staged state has become the state: make the device follow it. Any thread. */
	int (*post_load)(struct device *dev, struct error *err);

	/*
	 * Ownership of what only one machine may have (the lock of a disk). A device realized by
	 * `receive` owns nothing until claim; the source lets go by yield before it commits, and
	 * claims again when the migration fails after all. Any thread.
	 */
	int (*claim)(struct device *dev, struct error *err);
	void (*yield)(struct device *dev);

	/*
	 * Lead here what others send to the guest: it has been stopped where it was and is expected
	 * here (quiesced, the state is still to come), or runs again where it was sought elsewhere.
	 */
	void (*announce)(struct device *dev);

	/*
	 * What has come to this host for a guest that was stopped and is about to run elsewhere:
	 * frames in the queue of a tap, say. It stays the device's, which gives it to the guest
	 * should that run on here, and valid until then; NULL: nothing. Quiesced. Any thread.
	 * Optional.
	 */
	const void *(*backlog)(struct device *dev, size_t *len);
	/* At the other host: keep a copy for the guest, which is about to run. Hostile input. Any
	 * thread. */
	int (*take_backlog)(struct device *dev, const void *data, size_t len, struct error *err);

	/* A person presses the power button, which this device has. vCPUs may run. */
	void (*press_power)(struct device *dev);
	/* Optional: what only a balloon has, see below. */
	const struct device_ram_ops *ram;
	const struct block_ops *block; /* of a disk that can be mirrored, else NULL */

	/*
	 * Name in @fds what of this host the device has open, for another process here that goes
	 * on as this device, and finds it by device_given() when it is realized. They stay the
	 * device's. vCPUs may run. Optional.
	 */
	void (*hand_on)(struct device *dev, struct device_fds *fds);
};

struct device {
	struct vm *vm;
	const struct device_class *class;
	char name[64]; /* the node's, unique: "virtio-blk@d0000000" */
	/* Held by the bus around register access; the device takes it on the loop thread. */
	pthread_mutex_t lock;
	struct device *next; /* in the order of the tree */
};

/* Collected by the linker; see for_each_class. */
#define DEVICE_CLASS(c)                                   \
	static const struct device_class *const c##_entry \
		__attribute__((used, section("device_classes"))) = &(c)

/* Weak: a program may have no device at all. */
extern const struct device_class *const __start_device_classes[] __attribute__((weak));
extern const struct device_class *const __stop_device_classes[] __attribute__((weak));
#define for_each_class(pp)                                                  \
	for (const struct device_class *const *pp = __start_device_classes; \
	     pp < __stop_device_classes; pp++)

/* What a device asks of the machine. Any thread unless said. */
struct memory *device_memory(struct device *dev);
struct loop *device_loop(struct device *dev);

/* Claim the register range of the node's "reg". Loop thread, from realize. */
int device_claim_mmio(struct device *dev, uint64_t base, uint64_t size, const struct bus_ops *ops,
		      struct error *err);
int device_claim_pio(struct device *dev, uint64_t base, uint64_t size, const struct bus_ops *ops,
		     struct error *err);
void device_release_ranges(struct device *dev);

/*
 * An interrupt by irqfd: each device_irq_pulse() is one edge on @gsi. Writing the eventfd is all it
 * takes, from any thread. device_irq_close() takes it back.
 */
int device_irq_open(struct device *dev, uint32_t gsi, int *eventfd, struct error *err);
void device_irq_pulse(int eventfd);
void device_irq_close(struct device *dev, uint32_t gsi, int eventfd);
/* A line that stays up until it is lowered, for devices with a level to show. */
void device_irq_set(struct device *dev, uint32_t gsi, bool level);

/* Signal @eventfd instead of an exit when the guest writes @value (4 bytes) to @gpa. */
int device_ioeventfd(struct device *dev, uint64_t gpa, uint32_t value, int eventfd, bool assign,
		     struct error *err);

/* The guest asks for a reset of the machine, an end with an exit status, or has crashed. These only
 * file the request; the loop thread carries it out. */
void device_request_reset(struct device *dev);
void device_request_exit(struct device *dev, int status);
/* True from the time the machine is realized by `receive` until it first runs. */
bool device_is_incoming(struct device *dev);

/*
 * What the process that had this device handed on, NULL: nothing, open it anew. From realize. What
 * is in there is in use until the machine first runs: do nothing that the other one would notice.
 */
struct device_fds *device_given(struct device *dev);
/* Is this process one that goes on with what another has open, and is this one it does so of? */
bool device_is_heir(struct device *dev);
bool device_is_handing_on(struct device *dev);
/* Free the list with the descriptors that nobody took. */
void device_fds_free(struct device_fds **list);

/* The guest has @bytes of RAM for itself now: tells who listens. Loop thread. */
void device_ram_changed(struct device *dev, uint64_t bytes);

/* Reading a node. Missing or mis-sized properties are errors that name the node. */
int device_node_reg(const void *fdt, int node, uint64_t *base, uint64_t *size, bool *pio,
		    struct error *err);
int device_node_irq(const void *fdt, int node, uint32_t *gsi, struct error *err);
/* NULL when absent or not a proper string. */
const char *device_node_string(const void *fdt, int node, const char *property);
/* @def when absent or mis-sized. */
uint64_t device_node_u64(const void *fdt, int node, const char *property, uint64_t def);
bool device_node_flag(const void *fdt, int node, const char *property);

/*
 * Writing a node, from device_option.add. Properties named "host-…" are local to a host: an option
 * given to `receive` replaces just them.
 */
/* Open a node "@name@addr" for a device with registers in one of the machine's MMIO slots and an
 * interrupt of its own; @type is a second string in compatible, NULL for none. */
int machine_tree_begin_mmio(struct machine_tree *mt, const struct device_class *class,
			    const char *type, struct error *err);
/* Open a node for a device at fixed ports (under the "isa" node), with an interrupt unless @gsi <
 * 0. */
int machine_tree_begin_pio(struct machine_tree *mt, const struct device_class *class,
			   const char *type, uint64_t port, uint32_t n_ports, int gsi,
			   struct error *err);
/* Open a node without registers. */
int machine_tree_begin(struct machine_tree *mt, const struct device_class *class,
		       struct error *err);
void machine_tree_string(struct machine_tree *mt, const char *property, const char *value);
void machine_tree_u64(struct machine_tree *mt, const char *property, uint64_t value);
void machine_tree_flag(struct machine_tree *mt, const char *property);
/* Close the node; reports what failed since it was opened. */
int machine_tree_end(struct machine_tree *mt, struct error *err);

/*
 * Split "FILE,key=value,flag" for options: returns a malloc'd copy of what precedes the first
 * comma, and calls @each for the rest (value NULL for a flag). ",," stands for a comma.
 */
int option_split(const char *text, char **first,
		 int (*each)(void *opaque, const char *key, const char *value, struct error *err),
		 void *opaque, struct error *err);

#endif
