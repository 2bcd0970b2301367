/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Write protection of guest RAM by userfaultfd(2); Documentation/admin-guide/mm/userfaultfd.rst of
 * Linux, "Write Protect Notifications".
 *
 * KVM needs nothing besides: a page that is write-protected here leaves its tables by the MMU
 * notifier, and when a vCPU writes to it, KVM asks for it as any thread does, and waits as any
 * does.
 */
#include "migration/write-guard.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than some headers: Linux 6.1, 6.4 and 5.14. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

struct write_guard {
	struct memory *mem;
	write_guard_fn *fault;
	void *opaque;
	int fd;		  /* of userfaultfd */
	int stop;	  /* eventfd that ends the thread */
	bool unpopulated; /* pages that are not there yet can be protected */
	bool started;
	pthread_t thread;
	_Atomic bool armed; /* what @fault looks at was written before this */
	struct error error; /* of the thread, valid once it has failed */
	_Atomic bool failed;
};

static int refuse(struct error *err, int code, const char *expected, const char *got)
{
	return error_set(err, code, "save", "RAM", "background-snapshot", expected, "%s", got);
}

/* ---- The thread that hears of writes ---- */

static int handle(struct write_guard *g, uint64_t address, struct error *err)
{
	for (unsigned int i = 0; i < g->mem->n_regions; i++) {
		const struct memory_region *r = &g->mem->regions[i];
		uint64_t at = address - (uintptr_t)r->hva;

		if (address >= (uintptr_t)r->hva && at < r->size)
			return g->fault(g->opaque, i, at / PAGE_SIZE * PAGE_SIZE, err);
	}
	return 0;
}

static int hear(struct write_guard *g, struct error *err)
{
	struct uffd_msg msgs[16];
	ssize_t n = read(g->fd, msgs, sizeof(msgs));
	int ret = 0;

	/* Whoever waited may have been killed, or released, meanwhile. */
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return refuse(err, -errno, "to hear of writes", strerror(errno));
	for (size_t i = 0; g->armed && i < (size_t)n / sizeof(msgs[0]) && ret == 0; i++) {
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			ret = handle(g, msgs[i].arg.pagefault.address, err);
	}
	return ret;
}

static void *thread(void *opaque)
{
	struct write_guard *g = opaque;
	struct pollfd fds[2] = { { .fd = g->stop, .events = POLLIN },
				 { .fd = g->fd, .events = POLLIN } };

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[0].revents)
			break;
		if (fds[1].revents && hear(g, &g->error) < 0) {
			g->failed = true;
			break;
		}
	}
	return NULL;
}

int write_guard_check(const struct write_guard *g, struct error *err)
{
	if (!g->failed)
		return 0;
	if (err && !err->code)
		*err = g->error;
	return g->error.code;
}

/* ---- Getting ready ---- */

/* Without O_… for user mode only: KVM writes to guest memory as the kernel. */
static int open_fd(struct error *err)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), dev;

	if (fd >= 0)
		return fd;
	/* Who may open the device may have them, too. */
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	if (fd >= 0)
		return fd;
	return refuse(err, -EPERM,
		      "CAP_SYS_PTRACE, or sysctl vm.unprivileged_userfaultfd=1, to catch faults of "
		      "the kernel",
		      "neither");
}

/* Features can be asked for and chosen only once each descriptor. */
static int shake_hands(int fd, uint64_t features, uint64_t *have, struct error *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return refuse(err, -EOPNOTSUPP, "userfaultfd", strerror(errno));
	*have = api.features;
	return 0;
}

static int find_features(uint64_t *have, struct error *err)
{
	int fd = open_fd(err), ret;

	if (fd < 0)
		return fd;
	ret = shake_hands(fd, 0, have, err);
	close(fd);
	return ret;
}

/* A file that is mapped cannot be protected; nothing but anonymous memory could be in the
 * beginning. */
