/* SPDX-License-Identifier: BSD-2-Clause */
/* Migration on the control socket, with the names of the public QMP schema. */
#include "vmm/control.h"

#include <errno.h>
#include <string.h>
#include <sys/param.h>

#include "migration/migration.h"
#include "migration/postcopy.h"
#include "vmm/vcpu.h"

#define NS_PER_MS 1000000

static uint64_t ms(uint64_t ns)
{
	return (ns + NS_PER_MS / 2) / NS_PER_MS;
}

static uint64_t elapsed_ns(const struct migration *m)
{
	if (m->stats.total_ns || !m->stats.started_ns)
		return m->stats.total_ns;
	return now_ns() - m->stats.started_ns;
}

static void put(json_t *info, const char *name, uint64_t value)
{
	json_object_set_new(info, name, json_integer((json_int_t)value));
}

/* Rounded up, so that little is not none. */
static uint64_t percent(uint64_t permille)
{
	return (permille + 9) / 10;
}

static json_t *ram_info(const struct migration *m)
{
	const struct migration_stats *s = &m->stats;
	uint64_t pages = s->pages_data + s->pages_zero, ns = elapsed_ns(m);
	json_t *info = json_object();

	put(info, "transferred", s->bytes_xfer - MIN(s->bytes_xfer, s->disk_data));
	put(info, "remaining", s->remaining);
	put(info, "total", s->ram_total);
	put(info, "duplicate", s->pages_zero);
	put(info, "skipped", 0);
	put(info, "normal", s->pages_data);
	put(info, "normal-bytes", s->pages_data * PAGE_SIZE);
	put(info, "dirty-pages-rate", s->dirty_rate);
	put(info, "dirty-sync-count", s->rounds);
	put(info, "page-size", PAGE_SIZE);
	put(info, "pages-per-second", ns ? (uint64_t)((double)pages * 1e9 / (double)ns) : 0);
	put(info, "postcopy-requests", s->postcopy_requests);
	put(info, "postcopy-bytes", s->postcopy_bytes);
	put(info, "multifd-bytes", s->multifd_bytes);
	json_object_set_new(info, "mbps", json_real((double)s->bandwidth * 8 / 1e6));
	return info;
}

/* Of mirrored disks, in the terms of ram_info(). */
static json_t *disk_info(const struct migration *m)
{
	const struct migration_stats *s = &m->stats;
	json_t *info = json_object();

	put(info, "transferred", s->disk_data);
	put(info, "remaining", s->disk_remaining);
	put(info, "total", s->disk_total);
	put(info, "duplicate", s->disk_zero / MIRROR_BLOCK);
	put(info, "skipped", 0);
	put(info, "normal", s->disk_data / MIRROR_BLOCK);
	put(info, "normal-bytes", s->disk_data);
	put(info, "dirty-pages-rate", 0);
	put(info, "dirty-sync-count", s->rounds);
	put(info, "page-size", MIRROR_BLOCK);
	put(info, "pages-per-second", 0);
	put(info, "postcopy-requests", 0);
	put(info, "multifd-bytes", 0);
	json_object_set_new(info, "mbps", json_real(0));
	return info;
}

/* How fast each vCPU dirties memory, and how much of its time it is made to sleep. */
static json_t *vcpus_info(const struct migration *m)
{
	json_t *list = json_array(), *info;

	for (unsigned int i = 0; i < m->vm->n_vcpus; i++) {
		const struct vcpu *vcpu = m->vm->vcpus[i];

		info = json_pack("{s:i}", "cpu-index", (int)i);
		put(info, "dirty-pages-rate", vcpu->dirty_rate);
		put(info, "throttle-percentage", percent(vcpu->throttle));
		put(info, "throttled-ns", vcpu->throttled_ns);
		json_array_append_new(list, info);
	}
	return list;
}

/* What is ours alone. */
static json_t *own_info(const struct migration *m)
{
	const struct migration_stats *s = &m->stats;
	const char *method = s->blackout_method;
	json_t *info = json_object();

	json_object_set_new(info, "uri", json_text(m->uri));
	json_object_set_new(info, "incoming", json_boolean(m->incoming));
	json_object_set_new(info, "handed-over", json_boolean(m->handed_over));
	put(info, "rounds", s->rounds);
	put(info, "records", s->records);
	put(info, "pages-hinted", s->pages_hinted);
	put(info, "bytes-referenced", s->bytes_referenced);
	put(info, "bytes-copied", s->bytes_copied);
	put(info, "zero-copy-bytes", s->zerocopy_bytes);
	put(info, "zero-copy-copied", s->zerocopy_copied);
	put(info, "zero-copy-fallbacks", s->zerocopy_fallbacks);
	put(info, "zstd-pages", s->zipped_pages);
	put(info, "zstd-bytes", s->zipped_bytes);
	put(info, "delta-pages", s->delta_pages);
	put(info, "iovecs-queued", s->iovecs_queued);
	put(info, "ram-given", s->ram_given);
	put(info, "backlog", s->backlog);
	put(info, "iovecs-sent", s->iovecs_sent);
	put(info, "syscalls", s->syscalls);
	put(info, "send-ns", s->send_ns);
	put(info, "log-ns", s->log_ns);
	if (!m->incoming && m->vm->ring_entries)
		put(info, "dirty-ring-full", m->vm->ring_full);
	if (!m->incoming)
		json_object_set_new(info, "dirty-log",
				    json_string(m->vm->ring_entries ? "ring" : "bitmap"));
	put(info, "bandwidth", s->bandwidth);
	put(info, "total-ns", elapsed_ns(m));
	if (s->faults.n) {
		put(info, "fault-p50-ns", latency_within(&s->faults, 500));
		put(info, "fault-p99-ns", latency_within(&s->faults, 990));
		put(info, "fault-max-ns", s->faults.max_ns);
	}
	/* When vCPUs were let go last, on CLOCK_MONOTONIC. */
	put(info, "resumed-ns", m->vm->resumed_at);
	if (method) {
		put(info, "blackout-ns", s->blackout_ns);
		json_object_set_new(info, "blackout-method", json_string(method));
	}
	return info;
}

