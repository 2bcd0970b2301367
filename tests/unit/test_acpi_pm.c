/* SPDX-License-Identifier: BSD-2-Clause */
/* The power management block: its button, its sleep that is none, its reset register. */
#include "tests/unit/devrig.h"

#include <errno.h>

#define STATUS	0x600
#define ENABLE	0x602
#define CONTROL 0x604
#define RESET	0x608
#define BUTTON	0x0100

static uint16_t in16(struct rig *rig, uint16_t port)
{
	uint16_t value = 0;

	assert_int_equal(bus_read(&rig->vm->pio, port, &value, 2), 0);
	return value;
}

static void out16(struct rig *rig, uint16_t port, uint16_t value)
{
	assert_int_equal(bus_write(&rig->vm->pio, port, &value, 2), 0);
}

static unsigned int requests(struct rig *rig)
{
	unsigned int asked = rig->vm->requests;

	rig->vm->requests = 0;
	return asked;
}

static void open_pm(struct rig *rig)
{
	rig_open(rig, "acpi-pm", NULL);
}

static void the_button(void **state)
{
	struct rig rig;

	(void)state;
	open_pm(&rig);
	assert_int_equal(in16(&rig, STATUS), 0);
	out16(&rig, ENABLE, BUTTON);
	rig.dev->class->press_power(rig.dev);
	assert_int_equal(in16(&rig, STATUS), BUTTON);
	out16(&rig, STATUS, (uint16_t)~BUTTON); /* clears nothing that is not 1 */
	assert_int_equal(in16(&rig, STATUS), BUTTON);
	out16(&rig, STATUS, BUTTON);
	assert_int_equal(in16(&rig, STATUS), 0);
	assert_int_equal(in16(&rig, ENABLE), BUTTON);
	assert_int_equal(requests(&rig), 0);
	rig_close(&rig);
}

/* Halves of a register, and both of status and enable at once. */
static void accesses_of_other_widths(void **state)
{
	struct rig rig;
	uint32_t both;

	(void)state;
	open_pm(&rig);
	rig.dev->class->press_power(rig.dev);
	rig_outb(&rig, ENABLE + 1, 1);
	assert_int_equal(in16(&rig, ENABLE), BUTTON);
	rig_outb(&rig, ENABLE, 0x20); /* leaves the other half */
	assert_int_equal(in16(&rig, ENABLE), BUTTON | 0x20);
	assert_int_equal(rig_inb(&rig, STATUS + 1), 1);
	assert_int_equal(bus_read(&rig.vm->pio, STATUS, &both, 4), 0);
	assert_int_equal(both, (BUTTON | 0x20U) << 16 | BUTTON);
	rig_outb(&rig, STATUS, 0xff);
	assert_int_equal(in16(&rig, STATUS), BUTTON);
	both = BUTTON;
	assert_int_equal(bus_write(&rig.vm->pio, STATUS, &both, 4), 0);
	assert_int_equal(in16(&rig, STATUS), 0);
	assert_int_equal(in16(&rig, ENABLE), 0);
	rig_close(&rig);
}

static void sleeping_for_good(void **state)
{
	struct rig rig;

	(void)state;
	open_pm(&rig);
	rig.vm->exit_status = 7;
	assert_int_equal(in16(&rig, CONTROL), 1); /* ACPI is on */
	out16(&rig, CONTROL, 5 << 10);
	assert_int_equal(requests(&rig), 0); /* only chosen */
	assert_int_equal(in16(&rig, CONTROL), 5 << 10 | 1);
	out16(&rig, CONTROL, 1 << 10 | 1 << 13);
	assert_int_equal(requests(&rig), 0); /* a sleep that we have not offered */
	out16(&rig, CONTROL, 5 << 10 | 1 << 13);
	assert_int_equal(requests(&rig), VM_REQUEST_EXIT);
	assert_int_equal(rig.vm->exit_status, 0);
	rig_close(&rig);
}

static void the_reset_register(void **state)
{
	struct rig rig;

	(void)state;
	open_pm(&rig);
	rig_outb(&rig, RESET, 0);
	rig_outb(&rig, RESET + 1, 1);
	assert_int_equal(requests(&rig), 0);
	rig_outb(&rig, RESET, 1);
	assert_int_equal(requests(&rig), VM_REQUEST_RESET);
	for (uint16_t port = STATUS; port < STATUS + 16; port++)
		rig_inb(&rig, port);
	rig_close(&rig);
}

static void its_state(void **state)
{
	struct rig a, b;
	struct error err = { 0 };

	(void)state;
	open_pm(&a);
	open_pm(&b);
	out16(&a, ENABLE, BUTTON);
	out16(&a, CONTROL, 3 << 10);
	a.dev->class->press_power(a.dev);
	assert_int_equal(rig_copy(&a, &b, &err), 0);
	rig_assert_same_state(&a, &b);
	assert_int_equal(in16(&b, STATUS), BUTTON);
	assert_int_equal(in16(&b, ENABLE), BUTTON);
	assert_int_equal(in16(&b, CONTROL), 3 << 10 | 1);
	state_reset(b.dev->class->fields, rig_state(&b));
	b.dev->class->reset(b.dev);
	assert_int_equal(in16(&b, STATUS) | in16(&b, ENABLE), 0);
	rig_close(&a);
	rig_close(&b);
}

/* Bits that no guest could have set are refused by name. */
static void a_hostile_state(void **state)
{
	static const struct {
		uint16_t values[3];
		const char *field;
	} bad[] = { { { 0x0020, 0, 0 }, "status" },  { { 0x8000, 0, 0 }, "status" },
		    { { 0, 0x0002, 0 }, "enable" },  { { 0, 0xffff, 0 }, "enable" },
		    { { 0, 0, 0x0001 }, "control" }, { { 0, 0, 0x2000 }, "control" } };

	(void)state;
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct rig a, b;
		struct error err = { 0 };

		open_pm(&a);
		open_pm(&b);
		memcpy(rig_state(&a), bad[i].values, sizeof(bad[i].values));
		assert_int_equal(rig_copy(&a, &b, &err), -EINVAL);
		assert_string_equal(err.field, bad[i].field);
		assert_int_equal(in16(&b, STATUS) | in16(&b, ENABLE), 0);
		rig_close(&a);
		rig_close(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_button),	     cmocka_unit_test(accesses_of_other_widths),
		cmocka_unit_test(sleeping_for_good), cmocka_unit_test(the_reset_register),
		cmocka_unit_test(its_state),	     cmocka_unit_test(a_hostile_state),
	};

	return cmocka_run_group_tests_name("acpi-pm", tests, NULL, NULL);
}
