/* SPDX-License-Identifier: BSD-2-Clause */
/* MP tables as a kernel without ACPI reads them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "table-rig.h"
#include "vmm/vm.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/platform.h"

static void mp_tables(void **state)
{
	struct vm *vm;
	const uint8_t *f, *c, *e;
	unsigned int seen[5] = { 0 };

	(void)state;
	assert_int_equal(vm_create(&vm, NULL), 0);
	assert_int_equal(memory_alloc(&vm->memory, RAM, MEMORY_ANON, HOLE_START, HOLE_END, NULL),
			 0);
	vm->n_vcpus = 3; /* only counted */
	assert_int_equal(mptable_write(vm, NULL), 0);
	vm->n_vcpus = 0;
	assert_true(MP_TABLES >= 0xf0000 && MP_TABLES % 16 == 0);
	f = at(vm, MP_TABLES, 16);
	assert_memory_equal(f, "_MP_", 4);
	assert_int_equal(sum(f, 16), 0);
	c = at(vm, le(f + 4, 4), 44);
	assert_memory_equal(c, "PCMP", 4);
	assert_int_equal(sum(c, (size_t)le(c + 4, 2)), 0);
	assert_int_equal(le(c + 36, 4), LAPIC_BASE);
	e = c + 44;
	for (uint64_t i = 0; i < le(c + 34, 2); i++) {
		assert_in_range(e[0], 0, 4);
		if (e[0] == 0) {
			assert_int_equal(e[1], seen[0]);
			assert_int_equal(e[3], seen[0] == 0 ? 3 : 1);
		}
		if (e[0] == 3)
			assert_int_equal(e[5], e[7]); /* IRQ n is pin n */
		seen[e[0]]++;
		e += e[0] == 0 ? 20 : 8;
	}
	assert_ptr_equal(e, c + le(c + 4, 2));
	assert_int_equal(seen[0], 3);
	assert_int_equal(seen[1], 1);
	assert_int_equal(seen[2], 1);
	assert_int_equal(seen[3], 16);
	assert_int_equal(seen[4], 2);
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mp_tables),
	};

	return cmocka_run_group_tests_name("mptable", tests, NULL, NULL);
}
