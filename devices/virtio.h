/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a virtio device needs to know (virtio 1.2): the MMIO transport of virtio-mmio.c (section
 * 4.2) and the split virtqueues of virtqueue.c (section 2.7).
 *
 * A virtio device is a device class as any other (vmm/device.h) with three additions:
 *
 *	struct virtio_foo {
 *		struct virtio_device vd;   // first
 *		struct foo_state state;	   // what migrates; begins with a struct virtio_state
 *		...
 *	};
 *	static const struct field foo_fields[] = {
 *		FIELD_VIRTIO(struct foo_state, virtio),
 *		FIELD_BOOL(struct foo_state, open), FIELDS_END,
 *	};
 *
 * (one without state of its own has a struct virtio_state as its state and virtio_state_fields as
 * its table), a constant struct virtio_ops, and in its class the functions virtio_mmio_reset,
 * _quiesce, _resume, _check and _post_load, either directly or called from its own:
 *
 *	realize:   read own properties, open host resources, then virtio_mmio_realize() as last step
 *	unrealize: virtio_mmio_unrealize() first, then let go of the own
 *	reset, post_load: virtio_mmio_… first, then the own
 *	quiesce:   virtio_mmio_quiesce() is normally all: it calls ops->drain
 *	resume:    virtio_mmio_resume() last: it calls ops->handle_queue for every queue in use
 *
 * Threads: registers are accessed on vCPU threads, queues are worked on by the loop thread, both
 * under dev->lock. Every virtq_ function and every virtio_ops callback is called with dev->lock
 * held; a device that is called by its backend (a loop_fd) takes the lock itself. The
 * virtio_mmio_ functions take it themselves.
 *
 * A guest that breaks the rules of the ring gets DEVICE_NEEDS_RESET: from then on virtq_pop()
 * finds nothing and virtq_push() writes nothing until the driver resets the device. A device need
 * not care; it only has to check what is inside the buffers, and does so on a copy.
 */
#ifndef DEVICES_VIRTIO_H
#define DEVICES_VIRTIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/device.h"
#include "vmm/loop-poll.h"

#define VIRTIO_MAX_QUEUES     17 /* 8 pairs of a network device, and its control queue */
#define VIRTIO_MAX_QUEUE_SIZE 256
/* Descriptors of one chain, the indirect ones included. */
#define VIRTQ_MAX_CHAIN 256

/* State that migrates. */
struct virtq_state {
	uint32_t size; /* entries, a power of two when ready */
	bool ready;
	uint64_t desc, driver, device; /* gpa of descriptor table, avail ring, used ring */
	uint16_t last_avail;	       /* next entry of the avail ring to pop */
	uint16_t used;		       /* next entry of the used ring to fill */
	uint16_t published;	       /* used index that the guest was last told */
};

struct virtio_state {
	uint32_t status;
	uint64_t features; /* as written by the driver; negotiated once FEATURES_OK is set */
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint32_t interrupt_status;
	uint32_t config_generation;
	uint32_t n_queues;
	struct virtq_state queue[VIRTIO_MAX_QUEUES];
};

extern const struct field virtio_state_fields[];

/* The virtio_state in the state struct of a device, always its first member. */
#define FIELD_VIRTIO(s, m)                                                                    \
	{                                                                                     \
		.name = "virtio", .type = FIELD_STRUCT, .since = 1, .offset = offsetof(s, m), \
		.size = sizeof(struct virtio_state), .count = 1, .count_offset = NO_COUNT,    \
		.sub = virtio_state_fields                                                    \
	}

struct virtio_device;

/* What a kind of device is. All callbacks: dev->lock held; optional unless said. */
struct virtio_ops {
	uint32_t device_id;		  /* section 5 */
	uint64_t features;		  /* of the device; the ring's are added by the transport */
	const char *const *feature_names; /* of bits 0 to 23, for messages; may be NULL */
	unsigned int n_queues;
	uint16_t queue_size[VIRTIO_MAX_QUEUES]; /* largest, a power of two */
	size_t config_size;			/* bytes of config space; beyond reads as 0 */

	/* Config space, any @offset and @len within config_size. Any thread. */
	void (*read_config)(struct virtio_device *vd, size_t offset, void *data, size_t len);
	void (*write_config)(struct virtio_device *vd, size_t offset, const void *data, size_t len);

	/* Mandatory: the guest kicked queue @q, or it is looked at after a resume. Pop until
	 * virtq_pop() returns false or there is nothing to answer with. Loop thread. */
	void (*handle_queue)(struct virtio_device *vd, unsigned int q);

