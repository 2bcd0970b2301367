/* SPDX-License-Identifier: BSD-2-Clause */
/* CRC32C (Castagnoli), RFC 3720 section 12.1 and appendix B.4. */
#ifndef MIGRATION_CRC32C_H
#define MIGRATION_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * The CRC of @buf, continuing from @crc: 0 to start, a former result to go on with the next piece.
 * Any thread.
 */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);

/* The same by table, on any CPU; for tests, and where there is no instruction for it. */
uint32_t crc32c_table(uint32_t crc, const void *buf, size_t len);

#endif
