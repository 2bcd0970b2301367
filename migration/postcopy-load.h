/* SPDX-License-Identifier: BSD-2-Clause */
/* What the destination's files of postcopy share; the rest of ferry needs only postcopy.h. */
#ifndef MIGRATION_POSTCOPY_LOAD_H
#define MIGRATION_POSTCOPY_LOAD_H

#include "migration/postcopy.h"
#include "migration/userfault.h"

#define PIECE (256UL << 10) /* of a run: read here, then put in place by the kernel */

/* A thread that reads pages, and what it reads them with. */
struct page_reader {
	struct ram_table table;
	uint8_t *piece;
};

#define WAITING_MAX 256

/* Faults that are reported and not served, as many as there is room for: for figures only. */
struct waiting {
	pthread_mutex_t lock; /* a leaf */
	_Atomic unsigned int n;
	struct {
		uint64_t gpa, since_ns;
	} faults[WAITING_MAX];
};

struct postcopy_load {
	struct migration *m;
	struct ram_load *ram;
	struct memory *mem;
	struct protocol *main;

	/* The pages thread's, once it has started, as are openings and closings of lines. */
	struct channel_listener *listener;
	char token[TOKEN_SIZE];
	struct page_line lines[LINES];
	uint64_t attempt; /* of the source that they belong to: 0, then one more each time */
	struct page_reader readers[LINES];
	pthread_t urgent; /* reads line 1; as long as the lines are open */
	bool reading_urgent;

	bool on; /* LISTEN has come */
	struct userfault uffd;
	struct page_map named;	/* by MISSING records, not discarded yet */
	struct page_map absent; /* not here; a bit goes when the page has been put in its place */
	struct page_map asked;	/* of them, and asked for */
	_Atomic uint64_t n_absent;
	struct waiting waiting;

	pthread_t pages, faults;
	bool started, hearing;
	int stop_faults; /* eventfd: the thread that hears of faults shall end */

	pthread_mutex_t write_lock; /* of what is said on line 1, and … */
	bool connected;		    /* … whether it is there; a leaf */

	pthread_mutex_t lock; /* of the rest; a leaf */
	bool kept;	      /* LOADED is due: what breaks from now on only pauses */
	bool committed;	      /* COMMIT has come: the guest is ours */
	bool paused;
	bool failed;	    /* on these lines, or for good */
	struct error error; /* the first one */
};

/* ---- postcopy-accept.c: the connections ---- */

/* Wait for both of them, after ACCEPT. */
int postcopy_accept_lines(struct postcopy_load *l, struct error *err);
/* Paused: wait for a source that comes back, and tell it what is missing. -ECANCELED when nobody
 * needs the pages any more, or what it met. */
int postcopy_meet_again(struct postcopy_load *l, struct error *err);
/* Hang up. */
void postcopy_close_lines(struct postcopy_load *l);

/* ---- postcopy-fault.c: pages ---- */

/* Put the pages of @rec, which came on line @number, in their place. */
int postcopy_load_pages(struct postcopy_load *l, unsigned int number, const struct record *rec,
			struct error *err);
/* The thread that hears of faults, until stop_faults; @opaque is @l. */
void *postcopy_hear_faults(void *opaque);
/* Line 1 is there, or is there again: ask for what somebody still waits for. */
void postcopy_ask_again(struct postcopy_load *l);
/* Is the page at *@owed, which was asked for when this was called last, still to come? If not,
 * *@owed is another one that is, UINT64_MAX (as for the first call) if there is none. */
bool postcopy_is_owed(struct postcopy_load *l, uint64_t *owed);

#endif
