/* SPDX-License-Identifier: BSD-2-Clause */
/* Serving a machine until it ends: common options, signals, control socket. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "vmm/command.h"
#include "vmm/control.h"
#include "vmm/serve.h"
#include "vmm/successor.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

static int set_choice(const char **to, const char *value, const char *a, const char *b,
		      const char *name, struct error *err)
{
	if (strcmp(value, a) != 0 && strcmp(value, b) != 0) {
		error_set(err, -EINVAL, "options", name, "", "", "%s", value);
		error_expected(err, "%s or %s", a, b);
		return -EINVAL;
	}
	*to = value;
	return 0;
}

static int set_on_reboot(void *opaque, const char *value, struct error *err)
{
	return set_choice(opaque, value, "reset", "exit", "--on-reboot", err);
}

static int set_on_crash(void *opaque, const char *value, struct error *err)
{
	return set_choice(opaque, value, "exit", "reset", "--on-crash", err);
}

static int set_dirty(void *opaque, const char *value, struct error *err)
{
	struct serve_options *serve = opaque;

	for (int i = DIRTY_AUTO; i <= DIRTY_RING; i++) {
		serve->dirty = (enum dirty_tracking)i;
		if (strcmp(value, dirty_tracking_name(serve->dirty)) == 0)
			return 0;
	}
	return error_set(err, -EINVAL, "options", "--dirty", "", "ring, bitmap or auto", "%s",
			 value);
}

static int set_device(void *opaque, const char *value, struct error *err)
{
	struct device_option_ref *ref = opaque;
	struct device_args *devices = &ref->serve->devices;

	if (devices->n == MAX_DEVICE_ARGS)
		return error_set(err, -E2BIG, "options", ref->option->name, "",
				 "at most 64 devices", "more");
	devices->args[devices->n].option = ref->option;
	devices->args[devices->n++].value = value;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct device_option_ref *)a)->option->name,
		      ((const struct device_option_ref *)b)->option->name);
}

unsigned int serve_specs(struct serve_options *serve, struct option_spec *specs)
{
	const struct option_spec own[] = {
		{ "control", "PATH", "serve QMP on this unix socket", option_set_string,
		  &serve->control },
		{ "on-reboot", "reset|exit", "what a reset by the guest does (default reset)",
		  set_on_reboot, &serve->on_reboot },
		{ "on-crash", "exit|reset", "what a crash of the guest does (default exit)",
		  set_on_crash, &serve->on_crash },
		{ "dirty", "ring|bitmap|auto", "how KVM logs what the guest writes (default auto)",
		  set_dirty, serve },
		{ "stay", NULL, "keep the process when the guest has ended or left",
		  option_set_flag, &serve->stay },
	};
	unsigned int n = sizeof(own) / sizeof(own[0]);

	memcpy(specs, own, sizeof(own));
	for_each_class (c) {
		if (!(*c)->option.name || n + serve->n_refs == MAX_SERVE_SPECS)
			continue;
		serve->refs[serve->n_refs++] = (struct device_option_ref){ serve, &(*c)->option };
	}
	qsort(serve->refs, serve->n_refs, sizeof(serve->refs[0]), by_name);
	for (unsigned int i = 0; i < serve->n_refs; i++) {
		const struct device_option *o = serve->refs[i].option;

		specs[n++] = (struct option_spec){ o->name, o->arg, o->help, set_device,
						   &serve->refs[i] };
	}
	return n;
}

int serve_add_devices(const struct serve_options *serve, struct machine_tree *mt, struct error *err)
{
	for (unsigned int i = 0; i < serve->devices.n; i++) {
		int ret = serve->devices.args[i].option->add(mt, serve->devices.args[i].value, err);

		if (ret < 0)
			return ret;
	}
	return 0;
}

int serve_override(const struct serve_options *serve, const void *fdt, bool foreign, void **out,
		   struct error *err)
{
	struct tree_locals locals = { .kernel = serve->kernel,
				      .initrd = serve->initrd,
				      .foreign = foreign && !serve->trust_source };
	struct machine_tree *mt;
	void *devices;
	int ret = machine_tree_new(&mt, NULL, err);

	if (ret < 0)
		return ret;
	ret = serve_add_devices(serve, mt, err);
	if (ret < 0) {
		machine_tree_free(mt);
		return ret;
	}
	ret = machine_tree_finish(mt, &devices, err);
	if (ret < 0)
		return ret;
	locals.devices = devices;
	ret = machine_tree_override(fdt, &locals, out, err);
	free(devices);
	return ret;
}

static void on_signal(void *opaque, uint32_t events)
{
	struct vm *vm = opaque;
	struct signalfd_siginfo info;

	(void)events;
	if (read(vm->signal_fd, &info, sizeof(info)) == sizeof(info))
		vm_request(vm, VM_REQUEST_QUIT);
}

/* Set up what the options say, and signals, before any thread is made. */
static int begin(struct vm *vm, const struct serve_options *serve, struct error *err)
{
	sigset_t set;
	int ret;

	vm->stay = serve->stay;
	vm->dirty_tracking = serve->dirty;
	vm->exit_on_reset = serve->on_reboot && strcmp(serve->on_reboot, "exit") == 0;
	vm->reset_on_crash = serve->on_crash && strcmp(serve->on_crash, "reset") == 0;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	vm->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (vm->signal_fd < 0)
		return error_set(err, -errno, "start", "signals", "", "a signalfd", "%m");
	ret = loop_fd_add(vm->loop, vm->signal_fd, EPOLLIN, on_signal, vm, &vm->signal_watch);
	if (ret < 0)
		return error_set(err, ret, "start", "signals", "", "to be watched", "%s",
				 strerror(-ret));
	ret = serve->heir ? successor_be_one(vm, err) : 0;
	if (ret < 0 || !serve->control)
		return ret;
	return serve->heir ? control_inherit(vm, serve->control, HEIR_CONTROL, err)
			   : control_open(vm, serve->control, err);
}

/* begin() undone, also in part. */
static void end(struct vm *vm)
{
	control_close(vm);
	if (vm->signal_watch)
		loop_fd_del(vm->signal_watch);
	if (vm->leash_watch)
		loop_fd_del(vm->leash_watch);
	vm->leash_watch = NULL;
	if (vm->signal_fd >= 0)
		close(vm->signal_fd);
	vm->signal_watch = NULL;
	vm->signal_fd = -1;
}

int serve(const struct serve_options *options,
	  int (*start)(struct vm *vm, void *opaque, struct error *err), void *opaque)
{
	int status = STATUS_ERROR;
	struct successor *successor;
	struct error err = { 0 };
	struct vm *vm;

	if (vm_create(&vm, &err) < 0) {
		error_print(&err);
		return STATUS_ERROR;
	}
	if (begin(vm, options, &err) < 0 || start(vm, opaque, &err) < 0) {
		error_print(&err);
		end(vm);
	} else {
		loop_run(vm->loop);
		end(vm);
		status = vm->exit_status;
	}
	successor = vm->successor;
	if (successor && successor->has_guest)
		vm->successor = NULL;
	else
		successor = NULL;
	vm_destroy(vm);
	return successor ? successor_wait(successor) : status;
}

int usage_error(const char *command, const struct error *err)
{
	error_print(err);
	fprintf(stderr, "Try 'ferry %s --help'.\n", command);
	return STATUS_USAGE;
}
