/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ferry upgrade, at the side of the machine: start another ferry as our heir and move the guest
 * into it. It is a migration like any other, over a pair of sockets, on which what devices have
 * open goes along (hand-over.c); until COMMIT every failure leaves the guest here.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "migration/source.h"
#include "vmm/command.h"
#include "vmm/control.h"
#include "vmm/successor.h"

/* It ended without a word, or had to be ended: say how, rather than what was waited for. */
static void explain(const struct successor *s, struct error *err)
{
	int status = s->status, code = err->code;

	if (!s->ended || (code != -ENODATA && code != -ECONNRESET && code != -EPIPE))
		return;
	error_clear(err);
	if (WIFEXITED(status))
		error_set(err, code, "upgrade", "new ferry", "", "one that takes the guest",
			  "one that ended with status %d", WEXITSTATUS(status));
	else
		error_set(err, code, "upgrade", "new ferry", "", "one that takes the guest",
			  "one that ended by signal %d", WTERMSIG(status));
}

static int upgrade_run(struct migration *m, struct error *err)
{
	int ret = source_run(m, err);

	if (ret < 0)
		explain(m->vm->successor, err);
	return ret;
}

static void upgrade_ended(struct migration *m, int ret)
{
	struct vm *vm = m->vm;

	memory_give_up(&vm->memory);
	if (ret < 0) {
		vm->handing_on = false;
		error_print(&m->error);
		/* When it was handed over nobody knows whether it runs there: let it live. */
		vm->successor->has_guest = m->handed_over;
		successor_abandon(vm);
		return;
	}
	successor_inherits(vm);
	vm->exit_status = STATUS_OK;
	loop_stop(vm->loop);
}

static int start(struct vm *vm, struct migration *m, const char *binary, struct error *err)
{
	char uri[32];
	int stream, ret = successor_start(vm, binary, &stream, err);

	if (ret < 0)
		return ret;
	snprintf(uri, sizeof(uri), "fd:%d", stream);
	vm->handing_on = true;
	ret = migration_start(m, uri, false, upgrade_run, upgrade_ended, err);
	if (ret < 0) {
		vm->handing_on = false;
		close(stream);
		successor_abandon(vm);
	}
	return ret;
}

static int run_upgrade(struct vm *vm, json_t *args, json_t **out, struct error *err)
{
	struct migration *m = migration_get(vm);
	enum vm_state state = vm->state;
	const char *binary = NULL;
	int ret = control_arg_string(args, "binary", true, &binary, err);

	(void)out;
	if (ret < 0)
		return ret;
	if (!m)
		return error_set(err, -ENOMEM, "upgrade", binary, "", "memory", "none");
	if (migration_is_active(m))
		return error_set(err, -EBUSY, "upgrade", "guest", "", "no migration under way",
				 "one that is %s", migration_status_name(m->status));
	if (!vm->tree || (state != VM_RUNNING && state != VM_PAUSED && state != VM_PRELAUNCH))
		return error_set(err, -EINVAL, "upgrade", "guest", "", "one that runs or is paused",
				 "%s", vm_state_name(state));
	m->params.mirror = false;
	m->params.multifd = false; /* there is one connection */
	return start(vm, m, binary, err);
}

static const struct control_command cmd_upgrade = { .name = "x-upgrade",
						    .args = "binary",
						    .run = run_upgrade };
CONTROL_COMMAND(cmd_upgrade);
