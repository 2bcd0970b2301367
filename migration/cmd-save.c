/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry save: keep a running machine in a file; it goes on afterwards. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "migration/watch.h"
#include "vmm/command.h"
#include "vmm/options.h"
#include "vmm/serve.h"

#define ANSWER_MS 10000

static int save(const char *control, const char *file, struct error *err)
{
	struct control_client *client;
	char uri[256], given[256];
	json_t *info = NULL;
	int ret;

	if (snprintf(given, sizeof(given), "file:%s", file) >= (int)sizeof(given))
		return error_set(err, -ENAMETOOLONG, "save", file, "", "a shorter path", "%s", "");
	ret = watch_absolute(given, uri, sizeof(uri), err);
	ret = ret < 0 ? ret : control_connect(control, ANSWER_MS, &client, err);
	if (ret < 0)
		return ret;
	watch_block_signals();
	ret = watch_migration(client, uri, false, isatty(STDERR_FILENO), &info, err);
	control_disconnect(client);
	json_decref(info);
	return ret;
}

static int main_save(int argc, char **argv)
{
	bool help = false;
	const struct option_spec specs[] = {
		{ "help", NULL, "show this", option_set_flag, &help },
	};
	struct error err = { 0 };
	const char *rest[2];
	unsigned int n_rest;

	if (options_parse(argc, argv, specs, 1, rest, 2, &n_rest, &err) == 0 && !help && n_rest < 2)
		error_set(&err, -EINVAL, "options", "arguments", "", "CONTROL and FILE",
			  "%u of them", n_rest);
	if (err.code)
		return usage_error("save", &err);
	if (help) {
		puts("Usage: ferry save CONTROL FILE");
		return STATUS_OK;
	}
	if (save(rest[0], rest[1], &err) == 0)
		return STATUS_OK;
	error_print(&err);
	return STATUS_ERROR;
}

static const struct command save_command = {
	.name = "save",
	.synopsis = "CONTROL FILE",
	.help = "save the machine behind control socket CONTROL; it goes on",
	.run = main_save,
};
COMMAND(save_command);
