/* SPDX-License-Identifier: BSD-2-Clause */
/* The life of a machine, without KVM and vCPUs: states, requests, resets, listeners. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/command.h"
#include "vmm/loader.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

#define MAGIC "a kernel of this test"

/* One device that says what is done to it. */
struct gadget {
	struct device dev;
	unsigned int resets, quiesces, resumes, announces;
	bool runs;
	unsigned int request_at_reset, request_at_quiesce;
};

struct listened {
	struct vm_listener listener;
	struct box *box;
	enum vm_state from, to;
	unsigned int changes, resets, gone;
	unsigned int turn; /* of the last call, counted over all listeners */
	bool guest, on_loop, gadget_ran;
};

struct box {
	struct vm *vm;
	struct gadget *gadget;
	struct listened a, b;
	unsigned int turns;
	struct loop_timer *stop;
	char kernel[32];
};

static void gadget_reset(struct device *dev)
{
	struct gadget *g = (struct gadget *)dev;
	unsigned int request = g->request_at_reset;

	assert_false(g->runs);
	g->resets++;
	g->request_at_reset = 0;
	if (request)
		vm_request(dev->vm, request);
}

static void gadget_quiesce(struct device *dev)
{
	struct gadget *g = (struct gadget *)dev;

	g->runs = false;
	g->quiesces++;
	if (g->request_at_quiesce)
		vm_request(dev->vm, g->request_at_quiesce);
}

static void gadget_resume(struct device *dev)
{
	struct gadget *g = (struct gadget *)dev;

	g->runs = true;
	g->resumes++;
}

static void gadget_announce(struct device *dev)
{
	struct gadget *g = (struct gadget *)dev;

	assert_true(g->runs);
	g->announces++;
}

static const struct device_class gadget_class = { .name = "gadget",
						  .size = sizeof(struct gadget),
						  .reset = gadget_reset,
						  .quiesce = gadget_quiesce,
						  .resume = gadget_resume,
						  .announce = gadget_announce };

static bool probe(const struct boot_file *kernel)
{
	return kernel->size == strlen(MAGIC) && memcmp(kernel->data, MAGIC, kernel->size) == 0;
}

static int load(struct vm *vm, const struct boot_image *image, struct error *err)
{
	(void)vm, (void)err;
	assert_string_equal(image->cmdline, "quiet");
	return 0;
}

static const struct loader test_loader = { .name = "test", .probe = probe, .load = load };
LOADER(test_loader);

static void heard(struct listened *l)
{
	l->turn = ++l->box->turns;
	l->on_loop = loop_is_current(l->box->vm->loop);
	l->gadget_ran = l->box->gadget->runs;
}

static void on_changed(void *opaque, enum vm_state from, enum vm_state to)
{
	struct listened *l = opaque;

	heard(l);
	l->changes++;
	l->from = from;
	l->to = to;
	assert_int_equal(l->box->vm->state, to);
}

static void on_reset(void *opaque, bool guest)
{
	struct listened *l = opaque;

	heard(l);
	l->resets++;
	l->guest = guest;
}

static void on_gone(void *opaque)
{
	((struct listened *)opaque)->gone++;
}

static void listen(struct box *box, struct listened *l)
{
	l->box = box;
	l->listener = (struct vm_listener){
		.changed = on_changed, .reset = on_reset, .gone = on_gone, .opaque = l
	};
	vm_listen(box->vm, &l->listener);
}

static void stop(void *opaque)
{
	loop_stop(((struct box *)opaque)->vm->loop);
}

static int setup(void **state)
{
	struct box *box = calloc(1, sizeof(*box));

	assert_int_equal(vm_create(&box->vm, NULL), 0);
	assert_int_equal(loop_timer_add(box->vm->loop, stop, box, &box->stop), 0);
	box->gadget = calloc(1, sizeof(*box->gadget));
	box->gadget->dev.vm = box->vm;
	box->gadget->dev.class = &gadget_class;
	pthread_mutex_init(&box->gadget->dev.lock, NULL);
	box->vm->devices = &box->gadget->dev;
	listen(box, &box->a);
	listen(box, &box->b);
	*state = box;
	return 0;
}

static int teardown(void **state)
{
	struct box *box = *state;

	loop_timer_del(box->stop);
	vm_destroy(box->vm);
	if (box->kernel[0])
		unlink(box->kernel);
	free(box);
	return 0;
}

