/* SPDX-License-Identifier: BSD-2-Clause */
/* Migration on the control socket, with the names of the public QMP schema. */
#include "vmm/control.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/param.h>

#include "migration/compress.h"
#include "migration/migration.h"
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
	put(info, "postcopy-requests", 0);
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
	/* When vCPUs were let go last, on CLOCK_MONOTONIC. */
	put(info, "resumed-ns", m->vm->resumed_at);
	if (method) {
		put(info, "blackout-ns", s->blackout_ns);
		json_object_set_new(info, "blackout-method", json_string(method));
	}
	return info;
}

static json_t *migration_info(const struct migration *m)
{
	const struct migration_stats *s = &m->stats;
	bool over = !migration_is_active(m);
	char sentence[640];
	json_t *info;

	if (m->status == MIGRATION_NONE)
		return json_object();
	info = json_pack("{s:s, s:o, s:o}", "status", migration_status_name(m->status), "ram",
			 ram_info(m), "x-ferry", own_info(m));
	if (s->disk_total)
		json_object_set_new(info, "disk", disk_info(m));
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
	if (over && m->error.code) {
		error_sentence(&m->error, sentence, sizeof(sentence));
		json_object_set_new(info, "error-desc", json_text(sentence));
		json_object_set_new(info, "x-error", error_to_json(&m->error));
	}
	return info;
}

void migration_event(struct migration *m, enum migration_status status)
{
	json_t *data = json_pack("{s:s}", "status", migration_status_name(status));

	/* The process may end right after this: whoever waits gets the whole report. It is final:
	 * these are set on the loop thread when the migration's has been joined. */
	if (status >= MIGRATION_COMPLETED)
		json_object_set_new(data, "x-info", migration_info(m));
	control_event(m->vm, "MIGRATION", data);
}

void migration_pass_event(struct migration *m, uint64_t pass)
{
	control_event(m->vm, "MIGRATION_PASS", json_pack("{s:I}", "pass", (json_int_t)pass));
}

/* ---- Commands ---- */

static int run_migrate(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct migration *m = migration_get(vm);
	const char *uri = NULL;
	bool blk = false;
	int code = control_arg_string(args, "uri", true, &uri, err);

	(void)ret;
	code = code < 0 ? code : control_arg_bool(args, "blk", false, &blk, err);
	if (code < 0)
		return code;
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

	(void)args;
	(void)ret;
	return m && migration_is_active(m) ? migration_cancel(m, NULL, err) : 0;
}

static int run_query(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)args;
	(void)err;
	*ret = vm->migration ? migration_info(vm->migration) : json_object();
	return 0;
}

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "migrate", "parameters", "", "memory", "none");
}

/* Of enum zerocopy_mode and enum compress_mode. */
static const char *const mode_names[] = { "off", "on", "auto" };

_Static_assert(ZEROCOPY_OFF == 0 && ZEROCOPY_ON == 1 && ZEROCOPY_AUTO == 2, "mode_names");
_Static_assert(COMPRESS_OFF == 0 && COMPRESS_ON == 1 && COMPRESS_AUTO == 2, "mode_names");

static int run_query_parameters(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	const struct migration *m = migration_get(vm);

	(void)args;
	if (!m)
		return no_memory(err);
	*ret = json_pack(
		"{s:I, s:I, s:I, s:s, s:i, s:b, s:b, s:b, s:i, s:i, s:s, s:s, s:i, s:b}",
		"max-bandwidth", (json_int_t)m->params.max_bandwidth, "downtime-limit",
		(json_int_t)m->params.downtime_limit, "x-timeout", (json_int_t)m->params.timeout,
		"x-on-timeout", m->params.force ? "force" : "cancel", "x-iovecs",
		(int)m->params.iovecs, "x-copy", m->params.copy, "x-verify", m->params.verify,
		"x-send-ram", m->params.send_ram, "x-deadline", (int)m->params.deadline_ms,
		"multifd-channels", (int)m->params.channels, "x-zero-copy",
		mode_names[m->params.zero_copy], "x-compress", mode_names[m->params.compress],
		"compress-level", (int)m->params.compress_level, "direct-io", m->params.direct_io);
	return 0;
}

static int parse_mode(const char *parameter, const char *name, struct error *err)
{
	for (int i = 0; i < 3; i++) {
		if (strcmp(name, mode_names[i]) == 0)
			return i;
	}
	return error_set(err, -EINVAL, "migrate", "parameters", parameter, "off, on or auto", "%s",
			 name);
}

/* What a client may set, collected before any of it is applied. */
struct wanted {
	int64_t max_bandwidth, downtime_limit, timeout, iovecs, deadline_ms, channels,
		compress_level;
	const char *on_timeout, *zero_copy, *compress;
	bool copy, verify, send_ram, direct_io;
};

