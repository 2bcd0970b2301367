/* SPDX-License-Identifier: BSD-2-Clause */
/* The control socket's server, as clients see it: good ones, slow ones and hostile ones. */
#include "tests/unit/qmp.h"

/* Say @text, and want @value at @path of the answer. */
#define ASK(peer, text, path, value)                              \
	do {                                                      \
		say(peer, text);                                  \
		assert_string_equal(at(hear(peer), path), value); \
	} while (0)

static void greets_with_version_and_capabilities(void **state)
{
	struct served *s = *state;
	struct peer *p = calloc(1, sizeof(*p));
	json_t *greeting, *copy;

	p->fd = raw_connect(s->path);
	greeting = hear(p);
	copy = json_deep_copy(greeting);
	assert_string_equal(at(greeting, "QMP.capabilities"), "[]");
	assert_string_equal(at(copy, "QMP.version.package"), "ferry " FERRY_VERSION);
	part(p);
}

static void wants_negotiation_first_and_once(void **state)
{
	struct peer *p = meet(*state);

	ASK(p, "{\"execute\": \"query-status\"}", "error.class", "CommandNotFound");
	ASK(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
	    "error.desc", "Capability 'oob' is not available");
	ASK(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": 7}}", "error.class",
	    "GenericError");
	ASK(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"other\": []}}", "error.desc",
	    "Parameter 'other' is unexpected");
	ASK(p, "{\"execute\": \"query-status\"}", "error.class", "CommandNotFound");
	ASK(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": []}}", "return",
	    "{}");
	ASK(p, "{\"execute\": \"query-status\"}", "return.status", "prelaunch");
	ASK(p, "{\"execute\": \"qmp_capabilities\"}", "error.class", "CommandNotFound");
	part(p);
}

static void echoes_any_id(void **state)
{
	struct peer *p = meet_and_negotiate(*state);

	ASK(p, "{\"execute\": \"query-name\", \"id\": 7}", "id", "7");
	ASK(p, "{\"execute\": \"query-name\", \"id\": \"seven\"}", "id", "seven");
	ASK(p, "{\"execute\": \"query-name\", \"id\": null}", "id", "null");
	ASK(p, "{\"execute\": \"query-name\", \"id\": {\"a\": [1]}}", "id", "{\"a\":[1]}");
	ASK(p, "{\"execute\": \"no-such\", \"id\": 8}", "id", "8");
	ASK(p, "{\"id\": 9}", "id", "9");
	ASK(p, "{\"execute\": \"query-name\"}", "id", "");
	part(p);
}

static void names_what_is_wrong_with_a_request(void **state)
{
	static const struct {
		const char *request, *class, *desc;
	} bad[] = {
		{ "{\"execute\": \"no-such\"}", "CommandNotFound",
		  "The command no-such has not been found" },
		{ "{}", "GenericError", "QMP input lacks member 'execute'" },
		{ "[]", "GenericError", "QMP input must be a JSON object" },
		{ "17\n", "GenericError", "QMP input must be a JSON object" },
		{ "{\"execute\": 1}", "GenericError",
		  "QMP input member 'execute' must be a string" },
		{ "{\"execute\": \"stop\", \"arguments\": []}", "GenericError",
		  "QMP input member 'arguments' must be an object" },
		{ "{\"execute\": \"stop\", \"extra\": 1}", "GenericError",
		  "QMP input member 'extra' is unexpected" },
		{ "{\"execute\": \"stop\", \"arguments\": {\"now\": true}}", "GenericError",
		  "Parameter 'now' is unexpected" },
		{ "{\"execute\": \"cont\", \"arguments\": {\"force\": 1}}", "GenericError",
		  "control: argument: force: expected true or false, found a number" },
	};
	static const char *const unreadable[] = {
		"{\"execute\"}",
		"{]",
		"}",
		"hello\n",
		"{\"execute\": \"stop\n",
		"\xff\xfe\xff",
		"\"\n",
		"{\"a\": 1, \"a\": 2}",
		"{\"execute\": \"\\u0000\"}",
		"{\"id\": 99999999999999999999}",
		"{\"execute\": \"st\xc3(p\"}",
	};
	struct peer *p = meet_and_negotiate(*state);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ASK(p, bad[i].request, "error.class", bad[i].class);
		ASK(p, bad[i].request, "error.desc", bad[i].desc);
	}
	for (size_t i = 0; i < sizeof(unreadable) / sizeof(unreadable[0]); i++) {
		say(p, unreadable[i]);
		assert_memory_equal(at(hear(p), "error.desc"), "JSON parse error", 16);
	}
	ASK(p, "{\"execute\": \"query-status\"}", "return.running", "false");
	part(p);
}