/* A kernel that can be booted. */
static void give_kernel(struct box *box)
{
	struct machine_options opt = {
		.memory = 2UL << 20, .cpus = 1, .kernel = box->kernel, .cmdline = "quiet"
	};
	struct machine_tree *mt;
	int fd;

	strcpy(box->kernel, "/tmp/ferry-vm-XXXXXX");
	fd = mkstemp(box->kernel);
	assert_int_equal(write(fd, MAGIC, strlen(MAGIC)), strlen(MAGIC));
	close(fd);
	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &box->vm->tree, NULL), 0);
	/* For what is put there for any kernel. */
	assert_int_equal(memory_alloc(&box->vm->memory, opt.memory, MEMORY_ANON, 0xc0000000,
				      0x100000000, NULL),
			 0);
}

static void run(struct box *box)
{
	assert_int_equal(vm_set_state(box->vm, VM_RUNNING, NULL), 0);
	assert_true(box->gadget->runs);
}

/* Let the loop do what is due. Ends early, and says so, when the machine does. */
static bool turn(struct box *box)
{
	bool ended;

	loop_timer_set(box->stop, 20000000);
	loop_run(box->vm->loop);
	ended = box->vm->state == VM_SHUTDOWN || box->vm->state == VM_INTERNAL_ERROR;
	loop_timer_set(box->stop, -1);
	return ended;
}

static void an_empty_machine(void **state)
{
	struct error err = { 0 };
	struct vm *a, *b;

	(void)state;
	assert_int_equal(vm_create(&a, &err), 0);
	assert_int_equal(vm_create(&b, &err), 0);
	assert_int_equal(a->state, VM_PRELAUNCH);
	assert_int_equal(a->n_vcpus, 0);
	assert_int_equal(a->fd, -1);
	assert_int_equal(vm_set_state(a, VM_RUNNING, &err), 0);
	assert_int_equal(b->state, VM_PRELAUNCH);
	assert_int_equal(vm_set_state(a, VM_PAUSED, &err), 0);
	vm_destroy(a);
	vm_destroy(b);
	vm_destroy(NULL);
}

/* Rows: from; columns: to, in the order of enum vm_state. */
static const struct {
	const char *name, *moves;
} legal[VM_STATES] = {
	/*                                   pirpfhpsi */
	[VM_PRELAUNCH] = { "prelaunch", " xxxx  x " },
	[VM_INMIGRATE] = { "inmigrate", "x xx   x " },
	[VM_RUNNING] = { "running", "   xx  xx" },
	[VM_PAUSED] = { "paused", "  x x  xx" },
	[VM_FINISH_MIGRATE] = { "finish-migrate", "x xx xxxx" },
	[VM_HANDED_OVER] = { "handed-over", "  x   xx " },
	[VM_POSTMIGRATE] = { "postmigrate", "       x " },
	[VM_SHUTDOWN] = { "shutdown", "  xx     " },
	[VM_INTERNAL_ERROR] = { "internal-error", "  xx   x " },
};

static void try_move(struct box *box, enum vm_state from, enum vm_state to, bool may)
{
	bool sought_elsewhere = from == VM_FINISH_MIGRATE || from == VM_HANDED_OVER;
	unsigned int changes = box->a.changes, announces = box->gadget->announces;
	struct error err = { 0 };
	int ret;

	box->vm->state = from;
	if (from == VM_RUNNING)
		box->vm->vcpus_run = box->gadget->runs = true;
	ret = vm_set_state(box->vm, to, &err);
	if (may || from == to) {
		assert_int_equal(ret, 0);
		assert_int_equal(box->vm->state, to);
		assert_int_equal(box->a.changes, changes + (from != to));
	} else {
		assert_int_equal(ret, -EINVAL);
		assert_int_equal(box->vm->state, from);
		assert_int_equal(box->a.changes, changes);
		assert_string_equal(err.device, legal[from].name);
		assert_non_null(strstr(err.got, legal[to].name));
	}
	assert_int_equal(box->gadget->runs, box->vm->state == VM_RUNNING);
	assert_int_equal(box->gadget->announces,
			 announces + (sought_elsewhere && to == VM_RUNNING));
	box->vm->vcpus_run = box->gadget->runs = false;
}

