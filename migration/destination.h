/* SPDX-License-Identifier: BSD-2-Clause */
/* What meeting a source (meet.c) and receiving its machine (destination.c) have in common. */
#ifndef MIGRATION_DESTINATION_H
#define MIGRATION_DESTINATION_H

#include "migration/block.h"
#include "migration/messages.h"
#include "migration/migration.h"
#include "migration/multifd.h"
#include "migration/postcopy.h"
#include "migration/protocol.h"
#include "migration/ram.h"

struct destination {
	struct migration *m;
	struct vm *vm;
	struct channel *ch;
	struct protocol *p;
	struct ram_load *ram;
	struct multifd_load *multifd; /* NULL: RAM comes over the one connection */
	unsigned int channels;	      /* that the source is going to open besides */
	char token[TOKEN_SIZE];
	bool wants_postcopy;		/* the source may let the guest go before its memory */
	struct postcopy_load *postcopy; /* NULL: it does not */
	struct block_load block;
	bool mirror;  /* the source is going to send its disks, too */
	bool run;     /* the guest ran, so it shall again */
	bool has_crc; /* of all RAM */
	uint64_t crc;
	bool claimed;
	uint64_t commit_ns; /* when COMMIT had come */
};

/* Wait for a source, and agree with it how to talk. It listens on if data connections are to come.
 */
int destination_meet_source(struct destination *d, struct error *err);
/* Take them, if any, after ACCEPT, and stop listening. d->ram is ready. */
int destination_accept_channels(struct destination *d, struct error *err);
/* Hang up everywhere; nobody writes to RAM from then on. */
void destination_close_channel(struct destination *d);

#endif
