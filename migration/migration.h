/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The migration of a machine, outgoing or incoming: parameters, figures, and the life of the
 * thread that does it. One at a time.
 *
 * Threads: the object belongs to the loop thread. The migration's thread (source.c, destination.c)
 * is started by migration_start() and ends by migration_finish(), which posts to the loop; the loop
 * thread never waits for it before that, because it may be in loop_call(). What both look at is
 * atomic, or guarded by the lock where it says so.
 */
#ifndef MIGRATION_MIGRATION_H
#define MIGRATION_MIGRATION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/channel.h"
#include "migration/latency.h"
#include "vmm/vm.h"

struct protocol;

#define CHANNELS_MAX 64 /* data connections of one migration, multifd.h */

/* As in the public QMP schema. */
enum migration_status {
	MIGRATION_NONE,
	MIGRATION_SETUP,
	MIGRATION_ACTIVE,
	MIGRATION_DEVICE,	   /* the guest is paused */
	MIGRATION_POSTCOPY_ACTIVE, /* it is at the destination; pages follow (postcopy.h) */
	MIGRATION_POSTCOPY_PAUSED, /* … or would, but the connection broke */
	MIGRATION_POSTCOPY_RECOVER,
	MIGRATION_CANCELLING,
	MIGRATION_COMPLETED,
	MIGRATION_FAILED,
	MIGRATION_CANCELLED,
	MIGRATION_STATUSES,
};

/* Set by the control socket at any time, looked at by the thread as it goes. */
struct migration_params {
	_Atomic uint64_t max_bandwidth;		 /* bytes a second, 0: no limit */
	_Atomic uint64_t max_postcopy_bandwidth; /* of what nobody waits for, likewise */
	_Atomic uint64_t downtime_limit;	 /* ms */
	_Atomic uint64_t timeout;		 /* s in all, 0: none */
	_Atomic bool force;	       /* at the timeout switch over instead of giving up */
	_Atomic int zero_copy;	       /* enum zerocopy_mode */
	_Atomic int compress;	       /* enum compress_mode */
	_Atomic int compress_level;    /* 1 to COMPRESS_LEVEL_MAX */
	_Atomic uint64_t delta_memory; /* bytes for what was compressed before, delta.h */
	_Atomic int iovecs;	       /* of one system call, 1 to IOV_MAX */
	_Atomic bool copy;	       /* copy guest memory before sending it, to compare */
	_Atomic bool verify;	       /* checksum all RAM on both sides at switchover */
	_Atomic bool mirror;	       /* of the next one: send the disks, too */
	_Atomic bool send_ram;	       /* also where it could be handed over by descriptor */
	_Atomic bool auto_converge;    /* slow the guest down where it is too fast, converge.h */
	_Atomic bool multifd;	       /* RAM goes over connections of its own, … */
	_Atomic int channels;	       /* … so many, 1 to CHANNELS_MAX */
	_Atomic bool postcopy;	       /* RAM may follow the guest, postcopy.h */
	_Atomic int postcopy_when;     /* … after so many rounds, or POSTCOPY_* */
	_Atomic bool mapped_ram;       /* to a file: every page in its place (ram-map.h) */
	_Atomic bool direct_io;	       /* … past the page cache */
	_Atomic bool background;       /* … while the guest goes on (write-guard.h) */
	_Atomic int deadline_ms;       /* of every step instead of the protocol's own, 0: those */
};

