/* SPDX-License-Identifier: BSD-2-Clause */
/* Subcommands of ferry; each registers itself by COMMAND(). */
#ifndef VMM_COMMAND_H
#define VMM_COMMAND_H

/* Exit statuses; a guest's debug exit gives (value << 1) | 1 besides. */
enum {
	STATUS_OK = 0,
	STATUS_ERROR = 1, /* the host side failed */
	STATUS_USAGE = 2,
	STATUS_CRASH = 3, /* the guest crashed */
};

struct command {
	const char *name;
	const char *synopsis; /* what follows the name: "CONTROL URI [OPTION]…" */
	const char *help;     /* one line */
	/* argv[0] is the subcommand's name. Returns the exit status. */
	int (*run)(int argc, char **argv);
};

#define COMMAND(c)                                                                                \
	static const struct command *const c##_entry __attribute__((used, section("commands"))) = \
		&(c)

extern const struct command *const __start_commands[];
extern const struct command *const __stop_commands[];
#define for_each_command(pp) \
	for (const struct command *const *pp = __start_commands; pp < __stop_commands; pp++)

#endif
