/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM that is a private view of a file: a page is read when it is first used, and what is
 * written stays with us. How long it takes to map does not depend on how much it is.
 *
 * The file must stay as it is for the life of the guest. One that is cut short is a SIGBUS at the
 * next access behind its end, and one that is written to changes pages that the guest has not
 * touched yet. A lock (fcntl(2), F_OFD_SETLK) tells everybody who asks; ferry itself never writes
 * to a saved machine, it replaces it, and the file that is mapped lives on without its name.
 */
#include "vmm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int refuse(struct error *err, int code, const char *field, const char *expected,
		  const char *got)
{
	return error_set(err, code, "load", "RAM", field, expected, "%s", got);
}

/* Some network file systems have no locks; there the file is left to those who know of it. */
static int lock(int fd, struct error *err)
{
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_SETLK, &fl) == 0 || errno == ENOLCK || errno == EOPNOTSUPP)
		return 0;
	return refuse(err, -EBUSY, "lazy", "a file that nobody writes to", strerror(errno));
}

int memory_map_file(struct memory *mem, int fd, const uint64_t *offsets, struct error *err)
{
	int ret = 0;

	if (mem->backing != MEMORY_ANON)
		ret = refuse(err, -EINVAL, "lazy", "RAM that is anonymous memory",
			     mem->backing == MEMORY_HUGETLB ? "hugetlb pages" : "shared memory");
	ret = ret < 0 ? ret : lock(fd, err);
	for (unsigned int i = 0; i < mem->n_regions && ret == 0; i++) {
		struct memory_region *r = &mem->regions[i];

		/* In the same place, where KVM's slots lead already. */
		if (mmap(r->hva, r->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd,
			 (off_t)offsets[i]) == MAP_FAILED)
			ret = refuse(err, -errno, "lazy", "a file that can be mapped",
				     strerror(errno));
		else
			madvise(r->hva, r->size, MADV_DONTDUMP);
	}
	if (ret < 0) {
		close(fd);
		return ret;
	}
	mem->backing = MEMORY_FILE;
	mem->fd = fd;
	return 0;
}