static int choose_features(struct write_guard *g, uint64_t have, uint64_t *want, struct error *err)
{
	bool anon = g->mem->backing == MEMORY_ANON;

	if (g->mem->backing == MEMORY_FILE)
		return refuse(err, -EOPNOTSUPP, "RAM of its own",
			      "a view of the file it was restored from, by --lazy");
	*want = UFFD_FEATURE_PAGEFAULT_FLAG_WP | (anon ? 0 : UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	if ((have & *want) != *want)
		return refuse(err, -EOPNOTSUPP,
			      anon ? "write protection by userfaultfd (Linux 5.7)"
				   : "write protection of shared or hugetlb memory (Linux 5.19)",
			      "a kernel without it");
	g->unpopulated = !anon || have & UFFD_FEATURE_WP_UNPOPULATED;
	*want |= anon ? have & UFFD_FEATURE_WP_UNPOPULATED : 0;
	return 0;
}

/*
 * Older kernels cannot protect what is not there, so let there be zero pages: huge ones, which are
 * released as a whole, so that none is split while it is protected. Of shared memory nothing is
 * populated, nor need it be: there it would be memory of its own.
 */
static int populate(struct write_guard *g, struct error *err)
{
	for (unsigned int i = 0; i < g->mem->n_regions && !g->unpopulated; i++) {
		const struct memory_region *r = &g->mem->regions[i];

		if (madvise(r->hva, r->size, MADV_POPULATE_READ) < 0)
			return refuse(err, -errno, "all pages to be there (Linux 5.14)",
				      strerror(errno));
	}
	return 0;
}

static int enlist(struct write_guard *g, struct error *err)
{
	for (unsigned int i = 0; i < g->mem->n_regions; i++) {
		const struct memory_region *r = &g->mem->regions[i];
		struct uffdio_register reg = {
			.range = { (uintptr_t)r->hva, r->size },
			.mode = UFFDIO_REGISTER_MODE_WP,
		};

		if (ioctl(g->fd, UFFDIO_REGISTER, &reg) < 0)
			return refuse(err, -errno, "RAM that can be write-protected",
				      strerror(errno));
		if (!(reg.ioctls & (1ULL << _UFFDIO_WRITEPROTECT)))
			return refuse(err, -EOPNOTSUPP, "RAM that can be write-protected",
				      "RAM that cannot");
	}
	return 0;
}

static int start(struct write_guard *g, struct error *err)
{
	uint64_t have = 0, want = 0;
	int ret = find_features(&have, err);

	ret = ret < 0 ? ret : choose_features(g, have, &want, err);
	ret = ret < 0 ? ret : (g->fd = open_fd(err));
	ret = ret < 0 ? ret : shake_hands(g->fd, want, &have, err);
	ret = ret < 0 ? ret : populate(g, err);
	ret = ret < 0 ? ret : enlist(g, err);
	if (ret == 0 && (g->stop = eventfd(0, EFD_CLOEXEC)) < 0)
		ret = refuse(err, -errno, "an eventfd", strerror(errno));
	if (ret == 0)
		ret = -pthread_create(&g->thread, NULL, thread, g);
	g->started = ret == 0;
	return ret < 0 ? refuse(err, ret, "a thread", strerror(-ret)) : 0;
}

int write_guard_open(struct write_guard **out, struct memory *mem, write_guard_fn *fault,
		     void *opaque, struct error *err)
{
	struct write_guard *g = calloc(1, sizeof(*g));
	int ret;

	*out = NULL;
	if (!g)
		return refuse(err, -ENOMEM, "memory", "none");
	*g = (struct write_guard){
		.mem = mem, .fault = fault, .opaque = opaque, .fd = -1, .stop = -1
	};
	/* What is discarded would be zero in the file, and was not. */
	mem->keep = true;
	ret = start(g, err);
	if (ret < 0)
		write_guard_close(g, NULL);
	else
		*out = g;
	return ret;
}

/* ---- Protecting ---- */

static int protect(struct write_guard *g, unsigned int region, uint64_t from, uint64_t len,
		   uint64_t mode, struct error *err)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)g->mem->regions[region].hva + from, len },
		.mode = mode,
	};

	while (ioctl(g->fd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		/* Mappings change at this moment: userfaultfd.rst wants it tried again. */
		if (errno != EAGAIN && errno != EINTR)
			return refuse(err, -errno, mode ? "to protect RAM" : "to release RAM",
				      strerror(errno));
	}
	return 0;
}

int write_guard_protect(struct write_guard *g, struct error *err)
{
	/* What was being discarded when `keep` was set is missing again. */
	int ret = populate(g, err);

	g->armed = true;
	for (unsigned int i = 0; i < g->mem->n_regions && ret == 0; i++)
		ret = protect(g, i, 0, g->mem->regions[i].size, UFFDIO_WRITEPROTECT_MODE_WP, err);
	return ret;
}

int write_guard_release(struct write_guard *g, unsigned int region, uint64_t from, uint64_t len,
			struct error *err)
{
	return protect(g, region, from, len, 0, err);
}

/* What is no longer registered is no longer protected, and who waits is woken (userfaultfd.rst). */
static void delist(struct write_guard *g)
{
	for (unsigned int i = 0; i < g->mem->n_regions; i++) {
		struct uffdio_range range = { (uintptr_t)g->mem->regions[i].hva,
					      g->mem->regions[i].size };

		ioctl(g->fd, UFFDIO_UNREGISTER, &range);
	}
}

int write_guard_close(struct write_guard *g, struct error *err)
{
	int ret;

	if (!g)
		return 0;
	if (g->started) {
		eventfd_write(g->stop, 1);
		pthread_join(g->thread, NULL);
	}
	if (g->fd >= 0) {
		delist(g);
		close(g->fd);
	}
	if (g->stop >= 0)
		close(g->stop);
	g->mem->keep = false;
	ret = write_guard_check(g, err);
	free(g);
	return ret;
}
