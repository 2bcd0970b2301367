/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The process that goes on with the guest in place of this one: what `ferry upgrade` starts.
 *
 * Whoever started ferry (a shell, a service manager) knows its process and waits for that. So the
 * first process of a guest stays when it has given the guest away, with nothing in it, as the
 * parent of the one that has the guest: it passes signals on to it, and ends as it ends. A second
 * upgrade replaces only that one; then there are two processes again.
 *
 * The parent holds one end of the leash, a pair of sockets, and its heirs the other. When the
 * parent is killed they notice and end; an heir that has got an heir itself tells its parent by it.
 *
 * All: loop thread, unless said.
 */
#ifndef VMM_SUCCESSOR_H
#define VMM_SUCCESSOR_H

#include <stdbool.h>
#include <sys/types.h>

#include "vmm/error.h"

struct vm;

/* Descriptors that an heir is started with. */
enum { HEIR_STREAM = 3, HEIR_LEASH, HEIR_CONTROL };

struct successor {
	pid_t pid;
	int leash;	/* our end; -1 when this process is an heir itself */
	int status;	/* of waitpid(2), once it was ended */
	bool ended;	/* by successor_end() */
	bool has_guest; /* the guest is its own */
};

/*
 * Start @binary as `ferry receive` with the options of this process, and leave it in
 * vm->successor; *@stream is our end of the connection to it. Errors name @binary.
 */
int successor_start(struct vm *vm, const char *binary, int *stream, struct error *err);

/* It has failed: wait a little for it to end by itself, then make it. Does nothing without one.
 * Any thread. */
void successor_end(struct vm *vm);
/* The same, and forget it. */
void successor_abandon(struct vm *vm);

/* It has the guest, so this process is about to end, or to wait for it. */
void successor_inherits(struct vm *vm);

/* Of an heir: watch the leash. */
int successor_be_one(struct vm *vm, struct error *err);

/* Free @s. The exit status of this process: at once, or when the heirs of the guest have ended.
 * After vm_destroy. */
int successor_wait(struct successor *s);

#endif