static void every_move(void **state)
{
	for (enum vm_state from = 0; from < VM_STATES; from++) {
		assert_string_equal(vm_state_name(from), legal[from].name);
		assert_int_equal(strlen(legal[from].moves), VM_STATES);
		for (enum vm_state to = 0; to < VM_STATES; to++)
			try_move(*state, from, to, legal[from].moves[to] == 'x');
	}
}

static void running_and_pausing(void **state)
{
	struct box *box = *state;

	run(box);
	assert_int_equal(box->gadget->resumes, 1);
	assert_true(box->vm->resumed_at > 0);
	assert_int_equal(vm_set_state(box->vm, VM_PAUSED, NULL), 0);
	assert_int_equal(box->gadget->quiesces, 1);
	assert_false(box->gadget->runs);
	assert_true(box->vm->paused_at >= box->vm->resumed_at);
	assert_int_equal(vm_set_state(box->vm, VM_FINISH_MIGRATE, NULL), 0);
	assert_int_equal(box->gadget->quiesces, 1);
}

static void listeners_hear_in_order_after_the_fact(void **state)
{
	struct box *box = *state;
	struct listened none = { .box = box };

	vm_listen(box->vm, &none.listener); /* no members */
	run(box);
	assert_int_equal(box->b.turn, 1); /* the youngest first */
	assert_int_equal(box->a.turn, 2);
	assert_true(box->a.gadget_ran);
	assert_int_equal(box->a.from, VM_PRELAUNCH);
	assert_int_equal(box->a.to, VM_RUNNING);
	vm_unlisten(box->vm, &box->b.listener);
	vm_unlisten(box->vm, &none.listener);
	assert_int_equal(vm_set_state(box->vm, VM_PAUSED, NULL), 0);
	assert_int_equal(box->a.turn, 3);
	assert_false(box->a.gadget_ran);
	assert_int_equal(box->b.changes, 1);
}

static void listeners_are_told_of_the_end(void **state)
{
	struct listened l = { 0 };
	struct box box = { 0 };

	(void)state;
	assert_int_equal(vm_create(&box.vm, NULL), 0);
	listen(&box, &l);
	vm_destroy(box.vm);
	assert_int_equal(l.gone, 1);
}

static void *loop_thread(void *opaque)
{
	loop_run(((struct box *)opaque)->vm->loop);
	return NULL;
}

static void from_another_thread(void **state)
{
	struct box *box = *state;
	struct error err = { 0 };
	pthread_t thread;

	pthread_create(&thread, NULL, loop_thread, box);
	for (unsigned int i = 0; i < 100; i++) {
		assert_int_equal(vm_set_state(box->vm, VM_RUNNING, &err), 0);
		assert_int_equal(vm_set_state(box->vm, VM_PAUSED, &err), 0);
	}
	assert_int_equal(vm_set_state(box->vm, VM_INMIGRATE, &err), -EINVAL);
	loop_stop(box->vm->loop);
	pthread_join(thread, NULL);
	assert_int_equal(box->a.changes, 200);
	assert_int_equal(box->gadget->quiesces, 100);
}

static void listeners_are_on_the_loop_thread(void **state)
{
	struct box *box = *state;
	pthread_t thread;

	pthread_create(&thread, NULL, loop_thread, box);
	/* Done inline if the loop is not running yet, so wait until it is. */
	do {
		assert_int_equal(vm_set_state(box->vm, VM_RUNNING, NULL), 0);
		assert_int_equal(vm_set_state(box->vm, VM_PAUSED, NULL), 0);
	} while (!box->a.on_loop);
	loop_stop(box->vm->loop);
	pthread_join(thread, NULL);
}

static void the_guest_asks_for_the_end(void **state)
{
	struct box *box = *state;

	run(box);
	vm_request_exit(box->vm, 33);
	assert_true(turn(box));
	assert_int_equal(box->vm->state, VM_SHUTDOWN);
	assert_int_equal(box->vm->exit_status, 33);
	assert_false(box->gadget->runs);
	assert_false(box->vm->quit);
	assert_int_equal(box->a.to, VM_SHUTDOWN);
}

static void the_guest_ends_on_the_way_into_a_pause(void **state)
{
	struct box *box = *state;
	struct error err = { 0 };

	run(box);
	vm_request_exit(box->vm, 5);
	assert_int_equal(vm_set_state(box->vm, VM_FINISH_MIGRATE, &err), -ECANCELED);
	assert_int_equal(err.code, -ECANCELED);
	assert_int_equal(box->vm->state, VM_SHUTDOWN);
	assert_int_equal(box->vm->exit_status, 5);
}

