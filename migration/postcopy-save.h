/* SPDX-License-Identifier: BSD-2-Clause */
/* What the source's files of postcopy share; the rest of ferry needs only postcopy.h. */
#ifndef MIGRATION_POSTCOPY_SAVE_H
#define MIGRATION_POSTCOPY_SAVE_H

#include "migration/postcopy.h"

#define NOWHERE UINT64_MAX

struct postcopy_save {
	struct migration *m;
	struct vm *vm;
	struct ram_save *ram;
	char token[TOKEN_SIZE];
	bool on;		 /* LISTEN has been said */
	struct page_map missing; /* at the destination, when the guest went there */
	struct page_map left;	 /* … and not sent since; who clears a bit sends the page */
	_Atomic uint64_t n_left;
	struct page_map asked; /* over this pair of connections */

	struct page_line lines[LINES];
	uint64_t attempt; /* to connect them; no two of them are to be taken for a pair */
	struct ram_batch background, urgent;
	struct rate_limit limit; /* of the background */
	_Atomic uint64_t go_to;	 /* where the background goes on, since a fault was there */
	pthread_t thread;	 /* answers requests */
	bool started;

	pthread_mutex_t lock; /* of the rest */
	bool failed;
	struct error error; /* the first one */
};

/* ---- postcopy-source.c: the connections ---- */

int postcopy_connect_lines(struct postcopy_save *s, const char *uri, int cancel_fd,
			   struct error *err);
/* Hang up, and wait for the thread. */
void postcopy_hang_up(struct postcopy_save *s);

/* ---- postcopy-send.c: pages ---- */

/* Start the thread that answers requests, until its line is shut down. */
int postcopy_answer(struct postcopy_save *s, struct error *err);

#endif
