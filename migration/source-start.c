/* SPDX-License-Identifier: BSD-2-Clause */
/* Who may leave, and where to; and what becomes of the process in the end. */
#include <errno.h>
#include <string.h>

#include "migration/multifd.h"
#include "migration/postcopy.h"
#include "migration/source.h"
#include "vmm/command.h"

void source_ended(struct migration *m, int ret)
{
	memory_give_up(&m->vm->memory);
	if (ret < 0) {
		error_print(&m->error);
	} else if (!m->file && !m->vm->stay) {
		m->vm->exit_status = STATUS_OK;
		loop_stop(m->vm->loop);
	}
}

static bool has_a_guest(enum vm_state state)
{
	return state == VM_RUNNING || state == VM_PAUSED || state == VM_PRELAUNCH;
}

int source_start(struct vm *vm, const char *uri, struct error *err)
{
	struct migration *m = migration_get(vm);
	bool file = strncmp(uri, "file:", 5) == 0;
	int ret;

	if (!m)
		return error_set(err, -ENOMEM, "migrate", uri, "", "memory", "none");
	if (!migration_is_active(m) && (!has_a_guest(vm->state) || !vm->tree))
		return error_set(err, -EINVAL, "migrate", "guest", "", "one that runs or is paused",
				 "%s", vm_state_name(vm->state));
	ret = snapshot_check(m, uri, err);
	if (ret < 0)
		return ret;
	if (!file && (multifd_wanted(m) || m->params.postcopy) && !channel_is_many(uri))
		return error_set(err, -EINVAL, "migrate", uri, "channels",
				 "tcp or unix, for several connections", "one connection");
	return migration_start(m, uri, false, file ? snapshot_run : source_run, source_ended, err);
}
