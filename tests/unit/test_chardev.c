/* SPDX-License-Identifier: BSD-2-Clause */
/* What a character device does on the host, behind a serial port. */
#include "tests/unit/devrig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "devices/serial.h"

#define CTRL_A 1

static struct chardev_state *chardev_state_of(struct rig *rig)
{
	return &((struct serial *)rig->dev)->state.chardev;
}

static void put(struct rig *rig, const char *text)
{
	for (; *text; text++)
		rig_outb(rig, SERIAL_PORT, (uint8_t)*text);
}

static bool has_input(struct rig *rig)
{
	return rig_inb(rig, SERIAL_PORT + REG_LSR) & LSR_DR;
}

static void expect_input(struct rig *rig, const char *text)
{
	for (; *text; text++) {
		RIG_UNTIL(rig, has_input(rig));
		assert_int_equal(rig_inb(rig, SERIAL_PORT), *text);
	}
}

/* A directory for files, as state of the tests. */
static int make_dir(void **state)
{
	char dir[] = "/tmp/ferry-chardev-XXXXXX";

	*state = strdup(mkdtemp(dir));
	return 0;
}

static int remove_dir(void **state)
{
	int ret = rmdir(*state); /* fails if a test left something */

	free(*state);
	return ret;
}

static char *spec_of(const char *kind, const char *dir, const char *name)
{
	static char spec[100];

	snprintf(spec, sizeof(spec), "%s:%s/%s", kind, dir, name);
	return spec;
}

static const char *path_of(const char *dir, const char *name)
{
	return spec_of("", dir, name) + 1;
}

static void assert_file(const char *path, const char *expected)
{
	char got[256] = "";
	int fd = open(path, O_RDONLY);
	ssize_t n = read(fd, got, sizeof(got) - 1);

	assert_int_equal(n, strlen(expected));
	assert_string_equal(got, expected);
	close(fd);
}

static void refuse(const char *spec, const char *expected, const char *got)
{
	struct error err = { 0 };
	struct rig rig;

	rig_init(&rig);
	assert_true(rig_realize(&rig, "serial", spec, &err) < 0);
	assert_string_equal(err.field, "host-backend");
	assert_non_null(strstr(err.expected, expected));
	assert_non_null(strstr(err.got, got));
	rig_close(&rig);
}

static void test_bad_options(void **state)
{
	static const char *const bad[] = { "", "tty", "stdio:", "file", "file:", "unix:", "ptyx" };

	(void)state;
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = { 0 };

		assert_int_equal(chardev_check(bad[i], "--serial", &err), -EINVAL);
		assert_string_equal(err.device, "--serial");
	}
	assert_int_equal(chardev_check("pty", "--serial", NULL), 0);
	assert_int_equal(chardev_check("file:x", "--serial", NULL), 0);
}

static void test_file(void **state)
{
	struct error err = { 0 };
	struct rig rig;

	rig_open(&rig, "serial", spec_of("file", *state, "f"));
	put(&rig, "one");
	rig_close(&rig);
	assert_file(path_of(*state, "f"), "one");
	/* `run` begins anew, */
	rig_open(&rig, "serial", spec_of("file", *state, "f"));
	put(&rig, "two");
	rig_close(&rig);
	assert_file(path_of(*state, "f"), "two");
	/* `receive` goes on, once it owns the machine. */
	rig_init(&rig);
	rig.vm->state = VM_INMIGRATE;
	assert_int_equal(rig_realize(&rig, "serial", spec_of("file", *state, "f"), &err), 0);
	rig.dev->class->claim(rig.dev, &err);
	rig_resume(&rig);
	put(&rig, "three");
	rig_close(&rig);
	assert_file(path_of(*state, "f"), "twothree");
	unlink(path_of(*state, "f"));
	refuse("file:/nowhere/f", "file", "/nowhere/f");
}

/* A disk that is full costs output, never the guest. */
static void test_failing_file(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "file:/dev/full");
	for (int i = 0; i < 3 * CHARDEV_OUT; i++) {
		put(&rig, "x");
		if (i == 10)
			rig_turn(&rig);
		assert_true(rig_inb(&rig, SERIAL_PORT + REG_LSR) & LSR_THRE);
	}
	rig_close(&rig);
}

