/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM that is handed over by descriptor: the destination does not write to it before COMMIT,
 * whatever goes wrong; and both sides together.
 */
#include "hand-over-fixture.h"

#include "migration/messages.h"
#include "migration/ram.h"

static int share(struct vm *vm, struct error *err)
{
	uint64_t size = vm->memory.size;

	memory_free(&vm->memory);
	return memory_alloc(&vm->memory, size, MEMORY_SHARED, 1UL << 30, 1UL << 32, err);
}

static int realize_shared(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	int ret = fake_realize(vm, fdt, incoming, err);

	return ret < 0 ? ret : share(vm, err);
}

static struct vm *shared_source(void)
{
	struct vm *vm = new_source(RAM);

	assert_int_equal(share(vm, NULL), 0);
	fill_random(&vm->memory, 7);
	return vm;
}

static struct vm *shared_destination(void)
{
	struct vm *vm = new_destination();

	vm->migration->realize = realize_shared;
	return vm;
}

enum step { AT_OFFER, AT_ACCEPT, AT_RAM, AT_STOPPED, AT_STATE, AT_LOADED, AT_COMMIT, STEPS };

/* A source that ends the conversation after a step. */
struct fake {
	struct vm *model;
	struct channel *ch;
	struct protocol *p;
	enum step last;
	bool without_fd;
	bool pages_too;	     /* a zero page after the descriptor of them all */
	uint64_t device_fds; /* … says a DEVICE_FD record, unless 0; one is beside it */
	struct error answer;
};

static int say_ram_fd(struct fake *f, struct error *err)
{
	struct message m;

	message_begin(&m);
	message_u64(&m, "size", RAM);
	if (!f->without_fd)
		channel_give_fds(f->ch, &f->model->memory.fd, 1);
	return protocol_say(f->p, RECORD_RAM_FD, message_end(&m), err);
}

static int say_zero_page(struct fake *f, struct error *err)
{
	const struct ram_run zero = { 0, 1, RAM_ZERO };
	uint8_t wire[64];
	int ret = protocol_send(f->p, RECORD_RAM, wire, ram_runs_encode(&zero, 1, wire), 0, false,
				err);

	return ret < 0 ? ret : protocol_flush(f->p, err);
}

static int say_stopped(struct fake *f, struct error *err)
{
	struct message m;

	message_begin(&m);
	message_u64(&m, "run", 1);
	message_u64(&m, "ram-crc", ram_checksum(&f->model->memory));
	return protocol_say(f->p, RECORD_STOPPED, message_end(&m), err);
}

static int say_state(struct fake *f, struct error *err)
{
	void *fdt;
	int ret = vm_save_state(f->model, &fdt, err);

	ret = ret ? ret : protocol_say(f->p, RECORD_STATE, fdt, err);
	free(fdt);
	return ret;
}

static int say_device_fd(struct fake *f, struct error *err)
{
	struct message m;

	message_begin(&m);
	message_string(&m, "device", "box");
	message_u64(&m, "fds", f->device_fds);
	channel_give_fds(f->ch, &f->model->memory.fd, 1);
	return protocol_say(f->p, RECORD_DEVICE_FD, message_end(&m), err);
}

static int take_step(struct fake *f, enum step step, struct error *err)
{
	struct record rec;
	struct hello hello;
	struct message m;
	int ret;

	switch (step) {
	case AT_OFFER:
		ret = protocol_expect(f->p, RECORD_HELLO, &rec, err);
		ret = ret ? ret : message_get_hello(&rec, &hello, err);
		assert_true(ret || hello.ram_fd);
		hello_local(&hello);
		message_hello(&m, &hello);
		ret = ret ? ret : protocol_say(f->p, RECORD_HELLO, message_end(&m), err);
		if (ret == 0 && f->device_fds)
			return say_device_fd(f, err);
		return ret ? ret : protocol_say(f->p, RECORD_MACHINE, f->model->tree, err);
	case AT_ACCEPT:
		return protocol_expect(f->p, RECORD_ACCEPT, &rec, err);
	case AT_RAM:
		ret = say_ram_fd(f, err);
		return ret || !f->pages_too ? ret : say_zero_page(f, err);
	case AT_STOPPED:
		return say_stopped(f, err);
	case AT_STATE:
		return say_state(f, err);
	case AT_LOADED:
		return protocol_expect(f->p, RECORD_LOADED, &rec, err);
	case AT_COMMIT:
		return protocol_say(f->p, RECORD_COMMIT, NULL, err);
	case STEPS:
		break;
	}
	return 0;
}

