/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM on its way. A round is one pass over the pages that are dirty; it goes out as records
 * of one table of runs and the pages of all data runs (record.h).
 *
 * The order that makes it correct: a page's dirty bit is cleared (ours when its run is planned,
 * KVM's just before) and only then is the page looked at and queued. Whoever writes to it from then
 * on sets the bit again, so whatever was sent, a later round repairs it.
 */
#ifndef MIGRATION_RAM_H
#define MIGRATION_RAM_H

#include <stdint.h>

#include "migration/compress.h"
#include "migration/migration.h"
#include "migration/protocol.h"
#include "migration/rate.h"

/* Payload of one record, and so of one system call and one step of the rate limit. */
#define RAM_BATCH (4UL << 20)
/* Pages of one record, the zero ones included: a cancel is seen that often. */
#define RAM_BATCH_PAGES 65536
/* KVM's log is cleared in pieces of this many pages (64 MiB), just before they are looked at. */
#define RAM_CLEAR_PAGES 16384UL
/* … and while hints come in smaller ones, since those for a piece that was begun are too late. */
#define RAM_HINT_PAGES 256UL

/* The record being put together for one connection. */
struct ram_batch {
	struct protocol *p;
	unsigned int n;
	uint64_t payload; /* bytes */
	uint64_t pages;	  /* of all runs */
	uint64_t xor_pages;
	uint64_t sent_bytes,
		sent_ns; /* of payload by records sent so far, and how long that took */
	struct compressor *compressor; /* NULL: pages go as they are */
	struct compressed instead;     /* of its pages, in the record about to go */
	uint8_t wire[RAM_RUNS_MAX * RAM_RUN_WIRE];
	struct ram_run runs[RAM_RUNS_MAX];
};

struct ram_save {
	struct vm *vm;
	struct migration *m;
	struct protocol *p;
	struct multifd_save *multifd; /* sends instead; NULL: all goes over one connection */
	uint64_t batch_max;	      /* bytes of payload the other side takes in one record */
	enum compress_mode compress;  /* what the other side takes, too */
	struct deltas *deltas;	      /* NULL: pages that go again go whole */
	uint64_t *bitmap[MEMORY_MAX_REGIONS]; /* pages still to send */
	_Atomic uint64_t dirty;		      /* … their number */
	uint64_t fetched_ns;		      /* when the dirty log was read last */
	pthread_mutex_t limit_lock;	      /* a leaf */
	struct rate_limit limit;
	struct bandwidth bandwidth;
	int untouched; /* descriptor to ask by, untouched.h */

	/* Free page hints, ram-hint.c. The lock may be taken under a device's; nothing is locked
	 * under it. It guards bitmap[i] from page begun[i] on while hints may come. */
	struct page_hints hints;
	pthread_mutex_t hint_lock;
	bool hinting;			    /* hints are taken */
	bool hinted;			    /* devices have to hear of the end */
	uint64_t begun[MEMORY_MAX_REGIONS]; /* pages that the round has begun with */

	struct ram_batch batch;
};

/* Get ready; all pages are to be sent. About 20 KiB: lives on the heap. The dirty log, if the
 * guest runs, must have been started before. */
int ram_save_init(struct ram_save *s, struct migration *m, struct protocol *p, uint64_t batch_max,
		  struct error *err);
void ram_save_free(struct ram_save *s);

/* Compress from now on, as params.compress says, if the other side takes that: @zstd of its HELLO.
 * After ram_save_init(). */
int ram_save_compress(struct ram_save *s, uint64_t zstd, struct error *err);

/*
 * Ask devices which pages need not be sent, until ram_save_fetch(); after ram_save_init(), before
 * the first round. ram_hints_over(): the migration has ended, one way or the other.
 */
int ram_hints_start(struct ram_save *s, struct error *err);
void ram_hints_over(struct ram_save *s);
/* For ram.c: hints for pages below @page of region @i come too late; … for all pages. */
void ram_hints_pass(struct ram_save *s, unsigned int i, uint64_t page);
void ram_hints_stop(struct ram_save *s);

