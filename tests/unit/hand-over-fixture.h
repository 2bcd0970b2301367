/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tests of hand-overs by descriptor share. */
#ifndef TESTS_UNIT_HAND_OVER_FIXTURE_H
#define TESTS_UNIT_HAND_OVER_FIXTURE_H

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "migration-fixture.h"

#define RAM (6 * MIB)

static inline unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Does writing to @mem end a process? */
static inline bool write_kills(const struct memory *mem)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile char *)mem->regions[0].hva = 1;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status);
}

#endif
