/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The server of the control socket: its clients, what they are owed, and events. All on the loop
 * thread and never waiting: what a client does not take is queued, one that takes nothing is
 * dropped.
 */
#include "vmm/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/control-server.h"

#define MAX_CLIENTS  16
#define MAX_REQUEST  65536
#define READ_SIZE    4096
#define OUT_HIGH     65536	/* owed to a client: read no more requests until it takes some */
#define OUT_MAX	     (1U << 20) /* … and here it is dropped */
#define RETRY_ACCEPT 100000000	/* ns */

struct client {
	struct control *control;
	int fd;
	struct loop_fd *watch;
	struct frame in;
	char *out; /* [out_start, out_len) has not been sent */
	size_t out_start, out_len, out_size;
	bool ready; /* capabilities are negotiated */
	bool eof;   /* sends no more, but may wait for replies */
	bool dead;  /* to be freed when nobody works on it */
	struct client *next;
};

static void free_client(struct client *client)
{
	loop_fd_del(client->watch);
	close(client->fd);
	frame_free(&client->in);
	free(client->out);
	free(client);
}

/* Free the dead, unless a request is being worked on further up the stack. */
static void bury(struct control *control)
{
	struct client **p = &control->clients;

	if (control->busy)
		return;
	while (*p) {
		struct client *client = *p;

		if (client->dead) {
			*p = client->next;
			control->n_clients--;
			free_client(client);
		} else {
			p = &client->next;
		}
	}
}

static void send_queued(struct client *client)
{
	size_t owed;
	uint32_t events;

	while (client->out_start < client->out_len && !client->dead) {
		ssize_t n = send(client->fd, client->out + client->out_start,
				 client->out_len - client->out_start, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0)
			client->out_start += (size_t)n;
		else if (errno == EAGAIN)
			break;
		else if (errno != EINTR)
			client->dead = true;
	}
	owed = client->out_len - client->out_start;
	events = (owed ? EPOLLOUT : 0) | (owed < OUT_HIGH && !client->eof ? EPOLLIN : 0);
	if (!events || loop_fd_events(client->watch, events) < 0)
		client->dead = true;
}

static bool reserve(struct client *client, size_t n)
{
	size_t owed = client->out_len - client->out_start;
	char *out;

	if (owed + n > OUT_MAX)
		return false;
	if (client->out_start && owed)
		memmove(client->out, client->out + client->out_start, owed);
	client->out_start = 0;
	client->out_len = owed;
	if (owed + n <= client->out_size)
		return true;
	out = realloc(client->out, 2 * (owed + n));
	if (!out)
		return false;
	client->out = out;
	client->out_size = 2 * (owed + n);
	return true;
}

static void queue(struct client *client, const char *line, size_t n)
{
	if (client->dead)
		return;
	if (!reserve(client, n)) {
		client->dead = true;
		return;
	}
	memcpy(client->out + client->out_len, line, n);
	client->out_len += n;
	send_queued(client);
}

/* Takes @json and makes it a line. malloc'd, NULL when memory is out. */
static char *to_line(json_t *json, size_t *len)
{
	char *text = json ? json_dumps(json, 0) : NULL, *line = NULL;

	if (text && asprintf(&line, "%s\r\n", text) < 0)
		line = NULL;
	*len = line ? strlen(line) : 0;
	free(text);
	json_decref(json);
	return line;
}

static void queue_json(struct client *client, json_t *json)
{
	size_t len;
	char *line = to_line(json, &len);

	if (line)
		queue(client, line, len);
	else
		client->dead = true; /* it would wait for this for ever */
	free(line);
}

static void take_bytes(struct client *client, const char *data, size_t n)
{
	while (n && !client->dead) {
		enum frame_event event;
		size_t used = frame_feed(&client->in, data, n, &event);

		data += used;
		n -= used;
		if (event == FRAME_TEXT)
			queue_json(client, control_answer(client->control->vm, &client->ready,
							  client->control->aside, client->in.text,
							  client->in.len));
		else if (event == FRAME_TOO_LONG)
			queue_json(client, control_refusal("GenericError",
							   "JSON parse error, more than %d bytes",
							   MAX_REQUEST));
		else if (event == FRAME_TOO_DEEP)
			queue_json(client, control_refusal("GenericError",
							   "JSON parse error, more than %d levels",
							   FRAME_MAX_DEPTH));
	}
}

static void on_client(void *opaque, uint32_t events)
{
	struct client *client = opaque;
	struct control *control = client->control;
	char data[READ_SIZE];
	ssize_t n;

	control->busy = true;
	/* One read a turn: the loop has others to serve. */
	if (!client->eof && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
		n = recv(client->fd, data, sizeof(data), MSG_DONTWAIT);
		if (n > 0)
			take_bytes(client, data, (size_t)n);
		else if (n == 0)
			client->eof = true;
		else if (errno != EAGAIN && errno != EINTR)
			client->dead = true;
	}
	if (!client->dead)
		send_queued(client);
	control->busy = false;
	bury(control);
}

