/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sending guest RAM without the kernel copying it either (MSG_ZEROCOPY, Linux'
 * Documentation/networking/msg_zerocopy.rst). The kernel pins the pages until the other side has
 * acknowledged them, and reports that on the socket's error queue.
 *
 * - What is small (headers, tables) goes by a plain send before, so nothing but guest RAM is ever
 *   pinned, and the buffers of the stream are free when a flush returns.
 * - A page may change while it is pinned. Then its dirty bit is set again, and what has left of it
 *   does not matter: the destination reads a later round only when it has all of this one.
 * - The last round need not be waited for. The guest is paused, so its pages do not change, and
 *   LOADED comes from a destination that has read every byte of them: nothing is sent again.
 * - At most PINNED_MAX bytes are on their way. RLIMIT_MEMLOCK and net.core.optmem_max may set a
 *   lower limit (ENOBUFS): then wait until something has left, and if nothing is under way, copy.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/errqueue.h>

#include "migration/channel-fd.h"

#define PINNED_MAX (16UL << 20)
#define CALLS_MAX  64 /* on their way */

struct zerocopy {
	enum zerocopy_mode mode;
	bool active;
	uint32_t next, done; /* numbers of calls, as the kernel counts: of the next, of the oldest
				that is on its way */
	uint64_t pinned;     /* bytes */
	uint64_t bytes[CALLS_MAX];
	bool left[CALLS_MAX];
};

static void add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* Calls number @first to @last have left. */
static void complete(struct fd_channel *c, uint32_t first, uint32_t last, bool copied)
{
	struct zerocopy *z = c->zerocopy;

	for (uint32_t i = first; i - first <= last - first && i - z->done < z->next - z->done;
	     i++) {
		z->left[i % CALLS_MAX] = true;
		z->pinned -= z->bytes[i % CALLS_MAX];
		add(&c->base.zerocopy_bytes, z->bytes[i % CALLS_MAX]);
		if (copied)
			add(&c->base.zerocopy_copied, z->bytes[i % CALLS_MAX]);
	}
	while (z->done != z->next && z->left[z->done % CALLS_MAX])
		z->done++;
	/* Pinning and being told costs more than a plain copy, so leave it. */
	if (copied && z->mode == ZEROCOPY_AUTO && z->active) {
		z->active = false;
		add(&c->base.zerocopy_fallbacks, 1);
	}
}

/* Take one message off the error queue; false if there is none. */
static bool reap_one(struct fd_channel *c)
{
	_Alignas(struct cmsghdr) char control[256];
	struct msghdr msg = { .msg_control = control, .msg_controllen = sizeof(control) };

	channel_count(&c->base.writes);
	if (recvmsg(c->fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
		return false;
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(&msg); cm; cm = CMSG_NXTHDR(&msg, cm)) {
		struct sock_extended_err e;

		if (cm->cmsg_len < CMSG_LEN(sizeof(e)) ||
		    (cm->cmsg_level != SOL_IP && cm->cmsg_level != SOL_IPV6))
			continue;
		memcpy(&e, CMSG_DATA(cm), sizeof(e));
		if (e.ee_origin == SO_EE_ORIGIN_ZEROCOPY && e.ee_errno == 0)
			complete(c, e.ee_info, e.ee_data, e.ee_code & SO_EE_CODE_ZEROCOPY_COPIED);
	}
	return true;
}

void channel_reap_zerocopy(struct channel *ch)
{
	struct fd_channel *c = (struct fd_channel *)ch;

	if (!ch->ops->writev_pages)
		return;
	while (c->zerocopy->done != c->zerocopy->next && reap_one(c))
		;
}

/* Wait until a call has left, which there is. */
static int wait_one(struct fd_channel *c)
{
	int timeout = c->timeout_ms;
	struct channel_wait wait = { timeout < 0 ? -1 : channel_now_ms() + timeout, -1 };
	int ret;

	if (reap_one(c))
		return 0;
	channel_count(&c->base.writes);
	ret = channel_wait_fd(c->fd, 0, &wait); /* POLLERR needs no asking */
	if (c->shut)
		return -ECANCELED;
	if (ret < 0)
		return ret;
	return reap_one(c) ? 0 : -EPIPE;
}

static bool refused(int error)
{
	return error == ENOBUFS || error == EMSGSIZE || error == EOPNOTSUPP;
}

/* One call. The bytes it took, 0 when it may be tried again, or a negative errno. */
static ssize_t send_once(struct fd_channel *c, struct iovec *iov, int n, int64_t since)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	struct zerocopy *z = c->zerocopy;
	ssize_t ret;

	if (c->shut)
		return -ECANCELED;
	channel_count(&c->base.writes);
	ret = sendmsg(c->fd, &msg, MSG_ZEROCOPY | MSG_NOSIGNAL);
	if (ret > 0) {
		z->bytes[z->next % CALLS_MAX] = (uint64_t)ret;
		z->left[z->next % CALLS_MAX] = false;
		z->next++;
		z->pinned += (uint64_t)ret;
		return ret;
	}
	if (ret < 0 && refused(errno))
		return errno == ENOBUFS && z->done != z->next ? wait_one(c) : -ENOBUFS;
	return fd_stalled(c, ret ? errno : EIO, POLLOUT, since, &c->base.writes);
}

