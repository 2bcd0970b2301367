/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What came for the guest to the host that it leaves, after it was stopped there: it follows. The
 * metadata of a BACKLOG record is the name of a device's node, a string; the payload is the
 * device's affair.
 */
#ifndef MIGRATION_BACKLOG_H
#define MIGRATION_BACKLOG_H

#include "migration/migration.h"
#include "migration/protocol.h"

/* Queue a record for each device that has any. What they refer to is valid until the guest runs. */
int backlog_send(struct migration *m, struct protocol *p, struct error *err);

/* Give the payload of @rec to its device. */
int backlog_receive(struct migration *m, struct protocol *p, const struct record *rec,
		    struct error *err);

#endif
