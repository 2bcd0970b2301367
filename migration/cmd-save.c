/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry save: keep a running machine in a file; it goes on afterwards, or meanwhile. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "migration/migration.h"
#include "migration/watch.h"
#include "vmm/command.h"
#include "vmm/options.h"
#include "vmm/serve.h"

#define ANSWER_MS 10000

struct save_options {
	const char *rest[2]; /* CONTROL, FILE */
	uint64_t threads;    /* 0: not given */
	bool live, direct, stream, report, help;
};

static int set_threads(void *opaque, const char *value, struct error *err)
{
	struct save_options *o = opaque;

	return parse_uint(value, 1, CHANNELS_MAX, &o->threads, err);
}

static int set_capabilities(struct control_client *client, json_t *list, struct error *err)
{
	return control_execute(client, "migrate-set-capabilities",
			       json_pack("{s:o}", "capabilities", list), NULL, err);
}

static json_t *capability(const char *name, bool state)
{
	return json_pack("{s:s, s:b}", "capability", name, "state", (int)state);
}

/* Set what the options ask for; none of it is to outlive the save. */
static int configure(struct control_client *client, const struct save_options *o, struct error *err)
{
	json_t *list = json_array(), *parameters = json_pack("{s:b}", "direct-io", (int)o->direct);
	int ret;

	json_array_append_new(list, capability("mapped-ram", !o->stream));
	json_array_append_new(list, capability("background-snapshot", o->live));
	json_array_append_new(list, capability("multifd", o->threads > 0));
	if (o->threads)
		json_object_set_new(parameters, "multifd-channels",
				    json_integer((json_int_t)o->threads));
	ret = set_capabilities(client, list, err);
	if (ret < 0)
		json_decref(parameters);
	else
		ret = control_execute(client, "migrate-set-parameters", parameters, NULL, err);
	return ret;
}

static int save_to(struct control_client *client, const struct save_options *o, const char *uri,
		   struct error *err)
{
	json_t *capabilities = NULL, *parameters = NULL, *info = NULL;
	int ret;

	ret = control_execute(client, "query-migrate-capabilities", NULL, &capabilities, err);
	ret = ret < 0 ? ret
		      : control_execute(client, "query-migrate-parameters", NULL, &parameters, err);
	ret = ret < 0 ? ret : configure(client, o, err);
	if (ret == 0) {
		watch_block_signals();
		ret = watch_migration(client, uri, false, isatty(STDERR_FILENO), &info, err);
	}
	if (info && o->report)
		watch_report(stdout, info);
	/* As they were; a client that is gone by then says so itself. */
	if (parameters) {
		set_capabilities(client, json_incref(capabilities), NULL);
		control_execute(client, "migrate-set-parameters", json_incref(parameters), NULL,
				NULL);
	}
	json_decref(capabilities);
	json_decref(parameters);
	json_decref(info);
	return ret;
}

static int save(const struct save_options *o, struct error *err)
{
	struct control_client *client;
	const char *file = o->rest[1];
	char uri[256], given[256];
	int ret;

	if (snprintf(given, sizeof(given), "file:%s", file) >= (int)sizeof(given))
		return error_set(err, -ENAMETOOLONG, "save", file, "", "a shorter path", "%s", "");
	ret = watch_absolute(given, uri, sizeof(uri), err);
	ret = ret < 0 ? ret : control_connect(o->rest[0], ANSWER_MS, &client, err);
	if (ret < 0)
		return ret;
	ret = save_to(client, o, uri, err);
	control_disconnect(client);
	return ret;
}

static int main_save(int argc, char **argv)
{
	struct save_options o = { 0 };
	const struct option_spec specs[] = {
		{ "live", NULL, "let the guest run meanwhile; what is saved is one moment of it",
		  option_set_flag, &o.live },
		{ "threads", "N", "write with so many (1 to 64; as many as CPUs, up to 4)",
		  set_threads, &o },
		{ "direct", NULL, "past the page cache (O_DIRECT)", option_set_flag, &o.direct },
		{ "stream", NULL, "RAM as a stream, as builds before had it", option_set_flag,
		  &o.stream },
		{ "report", NULL, "say what it cost", option_set_flag, &o.report },
		{ "help", NULL, "show this", option_set_flag, &o.help },
	};
	const unsigned int n = sizeof(specs) / sizeof(specs[0]);
	struct error err = { 0 };
	unsigned int n_rest;

	if (options_parse(argc, argv, specs, n, o.rest, 2, &n_rest, &err) == 0 && !o.help &&
	    n_rest < 2)
		error_set(&err, -EINVAL, "options", "arguments", "", "CONTROL and FILE",
			  "%u of them", n_rest);
	if (err.code)
		return usage_error("save", &err);
	if (o.help) {
		puts("Usage: ferry save CONTROL FILE [OPTION]…\n");
		options_help(specs, n);
		return STATUS_OK;
	}
	if (save(&o, &err) == 0)
		return STATUS_OK;
	error_print(&err);
	return STATUS_ERROR;
}

static const struct command save_command = {
	.name = "save",
	.synopsis = "CONTROL FILE [OPTION]…",
	.help = "save the machine behind control socket CONTROL; it goes on",
	.run = main_save,
};
COMMAND(save_command);