/* A pseudo-terminal's name is on stderr; returns it opened. */
static int open_pty(struct rig *rig)
{
	char line[256] = "", *name;
	int ends[2], saved = dup(STDERR_FILENO), fd;

	assert_int_equal(pipe(ends), 0);
	dup2(ends[1], STDERR_FILENO);
	rig_open(rig, "serial", "pty");
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(ends[1]);
	assert_true(read(ends[0], line, sizeof(line) - 1) > 0);
	close(ends[0]);
	name = strstr(line, "/dev/pts/");
	assert_non_null(name);
	*strchr(name, '\n') = '\0';
	fd = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
	assert_true(fd >= 0);
	return fd;
}

static void test_pty(void **state)
{
	struct rig rig;
	int fd = open_pty(&rig);

	(void)state;
	put(&rig, "login\n");
	rig_expect(&rig, fd, "login\n", 6);
	assert_int_equal(write(fd, "ro\003ot\r", 6), 6);
	expect_input(&rig, "ro\003ot\r");
	/* Without a reader it goes on, and a new one is welcome. */
	close(fd);
	for (int i = 0; i < 3 * CHARDEV_OUT; i++) {
		put(&rig, "x");
		if (i % 4096 == 0)
			rig_turn(&rig);
		assert_true(rig_inb(&rig, SERIAL_PORT + REG_LSR) & LSR_THRE);
	}
	rig_close(&rig);
}

static int dial(const char *dir)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path_of(dir, "s"));
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static void test_unix(void **state)
{
	struct rig rig;
	int one, two;

	rig_open(&rig, "serial", spec_of("unix", *state, "s"));
	put(&rig, "before ");
	rig_turn(&rig);
	one = dial(*state);
	rig_expect(&rig, one, "before ", 7);
	two = dial(*state);
	put(&rig, "one");
	rig_expect(&rig, one, "one", 3);
	assert_int_equal(write(one, "in", 2), 2);
	expect_input(&rig, "in");
	assert_int_equal(read(two, &(char){ 0 }, 1), -1);
	/* What is printed between two clients is for the second. */
	close(one);
	RIG_UNTIL(&rig, ((struct serial *)rig.dev)->state.chardev.out_len == 0);
	put(&rig, "two");
	rig_expect(&rig, two, "two", 3);
	close(two);
	rig_close(&rig);
	assert_int_equal(access(path_of(*state, "s"), F_OK), -1);
}

/* With nobody there the newest output is kept, and the guest never waits. */
static void test_unix_without_client(void **state)
{
	static uint8_t sent[3 * CHARDEV_OUT + 100];
	struct chardev_state *c;
	struct rig rig;
	uint32_t kept;
	int fd;

	rig_open(&rig, "serial", spec_of("unix", *state, "s"));
	c = chardev_state_of(&rig);
	for (size_t i = 0; i < sizeof(sent); i++) {
		sent[i] = (uint8_t)(i * 11 >> 3);
		rig_outb(&rig, SERIAL_PORT, sent[i]);
		assert_true(rig_inb(&rig, SERIAL_PORT + REG_LSR) & LSR_THRE);
	}
	kept = c->out_len;
	assert_true(kept > CHARDEV_OUT - 4096 && kept <= CHARDEV_OUT);
	fd = dial(*state);
	rig_expect(&rig, fd, sent + sizeof(sent) - kept, kept);
	close(fd);
	rig_close(&rig);
}

/* A client that reads nothing holds the transmitter; when it goes, the guest goes on. */
static void test_unix_client_leaves(void **state)
{
	struct rig rig;
	int fd;

	rig_open(&rig, "serial", spec_of("unix", *state, "s"));
	fd = dial(*state);
	rig_turn(&rig);
	for (int busy = 0; busy < 3; rig_turn(&rig)) {
		busy = rig_inb(&rig, SERIAL_PORT + REG_LSR) & LSR_THRE ? 0 : busy + 1;
		while (rig_inb(&rig, SERIAL_PORT + REG_LSR) & LSR_THRE)
			put(&rig, "x");
	}
	close(fd);
	RIG_UNTIL(&rig, rig_inb(&rig, SERIAL_PORT + REG_LSR) & LSR_THRE);
	rig_close(&rig);
}

