/* SPDX-License-Identifier: BSD-2-Clause */
/* tcp:HOST:PORT, HOST being a name, an IPv4 address or an IPv6 address in brackets (RFC 3986). */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <unistd.h>

#include "migration/channel-socket.h"

struct tcp_place {
	char host[NI_MAXHOST]; /* "" when listening on any address */
	char port[8];
};

/* Split @rest into host and port, and let the port be a number from @lowest. */
static int parse(const char *phase, const char *uri, const char *rest, long lowest,
		 struct tcp_place *place, struct error *err)
{
	const char *host = rest, *colon = strrchr(rest, ':'), *end = colon;
	char *port_end;
	long port;

	if (!colon)
		return error_set(err, -EINVAL, phase, uri, "port", "tcp:HOST:PORT", "no port");
	if (*host == '[') {
		host++;
		end = colon - 1;
		if (end < host || *end != ']')
			return error_set(err, -EINVAL, phase, uri, "host", "[IPv6]:PORT",
					 "no closing bracket before the port");
	} else if (memchr(host, ':', (size_t)(end - host))) {
		return error_set(err, -EINVAL, phase, uri, "host", "IPv6 addresses in brackets",
				 "%s", rest);
	}
	port = strtol(colon + 1, &port_end, 10);
	if (colon[1] < '0' || colon[1] > '9' || *port_end || port < lowest || port > 65535) {
		error_set(err, -EINVAL, phase, uri, "port",
			  lowest ? "a number from 1 to 65535" : "a number from 0 to 65535",
			  "\"%s\"", colon + 1);
		return -EINVAL;
	}
	if ((size_t)(end - host) >= sizeof(place->host))
		return error_set(err, -EINVAL, phase, uri, "host", "a shorter name", "%zd bytes",
				 end - host);
	memcpy(place->host, host, (size_t)(end - host));
	place->host[end - host] = '\0';
	snprintf(place->port, sizeof(place->port), "%ld", port);
	return 0;
}

static int resolve(const char *phase, const char *uri, const struct tcp_place *place, int flags,
		   const struct channel_wait *wait, struct addrinfo **list, struct error *err)
{
	const struct addrinfo hints = {
		.ai_flags = flags | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	};
	int gai = 0, ret = socket_resolve(place->host, place->port, &hints, wait, list, &gai);

	if (gai)
		return error_set(err, ret, phase, uri, "host", "an address or a name that resolves",
				 "%s: %s", place->host, gai_strerror(gai));
	if (ret == -ETIMEDOUT)
		return error_set(err, ret, phase, uri, "host", "an answer from the name service",
				 "none within the time limit");
	return ret;
}

/* Why one address did not work, for people. */
static const char *reason(int error)
{
	switch (error) {
	case -ECONNREFUSED:
		return "connection refused, nobody listens";
	case -ETIMEDOUT:
		return "no answer within its time, filtered or down";
	default:
		return strerror(-error);
	}
}

/* Try every address; what is left of the deadline is shared among those not yet tried. */
static int connect_any(const char *uri, const struct addrinfo *list,
		       const struct channel_wait *wait, struct error *err)
{
	char tried[256] = "", text[NI_MAXHOST];
	size_t used = 0;
	int left = 0, fd = -EADDRNOTAVAIL;

	for (const struct addrinfo *a = list; a; a = a->ai_next)
		left++;
	for (const struct addrinfo *a = list; a; a = a->ai_next, left--) {
		struct channel_wait share = *wait;

		if (wait->until >= 0)
			share.until = channel_now_ms() + channel_wait_left(wait) / left;
		fd = socket_connect(a->ai_addr, a->ai_addrlen, &share);
		if (fd >= 0 || fd == -ECANCELED)
			return fd;
		used += (size_t)snprintf(
			tried + used, sizeof(tried) - used, "%s%s: %s", used ? "; " : "",
			socket_address(a->ai_addr, a->ai_addrlen, text, sizeof(text)), reason(fd));
		used = MIN(used, sizeof(tried) - 1);
	}
	return error_set(err, fd, "connect", uri, "address", "a listener", "%s", tried);
}

static int tcp_connect(const char *uri, const char *rest, const struct channel_wait *wait,
		       struct channel **ch, struct error *err)
{
	struct tcp_place place;
	struct addrinfo *list;
	int ret = parse("connect", uri, rest, 1, &place, err);

	if (!ret && !place.host[0])
		ret = error_set(err, -EINVAL, "connect", uri, "host", "a host", "none");
	if (!ret)
		ret = resolve("connect", uri, &place, 0, wait, &list, err);
	if (ret)
		return ret;
	ret = connect_any(uri, list, wait, err);
	freeaddrinfo(list);
	return ret < 0 ? ret : channel_from_fd(ret, uri, false, ch);
}

static int bind_one(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), ret;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	/* The IPv6 "any" address then takes IPv4 too. */
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 0 }, sizeof(int));
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	return fd;
}

/* Bind the first address that can be: for "any" IPv6 before IPv4, else in the resolver's order. */
static int bind_any(const struct addrinfo *list, bool any)
{
	int fd = -EADDRNOTAVAIL;

	for (int pass = any ? 0 : 1; pass < 2; pass++) {
		for (const struct addrinfo *a = list; a; a = a->ai_next) {
			if (!pass && a->ai_family != AF_INET6)
				continue;
			fd = bind_one(a);
			if (fd >= 0)
				return fd;
		}
	}
	return fd;
}

static int tcp_listen(const char *uri, const char *rest, struct channel_listener **listener,
		      struct error *err)
{
	const struct channel_wait forever = { -1, -1 };
	struct sockaddr_storage addr = { 0 };
	socklen_t len = sizeof(addr);
	struct socket_listener *l;
	struct tcp_place place;
	struct addrinfo *list;
	char text[NI_MAXHOST];
	int fd, ret;

	ret = parse("listen", uri, rest, 0, &place, err);
	if (!ret)
		ret = resolve("listen", uri, &place, AI_PASSIVE, &forever, &list, err);
	if (ret)
		return ret;
	fd = bind_any(list, !place.host[0]);
	freeaddrinfo(list);
	if (fd < 0)
		return error_set(err, fd, "listen", uri, "address",
				 "a free port at an address of this host", "%s", strerror(-fd));
	ret = socket_listener_new(fd, uri, &l);
	if (ret)
		return error_set(err, ret, "listen", uri, "address", "a free port", "%s",
				 strerror(-ret));
	getsockname(fd, (struct sockaddr *)&addr, &len);
	socket_address((struct sockaddr *)&addr, len, text, sizeof(text));
	snprintf(l->base.uri, sizeof(l->base.uri), "tcp:%.140s", text);
	*listener = &l->base;
	return 0;
}

static const struct channel_type tcp_type = {
	.scheme = "tcp",
	.form = "tcp:HOST:PORT",
	.foreign = true,
	.many = true,
	.connect = tcp_connect,
	.listen = tcp_listen,
};
CHANNEL_TYPE(tcp_type);
