/* SPDX-License-Identifier: BSD-2-Clause */
/* The small devices of a PC: clock, keyboard controller, debug exit. */
#include "tests/unit/devrig.h"

#include <time.h>

#define INDEX 0x70
#define DATA  0x71

static uint8_t cmos_in(struct rig *rig, uint8_t index)
{
	rig_outb(rig, INDEX, index);
	return rig_inb(rig, DATA);
}

static void cmos_out(struct rig *rig, uint8_t index, uint8_t value)
{
	rig_outb(rig, INDEX, index);
	rig_outb(rig, DATA, value);
}

static int bcd(uint8_t byte)
{
	assert_true((byte & 15) < 10 && byte >> 4 < 10);
	return (byte >> 4) * 10 + (byte & 15);
}

/* What the clock shows in BCD and 24 hours, as seconds; read twice for the same answer. */
static time_t read_clock(struct rig *rig)
{
	time_t last = -1;

	for (;;) {
		struct tm tm = {
			.tm_sec = bcd(cmos_in(rig, 0)),
			.tm_min = bcd(cmos_in(rig, 2)),
			.tm_hour = bcd(cmos_in(rig, 4)),
			.tm_mday = bcd(cmos_in(rig, 7)),
			.tm_mon = bcd(cmos_in(rig, 8)) - 1,
			.tm_year = bcd(cmos_in(rig, 9)) + 100 * bcd(cmos_in(rig, 0x32)) - 1900,
		};
		time_t now = timegm(&tm);

		if (now == last)
			return now;
		last = now;
	}
}

/* Wednesday 2024-02-29 23:59:58, as a driver sets it. */
#define LEAP_EVE 1709251198

static void set_leap_eve(struct rig *rig)
{
	uint8_t b = cmos_in(rig, 0x0b);

	cmos_out(rig, 0x0b, b | 0x80);
	cmos_out(rig, 0, 0x58);
	cmos_out(rig, 2, 0x59);
	cmos_out(rig, 4, 0x23);
	cmos_out(rig, 7, 0x29);
	cmos_out(rig, 8, 0x02);
	cmos_out(rig, 9, 0x24);
	cmos_out(rig, 0x32, 0x20);
	/* Held: what was written is what is read. */
	assert_int_equal(cmos_in(rig, 0), 0x58);
	assert_int_equal(cmos_in(rig, 0x0a) & 0x80, 0);
	cmos_out(rig, 0x0b, b);
}

static void test_clock_follows_the_host(void **state)
{
	struct rig rig;
	time_t before = time(NULL), shown;

	(void)state;
	rig_open(&rig, "cmos", NULL);
	shown = read_clock(&rig);
	assert_true(shown >= before && shown <= time(NULL));
	assert_int_equal(cmos_in(&rig, 0x0b), 0x02);
	assert_int_equal(cmos_in(&rig, 0x0d), 0x80);
	assert_int_equal(rig_inb(&rig, INDEX), 0xff);
	rig_close(&rig);
}

static void test_setting_the_clock(void **state)
{
	struct rig rig;
	time_t before = time(NULL), shown;

	(void)state;
	rig_open(&rig, "cmos", NULL);
	set_leap_eve(&rig);
	shown = read_clock(&rig);
	assert_in_range(shown, LEAP_EVE, LEAP_EVE + time(NULL) - before + 1);
	/* One register alone. */
	cmos_out(&rig, 9, 0x28);
	assert_int_equal(bcd(cmos_in(&rig, 9)), 28);
	rig_close(&rig);
}

