/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the control socket share; commands need only vmm/control.h. */
#ifndef VMM_CONTROL_SERVER_H
#define VMM_CONTROL_SERVER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "vmm/control.h"
#include "vmm/vm.h"

/*
 * A stream of bytes, cut into JSON texts (control-frame.c). A text ends where its brackets are
 * closed, so that clients may send several on a line, one on several lines, or no line ends at all.
 * What never becomes JSON ends at a line end, and the byte 0xff ends anything.
 */
struct frame {
	size_t max; /* bytes a text may have; set by the owner, the rest starts as zero */
	char *text; /* so far; not terminated */
	size_t len, size;
	size_t depth; /* of open brackets */
	bool string, escape;
	bool ended; /* text is whole, and has been handed out */
	bool skip;  /* too long or too deep, and said so: drop what is left of it */
};

#define FRAME_MAX_DEPTH 32

enum frame_event {
	FRAME_MORE,	/* all was taken, no text has ended */
	FRAME_TEXT,	/* frame->text is one, until the next call */
	FRAME_TOO_LONG, /* said once a text */
	FRAME_TOO_DEEP,
};

/* Take bytes until something happens; returns how many were taken. */
size_t frame_feed(struct frame *frame, const char *data, size_t n, enum frame_event *event);
void frame_free(struct frame *frame);

/*
 * One request in, one reply out (control-qmp.c). @ready is the client's: set once capabilities have
 * been negotiated. @aside: only what control_is_aside(). Never NULL but when memory is out. Loop
 * thread, or with @aside that of control-aside.c.
 */
json_t *control_answer(struct vm *vm, bool *ready, bool aside, const char *text, size_t len);
json_t *control_greeting(void);
/* {"error": {"class", "desc"}} */
__attribute__((format(printf, 2, 3))) json_t *control_refusal(const char *class, const char *fmt,
							      ...);
/* The QMP VersionInfo of this build. */
json_t *control_version(void);

struct client;
struct control_aside;

struct control {
	struct vm *vm;
	struct loop *loop; /* whose thread serves it: the machine's, or one of control-aside.c */
	bool aside;	   /* the latter */
	int fd;
	struct loop_fd *watch;
	struct loop_timer *retry; /* of accept, after it ran out of descriptors */
	char *path;
	dev_t dev; /* of the file that we made at path */
	ino_t ino;
	struct client *clients;
	unsigned int n_clients;
	bool inherited;		       /* the socket is another's still: nobody is to come in */
	pthread_mutex_t accept_lock;   /* of away, and held over accept; a leaf */
	bool away;		       /* who comes in is not ours … */
	struct control_aside *instead; /* … but this one's; vm->control_lock */
	bool busy; /* a client's request is being worked on: nobody may free clients */

	/* Of control-vm.c: tells clients what becomes of the machine. */
	struct vm_listener listener;
	bool quit; /* a client said so */
};

/* Listen at @path: sets fd, path, dev and ino (control-socket.c). */
int control_bind(struct control *control, const char *path, struct error *err);
/* The same by a socket that another process has made there and will not remove. */
int control_take(struct control *control, const char *path, int fd, struct error *err);
/* Undo it, also after an error. */
void control_unbind(struct control *control);

/* Have who comes in, or not. */
void control_let_in(struct control *control, bool in);

void control_vm_listen(struct control *control);

/* Serve who comes in at control->fd, on control->loop, at once or when they are let in; a negative
 * errno. And undo it, also after an error: clients get what is owed to them, if they take it. */
int control_serve(struct control *control, bool now);
void control_end_serving(struct control *control);

/* May @command be run there (control-aside.c)? And end what control_step_aside() began. */
bool control_is_aside(const char *command);
void control_end_aside(struct control *control);

#endif