/* A failed command carries the facts as data besides the sentence. */
static void errors_are_data(void **state)
{
	struct peer *p = meet_and_negotiate(*state);

	ASK(p, "{\"execute\": \"system_powerdown\"}", "error.class", "GenericError");
	ASK(p, "{\"execute\": \"system_powerdown\"}", "error.data.expected", "a power button");
	ASK(p, "{\"execute\": \"system_powerdown\"}", "error.data.phase", "system_powerdown");
	part(p);
}

static void finds_requests_wherever_they_begin_and_end(void **state)
{
	static const char spread[] = "\r\n {\"execute\":\n\t\"query-name\",\n \"id\": "
				     "\"}{][ \\\" \\\\\"\r\n}";
	struct peer *p = meet_and_negotiate(*state);

	say(p, "{\"execute\":\"query-name\",\"id\":1}{\"execute\":\"query-name\",\"id\":2} x\n"
	       "{\"execute\":\"query-name\",\"id\":3}");
	assert_string_equal(at(hear(p), "id"), "1");
	assert_string_equal(at(hear(p), "id"), "2");
	assert_string_equal(at(hear(p), "error.class"), "GenericError");
	assert_string_equal(at(hear(p), "id"), "3");
	ASK(p, spread, "id", "}{][ \" \\");
	for (size_t i = 0; i < strlen(spread); i++)
		say(p, (char[]){ spread[i], '\0' });
	assert_string_equal(at(hear(p), "id"), "}{][ \" \\");
	part(p);
}

/* Fill a request of exactly @size bytes. */
static char *request_of(size_t size)
{
	char *text = malloc(size + 1);
	int head = sprintf(text, "{\"execute\": \"query-name\", \"id\": \"");

	memset(text + head, 'x', size - (size_t)head);
	strcpy(text + size - 2, "\"}");
	return text;
}

static void bounds_the_length_of_a_request(void **state)
{
	struct peer *p = meet_and_negotiate(*state);
	char *fits = request_of(65000), *most = request_of(65536), *more = request_of(65537);
	char *much = request_of(1 << 20);

	say(p, fits);
	assert_int_equal(strlen(at(hear(p), "id")), 1023); /* of the answer's 65000 */
	say(p, most);
	assert_string_not_equal(at(hear(p), "id"), "");
	ASK(p, more, "error.desc", "JSON parse error, more than 65536 bytes");
	ASK(p, much, "error.desc", "JSON parse error, more than 65536 bytes");
	ASK(p, "{\"execute\": \"query-name\", \"id\": 1}", "id", "1");
	free(fits);
	free(most);
	free(more);
	free(much);
	part(p);
}

static void bounds_the_depth_of_a_request(void **state)
{
	struct peer *p = meet_and_negotiate(*state);
	char deep[100];

	sprintf(deep, "{\"id\": %.31s1%.31s}", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
		"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");
	ASK(p, deep, "error.desc", "QMP input lacks member 'execute'");
	sprintf(deep, "{\"id\": %.32s1%.32s}", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
		"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");
	ASK(p, deep, "error.desc", "JSON parse error, more than 32 levels");
	ASK(p, "{\"execute\": \"query-name\", \"id\": 1}", "id", "1");
	part(p);
}

/* After any garbage, 0xff and a request get that request answered. */
static void survives_garbage(void **state)
{
	static const char likely[] = "{}[]\",:\\ \n\xff{\"execute\":\"cont\"}";
	struct peer *p = meet_and_negotiate(*state);
	unsigned int seed = 1;

	for (int round = 0; round < 300; round++) {
		char text[512], id[16];
		size_t n = (size_t)rand_r(&seed) % 400 + 1;

		for (size_t i = 0; i < n; i++)
			text[i] = round % 2 ? (char)rand_r(&seed)
					    : likely[(size_t)rand_r(&seed) % (sizeof(likely) - 1)];
		n += (size_t)sprintf(text + n, "\xff{\"execute\":\"query-name\",\"id\":\"r%d\"}",
				     round);
		assert_int_equal(send(p->fd, text, n, MSG_NOSIGNAL), n);
		sprintf(id, "r%d", round);
		while (strcmp(at(hear(p), "id"), id) != 0)
			;
	}
	part(p);
}