static void the_guest_asks_for_a_reset(void **state)
{
	struct box *box = *state;

	give_kernel(box);
	run(box);
	vm_request(box->vm, VM_REQUEST_RESET);
	assert_false(turn(box));
	assert_int_equal(box->vm->state, VM_RUNNING);
	assert_true(box->gadget->runs);
	assert_int_equal(box->gadget->resets, 1);
	assert_int_equal(box->a.resets, 1);
	assert_true(box->a.guest);

	vm_request(box->vm, VM_REQUEST_RESET);
	assert_int_equal(vm_set_state(box->vm, VM_PAUSED, NULL), 0);
	assert_false(box->gadget->runs);
	assert_int_equal(box->gadget->resets, 2);

	box->vm->exit_on_reset = true;
	run(box);
	vm_request(box->vm, VM_REQUEST_RESET);
	assert_true(turn(box));
	assert_int_equal(box->vm->state, VM_SHUTDOWN);
	assert_int_equal(box->vm->exit_status, STATUS_OK);
	assert_int_equal(box->gadget->resets, 2);
}

/* Run the loop, with stderr going to @text. */
static bool turn_and_read_stderr(struct box *box, char *text, size_t size)
{
	int old = dup(STDERR_FILENO);
	FILE *file = tmpfile();
	bool ended;

	dup2(fileno(file), STDERR_FILENO);
	ended = turn(box);
	fflush(stderr);
	dup2(old, STDERR_FILENO);
	close(old);
	rewind(file);
	text[fread(text, 1, size - 1, file)] = 0;
	fclose(file);
	return ended;
}

static void a_reset_that_fails_is_an_internal_error(void **state)
{
	struct box *box = *state;
	char text[512];

	run(box);
	vm_request(box->vm, VM_REQUEST_RESET);
	assert_true(turn_and_read_stderr(box, text, sizeof(text)));
	assert_int_equal(box->vm->state, VM_INTERNAL_ERROR);
	assert_int_equal(box->vm->exit_status, STATUS_ERROR);
	assert_false(box->gadget->runs);
	assert_non_null(strstr(text, "kernel"));
	assert_int_equal(box->a.resets, 0);
}

static void a_reset_by_a_person(void **state)
{
	struct box *box = *state;
	struct error err = { 0 };

	assert_int_equal(vm_reset(box->vm, false, &err), -EINVAL); /* nothing to boot */
	assert_int_equal(box->vm->state, VM_PRELAUNCH);
	give_kernel(box);
	assert_int_equal(vm_reset(box->vm, false, NULL), 0);
	assert_int_equal(box->vm->state, VM_PRELAUNCH);
	assert_false(box->a.guest);
	run(box);
	assert_int_equal(vm_reset(box->vm, false, NULL), 0);
	assert_int_equal(box->vm->state, VM_RUNNING);
	assert_true(box->gadget->runs);
	assert_int_equal(box->a.resets, 2);

	/* The kernel is no more, and so is the guest that was there. */
	unlink(box->kernel);
	assert_int_equal(vm_reset(box->vm, false, NULL), -ENOENT);
	assert_int_equal(box->vm->state, VM_INTERNAL_ERROR);
	assert_int_equal(box->a.to, VM_INTERNAL_ERROR);
	assert_int_equal(box->vm->exit_status, STATUS_ERROR);
	assert_false(box->gadget->runs);
}

static void a_crash(void **state)
{
	struct box *box = *state;

	run(box);
	vm_request(box->vm, VM_REQUEST_CRASH);
	assert_true(turn(box));
	assert_int_equal(box->vm->state, VM_INTERNAL_ERROR);
	assert_int_equal(box->vm->exit_status, STATUS_CRASH);
	assert_false(box->gadget->runs);
}

static void a_crash_that_resets(void **state)
{
	struct box *box = *state;

	give_kernel(box);
	box->vm->reset_on_crash = true;
	run(box);
	vm_request(box->vm, VM_REQUEST_CRASH);
	assert_false(turn(box));
	assert_int_equal(box->vm->state, VM_RUNNING);
	assert_int_equal(box->gadget->resets, 1);
	assert_true(box->gadget->runs);
}

