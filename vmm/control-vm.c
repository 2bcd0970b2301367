/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine on the control socket: commands that ask and steer it, events that tell of it. */
#include <errno.h>
#include <stdatomic.h>
#include <sys/utsname.h>

#include "vmm/control-server.h"
#include "vmm/vcpu.h"

static json_t *reason(bool guest, const char *of_guest, const char *of_host)
{
	return json_pack("{s:b, s:s}", "guest", guest, "reason", guest ? of_guest : of_host);
}

static void on_changed(void *opaque, enum vm_state from, enum vm_state to)
{
	struct control *control = opaque;
	struct vm *vm = control->vm;

	if (from == VM_INMIGRATE && (to == VM_RUNNING || to == VM_PAUSED))
		control_let_in(control, true);
	/* The end of a machine that did not run is told as a change to what it was. */
	if (from == to || to == VM_SHUTDOWN)
		control_event(vm, "SHUTDOWN",
			      reason(!vm->quit, "guest-shutdown",
				     control->quit ? "host-qmp-quit" : "host-signal"));
	else if (to == VM_INTERNAL_ERROR)
		control_event(vm, "GUEST_PANICKED",
			      json_pack("{s:s}", "action", vm->stay ? "pause" : "poweroff"));
	if (from == VM_RUNNING && to != VM_RUNNING)
		control_event(vm, "STOP", NULL);
	if (from != VM_RUNNING && to == VM_RUNNING)
		control_event(vm, "RESUME", NULL);
}

static void on_reset(void *opaque, bool guest)
{
	struct control *control = opaque;

	control_event(control->vm, "RESET", reason(guest, "guest-reset", "host-qmp-system-reset"));
}

static void on_ram(void *opaque, uint64_t bytes)
{
	struct control *control = opaque;

	control_event(control->vm, "BALLOON_CHANGE",
		      json_pack("{s:I}", "actual", (json_int_t)bytes));
}

void control_vm_listen(struct control *control)
{
	control->listener = (struct vm_listener){
		.changed = on_changed, .reset = on_reset, .ram = on_ram, .opaque = control
	};
	vm_listen(control->vm, &control->listener);
}

static int query_status(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	enum vm_state state = vm->state;

	(void)args, (void)err;
	*ret = json_pack("{s:b, s:s}", "running", state == VM_RUNNING, "status",
			 vm_state_name(state));
	return 0;
}

static int stop(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	enum vm_state state = vm->state;

	(void)args, (void)ret;
	if (state == VM_INMIGRATE || state == VM_FINISH_MIGRATE)
		return error_set(err, -EBUSY, "stop", "machine", "", "one that is not moving", "%s",
				 vm_state_name(state));
	return state == VM_RUNNING ? vm_set_state(vm, VM_PAUSED, err) : 0;
}

/* Whether the other side runs the guest is not known: a person decides, and says so. */
static int cont_handed_over(struct vm *vm, bool force, struct error *err)
{
	int ret;

	if (!force)
		return error_set(err, -EBUSY, "cont", "machine", "",
				 "force=true, if it is certain that the guest was lost there",
				 "a guest that was handed over and may run on the other side: "
				 "going on here risks two running copies");
	ret = vm_claim(vm, err);
	if (ret < 0)
		return ret;
	ret = vm_set_state(vm, VM_RUNNING, err);
	if (ret < 0)
		vm_yield(vm);
	return ret;
}

static int cont(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	bool force = false;
	int bad = control_arg_bool(args, "force", false, &force, err);

	(void)ret;
	if (bad)
		return bad;
	switch ((enum vm_state)vm->state) {
	case VM_RUNNING:
		return 0;
	case VM_PRELAUNCH:
	case VM_PAUSED:
		return vm_set_state(vm, VM_RUNNING, err);
	case VM_HANDED_OVER:
		return cont_handed_over(vm, force, err);
	case VM_INMIGRATE:
		return error_set(err, -EBUSY, "cont", "machine", "", "a guest",
				 "none: it has not arrived yet, and runs by itself when it has");
	case VM_FINISH_MIGRATE:
		return error_set(err, -EBUSY, "cont", "machine", "", "one that is not moving",
				 "a migration in its last step");
	case VM_POSTMIGRATE:
		return error_set(err, -EBUSY, "cont", "machine", "", "a guest",
				 "none: it runs on the other side");
	case VM_SHUTDOWN:
	case VM_INTERNAL_ERROR:
	case VM_STATES:
		break;
	}
	return error_set(err, -EINVAL, "cont", "machine", "", "system_reset first",
			 "a guest that has ended");
}