	/* Answer what the backend has ready, if it can be seen without a system call, and say
	 * whether there was any. Called over and over for some µs after there was work in a queue,
	 * without dev->lock. Loop thread. */
	bool (*poll)(struct virtio_device *vd);

	/* Finish (push) or forget every request in flight: after this nothing touches the buffers
	 * that were popped. Before a reset, a queue's stop, and a pause. Any thread. */
	void (*drain)(struct virtio_device *vd);

	/* The driver wrote 0 to the status register, or the machine was reset: back to the
	 * defaults. Queues and virtio_state are zero already. Any thread. */
	void (*reset)(struct virtio_device *vd);

	/* The driver has set DRIVER_OK. Any thread (queue work is kicked by the transport). */
	void (*driver_ok)(struct virtio_device *vd);
};

/* The run-time side of a queue; only virtqueue.c and virtio-mmio.c look inside. */
struct virtq {
	struct virtio_device *vd;
	uint16_t max;	 /* a device may lower it before virtio_mmio_realize() */
	uint8_t *desc;	 /* host addresses, NULL unless ready */
	uint8_t *driver; /* avail ring */
	uint8_t *device; /* used ring */
	uint32_t epoch;	 /* counts stops; a chain of an older epoch is never pushed */
	int budget;	 /* chains that may be popped in this run; negative: any number */
	bool more;	 /* the budget ended before the ring did */
	int kick;	 /* eventfd of the ioeventfd, -1 */
	bool bound;	 /* to the register by device_ioeventfd() */
	struct loop_fd *kick_watch;
	/* Of virtio-poll.c, loop thread: the avail ring's index, and which it was when empty. */
	const uint16_t *watched;
	uint16_t watched_from;
	bool lazy;     /* set by the device, see virtq_lazy() */
	uint16_t most; /* chains that were available at once, while lazy */
};

struct virtio_device {
	struct device dev; /* first */
	const struct virtio_ops *ops;
	struct virtio_state *state; /* points into the device's state struct */
	uint64_t features;	    /* offered. Bits set before virtio_mmio_realize() are added */
	struct virtq queue[VIRTIO_MAX_QUEUES];
	uint64_t base; /* gpa of the registers */
	uint32_t gsi;
	int irq;       /* eventfd of the irqfd, -1 */
	bool quiesced; /* between quiesce (or realize) and resume: no queue work */
	bool told;     /* the guest's first mistake has been reported */
	struct loop_poll poll;
	uint32_t empty; /* queues that are looked at instead of being kicked, a bit each */
};

/*
 * Read reg and interrupts of the node, claim them, and make the eventfds. @ops stays the caller's
 * and must outlive the device. On an error virtio_mmio_unrealize() cleans up; it may also be
 * called when realize never came this far. Loop thread.
 */
int virtio_mmio_realize(struct virtio_device *vd, const struct virtio_ops *ops, const void *fdt,
			int node, struct error *err);
void virtio_mmio_unrealize(struct virtio_device *vd);

/* For the class table; @dev is the struct device of a struct virtio_device. */
void virtio_mmio_reset(struct device *dev);
void virtio_mmio_quiesce(struct device *dev);
void virtio_mmio_resume(struct device *dev);
int virtio_mmio_check(struct device *dev, const void *staged, struct error *err);
int virtio_mmio_post_load(struct device *dev, struct error *err);

/* Whether feature @bit was negotiated. */
static inline bool virtio_has(const struct virtio_device *vd, unsigned int bit)
{
	return vd->state->features >> bit & 1;
}

/* The driver is there and has made no mistake; queues that are ready may be used. */
bool virtio_live(const struct virtio_device *vd);

/* Config space has changed: new generation, interrupt. */
void virtio_config_changed(struct virtio_device *vd);

/* The guest broke the protocol in a way the device noticed: set DEVICE_NEEDS_RESET. The reason is
 * printed once a device. For malformed requests prefer the device's own error status. */
__attribute__((format(printf, 2, 3))) void virtio_broken(struct virtio_device *vd,
							 const char *reason, ...);

/* Do what a kick of queue @q does, now. Takes dev->lock. Loop thread. */
void virtio_run_queue(struct virtio_device *vd, unsigned int q);

/*
 * A chain of descriptors as host memory: @out, what the driver wrote, and @in, where the device
 * writes. Every iovec lies in guest RAM. A device may move out and in and shorten them (see
 * virtq_pull, virtq_cut); it must not copy the struct.
 */
