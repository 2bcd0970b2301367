/* SPDX-License-Identifier: BSD-2-Clause */
/* The 16550A, driven as Linux' 8250 driver drives it. */
#include "tests/unit/devrig.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "devices/serial.h"

static struct serial *serial_of(struct rig *rig)
{
	return (struct serial *)rig->dev;
}

static uint8_t in(struct rig *rig, unsigned int reg)
{
	return rig_inb(rig, (uint16_t)(SERIAL_PORT + reg));
}

static void out(struct rig *rig, unsigned int reg, uint8_t value)
{
	rig_outb(rig, (uint16_t)(SERIAL_PORT + reg), value);
}

/* Input as the character device delivers it. */
static size_t type(struct rig *rig, const char *text)
{
	struct chardev_state *c = &serial_of(rig)->state.chardev;

	memcpy(c->in + c->in_len, text, strlen(text));
	c->in_len += (uint32_t)strlen(text);
	chardev_poke(serial_of(rig)->chardev);
	rig_turn(rig);
	return c->in_len;
}

static void test_registers_after_reset(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "none");
	assert_int_equal(in(&rig, REG_IER), 0);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_NONE);
	assert_int_equal(in(&rig, REG_LCR), 0);
	assert_int_equal(in(&rig, REG_MCR), 0);
	assert_int_equal(in(&rig, REG_LSR), LSR_THRE | LSR_TEMT);
	assert_int_equal(in(&rig, REG_MSR), MSR_DCD | MSR_DSR | MSR_CTS);
	assert_false(serial_of(&rig)->level);
	rig_close(&rig);
}

static void test_latches(void **state)
{
	struct rig rig;
	uint16_t divisor;

	(void)state;
	rig_open(&rig, "serial", "none");
	out(&rig, REG_SCR, 0x5a);
	assert_int_equal(in(&rig, REG_SCR), 0x5a);
	out(&rig, REG_IER, 0xff);
	assert_int_equal(in(&rig, REG_IER), IER_MASK);
	out(&rig, REG_MCR, 0xe0);
	assert_int_equal(in(&rig, REG_MCR), 0);
	/* The divisor, in one access of two bytes, does not disturb IER and THR. */
	out(&rig, REG_LCR, LCR_DLAB | 3);
	divisor = 0x1234;
	bus_write(&rig.vm->pio, SERIAL_PORT, &divisor, 2);
	assert_int_equal(in(&rig, 0), 0x34);
	assert_int_equal(in(&rig, 1), 0x12);
	out(&rig, REG_LCR, 3);
	assert_int_equal(in(&rig, REG_IER), IER_MASK);
	assert_int_equal(in(&rig, REG_RBR_THR), 0);
	rig_close(&rig);
}

/* The driver's test of an empty transmitter: enabling its interrupt raises it, every time. */
static void test_thre_interrupt(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "none");
	out(&rig, REG_IIR_FCR, FCR_ENABLE);
	out(&rig, REG_MCR, MCR_OUT2);
	for (int i = 0; i < 2; i++) {
		out(&rig, REG_IER, IER_ETBEI);
		assert_true(serial_of(&rig)->level);
		assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_THRE);
		assert_false(serial_of(&rig)->level);
		assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_NONE);
		out(&rig, REG_IER, 0);
	}
	/* Each byte sent empties it again. */
	out(&rig, REG_IER, IER_ETBEI);
	in(&rig, REG_IIR_FCR);
	out(&rig, REG_RBR_THR, 'x');
	assert_true(serial_of(&rig)->level);
	assert_int_equal(in(&rig, REG_LSR), LSR_THRE | LSR_TEMT);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_THRE);
	rig_close(&rig);
}

static void test_out2_gates_the_interrupt(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "none");
	out(&rig, REG_IER, IER_ETBEI);
	assert_false(serial_of(&rig)->level);
	out(&rig, REG_MCR, MCR_OUT2);
	assert_true(serial_of(&rig)->level);
	out(&rig, REG_MCR, 0);
	assert_false(serial_of(&rig)->level);
	rig_close(&rig);
}

static void test_receive_fifo(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "none");
	out(&rig, REG_IIR_FCR, FCR_ENABLE | 0x80); /* trigger at 8 */
	out(&rig, REG_IER, IER_ERBFI);
	assert_int_equal(type(&rig, "abc"), 0);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_TIMEOUT);
	/* The FIFO takes 16; the rest waits, nothing overruns. */
	assert_int_equal(type(&rig, "defghijklmnopqrs"), 3);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_DATA);
	assert_int_equal(in(&rig, REG_LSR), LSR_THRE | LSR_TEMT | LSR_DR);
	for (char c = 'a'; c <= 's'; c++) {
		RIG_UNTIL(&rig, in(&rig, REG_LSR) & LSR_DR);
		assert_int_equal(in(&rig, REG_RBR_THR), c);
	}
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_NONE);
	/* Switching the FIFOs clears them. */
	type(&rig, "xyz");
	out(&rig, REG_IIR_FCR, 0);
	assert_int_equal(in(&rig, REG_LSR), LSR_THRE | LSR_TEMT);
	/* Without them there is room for one byte. */
	assert_int_equal(type(&rig, "xyz"), 2);
	rig_close(&rig);
}

