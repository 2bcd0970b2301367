/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading the tables that firmware leaves in memory, byte by byte as a guest does. */
#ifndef TESTS_UNIT_TABLE_RIG_H
#define TESTS_UNIT_TABLE_RIG_H

#include <string.h>

#include "vmm/vm.h"

#define RAM (2UL << 20)

static inline const uint8_t *at(struct vm *vm, uint64_t gpa, size_t len)
{
	const uint8_t *hva = memory_hva(&vm->memory, gpa, len);

	assert_non_null(hva);
	return hva;
}

static inline uint64_t le(const uint8_t *from, unsigned int bytes)
{
	uint64_t value = 0;

	memcpy(&value, from, bytes);
	return value;
}

/* That of a whole table is 0. */
static inline uint8_t sum(const uint8_t *bytes, size_t len)
{
	uint8_t s = 0;

	while (len-- > 0)
		s = (uint8_t)(s + *bytes++);
	return s;
}

#endif