static int quit(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)args, (void)ret, (void)err;
	if (vm->control)
		vm->control->quit = true;
	vm_request(vm, VM_REQUEST_QUIT);
	return 0;
}

static int system_reset(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	enum vm_state state = vm->state;
	int code;

	(void)args, (void)ret;
	if (state == VM_INMIGRATE || state == VM_FINISH_MIGRATE || state == VM_HANDED_OVER ||
	    state == VM_POSTMIGRATE)
		return error_set(err, -EBUSY, "system_reset", "machine", "", "one that is here",
				 "%s", vm_state_name(state));
	code = vm_reset(vm, false, err);
	if (code == 0 && (state == VM_SHUTDOWN || state == VM_INTERNAL_ERROR))
		code = vm_set_state(vm, VM_PAUSED, err);
	return code;
}

static int system_powerdown(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	enum vm_state state = vm->state;
	bool pressed = false;

	(void)args, (void)ret;
	if (state != VM_PRELAUNCH && state != VM_RUNNING && state != VM_PAUSED)
		return error_set(err, -EBUSY, "system_powerdown", "machine", "",
				 "a guest that is here", "%s", vm_state_name(state));
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->press_power) {
			dev->class->press_power(dev);
			pressed = true;
		}
	}
	if (!pressed)
		return error_set(err, -ENOTSUP, "system_powerdown", "machine", "", "a power button",
				 "none; quit ends it");
	control_event(vm, "POWERDOWN", NULL);
	return 0;
}

static int query_version(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)vm, (void)args, (void)err;
	*ret = control_version();
	return 0;
}

static int query_commands(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)vm, (void)args, (void)err;
	*ret = json_pack("[{s:s}]", "name", "qmp_capabilities");
	for_each_control_command (pp)
		json_array_append_new(*ret, json_pack("{s:s}", "name", (*pp)->name));
	return 0;
}

static int query_name(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)args, (void)err;
	if (vm->name)
		*ret = json_pack("{s:o}", "name", json_text(vm->name));
	return 0;
}

static int query_cpus_fast(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct utsname host;

	(void)args, (void)err;
	uname(&host); /* the schema's names of architectures are the kernel's */
	*ret = json_array();
	for (unsigned int i = 0; i < vm->n_vcpus; i++) {
		json_t *path = json_sprintf("/machine/cpu@%u", i);

		json_array_append_new(*ret, json_pack("{s:i, s:o, s:i, s:s}", "cpu-index", i,
						      "qom-path", path, "thread-id",
						      vm->vcpus[i]->tid, "target", host.machine));
	}
	return 0;
}

static int query_memory(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	(void)args, (void)err;
	*ret = json_pack("{s:I}", "base-memory", (json_int_t)vm->memory.size);
	return 0;
}

#define VM_COMMAND(id, string, arguments, function)                     \
	static const struct control_command id = { .name = (string),    \
						   .args = (arguments), \
						   .run = (function) }; \
	CONTROL_COMMAND(id)

VM_COMMAND(cmd_query_status, "query-status", "", query_status);
VM_COMMAND(cmd_stop, "stop", "", stop);
VM_COMMAND(cmd_cont, "cont", "force", cont);
VM_COMMAND(cmd_quit, "quit", "", quit);
VM_COMMAND(cmd_system_reset, "system_reset", "", system_reset);
VM_COMMAND(cmd_system_powerdown, "system_powerdown", "", system_powerdown);
VM_COMMAND(cmd_query_version, "query-version", "", query_version);
VM_COMMAND(cmd_query_commands, "query-commands", "", query_commands);
VM_COMMAND(cmd_query_name, "query-name", "", query_name);
VM_COMMAND(cmd_query_cpus_fast, "query-cpus-fast", "", query_cpus_fast);
VM_COMMAND(cmd_query_memory, "query-memory-size-summary", "", query_memory);
