/* SPDX-License-Identifier: BSD-2-Clause */
/* The control socket's client, against the server and against peers that are none. */
#include "tests/unit/qmp.h"

#include "vmm/cmd-ctl.h"

static void executes_and_returns(void **state)
{
	struct served *s = *state;
	struct control_client *c;
	struct error err = { 0 };
	json_t *ret;

	assert_int_equal(control_connect(s->path, ANSWER_MS, &c, &err), 0);
	assert_int_equal(control_execute(c, "query-status", NULL, &ret, &err), 0);
	assert_string_equal(at(ret, "status"), "prelaunch");
	assert_int_equal(control_execute(c, "cont", json_pack("{s:b}", "force", 0), NULL, &err), 0);
	control_disconnect(c);
}

/* What the server knows of an error is what the client knows of it. */
static void errors_cross_whole(void **state)
{
	struct served *s = *state;
	struct control_client *c;
	struct error err = { 0 };
	json_t *ret;

	assert_int_equal(control_connect(s->path, ANSWER_MS, &c, &err), 0);
	assert_int_equal(control_execute(c, "system_powerdown", NULL, &ret, &err), -EREMOTEIO);
	assert_null(ret);
	assert_string_equal(err.phase, "system_powerdown");
	assert_string_equal(err.device, "machine");
	assert_string_equal(err.expected, "a power button");
	error_clear(&err);
	assert_int_equal(control_execute(c, "no-such", NULL, &ret, &err), -EREMOTEIO);
	assert_string_equal(err.got, "The command no-such has not been found");
	control_disconnect(c);
}

static void keeps_events_for_later(void **state)
{
	struct served *s = *state;
	struct control_client *c;
	json_t *event;

	assert_int_equal(control_connect(s->path, ANSWER_MS, &c, NULL), 0);
	assert_int_equal(control_execute(c, "cont", NULL, NULL, NULL), 0);
	assert_int_equal(control_execute(c, "stop", NULL, NULL, NULL), 0);
	assert_int_equal(control_next_event(c, ANSWER_MS, &event, NULL), 0);
	assert_string_equal(at(event, "event"), "RESUME");
	assert_int_equal(control_next_event(c, 0, &event, NULL), 0);
	assert_string_equal(at(event, "event"), "STOP");
	assert_int_equal(control_next_event(c, 0, &event, NULL), 0);
	assert_null(event);
	control_event(s->vm, "LATER", NULL);
	assert_int_equal(control_next_event(c, ANSWER_MS, &event, NULL), 0);
	assert_string_equal(at(event, "event"), "LATER");
	control_disconnect(c);
}

static void notices_the_end_of_the_server(void **state)
{
	struct served *s = *state;
	struct control_client *c;
	struct error err = { 0 };
	json_t *event;

	assert_int_equal(control_connect(s->path, ANSWER_MS, &c, NULL), 0);
	assert_int_equal(control_execute(c, "quit", NULL, NULL, NULL), 0);
	pthread_join(s->thread, NULL);
	control_close(s->vm);
	assert_int_equal(control_next_event(c, ANSWER_MS, &event, NULL), 0);
	assert_string_equal(at(event, "event"), "SHUTDOWN");
	assert_int_equal(control_next_event(c, ANSWER_MS, &event, &err), -EPIPE);
	assert_int_equal(control_execute(c, "stop", NULL, NULL, NULL), -EPIPE);
	control_disconnect(c);
	pthread_create(&s->thread, NULL, serve, s);
}

/* A listening socket, and a thread that answers the first connection with a fixed text. */
struct fake {
	char dir[32], path[64];
	const char *text;
	int fd;
	pthread_t thread;
};

static void *fake_serve(void *opaque)
{
	struct fake *f = opaque;
	int fd = accept(f->fd, NULL, NULL);
	char c;

	if (f->text)
		send(fd, f->text, strlen(f->text), MSG_NOSIGNAL);
	while (recv(fd, &c, 1, 0) > 0)
		;
	close(fd);
	return NULL;
}

static int connect_to_fake(const char *text, int timeout_ms)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct fake f = { .dir = "/tmp/ferry-test-XXXXXX", .text = text };
	struct control_client *c;
	int ret;

	assert_non_null(mkdtemp(f.dir));
	snprintf(f.path, sizeof(f.path), "%s/fake", f.dir);
	strcpy(addr.sun_path, f.path);
	f.fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(f.fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(f.fd, 1), 0);
	pthread_create(&f.thread, NULL, fake_serve, &f);
	ret = control_connect(f.path, timeout_ms, &c, NULL);
	control_disconnect(c);
	pthread_join(f.thread, NULL);
	close(f.fd);
	unlink(f.path);
	rmdir(f.dir);
	return ret;
}

static void does_not_wait_or_trust_for_ever(void **state)
{
	static const struct {
		const char *text;
		int ret;
	} cases[] = {
		{ "SSH-2.0-server\n", -EPROTO },
		{ "{\"hello\": 1}", -EPROTO },
		{ "{\"QMP\": {}}{\"error\": 1}", -EREMOTEIO },
		{ "{\"QMP\": {}}{\"error\": {\"data\": {\"got\": 3}}}", -EREMOTEIO },
		{ "{\"QMP\": {}}{\"return\": {}}", 0 },
	};

	(void)state;
	assert_int_equal(connect_to_fake(NULL, 50), -ETIMEDOUT);
	assert_int_equal(connect_to_fake("{\"QMP\": {}}", 50), -ETIMEDOUT);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(connect_to_fake(cases[i].text, ANSWER_MS), cases[i].ret);
}

