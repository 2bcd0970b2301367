/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Raw mode of the terminal, and its way back.
 *
 * A process has one terminal, and what restores it after a crash is a signal handler, which has no
 * argument. So this is the one place of ferry with variables at file scope: two machines in one
 * process do share their terminal.
 *
 * Ways out, and who puts the mode back:
 *   terminal_release()            itself
 *   exit() from anywhere          atexit()
 *   a signal that ends ferry      on_end(), then what the signal did before
 *   SIGTSTP, and back by SIGCONT  on_stop(), on_continue()
 * SIGINT, SIGTERM and SIGHUP normally arrive at a signalfd instead, and end ferry in order, which
 * leads to one of the first two.
 */
#include "devices/terminal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static const int end_signals[] = { SIGHUP,  SIGINT, SIGQUIT, SIGTERM, SIGABRT,
				   SIGSEGV, SIGBUS, SIGILL,  SIGFPE,  SIGSYS };
#define N_END_SIGNALS (sizeof(end_signals) / sizeof(end_signals[0]))

static struct {
	pthread_mutex_t lock; /* of owner and registered; never taken by a handler */
	char owner[64];	      /* "" when nobody has it */
	bool registered;      /* with atexit */

	volatile sig_atomic_t is_tty; /* the owner wants it raw */
	volatile sig_atomic_t is_raw; /* it is */
	struct termios cooked, raw;   /* valid while is_tty */
	struct sigaction before[N_END_SIGNALS];
} terminal = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* A background job that changes the mode is stopped by SIGTTOU, unless that is blocked. */
static void set_mode(const struct termios *mode)
{
	sigset_t block, old;

	sigemptyset(&block);
	sigaddset(&block, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	tcsetattr(STDIN_FILENO, TCSANOW, mode);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void make_raw(void)
{
	pid_t foreground = tcgetpgrp(STDIN_FILENO);

	/* A shell that has put us into the background owns the mode; SIGCONT comes with `fg`. */
	if (!terminal.is_tty || (foreground > 0 && foreground != getpgrp()))
		return;
	terminal.is_raw = 1;
	set_mode(&terminal.raw);
}

static void make_cooked(void)
{
	if (terminal.is_raw)
		set_mode(&terminal.cooked);
	terminal.is_raw = 0;
}

static void set_handler(int sig, void (*handler)(int))
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };

	sigemptyset(&sa.sa_mask);
	sigaction(sig, &sa, NULL);
}

/* The three handlers call only what POSIX allows them (tcsetattr and tcgetpgrp included). The
 * signal is blocked while they run, so a raise() comes to effect when that ends. */
static void on_end(int sig)
{
	make_cooked();
	for (unsigned int i = 0; i < N_END_SIGNALS; i++) {
		if (end_signals[i] == sig)
			sigaction(sig, &terminal.before[i], NULL);
	}
	raise(sig);
}

/* Stops inside, unless nobody could continue us: then the signal has no effect. */
static void on_stop(int sig)
{
	int saved = errno;
	sigset_t set;

	make_cooked();
	set_handler(sig, SIG_DFL);
	raise(sig);
	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	set_handler(sig, on_stop);
	make_raw();
	errno = saved;
}

/* Also after a SIGSTOP, behind which the shell took the terminal for itself. */
static void on_continue(int sig)
{
	int saved = errno;

	(void)sig;
	make_raw();
	errno = saved;
}

static bool has_handler(int sig, void (*handler)(int))
{
	struct sigaction now;

	return sigaction(sig, NULL, &now) == 0 && now.sa_handler == handler;
}

static void catch_signals(void)
{
	for (unsigned int i = 0; i < N_END_SIGNALS; i++) {
		sigaction(end_signals[i], NULL, &terminal.before[i]);
		if (terminal.before[i].sa_handler != SIG_IGN)
			set_handler(end_signals[i], on_end);
	}
	if (has_handler(SIGTSTP, SIG_DFL))
		set_handler(SIGTSTP, on_stop);
	if (has_handler(SIGCONT, SIG_DFL))
		set_handler(SIGCONT, on_continue);
}

/* What others have installed meanwhile stays. */
static void leave_signals(void)
{
	for (unsigned int i = 0; i < N_END_SIGNALS; i++) {
		if (has_handler(end_signals[i], on_end))
			sigaction(end_signals[i], &terminal.before[i], NULL);
	}
	if (has_handler(SIGTSTP, on_stop))
		set_handler(SIGTSTP, SIG_DFL);
	if (has_handler(SIGCONT, on_continue))
		set_handler(SIGCONT, SIG_DFL);
}

static void start_raw(void)
{
	terminal.raw = terminal.cooked;
	cfmakeraw(&terminal.raw);
	/* Keep "\n" a new line for what ferry itself has to say. */
	terminal.raw.c_oflag |= OPOST;
	terminal.is_tty = 1;
	catch_signals();
	if (!terminal.registered && atexit(make_cooked) == 0)
		terminal.registered = true;
	make_raw();
}

int terminal_claim(const char *device, bool *is_tty, struct error *err)
{
	int ret = 0;

	*is_tty = false;
	pthread_mutex_lock(&terminal.lock);
	if (terminal.owner[0]) {
		ret = error_set(err, -EBUSY, "realize", device, "host-backend",
				"one device on stdio", "that %s has it already", terminal.owner);
	} else {
		snprintf(terminal.owner, sizeof(terminal.owner), "%s", device);
		if (tcgetattr(STDIN_FILENO, &terminal.cooked) == 0) {
			*is_tty = true;
			start_raw();
		}
	}
	pthread_mutex_unlock(&terminal.lock);
	return ret;
}

void terminal_release(void)
{
	pthread_mutex_lock(&terminal.lock);
	if (terminal.is_tty) {
		make_cooked();
		terminal.is_tty = 0;
		leave_signals();
	}
	terminal.owner[0] = '\0';
	pthread_mutex_unlock(&terminal.lock);
}