/* Binary and twelve hours. */
static void test_clock_formats(void **state)
{
	static const struct {
		uint8_t hour24, binary12, bcd12;
	} hours[] = { { 0, 12, 0x12 },
		      { 1, 1, 0x01 },
		      { 11, 11, 0x11 },
		      { 12, 0x8c, 0x92 },
		      { 23, 0x8b, 0x91 } };
	struct rig rig;

	(void)state;
	rig_open(&rig, "cmos", NULL);
	for (unsigned int i = 0; i < sizeof(hours) / sizeof(hours[0]); i++) {
		cmos_out(&rig, 0x0b, 0x86);
		cmos_out(&rig, 0, 30); /* no hour ends while we look */
		cmos_out(&rig, 2, 30);
		cmos_out(&rig, 4, hours[i].hour24);
		cmos_out(&rig, 0x0b, 0x06);
		assert_int_equal(cmos_in(&rig, 4), hours[i].hour24);
		cmos_out(&rig, 0x0b, 0x04);
		assert_int_equal(cmos_in(&rig, 4), hours[i].binary12);
		cmos_out(&rig, 0x0b, 0x00);
		assert_int_equal(cmos_in(&rig, 4), hours[i].bcd12);
		cmos_out(&rig, 4, hours[i].bcd12);
		cmos_out(&rig, 0x0b, 0x06);
		assert_int_equal(cmos_in(&rig, 4), hours[i].hour24);
	}
	rig_close(&rig);
}

/* Nobody waits forever for an update to begin, to end, or to have been. */
static void test_update_flags(void **state)
{
	unsigned int seen = 0;
	struct rig rig;

	(void)state;
	rig_open(&rig, "cmos", NULL);
	cmos_in(&rig, 0x0c);
	assert_int_equal(cmos_in(&rig, 0x0c) & 0x6f, 0);
	while (!(cmos_in(&rig, 0x0c) & 0x10))
		seen |= cmos_in(&rig, 0x0a) & 0x80 ? 1 : 2;
	assert_true(seen & 2);
	while (!(cmos_in(&rig, 0x0a) & 0x80))
		;
	while (cmos_in(&rig, 0x0a) & 0x80)
		;
	/* With the interrupt asked for, the flag of flags is up too, and cleared with it. */
	cmos_out(&rig, 0x0b, 0x12);
	assert_int_equal(cmos_in(&rig, 0x0c), 0x90);
	assert_int_equal(cmos_in(&rig, 0x0c), 0);
	rig_close(&rig);
}

static unsigned int cmos_le(struct rig *rig, uint8_t index, unsigned int bytes)
{
	unsigned int value = 0;

	while (bytes-- > 0)
		value = value << 8 | cmos_in(rig, (uint8_t)(index + bytes));
	return value;
}

static void test_memory_size(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "cmos", NULL);
	assert_int_equal(cmos_le(&rig, 0x15, 2), 640);
	assert_int_equal(cmos_le(&rig, 0x17, 2), (RIG_RAM >> 10) - 1024);
	assert_int_equal(cmos_le(&rig, 0x30, 2), (RIG_RAM >> 10) - 1024);
	assert_int_equal(cmos_le(&rig, 0x34, 2), 0);
	assert_int_equal(cmos_le(&rig, 0x5b, 3), 0);
	rig_close(&rig);

	/* 5 GiB that nobody touches: 3 below the hole, 2 above. */
	rig_init(&rig);
	memory_free(&rig.vm->memory);
	assert_int_equal(memory_alloc(&rig.vm->memory, 5ULL << 30, MEMORY_ANON, 0xc0000000,
				      0x100000000, NULL),
			 0);
	assert_int_equal(rig_realize(&rig, "cmos", NULL, NULL), 0);
	assert_int_equal(cmos_le(&rig, 0x17, 2), 0xffff);
	assert_int_equal(cmos_le(&rig, 0x34, 2), (0xc0000000 - (16 << 20)) >> 16);
	assert_int_equal(cmos_le(&rig, 0x5b, 3), 2U << 14);
	rig_close(&rig);
}

static void reset(struct rig *rig)
{
	state_reset(rig->dev->class->fields, rig_state(rig));
	rig->dev->class->reset(rig->dev);
}

