/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry status: what a running ferry is doing, in plain words or as JSON. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/cmd-ctl.h"
#include "vmm/command.h"
#include "vmm/control.h"
#include "vmm/options.h"
#include "vmm/serve.h"

static const struct {
	const char *state, *words;
} states[] = {
	{ "prelaunch", "has not started yet" },
	{ "inmigrate", "waits for a guest to arrive" },
	{ "running", "is running" },
	{ "paused", "is paused" },
	{ "finish-migrate", "is paused for the last step of a migration" },
	{ "handed-over", "was handed over, but whether it arrived is not known: look there, then "
			 "'quit' here, or 'cont force=true' if it was lost" },
	{ "postmigrate", "has left and runs on the other side" },
	{ "shutdown", "has ended" },
	{ "internal-error", "has crashed" },
};

static const char *in_words(const char *state)
{
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		if (!strcmp(states[i].state, state))
			return states[i].words;
	}
	return state;
}

static double number(const json_t *json, const char *key)
{
	return json_number_value(json_object_get(json, key));
}

static double mib(const json_t *json, const char *key)
{
	return number(json, key) / (1 << 20);
}

static const char *string(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

static void print_migration(const json_t *info)
{
	/* Without disks that are mirrored all figures of them are 0. */
	const json_t *ram = json_object_get(info, "ram"), *disk = json_object_get(info, "disk");
	const char *status = string(info, "status"), *why = string(info, "error-desc");

	if (!*status || !strcmp(status, "none"))
		return;
	printf("migration: %s", status);
	if (number(ram, "total") > 0)
		printf(", %.0f of %.0f MiB left to send, %.1f MiB sent in %.0f round(s), "
		       "%.0f MiB/s",
		       mib(ram, "remaining") + mib(disk, "remaining"),
		       mib(ram, "total") + mib(disk, "total"),
		       mib(ram, "transferred") + mib(disk, "transferred"),
		       number(ram, "dirty-sync-count"), number(ram, "mbps") * 1e6 / 8 / (1 << 20));
	if (json_object_get(info, "total-time"))
		printf(", %.1f s", number(info, "total-time") / 1000);
	if (json_object_get(info, "downtime"))
		printf(", the guest stood still for %.0f ms", number(info, "downtime"));
	printf("\n");
	if (*why)
		printf("           %s\n", why);
}

static void print_words(const json_t *all)
{
	const char *name = string(json_object_get(all, "name"), "name");
	size_t cpus = json_array_size(json_object_get(all, "cpus"));

	printf("guest:     %s%s%s\n", name, *name ? " " : "",
	       in_words(string(json_object_get(all, "status"), "status")));
	if (cpus) {
		printf("vCPUs:     %zu\n", cpus);
		printf("memory:    %.6g MiB\n", mib(json_object_get(all, "memory"), "base-memory"));
	}
	print_migration(json_object_get(all, "migration"));
}

/* Ask all there is to know into one object. */
static int ask(const char *path, int timeout_ms, json_t *all, struct error *err)
{
	static const struct {
		const char *key, *command;
	} questions[] = {
		{ "status", "query-status" },	  { "name", "query-name" },
		{ "cpus", "query-cpus-fast" },	  { "memory", "query-memory-size-summary" },
		{ "migration", "query-migrate" },
	};
	struct control_client *client;
	int ret = control_connect(path, timeout_ms, &client, err);

	for (size_t i = 0; ret == 0 && i < sizeof(questions) / sizeof(questions[0]); i++) {
		struct error refused = { 0 };
		json_t *answer;

		ret = control_execute(client, questions[i].command, NULL, &answer, &refused);
		if (ret == 0)
			json_object_set_new(all, questions[i].key, answer);
		else if (ret == -EREMOTEIO) /* another version does not know that: leave it out */
			ret = 0;
		else
			*err = refused;
	}
	control_disconnect(client);
	return ret;
}

static int run_status(int argc, char **argv)
{
	bool as_json = false, help = false;
	uint64_t timeout = CTL_TIMEOUT_MS;
	const struct option_spec specs[] = {
		{ "json", NULL, "print JSON, as the QMP queries return it", option_set_flag,
		  &as_json },
		{ "timeout", "S", "how long an answer may take (default 30)", ctl_set_seconds,
		  &timeout },
		{ "help", NULL, "show this", option_set_flag, &help },
	};
	const char *path;
	unsigned int n = 0;
	struct error err = { 0 };
	json_t *all;
	int ret;

	if (options_parse(argc, argv, specs, 3, &path, 1, &n, &err) < 0)
		return usage_error("status", &err);
	if (help) {
		printf("Usage: ferry status CONTROL [OPTION]…\n\n");
		options_help(specs, 3);
		return STATUS_OK;
	}
	if (!n) {
		error_set(&err, -EINVAL, "options", "arguments", "", "CONTROL", "nothing");
		return usage_error("status", &err);
	}
	all = json_object();
	ret = ask(path, (int)timeout, all, &err);
	if (ret < 0) {
		error_print(&err);
	} else if (as_json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		print_words(all);
	}
	json_decref(all);
	return ret < 0 ? STATUS_ERROR : STATUS_OK;
}

static const struct command status_command = {
	.name = "status",
	.synopsis = "CONTROL [--json]",
	.help = "say what a running ferry is doing",
	.run = run_status,
};
COMMAND(status_command);
