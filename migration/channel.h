/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A channel moves bytes between two ferries, or between ferry and a file. It knows nothing of what
 * the bytes mean; struct stream (stream.h) batches for it, records (record.h) give the meaning.
 *
 *   tcp:HOST:PORT   IPv4, [IPv6] or a name; listening, HOST may be empty (any) and PORT 0 (any)
 *   unix:PATH       a stream socket; the listener makes the socket file and removes it again
 *   fd:N            an open, inherited descriptor (socket, pipe or file); the channel owns it
 *   file:PATH       connect creates or replaces the file (save), listen opens it (restore)
 *
 * To add one: a new channel-NAME.c with a CHANNEL_TYPE at its end. Nothing else needs to change.
 *
 * Threads: one thread may read and another write at the same time. channel_shutdown and
 * channel_set_timeout may be called from any thread. Nobody may use a channel during its close.
 *
 * Time: every wait has a limit in milliseconds; a negative limit means for ever.
 * Errors: negative errno. -ETIMEDOUT no progress within the limit, -ECANCELED the channel was shut
 * down or the cancel descriptor became readable, -EPIPE and -ECONNRESET the other side is gone.
 */
#ifndef MIGRATION_CHANNEL_H
#define MIGRATION_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "vmm/error.h"

struct channel;
struct channel_listener;

/* What a channel can do. Of iovecs there are 1 to IOV_MAX, none of them empty. */
struct channel_ops {
	/* Send all of @buf. Returns @len or a negative errno, never less. */
	ssize_t (*put_buffer)(struct channel *ch, const void *buf, size_t len);
	/* Receive 1 to @len bytes, whatever is there first. Returns the count, 0 at the end. */
	ssize_t (*get_buffer)(struct channel *ch, void *buf, size_t len);
	/* Give everything back, the structure included. Returns 0 or what the last writes met. */
	int (*close)(struct channel *ch);

	/*
	 * Optional: send all of @iov in as few system calls as possible. Returns as put_buffer. The
	 * array is scratch: a channel that goes on after a short write advances it in place.
	 */
	ssize_t (*writev_buffer)(struct channel *ch, struct iovec *iov, int n);
	/* Optional: fill @iov as far as one system call can. Returns the count, 0 at the end. */
	ssize_t (*readv_buffer)(struct channel *ch, const struct iovec *iov, int n);
	/* Optional: make blocked and later readers and writers return -ECANCELED. Any thread. */
	void (*shutdown)(struct channel *ch);
	/* Optional: limit the time without any progress in one call. Any thread. */
	void (*set_timeout)(struct channel *ch, int ms);
	/* Optional: bytes sent that are still on this side. */
	uint64_t (*pending)(struct channel *ch);
	/* Where carries_fds is set: as channel_give_fds and channel_take_fd below. */
	int (*give_fds)(struct channel *ch, const int *fds, unsigned int n);
	int (*take_fd)(struct channel *ch);
	/*
	 * Optional: as writev_buffer, but from piece @pages on the memory is guest RAM, which may
	 * be read until long after the return, when it may have changed. Instead of that.
	 */
	ssize_t (*writev_pages)(struct channel *ch, struct iovec *iov, int n, int pages);
	/* Optional: the descriptor, if it is that of a regular file, else -EINVAL. */
	int (*file)(const struct channel *ch);
	/* Optional: wait for something to read; stream_wait() of stream.h says how. */
	int (*wait)(struct channel *ch, int wake_fd, int ms);
};

/* The part that all channels share; a channel type embeds it at the start of its own structure. */
struct channel {
	const struct channel_ops *ops;
	char name[128];		 /* the other end, as a URI, for messages */
	bool carries_fds;	 /* give_fds and take_fd work */
	_Atomic uint64_t writes; /* system calls made to send, poll included */
	_Atomic uint64_t reads;	 /* system calls made to receive, poll included */
	/* Payload sent with MSG_ZEROCOPY and known to have left; … that the kernel copied after
	 * all; and how often a plain send took its place. channel-zerocopy.c */
	_Atomic uint64_t zerocopy_bytes, zerocopy_copied, zerocopy_fallbacks;
};

/*
 * Open a channel to @uri. The whole attempt (name resolution, every address of the name) ends
 * within @deadline_ms. It ends early with -ECANCELED when @cancel_fd (an eventfd or pipe, -1 for
 * none) becomes readable; nothing is read from it. *@ch is then the caller's, to channel_close.
 * Errors: {"connect", URI, field, expected, got}.
 */
int channel_connect(const char *uri, int deadline_ms, int cancel_fd, struct channel **ch,
		    struct error *err);

/*
 * Get ready to be connected to at @uri. On success *@listener is the caller's, to
 * channel_listener_close; until then the port or socket file is taken.
 * Errors: {"listen", URI, field, expected, got}.
 */
int channel_listen(const char *uri, struct channel_listener **listener, struct error *err);

/*
 * The URI under which the listener is reached, with the port that port 0 became. Valid as long as
 * the listener.
 */
const char *channel_listener_uri(const struct channel_listener *listener);

/*
 * Wait for one connection. Deadline, cancel and ownership as in channel_connect; the listener stays
 * open. fd:N and file:PATH have exactly one connection to give (`once`), a second accept gets
 * -EBUSY.
 */
int channel_accept(struct channel_listener *listener, int deadline_ms, int cancel_fd,
		   struct channel **ch, struct error *err);

