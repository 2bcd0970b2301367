/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry cpu: what this host's CPUs offer to guests, or what several hosts have in common. */
#include <stdio.h>

#include "vmm/arch.h"
#include "vmm/command.h"
#include "vmm/options.h"
#include "vmm/serve.h"

#define MAX_FILES 256

static int run_cpu(int argc, char **argv)
{
	bool help = false;
	const struct option_spec specs[] = {
		{ "help", NULL, "show this", option_set_flag, &help },
	};
	const char *files[MAX_FILES];
	struct error err = { 0 };
	unsigned int n = 0;

	if (options_parse(argc, argv, specs, 1, files, MAX_FILES, &n, &err) < 0)
		return usage_error("cpu", &err);
	if (help) {
		printf("Usage: ferry cpu [FILE]…\n\n"
		       "Without FILE: describe what this host offers. With outputs of that from\n"
		       "several hosts: the largest model that all of them offer. Either is a FILE\n"
		       "for 'ferry run --cpu'.\n\n");
		options_help(specs, 1);
		return STATUS_OK;
	}
	if (arch_cpu_describe(files, n, stdout, &err) < 0) {
		error_print(&err);
		return STATUS_ERROR;
	}
	return STATUS_OK;
}

static const struct command cpu_command = {
	.name = "cpu",
	.synopsis = "[FILE]…",
	.help = "print the CPU model of this host, or the common one of several",
	.run = run_cpu,
};
COMMAND(cpu_command);
