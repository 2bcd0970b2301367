/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM. Every guest physical address (gpa) that anybody in the VMM uses goes through
 * memory_hva(), memory_read() or memory_write(); nothing else turns a gpa into a pointer.
 *
 * RAM is split around the 32-bit hole, so there are one or two regions. The VMM's own writes to it
 * (device DMA, used rings) are logged in a bitmap of ours, because KVM's dirty log does not see
 * them.
 */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/error.h"

#define PAGE_SHIFT	   12
#define PAGE_SIZE	   4096UL
#define MEMORY_MAX_REGIONS 2
#define MEMORY_MIN	   (2UL << 20)

struct memory_region {
	uint64_t gpa;	       /* first byte, page aligned */
	uint64_t size;	       /* bytes, a multiple of PAGE_SIZE */
	void *hva;	       /* mapped for the life of the memory */
	unsigned int slot;     /* KVM memory slot */
	_Atomic uint64_t *own; /* one bit a page: written by the VMM since last fetched */
};

enum memory_backing {
	MEMORY_ANON,	/* private anonymous, transparent huge pages by madvise */
	MEMORY_HUGETLB, /* 2 MiB pages of the host's pool */
	MEMORY_SHARED,	/* a memfd, so that the RAM can be handed over by descriptor */
	MEMORY_FILE,	/* was MEMORY_ANON, now a private view of a file (memory-file.c) */
};

struct memory {
	enum memory_backing backing;
	struct memory_region regions[MEMORY_MAX_REGIONS];
	unsigned int n_regions;
	uint64_t size;	    /* of all regions, bytes */
	int fd;		    /* of MEMORY_SHARED and MEMORY_FILE, else -1 */
	bool adopted;	    /* of somebody else still: read only (memory-fd.c) */
	_Atomic bool given; /* somebody else's by now; set by who gave it, as it does so */
	_Atomic bool keep;  /* nothing is discarded: somebody wants to know what it holds now */
};

/*
 * Map @size bytes of guest RAM (a multiple of the page size, MEMORY_MIN at least) as one region
 * from gpa 0, or two when it does not end below @hole_start; the second starts at @hole_end.
 * Errors: -EINVAL, -ENOMEM. memory_free() undoes it, also after an error.
 */
int memory_alloc(struct memory *mem, uint64_t size, enum memory_backing backing,
		 uint64_t hole_start, uint64_t hole_end, struct error *err);
void memory_free(struct memory *mem);

/*
 * The host address of @len bytes of RAM at @gpa, NULL unless all of them lie in one region. Who
 * writes there calls memory_mark_dirty() afterwards. @len 0 is never valid. Any thread.
 */
void *memory_hva(const struct memory *mem, uint64_t gpa, uint64_t len);

/* Copy out of or into guest RAM; -EFAULT when not all of it is RAM. The write is logged. Any
 * thread. */
int memory_read(const struct memory *mem, uint64_t gpa, void *buf, size_t len);
int memory_write(const struct memory *mem, uint64_t gpa, const void *buf, size_t len);

/* Log a write by the VMM that has been done. A range outside RAM is ignored. Any thread. */
void memory_mark_dirty(const struct memory *mem, uint64_t gpa, uint64_t len);

/*
 * Give the host back what holds whole pages [@gpa, @gpa + @len): they read as zero from then on,
 * and that is logged as a write. -EFAULT when not all of it is RAM, -EINVAL when it is not pages,
 * -EOPNOTSUPP when the backing has no single pages to give, or `keep` is set. Any thread.
 */
int memory_discard(const struct memory *mem, uint64_t gpa, uint64_t len);

/*
 * RAM that goes from one process to another by its memfd (memory-fd.c). The one that gets it adopts
 * it in place of its own, for reading only, and may write from memory_take_over() on; to the one
 * that had it, and has set `given`, it is read only from memory_give_up() on, which does nothing
 * else. memory_check_given(): an error where it was given away.
 *
 * memory_adopt() owns @fd from here on, also after an error. What it demands of it is what makes
 * access safe whoever sent it: a memfd of just our size that nobody can make shorter. Errors:
 * {"RAM", field, expected, got}. No vCPU runs.
 */
int memory_adopt(struct memory *mem, int fd, struct error *err);
int memory_take_over(struct memory *mem, struct error *err);
void memory_give_up(struct memory *mem);
int memory_check_given(const struct memory *mem, struct error *err);

/*
 * Let RAM that is MEMORY_ANON, and that nobody uses yet, be what file @fd has: of region i from
 * byte offsets[i] on, which lie within the file. Owns @fd from here on, also after an error. What
 * the file must be, and stay, is in memory-file.c. Errors: {"RAM", "lazy", expected, got}.
 */
int memory_map_file(struct memory *mem, int fd, const uint64_t *offsets, struct error *err);

/* Move our own bits of pages [@first, @first + @n) of a region into @bitmap (or-ed), clearing them.
 * @bitmap is the whole region's, from page 0. @first is a multiple of 64, and so is @n unless the
 * range ends with the region. Any thread. */
void memory_fetch_own(struct memory_region *region, uint64_t first, uint64_t n, uint64_t *bitmap);

#endif
