/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry's front door: finds the subcommand and hands over to it. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/command.h"
#include "vmm/options.h"

#define MAX_COMMANDS 64
#define THREAD_STACK (512UL << 10)

static const struct command *find(const char *name)
{
	for_each_command (pp) {
		if (!strcmp((*pp)->name, name))
			return *pp;
	}
	return NULL;
}

static int unknown(const char *name)
{
	unsigned int best = NAME_FAR;
	const char *near = NULL;

	for_each_command (pp) {
		unsigned int d = name_distance(name, strlen(name), (*pp)->name);

		/* Of two that are equally near, the one that begins alike. */
		if (d < best || (d == best && near && (*pp)->name[0] == name[0])) {
			best = d;
			near = (*pp)->name;
		}
	}
	fprintf(stderr, "ferry: '%s' is not a command", name);
	if (near)
		fprintf(stderr, "; did you mean %s?", near);
	fprintf(stderr, "\nTry 'ferry --help'.\n");
	return STATUS_USAGE;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct command *const *)a)->name,
		      (*(const struct command *const *)b)->name);
}

static void print_help(FILE *out)
{
	const struct command *sorted[MAX_COMMANDS];
	size_t n = 0;

	for_each_command (pp) {
		if (n < MAX_COMMANDS)
			sorted[n++] = *pp;
	}
	qsort(sorted, n, sizeof(sorted[0]), by_name);
	fprintf(out, "Usage: ferry COMMAND [ARGUMENT]…\n"
		     "A small hypervisor whose guests move between hosts while they run.\n\n");
	for (size_t i = 0; i < n; i++)
		fprintf(out, "  %-8s %s\n           %s\n", sorted[i]->name, sorted[i]->synopsis,
			sorted[i]->help);
	fprintf(out, "  %-8s %s\n           %s\n", "help", "COMMAND",
		"show the options of a command");
	fprintf(out,
		"\nSIZE takes K, M, G, T; URI is tcp:HOST:PORT, unix:PATH, fd:N or file:PATH.\n"
		"Exit status: 0 all is well, 1 an error here, 2 wrong usage, 3 the guest crashed,\n"
		"(value << 1) | 1 a guest that ended itself by the debug exit.\n");
}

static int help(int argc, char **argv)
{
	char flag[] = "--help";
	const struct command *command;

	if (argc < 2) {
		print_help(stdout);
		return STATUS_OK;
	}
	command = find(argv[1]);
	if (!command)
		return unknown(argv[1]);
	return command->run(2, (char *[]){ argv[1], flag, NULL });
}

/* Whoever started us with one of them closed must not have it replaced by a descriptor of ours. */
static void open_missing_stdio(void)
{
	for (int fd = 0; fd <= 2; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			exit(STATUS_ERROR);
	}
}

/* Where huge pages are always on, a stack of the usual 8 MiB takes 2 MiB of memory at its first
 * use. */
static void limit_stacks(void)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	const struct command *command;

	open_missing_stdio();
	limit_stacks();
	if (!name) {
		print_help(stderr);
		return STATUS_USAGE;
	}
	if (!strcmp(name, "--version")) {
		printf("ferry " FERRY_VERSION "\n");
		return STATUS_OK;
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
		return help(argc - 1, argv + 1);
	command = find(name);
	return command ? command->run(argc - 1, argv + 1) : unknown(name);
}