/* Stop listening; removes the socket file of unix:PATH if it is still ours. NULL is allowed. */
void channel_listener_close(struct channel_listener *listener);

/*
 * Every later read and write fails with -ETIMEDOUT when not a single byte moved for @ms; a call
 * that began well notices it after at most 2 * @ms. A new channel has no limit, and regular files
 * never time out. Any thread.
 */
void channel_set_timeout(struct channel *ch, int ms);

/*
 * Make blocked and all later reads and writes return -ECANCELED; the other side sees the end of the
 * stream. For cancel. Any thread, any number of times; the channel still wants its channel_close.
 */
void channel_shutdown(struct channel *ch);

/*
 * Bytes that were sent but have not left yet: what the kernel keeps for a slow other side. 0 where
 * nobody can tell.
 */
uint64_t channel_pending(struct channel *ch);

/* Can descriptors cross? Over sockets of one host (unix:PATH, and fd:N of a socketpair). */
bool channel_carries_fds(const struct channel *ch);

/*
 * Send @n descriptors (up to RIGHTS_MAX) together with the bytes that are sent next. They stay the
 * caller's, open until those bytes are out. The writing thread; 0 or a negative errno.
 */
int channel_give_fds(struct channel *ch, const int *fds, unsigned int n);

/*
 * The oldest descriptor that has come with what was read so far, close-on-exec and from now on the
 * caller's; -ENOENT when there is none. The reading thread. Those that nobody took are closed with
 * the channel.
 */
int channel_take_fd(struct channel *ch);

/*
 * Open the regular file that @ch is once more, with @flags of open(2): a descriptor of the caller's
 * with a position of its own, for reading or writing anywhere. -EINVAL if it is none.
 */
int channel_file(const struct channel *ch, int flags);

/*
 * Close and free. For a saved file this is where the data reach the disk, so look at the result:
 * 0 or a negative errno. NULL is allowed.
 */
int channel_close(struct channel *ch);

enum zerocopy_mode { ZEROCOPY_OFF, ZEROCOPY_ON, ZEROCOPY_AUTO };

/*
 * Let the kernel send guest RAM from where it is, if it can. With ZEROCOPY_AUTO a channel that
 * cannot do it is left as it is, and it ends when the kernel is seen to copy anyway; with
 * ZEROCOPY_ON that is an error, and goes on. Before anything is sent.
 */
int channel_set_zerocopy(struct channel *ch, enum zerocopy_mode mode, struct error *err);
/* Look once more for what has left, to complete the counters. The writing thread. */
void channel_reap_zerocopy(struct channel *ch);

/* Can there be several connections to @uri? */
bool channel_is_many(const char *uri);

/* Can somebody be at the other end of @uri who has no rights on this host? */
bool channel_is_foreign(const char *uri);

/* The forms of URI there are, "tcp:HOST:PORT, unix:PATH, …", for --help and errors. Returns @buf.
 */
const char *channel_forms(char *buf, size_t size);

/* ---- For the authors of a channel type ---- */

/* How long to wait and what ends the wait early. */
struct channel_wait {
	int64_t until; /* channel_now_ms() at which to give up, negative for never */
	int cancel_fd; /* -1 for none */
};

struct channel_type {
	const char *scheme; /* "tcp" */
	const char *form;   /* "tcp:HOST:PORT" */
	bool foreign;	    /* who is at the other end need not have any rights on this host */
	bool many;	    /* can be connected to more than once */
	/* @rest is the URI behind "scheme:"; @uri all of it, for errors. */
	int (*connect)(const char *uri, const char *rest, const struct channel_wait *wait,
		       struct channel **ch, struct error *err);
	int (*listen)(const char *uri, const char *rest, struct channel_listener **listener,
		      struct error *err);
};

/* Embedded at the start of a type's own listener. */
struct channel_listener {
	int (*accept)(struct channel_listener *listener, const struct channel_wait *wait,
		      struct channel **ch, struct error *err);
	void (*close)(struct channel_listener *listener);
	char uri[160]; /* where to connect to */
	bool once;     /* has one connection to give: fd:N, file:PATH */
};

/* Collected by the linker, so that a type is one file and no list names it. */
#define CHANNEL_TYPE(type)                                             \
	static const struct channel_type *const channel_type_of_##type \
		__attribute__((used, section("channel_types"))) = &type

/* Monotonic milliseconds. */
int64_t channel_now_ms(void);

/* Milliseconds left of @wait for poll(2): -1 for ever, 0 when it is over. */
int channel_wait_left(const struct channel_wait *wait);

/*
 * Wait until @fd has one of @events (POLLIN, POLLOUT), counting hang-ups as such. Returns 0,
 * -ETIMEDOUT, -ECANCELED or what poll met.
 */
int channel_wait_fd(int fd, short events, const struct channel_wait *wait);

/* Count one system call in ch->writes or ch->reads. Only the writing or reading thread. */
void channel_count(_Atomic uint64_t *counter);

/*
 * Make a channel of an open descriptor: sendmsg and recvmsg for a socket, writev and readv for the
 * rest. It owns @fd from here on, also on failure. @sync: fsync at close.
 */
int channel_from_fd(int fd, const char *name, bool sync, struct channel **ch);

/* A listener that has one channel to give: fd:N, file:PATH. It owns @fd as above. */
int channel_listener_from_fd(int fd, const char *uri, struct channel_listener **listener);

#endif
