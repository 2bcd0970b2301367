/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM over several data connections at once. Everything else, and with one channel RAM too, goes
 * over the connection on which the two sides talk, here the main one.
 *
 * The destination's HELLO says how many data connections it takes, and a random token. When it has
 * accepted the machine, the source opens them to the same URI; the first record of each, CHANNEL,
 * names the token and a number. Whoever connects without the token is sent away.
 *
 * A round of RAM is handed out in chunks, each to the thread of the channel that is ready for one,
 * and no page is in two of them. Each channel ends the round with ROUND. The destination has a
 * thread for each channel, too. One that has come to ROUND waits for the others, so that whatever
 * it reads next is younger than all of the round before: no page is overwritten by an older copy of
 * itself. The main connection says ROUND when the source has sent all of it. A channel's last
 * record is END; before STATE is looked at all have said it and their threads are gone, so nobody
 * writes to RAM any more.
 *
 * Whoever meets an error shuts all channels down, which wakes the other threads; the first error is
 * the one reported. A channel may have nothing to say for long, so the destination has no deadline
 * between two records of one, but one for all connections together.
 */
#ifndef MIGRATION_MULTIFD_H
#define MIGRATION_MULTIFD_H

#include "migration/migration.h"
#include "migration/protocol.h"
#include "migration/ram.h"

#define TOKEN_SIZE 33 /* 128 bits in hexadecimal */

/* ---- The source. All of these belong to the migration's thread ---- */

struct multifd_save;

/* Channels to open for @m; 0: all goes over the main connection. */
unsigned int multifd_wanted(const struct migration *m);
/* Does a destination that takes @max take them? */
int multifd_check(const struct migration *m, uint64_t max, struct error *err);
/* Open @n channels to @uri, for the rounds of @ram from now on. *@out, also after an error, is for
 * multifd_save_free(), and must be freed before @ram. */
int multifd_save_open(struct multifd_save **out, struct ram_save *ram, const char *uri,
		      unsigned int n, const char *token, struct error *err);
/* As ram_save_round(), by all channels; then say ROUND. */
int multifd_save_round(struct multifd_save *s, bool live, struct error *err);
/* After the last round: say END everywhere. */
int multifd_save_end(struct multifd_save *s, struct error *err);
/* Bytes that are still in the channels' buffers. */
uint64_t multifd_save_pending(struct multifd_save *s);
/* Hang up, wait for the threads, count what they cost. NULL is allowed. */
void multifd_save_free(struct multifd_save *s);

/* ---- The destination, likewise ---- */

struct multifd_load;

/* A new token; returns 0 or a negative errno with @err. */
int multifd_token(char token[TOKEN_SIZE], struct error *err);
/* Does whoever is at @p say CHANNEL, left in @rec, and know @token? *@number is which it is then.
 */
bool multifd_ask(struct protocol *p, const char *token, struct record *rec, uint64_t *number);
/* Wait at @listener for @n channels with @token that load into @ram, and start their threads.
 * *@out as above. */
int multifd_load_accept(struct multifd_load **out, struct ram_load *ram, struct protocol *p,
			struct channel_listener *listener, unsigned int n, const char *token,
			struct error *err);
/* Wait for the next record on the main connection, as long as anything moves anywhere. */
int multifd_load_wait(struct multifd_load *l, struct error *err);
/* ROUND has come on the main connection: wait until all channels have come to it. */
int multifd_load_round(struct multifd_load *l, const struct record *rec, struct error *err);
/* STATE has come: wait until all channels have said END and nobody writes to RAM any more. */
int multifd_load_end(struct multifd_load *l, struct error *err);
void multifd_load_free(struct multifd_load *l);

#endif
