/* SPDX-License-Identifier: BSD-2-Clause */
/* What the channel types made of sockets share: connecting, accepting and name resolution. */
#ifndef MIGRATION_CHANNEL_SOCKET_H
#define MIGRATION_CHANNEL_SOCKET_H

#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "migration/channel.h"

/*
 * Connect a new stream socket to @addr. Returns the descriptor, blocking and close-on-exec, or a
 * negative errno: -ETIMEDOUT, -ECANCELED by @wait, else what connect met.
 */
int socket_connect(const struct sockaddr *addr, socklen_t len, const struct channel_wait *wait);

/* A listening socket. For unix:PATH it remembers the file it made. */
struct socket_listener {
	struct channel_listener base;
	int fd;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "" for tcp */
	dev_t dev;
	ino_t ino;
};

/* Listen on @fd, which is bound. It owns @fd, also on failure. Returns 0 or a negative errno. */
int socket_listener_new(int fd, const char *uri, struct socket_listener **listener);

/* Write a socket address as "192.0.2.1:80" or "[2001:db8::1]:80"; returns @buf. */
const char *socket_address(const struct sockaddr *addr, socklen_t len, char *buf, size_t size);

/*
 * getaddrinfo(3) that ends when @wait says so. Numbers are resolved at once, a name by a thread
 * that is left behind if it does not answer in time. Returns 0 and *@list for freeaddrinfo; else
 * *@gai is the EAI_ code (0 when the wait ended) and the result a negative errno.
 */
int socket_resolve(const char *host, const char *port, const struct addrinfo *hints,
		   const struct channel_wait *wait, struct addrinfo **list, int *gai);

#endif