static void add_client(struct control *control, int fd)
{
	struct client *client = calloc(1, sizeof(*client));

	if (!client || control->n_clients == MAX_CLIENTS ||
	    loop_fd_add(control->loop, fd, EPOLLIN, on_client, client, &client->watch) < 0) {
		free(client);
		close(fd);
		return;
	}
	client->control = control;
	client->fd = fd;
	client->in.max = MAX_REQUEST;
	client->next = control->clients;
	control->clients = client;
	control->n_clients++;
	queue_json(client, control_greeting());
}

void control_let_in(struct control *control, bool in)
{
	control->inherited &= !in;
	loop_fd_events(control->watch, in ? EPOLLIN : 0);
}

static void on_listener(void *opaque, uint32_t events)
{
	struct control *control = opaque;
	bool away;
	int fd;

	/* Whoever comes now shall meet the process that goes on with the guest, if that succeeds.
	 */
	if (control->vm->handing_on &&
	    (control->vm->state == VM_FINISH_MIGRATE || control->vm->state == VM_POSTMIGRATE)) {
		control_let_in(control, false);
		loop_timer_set(control->retry, RETRY_ACCEPT);
		return;
	}
	(void)events;
	pthread_mutex_lock(&control->accept_lock);
	away = control->away;
	fd = away ? -1 : accept4(control->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	pthread_mutex_unlock(&control->accept_lock);
	if (away) {
		control_let_in(control, false);
		return;
	}
	if (fd >= 0) {
		add_client(control, fd);
		bury(control);
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		/* Out of descriptors: the connection keeps waiting, so do not spin on it. */
		control_let_in(control, false);
		loop_timer_set(control->retry, RETRY_ACCEPT);
	}
}

static void on_retry(void *opaque)
{
	control_let_in(opaque, true);
}

struct event {
	struct vm *vm;
	char *line;
	size_t len;
};

static void send_event(void *opaque)
{
	struct event *event = opaque;
	struct control *control = event->vm->control;

	for (struct client *c = control ? control->clients : NULL; c; c = c->next) {
		if (c->ready)
			queue(c, event->line, event->len);
	}
	if (control)
		bury(control);
	free(event->line);
	free(event);
}

void control_event(struct vm *vm, const char *name, json_t *data)
{
	struct event *event = malloc(sizeof(*event));
	struct timespec now;
	json_t *json;

	clock_gettime(CLOCK_REALTIME, &now);
	json = json_pack("{s:{s:I, s:I}, s:s}", "timestamp", "seconds", (json_int_t)now.tv_sec,
			 "microseconds", (json_int_t)now.tv_nsec / 1000, "event", name);
	if (data)
		json_object_set_new(json, "data", data);
	if (!event) {
		json_decref(json);
		return;
	}
	event->vm = vm;
	event->line = to_line(json, &event->len);
	if (!event->line)
		free(event);
	else if (loop_is_current(vm->loop))
		send_event(event);
	else
		loop_post(vm->loop, send_event, event);
}

int control_serve(struct control *control, bool now)
{
	int ret = loop_timer_add(control->loop, on_retry, control, &control->retry);

	pthread_mutex_init(&control->accept_lock, NULL);
	return ret < 0 ? ret
		       : loop_fd_add(control->loop, control->fd, now ? EPOLLIN : 0, on_listener,
				     control, &control->watch);
}

void control_end_serving(struct control *control)
{
	if (control->watch)
		loop_fd_del(control->watch);
	if (control->retry)
		loop_timer_del(control->retry);
	while (control->clients) {
		struct client *client = control->clients;

		control->clients = client->next;
		send_queued(client);
		free_client(client);
	}
	pthread_mutex_destroy(&control->accept_lock);
}

/* With @fd < 0 at a socket of its own. */
static int begin(struct vm *vm, const char *path, int fd, struct error *err)
{
	struct control *control = calloc(1, sizeof(*control));
	int ret;

	if (!control)
		return error_set(err, -ENOMEM, "control", path, "", "memory", "none");
	control->vm = vm;
	control->loop = vm->loop;
	control_vm_listen(control);
	vm->control = control;
	control->fd = -1;
	ret = fd < 0 ? control_bind(control, path, err) : control_take(control, path, fd, err);
	ret = ret < 0 ? ret : control_serve(control, fd < 0);
	if (ret < 0) {
		error_set(err, ret, "control", path, "", "to watch it", "%s", strerror(-ret));
		control_close(vm);
	}
	return ret;
}

int control_open(struct vm *vm, const char *path, struct error *err)
{
	return begin(vm, path, -1, err);
}

int control_inherit(struct vm *vm, const char *path, int fd, struct error *err)
{
	return begin(vm, path, fd, err);
}

void control_close(struct vm *vm)
{
	struct control *control = vm->control;

	if (!control)
		return;
	pthread_mutex_lock(&vm->control_lock);
	control_end_aside(control);
	vm->control = NULL;
	pthread_mutex_unlock(&vm->control_lock);
	vm_unlisten(vm, &control->listener);
	control_unbind(control);
	control_end_serving(control);
	free(control);
}
