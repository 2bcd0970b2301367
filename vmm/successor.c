/* SPDX-License-Identifier: BSD-2-Clause */
/* Starting the process that goes on with the guest, and being what is left of the first one. */
#include "vmm/successor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/command.h"
#include "vmm/control-server.h"
#include "vmm/vm.h"

#define GRACE_MS    500
#define ABOVE_HEIRS 16 /* descriptors that dup2 to the places of HEIR_… does not hit */
#define MAX_WORDS   16

extern char **environ;

static int failed(struct error *err, int code, const char *device, const char *expected)
{
	return error_set(err, code, "upgrade", device, "", expected, "%s", strerror(-code));
}

/* The command line: what of ours is not in the machine tree. */
static void fill_words(const struct vm *vm, const char *binary, const char **w)
{
	*w++ = binary;
	*w++ = "receive";
	*w++ = "fd:3";
	*w++ = "--heir";
	if (vm->control) {
		*w++ = "--control";
		*w++ = vm->control->path;
	}
	if (vm->stay)
		*w++ = "--stay";
	if (vm->exit_on_reset)
		*w++ = "--on-reboot=exit";
	if (vm->reset_on_crash)
		*w++ = "--on-crash=reset";
	if (vm->dirty_tracking != DIRTY_AUTO) {
		*w++ = "--dirty";
		*w++ = dirty_tracking_name(vm->dirty_tracking);
	}
	*w = NULL;
}

/* posix_spawn with @fds, of which the third may be missing, as HEIR_STREAM and so on. */
static int spawn(const struct vm *vm, const char *binary, const int fds[3], pid_t *pid)
{
	const char *words[MAX_WORDS];
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, broken;
	int ret;

	fill_words(vm, binary, words);
	sigemptyset(&none);
	sigemptyset(&broken);
	sigaddset(&broken, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	/* Our signals come by a descriptor, and we ignore this one; its own are its own matter. */
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &broken);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	for (int i = 0; i < 3; i++) {
		if (fds[i] >= 0)
			posix_spawn_file_actions_adddup2(&actions, fds[i], HEIR_STREAM + i);
	}
	posix_spawn_file_actions_addclosefrom_np(&actions, HEIR_CONTROL + (fds[2] >= 0));
	ret = -posix_spawn(pid, binary, &actions, &attr, (char **)(uintptr_t)words, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return ret;
}

static int start(struct vm *vm, const char *binary, int stream, int leash, struct successor *s)
{
	int fds[3], ret = 0;

	fds[0] = fcntl(stream, F_DUPFD_CLOEXEC, ABOVE_HEIRS);
	fds[1] = fcntl(leash, F_DUPFD_CLOEXEC, ABOVE_HEIRS);
	fds[2] = vm->control ? fcntl(vm->control->fd, F_DUPFD_CLOEXEC, ABOVE_HEIRS) : -1;
	if (fds[0] < 0 || fds[1] < 0 || (vm->control && fds[2] < 0))
		ret = -EMFILE;
	ret = ret < 0 ? ret : spawn(vm, binary, fds, &s->pid);
	for (int i = 0; i < 3; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	return ret;
}

int successor_start(struct vm *vm, const char *binary, int *stream, struct error *err)
{
	struct successor *s = calloc(1, sizeof(*s));
	int streams[2] = { -1, -1 }, leash[2] = { -1, -1 }, ret = -ENOMEM;

	if (s)
		ret = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, streams) < 0 ? -errno : 0;
	if (ret == 0 && vm->leash_fd < 0)
		ret = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, leash) < 0 ? -errno : 0;
	if (ret < 0) {
		failed(err, ret, binary, "sockets to talk to it");
	} else {
		ret = start(vm, binary, streams[1], vm->leash_fd < 0 ? leash[1] : vm->leash_fd, s);
		if (ret < 0)
			failed(err, ret, binary, "a program that can be run");
	}
	if (streams[1] >= 0)
		close(streams[1]);
	if (leash[1] >= 0)
		close(leash[1]);
	if (ret < 0) {
		if (streams[0] >= 0)
			close(streams[0]);
		if (leash[0] >= 0)
			close(leash[0]);
		free(s);
		return ret;
	}
	s->leash = leash[0];
	*stream = streams[0];
	vm->successor = s;
	return 0;
}

void successor_end(struct vm *vm)
{
	struct successor *s = vm->successor;
	struct pollfd pidfd = { .events = POLLIN };

	if (!s || s->ended || s->has_guest)
		return;
	pidfd.fd = (int)syscall(SYS_pidfd_open, s->pid, 0);
	if (pidfd.fd < 0 || poll(&pidfd, 1, GRACE_MS) <= 0)
		kill(s->pid, SIGKILL);
	if (pidfd.fd >= 0)
		close(pidfd.fd);
	while (waitpid(s->pid, &s->status, 0) < 0 && errno == EINTR)
		;
	s->ended = true;
}

static void release(struct successor *s)
{
	if (s->leash >= 0)
		close(s->leash);
	free(s);
}

void successor_abandon(struct vm *vm)
{
	successor_end(vm);
	if (vm->successor)
		release(vm->successor);
	vm->successor = NULL;
}

void successor_inherits(struct vm *vm)
{
	struct successor *s = vm->successor;

	s->has_guest = true;
	/* Before we end: our parent looks for this when we have. */
	if (s->leash < 0 && send(vm->leash_fd, &s->pid, sizeof(s->pid), MSG_NOSIGNAL) < 0)
		fprintf(stderr, "ferry: upgrade: the first process does not hear: %s\n",
			strerror(errno));
}

/* ---- Being an heir ---- */

static void on_leash(void *opaque, uint32_t events)
{
	struct vm *vm = opaque;

	(void)events;
	loop_fd_del(vm->leash_watch);
	vm->leash_watch = NULL;
	vm_request(vm, VM_REQUEST_QUIT);
}

int successor_be_one(struct vm *vm, struct error *err)
{
	int ret;

	for (int fd = HEIR_STREAM; fd <= HEIR_CONTROL; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	vm->leash_fd = HEIR_LEASH;
	/* Nothing is ever sent to us: this is a hang-up. */
	ret = loop_fd_add(vm->loop, vm->leash_fd, EPOLLIN, on_leash, vm, &vm->leash_watch);
	return ret < 0 ? failed(err, ret, "--heir", "to be started by ferry upgrade") : 0;
}

/* ---- Being what is left ---- */

/* End as the process ended whose @status this is. */
static int end_like(int status)
{
	sigset_t set;
	int sig;

	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	sig = WTERMSIG(status);
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
	return STATUS_ERROR;
}

/* Has the last heir ended? One that has told of another was not the last. */
static bool is_over(struct successor *s, int *status)
{
	while (waitpid(s->pid, status, WNOHANG) == s->pid) {
		if (recv(s->leash, &s->pid, sizeof(s->pid), MSG_DONTWAIT) != sizeof(s->pid))
			return true;
	}
	return false;
}

int successor_wait(struct successor *s)
{
	int status = 0, sig;
	sigset_t set;

	if (s->leash < 0) {
		free(s);
		return STATUS_OK;
	}
	/* Those of an heir that ends become our children. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	while (!is_over(s, &status)) {
		sig = sigwaitinfo(&set, NULL);
		if (sig > 0 && sig != SIGCHLD)
			kill(s->pid, sig);
	}
	release(s);
	return end_like(status);
}