static void test_unix_paths(void **state)
{
	char long_spec[200] = "unix:/", other_path[64];
	struct rig rig, other;
	int fd;

	/* In use: refused, and left alone. */
	rig_open(&rig, "serial", spec_of("unix", *state, "s"));
	refuse(spec_of("unix", *state, "s"), "no socket", "in use");
	assert_int_equal(access(path_of(*state, "s"), F_OK), 0);
	/* Left behind: replaced. */
	snprintf(other_path, sizeof(other_path), "%s/t", (char *)*state);
	assert_int_equal(rename(path_of(*state, "s"), other_path), 0);
	rig_close(&rig);
	rig_open(&other, "serial", spec_of("unix", *state, "t"));
	rig_close(&other);
	assert_int_equal(access(path_of(*state, "t"), F_OK), -1);
	/* Something else: refused, and left alone. */
	fd = open(path_of(*state, "s"), O_CREAT | O_WRONLY, 0600);
	close(fd);
	refuse(spec_of("unix", *state, "s"), "socket", "non-socket");
	assert_int_equal(unlink(path_of(*state, "s")), 0);
	memset(long_spec + 6, 'x', 150);
	refuse(long_spec, "107 bytes", "151");
}

/*
 * The rest needs standard input and output of its own, so each runs in a child. It ends by the
 * function's value; parent and child may talk over the pseudo-terminal.
 */
struct child {
	pid_t pid;
	int master, slave; /* of its terminal */
	int ready;	   /* the child writes a byte when its device runs */
	int err;	   /* its stderr */
	struct termios before;
};

static void say_ready(void)
{
	if (write(9, "r", 1) != 1)
		_exit(99);
}

