/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry ctl: one QMP command to a running ferry, by hand or from a script. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cmd-ctl.h"
#include "vmm/command.h"
#include "vmm/control.h"
#include "vmm/options.h"
#include "vmm/serve.h"

#define MAX_WORDS 64

int ctl_set_seconds(void *opaque, const char *value, struct error *err)
{
	uint64_t seconds;
	int ret = parse_uint(value, 1, 86400, &seconds, err);

	if (ret == 0)
		*(uint64_t *)opaque = seconds * 1000;
	return ret;
}

int ctl_parse_args(const char *const *words, unsigned int n, json_t **out, struct error *err)
{
	json_t *args = json_object();

	*out = NULL;
	for (unsigned int i = 0; i < n; i++) {
		const char *value = strchr(words[i], '=');
		json_t *json;

		if (!value || value == words[i]) {
			json_decref(args);
			return error_set(err, -EINVAL, "options", "arguments", "", "key=value",
					 "'%s'", words[i]);
		}
		json = json_loads(value + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
		if (!json)
			json = json_string(value + 1);
		if (json_object_setn_new(args, words[i], (size_t)(value - words[i]), json) < 0) {
			json_decref(args);
			return error_set(err, -EINVAL, "options", "arguments", "", "UTF-8", "'%s'",
					 words[i]);
		}
	}
	*out = args;
	return 0;
}

static int execute(const char *path, const char *name, json_t *args, int timeout_ms,
		   struct error *err)
{
	struct control_client *client;
	json_t *ret;
	int code = control_connect(path, timeout_ms, &client, err);

	if (code < 0) {
		json_decref(args);
		return code;
	}
	code = control_execute(client, name, args, &ret, err);
	if (code == 0) {
		json_dumpf(ret, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
		printf("\n");
		json_decref(ret);
	}
	control_disconnect(client);
	return code;
}

static int run_ctl(int argc, char **argv)
{
	bool help = false;
	uint64_t timeout = CTL_TIMEOUT_MS;
	const struct option_spec specs[] = {
		{ "timeout", "S", "how long the answer may take (default 30)", ctl_set_seconds,
		  &timeout },
		{ "help", NULL, "show this", option_set_flag, &help },
	};
	const char *words[MAX_WORDS];
	unsigned int n = 0;
	struct error err = { 0 };
	json_t *args;

	if (options_parse(argc, argv, specs, 2, words, MAX_WORDS, &n, &err) < 0)
		return usage_error("ctl", &err);
	if (help) {
		printf("Usage: ferry ctl CONTROL COMMAND [key=value]…\n\n"
		       "Run a QMP command (query-commands lists them) and print what it returns.\n"
		       "A value is JSON if it can be read as such, else a string.\n\n");
		options_help(specs, 2);
		return STATUS_OK;
	}
	if (n < 2)
		error_set(&err, -EINVAL, "options", "arguments", "", "CONTROL and COMMAND",
			  n ? "CONTROL only" : "nothing");
	if (n < 2 || ctl_parse_args(words + 2, n - 2, &args, &err) < 0)
		return usage_error("ctl", &err);
	if (execute(words[0], words[1], args, (int)timeout, &err) == 0)
		return STATUS_OK;
	error_print(&err);
	return STATUS_ERROR;
}

static const struct command ctl_command = {
	.name = "ctl",
	.synopsis = "CONTROL COMMAND [key=value]…",
	.help = "run one QMP command of a running ferry",
	.run = run_ctl,
};
COMMAND(ctl_command);
