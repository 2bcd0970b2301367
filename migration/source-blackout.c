/* SPDX-License-Identifier: BSD-2-Clause */
/* How long the guest stood still, as far as the source can tell. */
#include <string.h>
#include <sys/param.h>

#include "migration/source.h"

/*
 * From the last guest instruction here to the first there. Both times are of one clock when both
 * sides run on one kernel; as copies of a machine share their boot id too, COMMIT must also have
 * arrived between being sent and being answered. Else its way is taken to be half the round trip.
 */
void source_measure_blackout(struct source *s, const void *fdt)
{
	struct migration_stats *stats = &s->m->stats;
	uint64_t now = now_ns(), there = message_get_u64(fdt, "commit-ns", 0);
	uint64_t resumed = message_get_u64(fdt, "resumed-ns", 0), trip = now - s->committed_ns;

	if (s->before != VM_RUNNING)
		return;
	if (s->ours.boot_id[0] && strcmp(s->ours.boot_id, s->theirs.boot_id) == 0 &&
	    there <= trip && resumed <= now && resumed >= s->committed_ns + there) {
		stats->blackout_method = "clock";
		stats->blackout_ns = resumed - s->vm->paused_at;
		return;
	}
	there = MIN(there, trip);
	stats->blackout_method = "round-trip";
	stats->blackout_ns = s->committed_ns - s->vm->paused_at + there + (trip - there) / 2;
}
