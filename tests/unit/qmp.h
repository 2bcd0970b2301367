/* SPDX-License-Identifier: BSD-2-Clause */
/* A machine without hardware that serves QMP on a thread, and a bare peer to talk to it. */
#ifndef TESTS_UNIT_QMP_H
#define TESTS_UNIT_QMP_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/control.h"
#include "vmm/vm.h"

#define ANSWER_MS 10000 /* far more than any answer takes, also under a sanitizer */

struct served {
	struct vm *vm;
	pthread_t thread;
	char dir[32], path[64];
};

struct peer {
	int fd;
	size_t len;
	char buf[65536];
};

static void *serve(void *opaque)
{
	struct served *s = opaque;

	loop_run(s->vm->loop);
	return NULL;
}

static inline int start(void **state)
{
	struct served *s = calloc(1, sizeof(*s));
	struct error err = { 0 };

	strcpy(s->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/control", s->dir);
	assert_int_equal(vm_create(&s->vm, &err), 0);
	assert_int_equal(control_open(s->vm, s->path, &err), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	*state = s;
	return 0;
}

/* Let the machine end; the file system must be as it was. */
static inline int finish(void **state)
{
	struct served *s = *state;

	loop_stop(s->vm->loop);
	pthread_join(s->thread, NULL);
	control_close(s->vm);
	vm_destroy(s->vm);
	assert_int_equal(access(s->path, F_OK), -1);
	assert_int_equal(rmdir(s->dir), 0);
	free(s);
	return 0;
}

static inline int raw_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static inline void say(struct peer *p, const char *text)
{
	assert_int_equal(send(p->fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* The next line, NULL at the end of what the server has to say. */
static inline json_t *hear(struct peer *p)
{
	json_error_t at;
	json_t *json;
	char *end;

	while (!(end = memchr(p->buf, '\n', p->len))) {
		struct pollfd pfd = { .fd = p->fd, .events = POLLIN };
		ssize_t n;

		assert_true(p->len < sizeof(p->buf));
		assert_int_equal(poll(&pfd, 1, ANSWER_MS), 1);
		n = recv(p->fd, p->buf + p->len, sizeof(p->buf) - p->len, 0);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return NULL;
		assert_true(n > 0);
		p->len += (size_t)n;
	}
	json = json_loadb(p->buf, (size_t)(end + 1 - p->buf), 0, &at);
	assert_non_null(json);
	p->len -= (size_t)(end + 1 - p->buf);
	memmove(p->buf, end + 1, p->len);
	return json;
}

/* The text of @json at a path of keys "error.desc"; "" when there is none. Takes @json. */
static inline const char *at(json_t *json, const char *path)
{
	static _Thread_local char text[1024];
	json_t *value = json;
	char key[64];

	text[0] = '\0';
	for (const char *p = path; *p && value;) {
		size_t n = strcspn(p, ".");

		snprintf(key, sizeof(key), "%.*s", (int)n, p);
		value = json_object_get(value, key);
		p += n + (p[n] == '.');
	}
	if (json_is_string(value))
		snprintf(text, sizeof(text), "%s", json_string_value(value));
	else if (value) {
		char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

		snprintf(text, sizeof(text), "%s", dump);
		free(dump);
	}
	json_decref(json);
	return text;
}

static inline struct peer *meet(struct served *s)
{
	struct peer *p = calloc(1, sizeof(*p));

	p->fd = raw_connect(s->path);
	assert_string_not_equal(at(hear(p), "QMP.version.qemu.major"), "");
	return p;
}

static inline struct peer *meet_and_negotiate(struct served *s)
{
	struct peer *p = meet(s);

	say(p, "{\"execute\": \"qmp_capabilities\"}");
	assert_string_equal(at(hear(p), "return"), "{}");
	return p;
}

static inline void part(struct peer *p)
{
	close(p->fd);
	free(p);
}

#endif