static void tells_of_changes_by_events(void **state)
{
	struct peer *p = meet_and_negotiate(*state), *stranger = meet(*state);
	json_t *event;

	say(p, "{\"execute\": \"cont\"}");
	event = hear(p);
	assert_true(json_is_integer(
		json_object_get(json_object_get(event, "timestamp"), "microseconds")));
	assert_string_equal(at(event, "event"), "RESUME");
	assert_string_equal(at(hear(p), "return"), "{}");
	ASK(p, "{\"execute\": \"query-status\"}", "return.status", "running");
	ASK(p, "{\"execute\": \"cont\"}", "return", "{}");
	say(p, "{\"execute\": \"stop\"}");
	assert_string_equal(at(hear(p), "event"), "STOP");
	assert_string_equal(at(hear(p), "return"), "{}");
	ASK(p, "{\"execute\": \"query-status\"}", "return.status", "paused");
	/* Who has not negotiated hears nothing of it. */
	ASK(stranger, "{\"execute\": \"qmp_capabilities\"}", "return", "{}");
	part(p);
	part(stranger);
}

static void quits_after_the_answer(void **state)
{
	struct served *s = *state;
	struct peer *p = meet_and_negotiate(s);

	say(p, "{\"execute\": \"cont\"}");
	assert_string_equal(at(hear(p), "event"), "RESUME");
	assert_string_equal(at(hear(p), "return"), "{}");
	ASK(p, "{\"execute\": \"quit\"}", "return", "{}");
	assert_string_equal(at(hear(p), "data.reason"), "host-qmp-quit");
	assert_string_equal(at(hear(p), "event"), "STOP");
	pthread_join(s->thread, NULL);
	control_close(s->vm);
	assert_null(hear(p));
	part(p);
	pthread_create(&s->thread, NULL, serve, s);
}

/* Wherever a guest may be elsewhere, only a person who says so makes it run here. */
static void refuses_to_run_a_guest_that_may_be_elsewhere(void **state)
{
	struct served *s = *state;
	struct peer *p = meet_and_negotiate(s);

	assert_int_equal(vm_set_state(s->vm, VM_FINISH_MIGRATE, NULL), 0);
	ASK(p, "{\"execute\": \"cont\"}", "error.class", "GenericError");
	ASK(p, "{\"execute\": \"stop\"}", "error.class", "GenericError");
	ASK(p, "{\"execute\": \"system_reset\"}", "error.class", "GenericError");
	assert_int_equal(vm_set_state(s->vm, VM_HANDED_OVER, NULL), 0);
	ASK(p, "{\"execute\": \"system_reset\"}", "error.class", "GenericError");
	say(p, "{\"execute\": \"cont\"}");
	assert_non_null(strstr(at(hear(p), "error.desc"), "two running copies"));
	ASK(p, "{\"execute\": \"cont\", \"arguments\": {\"force\": false}}", "error.class",
	    "GenericError");
	ASK(p, "{\"execute\": \"query-status\"}", "return.status", "handed-over");
	say(p, "{\"execute\": \"cont\", \"arguments\": {\"force\": true}}");
	assert_string_equal(at(hear(p), "event"), "RESUME");
	assert_string_equal(at(hear(p), "return"), "{}");
	say(p, "{\"execute\": \"stop\"}");
	assert_string_equal(at(hear(p), "event"), "STOP");
	assert_string_equal(at(hear(p), "return"), "{}");
	assert_int_equal(vm_set_state(s->vm, VM_FINISH_MIGRATE, NULL), 0);
	assert_int_equal(vm_set_state(s->vm, VM_POSTMIGRATE, NULL), 0);
	ASK(p, "{\"execute\": \"cont\", \"arguments\": {\"force\": true}}", "error.class",
	    "GenericError");
	ASK(p, "{\"execute\": \"query-status\"}", "return.status", "postmigrate");
	part(p);
}

