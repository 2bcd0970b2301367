/* SPDX-License-Identifier: BSD-2-Clause */
/* Migration as seen from outside: QMP commands, events, and ferry migrate as their client. */
#include "migration-fixture.h"

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>

#include "vmm/command.h"
#include "vmm/control.h"

static const struct control_command *find(const char *name)
{
	for_each_control_command (pp) {
		if (strcmp((*pp)->name, name) == 0)
			return *pp;
	}
	fail_msg("no command %s", name);
	return NULL;
}

/* Run a command with the arguments in @text. */
static int run(struct vm *vm, const char *name, const char *text, json_t **ret, struct error *err)
{
	json_t *args = json_loads(text, 0, NULL);
	int code;

	assert_non_null(args);
	*ret = NULL;
	error_clear(err);
	code = find(name)->run(vm, args, ret, err);
	json_decref(args);
	return code;
}

static void parameters(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct error err = { 0 };
	json_t *ret, *want;

	(void)state;
	assert_int_equal(run(vm, "query-migrate", "{}", &ret, &err), 0);
	assert_int_equal(json_object_size(ret), 0); /* there never was one */
	json_decref(ret);
	assert_int_equal(
		run(vm, "migrate-set-parameters",
		    "{\"max-bandwidth\": 1000000, \"max-postcopy-bandwidth\": 2000000, "
		    "\"downtime-limit\": 20,"
		    " \"x-timeout\": 9, \"x-on-timeout\": \"force\", \"x-iovecs\": 7,"
		    " \"x-copy\": true, \"x-verify\": true, \"x-send-ram\": true, "
		    "\"x-deadline\": 5, \"multifd-channels\": 8, \"x-zero-copy\": \"auto\", "
		    "\"x-compress\": \"on\", \"compress-level\": 3, "
		    "\"x-delta-memory\": 4096, \"x-postcopy\": \"auto\","
		    " \"direct-io\": true}",
		    &ret, &err),
		0);
	assert_int_equal(run(vm, "query-migrate-parameters", "{}", &ret, &err), 0);
	want = json_loads(
		"{\"max-bandwidth\": 1000000, \"max-postcopy-bandwidth\": 2000000, "
		"\"downtime-limit\": 20,"
		" \"x-timeout\": 9, \"x-on-timeout\": \"force\", \"x-iovecs\": 7,"
		" \"x-copy\": true, \"x-verify\": true, \"x-send-ram\": true, \"x-deadline\": 5,"
		" \"multifd-channels\": 8, \"x-zero-copy\": \"auto\", "
		"\"x-compress\": \"on\", \"compress-level\": 3, "
		"\"x-delta-memory\": 4096, \"x-postcopy\": \"auto\","
		" \"direct-io\": true}",
		0, NULL);
	assert_true(json_equal(ret, want));
	json_decref(ret);

	/* What is wrong changes nothing, also not what stands before it. */
	assert_int_equal(run(vm, "migrate-set-parameters",
			     "{\"max-bandwidth\": 5, \"x-iovecs\": 1025}", &ret, &err),
			 -EINVAL);
	assert_int_equal(run(vm, "migrate-set-parameters",
			     "{\"max-bandwidth\": 5, \"x-on-timeout\": \"explode\"}", &ret, &err),
			 -EINVAL);
	assert_string_equal(err.got, "explode");
	assert_int_equal(run(vm, "query-migrate-parameters", "{}", &ret, &err), 0);
	assert_true(json_equal(ret, want));
	json_decref(ret);
	json_decref(want);
	vm_destroy(vm);
}

static void capabilities(void **state)
{
	static const char *const wrong[] = {
		"{}",
		"{\"capabilities\": 1}",
		"{\"capabilities\": [1]}",
		"{\"capabilities\": [{\"capability\": \"multifd\"}]}",
		"{\"capabilities\": [{\"capability\": \"teleport\", \"state\": true}]}",
	};
	struct vm *vm = new_source(2 * MIB);
	struct error err = { 0 };
	json_t *ret;

	(void)state;
	assert_int_equal(run(vm, "migrate-set-capabilities",
			     "{\"capabilities\": [{\"capability\": \"multifd\", \"state\": true},"
			     " {\"capability\": \"teleport\", \"state\": false}]}",
			     &ret, &err),
			 0);
	assert_true(vm->migration->params.multifd);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(run(vm, "migrate-set-capabilities", wrong[i], &ret, &err),
				 -EINVAL);
	assert_string_equal(err.got, "teleport");
	assert_true(vm->migration->params.multifd);
	assert_int_equal(run(vm, "query-migrate-capabilities", "{}", &ret, &err), 0);
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(ret, 0), "capability")),
		"multifd");
	assert_true(json_is_true(json_object_get(json_array_get(ret, 0), "state")));
	json_decref(ret);
	vm_destroy(vm);
}

