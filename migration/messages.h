/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the records of the conversation carry. Except for RAM, the metadata of every record is a
 * flattened tree; those of messages have only properties of the root, numbers (64 bits) and
 * strings. A reader ignores properties it does not know, so more can be added.
 *
 *   HELLO    version-min, version-max, machine, build, cpu, boot-id, ram-record-max,
 *            block-record-max (optional), mirror-disks (optional, 1: BLOCK records will come);
 *            of a destination: ram-fd, device-fds (optional, 1: it takes descriptors),
 *            channels-max, channels-token (optional, multifd.h),
 *            zstd (optional, 1: it takes RAM_ZSTD records, 2: with differences among them);
 *            of a source that is going to open data connections: channels;
 *            of both: postcopy (optional, 1: it can, or may, postcopy.h)
 *   RAM_FD   size, in bytes; DEVICE_FD  device, fds (how many), note (for the device)
 *   CHANNEL  token, number (from 0); attempt (optional; one more each time, postcopy-accept.c)
 *   ROUND    round (from 1)
 *   ACCEPT, LISTEN, READY  nothing
 *   STOPPED  run (1: the guest shall run on, 0: it was paused), ram-crc (optional),
 *            disk-crc-NAME of every disk that is mirrored (optional)
 *   LOADED   nothing
 *   COMMIT   nothing
 *   RUNNING  commit-ns (arrival of COMMIT to resume), resumed-ns (CLOCK_MONOTONIC), realtime-ns
 *   REJECT, FAILED  code (errno), phase, device, field, expected, got
 */
#ifndef MIGRATION_MESSAGES_H
#define MIGRATION_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/record.h"
#include "vmm/error.h"

/* One under construction. What does not fit makes message_end return an empty tree. */
struct message {
	_Alignas(8) uint8_t buf[4096];
	int ret;
};

void message_begin(struct message *m);
void message_u64(struct message *m, const char *name, uint64_t value);
void message_string(struct message *m, const char *name, const char *value);
/* The finished tree, inside @m. */
const void *message_end(struct message *m);

/* The tree of @rec, checked; NULL with @err when it is none. */
const void *message_open(const struct record *rec, struct error *err);
/* @def when absent or mis-sized. */
uint64_t message_get_u64(const void *fdt, const char *name, uint64_t def);
/* "" when absent; what is not printable ASCII becomes '?', for it goes to a terminal. */
void message_get_string(const void *fdt, const char *name, char *buf, size_t size);

/* Who is talking. */
struct hello {
	uint64_t version_min, version_max;
	char machine[64]; /* arch_machine() */
	char build[32];
	char cpu[64];		 /* of the host, for people */
	char boot_id[64];	 /* of the host's kernel: equal means one CLOCK_MONOTONIC */
	uint64_t ram_record_max; /* payload bytes of a RAM record it takes */
	/* … and of a BLOCK record; 0: it knows none, as builds before there were any. */
	uint64_t block_record_max;
	uint64_t mirror_disks; /* 1: the source is going to send its disks, too */
	uint64_t ram_fd;       /* 1: the destination takes RAM_FD … */
	uint64_t device_fds;   /* … and DEVICE_FD records */
	uint64_t zstd;	       /* … and RAM_ZSTD records; 2: with RAM_XOR */
	uint64_t postcopy;     /* 1: it can do it; of a source: it may do it, postcopy.h */
	/* Data connections, multifd.h: those the source opens, and the destination takes; 0: none.
	 */
	uint64_t channels, channels_max;
	char channels_token[33];
};

/* This build on this host. */
void hello_local(struct hello *hello);
void message_hello(struct message *m, const struct hello *hello);
int message_get_hello(const struct record *rec, struct hello *hello, struct error *err);
/* Can the two talk? *@version is what they will talk. */
int hello_agree(const struct hello *ours, const struct hello *theirs, const char *device,
		unsigned int *version, struct error *err);

/* Begin and fill a REJECT or FAILED. */
void message_error(struct message *m, const struct error *err);
/* Put the error that @rec carries into @err; returns its code, never 0. */
int message_get_error(const struct record *rec, struct error *err);

#endif
