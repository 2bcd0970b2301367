/* SPDX-License-Identifier: BSD-2-Clause */
/* What sending a machine (source.c) and saving it (snapshot.c) have in common. */
#ifndef MIGRATION_SOURCE_H
#define MIGRATION_SOURCE_H

#include "migration/block.h"
#include "migration/converge.h"
#include "migration/messages.h"
#include "migration/migration.h"
#include "migration/protocol.h"
#include "migration/ram.h"

struct source {
	struct migration *m;
	struct vm *vm;
	struct channel *ch;
	struct protocol *p;
	struct ram_save *ram;
	struct multifd_save *multifd;	/* NULL: RAM goes over the one connection */
	struct postcopy_save *postcopy; /* NULL: the guest goes last */
	struct block_save block;
	struct hello ours, theirs;
	enum vm_state before; /* of the guest when it was paused */
	bool paused;	      /* by us */
	bool logging, yielded, committed;
	bool by_fd; /* RAM is handed over, not sent */
	uint64_t committed_ns;

	/* source-converge.c */
	struct converge converge;
	uint64_t round_began_ns;
	struct {
		double share;	  /* of full speed */
		uint64_t counted; /* pages it had dirtied when the round began */
	} vcpus[VM_MAX_VCPUS];
};

/* Connect to @uri and begin the conversation. */
int source_open(struct source *s, struct migration *m, const char *uri, struct error *err);
/* Give the channel back; 0 or what its close reported. */
int source_close(struct source *s);
/* Free all; the channel is closed. */
void source_free(struct source *s);

/* Queue HELLO and MACHINE, and flush. */
int source_introduce(struct source *s, struct error *err);
/* Pause the guest and queue STOPPED, with checksums of all RAM and of mirrored disks if wanted. */
int source_pause(struct source *s, bool checksum, struct error *err);
/* Send the state tree, with everything queued before it. */
int source_send_state(struct source *s, const void *state, struct error *err);
/* Rounds begin; a round that began with @before bytes to send is over and the log has been fetched:
 * what next, vCPUs being slowed already if that is it; no more rounds, so all run at full speed. */
void source_converge_begin(struct source *s);
enum converge_step source_decide(struct source *s, uint64_t before);
void source_converge_end(struct source *s);
/* RUNNING has come, with tree @fdt: put the blackout into the figures. */
void source_measure_blackout(struct source *s, const void *fdt);
/* Let the guest go on as before. */
int source_resume(struct source *s, struct error *err);

/* The thread that moves the machine to m->uri. */
int source_run(struct migration *m, struct error *err);
/* On the loop thread, when a migration is over. */
void source_ended(struct migration *m, int ret);

/* If @uri is file:PATH, can it be saved there with the parameters there are; else, do they need
 * one? */
int snapshot_check(const struct migration *m, const char *uri, struct error *err);
/* The thread that saves the machine to file:PATH. */
int snapshot_run(struct migration *m, struct error *err);

#endif