static void test_loopback_and_overrun(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "none");
	out(&rig, REG_IIR_FCR, FCR_ENABLE);
	out(&rig, REG_MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS);
	assert_int_equal(in(&rig, REG_MSR) & 0xf0, MSR_DCD | MSR_CTS);
	out(&rig, REG_IER, IER_ELSI);
	/* What the host types has to wait. */
	assert_int_equal(type(&rig, "z"), 1);
	for (int i = 0; i < FIFO_SIZE; i++)
		out(&rig, REG_RBR_THR, (uint8_t)i);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_NONE);
	out(&rig, REG_RBR_THR, 99);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_LINE);
	assert_true(in(&rig, REG_LSR) & LSR_OE);
	assert_false(in(&rig, REG_LSR) & LSR_OE);
	for (int i = 0; i < FIFO_SIZE; i++)
		assert_int_equal(in(&rig, REG_RBR_THR), i);
	assert_int_equal(in(&rig, REG_LSR), LSR_THRE | LSR_TEMT);
	/* Nothing of it went out, and what waited comes in. */
	assert_int_equal(serial_of(&rig)->state.chardev.out_len, 0);
	out(&rig, REG_MCR, 0);
	RIG_UNTIL(&rig, in(&rig, REG_LSR) & LSR_DR);
	assert_int_equal(in(&rig, REG_RBR_THR), 'z');
	rig_close(&rig);
}

static void test_modem_status(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "none");
	out(&rig, REG_IER, IER_EDSSI);
	out(&rig, REG_MCR, MCR_LOOP); /* all lines fall */
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_MODEM);
	assert_int_equal(in(&rig, REG_MSR), 0x0b);
	assert_int_equal(in(&rig, REG_MSR), 0);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_NONE);
	out(&rig, REG_MCR, MCR_LOOP | MCR_OUT1); /* the ring's beginning is no event */
	assert_int_equal(in(&rig, REG_MSR), MSR_RI);
	out(&rig, REG_MCR, MCR_LOOP); /* its end is */
	assert_int_equal(in(&rig, REG_MSR), MSR_TERI);
	rig_close(&rig);
}

static void test_priorities(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "serial", "none");
	out(&rig, REG_IIR_FCR, FCR_ENABLE);
	out(&rig, REG_IER, IER_MASK);
	out(&rig, REG_MCR, MCR_LOOP | MCR_OUT2);
	for (int i = 0; i <= FIFO_SIZE; i++)
		out(&rig, REG_RBR_THR, 0);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_LINE);
	in(&rig, REG_LSR);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_DATA);
	out(&rig, REG_IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_THRE);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_MODEM);
	in(&rig, REG_MSR);
	assert_int_equal(in(&rig, REG_IIR_FCR), IIR_FIFOS | IIR_NONE);
	assert_false(serial_of(&rig)->level);
	rig_close(&rig);
}

/* Every register, both FIFOs and both buffers arrive; so does the interrupt. */
static void test_state_moves(void **state)
{
	struct rig a, b;
	struct error err = { 0 };

	(void)state;
	rig_open(&a, "serial", "none");
	out(&a, REG_LCR, LCR_DLAB);
	out(&a, 0, 0x12);
	out(&a, 1, 0x34);
	out(&a, REG_LCR, 0x1b);
	out(&a, REG_SCR, 0xa5);
	out(&a, REG_IIR_FCR, FCR_ENABLE | FCR_TRIGGER);
	out(&a, REG_MCR, MCR_OUT2 | MCR_RTS);
	out(&a, REG_IER, IER_MASK);
	type(&a, "an input that is longer than the FIFO");
	rig_quiesce(&a);

	rig_init(&b);
	assert_int_equal(rig_realize(&b, "serial", "none", &err), 0);
	assert_int_equal(rig_copy(&a, &b, &err), 0);
	rig_assert_same_state(&a, &b);
	assert_true(serial_of(&b)->level);
	rig_resume(&b);
	for (const char *p = "an input that is longer than the FIFO"; *p; p++) {
		RIG_UNTIL(&b, in(&b, REG_LSR) & LSR_DR);
		assert_int_equal(in(&b, REG_RBR_THR), *p);
	}
	rig_close(&a);
	rig_close(&b);
}

static void test_hostile_state(void **state)
{
	struct rig a, b;
	struct error err = { 0 };

	(void)state;
	rig_open(&a, "serial", "none");
	rig_open(&b, "serial", "none");
	serial_of(&a)->state.n_rx = 2; /* without FIFOs */
	assert_true(rig_copy(&a, &b, &err) < 0);
	assert_string_equal(err.field, "n_rx");
	assert_int_equal(serial_of(&b)->state.n_rx, 0);
	rig_close(&a);
	rig_close(&b);
}