static void refused(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	struct error err = { 0 };
	json_t *ret;

	(void)state;
	assert_true(run(vm, "migrate", "{}", &ret, &err) < 0);
	assert_true(run(vm, "migrate-incoming", "{\"uri\": \"tcp:127.0.0.1:0\"}", &ret, &err) < 0);
	assert_string_equal(err.got, "running");
	assert_int_equal(run(vm, "migrate_cancel", "{}", &ret, &err), 0); /* nothing to cancel */
	assert_int_equal(vm->state, VM_RUNNING);
	vm_destroy(vm);
}

static void too_long(void **state)
{
	struct vm *vm = new_source(2 * MIB);
	char uri[400] = "unix:/";
	struct error err = { 0 };

	(void)state;
	memset(uri + 6, 'x', sizeof(uri) - 7);
	uri[sizeof(uri) - 1] = '\0';
	assert_int_equal(source_start(vm, uri, &err), -ENAMETOOLONG);
	vm_destroy(vm);
}

/* A machine that waits is told later where. */
static void incoming(void **state)
{
	struct vm *vm = new_destination();
	struct error err = { 0 };
	const char *uri;
	json_t *ret;

	(void)state;
	assert_true(run(vm, "migrate-incoming", "{\"uri\": \"tcp:127.0.0.1\"}", &ret, &err) < 0);
	assert_int_equal(vm->state, VM_INMIGRATE); /* another try is welcome */
	assert_int_equal(run(vm, "migrate-incoming", "{\"uri\": \"tcp:127.0.0.1:0\"}", &ret, &err),
			 0);
	assert_int_equal(run(vm, "migrate-incoming", "{\"uri\": \"tcp:127.0.0.1:0\"}", &ret, &err),
			 -EBUSY);
	assert_int_equal(run(vm, "query-migrate", "{}", &ret, &err), 0);
	assert_string_equal(json_string_value(json_object_get(ret, "status")), "setup");
	uri = json_string_value(json_object_get(json_object_get(ret, "x-ferry"), "uri"));
	assert_int_equal(strncmp(uri, "tcp:127.0.0.1:", 14), 0);
	assert_true(atoi(uri + 14) > 0);
	json_decref(ret);
	vm_destroy(vm);
}

/* ---- ferry migrate, its server in another thread ---- */

struct pair {
	struct vm *from, *to;
	char dir[32], control[64], uri[64];
	pthread_t from_thread, to_thread;
};

static void *run_loop(void *opaque)
{
	struct vm *vm = opaque;

	loop_run(vm->loop);
	return NULL;
}

static void begin(struct pair *t, uint64_t memory)
{
	struct error err = { 0 };
	const char *bound;

	strcpy(t->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	snprintf(t->control, sizeof(t->control), "%s/control", t->dir);
	t->from = new_source(memory);
	t->to = new_destination();
	fill_random(&t->from->memory, 1);
	assert_non_null(migration_get(t->from));
	assert_int_equal(control_open(t->from, t->control, &err), 0);
	assert_int_equal(destination_start(t->to, "tcp:127.0.0.1:0", &bound, &err), 0);
	strcpy(t->uri, bound);
	assert_int_equal(pthread_create(&t->from_thread, NULL, run_loop, t->from), 0);
	assert_int_equal(pthread_create(&t->to_thread, NULL, run_loop, t->to), 0);
}

/* End the loop of @vm, and make this thread the one that it belongs to. */
static void end_loop(struct vm *vm, pthread_t thread)
{
	loop_stop(vm->loop);
	pthread_join(thread, NULL);
	loop_stop(vm->loop);
	loop_run(vm->loop);
}

static void end(struct pair *t)
{
	end_loop(t->from, t->from_thread);
	end_loop(t->to, t->to_thread);
	control_close(t->from);
	vm_destroy(t->from);
	vm_destroy(t->to);
	assert_return_code(rmdir(t->dir), errno);
}

/* Run a subcommand with stdout to @path; returns its status. */
static int ferry(const char *path, int argc, ...)
{
	int saved = dup(STDOUT_FILENO), out = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	const struct command *command = NULL;
	char *argv[16];
	va_list ap;
	int status;

	va_start(ap, argc);
	for (int i = 0; i < argc; i++)
		argv[i] = va_arg(ap, char *);
	va_end(ap);
	for_each_command (pp) {
		if (strcmp((*pp)->name, argv[0]) == 0)
			command = *pp;
	}
	assert_non_null(command);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	status = command->run(argc, argv);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(out);
	return status;
}

static void client_succeeds(void **state)
{
	struct pair t = { 0 };
	char out[64];
	json_t *info, *own;

	(void)state;
	begin(&t, 8 * MIB);
	snprintf(out, sizeof(out), "%s/out", t.dir);
	assert_int_equal(ferry(out, 5, "migrate", t.control, t.uri, "--json", "--no-progress"), 0);
	info = json_load_file(out, 0, NULL);
	assert_non_null(info);
	assert_string_equal(json_string_value(json_object_get(info, "status")), "completed");
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(info, "ram"), "normal-bytes")),
		8 * MIB);
	own = json_object_get(info, "x-ferry");
	assert_in_range(json_integer_value(json_object_get(own, "blackout-ns")), 1, 5000000000);
	assert_string_equal(json_string_value(json_object_get(own, "blackout-method")), "clock");
	assert_non_null(json_object_get(info, "downtime"));
	json_decref(info);
	unlink(out);
	/* The source ends by itself when its guest has left. */
	pthread_join(t.from_thread, NULL);
	assert_int_equal(t.from->exit_status, 0);
	assert_int_equal(pthread_create(&t.from_thread, NULL, run_loop, t.from), 0);
	assert_int_equal(t.from->state, VM_POSTMIGRATE);
	end(&t);
}