/* Add what was written since the last call to what is to be sent. */
int ram_save_fetch(struct ram_save *s, struct error *err);

/*
 * Send all that is to be sent. @live: the guest runs, so the log is cleared and max-bandwidth is
 * kept; such a round also ends early, without an error, when the time is up and the switch-over is
 * to be forced. All is flushed on return.
 */
int ram_save_round(struct ram_save *s, bool live, struct error *err);

/* For multifd-save.c: a round begins, no thread sending. */
void ram_save_begin_round(struct ram_save *s);

/*
 * Wait until what was sent has left this host, for it delays whatever comes after it: the last
 * round would have to wait for all that a slow channel has still in its buffer. This counts as
 * sending, so that a burst that only filled the buffer does not look like a fast channel.
 */
int ram_save_settle(struct ram_save *s, struct error *err);

/* Bytes still to send, as far as known, and how long that takes; UINT64_MAX: not known yet. */
uint64_t ram_save_remaining(const struct ram_save *s);
uint64_t ram_save_remaining_ns(const struct ram_save *s);

/* A batch of a connection of its own, for multifd-save.c: begin, and free what it has. */
int ram_batch_init(const struct ram_save *s, struct ram_batch *b, struct protocol *p,
		   struct error *err);
void ram_batch_free(struct ram_batch *b);

/*
 * For multifd-save.c, whose threads send pieces of a round each by a batch of their own: the dirty
 * pages [@first, @first + @n) of region @i, multiples of 64 as for dirty_log_clear(); and what the
 * batch still holds.
 */
int ram_save_piece(struct ram_save *s, struct ram_batch *b, unsigned int i, uint64_t first,
		   uint64_t n, bool live, struct error *err);
int ram_save_flush(struct ram_save *s, struct ram_batch *b, bool live, struct error *err);
/* A round with the guest running is not worth going on with: the time is up, or it shall go first.
 */
bool ram_save_round_is_over(const struct ram_save *s, bool live);

/*
 * For postcopy-source.c: add page number @page of @region to a batch that has room, as a run of its
 * own or to the last one; send it as a RAM record, and leave n, payload and pages to the caller.
 */
void ram_batch_add(struct ram_batch *b, const struct memory_region *region, uint64_t page,
		   enum ram_kind kind);
int ram_batch_send(struct ram_save *s, struct ram_batch *b, struct error *err);

/* The receiving side. */
/* Room for the table of one record, for each thread that loads. */
struct ram_table {
	struct decompressor *decompressor; /* NULL before the first record that needs it */
	struct ram_run runs[RAM_RUNS_MAX];
	struct iovec iov[RAM_RUNS_MAX];
};

struct ram_load {
	struct memory *mem;
	struct migration *m;
	_Atomic uint64_t *touched[MEMORY_MAX_REGIONS]; /* pages that may hold something */
	struct ram_table table;
};

/* @mem is fresh: what our own log does not show as written reads as zero. */
int ram_load_init(struct ram_load *l, struct migration *m, struct memory *mem, struct error *err);
void ram_load_free(struct ram_load *l);

void ram_table_free(struct ram_table *t);

/* Put RAM or RAM_ZSTD record @rec in its place. All of it is checked before anything is written.
 * Any thread, with a @p and a @t of its own. */
int ram_load_record(struct ram_load *l, struct ram_table *t, struct protocol *p,
		    const struct record *rec, struct error *err);

/* Does every of the @n runs of @t lie in RAM, and after the one before? */
int ram_load_check_runs(const struct ram_load *l, const struct ram_table *t,
			const struct record *rec, unsigned int n, struct error *err);

/* For ram-map-load.c: whole pages [@from, @from + @len) of region @i are to be zero; … have been
 * written to. Any thread. */
void ram_load_zero(struct ram_load *l, unsigned int i, uint64_t from, uint64_t len);
void ram_load_touch(struct ram_load *l, unsigned int i, uint64_t from, uint64_t len);

/* CRC32C of all RAM in the order of gpa. */
uint32_t ram_checksum(const struct memory *mem);

#endif