/* A socket at @dir/s with a serial port behind it, and a client that does not read. */
static int open_with_client(struct rig *rig, const char *dir)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	char spec[128];

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/s", dir);
	snprintf(spec, sizeof(spec), "unix:%s", sun.sun_path);
	rig_open(rig, "serial", spec);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	rig_turn(rig);
	out(rig, REG_IIR_FCR, FCR_ENABLE);
	return fd;
}

static void put(struct rig *rig, uint8_t *sent, size_t *n)
{
	sent[*n] = (uint8_t)(*n * 7 >> 2);
	out(rig, REG_RBR_THR, sent[(*n)++]);
}

/* Print until the transmitter stays busy and its FIFO is full. */
static size_t print_until_full(struct rig *rig, uint8_t *sent, size_t size)
{
	size_t n = 0;

	for (int busy = 0; busy < 3; rig_turn(rig)) {
		busy = in(rig, REG_LSR) & LSR_THRE ? 0 : busy + 1;
		while (in(rig, REG_LSR) & LSR_THRE) {
			assert_true(n < size - FIFO_SIZE);
			put(rig, sent, &n);
		}
	}
	while (serial_of(rig)->state.n_tx < FIFO_SIZE)
		put(rig, sent, &n);
	return n;
}

static size_t read_all(int fd, uint8_t *to, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, to + len, size - len)) > 0)
		len += (size_t)n;
	return len;
}

/* A slow host makes the transmitter busy; then the machine moves, and each byte is printed once. */
static void test_move_with_a_slow_host(void **state)
{
	static uint8_t sent[1 << 20], got[1 << 20];
	char dir[] = "/tmp/ferry-serial-XXXXXX", file[64], spec[128];
	struct error err = { 0 };
	struct rig a, b;
	size_t n, len;
	int client, printed;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/f", dir);
	snprintf(spec, sizeof(spec), "file:%s", file);
	client = open_with_client(&a, dir);
	n = print_until_full(&a, sent, sizeof(sent));
	out(&a, REG_RBR_THR, 'L'); /* lost */
	assert_int_equal(serial_of(&a)->state.chardev.out_len, CHARDEV_OUT);
	rig_quiesce(&a);

	/* The destination owns nothing yet. */
	rig_init(&b);
	b.vm->state = VM_INMIGRATE;
	assert_int_equal(rig_realize(&b, "serial", spec, &err), 0);
	assert_int_equal(rig_copy(&a, &b, &err), 0);
	a.dev->class->yield(a.dev);
	rig_close(&a);
	assert_int_equal(b.dev->class->claim(b.dev, &err), 0);
	rig_resume(&b);
	rig_close(&b);

	printed = open(file, O_RDONLY);
	len = read_all(client, got, sizeof(got));
	len += read_all(printed, got + len, sizeof(got) - len);
	assert_int_equal(len, n);
	assert_memory_equal(got, sent, n);
	close(printed);
	close(client);
	unlink(file);
	assert_int_equal(rmdir(dir), 0); /* the socket has gone */
}

/* The same, but the migration fails: the source prints all of it. */
static void test_failed_move_with_a_slow_host(void **state)
{
	static uint8_t sent[1 << 20], got[1 << 20];
	char dir[] = "/tmp/ferry-serial-XXXXXX";
	struct error err = { 0 };
	struct rig a;
	size_t n, len = 0;
	int client;

	(void)state;
	assert_non_null(mkdtemp(dir));
	client = open_with_client(&a, dir);
	n = print_until_full(&a, sent, sizeof(sent));
	rig_quiesce(&a);
	a.dev->class->yield(a.dev);
	assert_int_equal(a.dev->class->claim(a.dev, &err), 0);
	rig_resume(&a);
	while (serial_of(&a)->state.chardev.out_len > 0 || serial_of(&a)->state.n_tx > 0) {
		len += read_all(client, got + len, sizeof(got) - len);
		rig_turn(&a);
	}
	assert_true(in(&a, REG_LSR) & LSR_THRE);
	len += read_all(client, got + len, sizeof(got) - len);
	assert_int_equal(len, n);
	assert_memory_equal(got, sent, n);
	rig_close(&a);
	close(client);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registers_after_reset),
		cmocka_unit_test(test_latches),
		cmocka_unit_test(test_thre_interrupt),
		cmocka_unit_test(test_out2_gates_the_interrupt),
		cmocka_unit_test(test_receive_fifo),
		cmocka_unit_test(test_loopback_and_overrun),
		cmocka_unit_test(test_modem_status),
		cmocka_unit_test(test_priorities),
		cmocka_unit_test(test_state_moves),
		cmocka_unit_test(test_hostile_state),
		cmocka_unit_test(test_move_with_a_slow_host),
		cmocka_unit_test(test_failed_move_with_a_slow_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