/* SIGINT once the migration is under way: it is cancelled, and the client waits for that. */
static void *interrupt(void *opaque)
{
	struct pair *t = opaque;

	while (t->from->migration->status != MIGRATION_ACTIVE)
		usleep(1000);
	kill(getpid(), SIGINT);
	return NULL;
}

static void client_is_interrupted(void **state)
{
	struct pair t = { 0 };
	pthread_t thread;

	(void)state;
	begin(&t, 8 * MIB);
	assert_int_equal(pthread_create(&thread, NULL, interrupt, &t), 0);
	assert_int_equal(
		ferry("/dev/null", 5, "migrate", t.control, t.uri, "--max-bandwidth", "1M/s"),
		STATUS_ERROR);
	pthread_join(thread, NULL);
	assert_int_equal(t.from->state, VM_RUNNING);
	assert_int_equal(t.from->migration->status, MIGRATION_CANCELLED);
	assert_int_equal(t.from->migration->params.max_bandwidth, MIB);
	pthread_join(t.to_thread, NULL); /* with an error of its own */
	assert_int_equal(t.to->exit_status, STATUS_ERROR);
	assert_int_equal(pthread_create(&t.to_thread, NULL, run_loop, t.to), 0);
	end(&t);
}

static void client_is_refused(void **state)
{
	struct pair t = { 0 };

	(void)state;
	begin(&t, 2 * MIB);
	assert_int_equal(ferry("/dev/null", 3, "migrate", t.control, "unix:/nonexistent/socket"),
			 STATUS_ERROR);
	assert_int_equal(ferry("/dev/null", 3, "migrate", t.control, "pigeon:home"), STATUS_ERROR);
	assert_int_equal(ferry("/dev/null", 3, "migrate", "/nonexistent/control", t.uri),
			 STATUS_ERROR);
	assert_int_equal(ferry("/dev/null", 2, "migrate", t.control), STATUS_USAGE);
	assert_int_equal(ferry("/dev/null", 4, "migrate", t.control, t.uri, "--on-timeout=maybe"),
			 STATUS_USAGE);
	assert_int_equal(
		ferry("/dev/null", 5, "migrate", t.control, t.uri, "--max-bandwidth", "fast"),
		STATUS_USAGE);
	assert_int_equal(t.from->state, VM_RUNNING);
	end(&t);
}

static void save_and_inspect(void **state)
{
	struct pair t = { 0 };
	char saved[64], out[64], text[65536];
	FILE *f;

	(void)state;
	begin(&t, 2 * MIB);
	snprintf(saved, sizeof(saved), "%s/saved", t.dir);
	snprintf(out, sizeof(out), "%s/out", t.dir);
	assert_int_equal(ferry("/dev/null", 3, "save", t.control, saved), 0);
	assert_int_equal(t.from->state, VM_RUNNING);
	assert_int_equal(ferry(out, 2, "inspect", saved), 0);
	f = fopen(out, "re");
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	assert_non_null(strstr(text, "MACHINE"));
	assert_non_null(strstr(text, "number = <"));
	assert_non_null(strstr(text, "512 data and 0 zero pages; complete"));
	/* Cut, it is shown up to there. */
	assert_return_code(truncate(saved, (off_t)MIB), errno);
	assert_int_equal(ferry(out, 2, "inspect", saved), STATUS_ERROR);
	f = fopen(out, "re");
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	assert_non_null(strstr(text, "RAM"));
	assert_non_null(strstr(text, "NOT COMPLETE"));
	assert_return_code(unlink(saved), errno);
	assert_return_code(unlink(out), errno);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parameters),
		cmocka_unit_test(capabilities),
		cmocka_unit_test(refused),
		cmocka_unit_test(too_long),
		cmocka_unit_test(incoming),
		cmocka_unit_test(client_succeeds),
		cmocka_unit_test(client_is_interrupted),
		cmocka_unit_test(client_is_refused),
		cmocka_unit_test(save_and_inspect),
	};
	sigset_t set;

	/* In all threads, so that only who asks for it gets it. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
