/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A writer of AML (ACPI 6.5, chapter 20) for tables that only declare devices: names, integers and
 * resources, no methods. Things are appended; what contains others is begun, and ended by the mark
 * that its beginning returned. When the buffer is full, aml->full is set and nothing more written.
 */
#ifndef VMM_X86_AML_H
#define VMM_X86_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *data; /* the caller's, @size bytes */
	size_t size, len;
	bool full;
};

/* @path as AML has it: segments of four characters, "_SB_". */
size_t aml_begin_scope(struct aml *aml, const char *path);
size_t aml_begin_device(struct aml *aml, const char *name);
void aml_end(struct aml *aml, size_t mark);

void aml_name_integer(struct aml *aml, const char *name, uint32_t value);
void aml_name_string(struct aml *aml, const char *name, const char *value);
/* @id is a compressed EISA id such as "PNP0501". */
void aml_name_eisa(struct aml *aml, const char *name, const char *id);
/* A package of @n small integers. */
void aml_name_package(struct aml *aml, const char *name, const uint8_t *values, uint8_t n);

/* The resources of a device (6.4): _CRS. */
size_t aml_begin_resources(struct aml *aml);
void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t size);
void aml_resource_ports(struct aml *aml, uint16_t base, uint8_t n);
/* An edge, active high, not shared. */
void aml_resource_interrupt(struct aml *aml, uint32_t gsi);
void aml_end_resources(struct aml *aml, size_t mark);

#endif
