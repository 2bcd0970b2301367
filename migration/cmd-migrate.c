/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry migrate: tell a running machine to move, watch it go, report. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "migration/compress.h"
#include "migration/postcopy.h"
#include "migration/watch.h"
#include "vmm/command.h"
#include "vmm/options.h"
#include "vmm/serve.h"

#define ANSWER_MS 10000

struct migrate_options {
	const char *rest[2];  /* CONTROL, URI */
	json_t *parameters;   /* of migrate-set-parameters */
	uint64_t channels;    /* 0: not given */
	const char *converge; /* "auto" or "off", NULL: not given */
	bool postcopy, resume;
	bool mirror, no_progress, json, help;
};

static int set_number(struct migrate_options *o, const char *name, const char *value, uint64_t max,
		      struct error *err)
{
	uint64_t n;
	int ret = parse_uint(value, 0, max, &n, err);

	if (ret == 0)
		json_object_set_new(o->parameters, name, json_integer((json_int_t)n));
	return ret;
}

static int set_downtime(void *opaque, const char *value, struct error *err)
{
	return set_number(opaque, "downtime-limit", value, 2000000, err);
}

static int set_timeout(void *opaque, const char *value, struct error *err)
{
	return set_number(opaque, "x-timeout", value, 1000000, err);
}

static int set_iovecs(void *opaque, const char *value, struct error *err)
{
	return set_number(opaque, "x-iovecs", value, 1024, err);
}

static int set_size(struct migrate_options *o, const char *name, const char *value,
		    struct error *err)
{
	uint64_t bytes;
	int ret = parse_size(value, 1, &bytes, err);

	if (ret == 0)
		json_object_set_new(o->parameters, name, json_integer((json_int_t)bytes));
	return ret;
}

/* "100M" or "100M/s"; a bare number is bytes a second. */
static int set_bandwidth(void *opaque, const char *value, struct error *err)
{
	size_t len = strlen(value);
	char size[64];

	if (len > 2 && strcmp(value + len - 2, "/s") == 0)
		len -= 2;
	snprintf(size, sizeof(size), "%.*s", (int)len, value);
	return set_size(opaque, "max-bandwidth", size, err);
}

static int set_channels(void *opaque, const char *value, struct error *err)
{
	struct migrate_options *o = opaque;
	int ret = parse_uint(value, 1, CHANNELS_MAX, &o->channels, err);

	if (ret == 0)
		json_object_set_new(o->parameters, "multifd-channels",
				    json_integer((json_int_t)o->channels));
	return ret;
}

static int set_postcopy(void *opaque, const char *value, struct error *err)
{
	struct migrate_options *o = opaque;
	int when, ret = postcopy_parse_when(value, &when, err);

	if (ret == 0)
		json_object_set_new(o->parameters, "x-postcopy", json_string(value));
	o->postcopy = true;
	return ret;
}

static int set_on_timeout(void *opaque, const char *value, struct error *err)
{
	struct migrate_options *o = opaque;

	if (strcmp(value, "cancel") != 0 && strcmp(value, "force") != 0)
		return error_set(err, -EINVAL, "options", "--on-timeout", "", "cancel or force",
				 "%s", value);
	json_object_set_new(o->parameters, "x-on-timeout", json_string(value));
	return 0;
}

static int set_converge(void *opaque, const char *value, struct error *err)
{
	struct migrate_options *o = opaque;

	if (strcmp(value, "auto") != 0 && strcmp(value, "off") != 0)
		return error_set(err, -EINVAL, "options", "--converge", "", "auto or off", "%s",
				 value);
	o->converge = value;
	return 0;
}

static int set_mode(struct migrate_options *o, const char *option, const char *name,
		    const char *value, struct error *err)
{
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0 && strcmp(value, "auto") != 0)
		return error_set(err, -EINVAL, "options", option, "", "on, off or auto", "%s",
				 value);
	json_object_set_new(o->parameters, name, json_string(value));
	return 0;
}

static int set_zero_copy(void *opaque, const char *value, struct error *err)
{
	return set_mode(opaque, "--zero-copy", "x-zero-copy", value, err);
}

static int set_compress(void *opaque, const char *value, struct error *err)
{
	return set_mode(opaque, "--compress", "x-compress", value, err);
}

static int set_compress_level(void *opaque, const char *value, struct error *err)
{
	return set_number(opaque, "compress-level", value, COMPRESS_LEVEL_MAX, err);
}

static int set_delta_memory(void *opaque, const char *value, struct error *err)
{
	return set_size(opaque, "x-delta-memory", value, err);
}

static int set_true(struct migrate_options *o, const char *name)
{
	json_object_set_new(o->parameters, name, json_true());
	return 0;
}

static int set_copy(void *opaque, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	return set_true(opaque, "x-copy");
}

static int set_send_ram(void *opaque, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	return set_true(opaque, "x-send-ram");
}

static int set_verify(void *opaque, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	return set_true(opaque, "x-verify");
}

static int set_capability(struct control_client *client, const char *name, bool state,
			  struct error *err)
{
	return control_execute(client, "migrate-set-capabilities",
			       json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name,
					 "state", (int)state),
			       NULL, err);
}

/* What --converge auto may do: slow the guest down, and let it go before its memory, where that is
 * possible and nobody has said when. */
static int set_converging(struct control_client *client, const struct migrate_options *o,
			  struct error *err)
{
	bool on = strcmp(o->converge, "auto") == 0;
	int ret = set_capability(client, "auto-converge", on, err);