#define DIST_OCTAVES 24 /* up to 8 s */

/* Of the faults of postcopy, by the public names: the mean in ns, and a histogram by powers of 2
 * us.
 */
static void put_latency(json_t *info, const struct latency *l)
{
	json_t *dist = json_array();

	for (unsigned int i = 0; i < DIST_OCTAVES; i++)
		json_array_append_new(dist, json_integer((json_int_t)latency_octave_us(l, i)));
	put(info, "postcopy-latency", l->total_ns / l->n);
	json_object_set_new(info, "postcopy-latency-dist", dist);
}

static json_t *migration_info(struct migration *m)
{
	const struct migration_stats *s = &m->stats;
	bool over = !migration_is_active(m);
	struct error why = { 0 };
	char sentence[640];
	json_t *info;

	if (m->status == MIGRATION_NONE)
		return json_object();
	info = json_pack("{s:s, s:o, s:o}", "status", migration_status_name(m->status), "ram",
			 ram_info(m), "x-ferry", own_info(m));
	if (s->disk_total)
		json_object_set_new(info, "disk", disk_info(m));
	if (s->faults.n)
		put_latency(info, &s->faults);
	put(info, "total-time", ms(elapsed_ns(m)));
	put(info, "setup-time", ms(s->setup_ns));
	if (!m->incoming && m->status == MIGRATION_ACTIVE) {
		put(info, "expected-downtime", s->expected_downtime_ms);
		json_object_set_new(json_object_get(info, "x-ferry"), "vcpus", vcpus_info(m));
	}
	if (s->throttle)
		put(info, "cpu-throttle-percentage", percent(s->throttle));
	if (over && s->blackout_method)
		put(info, "downtime", ms(s->blackout_ns));
	if (over)
		why = m->error;
	if (why.code || postcopy_why(m, &why)) {
		error_sentence(&why, sentence, sizeof(sentence));
		json_object_set_new(info, "error-desc", json_text(sentence));
		json_object_set_new(info, "x-error", error_to_json(&why));
	}
	return info;
}

void migration_event(struct migration *m, enum migration_status status)
{
	json_t *data = json_pack("{s:s}", "status", migration_status_name(status));

	/* The process may end right after this: whoever waits gets the whole report. It is final:
	 * these are set on the loop thread when the migration's has been joined. */
	if (status >= MIGRATION_COMPLETED || status == MIGRATION_POSTCOPY_PAUSED)
		json_object_set_new(data, "x-info", migration_info(m));
	control_event(m->vm, "MIGRATION", data);
}

void migration_pass_event(struct migration *m, uint64_t pass)
{
	control_event(m->vm, "MIGRATION_PASS", json_pack("{s:I}", "pass", (json_int_t)pass));
}

/* ---- Commands ---- */

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "migrate", "parameters", "", "memory", "none");
}

static int run_migrate(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct migration *m = migration_get(vm);
	const char *uri = NULL;
	bool blk = false, resume = false;
	int code = control_arg_string(args, "uri", true, &uri, err);

	(void)ret;
	code = code < 0 ? code : control_arg_bool(args, "blk", false, &blk, err);
	code = code < 0 ? code : control_arg_bool(args, "resume", false, &resume, err);
	if (code < 0)
		return code;
	if (resume)
		return m ? postcopy_resume(m, uri, err) : no_memory(err);
	if (m && !migration_is_active(m))
		m->params.mirror = blk;
	return source_start(vm, uri, err);
}

static int run_incoming(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	const char *uri = NULL;
	int code = control_arg_string(args, "uri", true, &uri, err);

	(void)ret;
	return code < 0 ? code : destination_start(vm, uri, NULL, err);
}

/* Without a migration there is nothing to do, as the schema has it. */
static int run_cancel(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct migration *m = vm->migration;
	bool force = false;
	int bad = control_arg_bool(args, "force", false, &force, err);

	(void)ret;
	if (bad || !m || !migration_is_active(m))
		return bad;
	if (force && postcopy_give_up(m))
		return 0;
	return migration_cancel(m, NULL, err);
}

static int run_query(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)args;
	(void)err;
	*ret = vm->migration ? migration_info(vm->migration) : json_object();
	return 0;
}

#define MIGRATION_COMMAND(id, command, arguments, function)             \
	static const struct control_command id = { .name = (command),   \
						   .args = (arguments), \
						   .run = (function) }; \
	CONTROL_COMMAND(id)

MIGRATION_COMMAND(cmd_migrate, "migrate", "uri detach blk resume", run_migrate);
MIGRATION_COMMAND(cmd_incoming, "migrate-incoming", "uri", run_incoming);
MIGRATION_COMMAND(cmd_cancel, "migrate_cancel", "force", run_cancel);
MIGRATION_COMMAND(cmd_query, "query-migrate", "", run_query);