static void child_main(const struct child *c, int ready, int err, int (*fn)(struct rig *rig))
{
	struct rig rig;

	alarm(30);
	setpgid(0, 0);		  /* a job of its own, that can be stopped */
	signal(SIGSEGV, SIG_DFL); /* not cmocka's, which would go on with the next test */
	dup2(c->slave, STDIN_FILENO);
	dup2(c->slave, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	dup2(ready, 9);
	/* A shell starts its background jobs with these ignored, nohup(1) its own with the last. */
	signal(SIGINT, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	rig_open(&rig, "serial", "stdio");
	exit(fn(&rig));
}

static void start(struct child *c, int (*fn)(struct rig *rig))
{
	int ready[2], err[2];
	char byte;

	memset(c, 0, sizeof(*c));
	assert_int_equal(openpty(&c->master, &c->slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(c->slave, &c->before), 0);
	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(err), 0);
	fflush(NULL);
	c->pid = fork();
	if (c->pid == 0)
		child_main(c, ready[1], err[1], fn);
	close(ready[1]);
	close(err[1]);
	c->ready = ready[0];
	c->err = err[0];
	assert_int_equal(read(c->ready, &byte, 1), 1);
}

static bool is_raw(const struct child *c)
{
	struct termios now;

	assert_int_equal(tcgetattr(c->slave, &now), 0);
	return !(now.c_lflag & (ICANON | ECHO | ISIG));
}

static void assert_restored(const struct child *c)
{
	struct termios now = { 0 };

	assert_int_equal(tcgetattr(c->slave, &now), 0);
	assert_memory_equal(&now, &c->before, sizeof(now));
}

/* Wait for its end; returns what waitpid says. The mode is back by then. */
static int finish(struct child *c)
{
	int status;

	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	assert_restored(c);
	close(c->master);
	close(c->slave);
	close(c->ready);
	close(c->err);
	return status;
}

/* A machine told to stay goes on until somebody asks for its end. */
static void turn_until_quit(struct rig *rig)
{
	rig->vm->stay = true;
	say_ready();
	while (rig->vm->stay)
		rig_turn(rig);
}

static int run_until_quit(struct rig *rig)
{
	turn_until_quit(rig);
	rig_close(rig);
	return 7;
}

static int exit_suddenly(struct rig *rig)
{
	(void)rig;
	say_ready();
	return 8;
}

static int crash(struct rig *rig)
{
	(void)rig;
	say_ready();
	raise(SIGSEGV);
	return 0;
}

static void test_terminal_restored_on_quit(void **state)
{
	struct child c;
	int status;

	(void)state;
	start(&c, run_until_quit);
	assert_true(is_raw(&c));
	assert_int_equal(write(c.master, "\001x", 2), 2);
	status = finish(&c);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

static void test_terminal_restored_on_signals(void **state)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGABRT };

	(void)state;
	for (unsigned int i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct child c;
		int status;

		start(&c, run_until_quit);
		assert_true(is_raw(&c));
		kill(c.pid, signals[i]);
		status = finish(&c);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
	}
}

static void test_terminal_restored_on_exit_and_crash(void **state)
{
	struct child c;
	int status;

	(void)state;
	start(&c, exit_suddenly);
	status = finish(&c);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 8);
	start(&c, crash);
	status = finish(&c);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void test_terminal_restored_while_stopped(void **state)
{
	struct child c;
	int status;

	(void)state;
	start(&c, run_until_quit);
	kill(c.pid, SIGTSTP);
	assert_int_equal(waitpid(c.pid, &status, WUNTRACED), c.pid);
	assert_true(WIFSTOPPED(status));
	assert_restored(&c);
	kill(c.pid, SIGCONT);
	assert_int_equal(write(c.master, "\001x", 2), 2);
	status = finish(&c);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

/* Echo what is typed, until a '.'. */
static int echo(struct rig *rig)
{
	uint8_t c = 0;

	say_ready();
	while (c != '.') {
		RIG_UNTIL(rig, has_input(rig));
		c = rig_inb(rig, SERIAL_PORT);
		rig_outb(rig, SERIAL_PORT, c);
	}
	rig_close(rig);
	return 0;
}

static void read_text(int fd, const char *expected)
{
	char got[64];
	size_t n = 0, len = strlen(expected);

	while (n < len) {
		ssize_t r = read(fd, got + n, len - n);

		assert_true(r > 0);
		n += (size_t)r;
	}
	assert_memory_equal(got, expected, len);
}

static void test_escape_keys(void **state)
{
	struct child c;
	char help[256] = "";

	(void)state;
	start(&c, echo);
	/* Ctrl-C is the guest's; of the Ctrl-As only the doubled one is. */
	assert_int_equal(write(c.master, "a\003\001\001b\001zc\001h.", 11), 11);
	read_text(c.master, "a\003\001bc.");
	assert_true(read(c.err, help, sizeof(help) - 1) > 0);
	assert_non_null(strstr(help, "Ctrl-A x"));
	assert_int_equal(finish(&c), 0);
}

/* A paused machine's terminal still ends ferry, and keeps what is typed for later. */
static int type_while_paused(struct rig *rig)
{
	rig_quiesce(rig);
	turn_until_quit(rig);
	if (chardev_state_of(rig)->in_len > 0)
		return 1;
	rig_resume(rig);
	expect_input(rig, "abc");
	rig_close(rig);
	return 0;
}

static void test_escape_keys_while_paused(void **state)
{
	struct child c;

	(void)state;
	start(&c, type_while_paused);
	assert_int_equal(write(c.master, "ab\001xc", 5), 5);
	assert_int_equal(finish(&c), 0);
}

/* Run @fn in a child with @in as standard input (-1: closed) and @out as output. */
static int with_stdio(int in, int out, int (*fn)(struct rig *rig))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		struct rig rig;

		alarm(30);
		dup2(out, STDOUT_FILENO);
		rig_init(&rig);
		if (in < 0)
			close(STDIN_FILENO);
		else
			dup2(in, STDIN_FILENO);
		if (rig_realize(&rig, "serial", "stdio", NULL) < 0)
			_exit(98);
		rig_resume(&rig);
		_exit(fn(&rig));
	}
	waitpid(pid, &status, 0);
	return status;
}