static void *fake_source(void *opaque)
{
	struct fake *f = opaque;
	struct error err = { 0 };
	struct record rec;

	for (enum step step = 0; step <= f->last; step++) {
		if (take_step(f, step, &err) != 0)
			break;
	}
	/* If it has something to say by itself, hear that. */
	if ((f->without_fd || f->pages_too || f->device_fds) &&
	    record_read(&f->p->reader, &rec, NULL) == 0)
		message_get_error(&rec, &f->answer);
	if (f->last == AT_COMMIT)
		record_read(&f->p->reader, &rec, NULL);
	channel_close(f->ch);
	return NULL;
}

static void stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

static void receive(struct vm *vm, struct fake *f)
{
	struct error err = { 0 };
	pthread_t thread;
	char uri[32];
	int fds[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	snprintf(uri, sizeof(uri), "fd:%d", fds[0]);
	assert_int_equal(channel_from_fd(fds[1], "destination", false, &f->ch), 0);
	f->p = malloc(sizeof(*f->p));
	protocol_init(f->p, f->ch, SIDE_SOURCE, PROTOCOL_LIVE);
	assert_int_equal(destination_start(vm, uri, NULL, &err), 0);
	vm->migration->ended = stop_loop;
	assert_int_equal(pthread_create(&thread, NULL, fake_source, f), 0);
	loop_run(vm->loop);
	pthread_join(thread, NULL);
	protocol_free(f->p);
	free(f->p);
}

/* The source vanishes after every step: until COMMIT its RAM holds what it held. */
static void untouched_before_commit(void **state)
{
	unsigned int before = open_fds();

	(void)state;
	for (enum step last = AT_OFFER; last <= AT_COMMIT; last++) {
		struct vm *model = shared_source(), *to = shared_destination();
		struct fake f = { .model = model, .last = last };
		uint32_t crc = ram_checksum(&model->memory);

		receive(to, &f);
		assert_int_equal(ram_checksum(&model->memory), crc);
		assert_string_equal(vm_state_name(to->state),
				    last == AT_COMMIT ? "running" : "inmigrate");
		if (last >= AT_RAM && last < AT_COMMIT)
			assert_true(write_kills(&to->memory));
		if (last == AT_COMMIT)
			assert_false(write_kills(&to->memory));
		vm_destroy(to);
		vm_destroy(model);
	}
	assert_int_equal(open_fds(), before);
}

static void missing_descriptor_is_refused(void **state)
{
	struct vm *model = shared_source(), *to = shared_destination();
	struct fake f = { .model = model, .last = AT_RAM, .without_fd = true };

	(void)state;
	receive(to, &f);
	assert_string_equal(f.answer.field, "descriptor");
	assert_string_equal(f.answer.got, "none");
	assert_string_equal(to->migration->error.field, "descriptor");
	vm_destroy(to);
	vm_destroy(model);
}

/* Only an heir takes what devices have open, and only as much of it as is said. */
/* The RAM is mapped for reading only: to write a page there would be the end of the destination. */
static void pages_after_the_descriptor_are_refused(void **state)
{
	struct vm *model = shared_source(), *to = shared_destination();
	struct fake f = { .model = model, .last = AT_RAM, .pages_too = true };
	uint32_t crc = ram_checksum(&model->memory);

	(void)state;
	receive(to, &f);
	assert_string_equal(f.answer.got, "RAM");
	assert_string_equal(to->migration->error.got, "RAM");
	assert_int_equal(ram_checksum(&model->memory), crc);
	vm_destroy(to);
	vm_destroy(model);
}

static void bad_device_descriptors_are_refused(void **state)
{
	static const struct {
		bool heir;
		uint64_t fds;
		const char *field, *got;
	} cases[] = {
		{ false, 1, "", "descriptors, which only ferry upgrade hands on" },
		{ true, 0x100000001, "fds", "4294967297" },
		{ true, 3, "descriptors", "1 of 3" },
	};
	unsigned int before = open_fds();

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vm *model = shared_source(), *to = shared_destination();
		struct fake f = { .model = model, .device_fds = cases[i].fds };

		to->migration->heir = cases[i].heir;
		receive(to, &f);
		assert_string_equal(f.answer.field, cases[i].field);
		assert_string_equal(f.answer.got, cases[i].got);
		vm_destroy(to);
		vm_destroy(model);
	}
	assert_int_equal(open_fds(), before);
}

