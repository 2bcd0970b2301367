/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry receive and ferry restore: an empty machine that waits for one to come, or reads one. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "migration/migration.h"
#include "vmm/command.h"
#include "vmm/serve.h"
#include "vmm/vm.h"

#define DEFER	  "defer"
#define OWN_SPECS 8

struct receive_options {
	struct serve_options serve;
	const char *what; /* URI or FILE */
	const char *uri;
	uint64_t threads; /* 0: not given */
	bool lazy, direct, help;
};

/* Device options given here replace what the machine that comes says of its former host. */
static int override(void *opaque, const void *fdt, bool foreign, void **out, struct error *err)
{
	const struct receive_options *o = opaque;

	return serve_override(&o->serve, fdt, foreign, out, err);
}

static int start(struct vm *vm, void *opaque, struct error *err)
{
	struct receive_options *o = opaque;
	const char *bound;
	int ret = destination_prepare(vm, override, o, err);

	if (ret < 0 || strcmp(o->uri, DEFER) == 0)
		return ret;
	vm->migration->heir = o->serve.heir;
	vm->migration->lazy = o->lazy;
	vm->migration->params.direct_io = o->direct;
	if (o->threads) {
		vm->migration->params.multifd = true;
		vm->migration->params.channels = (int)o->threads;
	}
	ret = destination_start(vm, o->uri, &bound, err);
	/* Whoever starts us has to know the port that tcp:HOST:0 became, and when to connect. */
	if (ret == 0 && !o->serve.heir && strncmp(bound, "file:", 5) != 0) {
		printf("%s\n", bound);
		fflush(stdout);
	}
	return ret;
}

static int set_threads(void *opaque, const char *value, struct error *err)
{
	struct receive_options *o = opaque;

	return parse_uint(value, 1, CHANNELS_MAX, &o->threads, err);
}

static int parse(int argc, char **argv, struct receive_options *o, const char *what)
{
	const struct option_spec own[] = {
		{ "kernel", "FILE", "what a reset boots, instead of the source's file",
		  option_set_string, &o->serve.kernel },
		{ "initrd", "FILE", "likewise", option_set_string, &o->serve.initrd },
		{ "trust-source", NULL,
		  "open the files and networks that a source names over tcp, too", option_set_flag,
		  &o->serve.trust_source },
		{ "lazy", NULL, "map a saved machine's RAM, and run it at once", option_set_flag,
		  &o->lazy },
		{ "threads", "N", "read it with so many (1 to 64; as many as CPUs, up to 4)",
		  set_threads, o },
		{ "direct", NULL, "read it past the page cache (O_DIRECT)", option_set_flag,
		  &o->direct },
		{ "heir", NULL, "of ferry upgrade alone: descriptors 3 to 5 are open",
		  option_set_flag, &o->serve.heir },
		{ "help", NULL, "show this", option_set_flag, &o->help },
	};
	struct option_spec specs[OWN_SPECS + MAX_SERVE_SPECS];
	struct error err = { 0 };
	unsigned int n, n_rest;

	_Static_assert(sizeof(own) / sizeof(own[0]) == OWN_SPECS, "room for all");
	memcpy(specs, own, sizeof(own));
	n = OWN_SPECS + serve_specs(&o->serve, specs + OWN_SPECS);
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
