/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A second server of the control socket, on a thread of its own, for while the loop thread may be
 * asleep: in postcopy it sleeps when a device, or a vCPU that it wants to pause, touches a page
 * that is not there, and with the connection broken the page only comes when somebody says
 * migrate-recover. So while a migration is paused, who connects is served here. What these commands
 * touch is atomic, locked or as it was when the machine was built; all others would have to wait
 * for the loop thread, and are refused. Those who connected before stay where they were. There are
 * no events here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/control-server.h"

struct control_aside {
	struct control server;
	pthread_t thread;
};

static const char *const commands[] = {
	"query-migrate",   "query-status",    "query-version",
	"query-name",	   "query-cpus-fast", "query-memory-size-summary",
	"migrate-recover", "migrate-pause",
};

bool control_is_aside(const char *command)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(command, commands[i]) == 0)
			return true;
	}
	return false;
}

static void *serve(void *opaque)
{
	struct control_aside *a = opaque;

	loop_run(a->server.loop);
	return NULL;
}

static void free_aside(struct control_aside *a)
{
	control_end_serving(&a->server);
	if (a->server.fd >= 0)
		close(a->server.fd);
	loop_destroy(a->server.loop);
	free(a);
}

static struct control_aside *start(struct control *control)
{
	struct control_aside *a = calloc(1, sizeof(*a));
	struct error err = { 0 };
	int ret;

	if (!a)
		return NULL;
	a->server.vm = control->vm;
	a->server.aside = true;
	a->server.fd = dup(control->fd);
	ret = a->server.fd < 0 ? -errno : loop_create(&a->server.loop, &err);
	ret = ret < 0 ? ret : control_serve(&a->server, true);
	ret = ret < 0 ? ret : -pthread_create(&a->thread, NULL, serve, a);
	if (ret == 0)
		return a;
	free_aside(a);
	return NULL;
}

void control_step_aside(struct vm *vm)
{
	struct control *control;

	pthread_mutex_lock(&vm->control_lock);
	control = vm->control;
	if (control && !control->instead) {
		control->instead = start(control);
		pthread_mutex_lock(&control->accept_lock);
		control->away = control->instead != NULL;
		pthread_mutex_unlock(&control->accept_lock);
	}
	pthread_mutex_unlock(&vm->control_lock);
}

static void let_in_again(void *opaque)
{
	struct vm *vm = opaque;

	if (vm->control && !vm->control->away)
		control_let_in(vm->control, true);
}

/* Lock held. */
void control_end_aside(struct control *control)
{
	if (!control->instead)
		return;
	loop_stop(control->instead->server.loop);
	pthread_join(control->instead->thread, NULL);
	free_aside(control->instead);
	control->instead = NULL;
	pthread_mutex_lock(&control->accept_lock);
	control->away = false;
	pthread_mutex_unlock(&control->accept_lock);
}

void control_step_back(struct vm *vm)
{
	pthread_mutex_lock(&vm->control_lock);
	if (vm->control && vm->control->instead) {
		control_end_aside(vm->control);
		loop_post(vm->loop, let_in_again, vm);
	}
	pthread_mutex_unlock(&vm->control_lock);
}
