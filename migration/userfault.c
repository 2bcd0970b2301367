/* SPDX-License-Identifier: BSD-2-Clause */
/* userfaultfd(2) and ioctl_userfaultfd(2), in terms of guest RAM. */
#include "migration/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EVENTS	   16 /* of one read */
#define LOOK_PAGES 1024

static int refuse(struct error *err, int code, const char *expected)
{
	errno = -code;
	return error_set(err, code, "userfaultfd", "RAM", "", expected, "%m");
}

/* The device is for those who lack the capability that the system call wants (Linux 6.1). */
static int open_fd(struct error *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), dev;

	if (fd < 0 && errno == EPERM && (dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)) >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	if (fd < 0)
		return refuse(err, errno ? -errno : -EPERM,
			      "the right to use it (CAP_SYS_PTRACE, vm.unprivileged_userfaultfd "
			      "or /dev/userfaultfd)");
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		int code = -errno;

		close(fd);
		return refuse(err, code, "a kernel that reports faults in shared memory, too");
	}
	return fd;
}

int userfault_probe(struct error *err)
{
	int fd = open_fd(err);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

/*
 * Of a file, part of a huge page cannot always be taken away: the kernel may only clear it, and
 * then nothing is missing. (Of anonymous memory the mapping is what counts.)
 */
void userfault_prepare(const struct memory *mem)
{
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		if (mem->backing == MEMORY_SHARED)
			madvise(mem->regions[i].hva, mem->regions[i].size, MADV_NOHUGEPAGE);
	}
}

static int watch_region(struct userfault *u, const struct memory_region *region, struct error *err)
{
	const uint64_t needed = 1ULL << _UFFDIO_COPY | 1ULL << _UFFDIO_ZEROPAGE;
	struct uffdio_register reg = {
		.range = { (uintptr_t)region->hva, region->size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(u->fd, UFFDIO_REGISTER, &reg) < 0)
		return refuse(err, -errno, "faults of it to be reported");
	if ((reg.ioctls & needed) != needed)
		return refuse(err, -EOPNOTSUPP, "pages to be put in place one by one");
	return 0;
}

int userfault_open(struct userfault *u, const struct memory *mem, struct error *err)
{
	int ret = 0;

	u->mem = mem;
	u->fd = -1;
	if (mem->backing == MEMORY_HUGETLB)
		return error_set(err, -EOPNOTSUPP, "userfaultfd", "RAM", "memory-backing",
				 "anon or shared", "hugetlb");
	u->fd = open_fd(err);
	if (u->fd < 0)
		return u->fd;
	for (unsigned int i = 0; i < mem->n_regions && ret == 0; i++)
		ret = watch_region(u, &mem->regions[i], err);
	if (ret < 0)
		userfault_close(u);
	return ret;
}

void userfault_close(struct userfault *u)
{
	if (u->fd < 0)
		return;
	close(u->fd);
	u->fd = -1;
	for (unsigned int i = 0; i < u->mem->n_regions; i++) {
		if (u->mem->backing == MEMORY_SHARED)
			madvise(u->mem->regions[i].hva, u->mem->regions[i].size, MADV_HUGEPAGE);
	}
}

int userfault_discard(struct userfault *u, uint64_t gpa, uint64_t len)
{
	int advice = u->mem->backing == MEMORY_SHARED ? MADV_REMOVE : MADV_DONTNEED;
	char *hva = memory_hva(u->mem, gpa, len);
	unsigned char there[LOOK_PAGES];

	if (madvise(hva, len, advice) < 0)
		return -errno;
	/* A page that is there after all would never be asked for, and so be lost in silence. */
	for (uint64_t done = 0, n; done < len; done += n) {
		n = MIN(len - done, LOOK_PAGES * PAGE_SIZE);
		if (mincore(hva + done, n, there) < 0)
			return -errno;
		for (uint64_t i = 0; i < n / PAGE_SIZE; i++) {
			if (there[i] & 1)
				return -EBUSY;
		}
	}
	return 0;
}

/* Every address that is registered lies in a region. */
static uint64_t gpa_of(const struct userfault *u, uint64_t address)
{
	unsigned int i = 0;

	while (address - (uintptr_t)u->mem->regions[i].hva >= u->mem->regions[i].size)
		i++;
	return u->mem->regions[i].gpa +
	       ((address - (uintptr_t)u->mem->regions[i].hva) & ~(PAGE_SIZE - 1));
}

int userfault_read(struct userfault *u, uint64_t *gpas, int n)
{
	struct uffd_msg msgs[EVENTS];
	ssize_t got = read(u->fd, msgs, sizeof(msgs[0]) * (size_t)MIN(n, EVENTS));
	int faults = 0;

	for (size_t i = 0; got > 0 && i < (size_t)got / sizeof(msgs[0]); i++) {
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			gpas[faults++] = gpa_of(u, msgs[i].arg.pagefault.address);
	}
	return faults;
}

int userfault_copy(struct userfault *u, uint64_t gpa, const void *from, uint64_t len)
{
	uint64_t to = (uintptr_t)memory_hva(u->mem, gpa, len);
	uint64_t done = 0;

	while (done < len) {
		struct uffdio_copy copy = { to + done, (uintptr_t)from + done, len - done, 0, 0 };

		if (ioctl(u->fd, UFFDIO_COPY, &copy) == 0)
			return 0;
		if (errno != EAGAIN)
			return -errno;
		/* Interrupted by a change of the address space; copy.copy is what was done. */
		done += copy.copy > 0 ? (uint64_t)copy.copy : 0;
	}
	return 0;
}

int userfault_zero(struct userfault *u, uint64_t gpa, uint64_t len)
{
	uint64_t to = (uintptr_t)memory_hva(u->mem, gpa, len);
	uint64_t done = 0;

	while (done < len) {
		struct uffdio_zeropage zero = { { to + done, len - done }, 0, 0 };

		if (ioctl(u->fd, UFFDIO_ZEROPAGE, &zero) == 0)
			return 0;
		if (errno != EAGAIN)
			return -errno;
		done += zero.zeropage > 0 ? (uint64_t)zero.zeropage : 0;
	}
	return 0;
}

void userfault_wake(struct userfault *u, uint64_t gpa)
{
	struct uffdio_range range = { (uintptr_t)memory_hva(u->mem, gpa, PAGE_SIZE), PAGE_SIZE };

	ioctl(u->fd, UFFDIO_WAKE, &range);
}
