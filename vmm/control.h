/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control socket: QMP over a unix socket, with the command and field names of the public
 * schema. Commands register themselves by CONTROL_COMMAND() and are run on the loop thread; each
 * must return within milliseconds, so what takes long is started here and reported by events.
 */
#ifndef VMM_CONTROL_H
#define VMM_CONTROL_H

#include <jansson.h>
#include <stdbool.h>

#include "vmm/error.h"

struct vm;
struct control;

struct control_command {
	const char *name; /* "query-status" */
	/* Names of the arguments it takes, separated by spaces, "" for none; others are refused
	 * before run is called. NULL: any, run looks after them. */
	const char *args;
	/*
	 * @args is an object, possibly empty, borrowed. Set *ret to what "return" shall be (a new
	 * reference; left NULL it is {}). On an error the client gets class GenericError, the
	 * sentence as desc, and the five facts of @err in "data".
	 */
	int (*run)(struct vm *vm, json_t *args, json_t **ret, struct error *err);
};

#define CONTROL_COMMAND(c)                                   \
	static const struct control_command *const c##_entry \
		__attribute__((used, section("control_commands"))) = &(c)

extern const struct control_command *const __start_control_commands[];
extern const struct control_command *const __stop_control_commands[];
#define for_each_control_command(pp)                                             \
	for (const struct control_command *const *pp = __start_control_commands; \
	     pp < __stop_control_commands; pp++)

/* Serve @path; a stale socket file there is replaced, a live one or another kind of file refused.
 */
int control_open(struct vm *vm, const char *path, struct error *err);
/* Close all clients, after what was queued for them was sent if they take it; removes the file. */
void control_close(struct vm *vm);

/*
 * The loop thread may be asleep for long: serve who connects from now on by another thread, which
 * knows few commands (control-aside.c). And back again; those clients are hung up on. Any thread
 * but that one.
 */
void control_step_aside(struct vm *vm);
void control_step_back(struct vm *vm);

/* Send an event to all clients past capabilities negotiation. Takes @data (may be NULL). Any
 * thread. */
void control_event(struct vm *vm, const char *name, json_t *data);

/* {phase, device, field, expected, got, desc} of an error, new reference. */
json_t *error_to_json(const struct error *err);
/* The reverse, of hostile input; what is missing becomes "". The code becomes -EREMOTEIO. */
void error_from_json(const json_t *json, struct error *err);
/* A JSON string of any bytes: what is not UTF-8 shows as '?'. New reference. */
json_t *json_text(const char *text);

/* Typed access to arguments: 0 and the value, 0 with *@out untouched when absent and not @required,
 * -EINVAL with @err filled otherwise. */
int control_arg_int(json_t *args, const char *name, bool required, int64_t min, int64_t max,
		    int64_t *out, struct error *err);
int control_arg_bool(json_t *args, const char *name, bool required, bool *out, struct error *err);
int control_arg_string(json_t *args, const char *name, bool required, const char **out,
		       struct error *err);

/* As control_open, but by listening socket @fd, which another process has made at @path and serves
 * until the guest has come here. */
int control_inherit(struct vm *vm, const char *path, int fd, struct error *err);

/*
 * The client side, for ferry ctl, status, migrate, save. Blocking, own connection each. The peer
 * has @timeout_ms for each answer, for ever when it is negative; -ETIMEDOUT when it needs longer.
 */
struct control_client;
int control_connect(const char *path, int timeout_ms, struct control_client **out,
		    struct error *err);
/* Run one command; takes @args (may be NULL). Events that arrive meanwhile are queued. */
int control_execute(struct control_client *client, const char *command, json_t *args, json_t **ret,
		    struct error *err);
/* Next event within @timeout_ms, 0 and *event NULL when none came, -EPIPE when the peer is gone. */
int control_next_event(struct control_client *client, int timeout_ms, json_t **event,
		       struct error *err);
void control_disconnect(struct control_client *client);

#endif