static void lists_its_commands(void **state)
{
	static const char *const some[] = {
		"qmp_capabilities", "query-status",   "stop", "cont", "quit",
		"system_reset",	    "query-cpus-fast"
	};
	struct peer *p = meet_and_negotiate(*state);
	json_t *answer, *list;

	say(p, "{\"execute\": \"query-commands\"}");
	answer = hear(p);
	list = json_object_get(answer, "return");
	for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
		bool found = false;
		json_t *item;
		size_t n;

		json_array_foreach (list, n, item)
			found |= !strcmp(json_string_value(json_object_get(item, "name")), some[i]);
		assert_true(found);
	}
	json_decref(answer);
	part(p);
}

/* It asks and asks and never reads: others are served, and in the end it is dropped. */
static void drops_a_client_that_never_reads(void **state)
{
	struct served *s = *state;
	struct peer *deaf = meet_and_negotiate(s), *p = meet_and_negotiate(s);
	char pad[8192], text[] = "{\"execute\": \"query-commands\"}";
	bool dropped = false;
	int stuck = 0;

	/* Once it takes no answers, it is not asked for requests either, but still there. */
	while (stuck < 20) {
		stuck++;
		while (send(deaf->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			stuck = 0;
		assert_int_equal(errno, EAGAIN);
		ASK(p, "{\"execute\": \"query-name\", \"id\": 1}", "id", "1");
	}
	memset(pad, 'x', sizeof(pad));
	for (int i = 0; i < 400 && !dropped; i++) {
		control_event(s->vm, "TEST", json_stringn(pad, sizeof(pad)));
		assert_string_equal(at(hear(p), "event"), "TEST");
		dropped = send(deaf->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
			  errno == EPIPE;
	}
	assert_true(dropped);
	ASK(p, "{\"execute\": \"query-name\", \"id\": 2}", "id", "2");
	part(deaf);
	part(p);
}

/* Many requests ahead of the first read are no offence. They are sent at once: a socket has room
 * for few small messages, and the server reads no more while its answers are not taken. */
static void answers_all_of_a_pipeline(void **state)
{
	struct peer *p = meet_and_negotiate(*state);
	char *text = calloc(2000, 48), *end = text, id[16];

	for (int i = 0; i < 2000; i++)
		end += sprintf(end, "{\"execute\": \"query-name\", \"id\": %d}\n", i);
	say(p, text);
	for (int i = 0; i < 2000; i++) {
		sprintf(id, "%d", i);
		assert_string_equal(at(hear(p), "id"), id);
	}
	free(text);
	part(p);
}

/* As `echo … | nc -U` does. */
static void answers_after_half_close(void **state)
{
	struct peer *p = meet(*state);

	say(p, "{\"execute\": \"qmp_capabilities\"}{\"execute\": \"query-status\"}{\"exec");
	shutdown(p->fd, SHUT_WR);
	assert_string_equal(at(hear(p), "return"), "{}");
	assert_string_equal(at(hear(p), "return.status"), "prelaunch");
	assert_null(hear(p));
	part(p);
}

/* … also when the answers are somewhat more than fit into the socket, whose size is not known. */
static void answers_much_after_half_close(void **state)
{
	struct peer *other = meet_and_negotiate(*state);

	for (int n = 50; n < 1000; n += 50) {
		struct peer *p = meet_and_negotiate(*state);
		char *text = calloc((size_t)n, 32), *end = text;

		for (int i = 0; i < n; i++)
			end = stpcpy(end, "{\"execute\": \"query-commands\"}");
		say(p, text);
		free(text);
		shutdown(p->fd, SHUT_WR);
		for (int i = 0; i < n / 10; i++) /* it has read all by then */
			ASK(other, "{\"execute\": \"query-name\", \"id\": 1}", "id", "1");
		for (int i = 0; i < n; i++)
			assert_string_not_equal(at(hear(p), "return"), "");
		assert_null(hear(p));
		part(p);
	}
	part(other);
}

static void serves_clients_side_by_side(void **state)
{
	struct served *s = *state;
	struct peer *peers[16], *more = calloc(1, sizeof(*more));

	for (int i = 0; i < 16; i++)
		peers[i] = meet_and_negotiate(s);
	more->fd = raw_connect(s->path);
	assert_null(hear(more)); /* one too many */
	part(more);
	say(peers[3], "{\"execute\": \"query-n");
	ASK(peers[4], "{\"execute\": \"query-name\", \"id\": 4}", "id", "4");
	ASK(peers[3], "ame\", \"id\": 3}", "id", "3");
	control_event(s->vm, "TEST", NULL);
	for (int i = 0; i < 16; i++)
		assert_string_equal(at(hear(peers[i]), "event"), "TEST");
	part(peers[0]);
	/* The place is free once the server has seen the end of the other. */
	do {
		more = calloc(1, sizeof(*more));
		more->fd = raw_connect(s->path);
		json_t *greeting = hear(more);
		bool welcome = greeting;

		json_decref(greeting);
		part(more);
		if (welcome)
			break;
	} while (true);
	for (int i = 1; i < 16; i++)
		part(peers[i]);
}

struct place {
	struct vm *vm;
	char dir[32], path[64];
};

static int enter(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	strcpy(p->dir, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/control", p->dir);
	assert_int_equal(vm_create(&p->vm, NULL), 0);
	*state = p;
	return 0;
}

static int leave(void **state)
{
	struct place *p = *state;

	control_close(p->vm);
	vm_destroy(p->vm);
	assert_int_equal(rmdir(p->dir), 0);
	free(p);
	return 0;
}

static void socket_is_its_owners_and_goes_away(void **state)
{
	struct place *p = *state;
	struct stat st;

	assert_int_equal(control_open(p->vm, p->path, NULL), 0);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	control_close(p->vm);
	assert_int_equal(access(p->path, F_OK), -1);
	control_close(p->vm);
}

static void replaces_a_stale_socket(void **state)
{
	struct place *p = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, p->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(control_open(p->vm, p->path, NULL), 0);
	close(raw_connect(p->path));
}

static void refuses_a_live_socket(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };
	struct vm *other;

	assert_int_equal(vm_create(&other, &err), 0);
	assert_int_equal(control_open(p->vm, p->path, &err), 0);
	assert_int_equal(control_open(other, p->path, &err), -EADDRINUSE);
	assert_string_equal(err.device, p->path);
	vm_destroy(other);
	close(raw_connect(p->path));
}

static void refuses_other_files_and_places(void **state)
{
	struct place *p = *state;
	struct error err = { 0 };
	char longer[200] = "";

	close(creat(p->path, 0600));
	assert_int_equal(control_open(p->vm, p->path, &err), -EEXIST);
	assert_int_equal(unlink(p->path), 0);
	error_clear(&err);
	assert_int_equal(control_open(p->vm, "/no/such/place", &err), -ENOENT);
	assert_string_equal(err.device, "/no/such/place");
	assert_int_equal(control_open(p->vm, "", NULL), -EINVAL);
	memset(longer, 'x', 108);
	assert_int_equal(control_open(p->vm, longer, NULL), -EINVAL);
	assert_null(p->vm->control);
}

static void leaves_anothers_socket_alone(void **state)
{
	struct place *p = *state;

	assert_int_equal(control_open(p->vm, p->path, NULL), 0);
	assert_int_equal(unlink(p->path), 0);
	close(creat(p->path, 0600));
	control_close(p->vm);
	assert_int_equal(unlink(p->path), 0);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, start, finish)
#define WITH_PLACE(test)  cmocka_unit_test_setup_teardown(test, enter, leave)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(greets_with_version_and_capabilities),
		WITH_SERVER(wants_negotiation_first_and_once),
		WITH_SERVER(echoes_any_id),
		WITH_SERVER(names_what_is_wrong_with_a_request),
		WITH_SERVER(errors_are_data),
		WITH_SERVER(finds_requests_wherever_they_begin_and_end),
		WITH_SERVER(bounds_the_length_of_a_request),
		WITH_SERVER(bounds_the_depth_of_a_request),
		WITH_SERVER(survives_garbage),
		WITH_SERVER(tells_of_changes_by_events),
		WITH_SERVER(quits_after_the_answer),
		WITH_SERVER(refuses_to_run_a_guest_that_may_be_elsewhere),
		WITH_SERVER(lists_its_commands),
		WITH_SERVER(drops_a_client_that_never_reads),
		WITH_SERVER(answers_all_of_a_pipeline),
		WITH_SERVER(answers_after_half_close),
		WITH_SERVER(answers_much_after_half_close),
		WITH_SERVER(serves_clients_side_by_side),
		WITH_PLACE(socket_is_its_owners_and_goes_away),
		WITH_PLACE(replaces_a_stale_socket),
		WITH_PLACE(refuses_a_live_socket),
		WITH_PLACE(refuses_other_files_and_places),
		WITH_PLACE(leaves_anothers_socket_alone),
	};

	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
