/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host's side of a character device: the descriptors behind "stdio", "file:PATH", "pty",
 * "unix:PATH" and "none". Only chardev.c and chardev-flow.c use this.
 */
#ifndef DEVICES_CHARDEV_HOST_H
#define DEVICES_CHARDEV_HOST_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "vmm/error.h"

struct device;
struct device_fds;

struct chardev_host {
	int in, out;	  /* -1: nobody there. Never the same descriptor, so that each can have its
			     own watch. Reading and writing do not block. */
	int listener;	  /* of unix:, else -1 */
	int slave;	  /* of pty: kept open, else the master reports a hang-up forever */
	bool terminal;	  /* owns ferry's terminal (devices/terminal.h) */
	bool escapes;	  /* Ctrl-A is for ferry: a person types */
	bool lossy;	  /* nobody may be reading, and there is no way to know */
	bool lent;	  /* another process has the same: nothing of it is to be changed */
	char path[108];	  /* of the socket; "" when it is not ours to remove */
	struct stat made; /* which file that was when we made it */
};

/* Is @spec one that could be opened? @what names the option or property in the error. */
int chardev_host_check(const char *spec, const char *what, struct error *err);

/* Open @spec for @dev; on an error there is nothing to close. */
int chardev_host_open(struct chardev_host *host, const char *spec, struct device *dev,
		      struct error *err);
void chardev_host_close(struct chardev_host *host);

/* What another process needs to go on with it. */
void chardev_host_hand_on(const struct chardev_host *host, struct device_fds *fds);

/* Take the client that knocks at the listener; false when it has gone again. */
bool chardev_host_accept(struct chardev_host *host);
/* Close one direction, or for unix: the connection. */
void chardev_host_close_in(struct chardev_host *host);
void chardev_host_close_out(struct chardev_host *host);

/* As write(2) but never blocks, nor raises SIGPIPE. */
ssize_t chardev_host_write(const struct chardev_host *host, const void *data, size_t len);

#endif