/* Of the last migration, written by its thread. They only grow until the next one starts. */
struct migration_stats {
	_Atomic uint64_t started_ns, setup_ns, total_ns; /* CLOCK_MONOTONIC; durations */
	_Atomic uint64_t pages_data, pages_zero;	 /* sent or received */
	_Atomic uint64_t pages_hinted; /* not sent: the guest does not need what they hold */
	_Atomic uint64_t zipped_pages, zipped_bytes; /* of pages_data, compressed; to so much */
	_Atomic uint64_t delta_pages;		     /* … of them as differences */
	_Atomic uint64_t ram_total;		     /* bytes of guest RAM */
	_Atomic uint64_t ram_given;		     /* … of it handed over by descriptor */
	_Atomic uint64_t disk_total;		     /* bytes of disks that are mirrored */
	_Atomic uint64_t disk_data, disk_zero;	     /* bytes of them sent or received */
	_Atomic uint64_t rounds;		     /* passes over RAM begun */
	_Atomic uint64_t records;
	_Atomic uint64_t bytes_xfer, bytes_referenced, bytes_copied;
	_Atomic uint64_t multifd_bytes;	    /* of bytes_xfer, over data connections */
	_Atomic uint64_t postcopy_bytes;    /* … after the switch to postcopy */
	_Atomic uint64_t postcopy_requests; /* pages that somebody waited for */
	struct latency faults;		    /* … and how long, at the destination */
	_Atomic uint64_t zerocopy_bytes, zerocopy_copied, zerocopy_fallbacks; /* channel.h */
	_Atomic uint64_t iovecs_queued, iovecs_sent, syscalls;
	_Atomic uint64_t send_ns; /* time spent sending RAM */
	_Atomic uint64_t backlog; /* bytes that came for the guest while it was stopped */
	_Atomic uint64_t log_ns;  /* … and fetching the dirty log */
	/* These go up and down. */
	_Atomic uint64_t remaining; /* bytes of RAM known to be still to send */
	_Atomic uint64_t disk_remaining;
	_Atomic uint64_t dirty_rate; /* pages a second, over the last round */
	_Atomic uint64_t bandwidth;  /* bytes a second while sending */
	_Atomic uint64_t expected_downtime_ms;
	_Atomic uint64_t throttle; /* of the vCPU that is slowed most, thousandths that it sleeps */
	/* Known at the end. */
	_Atomic uint64_t blackout_ns;
	const char *_Atomic blackout_method; /* "clock" or "round-trip", NULL: not known */
};

/* Make of tree @fdt one that suits this host; *@out is malloc'd. The migration's thread. */
typedef int override_fn(void *opaque, const void *fdt, bool foreign, void **out, struct error *err);

/* Between a thread in postcopy and who gives it orders. */
struct postcopy_wishes {
	bool paused;			   /* it waits for one of the following */
	struct error why;		   /* … since this has happened */
	bool abandoned;			   /* nobody needs the pages any more */
	char uri[256];			   /* source: connect here */
	struct channel_listener *listener; /* destination: whom it takes instead of its own */
};

struct migration {
	struct vm *vm;
	struct migration_params params;
	struct migration_stats stats;
	_Atomic enum migration_status status;
	bool incoming; /* which way the last one went */
	bool file;     /* to or from a saved machine; nobody answers */
	bool heir;     /* incoming: takes what devices have open, too */
	bool lazy;     /* incoming, of a file: RAM is mapped, not read */
	char uri[256];

	/* Valid when the status says that the last one has ended. */
	struct error error;
	bool handed_over; /* COMMIT was sent and nobody said RUNNING */

	_Atomic bool postcopy;	   /* neither side has all of the guest: it cannot fail any more */
	_Atomic bool postcopy_now; /* the switch is wanted, whatever the rounds say */
	_Atomic bool postcopy_can; /* … and possible: both sides are ready for it */

	/* The thread, and what interrupts it. */
	bool started; /* there is a thread to join */
	pthread_t thread;
	int cancel_fd; /* eventfd, readable once cancelled */
	int wake_fd;   /* eventfd: look at the wishes */
	_Atomic bool cancelled, timed_out;
	_Atomic bool over;			    /* the thread has done all but end */
	pthread_mutex_t lock;			    /* of the next three */
	struct channel *channels[1 + CHANNELS_MAX]; /* the conversation, data connections */
	bool committing;			    /* too late to cancel */
	struct error cancel_reason;		    /* empty: a person's wish */
	struct postcopy_wishes wishes;		    /* lock */
	struct loop_timer *timer;

