/* SPDX-License-Identifier: BSD-2-Clause */
/* The client's view of a migration: start it, show how it goes, cancel it, report. */
#ifndef MIGRATION_WATCH_H
#define MIGRATION_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "vmm/control.h"

/*
 * Tell the machine behind @client to migrate to @uri, with @mirror its disks too, and wait until
 * that is over. With @progress a line on stderr shows how far it is. SIGINT and SIGTERM cancel it;
 * they must be blocked. A postcopy that pauses is over for now. *info is what query-migrate says at
 * the end, a new reference, NULL if nobody said it. Returns 0 when it succeeded.
 */
int watch_migration(struct control_client *client, const char *uri, bool mirror, bool progress,
		    json_t **info, struct error *err);

/* The second half of that: wait for the end of what has been started by @client. */
int watch_end(struct control_client *client, bool progress, json_t **info, struct error *err);

/* Block SIGINT and SIGTERM for watch_migration. */
void watch_block_signals(void);

/* @uri with the PATH of file: and unix: made absolute, for the server has a directory of its own.
 */
int watch_absolute(const char *uri, char *buf, size_t size, struct error *err);

/* Print what it was and what it cost. */
void watch_report(FILE *out, const json_t *info);

#endif
