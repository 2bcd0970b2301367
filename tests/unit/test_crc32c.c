/* SPDX-License-Identifier: BSD-2-Clause */
/* CRC32C against RFC 3720 appendix B.4, and its two variants against each other. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "migration/crc32c.h"

typedef uint32_t crc_fn(uint32_t crc, const void *buf, size_t len);

static void rfc3720_vectors(void **state)
{
	crc_fn *const variants[] = { crc32c, crc32c_table };
	static const uint8_t scsi_read[48] = {
		[0] = 0x01,  [1] = 0xc0,  [16] = 0x14, [22] = 0x04,
		[27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02,
	};
	uint8_t buf[32];

	(void)state;
	for (size_t v = 0; v < 2; v++) {
		memset(buf, 0, sizeof(buf));
		assert_int_equal(variants[v](0, buf, 32), 0x8a9136aa);
		memset(buf, 0xff, sizeof(buf));
		assert_int_equal(variants[v](0, buf, 32), 0x62a8ab43);
		for (int i = 0; i < 32; i++)
			buf[i] = (uint8_t)i;
		assert_int_equal(variants[v](0, buf, 32), 0x46dd794e);
		for (int i = 0; i < 32; i++)
			buf[i] = (uint8_t)(31 - i);
		assert_int_equal(variants[v](0, buf, 32), 0x113fdb5c);
		assert_int_equal(variants[v](0, scsi_read, 48), 0xd9963a56);
		assert_int_equal(variants[v](0, "123456789", 9), 0xe3069283);
		assert_int_equal(variants[v](0, "", 0), 0);
	}
}

static void variants_agree_at_any_length_and_place(void **state)
{
	uint8_t buf[200];
	unsigned int seed = 1;

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)rand_r(&seed);
	for (size_t at = 0; at < 9; at++) {
		for (size_t len = 0; len <= sizeof(buf) - at; len++)
			assert_int_equal(crc32c(7, buf + at, len), crc32c_table(7, buf + at, len));
	}
}

static void pieces_continue(void **state)
{
	const char text[] = "in any number of pieces";
	const size_t len = sizeof(text) - 1;

	(void)state;
	for (size_t cut = 0; cut <= len; cut++)
		assert_int_equal(crc32c(crc32c(0, text, cut), text + cut, len - cut),
				 crc32c(0, text, len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rfc3720_vectors),
		cmocka_unit_test(variants_agree_at_any_length_and_place),
		cmocka_unit_test(pieces_continue),
	};

	return cmocka_run_group_tests_name("crc32c", tests, NULL, NULL);
}
