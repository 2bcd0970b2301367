/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks on their way, for hosts that do not share them: all blocks first, then those that the guest
 * has written meanwhile, in the same rounds as RAM. Which devices have disks is found by struct
 * block_ops (vmm/device.h).
 *
 * The order is that of RAM: what was written is fetched, and so forgotten, before a block is read.
 */
#ifndef MIGRATION_BLOCK_H
#define MIGRATION_BLOCK_H

#include <stdint.h>

#include "migration/block-runs.h"
#include "migration/messages.h"
#include "migration/ram.h"

/* Blocks of one record, the zero ones included: a cancel is seen that often. */
#define BLOCK_BATCH 4096
/* The destination puts its disk on stable storage whenever so much was written, so that there is
 * little left to do at the switch-over. */
#define BLOCK_SYNC (64UL << 20)

struct block_disk {
	struct device *dev;
	uint64_t size;
	uint64_t *bitmap;   /* at the source: blocks still to send */
	uint64_t data_from; /* … no data between here and the block looked at last */
	uint64_t unsynced;  /* at the destination: bytes written since the last sync */
	uint64_t crc;	    /* … CRC32C it shall have, UINT64_MAX: not known */
};

/* The source's side. Without disks, and so without mirroring, all calls do nothing. */
struct block_save {
	struct migration *m;
	struct protocol *p;
	struct rate_limit *limit; /* one with RAM: there is one connection */
	struct bandwidth bandwidth;
	uint64_t batch_max; /* bytes of payload the other side takes in one record */
	struct block_disk *disks;
	unsigned int n_disks;
	uint64_t dirty; /* bytes still to send */

	/* The record being put together, of one disk. */
	unsigned int n;
	uint64_t payload, bytes, blocks; /* of data; of all runs */
	uint64_t read_ns;		 /* that reading took */
	uint8_t *data;			 /* BLOCK_PAYLOAD_MAX bytes */
	struct block_run runs[BLOCK_RUNS_MAX];
	uint8_t wire[BLOCK_META_MAX];
};

/* Find all disks and note from now on what is written to them; all of them is to be sent. @ram: of
 * the same migration, initialized. */
int block_save_init(struct block_save *s, struct migration *m, struct protocol *p,
		    struct ram_save *ram, uint64_t batch_max, struct error *err);
/* Note no more. Also after an error of init, or on zeroes. */
void block_save_free(struct block_save *s);

/* Add what was written since the last call to what is to be sent. */
void block_save_fetch(struct block_save *s);
/* Send all that is to be sent; @live as for ram_save_round. */
int block_save_round(struct block_save *s, bool live, struct error *err);
/* Bytes of disks and of RAM still to send, and how long that takes; UINT64_MAX: not known. */
uint64_t block_save_total(const struct block_save *s, const struct ram_save *ram);
uint64_t block_save_total_ns(const struct block_save *s, const struct ram_save *ram);
/* Put the CRC32C of every disk into STOPPED. The guest is paused. */
int block_save_checksums(struct block_save *s, struct message *m, struct error *err);

/* The destination's side. */
struct block_load {
	struct migration *m;
	struct block_disk *disks;
	unsigned int n_disks;
	uint8_t *data; /* BLOCK_PAYLOAD_MAX bytes */
	struct block_run runs[BLOCK_RUNS_MAX];
};

/* Own all disks of the machine from now on; refused when somebody else does, the source among
 * them. */
int block_load_init(struct block_load *l, struct migration *m, struct error *err);
void block_load_free(struct block_load *l);
/* Put BLOCK record @rec in its place. All of it is checked before anything is written. */
int block_load_record(struct block_load *l, struct protocol *p, const struct record *rec,
		      struct error *err);
/* Remember the checksums in STOPPED. */
void block_load_stopped(struct block_load *l, const void *fdt);
/* All is there: put it on stable storage and compare the checksums that came. */
int block_load_finish(struct block_load *l, struct error *err);

/* ---- Both ---- */

/* Make @*disks (calloc'd, @*n of them) of all devices of @vm with a disk, and a buffer for a
 * payload. */
int block_find(struct vm *vm, struct block_disk **disks, unsigned int *n, uint8_t **data,
	       struct error *err);
/* CRC32C of all of @disk, read through @buf (BLOCK_PAYLOAD_MAX bytes). */
int block_checksum(const struct block_disk *disk, uint8_t *buf, uint32_t *crc, struct error *err);
/* Name of the property of STOPPED with the checksum of @disk. */
#define BLOCK_CRC_NAME 80
void block_crc_name(const struct block_disk *disk, char *name);

#endif
