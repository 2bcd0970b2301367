/* SPDX-License-Identifier: BSD-2-Clause */
/* A network by passt's protocol, with the test in passt's place: frames on a stream, cut anywhere.
 */
#include "tests/unit/net-fixture.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#define MAX 70000

static char dir[] = "/tmp/ferry-passt-XXXXXX";

static int setup_group(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown_group(void **state)
{
	(void)state;
	return rmdir(dir);
}

/* A device that is connected to us: cable[0] is the stream. */
static int setup(void **state)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	struct fixture *f = calloc(1, sizeof(*f));
	char value[200];

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/s", dir);
	assert_int_equal(bind(listener, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(listener, 1), 0);
	snprintf(value, sizeof(value), "user,socket=%s" MAC_OPT, sun.sun_path);
	rig_open(&f->rig, "virtio-net", value);
	f->vd = (struct virtio_device *)f->rig.dev;
	f->cable[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	f->cable[1] = -1;
	assert_true(f->cable[0] >= 0);
	close(listener);
	unlink(sun.sun_path);
	start_driver(f, FEATURES | F(MRG_RXBUF));
	*state = f;
	return 0;
}

/* A frame as it stands on the stream; its length there. */
static size_t wire_frame(uint8_t *to, uint32_t number, size_t len)
{
	uint32_t be = htonl((uint32_t)len);

	memcpy(to, &be, sizeof(be));
	make_frame(to + sizeof(be), own_mac, number, len);
	return sizeof(be) + len;
}

static void expect_frame(struct fixture *f, unsigned int i, uint32_t number, size_t len)
{
	struct virtio_net_hdr_v1 hdr = { .num_buffers = 1 };
	uint8_t *at = ram(f->vd, buffer(i)), *frame = malloc(len + 18);

	expect_used(f, RX, i, (uint32_t)(NET_HDR + len));
	make_frame(frame, own_mac, number, len);
	assert_memory_equal(at, &hdr, sizeof(hdr));
	assert_memory_equal(at + NET_HDR, frame, len);
	free(frame);
}

/* Several frames in one piece, and one frame cut at each of its bytes. */
static void test_receive(void **state)
{
	struct fixture *f = *state;
	uint8_t wire[1000];
	size_t len = wire_frame(wire, 1, 60);

	len += wire_frame(wire + len, 2, 61);
	for (uint16_t i = 0; i < 8; i++)
		offer(f, RX, i, 1530);
	assert_int_equal(write(f->cable[0], wire, len), len);
	expect_frame(f, 0, 1, 60);
	expect_frame(f, 1, 2, 61);
	len = wire_frame(wire, 3, 62);
	for (size_t i = 0; i < len; i++) {
		assert_int_equal(guest_used_index(&f->queue[RX]), 2);
		assert_int_equal(write(f->cable[0], wire + i, 1), 1);
		rig_turn(&f->rig);
	}
	expect_frame(f, 2, 3, 62);
	/* Larger than any buffer: dropped, and the stream is still in step. */
	len = wire_frame(wire, 4, 900);
	start_driver(f, FEATURES);
	offer(f, RX, 0, 400);
	assert_int_equal(write(f->cable[0], wire, len), len);
	len = wire_frame(wire, 5, 388);
	assert_int_equal(write(f->cable[0], wire, len), len);
	expect_frame(f, 0, 5, 388);
}

/* A length that no frame has: whoever speaks there does not speak this protocol. */
static void test_out_of_step(void **state)
{
	struct fixture *f = *state;

	offer(f, RX, 0, 1530);
	assert_int_equal(write(f->cable[0], "GET / HTTP/1.1\r\n", 16), 16);
	RIG_UNTIL(&f->rig, net_status(f) == 0);
	guest_sends(f, TX, 1, 1, 60);
	expect_used(f, TX, 1, 0);
}

static size_t read_stream(struct fixture *f, uint8_t *to, size_t len)
{
	size_t done = 0;

	for (int turns = 0; done < len && turns < 2000; turns++) {
		ssize_t n = read(f->cable[0], to + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else
			rig_turn(&f->rig);
	}
	return done;
}

/* A reader who is slow and takes odd pieces gets every frame whole and once. */
static void test_transmit_blocked(void **state)
{
	uint8_t *got = malloc(MAX), *expected = malloc(MAX);
	struct fixture *f = *state;
	unsigned int sent = 0;
	uint32_t head, len;

	for (int idle = 0; idle < 20;) {
		if (sent - guest_used_index(&f->queue[TX]) < QUEUE_SIZE) {
			guest_sends(f, TX, (uint16_t)(sent % QUEUE_SIZE), sent, 40000 + sent);
			sent++;
			idle = 0;
		} else {
			idle++;
		}
		rig_turn(&f->rig);
		while (guest_get(&f->queue[TX], &head, &len))
			;
	}
	assert_true(((struct virtio_net *)f->vd)->pair[0].blocked);
	for (uint32_t i = 0; i < sent; i++) {
		size_t n = wire_frame(expected, i, 40000 + i);

		memset(expected + 4, 0xff, 6); /* the guest sends to everybody */
		assert_int_equal(read_stream(f, got, n), n);
		assert_memory_equal(got, expected, n);
	}
	RIG_UNTIL(&f->rig, guest_used_index(&f->queue[TX]) == sent);
	free(got);
	free(expected);
}

/* A frame that was half sent when the guest gave up its driver is completed. */
static void test_reset_while_blocked(void **state)
{
	struct fixture *f = *state;
	uint8_t *got = malloc(1 << 20), *at = got;
	size_t n;

	for (uint16_t i = 0; i < QUEUE_SIZE; i++)
		guest_sends(f, TX, i, i, 60000);
	rig_turn(&f->rig);
	assert_true(((struct virtio_net *)f->vd)->pair[0].blocked);
	start_driver(f, FEATURES);
	n = read_stream(f, got, 1 << 20);
	guest_sends(f, TX, 0, 99, 60);
	n += read_stream(f, got + n, 64);
	while (n > 0) {
		uint32_t be, len;

		assert_true(n >= 4);
		memcpy(&be, at, sizeof(be));
		len = ntohl(be);
		assert_true(len == 60000 || len == 60);
		assert_true(n >= 4 + len);
		at += 4 + len;
		n -= 4 + len;
	}
	assert_int_equal(at[-60 + 14], 99);
	free(got);
}

static void test_no_offloads(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(guest_features(f->vd) & (F(CSUM) | F(GUEST_TSO4) | F(HOST_TSO4)), 0);
}

/* What cannot be connected to is said, by the path. */
static void test_nobody_listens(void **state)
{
	struct error err = { 0 };
	struct rig rig;
	char value[200];

	(void)state;
	snprintf(value, sizeof(value), "user,socket=%s/nobody", dir);
	rig_init(&rig);
	assert_int_equal(rig_realize(&rig, "virtio-net", value, &err), -ENOENT);
	assert_string_equal(err.field, "host-socket");
	assert_non_null(strstr(err.got, "nobody"));
	rig_close(&rig);
}

/* Without a program of that name in PATH. */
static void test_not_installed(void **state)
{
	char *path = strdup(getenv("PATH"));
	struct error err = { 0 };
	struct rig rig;

	(void)state;
	setenv("PATH", dir, 1);
	rig_init(&rig);
	assert_int_equal(rig_realize(&rig, "virtio-net", "user", &err), -ENOENT);
	assert_string_equal(err.field, "host-socket");
	assert_non_null(strstr(err.got, "passt"));
	rig_close(&rig);
	setenv("PATH", path, 1);
	free(path);
}

/*
 * The program itself, where it is installed and can work: it answers ARP for every address but the
 * one it gives the guest. It ends when the device does.
 */
static void test_passt(void **state)
{
	static const uint8_t request[] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,	 0, 0,	 0, 0, 7, 8, 6, /* Ethernet */
		0,    1,    8,	  0,	6,    4,    0,	 1, /* a request by IPv4 over Ethernet */
		2,    0,    0,	  0,	0,    7,    203, 0, 113, 1, /* from */
		0,    0,    0,	  0,	0,    0,    203, 0, 113, 2, /* to */
	};
	struct fixture f = { .cable = { -1, -1 } };
	struct error err = { 0 };
	int rc, fd, probe;
	uint8_t *at, byte;

	(void)state;
	rig_init(&f.rig);
	rc = rig_realize(&f.rig, "virtio-net", "user" MAC_OPT, &err);
	if (rc < 0) {
		rig_close(&f.rig);
		assert_true(rc == -ENOENT || rc == -ENETDOWN);
		fprintf(stderr, "passt is not installed or cannot work here\n");
		skip();
	}
	rig_resume(&f.rig);
	f.vd = (struct virtio_device *)f.rig.dev;
	start_driver(&f, FEATURES | F(MRG_RXBUF));
	for (uint16_t i = 0; i < 8; i++)
		offer(&f, RX, i, 1530);
	at = ram(f.vd, buffer(9));
	memset(at, 0, NET_HDR);
	memcpy(at + NET_HDR, request, sizeof(request));
	guest_desc(&f.queue[TX], 9, buffer(9), NET_HDR + sizeof(request), 0, 0);
	guest_add(&f.queue[TX], 9);
	kick(&f.queue[TX]);
	expect_used(&f, TX, 9, 0);
	expect_used(&f, RX, 0, NET_HDR + sizeof(request));
	at = ram(f.vd, buffer(0) + NET_HDR);
	assert_memory_equal(at, own_mac, 6);
	assert_int_equal(at[21], 2);
	assert_memory_equal(at + 28, request + 38, 4);
	/* Hung up from the other side: passt has ended. */
	fd = ((struct virtio_net *)f.vd)->backend.fd[0];
	probe = dup(fd);
	shutdown(fd, SHUT_WR);
	rig_close(&f.rig);
	fcntl(probe, F_SETFL, 0);
	while (read(probe, &byte, 1) > 0)
		;
	close(probe);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_receive, setup, teardown),
		cmocka_unit_test_setup_teardown(test_out_of_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_transmit_blocked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_while_blocked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_offloads, setup, teardown),
		cmocka_unit_test(test_nobody_listens),
		cmocka_unit_test(test_not_installed),
		cmocka_unit_test(test_passt),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
