/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Name resolution that can be given up. getaddrinfo(3) has no deadline and may take half a minute
 * when a name server is silent, so it runs in a thread of its own; whoever is last frees what they
 * share.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migration/channel-socket.h"

struct lookup {
	_Atomic int users;
	int done; /* eventfd */
	char *host, *port;
	struct addrinfo hints;
	struct addrinfo *list;
	int gai;
};

static void lookup_put(struct lookup *l)
{
	if (atomic_fetch_sub(&l->users, 1) > 1)
		return;
	if (l->list)
		freeaddrinfo(l->list);
	if (l->done >= 0)
		close(l->done);
	free(l->host);
	free(l->port);
	free(l);
}

static struct lookup *lookup_new(const char *host, const char *port, const struct addrinfo *hints)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->users = 1;
	l->done = eventfd(0, EFD_CLOEXEC);
	l->host = strdup(host);
	l->port = strdup(port);
	l->hints = *hints;
	if (l->done < 0 || !l->host || !l->port) {
		lookup_put(l);
		return NULL;
	}
	return l;
}

static void *lookup_thread(void *arg)
{
	struct lookup *l = arg;

	l->gai = getaddrinfo(l->host, l->port, &l->hints, &l->list);
	eventfd_write(l->done, 1);
	lookup_put(l);
	return NULL;
}

/* Start the thread, detached and with all signals blocked: they are for others. */
static int lookup_start(struct lookup *l)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t thread;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	l->users++;
	ret = pthread_create(&thread, &attr, lookup_thread, l);
	if (ret)
		l->users--;
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -ret;
}

int socket_resolve(const char *host, const char *port, const struct addrinfo *hints,
		   const struct channel_wait *wait, struct addrinfo **list, int *gai)
{
	struct addrinfo numeric = *hints;
	struct lookup *l;
	eventfd_t one;
	int ret;

	numeric.ai_flags |= AI_NUMERICHOST;
	*gai = getaddrinfo(host[0] ? host : NULL, port, &numeric, list);
	if (*gai != EAI_NONAME)
		return *gai ? -EADDRNOTAVAIL : 0;

	*gai = 0;
	l = lookup_new(host, port, hints);
	if (!l)
		return -ENOMEM;
	ret = lookup_start(l);
	if (!ret)
		ret = channel_wait_fd(l->done, POLLIN, wait);
	if (!ret) {
		eventfd_read(l->done, &one);
		*gai = l->gai;
		*list = l->list;
		l->list = NULL;
		ret = *gai ? -EADDRNOTAVAIL : 0;
	}
	lookup_put(l);
	return ret;
}
