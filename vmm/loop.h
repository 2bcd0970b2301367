/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The loop thread: one epoll that owns the control socket, timers, device backends and virtqueues.
 * Everything is called on the thread that is in loop_run(), except where it says "any thread".
 */
#ifndef VMM_LOOP_H
#define VMM_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "vmm/error.h"

struct loop;
struct loop_fd;
struct loop_timer;

typedef void (*loop_fd_fn)(void *opaque, uint32_t events);
typedef void (*loop_fn)(void *opaque);

/* The creating thread is taken for the loop thread until loop_run() is called. */
int loop_create(struct loop **out, struct error *err);
void loop_destroy(struct loop *loop);

/* Dispatch until loop_stop(). */
void loop_run(struct loop *loop);
/* Any thread, also a signal handler. */
void loop_stop(struct loop *loop);

/*
 * Watch @fd (not owned) for EPOLLIN/EPOLLOUT. loop_fd_del() may be called from a callback, also
 * from the one being removed; no callback runs after it. Adding and deleting: loop thread, or any
 * thread while the loop does not run.
 */
int loop_fd_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *opaque,
		struct loop_fd **out);
int loop_fd_events(struct loop_fd *lfd, uint32_t events);
void loop_fd_del(struct loop_fd *lfd);

/* One-shot timers on CLOCK_MONOTONIC. @ns from now; a negative value disarms. */
int loop_timer_add(struct loop *loop, loop_fn fn, void *opaque, struct loop_timer **out);
void loop_timer_set(struct loop_timer *timer, int64_t ns);
void loop_timer_del(struct loop_timer *timer);

/* Run @fn on the loop thread, soon, in the order posted. Any thread. The loop owns nothing of
 * @opaque. */
void loop_post(struct loop *loop, loop_fn fn, void *opaque);
/*
 * Run @fn on the loop thread and wait until it returned; called on the loop thread (or while the
 * loop is not running) it runs at once. The loop thread must therefore never wait for a thread
 * that may be in here.
 */
void loop_call(struct loop *loop, loop_fn fn, void *opaque);

bool loop_is_current(const struct loop *loop);

#endif
