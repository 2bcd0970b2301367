/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry upgrade: have another ferry go on with a guest, in place of the one that runs it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migration/watch.h"
#include "vmm/command.h"
#include "vmm/options.h"
#include "vmm/serve.h"

#define ANSWER_MS 10000
#define MIB	  1048576.0

struct upgrade_options {
	const char *control, *binary;
	bool json, help;
};

/* The binary as the server finds it, which has a directory of its own; by default what we are. */
static int find_binary(const char *given, char path[PATH_MAX], struct error *err)
{
	if (!realpath(given ? given : "/proc/self/exe", path))
		return error_set(err, -errno, "upgrade", given ? given : "/proc/self/exe", "",
				 "a program", "%m");
	return 0;
}

static int upgrade(const char *control, const char *binary, json_t **info, struct error *err)
{
	struct control_client *client;
	int ret = control_connect(control, ANSWER_MS, &client, err);

	if (ret < 0)
		return ret;
	ret = control_execute(client, "x-upgrade", json_pack("{s:s}", "binary", binary), NULL, err);
	if (ret == 0)
		ret = watch_end(client, false, info, err);
	control_disconnect(client);
	return ret;
}

static double own(const json_t *info, const char *key)
{
	return json_number_value(json_object_get(json_object_get(info, "x-ferry"), key));
}

static void report(const char *binary, const json_t *info)
{
	double given = own(info, "ram-given");
	const json_t *ram = json_object_get(info, "ram");

	printf("%s goes on with the guest, after %.3f ms in all\n", binary,
	       own(info, "total-ns") / 1e6);
	if (given > 0)
		printf("  RAM           %.1f MiB handed over by descriptor\n", given / MIB);
	else
		printf("  RAM           %.1f MiB copied, for it is not --memory-backing shared\n",
		       json_number_value(json_object_get(ram, "total")) / MIB);
	if (own(info, "blackout-ns") > 0)
		printf("  blackout      %.3f ms\n", own(info, "blackout-ns") / 1e6);
}

static int run_upgrade(const struct upgrade_options *o)
{
	struct error err = { 0 };
	char binary[PATH_MAX];
	json_t *info = NULL;
	int ret = find_binary(o->binary, binary, &err);

	watch_block_signals();
	ret = ret < 0 ? ret : upgrade(o->control, binary, &info, &err);
	if (ret < 0)
		error_print(&err);
	if (info && o->json) {
		json_dumpf(info, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (info && ret == 0) {
		report(binary, info);
	}
	json_decref(info);
	return ret < 0 ? STATUS_ERROR : STATUS_OK;
}

static int main_upgrade(int argc, char **argv)
{
	struct upgrade_options o = { 0 };
	const struct option_spec specs[] = {
		{ "binary", "FILE", "the ferry that goes on (default: the one that is asked)",
		  option_set_string, &o.binary },
		{ "json", NULL, "report as query-migrate does", option_set_flag, &o.json },
		{ "help", NULL, "show this", option_set_flag, &o.help },
	};
	const unsigned int n = sizeof(specs) / sizeof(specs[0]);
	struct error err = { 0 };
	unsigned int n_rest;

	if (options_parse(argc, argv, specs, n, &o.control, 1, &n_rest, &err) == 0 && !o.help &&
	    n_rest < 1)
		error_set(&err, -EINVAL, "options", "arguments", "", "CONTROL", "none");
	if (err.code)
		return usage_error("upgrade", &err);
	if (o.help) {
		puts("Usage: ferry upgrade CONTROL [OPTION]…\n");
		options_help(specs, n);
		return STATUS_OK;
	}
	return run_upgrade(&o);
}

static const struct command upgrade_command = {
	.name = "upgrade",
	.synopsis = "CONTROL [OPTION]…",
	.help = "have this ferry, or another, go on with the guest of a running one",
	.run = main_upgrade,
};
COMMAND(upgrade_command);
