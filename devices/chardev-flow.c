/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The flow of bytes between a character device and the host.
 *
 * Whatever happens (the guest wrote, the device has room, a descriptor is ready, the machine runs
 * on) leads to pump() on the loop thread, which moves all that can be moved and then arms just the
 * watches of what it still waits for.
 */
#include "devices/chardev-flow.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/vm.h"

#define CTRL(c) ((c)&0x1f)

void chardev_kick(struct chardev *cd)
{
	uint64_t one = 1;

	if (cd->kicked)
		return;
	/* An eventfd that is full wakes the loop as well. */
	cd->kicked = write(cd->kick, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
}

/* Have a watch exactly while one is wanted: an idle one would report hang-ups without end. */
static int arm(struct chardev *cd, struct loop_fd **watch, bool wanted, int fd, uint32_t events,
	       loop_fd_fn fn)
{
	if (wanted && !*watch)
		return loop_fd_add(device_loop(cd->dev), fd, events, fn, cd, watch);
	if (!wanted && *watch) {
		loop_fd_del(*watch);
		*watch = NULL;
	}
	return 0;
}

/* Before a descriptor is closed. */
static void disarm(struct chardev *cd)
{
	arm(cd, &cd->listen_watch, false, -1, 0, NULL);
	arm(cd, &cd->out_watch, false, -1, 0, NULL);
	arm(cd, &cd->in_watch, false, -1, 0, NULL);
}

static void input_ended(struct chardev *cd)
{
	disarm(cd);
	chardev_host_close_in(&cd->host);
}

static void output_failed(struct chardev *cd)
{
	disarm(cd);
	cd->blocked = false;
	if (cd->host.listener < 0) {
		fprintf(stderr, "ferry: %s: output failed: %s; the rest is discarded\n",
			cd->dev->name, strerror(errno));
		cd->gone = true;
		cd->state->out_len = 0;
	}
	chardev_host_close_out(&cd->host);
}

static void write_out(struct chardev *cd)
{
	struct chardev_state *s = cd->state;

	while (s->out_len > 0 && cd->host.out >= 0 && !cd->blocked) {
		ssize_t n = chardev_host_write(&cd->host, s->out, s->out_len);

		if (n >= 0)
			chardev_shift(s->out, &s->out_len, (size_t)n);
		else if (errno == EAGAIN)
			cd->blocked = true;
		else if (errno != EINTR)
			output_failed(cd);
	}
}

static void help(void)
{
	static const char text[] = "\r\n"
				   "Ctrl-A x       end ferry\r\n"
				   "Ctrl-A h       this help\r\n"
				   "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

	fputs(text, stderr);
}

/* Whether the byte is for the guest. */
static bool filter_escape(struct chardev *cd, uint8_t c)
{
	bool was_escaped = cd->escaped;

	if (!cd->host.escapes)
		return true;
	cd->escaped = !was_escaped && c == CTRL('a');
	if (!was_escaped)
		return c != CTRL('a');
	if (c == 'x')
		vm_request(cd->dev->vm, VM_REQUEST_QUIT);
	else if (c == 'h')
		help();
	return c == CTRL('a');
}

/* Does another process have the host's side, before it has the guest or we, or from now on? */
static bool is_shared(const struct chardev *cd)
{
	return !cd->running && (cd->host.lent || device_is_handing_on(cd->dev));
}

/* Where input goes now, and how much of it. */
static uint8_t *input_room(struct chardev *cd, uint32_t **len, size_t *room)
{
	if (cd->running) {
		*len = &cd->state->in_len;
		*room = sizeof(cd->state->in) - **len;
		return cd->state->in;
	}
	*len = &cd->n_held;
	*room = cd->host.escapes && !is_shared(cd) ? sizeof(cd->held) - **len : 0;
	return cd->held;
}

static void read_in(struct chardev *cd)
{
	uint32_t *len;
	size_t room;
	uint8_t *in = input_room(cd, &len, &room);
	uint8_t *from = in + *len;
	ssize_t n;

	if (cd->host.in < 0 || room == 0 || !cd->readable)
		return;
	cd->readable = !cd->in_polled;
	n = read(cd->host.in, from, room);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		input_ended(cd);
	for (ssize_t i = 0; i < n; i++) {
		if (filter_escape(cd, from[i]))
			in[(*len)++] = from[i];
	}
}

static void deliver(struct chardev *cd)
{
	struct chardev_state *s = cd->state;
	size_t n;

	while (cd->running && s->in_len > 0) {
		n = cd->ops->receive(cd->dev, s->in, s->in_len);
		if (n == 0)
			return;
		chardev_shift(s->in, &s->in_len, n);
	}
}

static void on_in(void *opaque, uint32_t events);
static void on_out(void *opaque, uint32_t events);
static void on_client(void *opaque, uint32_t events);

static void arm_all(struct chardev *cd)
{
	bool connected = cd->host.in >= 0;
	uint32_t *len;
	size_t room;
	bool want_in;

	input_room(cd, &len, &room);
	want_in = connected && room > 0;
	arm(cd, &cd->listen_watch, cd->host.listener >= 0 && !connected && !is_shared(cd),
	    cd->host.listener, EPOLLIN, on_client);
	arm(cd, &cd->out_watch, cd->running && cd->blocked, cd->host.out, EPOLLOUT, on_out);
	/* epoll refuses what is always readable: regular files and /dev/null. */
	if (arm(cd, &cd->in_watch, want_in && cd->in_polled, cd->host.in, EPOLLIN, on_in) < 0)
		cd->in_polled = false, cd->readable = true;
	if (want_in && !cd->in_polled)
		chardev_kick(cd);
}

bool chardev_nobody_reads(const struct chardev *cd)
{
	return cd->host.out < 0 || cd->host.lossy;
}

static void pump(struct chardev *cd)
{
	read_in(cd);
	deliver(cd);
	if (cd->running)
		write_out(cd);
	if (cd->running && cd->refused &&
	    (chardev_nobody_reads(cd) || cd->state->out_len < sizeof(cd->state->out))) {
		cd->refused = false;
		cd->ops->writable(cd->dev);
	}
	arm_all(cd);
}

static void on_in(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;

	(void)events;
	pthread_mutex_lock(&cd->dev->lock);
	cd->readable = true;
	pump(cd);
	pthread_mutex_unlock(&cd->dev->lock);
}

static void on_out(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;

	(void)events;
	pthread_mutex_lock(&cd->dev->lock);
	cd->blocked = false;
	pump(cd);
	pthread_mutex_unlock(&cd->dev->lock);
}

static void on_client(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;

	(void)events;
	pthread_mutex_lock(&cd->dev->lock);
	if (!is_shared(cd) && chardev_host_accept(&cd->host)) {
		cd->in_polled = true;
		cd->readable = false;
		cd->blocked = false;
	}
	pump(cd);
	pthread_mutex_unlock(&cd->dev->lock);
}

static void on_kick(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;
	uint64_t n;

	(void)events;
	pthread_mutex_lock(&cd->dev->lock);
	if (read(cd->kick, &n, sizeof(n)) == sizeof(n)) {
		cd->kicked = false;
		pump(cd);
	}
	pthread_mutex_unlock(&cd->dev->lock);
}

int chardev_flow_open(struct chardev *cd)
{
	int ret;

	cd->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = cd->kick < 0 ? -errno : 0;
	if (ret == 0)
		ret = loop_fd_add(device_loop(cd->dev), cd->kick, EPOLLIN, on_kick, cd,
				  &cd->kick_watch);
	if (ret == 0)
		arm_all(cd);
	return ret;
}

/* Who ends ferry wants to see the last words, but not to wait for a reader that stands still. */
static void linger(struct chardev *cd)
{
	struct pollfd p = { .fd = cd->host.out, .events = POLLOUT };

	cd->blocked = false;
	write_out(cd);
	while (cd->blocked && !cd->host.lossy && poll(&p, 1, CHARDEV_LINGER_MS) > 0) {
		cd->blocked = false;
		write_out(cd);
	}
}

void chardev_flow_close(struct chardev *cd)
{
	if (cd->owned)
		linger(cd);
	disarm(cd);
	arm(cd, &cd->kick_watch, false, -1, 0, NULL);
	if (cd->kick >= 0)
		close(cd->kick);
}

void chardev_stop(struct chardev *cd)
{
	if (!cd)
		return;
	pthread_mutex_lock(&cd->dev->lock);
	if (cd->running)
		write_out(cd);
	cd->running = false;
	arm_all(cd);
	pthread_mutex_unlock(&cd->dev->lock);
}

void chardev_start(struct chardev *cd)
{
	struct chardev_state *s;

	if (!cd)
		return;
	s = cd->state;
	pthread_mutex_lock(&cd->dev->lock);
	cd->running = true;
	cd->host.lent = false;
	if (cd->gone)
		s->out_len = 0;
	/* What does not fit was typed at a guest that has not read its last 4 KiB either. */
	if (cd->n_held <= sizeof(s->in) - s->in_len) {
		memcpy(s->in + s->in_len, cd->held, cd->n_held);
		s->in_len += cd->n_held;
	}
	cd->n_held = 0;
	/* The device may wait for room that an earlier run, or the source, did not have. */
	cd->refused = true;
	pump(cd);
	pthread_mutex_unlock(&cd->dev->lock);
}
