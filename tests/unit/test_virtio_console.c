/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-console: bytes both ways, a slow host, and moves in the middle of both. */
#include "tests/unit/devrig.h"

#include <fcntl.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "devices/chardev.h"
#include "tests/unit/guest-virtio.h"

#define RX	   0
#define TX	   1
#define QUEUE_SIZE 8
#define RINGS	   0x10000ULL /* three pages a queue */
#define BUFFERS	   0x40000ULL
#define BUFFER	   0x10000U /* bytes each */
#define W	   VRING_DESC_F_WRITE
#define N	   VRING_DESC_F_NEXT

/* A console in a machine, a guest's driver, and a client at its socket. */
struct fixture {
	struct rig rig;
	struct virtio_device *vd;
	struct guest_queue rx, tx;
	int client;
	char dir[64];
};

static void describe_queue(struct fixture *f, struct guest_queue *gq, unsigned int index)
{
	uint64_t gpa = RINGS + index * 3 * PAGE_SIZE;

	*gq = (struct guest_queue){ .vd = f->vd,
				    .index = index,
				    .size = QUEUE_SIZE,
				    .desc = gpa,
				    .avail = gpa + PAGE_SIZE,
				    .used = gpa + 2 * PAGE_SIZE };
}

static void start_driver(struct fixture *f)
{
	memset(ram(f->vd, RINGS), 0, 6 * PAGE_SIZE);
	describe_queue(f, &f->rx, RX);
	describe_queue(f, &f->tx, TX);
	assert_true(guest_negotiate(f->vd, V1));
	guest_set_queue(&f->rx, 1);
	guest_set_queue(&f->tx, 1);
	reg_write(f->vd, VIRTIO_MMIO_STATUS,
		  STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void console_spec(const struct fixture *f, char *spec, size_t size)
{
	snprintf(spec, size, "unix:%s/s", f->dir);
}

static int dial(const struct fixture *f)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/s", f->dir);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char spec[100];

	strcpy(f->dir, "/tmp/ferry-console-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	console_spec(f, spec, sizeof(spec));
	rig_open(&f->rig, "virtio-console", spec);
	f->vd = (struct virtio_device *)f->rig.dev;
	f->client = dial(f);
	rig_turn(&f->rig);
	start_driver(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int ret;

	rig_close(&f->rig);
	close(f->client);
	ret = rmdir(f->dir);
	free(f);
	return ret;
}

static void kick(struct guest_queue *gq)
{
	reg_write(gq->vd, VIRTIO_MMIO_QUEUE_NOTIFY, gq->index);
}

static uint64_t buffer(unsigned int i)
{
	return BUFFERS + (uint64_t)i * BUFFER;
}

/* Offer descriptor @i as an empty buffer of @len bytes. */
static void offer(struct fixture *f, uint16_t i, uint32_t len)
{
	guest_desc(&f->rx, i, buffer(i), len, W, 0);
	guest_add(&f->rx, i);
	kick(&f->rx);
}

static void say(struct fixture *f, uint16_t i, const void *data, uint32_t len)
{
	memcpy(ram(f->vd, buffer(i)), data, len);
	guest_desc(&f->tx, i, buffer(i), len, 0, 0);
	guest_add(&f->tx, i);
	kick(&f->tx);
}

static void type(struct fixture *f, const char *text)
{
	assert_int_equal(write(f->client, text, strlen(text)), strlen(text));
}

static void expect_used(struct fixture *f, struct guest_queue *gq, uint32_t head, uint32_t len)
{
	uint32_t got_head, got_len;

	RIG_UNTIL(&f->rig, guest_get(gq, &got_head, &got_len));
	assert_int_equal(got_head, head);
	assert_int_equal(got_len, len);
}

static void expect_input(struct fixture *f, uint32_t i, const char *text)
{
	expect_used(f, &f->rx, i, (uint32_t)strlen(text));
	assert_memory_equal(ram(f->vd, buffer(i)), text, strlen(text));
}

static void test_identity(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(reg_read(f->vd, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_CONSOLE);
	assert_true(guest_features(f->vd) & 1ULL << VIRTIO_CONSOLE_F_EMERG_WRITE);
	/* Guests look for the transport in the tree. */
	assert_true(fdt_node_offset_by_compatible(f->rig.tree, -1, "virtio,mmio") >= 0);
}

static void test_output(void **state)
{
	struct fixture *f = *state;

	say(f, 0, "hello ", 6);
	expect_used(f, &f->tx, 0, 0);
	/* In pieces, an empty buffer among them. */
	memcpy(ram(f->vd, buffer(1)), "wor", 3);
	memcpy(ram(f->vd, buffer(2)), "ld", 2);
	guest_desc(&f->tx, 1, buffer(1), 3, N, 2);
	guest_desc(&f->tx, 2, buffer(2), 2, 0, 0);
	guest_add(&f->tx, 1);
	kick(&f->tx);
	expect_used(f, &f->tx, 1, 0);
	rig_expect(&f->rig, f->client, "hello world", 11);
}

static void test_input(void **state)
{
	struct fixture *f = *state;

	offer(f, 0, 100);
	type(f, "first");
	expect_input(f, 0, "first");
	/* Waits for buffers, and is cut to their size. */
	type(f, "second");
	rig_turn(&f->rig);
	offer(f, 1, 4);
	expect_input(f, 1, "seco");
	offer(f, 2, 4);
	expect_input(f, 2, "nd");
	assert_true(guest_interrupts(f->vd) > 0);
}

static void test_emergency_write(void **state)
{
	struct fixture *f = *state;
	uint64_t reg = VIRTIO_MMIO_CONFIG + offsetof(struct virtio_console_config, emerg_wr);

	for (const char *p = "panic"; *p; p++)
		reg_write(f->vd, reg, (uint32_t)*p);
	assert_int_equal(reg_read(f->vd, reg), 0);
	rig_expect(&f->rig, f->client, "panic", 5);
}

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 13 >> 4);
}

/* Print full buffers until the host has no room for one; the last is not used up. Returns how many
 * were added. */
static unsigned int print_until_full(struct fixture *f)
{
	unsigned int n = 0;

	for (;;) {
		uint8_t *data = ram(f->vd, buffer(n % QUEUE_SIZE));
		uint32_t head, len;

		for (size_t i = 0; i < BUFFER; i++)
			data[i] = pattern((size_t)n * BUFFER + i);
		guest_desc(&f->tx, n % QUEUE_SIZE, buffer(n % QUEUE_SIZE), BUFFER, 0, 0);
		guest_add(&f->tx, (uint16_t)(n % QUEUE_SIZE));
		kick(&f->tx);
		n++;
		for (int i = 0; !guest_get(&f->tx, &head, &len); i++) {
			if (i == 20)
				return n;
			rig_turn(&f->rig);
		}
	}
}

static size_t read_all(int fd, uint8_t *to, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, to + len, size - len)) > 0)
		len += (size_t)n;
	return len;
}

