/* SPDX-License-Identifier: BSD-2-Clause */
/* The common front of all channels: find the type of a URI, keep deadlines, name what failed. */
#include "migration/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/param.h>
#include <time.h>

/* Bounds of the section that CHANNEL_TYPE fills, made by the linker. */
extern const struct channel_type *const __start_channel_types[];
extern const struct channel_type *const __stop_channel_types[];

const char *channel_forms(char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = '\0';
	for (const struct channel_type *const *t = __start_channel_types; t < __stop_channel_types;
	     t++) {
		int n = snprintf(buf + used, size - used, "%s%s", used ? ", " : "", (*t)->form);

		used = MIN(size - 1, used + (size_t)n);
	}
	return buf;
}

/* The type whose scheme starts @uri; *@rest is then what follows the colon. */
static const struct channel_type *find_type(const char *uri, const char **rest)
{
	size_t len = strcspn(uri, ":");

	for (const struct channel_type *const *t = __start_channel_types; t < __stop_channel_types;
	     t++) {
		if (uri[len] && strlen((*t)->scheme) == len && !memcmp((*t)->scheme, uri, len)) {
			*rest = uri + len + 1;
			return *t;
		}
	}
	return NULL;
}

bool channel_is_foreign(const char *uri)
{
	const char *rest;
	const struct channel_type *type = find_type(uri, &rest);

	return !type || type->foreign;
}

bool channel_is_many(const char *uri)
{
	const char *rest;
	const struct channel_type *type = find_type(uri, &rest);

	return type && type->many;
}

static int unknown_scheme(const char *phase, const char *uri, struct error *err)
{
	char forms[160];

	return error_set(err, -EINVAL, phase, uri, "URI", channel_forms(forms, sizeof(forms)), "%s",
			 uri);
}

static struct channel_wait wait_from_ms(int deadline_ms, int cancel_fd)
{
	return (struct channel_wait){
		.until = deadline_ms < 0 ? -1 : channel_now_ms() + deadline_ms,
		.cancel_fd = cancel_fd,
	};
}

/* Say the failures that are the same for all types; a type may have said it better before. */
static int failed(int ret, const char *phase, const char *uri, const char *what, int deadline_ms,
		  struct error *err)
{
	char expected[64];

	switch (ret) {
	case -ETIMEDOUT:
		snprintf(expected, sizeof(expected), "%s within %d ms", what, deadline_ms);
		return error_set(err, ret, phase, uri, "", expected, "none");
	case -ECANCELED:
		return error_set(err, ret, phase, uri, "", "", "cancelled");
	default:
		return error_set(err, ret, phase, uri, "", what, "%s", strerror(-ret));
	}
}

int channel_connect(const char *uri, int deadline_ms, int cancel_fd, struct channel **ch,
		    struct error *err)
{
	struct channel_wait wait = wait_from_ms(deadline_ms, cancel_fd);
	const char *rest = NULL;
	const struct channel_type *type = find_type(uri, &rest);
	int ret;

	*ch = NULL;
	if (!type)
		return unknown_scheme("connect", uri, err);
	ret = type->connect(uri, rest, &wait, ch, err);
	return ret ? failed(ret, "connect", uri, "a connection", deadline_ms, err) : 0;
}

int channel_listen(const char *uri, struct channel_listener **listener, struct error *err)
{
	const char *rest = NULL;
	const struct channel_type *type = find_type(uri, &rest);
	int ret;

	*listener = NULL;
	if (!type)
		return unknown_scheme("listen", uri, err);
	ret = type->listen(uri, rest, listener, err);
	return ret ? failed(ret, "listen", uri, "a place to listen", -1, err) : 0;
}

const char *channel_listener_uri(const struct channel_listener *listener)
{
	return listener->uri;
}

int channel_accept(struct channel_listener *listener, int deadline_ms, int cancel_fd,
		   struct channel **ch, struct error *err)
{
	struct channel_wait wait = wait_from_ms(deadline_ms, cancel_fd);
	int ret;

	*ch = NULL;
	ret = listener->accept(listener, &wait, ch, err);
	return ret ? failed(ret, "listen", listener->uri, "a connection", deadline_ms, err) : 0;
}

void channel_listener_close(struct channel_listener *listener)
{
	if (listener)
		listener->close(listener);
}

void channel_set_timeout(struct channel *ch, int ms)
{
	if (ch->ops->set_timeout)
		ch->ops->set_timeout(ch, ms);
}

uint64_t channel_pending(struct channel *ch)
{
	return ch->ops->pending ? ch->ops->pending(ch) : 0;
}

void channel_shutdown(struct channel *ch)
{
	if (ch->ops->shutdown)
		ch->ops->shutdown(ch);
}

bool channel_carries_fds(const struct channel *ch)
{
	return ch->carries_fds;
}

int channel_give_fds(struct channel *ch, const int *fds, unsigned int n)
{
	return channel_carries_fds(ch) ? ch->ops->give_fds(ch, fds, n) : -EOPNOTSUPP;
}

int channel_take_fd(struct channel *ch)
{
	return channel_carries_fds(ch) ? ch->ops->take_fd(ch) : -ENOENT;
}

int channel_file(const struct channel *ch, int flags)
{
	int fd = ch->ops->file ? ch->ops->file(ch) : -EINVAL;
	char path[32];

	if (fd < 0)
		return fd;
	/* proc(5): this opens the file that it is, also when its name is another's by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int channel_close(struct channel *ch)
{
	return ch ? ch->ops->close(ch) : 0;
}

/* ---- For channel types ---- */

int64_t channel_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int channel_wait_left(const struct channel_wait *wait)
{
	int64_t left;

	if (wait->until < 0)
		return -1;
	left = wait->until - channel_now_ms();
	return left < 0 ? 0 : (int)MIN(left, INT32_MAX);
}

int channel_wait_fd(int fd, short events, const struct channel_wait *wait)
{
	struct pollfd fds[2] = {
		{ .fd = fd, .events = events },
		{ .fd = wait->cancel_fd, .events = POLLIN },
	};
	int ret;

	do {
		ret = poll(fds, 2, channel_wait_left(wait));
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	if (fds[1].revents)
		return -ECANCELED;
	return ret ? 0 : -ETIMEDOUT;
}

void channel_count(_Atomic uint64_t *counter)
{
	uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, old + 1, memory_order_relaxed);
}
