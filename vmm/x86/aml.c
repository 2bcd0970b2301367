/* SPDX-License-Identifier: BSD-2-Clause */
/* AML by hand (ACPI 6.5, 20.2): enough of it to declare devices. */
#include "vmm/x86/aml.h"

#include <string.h>

enum { /* 20.3, "AML Byte Stream Byte Values" */
       OP_ZERO = 0x00,
       OP_ONE = 0x01,
       OP_NAME = 0x08,
       OP_BYTE = 0x0a,
       OP_WORD = 0x0b,
       OP_DWORD = 0x0c,
       OP_STRING = 0x0d,
       OP_SCOPE = 0x10,
       OP_BUFFER = 0x11,
       OP_PACKAGE = 0x12,
       OP_EXT = 0x5b,
       OP_EXT_DEVICE = 0x82,
};

enum { /* 6.4, tags of resource descriptors with the length of small ones */
       TAG_PORTS = 0x47,
       TAG_END = 0x79,
       TAG_MEMORY_32 = 0x86,
       TAG_INTERRUPT = 0x89,
};

#define PORTS_DECODE_16	   0x01
#define MEMORY_WRITABLE	   0x01
#define INTERRUPT_CONSUMER 0x01
#define INTERRUPT_EDGE	   0x02

/* A package length in three bytes: two follow the first (20.2.4). The same for all saves a second
 * pass, and a length may be longer than it has to be. */
#define PKG_BYTES 3
/* The size of a buffer of resources: OP_WORD and two bytes, filled in at its end. */
#define SIZE_BYTES 3

static void put(struct aml *aml, uint64_t value, unsigned int bytes)
{
	if (aml->full || bytes > aml->size - aml->len) {
		aml->full = true;
		return;
	}
	while (bytes-- > 0) {
		aml->data[aml->len++] = (uint8_t)value;
		value >>= 8;
	}
}

static void put_text(struct aml *aml, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		put(aml, (uint8_t)text[i], 1);
}

static size_t begin_package_length(struct aml *aml)
{
	size_t mark = aml->len;

	put(aml, 0, PKG_BYTES);
	return mark;
}

/* The length counts itself. */
void aml_end(struct aml *aml, size_t mark)
{
	size_t len = aml->len - mark;

	if (aml->full || len >= 1 << 20) {
		aml->full = true;
		return;
	}
	aml->data[mark] = (uint8_t)((PKG_BYTES - 1) << 6 | (len & 0xf));
	aml->data[mark + 1] = (uint8_t)(len >> 4);
	aml->data[mark + 2] = (uint8_t)(len >> 12);
}

size_t aml_begin_scope(struct aml *aml, const char *path)
{
	size_t mark;

	put(aml, OP_SCOPE, 1);
	mark = begin_package_length(aml);
	put_text(aml, path, strlen(path));
	return mark;
}

size_t aml_begin_device(struct aml *aml, const char *name)
{
	size_t mark;

	put(aml, OP_EXT, 1);
	put(aml, OP_EXT_DEVICE, 1);
	mark = begin_package_length(aml);
	put_text(aml, name, 4);
	return mark;
}

static void begin_name(struct aml *aml, const char *name)
{
	put(aml, OP_NAME, 1);
	put_text(aml, name, 4);
}

static void put_integer(struct aml *aml, uint32_t value)
{
	if (value <= 1) {
		put(aml, value ? OP_ONE : OP_ZERO, 1);
	} else if (value <= UINT8_MAX) {
		put(aml, OP_BYTE, 1);
		put(aml, value, 1);
	} else {
		put(aml, OP_DWORD, 1);
		put(aml, value, 4);
	}
}

void aml_name_integer(struct aml *aml, const char *name, uint32_t value)
{
	begin_name(aml, name);
	put_integer(aml, value);
}

void aml_name_string(struct aml *aml, const char *name, const char *value)
{
	begin_name(aml, name);
	put(aml, OP_STRING, 1);
	put_text(aml, value, strlen(value) + 1);
}

static uint32_t hex(char c)
{
	return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits and four hex digits, big-endian (19.6.36, EISAID). */
void aml_name_eisa(struct aml *aml, const char *name, const char *id)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < 3; i++)
		value = value << 5 | (uint32_t)(id[i] - '@');
	for (unsigned int i = 3; i < 7; i++)
		value = value << 4 | hex(id[i]);
	begin_name(aml, name);
	put(aml, OP_DWORD, 1);
	put(aml, __builtin_bswap32(value), 4);
}

void aml_name_package(struct aml *aml, const char *name, const uint8_t *values, uint8_t n)
{
	size_t mark;

	begin_name(aml, name);
	put(aml, OP_PACKAGE, 1);
	mark = begin_package_length(aml);
	put(aml, n, 1);
	for (uint8_t i = 0; i < n; i++)
		put_integer(aml, values[i]);
	aml_end(aml, mark);
}

size_t aml_begin_resources(struct aml *aml)
{
	size_t mark;

	begin_name(aml, "_CRS");
	put(aml, OP_BUFFER, 1);
	mark = begin_package_length(aml);
	put(aml, OP_WORD, SIZE_BYTES);
	return mark;
}

void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t size)
{
	put(aml, TAG_MEMORY_32, 1);
	put(aml, 9, 2);
	put(aml, MEMORY_WRITABLE, 1);
	put(aml, base, 4);
	put(aml, size, 4);
}

void aml_resource_ports(struct aml *aml, uint16_t base, uint8_t n)
{
	put(aml, TAG_PORTS, 1);
	put(aml, PORTS_DECODE_16, 1);
	put(aml, base, 2); /* the lowest base, */
	put(aml, base, 2); /* and the highest */
	put(aml, 1, 1);
	put(aml, n, 1);
}

void aml_resource_interrupt(struct aml *aml, uint32_t gsi)
{
	put(aml, TAG_INTERRUPT, 1);
	put(aml, 6, 2);
	put(aml, INTERRUPT_CONSUMER | INTERRUPT_EDGE, 1);
	put(aml, 1, 1); /* one */
	put(aml, gsi, 4);
}

void aml_end_resources(struct aml *aml, size_t mark)
{
	size_t size;

	put(aml, TAG_END, 1);
	put(aml, 0, 1); /* no checksum */
	size = aml->len - (mark + PKG_BYTES + SIZE_BYTES);
	if (!aml->full) {
		aml->data[mark + PKG_BYTES + 1] = (uint8_t)size;
		aml->data[mark + PKG_BYTES + 2] = (uint8_t)(size >> 8);
	}
	aml_end(aml, mark);
}
