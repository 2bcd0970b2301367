/* SPDX-License-Identifier: BSD-2-Clause */
/* Parameters of migrations on the control socket: all that are given are checked before one is set.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "migration/compress.h"
#include "migration/migration.h"
#include "migration/postcopy.h"
#include "vmm/control.h"

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
	char when[16];

	(void)args;
	if (!m)
		return no_memory(err);
	*ret = json_pack(
		"{s:I, s:I, s:I, s:I, s:s, s:i, s:b, s:b, s:b, s:i, s:i, s:s, s:s, s:i, s:I, s:s, "
		"s:b}",
		"max-bandwidth", (json_int_t)m->params.max_bandwidth, "max-postcopy-bandwidth",
		(json_int_t)m->params.max_postcopy_bandwidth, "downtime-limit",
		(json_int_t)m->params.downtime_limit, "x-timeout", (json_int_t)m->params.timeout,
		"x-on-timeout", m->params.force ? "force" : "cancel", "x-iovecs",
		(int)m->params.iovecs, "x-copy", m->params.copy, "x-verify", m->params.verify,
		"x-send-ram", m->params.send_ram, "x-deadline", (int)m->params.deadline_ms,
		"multifd-channels", (int)m->params.channels, "x-zero-copy",
		mode_names[m->params.zero_copy], "x-compress", mode_names[m->params.compress],
		"compress-level", (int)m->params.compress_level, "x-delta-memory",
		(json_int_t)m->params.delta_memory, "x-postcopy",
		postcopy_when(m->params.postcopy_when, when, sizeof(when)), "direct-io",
		m->params.direct_io);
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
	int64_t max_bandwidth, postcopy_bandwidth, downtime_limit, timeout, iovecs, deadline_ms,
		channels, compress_level, delta_memory;
	const char *on_timeout, *zero_copy, *compress, *postcopy;
	int postcopy_when;
	bool copy, verify, send_ram, direct_io;
};

static int parse_parameters(json_t *args, struct wanted *w, struct error *err)
{
	int ret =
		control_arg_int(args, "max-bandwidth", false, 0, INT64_MAX, &w->max_bandwidth, err);

	ret = ret ? ret
		  : control_arg_int(args, "max-postcopy-bandwidth", false, 0, INT64_MAX,
				    &w->postcopy_bandwidth, err);
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
	ret = ret ? ret : control_arg_string(args, "x-postcopy", false, &w->postcopy, err);
	ret = ret ? ret : postcopy_parse_when(w->postcopy, &w->postcopy_when, err);
	ret = ret ? ret : control_arg_string(args, "x-compress", false, &w->compress, err);
	ret = ret ? ret
		  : control_arg_int(args, "compress-level", false, 1, COMPRESS_LEVEL_MAX,
				    &w->compress_level, err);
	ret = ret ? ret
		  : control_arg_int(args, "x-delta-memory", false, 0, 1L << 40, &w->delta_memory,
				    err);
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
	char when[16];
	int code;

	(void)ret;
	if (!m)
		return no_memory(err);
	p = &m->params;
	w = (struct wanted){
		.max_bandwidth = (int64_t)p->max_bandwidth,
		.postcopy_bandwidth = (int64_t)p->max_postcopy_bandwidth,
		.downtime_limit = (int64_t)p->downtime_limit,
		.timeout = (int64_t)p->timeout,
		.iovecs = p->iovecs,
		.deadline_ms = p->deadline_ms,
		.channels = p->channels,
		.on_timeout = p->force ? "force" : "cancel",
		.zero_copy = mode_names[p->zero_copy],
		.compress = mode_names[p->compress],
		.compress_level = p->compress_level,
		.delta_memory = (int64_t)p->delta_memory,
		.postcopy = postcopy_when(p->postcopy_when, when, sizeof(when)),
		.copy = p->copy,
		.verify = p->verify,
		.send_ram = p->send_ram,
		.direct_io = p->direct_io,
	};
	code = parse_parameters(args, &w, err);
	if (code < 0)
		return code;
	p->max_bandwidth = (uint64_t)w.max_bandwidth;
	p->max_postcopy_bandwidth = (uint64_t)w.postcopy_bandwidth;
	p->downtime_limit = (uint64_t)w.downtime_limit;
	p->timeout = (uint64_t)w.timeout;
	p->iovecs = (int)w.iovecs;
	p->deadline_ms = (int)w.deadline_ms;
	p->channels = (int)w.channels;
	p->force = strcmp(w.on_timeout, "force") == 0;
	p->zero_copy = parse_mode("", w.zero_copy, NULL);
	p->compress = parse_mode("", w.compress, NULL);
	p->compress_level = (int)w.compress_level;
	p->delta_memory = (uint64_t)w.delta_memory;
	p->postcopy_when = w.postcopy_when;
	p->copy = w.copy;
	p->verify = w.verify;
	p->send_ram = w.send_ram;
	p->direct_io = w.direct_io;
	return 0;
}

static const struct control_command query_command = {
	.name = "query-migrate-parameters",
	.args = "",
	.run = run_query_parameters,
};
CONTROL_COMMAND(query_command);

static const struct control_command set_command = {
	.name = "migrate-set-parameters",
	.args = "max-bandwidth max-postcopy-bandwidth downtime-limit multifd-channels x-timeout "
		"x-on-timeout x-iovecs x-copy x-verify x-send-ram direct-io x-deadline x-zero-copy "
		"x-compress compress-level x-delta-memory x-postcopy",
	.run = run_set_parameters,
};
CONTROL_COMMAND(set_command);
