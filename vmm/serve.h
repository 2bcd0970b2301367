/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the commands that hold a machine (run, receive, restore) have in common: their options, and
 * serving the machine until it ends.
 */
#ifndef VMM_SERVE_H
#define VMM_SERVE_H

#include <stdbool.h>

#include "vmm/device.h"
#include "vmm/error.h"
#include "vmm/options.h"
#include "vmm/vm.h"

#define MAX_DEVICE_ARGS 64
#define MAX_SERVE_SPECS 48

/* Options of devices, in the order they were given. */
struct device_args {
	struct {
		const struct device_option *option;
		const char *value; /* borrowed from argv */
	} args[MAX_DEVICE_ARGS];
	unsigned int n;
};

struct serve_options {
	const char *control;   /* --control PATH, NULL for none */
	const char *on_reboot; /* "reset" or "exit" */
	const char *on_crash;  /* "exit" or "reset" */
	enum dirty_tracking dirty;
	bool stay;
	bool heir;		     /* of receive: started by ferry upgrade, see successor.h */
	const char *kernel, *initrd; /* of receive and restore: what a reset boots */
	bool trust_source;	     /* of receive: open what the source names */
	struct device_args devices;
	struct device_option_ref {
		struct serve_options *serve;
		const struct device_option *option;
	} refs[MAX_SERVE_SPECS];
	unsigned int n_refs;
};

/*
 * Append the rows for the options above and for those of all device classes to @specs, which has
 * room for MAX_SERVE_SPECS more; returns how many. @serve must outlive the parsing.
 */
unsigned int serve_specs(struct serve_options *serve, struct option_spec *specs);

/* Let the device options that were given add their nodes. */
int serve_add_devices(const struct serve_options *serve, struct machine_tree *mt,
		      struct error *err);

/* The tree @fdt with the host-local properties that the options say; malloc'd. @foreign: it comes
 * from over a network, so that what it names is opened only with trust_source. */
int serve_override(const struct serve_options *serve, const void *fdt, bool foreign, void **out,
		   struct error *err);

/*
 * Make a machine, let @start fill it, serve it until it has ended, destroy it. Returns the exit
 * status. From before @start on, SIGINT, SIGTERM and SIGHUP end it in an orderly way and the
 * control socket answers. To be called before any thread is made.
 */
int serve(const struct serve_options *serve,
	  int (*start)(struct vm *vm, void *opaque, struct error *err), void *opaque);

/* Print the errors of a command line and return STATUS_USAGE. */
int usage_error(const char *command, const struct error *err);

#endif
