/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Between two rounds: collect the figures, have converge.c decide, and slow vCPUs down as it says.
 * Only with the capability auto-converge is anything but another round or the switch-over chosen.
 */
#include <sys/param.h>

#include "migration/postcopy.h"
#include "migration/source.h"
#include "vmm/vcpu.h"

#define SECOND_NS 1000000000ULL
#define MS_NS	  1000000ULL
#define FULL	  1000 /* thousandths */

void source_converge_begin(struct source *s)
{
	s->converge = (struct converge){ 0 };
	s->round_began_ns = now_ns();
	for (unsigned int i = 0; i < s->vm->n_vcpus; i++) {
		s->vcpus[i].share = 1;
		s->vcpus[i].counted = dirty_log_count(s->vm, i);
	}
}

void source_converge_end(struct source *s)
{
	for (unsigned int i = 0; i < s->vm->n_vcpus; i++) {
		vcpu_throttle(s->vm->vcpus[i], 0);
		s->vm->vcpus[i]->dirty_rate = 0;
	}
	s->m->stats.throttle = 0;
}

/* What each vCPU has dirtied in this round; the speed of the slowest. */
static double count_dirtied(struct source *s, uint64_t round_ns, double *dirtied)
{
	double share = 1;

	for (unsigned int i = 0; i < s->vm->n_vcpus; i++) {
		uint64_t count = dirty_log_count(s->vm, i), n = count - s->vcpus[i].counted;

		s->vcpus[i].counted = count;
		dirtied[i] = (double)n;
		s->vm->vcpus[i]->dirty_rate = (uint64_t)((double)n * 1e9 / (double)round_ns);
		share = MIN(share, s->vcpus[i].share);
	}
	return share;
}

static void throttle(struct source *s, const double *dirtied)
{
	unsigned int n = s->vm->n_vcpus, most = 0;
	double share[VM_MAX_VCPUS], others = (double)s->ram->dirty;

	for (unsigned int i = 0; i < n; i++) {
		share[i] = s->vcpus[i].share;
		others -= dirtied[i];
	}
	if (!n)
		return;
	converge_shares(s->converge.factor, s->converge.rise, dirtied, MAX(others, 0), share, n);
	for (unsigned int i = 0; i < n; i++) {
		unsigned int slept = (unsigned int)((1 - share[i]) * FULL + 0.5);

		/* Without a timer it goes on at full speed; the next round shows what that does. */
		if (vcpu_throttle(s->vm->vcpus[i], slept) < 0)
			continue;
		s->vcpus[i].share = share[i];
		most = MAX(most, slept);
	}
	s->m->stats.throttle = most;
}

enum converge_step source_decide(struct source *s, uint64_t before)
{
	const struct migration_params *params = &s->m->params;
	struct migration_stats *stats = &s->m->stats;
	double dirtied[VM_MAX_VCPUS] = { 0 };
	uint64_t now = now_ns();
	struct converge_figures f = {
		.elapsed_ns = now - stats->started_ns,
		.timeout_ns = params->timeout * SECOND_NS,
		.downtime_ns = params->downtime_limit * MS_NS,
		.round_ns = MAX(now - s->round_began_ns, 1),
		.before = before,
		.left = block_save_total(&s->block, s->ram),
		.left_ns = block_save_total_ns(&s->block, s->ram),
		.bandwidth = (double)stats->bandwidth,
		.automatic = params->auto_converge,
		.slice_ns = VCPU_SLICE_NS,
		.can_postcopy = s->postcopy && params->postcopy_when == POSTCOPY_AUTO,
	};
	enum converge_step step;

	stats->expected_downtime_ms = f.left_ns == UINT64_MAX ? 0 : f.left_ns / MS_NS;
	f.share = count_dirtied(s, f.round_ns, dirtied);
	s->round_began_ns = now;
	if (s->m->timed_out && params->force)
		return CONVERGE_SWITCH;
	step = converge_next(&s->converge, &f);
	if (step == CONVERGE_THROTTLE)
		throttle(s, dirtied);
	return step;
}