struct virtq_chain {
	uint16_t head;
	uint32_t epoch;
	unsigned int n_out, n_in;
	size_t out_len, in_len; /* bytes in out, in in; together below 4 GiB */
	struct iovec *out, *in; /* into iov */
	struct iovec iov[VIRTQ_MAX_CHAIN];
	uint64_t gpa[VIRTQ_MAX_CHAIN]; /* of iov[i].iov_base */
};

/* Take the next chain off queue @q. False when there is none (the guest will kick when there is,
 * or handle_queue will be called again), or the device is not live or is quiesced. */
bool virtq_pop(struct virtio_device *vd, unsigned int q, struct virtq_chain *chain);

/* Put the chain popped last back, as if it had not been popped. */
void virtq_unpop(struct virtio_device *vd, unsigned int q, const struct virtq_chain *chain);

/* From handle_queue: the device itself ends before others on the loop have waited too long, and
 * kicks the queue if there is more to do. */
void virtq_unlimited(struct virtio_device *vd, unsigned int q);

/* Whether virtq_pop() would find something; asks for a kick if not. */
bool virtq_waiting(struct virtio_device *vd, unsigned int q);

/*
 * Hand a chain back with @len bytes written from the start of @in on; these are marked dirty. What
 * was written by virtq_write() or memory_write() is marked already; marks of host I/O beyond @len
 * are made by virtq_dirty(). The guest sees nothing of it before virtq_flush().
 */
void virtq_push(struct virtio_device *vd, unsigned int q, const struct virtq_chain *chain,
		uint32_t len);

/* Show all that was pushed to the guest at once, and interrupt it if it wants to know. */
void virtq_flush(struct virtio_device *vd, unsigned int q);

/* Have the loop thread look at queue @q. */
void virtq_kick(struct virtio_device *vd, unsigned int q);

/*
 * With @lazy, have the driver kick queue @q, once empty, only when it has added half of what it had
 * there before, and do not look at it meanwhile: for buffers that a driver gives back one by one.
 * Not without VIRTIO_F_EVENT_IDX, and not before as many were seen. True: the driver may add some
 * and not kick, so who could do with fewer has to come back by a timer.
 */
bool virtq_lazy(struct virtio_device *vd, unsigned int q, bool lazy);

/* Copy the first @len bytes of @out to @buf and drop them from it. False, and nothing done, when
 * there are fewer. */
bool virtq_pull(struct virtq_chain *chain, void *buf, size_t len);

/* Take the last @len bytes (at least 1) off @in, which must be in one piece; returns their gpa.
 * False when in is too short or the bytes lie in two pieces. */
bool virtq_cut(struct virtq_chain *chain, size_t len, uint64_t *gpa);

/* Copy @len bytes to @in from its byte @offset on and mark them dirty; returns how many fitted. */
size_t virtq_write(struct virtio_device *vd, struct virtq_chain *chain, size_t offset,
		   const void *buf, size_t len);

/* Mark @len bytes from @offset of @in as written. */
void virtq_dirty(struct virtio_device *vd, const struct virtq_chain *chain, size_t offset,
		 size_t len);

/* For read_config and write_config: copy to or from a struct that is laid out as the spec says. */
void virtio_config_get(const void *config, size_t offset, void *data, size_t len);

/* Between the files of the transport; dev->lock held. */

/* Find the rings of a queue in host memory, for @vq. NULL, or the name of the first thing about
 * them that is wrong: size, or an address that is not aligned or not RAM (2.7). */
const char *virtq_map(struct virtio_device *vd, const struct virtq_state *s, struct virtq *vq);
/* Stop using the rings; chains that are still out will never be pushed. */
void virtq_stop(struct virtio_device *vd, unsigned int q);
/* Whether the driver is to kick when it adds to queue @q, which is empty (2.7.10). */
void virtq_want_kick(struct virtio_device *vd, unsigned int q, bool want);
/* Have the loop look at empty queue @q until it sleeps: at @index of its avail ring, which is
 * @from. False: ask for a kick. */
bool virtio_poll_queue(struct virtio_device *vd, unsigned int q, const uint16_t *index,
		       uint16_t from);
void virtio_poll_init(struct virtio_device *vd);
/* Look no more; queues are as if nobody had. Loop thread, or none runs. */
void virtio_poll_end(struct virtio_device *vd);
/* Collect the chain that begins at chain->head; false: the device is broken now. */
bool virtq_load_chain(struct virtio_device *vd, unsigned int q, struct virtq_chain *chain);
void virtio_mmio_drain(struct virtio_device *vd);
/* As after power on. */
void virtio_mmio_reset_locked(struct virtio_device *vd);
extern const struct bus_ops virtio_mmio_registers;

#endif
