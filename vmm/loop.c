/* SPDX-License-Identifier: BSD-2-Clause */
/* The event loop: epoll for descriptors, one eventfd for wake-ups; loop-timer.c has the timers, and
 * loop-poll.c what is looked at before the loop sleeps. */
#include "vmm/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/loop-poll.h"
#include "vmm/loop-timer.h"

#define BATCH 16

struct loop_fd {
	struct loop *loop;
	int fd;
	uint32_t events;
	loop_fd_fn fn; /* NULL once deleted */
	void *opaque;
	struct loop_fd *next_dead;
};

/* Something to run on the loop thread: on the heap for loop_post, on a stack for loop_call. */
struct post {
	loop_fn fn;
	void *opaque;
	bool *done; /* of loop_call, guarded by the loop's lock */
	struct post *next;
};

struct loop {
	int epoll_fd, wake_fd;
	struct loop_timers timers;
	struct loop_polls polls;
	_Atomic pthread_t thread;
	_Atomic bool stop;

	bool dispatching;     /* between epoll_wait and the last callback of its batch */
	struct loop_fd *dead; /* deleted meanwhile, freed after the batch */

	pthread_mutex_t lock; /* of the rest */
	pthread_cond_t called;
	bool running;
	struct post *posts, **posts_tail;
};

static void wake(struct loop *loop)
{
	int saved = errno;
	uint64_t one = 1;
	ssize_t n = write(loop->wake_fd, &one, sizeof(one));

	(void)n; /* EAGAIN: the counter is full, so a wake-up is pending anyway */
	errno = saved;
}

/* Of wake_fd and of the timerfd: the value does not matter, that it is gone does. */
static void drain(int fd)
{
	uint64_t count;
	ssize_t n = read(fd, &count, sizeof(count));

	(void)n;
}

static int epoll_update(struct loop *loop, int op, int fd, uint32_t events, void *ptr)
{
	struct epoll_event ev = { .events = events, .data.ptr = ptr };

	return epoll_ctl(loop->epoll_fd, op, fd, &ev) < 0 ? -errno : 0;
}

int loop_create(struct loop **out, struct error *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int ret;

	*out = NULL;
	if (!loop)
		return error_set(err, -ENOMEM, "start", "event loop", "", "memory", "none");
	loop->posts_tail = &loop->posts;
	atomic_init(&loop->thread, pthread_self());
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->called, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop_timers_init(&loop->timers);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || loop->timers.fd < 0)
		ret = -errno;
	else if ((ret = epoll_update(loop, EPOLL_CTL_ADD, loop->wake_fd, EPOLLIN,
				     &loop->wake_fd)) == 0)
		ret = epoll_update(loop, EPOLL_CTL_ADD, loop->timers.fd, EPOLLIN, &loop->timers);
	if (ret < 0) {
		loop_destroy(loop);
		errno = -ret;
		return error_set(err, ret, "start", "event loop", "", "a few descriptors", "%m");
	}
	*out = loop;
	return 0;
}

static void free_dead(struct loop *loop)
{
	while (loop->dead) {
		struct loop_fd *lfd = loop->dead;

		loop->dead = lfd->next_dead;
		free(lfd);
	}
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	free_dead(loop);
	while (loop->posts) {
		struct post *post = loop->posts;

		loop->posts = post->next;
		free(post);
	}
	close_fd(loop->epoll_fd);
	close_fd(loop->wake_fd);
	close_fd(loop->timers.fd);
	pthread_cond_destroy(&loop->called);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

int loop_fd_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *opaque,
		struct loop_fd **out)
{
	struct loop_fd *lfd = calloc(1, sizeof(*lfd));
	int ret;

	*out = NULL;
	if (!lfd)
		return -ENOMEM;
	lfd->loop = loop;
	lfd->fd = fd;
	lfd->fn = fn;
	lfd->opaque = opaque;
	ret = loop_fd_events(lfd, events);
	if (ret < 0) {
		free(lfd);
		return ret;
	}
	*out = lfd;
	return 0;
}

int loop_fd_events(struct loop_fd *lfd, uint32_t events)
{
	int op, ret;

	if (events == lfd->events)
		return 0;
	/* epoll reports a hang-up even to those who ask for nothing, again and again. */
	op = !events ? EPOLL_CTL_DEL : lfd->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	ret = epoll_update(lfd->loop, op, lfd->fd, events, lfd);
	if (ret == 0)
		lfd->events = events;
	return ret;
}