	if (ret < 0 || o->postcopy)
		return ret;
	on = on && o->channels <= 1 && !o->mirror && channel_is_many(o->rest[1]);
	if (on)
		ret = control_execute(client, "migrate-set-parameters",
				      json_pack("{s:s}", "x-postcopy", "auto"), NULL, err);
	return ret < 0 ? ret : set_capability(client, "postcopy-ram", on, err);
}

static int migrate(const struct migrate_options *o, const char *uri, json_t **info,
		   struct error *err)
{
	bool progress = !o->no_progress && isatty(STDERR_FILENO);
	struct control_client *client;
	int ret = control_connect(o->rest[0], ANSWER_MS, &client, err);

	if (ret < 0)
		return ret;
	if (json_object_size(o->parameters))
		ret = control_execute(client, "migrate-set-parameters", json_incref(o->parameters),
				      NULL, err);
	if (ret == 0 && o->channels)
		ret = set_capability(client, "multifd", o->channels > 1, err);
	if (ret == 0 && o->converge)
		ret = set_converging(client, o, err);
	if (ret == 0 && o->postcopy)
		ret = set_capability(client, "postcopy-ram", true, err);
	if (ret == 0 && o->resume) {
		ret = control_execute(client, "migrate",
				      json_pack("{s:s, s:b}", "uri", uri, "resume", 1), NULL, err);
		ret = ret < 0 ? ret : watch_end(client, progress, info, err);
	} else if (ret == 0) {
		ret = watch_migration(client, uri, o->mirror, progress, info, err);
	}
	control_disconnect(client);
	return ret;
}

static int run_migrate(const struct migrate_options *o)
{
	struct error err = { 0 };
	json_t *info = NULL;
	char uri[256];
	int ret = watch_absolute(o->rest[1], uri, sizeof(uri), &err);

	watch_block_signals();
	ret = ret < 0 ? ret : migrate(o, uri, &info, &err);
	if (ret < 0)
		error_print(&err);
	if (info && o->json) {
		json_dumpf(info, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (info && ret == 0) {
		watch_report(stdout, info);
	}
	json_decref(info);
	return ret < 0 ? STATUS_ERROR : STATUS_OK;
}

static int main_migrate(int argc, char **argv)
{
	struct migrate_options o = { .parameters = json_object() };
	const struct option_spec specs[] = {
		{ "downtime-limit", "MS", "how long the guest may stand still (300)", set_downtime,
		  &o },
		{ "max-bandwidth", "SIZE/s", "while the guest runs; no limit by default",
		  set_bandwidth, &o },
		{ "channels", "N", "connections that RAM goes over, 1 to 64 (tcp, unix)",
		  set_channels, &o },
		{ "postcopy", "ROUNDS|auto",
		  "let the guest go before its memory, after so many rounds (0: at once), or when "
		  "rounds do not converge",
		  set_postcopy, &o },
		{ "resume", NULL, "go on with a postcopy that is paused, to URI", option_set_flag,
		  &o.resume },
		{ "zero-copy", "on|off|auto", "let the kernel send RAM without copying it (off)",
		  set_zero_copy, &o },
		{ "compress", "on|off|auto",
		  "send RAM compressed; auto: only where that is faster (off)", set_compress, &o },
		{ "compress-level", "N", "of zstd, 1 to 19 (1)", set_compress_level, &o },
		{ "delta-memory", "SIZE",
		  "for copies of compressed pages, so that only differences go again (128M); 0: "
		  "none",
		  set_delta_memory, &o },
		{ "timeout", "S", "of the whole migration", set_timeout, &o },
		{ "converge", "auto|off",
		  "slow a guest down that is too fast, or let it go before its memory (off)",
		  set_converge, &o },
		{ "on-timeout", "cancel|force", "give up then, or stop the guest and finish",
		  set_on_timeout, &o },
		{ "mirror-disks", NULL, "copy the disks, too, to those that the destination has",
		  option_set_flag, &o.mirror },
		{ "no-progress", NULL, "show nothing on the way", option_set_flag, &o.no_progress },
		{ "json", NULL, "report as query-migrate does", option_set_flag, &o.json },
		{ "verify", NULL,
		  "compare checksums of all RAM and of mirrored disks (a longer blackout)",
		  set_verify, &o },
		{ "send-ram", NULL, "send RAM also where it could be handed over by descriptor",
		  set_send_ram, &o },
		{ "iovecs", "N", "pieces of one system call at most (1024), to compare", set_iovecs,
		  &o },
		{ "copy", NULL, "copy guest memory before sending, to compare", set_copy, &o },
		{ "help", NULL, "show this", option_set_flag, &o.help },
	};
	const unsigned int n = sizeof(specs) / sizeof(specs[0]);
	struct error err = { 0 };
	unsigned int n_rest;
	int status = STATUS_OK;

	if (options_parse(argc, argv, specs, n, o.rest, 2, &n_rest, &err) == 0 && !o.help &&
	    n_rest < 2)
		error_set(&err, -EINVAL, "options", "arguments", "", "CONTROL and URI",
			  "%u of them", n_rest);
	if (err.code) {
		status = usage_error("migrate", &err);
	} else if (o.help) {
		puts("Usage: ferry migrate CONTROL URI [OPTION]…\n");
		options_help(specs, n);
	} else {
		status = run_migrate(&o);
	}
	json_decref(o.parameters);
	return status;
}

static const struct command migrate_command = {
	.name = "migrate",
	.synopsis = "CONTROL URI [OPTION]…",
	.help = "move the machine behind control socket CONTROL to URI",
	.run = main_migrate,
};
COMMAND(migrate_command);
