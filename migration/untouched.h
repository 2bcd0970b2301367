/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest memory that nobody has touched yet is zero. To look whether it is would fill it: at best
 * with page tables, on some kernels with pages, and a guest of 16 GiB that uses one would have all
 * of them once it migrates.
 */
#ifndef MIGRATION_UNTOUCHED_H
#define MIGRATION_UNTOUCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/memory.h"

#define UNTOUCHED_MAX (2UL << 20)

/* A descriptor to ask by, or -1: nothing is known of @mem, for it has other ways to be filled. The
 * caller closes it. */
int untouched_open(const struct memory *mem);

/* Is there nothing, not even in swap, in the @len bytes from @hva, whole pages, UNTOUCHED_MAX at
 * most? Any thread. */
bool untouched(int fd, const void *hva, uint64_t len);

#endif