void loop_fd_del(struct loop_fd *lfd)
{
	struct loop *loop;

	if (!lfd)
		return;
	loop = lfd->loop;
	loop_fd_events(lfd, 0);
	lfd->fn = NULL;
	lfd->next_dead = loop->dead;
	loop->dead = lfd;
	if (!loop->dispatching)
		free_dead(loop);
}

int loop_timer_add(struct loop *loop, loop_fn fn, void *opaque, struct loop_timer **out)
{
	return loop_timers_add(&loop->timers, fn, opaque, out);
}

bool loop_poll_start(struct loop *loop, struct loop_poll *poll)
{
	return loop_polls_start(&loop->polls, poll);
}

void loop_poll_stop(struct loop *loop, struct loop_poll *poll)
{
	loop_polls_stop(&loop->polls, poll);
}

static void add_post(struct loop *loop, struct post *post)
{
	if (!loop->posts)
		wake(loop);
	*loop->posts_tail = post;
	loop->posts_tail = &post->next;
}

void loop_post(struct loop *loop, loop_fn fn, void *opaque)
{
	struct post *post = calloc(1, sizeof(*post));

	if (!post)
		abort(); /* a lost post would be a hang that nobody can explain */
	post->fn = fn;
	post->opaque = opaque;
	pthread_mutex_lock(&loop->lock);
	add_post(loop, post);
	pthread_mutex_unlock(&loop->lock);
}

void loop_call(struct loop *loop, loop_fn fn, void *opaque)
{
	bool done = false;
	struct post post = { .fn = fn, .opaque = opaque, .done = &done };

	pthread_mutex_lock(&loop->lock);
	if (!loop->running || loop_is_current(loop)) {
		pthread_mutex_unlock(&loop->lock);
		fn(opaque);
		return;
	}
	add_post(loop, &post);
	while (!done)
		pthread_cond_wait(&loop->called, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}

/* Run what has been posted up to now, and with @all what is posted meanwhile. Lock held. */
static void run_posts(struct loop *loop, bool all)
{
	do {
		struct post *post = loop->posts;

		loop->posts = NULL;
		loop->posts_tail = &loop->posts;
		while (post) {
			struct post *next = post->next;

			pthread_mutex_unlock(&loop->lock);
			post->fn(post->opaque);
			pthread_mutex_lock(&loop->lock);
			if (post->done) {
				*post->done = true;
				pthread_cond_broadcast(&loop->called);
			} else {
				free(post);
			}
			post = next;
		}
	} while (all && loop->posts);
}

static void dispatch(struct loop *loop, const struct epoll_event *ev)
{
	struct loop_fd *lfd = ev->data.ptr;

	if (ev->data.ptr == &loop->wake_fd) {
		drain(loop->wake_fd);
		pthread_mutex_lock(&loop->lock);
		run_posts(loop, false);
		pthread_mutex_unlock(&loop->lock);
	} else if (ev->data.ptr == &loop->timers) {
		drain(loop->timers.fd);
		loop_timers_run(&loop->timers);
	} else if (lfd->fn && lfd->events) {
		uint32_t events = ev->events & (lfd->events | EPOLLERR | EPOLLHUP);

		if (events)
			lfd->fn(lfd->opaque, events);
	}
}

void loop_run(struct loop *loop)
{
	struct epoll_event events[BATCH];

	atomic_store(&loop->thread, pthread_self());
	pthread_mutex_lock(&loop->lock);
	loop->running = true;
	pthread_mutex_unlock(&loop->lock);
	while (!atomic_load(&loop->stop)) {
		bool awake = loop_polls_look(&loop->polls);
		int n;

		loop_timers_arm(&loop->timers);
		n = epoll_wait(loop->epoll_fd, events, BATCH, awake ? 0 : -1);
		loop->dispatching = loop->polls.open = true;
		for (int i = 0; i < n; i++)
			dispatch(loop, &events[i]);
		loop->dispatching = false;
		free_dead(loop);
	}
	loop_polls_sleep(&loop->polls);
	/* Nobody may be left waiting in loop_call. */
	pthread_mutex_lock(&loop->lock);
	run_posts(loop, true);
	loop->running = false;
	pthread_mutex_unlock(&loop->lock);
	atomic_store(&loop->stop, false);
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	wake(loop);
}

bool loop_is_current(const struct loop *loop)
{
	return pthread_equal(atomic_load(&loop->thread), pthread_self());
}