static void test_cmos_state(void **state)
{
	struct rig a, b;
	struct error err = { 0 };
	time_t shown;

	(void)state;
	rig_open(&a, "cmos", NULL);
	set_leap_eve(&a);
	cmos_out(&a, 0x0f, 0x0a); /* shutdown status */
	cmos_out(&a, 0x0b, 0x7a);
	rig_outb(&a, INDEX, 0x40);
	rig_open(&b, "cmos", NULL);
	assert_int_equal(rig_copy(&a, &b, &err), 0);
	rig_assert_same_state(&a, &b);
	rig_outb(&b, DATA, 0x77); /* the index came along */
	assert_int_equal(cmos_in(&b, 0x40), 0x77);
	shown = read_clock(&b);
	assert_in_range(shown, LEAP_EVE, LEAP_EVE + 60);
	/* The battery outlives a reset, interrupts do not. */
	reset(&b);
	assert_int_equal(cmos_in(&b, 0x0f), 0x0a);
	assert_int_equal(cmos_in(&b, 0x40), 0x77);
	assert_int_equal(cmos_in(&b, 0x0b), 0x02);
	assert_in_range(read_clock(&b), LEAP_EVE, LEAP_EVE + 60);
	rig_close(&a);
	rig_close(&b);
}

/* Any state that passes the table is harmless. */
static void test_cmos_hostile_state(void **state)
{
	static const uint64_t offsets[] = { UINT64_MAX, 1ULL << 63, INT64_MAX, 1ULL << 55 };
	struct rig rig;

	(void)state;
	rig_open(&rig, "cmos", NULL);
	for (unsigned int i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		/* index, 128 bytes, padding, offset: as in the table */
		const struct field *f = rig.dev->class->fields;

		while (strcmp(f->name, "offset") != 0)
			f++;
		memcpy((char *)rig_state(&rig) + f->offset, &offsets[i], 8);
		for (unsigned int n = 0; n < 256; n++) {
			cmos_out(&rig, (uint8_t)n, (uint8_t)(n * 37));
			cmos_in(&rig, (uint8_t)n);
		}
	}
	rig_close(&rig);
}

#define KBD_DATA    0x60
#define KBD_COMMAND 0x64

static uint8_t ask(struct rig *rig, uint8_t command)
{
	rig_outb(rig, KBD_COMMAND, command);
	assert_int_equal(rig_inb(rig, KBD_COMMAND) & 1, 1);
	return rig_inb(rig, KBD_DATA);
}

static unsigned int requests(struct rig *rig)
{
	unsigned int asked = rig->vm->requests;

	rig->vm->requests = 0;
	return asked;
}

/* What Linux' i8042 driver asks on its way to "no keyboard, no mouse". */
static void test_i8042_probe(void **state)
{
	struct rig rig;
	uint8_t config;

	(void)state;
	rig_open(&rig, "i8042", NULL);
	assert_int_equal(rig_inb(&rig, KBD_COMMAND) & 0x03, 0); /* nothing to flush */
	assert_int_equal(rig_inb(&rig, KBD_COMMAND) & 0x10, 0x10);
	config = ask(&rig, 0x20);
	rig_outb(&rig, KBD_COMMAND, 0x60);
	rig_outb(&rig, KBD_DATA, config | 0x01);
	assert_int_equal(ask(&rig, 0x20), config | 0x01);
	assert_int_equal(ask(&rig, 0xaa), 0x55);
	/* No mouse: the loop's answer does not come from its port, and the port's test fails. */
	rig_outb(&rig, KBD_COMMAND, 0xd3);
	rig_outb(&rig, KBD_DATA, 0x5a);
	assert_int_equal(rig_inb(&rig, KBD_COMMAND) & 0x21, 0x01);
	assert_int_equal(rig_inb(&rig, KBD_DATA), 0x5a);
	assert_int_not_equal(ask(&rig, 0xa9), 0);
	/* The keyboard does not answer. */
	rig_outb(&rig, KBD_DATA, 0xf2);
	assert_int_equal(rig_inb(&rig, KBD_COMMAND) & 0x01, 0);
	rig_outb(&rig, KBD_COMMAND, 0xad);
	assert_int_equal(ask(&rig, 0x20) & 0x10, 0x10);
	rig_outb(&rig, KBD_COMMAND, 0xae);
	assert_int_equal(ask(&rig, 0x20) & 0x10, 0);
	assert_int_equal(requests(&rig), 0);
	rig_close(&rig);
}