static ssize_t zerocopy_writev_pages(struct channel *ch, struct iovec *iov, int n, int pages)
{
	struct fd_channel *c = (struct fd_channel *)ch;
	struct zerocopy *z = c->zerocopy;
	int64_t since = channel_now_ms();
	ssize_t total = 0, ret;

	channel_reap_zerocopy(ch);
	if (!z->active)
		return fd_send(ch, iov, n, 0);
	ret = pages ? fd_send(ch, iov, pages, MSG_MORE) : 0;
	iov += pages;
	n -= pages;
	while (ret >= 0 && n) {
		total += ret;
		ret = 0;
		if (z->next - z->done >= CALLS_MAX || z->pinned >= PINNED_MAX)
			ret = wait_one(c);
		ret = ret < 0 ? ret : send_once(c, iov, n, since);
		if (ret == -ENOBUFS) {
			add(&ch->zerocopy_fallbacks, 1);
			ret = fd_send(ch, iov, n, 0);
			n = 0;
		} else if (ret > 0) {
			n = fd_advance(&iov, n, (size_t)ret);
			since = channel_now_ms();
		}
	}
	return ret < 0 ? ret : total + ret;
}

/* Those of a plain descriptor, and writev_pages. */
static void set_ops(struct channel *ch)
{
	struct channel_ops *ops = &((struct fd_channel *)ch)->ops;

	*ops = fd_ops;
	ops->writev_pages = zerocopy_writev_pages;
	ch->ops = ops;
}

int channel_set_zerocopy(struct channel *ch, enum zerocopy_mode mode, struct error *err)
{
	struct fd_channel *c = (struct fd_channel *)ch;
	int ret = -EOPNOTSUPP;

	if (mode == ZEROCOPY_OFF)
		return 0;
	if (ch->ops == &fd_ops && c->socket)
		ret = setsockopt(c->fd, SOL_SOCKET, SO_ZEROCOPY, &(int){ 1 }, sizeof(int)) < 0
			      ? -errno
			      : 0;
	if (ret == 0)
		c->zerocopy = calloc(1, sizeof(*c->zerocopy));
	if (ret == 0 && c->zerocopy) {
		c->zerocopy->mode = mode;
		c->zerocopy->active = true;
		set_ops(ch);
		return 0;
	}
	if (mode == ZEROCOPY_ON)
		return error_set(err, ret ? ret : -ENOMEM, "connect", ch->name, "zero-copy",
				 "a TCP connection, which the kernel can send guest RAM over", "%s",
				 strerror(ret ? -ret : ENOMEM));
	add(&ch->zerocopy_fallbacks, 1);
	return 0;
}
