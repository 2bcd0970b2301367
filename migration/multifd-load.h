/* SPDX-License-Identifier: BSD-2-Clause */
/* What multifd-accept.c, where the destination's channels come from, shares with multifd-load.c. */
#ifndef MIGRATION_MULTIFD_LOAD_H
#define MIGRATION_MULTIFD_LOAD_H

#include "migration/multifd.h"

struct load_channel {
	struct multifd_load *l;
	struct channel *ch; /* NULL: has not come yet */
	pthread_t thread;
	bool started;
	uint64_t round; /* of the last ROUND */
	struct protocol p;
	struct ram_table table;
};

struct multifd_load {
	struct ram_load *ram;
	struct migration *m;
	struct protocol *main;
	unsigned int n, arrived;
	struct load_channel *channels;
	int wake; /* eventfd, readable once a channel has failed */

	/* For the migration's thread: the last round named on the main connection, and when
	 * anything came last. */
	uint64_t named;
	uint64_t seen_bytes;
	int64_t seen_ms;

	pthread_mutex_t lock; /* of the rest */
	pthread_cond_t changed;
	uint64_t round;	      /* that all channels have come to the end of */
	unsigned int waiting; /* channels at the end of the next */
	unsigned int ended;   /* channels that have said END */
	bool failed;
	struct error error; /* the first one */
};

/* Fill all of l->channels with those who come to @listener and know @token. */
int multifd_accept_all(struct multifd_load *l, struct channel_listener *listener, const char *token,
		       struct error *err);

#endif
