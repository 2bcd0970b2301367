/* SPDX-License-Identifier: BSD-2-Clause */
/* How much of its RAM a guest has for itself, on the control socket: balloon, query-balloon. */
#include <errno.h>

#include "vmm/control.h"
#include "vmm/vm.h"

static struct device *find(struct vm *vm, const char *command, struct error *err)
{
	struct device *dev = vm_ram_device(vm);

	if (!dev)
		error_set(err, -ENODEV, command, "machine", "", "a balloon (--balloon)", "none");
	return dev;
}

/* Else its state may have been sent, and must not change any more. */
static bool is_here(enum vm_state state)
{
	return state != VM_INMIGRATE && state != VM_FINISH_MIGRATE && state != VM_HANDED_OVER &&
	       state != VM_POSTMIGRATE;
}

static int balloon(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct device *dev = find(vm, "balloon", err);
	int64_t value = 0;
	int code;

	(void)ret;
	if (!dev)
		return -ENODEV;
	if (!is_here(vm->state))
		return error_set(err, -EBUSY, "balloon", "machine", "", "one that is here", "%s",
				 vm_state_name(vm->state));
	code = control_arg_int(args, "value", true, 1, INT64_MAX, &value, err);
	if (code < 0)
		return code;
	if ((uint64_t)value > vm->memory.size)
		value = (int64_t)vm->memory.size;
	dev->class->ram->resize(dev, (uint64_t)value);
	return 0;
}

static void put_stat(void *opaque, const char *name, uint64_t value)
{
	json_object_set_new(opaque, name, json_integer((json_int_t)value));
}

static int query_balloon(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct device *dev = find(vm, "query-balloon", err);
	json_t *stats;

	(void)args;
	if (!dev)
		return -ENODEV;
	*ret = json_pack("{s:I}", "actual", (json_int_t)dev->class->ram->size(dev));
	if (!dev->class->ram->stats)
		return 0;
	stats = json_object();
	dev->class->ram->stats(dev, put_stat, stats);
	json_object_set_new(*ret, "x-stats", stats);
	return 0;
}

static const struct control_command cmd_balloon = {
	.name = "balloon",
	.args = "value",
	.run = balloon,
};
CONTROL_COMMAND(cmd_balloon);

static const struct control_command cmd_query_balloon = {
	.name = "query-balloon",
	.args = "",
	.run = query_balloon,
};
CONTROL_COMMAND(cmd_query_balloon);