static int greet(struct rig *rig)
{
	put(rig, "hello");
	for (int i = 0; i < 3; i++)
		rig_turn(rig);
	put(rig, " world");
	rig_close(rig);
	return 0;
}

static int echo_quietly(struct rig *rig)
{
	uint8_t c = 0;

	rig_outb(rig, SERIAL_PORT + REG_IIR_FCR, FCR_ENABLE);
	while (c != '.') {
		RIG_UNTIL(rig, has_input(rig));
		c = rig_inb(rig, SERIAL_PORT);
		rig_outb(rig, SERIAL_PORT, c);
	}
	rig_close(rig);
	return 0;
}

static void test_stdin_that_is_no_terminal(void **state)
{
	int out[2], in[2], null = open("/dev/null", O_RDONLY), file;
	static char text[10000];

	(void)state;
	assert_int_equal(pipe(out), 0);
	assert_int_equal(with_stdio(-1, out[1], greet), 0);
	read_text(out[0], "hello world");
	assert_int_equal(with_stdio(null, out[1], greet), 0);
	read_text(out[0], "hello world");
	/* A pipe that ends, and a Ctrl-A in it means nothing. */
	assert_int_equal(pipe(in), 0);
	assert_int_equal(write(in[1], "p\001x.", 4), 4);
	close(in[1]);
	assert_int_equal(with_stdio(in[0], out[1], echo_quietly), 0);
	read_text(out[0], "p\001x.");
	assert_int_equal(with_stdio(in[0], out[1], greet), 0);
	read_text(out[0], "hello world");
	/* A file larger than all buffers. */
	file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
	memset(text, 'q', sizeof(text));
	text[sizeof(text) - 1] = '.';
	assert_int_equal(write(file, text, sizeof(text)), sizeof(text));
	lseek(file, 0, SEEK_SET);
	assert_int_equal(with_stdio(file, out[1], echo_quietly), 0);
	for (size_t n = 0; n < sizeof(text);)
		n += (size_t)read(out[0], text, sizeof(text) - n);
	close(file);
	close(null);
	close(in[0]);
	/* A reader that has gone costs output, not the machine. */
	close(out[0]);
	assert_int_equal(with_stdio(null, out[1], greet), 0);
	close(out[1]);
}

static int open_second(struct rig *rig)
{
	struct error err = { 0 };
	struct rig other;

	(void)rig;
	rig_init(&other);
	if (rig_realize(&other, "serial", "stdio", &err) != -EBUSY)
		return 1;
	if (strcmp(err.device, other.dev->name) != 0 || !strstr(err.got, rig->dev->name))
		return 2;
	/* Free again once the first has gone. */
	rig_close(&other);
	rig_close(rig);
	rig_open(&other, "serial", "stdio");
	rig_close(&other);
	return 0;
}

static void test_one_terminal(void **state)
{
	int null = open("/dev/null", O_RDWR);

	(void)state;
	assert_int_equal(with_stdio(null, null, open_second), 0);
	close(null);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_failing_file),
		cmocka_unit_test(test_pty),
		cmocka_unit_test(test_unix),
		cmocka_unit_test(test_unix_without_client),
		cmocka_unit_test(test_unix_client_leaves),
		cmocka_unit_test(test_unix_paths),
		cmocka_unit_test(test_terminal_restored_on_quit),
		cmocka_unit_test(test_terminal_restored_on_signals),
		cmocka_unit_test(test_terminal_restored_on_exit_and_crash),
		cmocka_unit_test(test_terminal_restored_while_stopped),
		cmocka_unit_test(test_escape_keys),
		cmocka_unit_test(test_escape_keys_while_paused),
		cmocka_unit_test(test_stdin_that_is_no_terminal),
		cmocka_unit_test(test_one_terminal),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