static int parse_parameters(json_t *args, struct wanted *w, struct error *err)
{
	int ret =
		control_arg_int(args, "max-bandwidth", false, 0, INT64_MAX, &w->max_bandwidth, err);

	ret = ret ? ret
		  : control_arg_int(args, "downtime-limit", false, 0, 2000000, &w->downtime_limit,
				    err);
	ret = ret ? ret : control_arg_int(args, "x-timeout", false, 0, 1000000, &w->timeout, err);
	ret = ret ? ret : control_arg_int(args, "x-iovecs", false, 1, IOV_MAX, &w->iovecs, err);
	ret = ret ? ret
		  : control_arg_int(args, "x-deadline", false, 0, 600000, &w->deadline_ms, err);
	ret = ret ? ret
		  : control_arg_int(args, "multifd-channels", false, 1, CHANNELS_MAX, &w->channels,
				    err);
	ret = ret ? ret : control_arg_string(args, "x-on-timeout", false, &w->on_timeout, err);
	ret = ret ? ret : control_arg_bool(args, "x-copy", false, &w->copy, err);
	ret = ret ? ret : control_arg_bool(args, "x-verify", false, &w->verify, err);
	ret = ret ? ret : control_arg_bool(args, "x-send-ram", false, &w->send_ram, err);
	ret = ret ? ret : control_arg_bool(args, "direct-io", false, &w->direct_io, err);
	ret = ret ? ret : control_arg_string(args, "x-zero-copy", false, &w->zero_copy, err);
	ret = ret ? ret : control_arg_string(args, "x-compress", false, &w->compress, err);
	ret = ret ? ret
		  : control_arg_int(args, "compress-level", false, 1, COMPRESS_LEVEL_MAX,
				    &w->compress_level, err);
	if (ret == 0 && (parse_mode("x-zero-copy", w->zero_copy, err) < 0 ||
			 parse_mode("x-compress", w->compress, err) < 0))
		ret = -EINVAL;
	if (ret == 0 && strcmp(w->on_timeout, "cancel") != 0 && strcmp(w->on_timeout, "force") != 0)
		ret = error_set(err, -EINVAL, "migrate", "parameters", "x-on-timeout",
				"cancel or force", "%s", w->on_timeout);
	return ret;
}

static int run_set_parameters(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct migration *m = migration_get(vm);
	struct migration_params *p;
	struct wanted w;
	int code;

	(void)ret;
	if (!m)
		return no_memory(err);
	p = &m->params;
	w = (struct wanted){
		.max_bandwidth = (int64_t)p->max_bandwidth,
		.downtime_limit = (int64_t)p->downtime_limit,
		.timeout = (int64_t)p->timeout,
		.iovecs = p->iovecs,
		.deadline_ms = p->deadline_ms,
		.channels = p->channels,
		.on_timeout = p->force ? "force" : "cancel",
		.zero_copy = mode_names[p->zero_copy],
		.compress = mode_names[p->compress],
		.compress_level = p->compress_level,
		.copy = p->copy,
		.verify = p->verify,
		.send_ram = p->send_ram,
		.direct_io = p->direct_io,
	};
	code = parse_parameters(args, &w, err);
	if (code < 0)
		return code;
	p->max_bandwidth = (uint64_t)w.max_bandwidth;
	p->downtime_limit = (uint64_t)w.downtime_limit;
	p->timeout = (uint64_t)w.timeout;
	p->iovecs = (int)w.iovecs;
	p->deadline_ms = (int)w.deadline_ms;
	p->channels = (int)w.channels;
	p->force = strcmp(w.on_timeout, "force") == 0;
	p->zero_copy = parse_mode("", w.zero_copy, NULL);
	p->compress = parse_mode("", w.compress, NULL);
	p->compress_level = (int)w.compress_level;
	p->copy = w.copy;
	p->verify = w.verify;
	p->send_ram = w.send_ram;
	p->direct_io = w.direct_io;
	return 0;
}

#define MIGRATION_COMMAND(id, command, arguments, function)             \
	static const struct control_command id = { .name = (command),   \
						   .args = (arguments), \
						   .run = (function) }; \
	CONTROL_COMMAND(id)

MIGRATION_COMMAND(cmd_migrate, "migrate", "uri detach blk", run_migrate);
MIGRATION_COMMAND(cmd_incoming, "migrate-incoming", "uri", run_incoming);
MIGRATION_COMMAND(cmd_cancel, "migrate_cancel", "", run_cancel);
MIGRATION_COMMAND(cmd_query, "query-migrate", "", run_query);
MIGRATION_COMMAND(cmd_query_parameters, "query-migrate-parameters", "", run_query_parameters);
MIGRATION_COMMAND(cmd_set_parameters, "migrate-set-parameters",
		  "max-bandwidth downtime-limit multifd-channels x-timeout x-on-timeout x-iovecs "
		  "x-copy x-verify x-send-ram direct-io "
		  "x-deadline x-zero-copy x-compress compress-level",
		  run_set_parameters);
