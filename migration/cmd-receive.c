/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry receive and ferry restore: an empty machine that waits for one to come, or reads one. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "migration/migration.h"
#include "vmm/command.h"
#include "vmm/serve.h"
#include "vmm/vm.h"

#define DEFER "defer"

struct receive_options {
	struct serve_options serve;
	const char *what; /* URI or FILE */
	const char *uri;
	bool help;
};

/* Device options given here replace what the machine that comes says of its former host. */
static int override(void *opaque, const void *fdt, void **out, struct error *err)
{
	const struct receive_options *o = opaque;

	return serve_override(&o->serve, fdt, out, err);
}

static int start(struct vm *vm, void *opaque, struct error *err)
{
	struct receive_options *o = opaque;
	const char *bound;
	int ret = destination_prepare(vm, override, o, err);

	if (ret < 0 || strcmp(o->uri, DEFER) == 0)
		return ret;
	ret = destination_start(vm, o->uri, &bound, err);
	/* Whoever starts us has to know the port that tcp:HOST:0 became, and when to connect. */
	if (ret == 0 && strncmp(bound, "file:", 5) != 0) {
		printf("%s\n", bound);
		fflush(stdout);
	}
	return ret;
}

static int parse(int argc, char **argv, struct receive_options *o, const char *what)
{
	const struct option_spec own = { "help", NULL, "show this", option_set_flag, &o->help };
	struct option_spec specs[MAX_SERVE_SPECS + 1];
	struct error err = { 0 };
	unsigned int n, n_rest;

	specs[0] = own;
	n = 1 + serve_specs(&o->serve, specs + 1);
	if (options_parse(argc, argv, specs, n, &o->what, 1, &n_rest, &err) == 0 && !o->help &&
	    n_rest < 1)
		error_set(&err, -EINVAL, "options", "arguments", "", what, "none");
	if (err.code)
		return usage_error(argv[0], &err);
	if (o->help) {
		printf("Usage: ferry %s %s [OPTION]…\n\n", argv[0], what);
		options_help(specs, n);
	}
	return STATUS_OK;
}

static int main_receive(int argc, char **argv)
{
	struct receive_options o = { 0 };
	int status = parse(argc, argv, &o, "URI|" DEFER);

	o.uri = o.what;
	return status || o.help ? status : serve(&o.serve, start, &o);
}

static int main_restore(int argc, char **argv)
{
	struct receive_options o = { 0 };
	int status = parse(argc, argv, &o, "FILE");
	char uri[256];

	if (status || o.help)
		return status;
	if (snprintf(uri, sizeof(uri), "file:%s", o.what) >= (int)sizeof(uri)) {
		fprintf(stderr, "ferry: restore: %s: the path is too long\n", o.what);
		return STATUS_ERROR;
	}
	o.uri = uri;
	return serve(&o.serve, start, &o);
}

static const struct command receive_command = {
	.name = "receive",
	.synopsis = "URI|" DEFER " [OPTION]…",
	.help = "wait for a machine at URI (or for migrate-incoming) and run it",
	.run = main_receive,
};
COMMAND(receive_command);

static const struct command restore_command = {
	.name = "restore",
	.synopsis = "FILE [OPTION]…",
	.help = "run a saved machine",
	.run = main_restore,
};
COMMAND(restore_command);
