/* SPDX-License-Identifier: BSD-2-Clause */
/* Is the next record worth compressing? From what the last ones have cost. */
#include "migration/compress.h"

#include <sys/param.h>

#define TRY_FIRST     16   /* records after which the other way is tried … */
#define TRY_MAX	      1024 /* … twice as many each time, as long as that changes nothing */
#define PLAIN_TRIES   4
#define TRIES_PART    8 /* of the time at most is for plain ones */
#define WINDOW_NS     100000000
#define WINDOW_BYTES  (8UL << 20)
#define LATELY_BYTES  (16UL << 20)
#define WORTH	      0.9	   /* of the plain cost, to begin with it */
#define STILL_WORTH   0.95	   /* … to go on with it */
#define TELLING_BYTES (64UL << 10) /* smaller records tell nothing */

/* At best it is hidden behind sending, or sending behind it. */
static bool promises(const struct compress_choice *c)
{
	return MAX(c->zip_ns, c->ratio * c->wire_ns) < c->wire_ns * WORTH;
}

/* Compressing becomes the rule, on trial. */
static enum compress_what begin(struct compress_choice *c)
{
	c->on = true;
	c->proven = false;
	c->zipped_ns = 0;
	c->lately[1] = (struct compress_cost){ 0 };
	c->same = 0;
	return COMPRESS_ALL;
}

/* It has not won, or does not any more. */
static enum compress_what end(struct compress_choice *c)
{
	if (c->proven)
		c->patience = TRY_FIRST;
	c->on = false;
	c->disproved = true;
	c->same = 0;
	return COMPRESS_NOTHING;
}

/* As many records have followed the rule as it takes to doubt it, @least at least. */
static bool doubtful(struct compress_choice *c, double least)
{
	c->patience = MAX(c->patience, TRY_FIRST);
	if (++c->same < c->patience || c->same < least)
		return false;
	c->same = 0;
	c->patience = MIN(2 * c->patience, TRY_MAX);
	return true;
}

/* Compressing is the rule. */
static enum compress_what go_on(struct compress_choice *c)
{
	if (c->zipped_ns >= c->wire_ns * STILL_WORTH)
		return end(c);
	if (c->zipped_ns > 0 && !c->proven) {
		c->proven = true;
		c->patience = TRY_FIRST;
	}
	if (!doubtful(c, TRIES_PART * PLAIN_TRIES * c->wire_ns / MAX(c->zipped_ns, 0.001)))
		return COMPRESS_ALL;
	c->plain_left = PLAIN_TRIES - 1;
	return COMPRESS_NOTHING;
}

enum compress_what compress_choose(struct compress_choice *c)
{
	if (c->plain_left) {
		c->plain_left--;
		return COMPRESS_NOTHING;
	}
	if (c->wire_ns <= 0)
		return COMPRESS_NOTHING;
	if (c->ratio <= 0)
		return COMPRESS_SAMPLE;
	if (c->on)
		return go_on(c);
	if (promises(c) && !c->disproved)
		return begin(c);
	if (!doubtful(c, 0))
		return COMPRESS_NOTHING;
	c->disproved = false;
	return COMPRESS_SAMPLE;
}

static double smooth(double old, double now)
{
	return old > 0 ? (3 * old + now) / 4 : now;
}

void compress_was(struct compress_choice *c, uint64_t raw, uint64_t left, uint64_t ns)
{
	if (raw < TELLING_BYTES && c->ratio > 0)
		return;
	c->zip_ns = smooth(c->zip_ns, (double)MAX(ns, 1) / (double)raw);
	c->ratio = smooth(c->ratio, (double)MAX(left, 1) / (double)raw);
}

/* What is longer ago counts less. So does a single record, which may have found a full buffer. */
static double learn(struct compress_cost *cost, const struct compress_cost *more)
{
	if (cost->bytes > LATELY_BYTES) {
		cost->bytes /= 2;
		cost->ns /= 2;
	}
	cost->bytes += more->bytes;
	cost->ns += more->ns;
	return (double)MAX(cost->ns, 1) / (double)cost->bytes;
}

/*
 * The first record of a row is not counted: what it finds in the socket's buffer, room or none, is
 * the other kind's doing.
 */
void compress_sent(struct compress_choice *c, bool zipped, uint64_t raw, uint64_t ns)
{
	if (zipped != c->row_zipped || !c->row) {
		c->row_zipped = zipped;
		c->row = 1;
		c->window = (struct compress_cost){ 0 };
		return;
	}
	c->row++;
	c->window.bytes += raw;
	c->window.ns += ns;
	if (!c->window.bytes || (c->window.ns < WINDOW_NS && c->window.bytes < WINDOW_BYTES))
		return;
	*(zipped ? &c->zipped_ns : &c->wire_ns) = learn(&c->lately[zipped], &c->window);
	c->window = (struct compress_cost){ 0 };
}