static void names_what_it_cannot_reach(void **state)
{
	struct control_client *c;
	struct error err = { 0 };

	(void)state;
	assert_int_equal(control_connect("/no/such/socket", 50, &c, &err), -ENOENT);
	assert_null(c);
	assert_string_equal(err.device, "/no/such/socket");
	assert_int_equal(control_connect("/dev/null", 50, &c, NULL), -ECONNREFUSED);
	assert_int_equal(control_connect("", 50, &c, NULL), -EINVAL);
}

static void arguments_have_types_and_ranges(void **state)
{
	json_t *args = json_loads("{\"n\": 5, \"s\": \"x\", \"b\": true}", 0, NULL);
	struct error err = { 0 };
	const char *s = "default";
	int64_t n = 1;
	bool b = false;

	(void)state;
	assert_int_equal(control_arg_int(args, "n", true, 5, 5, &n, &err), 0);
	assert_int_equal(n, 5);
	assert_int_equal(control_arg_int(args, "n", true, 6, 9, &n, &err), -EINVAL);
	assert_string_equal(err.field, "n");
	assert_string_equal(err.expected, "6 to 9");
	assert_string_equal(err.got, "5");
	error_clear(&err);
	assert_int_equal(control_arg_int(args, "s", false, 0, 9, &n, &err), -EINVAL);
	assert_string_equal(err.got, "a string");
	assert_int_equal(control_arg_int(args, "none", false, 0, 9, &n, NULL), 0);
	assert_int_equal(control_arg_int(args, "none", true, 0, 9, &n, NULL), -EINVAL);
	assert_int_equal(n, 5);
	assert_int_equal(control_arg_string(args, "none", false, &s, NULL), 0);
	assert_string_equal(s, "default");
	assert_int_equal(control_arg_string(args, "s", true, &s, NULL), 0);
	assert_string_equal(s, "x");
	assert_int_equal(control_arg_string(args, "b", true, &s, NULL), -EINVAL);
	assert_int_equal(control_arg_bool(args, "b", true, &b, NULL), 0);
	assert_true(b);
	assert_int_equal(control_arg_bool(args, "n", true, &b, NULL), -EINVAL);
	json_decref(args);
}

static void errors_of_any_bytes_become_json(void **state)
{
	struct error err = { .got = "\xff\xc3x", .field = "f\xc3\xa9" };
	json_t *json = json_loads("{\"phase\": \"\\u001b[2J\", \"got\": 7}", 0, NULL);

	(void)state;
	assert_string_equal(at(error_to_json(&err), "got"), "??x");
	assert_string_equal(at(error_to_json(&err), "field"), "f\xc3\xa9");
	assert_string_not_equal(at(error_to_json(&err), "desc"), "");
	error_from_json(json, &err);
	json_decref(json);
	assert_int_equal(err.code, -EREMOTEIO);
	assert_string_equal(err.phase, "?[2J");
	assert_string_equal(err.field, "");
	assert_string_equal(err.got, "");
}

static const char *parsed(const char *word)
{
	json_t *args;

	assert_int_equal(ctl_parse_args(&word, 1, &args, NULL), 0);
	return at(args, "k");
}

static void ctl_takes_json_where_it_is_json(void **state)
{
	const char *const two[] = { "a=1", "b=x=y" };
	const char *const bad[] = { "novalue", "=1", "a=\xff" };
	json_t *args;

	(void)state;
	assert_string_equal(parsed("k=12"), "12");
	assert_string_equal(parsed("k=true"), "true");
	assert_string_equal(parsed("k=[1,2]"), "[1,2]");
	assert_string_equal(parsed("k={\"a\": null}"), "{\"a\":null}");
	assert_string_equal(parsed("k=tcp:[::1]:4444"), "tcp:[::1]:4444");
	assert_string_equal(parsed("k=\"12\""), "12");
	assert_string_equal(parsed("k=12x"), "12x");
	assert_string_equal(parsed("k="), "");
	assert_string_equal(parsed("k=a=b"), "a=b");
	assert_int_equal(ctl_parse_args(two, 2, &args, NULL), 0);
	assert_string_equal(at(args, ""), "{\"a\":1,\"b\":\"x=y\"}");
	for (int i = 0; i < 3; i++)
		assert_int_equal(ctl_parse_args(&bad[i], 1, &args, NULL), -EINVAL);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, start, finish)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(executes_and_returns),
		WITH_SERVER(errors_cross_whole),
		WITH_SERVER(keeps_events_for_later),
		WITH_SERVER(notices_the_end_of_the_server),
		cmocka_unit_test(does_not_wait_or_trust_for_ever),
		cmocka_unit_test(names_what_it_cannot_reach),
		cmocka_unit_test(arguments_have_types_and_ranges),
		cmocka_unit_test(errors_of_any_bytes_become_json),
		cmocka_unit_test(ctl_takes_json_where_it_is_json),
	};

	return cmocka_run_group_tests_name("control-client", tests, NULL, NULL);
}
