/* SPDX-License-Identifier: BSD-2-Clause */
/* The client side of the control socket: blocking calls with a deadline. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/control-server.h"

#define MAX_MESSAGE (16U << 20)

struct control_client {
	int fd, timeout_ms;
	char *path; /* for errors */
	struct frame in;
	char data[4096]; /* [at, n) has been read but not looked at */
	size_t at, n;
	json_t *events; /* that came while an answer was awaited */
	json_int_t id;	/* of the last request */
};

static uint64_t deadline_after(int timeout_ms)
{
	return timeout_ms < 0 ? UINT64_MAX : now_ns() + (uint64_t)timeout_ms * 1000000;
}

/* Wait for @events until @deadline. */
static int await(struct control_client *client, short events, uint64_t deadline, struct error *err)
{
	struct pollfd pfd = { .fd = client->fd, .events = events };
	uint64_t now = now_ns(), ms = deadline > now ? (deadline - now + 999999) / 1000000 : 0;
	int n = poll(&pfd, 1, deadline == UINT64_MAX ? -1 : ms > INT32_MAX ? INT32_MAX : (int)ms);

	if (n > 0 || (n < 0 && errno == EINTR))
		return 0;
	if (n < 0)
		return error_set(err, -errno, "control", client->path, "", "a socket", "%m");
	return error_set(err, -ETIMEDOUT, "control", client->path, "", "an answer in time", "none");
}

static int gone(struct control_client *client, struct error *err)
{
	return error_set(err, -EPIPE, "control", client->path, "", "a running ferry",
			 "that it has ended");
}

/* Take what has arrived up to the end of a message. False: there is none yet. */
static int parse(struct control_client *client, json_t **message, struct error *err)
{
	enum frame_event event;

	client->at +=
		frame_feed(&client->in, client->data + client->at, client->n - client->at, &event);
	if (event == FRAME_MORE)
		return 0;
	if (event == FRAME_TEXT)
		*message =
			json_loadb(client->in.text, client->in.len, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(*message))
		return 1;
	json_decref(*message);
	*message = NULL;
	return error_set(err, -EPROTO, "control", client->path, "", "QMP", "something else");
}

static int receive(struct control_client *client, uint64_t deadline, json_t **message,
		   struct error *err)
{
	*message = NULL;
	for (;;) {
		int ret = parse(client, message, err);
		ssize_t n;

		if (ret)
			return ret < 0 ? ret : 0;
		ret = await(client, POLLIN, deadline, err);
		if (ret < 0)
			return ret;
		n = recv(client->fd, client->data, sizeof(client->data), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return gone(client, err);
		client->at = 0;
		client->n = n < 0 ? 0 : (size_t)n;
	}
}

static int send_all(struct control_client *client, const char *data, uint64_t deadline,
		    struct error *err)
{
	size_t left = strlen(data);

	while (left) {
		ssize_t n = send(client->fd, data, left, MSG_NOSIGNAL | MSG_DONTWAIT);
		int ret;

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return gone(client, err);
		if (n > 0) {
			data += n;
			left -= (size_t)n;
			continue;
		}
		ret = await(client, POLLOUT, deadline, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* {"error": …} as one of ours. One of another server has a sentence only. */
static int take_error(struct control_client *client, json_t *error, struct error *err)
{
	const char *desc = json_string_value(json_object_get(error, "desc"));
	json_t *data = json_object_get(error, "data");

	if (err && json_is_object(data)) {
		error_from_json(data, err);
		return err->code;
	}
	return error_set(err, -EREMOTEIO, "control", client->path, "", "", "%s",
			 desc ? desc : "an error without a description");
}

int control_execute(struct control_client *client, const char *command, json_t *args, json_t **ret,
		    struct error *err)
{
	uint64_t deadline = deadline_after(client->timeout_ms);
	json_t *request = json_pack("{s:s, s:I}", "execute", command, "id", ++client->id);
	json_t *message;
	char *text;
	int code;

	if (args)
		json_object_set_new(request, "arguments", args);
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (ret)
		*ret = NULL;
	if (!text)
		return error_set(err, -EINVAL, "control", command, "arguments", "UTF-8",
				 "other bytes");
	code = send_all(client, text, deadline, err);
	free(text);
	while (code == 0 && (code = receive(client, deadline, &message, err)) == 0) {
		json_t *value = json_object_get(message, "return");
		json_t *error = json_object_get(message, "error");

		if (json_object_get(message, "event")) {
			json_array_append_new(client->events, message);
			continue;
		}
		if (error)
			code = take_error(client, error, err);
		else if (value && ret)
			*ret = json_incref(value);
		json_decref(message);
		if (value || error)
			break;
	}
	return code;
}

int control_next_event(struct control_client *client, int timeout_ms, json_t **event,
		       struct error *err)
{
	uint64_t deadline = deadline_after(timeout_ms);
	struct error late = { 0 };
	int ret;

	if (json_array_size(client->events)) {
		*event = json_incref(json_array_get(client->events, 0));
		json_array_remove(client->events, 0);
		return 0;
	}
	do {
		ret = receive(client, deadline, event, &late);
		if (ret == -ETIMEDOUT)
			return 0;
		if (ret < 0) {
			if (err && !err->code)
				*err = late;
			return ret;
		}
		if (json_object_get(*event, "event"))
			return 0;
		json_decref(*event);
	} while (true);
}

static int greet(struct control_client *client, struct error *err)
{
	json_t *message;
	int ret = receive(client, deadline_after(client->timeout_ms), &message, err);

	if (ret < 0)
		return ret;
	if (!json_object_get(message, "QMP"))
		ret = error_set(err, -EPROTO, "control", client->path, "", "a QMP greeting",
				"something else");
	json_decref(message);
	return ret < 0 ? ret : control_execute(client, "qmp_capabilities", NULL, NULL, err);
}

static int connect_path(struct control_client *client, const char *path, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval limit = { client->timeout_ms / 1000, client->timeout_ms % 1000 * 1000 };

	if (!*path || strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, -EINVAL, "control", path, "path", "1 to 107 bytes",
				 "%zu bytes", strlen(path));
	strcpy(addr.sun_path, path);
	/* It bounds the wait in connect() for a server with many clients in its queue, unix(7). */
	if (client->timeout_ms > 0)
		setsockopt(client->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(client->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return error_set(err, -errno, "control", path, "",
				 "the control socket of a running ferry", "%s",
				 errno == ECONNREFUSED ? "that nobody listens" : strerror(errno));
	return 0;
}

int control_connect(const char *path, int timeout_ms, struct control_client **out,
		    struct error *err)
{
	struct control_client *client = calloc(1, sizeof(*client));
	int ret;

	*out = NULL;
	if (!client)
		return error_set(err, -ENOMEM, "control", path, "", "memory", "none");
	client->timeout_ms = timeout_ms;
	client->in.max = MAX_MESSAGE;
	client->events = json_array();
	client->path = strdup(path);
	client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->fd < 0 || !client->path || !client->events)
		ret = error_set(err, client->fd < 0 ? -errno : -ENOMEM, "control", path, "",
				"a socket", "none");
	else
		ret = connect_path(client, path, err);
	if (ret == 0)
		ret = greet(client, err);
	if (ret < 0)
		control_disconnect(client);
	else
		*out = client;
	return ret;
}

void control_disconnect(struct control_client *client)
{
	if (!client)
		return;
	if (client->fd >= 0)
		close(client->fd);
	frame_free(&client->in);
	json_decref(client->events);
	free(client->path);
	free(client);
}
