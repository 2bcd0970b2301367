/* SPDX-License-Identifier: BSD-2-Clause */
/* Decisions between rounds: whether the rest fits, whether it ever will, and what to do if not. */
#include "migration/converge.h"

#include <sys/param.h>

#define MS_NS	     1000000ULL
#define WORTHLESS_NS MS_NS	 /* a round that can save less than this is not worth it */
#define FEW_BYTES    (256 << 12) /* that need no estimate of the bandwidth */
#define NOISE_BYTES  (4 << 12)	 /* that any vCPU writes, also one that only computes */

/* What a round leaves, of what it began with: as in a geometric series, a half means that all
 * rounds to come together send as much as there is now. */
#define GOAL	 0.5
#define GOAL_MIN 0.25 /* with little time left */
#define GOAL_MAX 0.75 /* with much of it */
/* Where nothing is changed, so that noise does not move the guest's speed up and down. */
#define BAND_LOW  0.6
#define BAND_HIGH 1.1
/* The most that one round changes. Down it is fast: what a working set hides shows only then. */
#define FACTOR_MIN   0.25
#define FACTOR_MAX   1.5
#define BEHIND_MAX   2 /* rounds that do not reduce enough before anything is done about it */
#define STALL	     4.0
#define SHARE_MIN    0.01
#define SHARE_RISE   2.0  /* a vCPU may have slept through a short round */
#define SHARE_POOR   0.25 /* slower than this is worse for a guest than to fetch its pages */
#define POSTCOPY_DUE 0.8  /* of the timeout */

static double median(const double *v, unsigned int n)
{
	double a = v[0], b = n > 1 ? v[1] : a, c = n > 2 ? v[2] : MIN(a, b);

	return MAX(MIN(a, b), MIN(MAX(a, b), c));
}

/*
 * A round that took much longer than sending it takes was held up by something that is not the
 * guest. Its figures tell nothing about that, unless it is so again and again: then the link is
 * slower than it was, or sending is not what takes the time.
 */
static bool held_up(struct converge *c, const struct converge_figures *f)
{
	unsigned int known = MIN(c->rounds, CONVERGE_HISTORY);
	double usual = known ? median(c->bandwidths, known) : 0;
	bool late = usual > 0 && !c->stalled &&
		    (double)f->round_ns / 1e9 > STALL * (double)f->before / usual;

	c->bandwidths[c->rounds++ % CONVERGE_HISTORY] = f->bandwidth;
	c->stalled = late;
	return late;
}

/*
 * What a round may leave. With a timeout half of the time that is left has to do for all that is
 * left, which is left / (1 - goal) bytes.
 */
static double goal(const struct converge_figures *f)
{
	double seconds;

	if (!f->timeout_ns || f->bandwidth <= 0)
		return GOAL;
	if (f->elapsed_ns >= f->timeout_ns)
		return GOAL_MIN;
	seconds = (double)(f->timeout_ns - f->elapsed_ns) / 1e9 / 2;
	return MAX(GOAL_MIN, MIN(GOAL_MAX, 1 - (double)f->left / f->bandwidth / seconds));
}

static bool time_for_postcopy(const struct converge *c, const struct converge_figures *f)
{
	if (!f->can_postcopy)
		return false;
	if (f->timeout_ns && (double)f->elapsed_ns > (double)f->timeout_ns * POSTCOPY_DUE)
		return true;
	return c->throttled && f->share < SHARE_POOR;
}

/* Does it fit the downtime limit? And would one more round make the blackout noticeably shorter?
 * Not if the one before did not. Who has waited for that in vain once does not try again, and a
 * guest that is slowed is not kept so for it. */
static bool time_to_switch(struct converge *c, const struct converge_figures *f)
{
	uint64_t ns = f->left_ns == UINT64_MAX && f->left <= FEW_BYTES ? 0 : f->left_ns;

	if (ns > f->downtime_ns) {
		c->missed = c->fitted;
		return false;
	}
	c->fitted = true;
	return ns < WORTHLESS_NS || f->left > f->before / 2 || c->missed || c->throttled;
}

enum converge_step converge_next(struct converge *c, const struct converge_figures *f)
{
	double ratio = f->before ? (double)f->left / (double)f->before : 0, want;

	if (time_to_switch(c, f))
		return CONVERGE_SWITCH;
	if (!f->automatic || held_up(c, f) || f->left <= NOISE_BYTES)
		return CONVERGE_GO_ON;
	want = goal(f);
	c->behind = ratio > want * BAND_HIGH ? c->behind + 1 : 0;
	if (!c->throttled && c->behind < BEHIND_MAX)
		return CONVERGE_GO_ON;
	if (time_for_postcopy(c, f))
		return CONVERGE_POSTCOPY;
	if (ratio <= want * BAND_HIGH && ratio >= want * BAND_LOW)
		return CONVERGE_GO_ON;
	/* In a round as short as a vCPU sleeps it may have written nothing just for that. */
	c->rise = (double)f->round_ns > (double)f->slice_ns / f->share;
	if (ratio < want && !c->rise)
		return CONVERGE_GO_ON;
	c->throttled = true;
	c->factor = ratio > 0 ? want / ratio : FACTOR_MAX;
	c->factor = MAX(FACTOR_MIN, MIN(FACTOR_MAX, c->factor));
	return CONVERGE_THROTTLE;
}

/*
 * The level to which those who want more are cut, so that all together get @allowed (max-min
 * fairness): what those below it leave of their parts is shared by the others, until none is left.
 */
static double fair_level(const double *wanted, unsigned int n, double allowed)
{
	double level = allowed / n;

	for (unsigned int pass = 0; pass < n; pass++) {
		double below = 0;
		unsigned int cut = 0;

		for (unsigned int i = 0; i < n; i++) {
			below += wanted[i] > level ? 0 : wanted[i];
			cut += wanted[i] > level;
		}
		if (!cut)
			break;
		level = (allowed - below) / cut;
	}
	return level;
}

void converge_shares(double factor, bool rise, const double *dirtied, double others, double *share,
		     unsigned int n)
{
	double wanted[CONVERGE_VCPUS_MAX], sum = others, level;

	for (unsigned int i = 0; i < n; i++) {
		sum += dirtied[i];
		wanted[i] = (dirtied[i] + others / n) / share[i]; /* at full speed */
	}
	level = fair_level(wanted, n, sum * factor);
	for (unsigned int i = 0; i < n; i++) {
		double to = wanted[i] > level ? level / wanted[i] : 1;

		to = MIN(to, rise ? share[i] * SHARE_RISE : share[i]);
		share[i] = MAX(SHARE_MIN, MAX(to, share[i] * FACTOR_MIN));
	}
}