	int (*run)(struct migration *m, struct error *err);
	void (*ended)(struct migration *m, int ret);
	struct channel_listener *listener;

	/* What is local to this host, put into the tree of an incoming migration; may be NULL. */
	override_fn *override;
	void *override_opaque;
	/* Builds the machine of an incoming migration: vm_realize, or what a test wants. */
	int (*realize)(struct vm *vm, const void *fdt, bool incoming, struct error *err);

	struct vm_listener vm_listener;
};

/* The migration object of @vm, made at the first call; NULL without memory. Loop thread. */
struct migration *migration_get(struct vm *vm);

bool migration_is_active(const struct migration *m);
const char *migration_status_name(enum migration_status status);
/* Change the status and tell the control socket; a cancel that came before wins. Any thread. */
void migration_set_status(struct migration *m, enum migration_status status);
/* Tell the control socket (control.c): MIGRATION, with all that query-migrate says at the end of
 * one; MIGRATION_PASS. Any thread. */
void migration_event(struct migration *m, enum migration_status status);
void migration_pass_event(struct migration *m, uint64_t pass);

/*
 * Start the thread: @run does the migration, @ended is called on the loop thread when it is over,
 * with what @run returned. -EBUSY when one is active. Loop thread.
 */
int migration_start(struct migration *m, const char *uri, bool incoming,
		    int (*run)(struct migration *m, struct error *err),
		    void (*ended)(struct migration *m, int ret), struct error *err);

/*
 * Ask for the end of it; @reason may be NULL. Does not wait. -EBUSY when the guest has been
 * committed to the other side already, -ENOENT when there is none. Loop thread.
 */
int migration_cancel(struct migration *m, const struct error *reason, struct error *err);

/* ---- For the migration's thread ---- */

/* Connection number @i is what a cancel has to interrupt, too; NULL before it is closed. -ECANCELED
 * after a cancel. */
int migration_set_channel(struct migration *m, unsigned int i, struct channel *ch,
			  struct error *err);
/* 0, or -ECANCELED with the reason. */
int migration_check(struct migration *m, struct error *err);
/* From the return of 0 on it cannot be cancelled any more. */
int migration_commit(struct migration *m, struct error *err);
/* Sleep, but not longer than to a cancel. */
void migration_sleep(struct migration *m, uint64_t ns);
/* Add to the figures what the stream of @p has cost since this was last called. Any thread, but one
 * at a time for each stream. */
void migration_count(struct migration *m, struct protocol *p);

/* ---- By descriptor, on one host; the migration's thread ---- */

/* May RAM go by descriptor over @ch? Disks that are mirrored need rounds, and so does RAM then. */
bool hand_over_possible(const struct migration *m, const struct channel *ch);
/* hand-over.c: send and receive a RAM_FD or DEVICE_FD record; the latter for all devices. */
int hand_over_ram(struct migration *m, struct protocol *p, struct error *err);
int hand_over_devices(struct migration *m, struct protocol *p, struct error *err);
struct record;
int receive_ram_fd(struct migration *m, struct protocol *p, const struct record *rec,
		   struct error *err);
/* Wait for MACHINE; what comes for devices before it is put where they find it. */
int receive_machine_record(struct migration *m, struct protocol *p, struct record *rec,
			   struct error *err);

/* ---- The two directions and the file; loop thread ---- */

/* Send the machine to @uri; file:PATH saves it and lets it go on. */
int source_start(struct vm *vm, const char *uri, struct error *err);
/* Make an empty machine wait for one to come. @override: may be NULL. */
int destination_prepare(struct vm *vm, override_fn *override, void *opaque, struct error *err);
/* Listen at @uri and receive a machine; for file:PATH restore it. *@bound, unless NULL, gets the
 * URI to connect to, valid until the next migration. */
int destination_start(struct vm *vm, const char *uri, const char **bound, struct error *err);

#endif
