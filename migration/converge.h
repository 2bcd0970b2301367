/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What to do next, from the figures of the round that has ended: one more, switch over, slow the
 * guest down, or let it go on at the destination without the rest. Nothing in here knows where the
 * figures come from or does what is decided, so it is tested with made-up ones.
 */
#ifndef MIGRATION_CONVERGE_H
#define MIGRATION_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

enum converge_step {
	CONVERGE_GO_ON,	   /* another round */
	CONVERGE_SWITCH,   /* pause the guest and send the rest */
	CONVERGE_THROTTLE, /* another round, with its writes as in converge.factor */
	CONVERGE_POSTCOPY, /* switch over now; the rest follows */
};

struct converge_figures {
	uint64_t elapsed_ns, timeout_ns; /* since the migration began, and in all; 0: no end */
	uint64_t downtime_ns;		 /* the limit */
	uint64_t round_ns;		 /* how long the round took */
	uint64_t before, left;		 /* bytes to send when it began, and now */
	uint64_t left_ns;		 /* time that sending these takes; UINT64_MAX: not known */
	double bandwidth;		 /* bytes a second while sending, 0: not known */
	double share;			 /* of full speed, of the vCPU that is slowed most */
	uint64_t slice_ns;		 /* for how long such a vCPU runs before it sleeps */
	bool automatic;			 /* may throttle */
	bool can_postcopy;
};

#define CONVERGE_HISTORY   3
#define CONVERGE_VCPUS_MAX 255

struct converge {
	double bandwidths[CONVERGE_HISTORY]; /* of the last rounds, a ring */
	unsigned int rounds;		     /* so far */
	unsigned int behind;		     /* rounds in a row that did not reduce enough */
	bool stalled;			     /* the last one told nothing */
	bool throttled;
	bool fitted, missed; /* the rest was within the limit once; and was not later on */

	/* With CONVERGE_THROTTLE: by what to multiply the rate at which the guest dirties pages,
	 * and whether the round was long enough to tell that a vCPU may run faster. */
	double factor;
	bool rise;
};

/* Decide; *c is all zero before the first round. */
enum converge_step converge_next(struct converge *c, const struct converge_figures *f);

/*
 * How fast each of @n vCPUs may run (1: full speed) that the pages dirtied in the last round become
 * @factor as many. share[i] was its speed meanwhile and becomes the new one; dirtied[i] is what it
 * has written, @others what nobody can be named for. Without @rise nobody gets faster. Who dirties
 * less than his part of what is allowed is not slowed; all others get the same part.
 */
void converge_shares(double factor, bool rise, const double *dirtied, double others, double *share,
		     unsigned int n);

#endif