static void staying_after_the_end(void **state)
{
	struct box *box = *state;

	give_kernel(box);
	box->vm->stay = true;
	run(box);
	vm_request_exit(box->vm, 7);
	assert_true(turn(box)); /* by the timer */
	assert_int_equal(vm_reset(box->vm, false, NULL), 0);
	assert_int_equal(box->vm->state, VM_SHUTDOWN);
	assert_int_equal(vm_set_state(box->vm, VM_PAUSED, NULL), 0);
	run(box);
	assert_false(turn(box));
	assert_true(box->gadget->runs);
}

/* A vCPU that has asked for something waits for the answer, parked. */
static void a_request_filed_while_paused_is_kept(void **state)
{
	struct box *box = *state;

	vm_request_exit(box->vm, 9);
	assert_false(turn(box));
	assert_int_equal(box->vm->state, VM_PRELAUNCH);
	run(box);
	assert_true(turn(box));
	assert_int_equal(box->vm->state, VM_SHUTDOWN);
	assert_int_equal(box->vm->exit_status, 9);
}

static void a_reset_that_goes_wrong_crashes(void **state)
{
	struct box *box = *state;

	give_kernel(box);
	run(box);
	box->gadget->request_at_reset = VM_REQUEST_CRASH;
	vm_request(box->vm, VM_REQUEST_RESET);
	assert_true(turn(box));
	assert_int_equal(box->vm->state, VM_INTERNAL_ERROR);
}

/* Two vCPUs of one guest ask at nearly the same time, the second on its way out of it. */
static void one_guest_is_reset_once(void **state)
{
	struct box *box = *state;

	give_kernel(box);
	run(box);
	box->gadget->request_at_quiesce = VM_REQUEST_RESET;
	vm_request(box->vm, VM_REQUEST_RESET);
	assert_false(turn(box));
	assert_int_equal(box->gadget->resets, 1);
	assert_int_equal(box->vm->requests, 0);
}

static void quitting(void **state)
{
	struct box *box = *state;

	box->vm->stay = true;
	run(box);
	vm_request(box->vm, VM_REQUEST_QUIT);
	assert_true(turn(box));
	assert_true(box->vm->quit);
	assert_int_equal(box->vm->state, VM_SHUTDOWN);
	assert_int_equal(box->vm->exit_status, STATUS_OK);
	assert_false(box->gadget->runs);
}

/* The state stays what it was, so that nobody takes the guest for one that has ended. */
static void quitting_a_machine_that_does_not_run(void **state)
{
	static const struct {
		enum vm_state state;
		int status;
	} cases[] = { { VM_PAUSED, STATUS_OK },
		      { VM_HANDED_OVER, STATUS_OK },
		      { VM_INMIGRATE, STATUS_ERROR } };
	struct box *box = *state;

	for (unsigned int i = 0; i < 3; i++) {
		box->vm->state = cases[i].state;
		box->vm->quit = false;
		vm_request(box->vm, VM_REQUEST_QUIT);
		loop_run(box->vm->loop);
		assert_true(box->vm->quit);
		assert_int_equal(box->vm->state, cases[i].state);
		assert_int_equal(box->vm->exit_status, cases[i].status);
		assert_int_equal(box->a.changes, i + 1);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_machine),
		TEST(every_move),
		TEST(running_and_pausing),
		TEST(listeners_hear_in_order_after_the_fact),
		cmocka_unit_test(listeners_are_told_of_the_end),
		TEST(from_another_thread),
		TEST(listeners_are_on_the_loop_thread),
		TEST(the_guest_asks_for_the_end),
		TEST(the_guest_ends_on_the_way_into_a_pause),
		TEST(the_guest_asks_for_a_reset),
		TEST(a_reset_that_fails_is_an_internal_error),
		TEST(a_reset_by_a_person),
		TEST(a_crash),
		TEST(a_crash_that_resets),
		TEST(staying_after_the_end),
		TEST(a_request_filed_while_paused_is_kept),
		TEST(a_reset_that_goes_wrong_crashes),
		TEST(one_guest_is_reset_once),
		TEST(quitting),
		TEST(quitting_a_machine_that_does_not_run),
	};

	return cmocka_run_group_tests_name("vm", tests, NULL, NULL);
}