static void assert_pattern(const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		assert_int_equal(data[i], pattern(i));
}

/* A host that reads slowly holds the chain; all of it comes in the end. */
static void test_slow_host(void **state)
{
	struct fixture *f = *state;
	size_t size = 4 << 20, len = 0;
	uint8_t *got = malloc(size);
	unsigned int n = print_until_full(f);

	for (int turns = 0; len < (size_t)n * BUFFER; turns++) {
		assert_true(turns < 10000);
		rig_turn(&f->rig);
		len += read_all(f->client, got + len, size - len);
	}
	assert_int_equal(guest_used_index(&f->tx), n);
	assert_pattern(got, len);
	free(got);
}

/* In the middle of a chain, with input that has no buffer yet: nothing lost, nothing twice. */
static void test_move(void **state)
{
	struct fixture *f = *state, g = { 0 };
	size_t size = 4 << 20, len;
	uint8_t *got = malloc(size);
	struct error err = { 0 };
	char spec[100], path[80];
	unsigned int n;
	int fd;

	n = print_until_full(f);
	type(f, "typed before");
	rig_turn(&f->rig);
	rig_quiesce(&f->rig);

	snprintf(path, sizeof(path), "%s/f", f->dir);
	snprintf(spec, sizeof(spec), "file:%s", path);
	rig_init(&g.rig);
	g.rig.vm->state = VM_INMIGRATE;
	assert_int_equal(rig_realize(&g.rig, "virtio-console", spec, &err), 0);
	g.vd = (struct virtio_device *)g.rig.dev;
	g.rx = f->rx;
	g.tx = f->tx;
	g.rx.vd = g.tx.vd = g.vd;
	memcpy(g.rig.vm->memory.regions[0].hva, f->rig.vm->memory.regions[0].hva, RIG_RAM);
	assert_int_equal(rig_copy(&f->rig, &g.rig, &err), 0);
	rig_assert_same_state(&f->rig, &g.rig);
	f->rig.dev->class->yield(f->rig.dev);
	assert_int_equal(g.rig.dev->class->claim(g.rig.dev, &err), 0);
	rig_resume(&g.rig);

	expect_used(&g, &g.tx, (n - 1) % QUEUE_SIZE, 0);
	offer(&g, 0, 100);
	expect_input(&g, 0, "typed before");
	rig_close(&g.rig);

	len = read_all(f->client, got, size);
	assert_true(len < (size_t)n * BUFFER);
	fd = open(path, O_RDONLY);
	len += read_all(fd, got + len, size - len);
	assert_int_equal(len, (size_t)n * BUFFER);
	assert_pattern(got, len);
	close(fd);
	unlink(path);
	free(got);
}

/* A driver that starts anew is not missing the beginning of its first chain. */
static void test_driver_restart(void **state)
{
	struct fixture *f = *state;
	uint8_t *got = malloc(4 << 20);
	size_t len = 0;

	print_until_full(f);
	start_driver(f);
	for (int i = 0; i < 20; i++) {
		rig_turn(&f->rig);
		len += read_all(f->client, got + len, (4 << 20) - len);
	}
	say(f, 0, "hello again", 11);
	expect_used(f, &f->tx, 0, 0);
	rig_expect(&f->rig, f->client, "hello again", 11);
	free(got);
}

static void test_bad_option(void **state)
{
	static const char *const bad[] = { "", "stdio,x", "tcp:1" };
	const struct device_class *class = rig_class("virtio-console");

	(void)state;
	for (unsigned int i = 0; i < 3; i++) {
		struct machine_options options = { .memory = RIG_RAM, .cpus = 1 };
		struct machine_tree *mt;
		struct error err = { 0 };

		assert_int_equal(machine_tree_new(&mt, &options, &err), 0);
		assert_int_equal(class->option.add(mt, bad[i], &err), -EINVAL);
		assert_string_equal(err.device, "--console");
		machine_tree_free(mt);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_output, setup, teardown),
		cmocka_unit_test_setup_teardown(test_input, setup, teardown),
		cmocka_unit_test_setup_teardown(test_emergency_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slow_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_move, setup, teardown),
		cmocka_unit_test_setup_teardown(test_driver_restart, setup, teardown),
		cmocka_unit_test(test_bad_option),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
