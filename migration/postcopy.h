/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Postcopy: the guest goes first and its memory follows. The destination runs it while pages are
 * still at the source; who touches one of them sleeps until it has come (userfault.h).
 *
 *   destination                               source
 *                                          ←  RAM …            as in precopy, or none of it
 *                                          ←  MISSING …, LISTEN
 *   READY                                  →      it has discarded what it had of those pages
 *                                          ←  STOPPED, MISSING …, STATE     what was written since
 *   LOADED                                 →
 *                                          ←  COMMIT
 *   RUNNING                                →      the main connection has nothing left to say
 *
 * Pages cross on two more connections, opened after ACCEPT like those of multifd.h, with a token
 * and a number: on number 0 the source sends whatever is left, in the background; on number 1 the
 * destination says REQUEST when somebody waits for a page, and nothing but such pages is sent
 * there, so they have no queue before them. When the destination has all, it says END on number 0.
 *
 * A page crosses once: who takes its bit out of the source's map sends it. The source's copy of the
 * guest stands still, so it does not matter when.
 *
 * From COMMIT on neither side has all of the guest. So when a connection breaks nobody gives up:
 * both sides wait (postcopy-paused), the guest runs until it touches what is not there, and
 * somebody tells the source to connect anew (`migrate` with resume). The destination then says on
 * number 0 what it still lacks, MISSING … and READY, and things go on. This may happen any number
 * of times. The source never runs the guest again; if the destination dies, the guest is lost.
 *
 * Threads. Source: the migration's thread sends the background, one more answers requests.
 * Destination: one thread (the pages thread) reads number 0 and mends what broke, one reads number
 * 1, one hears of faults and asks for pages; the migration's own goes on with the guest, and must
 * not be needed by any of these, for it may wait for a page itself.
 */
#ifndef MIGRATION_POSTCOPY_H
#define MIGRATION_POSTCOPY_H

#include "migration/migration.h"
#include "migration/multifd.h"
#include "migration/page-map.h"
#include "migration/protocol.h"
#include "migration/ram.h"

#define POSTCOPY_BY_COMMAND -1 /* x-postcopy: migrate-start-postcopy says when */
#define POSTCOPY_AUTO	    -2 /* when precopy does not converge */

#define REQUEST_MAX	 64 /* pages of one record */
#define REQUEST_META_MAX (8 * REQUEST_MAX)

enum { LINE_BACKGROUND, LINE_FAULTS, LINES };

/* A connection that pages cross. */
struct page_line {
	struct channel *ch; /* NULL: none */
	struct protocol *p;
};

/* ---- Both sides, postcopy.c ---- */

/* Take over @ch as @line, number @number; owns it also after an error. */
int page_line_open(struct page_line *line, struct migration *m, unsigned int number,
		   struct channel *ch, enum protocol_side side, struct error *err);
void page_line_close(struct page_line *line, struct migration *m, unsigned int number);
/* Nobody reads or writes on @lines any more. Any thread, while they are open. */
void page_lines_shutdown(struct page_line lines[LINES]);

/* "command", "auto" or a number of rounds; and back, into @buf. */
int postcopy_parse_when(const char *text, int *when, struct error *err);
const char *postcopy_when(int when, char *buf, size_t size);

/* The pages are in postcopy from now on: it is too late to give up. */
void postcopy_begin(struct migration *m);
/* A connection broke: say why, and wait for somebody's wish. -ECANCELED when the process ends. */
void postcopy_pause(struct migration *m, const struct error *why);
/* … and it does not wait any more. */
void postcopy_go_on(struct migration *m, enum migration_status status);
/* Drain the eventfd that says that something is wanted, or has happened. */
void postcopy_woken(struct migration *m);
/* The process ends, or a person gave up what is paused: nobody needs the pages any more. */
bool postcopy_abandoned(struct migration *m);

/* For control-postcopy.c; loop thread. */
int postcopy_start_now(struct migration *m, struct error *err);
int postcopy_break(struct migration *m, struct error *err);
int postcopy_resume(struct migration *m, const char *uri, struct error *err);
/* @bound gets where it listens. */
int postcopy_recover(struct migration *m, const char *uri, char bound[256], struct error *err);
void postcopy_abandon(struct migration *m);
/* The same, if it is paused at the source and nobody has said that the other side runs the guest;
 * else false. A person has to know that it never will. */
bool postcopy_give_up(struct migration *m);
/* Why it is paused; false if it is not. Any thread. */
bool postcopy_why(struct migration *m, struct error *why);

/* ---- The source, postcopy-source.c; the migration's thread ---- */

struct postcopy_save;

/* Does @m want it? Is it to be (*@on), if the destination says @theirs? An error if it must be and
 * cannot. */
bool postcopy_wanted(const struct migration *m);
int postcopy_agree(const struct migration *m, uint64_t theirs, uint64_t *on, struct error *err);
/* Open the two connections to @uri. *@out, also after an error, is for postcopy_save_free(). */
int postcopy_save_open(struct postcopy_save **out, struct ram_save *ram, const char *uri,
		       const char *token, struct error *err);
/* Shall the guest go now? @before as for time_to_switch() of source.c. NULL: never. */
bool postcopy_save_is_due(struct postcopy_save *s, uint64_t before);
/* Name what is missing so far, and wait until the destination is ready for it. Guest running. */
int postcopy_save_prepare(struct postcopy_save *s, struct error *err);
/* Name the rest, after the last fetch; from then on requests are answered. Guest paused. */
int postcopy_save_switch(struct postcopy_save *s, struct error *err);
/* Has it come so far that the guest goes by postcopy? NULL: no. */
bool postcopy_save_is_on(const struct postcopy_save *s);
/* Before COMMIT: an error if the pages have met one. */
int postcopy_save_check(struct postcopy_save *s, struct error *err);
/* COMMIT is out. @ret < 0: and RUNNING has not come, @err says why. Send all, whatever it takes. */
int postcopy_save_run(struct postcopy_save *s, int ret, struct error *err);
void postcopy_save_free(struct postcopy_save *s);

/* ---- The destination, postcopy-destination.c; the migration's thread ---- */

struct postcopy_load;

/* Wait for the two connections at @listener, which it owns from then on, also after an error.
 * *@out as above. */
int postcopy_load_accept(struct postcopy_load **out, struct ram_load *ram, struct protocol *p,
			 struct channel_listener *listener, const char *token, struct error *err);
/* MISSING and LISTEN of the main connection. */
int postcopy_load_missing(struct postcopy_load *l, const struct record *rec, struct error *err);
int postcopy_load_listen(struct postcopy_load *l, const struct record *rec, struct error *err);
/* LISTEN has come: no more pages on the main connection. NULL: no. */
bool postcopy_load_is_on(const struct postcopy_load *l);
/* STATE has come: from now on pages are asked for when they are touched. */
int postcopy_load_start(struct postcopy_load *l, struct error *err);
/* Before LOADED: an error if the pages have met one. After it that only pauses. */
int postcopy_load_keep(struct postcopy_load *l, struct error *err);
/* COMMIT has come: who has lost touch may come back from now on. */
void postcopy_load_commit(struct postcopy_load *l);
/* The guest runs here; wait until it has all its pages. */
int postcopy_load_finish(struct postcopy_load *l, struct error *err);
void postcopy_load_free(struct postcopy_load *l);

#endif
