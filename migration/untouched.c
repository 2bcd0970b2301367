/* SPDX-License-Identifier: BSD-2-Clause */
/* Asking the page tables: pagemap.rst of Linux. */
#include "migration/untouched.h"

#include <fcntl.h>
#include <unistd.h>

#define PRESENT (1ULL << 63)
#define SWAPPED (1ULL << 62) /* or on its way between two places */

int untouched_open(const struct memory *mem)
{
	/* What backs other memory may be there without being in our page tables. */
	return mem->backing == MEMORY_ANON ? open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) : -1;
}

bool untouched(int fd, const void *hva, uint64_t len)
{
	uint64_t entries[UNTOUCHED_MAX / PAGE_SIZE], pages = len / PAGE_SIZE, any = 0;
	ssize_t bytes = (ssize_t)(pages * sizeof(*entries));

	if (fd < 0 || len > UNTOUCHED_MAX ||
	    pread(fd, entries, (size_t)bytes,
		  (off_t)((uintptr_t)hva / PAGE_SIZE * sizeof(*entries))) != bytes)
		return false;
	for (uint64_t i = 0; i < pages; i++)
		any |= entries[i];
	return !(any & (PRESENT | SWAPPED));
}