static void test_i8042_reset(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, "i8042", NULL);
	rig_outb(&rig, KBD_COMMAND, 0xfe);
	assert_int_equal(requests(&rig), VM_REQUEST_RESET);
	rig_outb(&rig, KBD_COMMAND, 0xff); /* pulses nothing */
	/* A20 on, as kernels do it, and then the reset bit of the output port. */
	rig_outb(&rig, KBD_COMMAND, 0xd1);
	rig_outb(&rig, KBD_DATA, 0xdf);
	assert_int_equal(requests(&rig), 0);
	assert_int_equal(ask(&rig, 0xd0) & 0x03, 0x03);
	rig_outb(&rig, KBD_COMMAND, 0xd1);
	rig_outb(&rig, KBD_DATA, 0xde);
	assert_int_equal(requests(&rig), VM_REQUEST_RESET);
	rig_close(&rig);
}

static void test_i8042_state(void **state)
{
	struct rig a, b;
	struct error err = { 0 };

	(void)state;
	rig_open(&a, "i8042", NULL);
	rig_open(&b, "i8042", NULL);
	rig_outb(&a, KBD_COMMAND, 0xaa);
	rig_outb(&a, KBD_COMMAND, 0x60); /* waits for its byte */
	assert_int_equal(rig_copy(&a, &b, &err), 0);
	rig_assert_same_state(&a, &b);
	assert_int_equal(rig_inb(&b, KBD_DATA), 0x55);
	rig_outb(&b, KBD_DATA, 0x47);
	assert_int_equal(ask(&b, 0x20), 0x47);
	rig_close(&a);
	rig_close(&b);
}

/* Only its two ports: those between belong to others. */
static void test_i8042_ports(void **state)
{
	struct rig rig;
	uint8_t byte;

	(void)state;
	rig_open(&rig, "i8042", NULL);
	for (uint16_t port = 0x5f; port <= 0x65; port++)
		assert_int_equal(bus_read(&rig.vm->pio, port, &byte, 1) == 0,
				 port == KBD_DATA || port == KBD_COMMAND);
	rig_close(&rig);
}

static void test_debug_exit(void **state)
{
	static const struct {
		unsigned int len;
		uint32_t value;
		int status;
	} writes[] = { { 1, 0, 1 },	  { 1, 1, 3 },	   { 1, 0x7f, 255 },	  { 1, 0x80, 1 },
		       { 2, 0x1005, 11 }, { 4, 0x10, 33 }, { 4, 0xffffffff, 255 } };
	struct rig rig;
	uint32_t value;

	(void)state;
	rig_open(&rig, "debug-exit", NULL);
	for (unsigned int i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
		bus_write(&rig.vm->pio, 0xf4, &writes[i].value, writes[i].len);
		assert_int_equal(requests(&rig), VM_REQUEST_EXIT);
		assert_int_equal(rig.vm->exit_status, writes[i].status);
	}
	assert_int_equal(bus_read(&rig.vm->pio, 0xf4, &value, 4), 0);
	assert_int_equal(requests(&rig), 0);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clock_follows_the_host),
		cmocka_unit_test(test_setting_the_clock),
		cmocka_unit_test(test_clock_formats),
		cmocka_unit_test(test_update_flags),
		cmocka_unit_test(test_memory_size),
		cmocka_unit_test(test_cmos_state),
		cmocka_unit_test(test_cmos_hostile_state),
		cmocka_unit_test(test_i8042_probe),
		cmocka_unit_test(test_i8042_reset),
		cmocka_unit_test(test_i8042_state),
		cmocka_unit_test(test_i8042_ports),
		cmocka_unit_test(test_debug_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
