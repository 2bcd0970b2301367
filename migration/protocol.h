/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The conversation of a migration: who may say what, when, and how long it may take.
 *
 *   destination                               source
 *   HELLO                                  →
 *                                          ←  HELLO, MACHINE
 *   ACCEPT | REJECT                        →      nothing was paused yet
 *                                          ←  RAM … rounds … RAM        guest runs
 *                                          ←  STOPPED, RAM …, STATE     guest paused here
 *   LOADED | FAILED                        →
 *                                          ←  BACKLOG …, COMMIT
 *                                                           the source may never run it again
 *   RUNNING                                →      the destination runs it
 *
 * With disks that are mirrored there are BLOCK records between those of RAM. On one host there may
 * be DEVICE_FD records before MACHINE, and one RAM_FD instead of all RAM records.
 *
 * A saved machine is what the source says, without waiting for answers: HELLO, MACHINE, STOPPED,
 * RAM … or one RAM_MAP (ram-map.h), STATE, END. A data connection, of which there may be some
 * (multifd.h), is CHANNEL, and for each round RAM … and ROUND, then END.
 *
 * In postcopy (postcopy.h) MISSING takes the place of RAM, and pages follow the guest on
 * connections of their own.
 *
 * Both sides walk through the same states; one table in protocol.c holds every legal move.
 */
#ifndef MIGRATION_PROTOCOL_H
#define MIGRATION_PROTOCOL_H

#include <stdbool.h>

#include "migration/channel.h"
#include "migration/record.h"
#include "migration/stream.h"
#include "vmm/error.h"

/* Of the conversation and of everything in it but the state tree, which has STATE_VERSION. */
#define PROTOCOL_VERSION_MIN 1
#define PROTOCOL_VERSION_MAX 1

#define RAM_RECORD_MIN 4096 /* payload bytes every reader takes */

enum protocol_side { SIDE_SOURCE, SIDE_DESTINATION };

enum protocol_kind {
	PROTOCOL_LIVE,	/* both sides talk */
	PROTOCOL_FILE,	/* a saved machine: nobody answers */
	PROTOCOL_DATA,	/* a data connection of a migration, multifd.h: nobody answers here */
	PROTOCOL_PAGES, /* one of the two that pages cross in postcopy, postcopy.h */
};

enum protocol_state {
	PROTOCOL_START,	    /* connected, or an empty file */
	PROTOCOL_GREETED,   /* the destination has introduced itself */
	PROTOCOL_OFFER,	    /* the source too */
	PROTOCOL_ANSWER,    /* the destination builds the machine */
	PROTOCOL_RAM,	    /* it has; the guest runs on the source */
	PROTOCOL_STOPPED,   /* the guest is paused */
	PROTOCOL_LOADING,   /* the destination loads the state */
	PROTOCOL_LOADED,    /* it has, and owns disks and the like */
	PROTOCOL_COMMITTED, /* the guest is the destination's */
	PROTOCOL_DONE,	    /* it runs there, or the file is complete */
	PROTOCOL_REFUSED,   /* one side said REJECT or FAILED */
	PROTOCOL_STATES,
};

/* One side of a conversation over a channel. About 80 KiB: lives on the heap. */
struct protocol {
	enum protocol_side side;
	enum protocol_state state;
	enum protocol_kind kind;
	int deadline_ms; /* for every step, instead of the table's; 0: the table's */
	struct channel *channel;
	struct stream stream;
	struct record_writer writer;
	struct record_reader reader;
	struct stream_stats counted; /* migration_count(): what is in the figures already */
};

/* Begin a conversation on @channel, which stays the caller's and must outlive it. */
void protocol_init(struct protocol *p, struct channel *channel, enum protocol_side side,
		   enum protocol_kind kind);
void protocol_free(struct protocol *p);
/* Set another deadline for every step, in ms; 0: the protocol's own. */
void protocol_set_deadline(struct protocol *p, int ms);
/* The deadline of the state it is in, in ms. */
int protocol_limit(const struct protocol *p);

const char *protocol_state_name(enum protocol_state state);
/* Milliseconds without any progress after which a side gives up in @state. */
int protocol_deadline(enum protocol_state state);

/* Where a record of @type said by @side leads; -EPROTO when it must not come in @state. */
int protocol_next(enum protocol_state state, enum protocol_kind kind, enum protocol_side side,
		  uint16_t type);

/*
 * Queue a record; payload and flush are up to the caller, as for record_send. With @async the
 * metadata is referred to until the flush. Returns 0 or a negative errno with @err; -EPROTO
 * when it must not be sent now.
 */
int protocol_send(struct protocol *p, uint16_t type, const void *meta, size_t len,
		  uint64_t payload_len, bool async, struct error *err);

/* Flush; the error says which state it happened in. */
int protocol_flush(struct protocol *p, struct error *err);

/* Queue a message whose metadata is tree @fdt, and flush. */
int protocol_say(struct protocol *p, uint16_t type, const void *fdt, struct error *err);

/*
 * Wait for the next record. One that must not come now is refused by name. REJECT and FAILED are
 * turned into the error they carry, with its code.
 */
int protocol_receive(struct protocol *p, struct record *rec, struct error *err);

/* Wait for a record of @type. */
int protocol_expect(struct protocol *p, uint16_t type, struct record *rec, struct error *err);

/* Tell the other side why we give up (REJECT while it waits for an answer). False if it cannot be
 * told, or knows. */
bool protocol_fail(struct protocol *p, const struct error *why);

/*
 * Sending failed because the other side went away: if it said why, put that in place of @err.
 * Waits a second at most, but not if @err is what it said: a paused guest would wait as well.
 */
void protocol_explain(struct protocol *p, struct error *err);

/* After protocol_fail on a connection that is still being written to: read and forget until the
 * other side has hung up, a second at most, so that our last words are not lost. */
void protocol_linger(struct protocol *p);

#endif