static void *run_loop(void *opaque)
{
	struct vm *vm = opaque;

	loop_run(vm->loop);
	return NULL;
}

/* Both sides are real. */
static void cross(struct vm *from, struct vm *to)
{
	struct error err = { 0 };
	pthread_t thread;
	char uri[2][32];
	int fds[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), errno);
	for (int i = 0; i < 2; i++)
		snprintf(uri[i], sizeof(uri[i]), "fd:%d", fds[i]);
	assert_int_equal(destination_start(to, uri[1], NULL, &err), 0);
	to->migration->ended = stop_loop;
	migration_get(from)->params.verify = true;
	assert_int_equal(source_start(from, uri[0], &err), 0);
	from->migration->ended = stop_loop;
	assert_int_equal(pthread_create(&thread, NULL, run_loop, to), 0);
	loop_run(from->loop);
	pthread_join(thread, NULL);
}

static void crosses(void **state)
{
	struct vm *from = shared_source(), *to = shared_destination();
	struct error err = { 0 };

	(void)state;
	cross(from, to);
	assert_int_equal(from->state, VM_POSTMIGRATE);
	assert_int_equal(to->state, VM_RUNNING);
	assert_int_equal(box_of(to)->state.number, 4711);
	assert_int_equal(from->migration->stats.ram_given, RAM);
	assert_int_equal(to->migration->stats.ram_given, RAM);
	assert_int_equal(from->migration->stats.pages_data, 0);
	assert_true(from->migration->stats.bytes_xfer < 16384);
	fill_random(&to->memory, 8); /* the guest does */
	assert_same_memory(&from->memory, &to->memory);
	/* Even a person who is wrong cannot have it run twice. */
	assert_int_equal(vm_claim(from, &err), -EPERM);
	vm_destroy(from);
	vm_destroy(to);
}

static void is_sent_where_that_is_wanted(void **state)
{
	struct vm *from = shared_source(), *to = shared_destination();

	(void)state;
	migration_get(from)->params.send_ram = true;
	cross(from, to);
	assert_int_equal(to->state, VM_RUNNING);
	assert_int_equal(from->migration->stats.ram_given, 0);
	assert_int_equal(from->migration->stats.pages_data, RAM / PAGE_SIZE);
	assert_same_memory(&from->memory, &to->memory);
	assert_int_equal(vm_claim(from, NULL), 0);
	vm_destroy(from);
	vm_destroy(to);
}

static int no_room(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	(void)vm, (void)fdt, (void)incoming;
	return error_set(err, -ENODEV, "realize", "toaster", "", "one", "none");
}

/* What fails leaves the guest with its RAM, and a second try succeeds. */
static void fails_and_crosses_then(void **state)
{
	struct vm *from = shared_source(), *to = new_destination();

	(void)state;
	to->migration->realize = no_room;
	cross(from, to);
	assert_int_equal(from->state, VM_RUNNING);
	assert_string_equal(from->migration->error.device, "toaster");
	assert_false(write_kills(&from->memory));
	vm_destroy(to);
	to = shared_destination();
	cross(from, to);
	assert_int_equal(to->state, VM_RUNNING);
	vm_destroy(from);
	vm_destroy(to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(untouched_before_commit),
		cmocka_unit_test(missing_descriptor_is_refused),
		cmocka_unit_test(pages_after_the_descriptor_are_refused),
		cmocka_unit_test(bad_device_descriptors_are_refused),
		cmocka_unit_test(crosses),
		cmocka_unit_test(is_sent_where_that_is_wanted),
		cmocka_unit_test(fails_and_crosses_then),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
