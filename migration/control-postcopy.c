/* SPDX-License-Identifier: BSD-2-Clause */
/* Postcopy on the control socket: when to begin, and what to do when a connection breaks. */
#include <errno.h>

#include "migration/postcopy.h"
#include "vmm/control.h"

static int no_migration(struct error *err)
{
	return error_set(err, -EINVAL, "postcopy", "migration", "", "one under way", "none");
}

static int run_start(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)args;
	(void)ret;
	return vm->migration ? postcopy_start_now(vm->migration, err) : no_migration(err);
}

static int run_pause(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)args;
	(void)ret;
	return vm->migration ? postcopy_break(vm->migration, err) : no_migration(err);
}

static int run_recover(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	const char *uri = NULL;
	char bound[256];
	int code = control_arg_string(args, "uri", true, &uri, err);

	if (code < 0)
		return code;
	if (!vm->migration)
		return no_migration(err);
	code = postcopy_recover(vm->migration, uri, bound, err);
	if (code == 0)
		*ret = json_pack("{s:o}", "x-uri", json_text(bound));
	return code;
}

static const struct control_command start_command = {
	.name = "migrate-start-postcopy",
	.args = "",
	.run = run_start,
};
CONTROL_COMMAND(start_command);

static const struct control_command pause_command = {
	.name = "migrate-pause",
	.args = "",
	.run = run_pause,
};
CONTROL_COMMAND(pause_command);

static const struct control_command recover_command = {
	.name = "migrate-recover",
	.args = "uri",
	.run = run_recover,
};
CONTROL_COMMAND(recover_command);
