/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors that cross a unix socket beside its bytes: SCM_RIGHTS of unix(7). */
#ifndef MIGRATION_RIGHTS_H
#define MIGRATION_RIGHTS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

/* At a time. What more a peer sends is closed at once, so it cannot fill our table of them. */
#define RIGHTS_MAX 16

/* Descriptors on their way: to be sent (not owned), or received and not yet taken (owned). */
struct rights {
	int fd[RIGHTS_MAX];
	unsigned int n;
};

/* Does socket @fd carry descriptors? */
bool rights_possible(int fd);

/* sendmsg(2) with the descriptors of @r, which is empty once its first byte has been sent. */
ssize_t rights_sendmsg(int fd, struct msghdr *msg, int flags, struct rights *r);

/* recvmsg(2); descriptors that come are appended to @r, close-on-exec. */
ssize_t rights_recvmsg(int fd, struct msghdr *msg, int flags, struct rights *r);

/* The oldest of @r, from now on the caller's; -ENOENT when there is none. */
int rights_take(struct rights *r);

/* Close all of a @r that were received. */
void rights_close(struct rights *r);

#endif
