/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Device state as data. Each class of device keeps what a migration must carry in one plain struct
 * and describes it by one table of fields. That table saves, loads, validates, resets and prints.
 *
 * On the wire a state is an FDT node: one property a field, one subnode an element of an array of
 * structs. Loading fills a staging copy and touches nothing else, so nothing is ever half loaded.
 */
#ifndef VMM_STATE_H
#define VMM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vmm/error.h"

/* Of the state trees that this build writes; a field younger than the stream takes its default. */
#define STATE_VERSION 1

enum field_type {
	FIELD_END,
	FIELD_UINT,   /* @size bytes each, @count of them, big-endian on the wire */
	FIELD_BYTES,  /* opaque bytes, @count of them */
	FIELD_STRUCT, /* @count structs of @size bytes, described by @sub */
};

struct field {
	const char *name; /* of the property or the subnodes; fit for an FDT */
	enum field_type type;
	uint16_t since;	     /* first STATE_VERSION that has it, 1 from the start */
	uint16_t flags;	     /* FIELD_KEEP */
	size_t offset;	     /* in the struct */
	size_t size;	     /* bytes of one element */
	size_t count;	     /* elements the struct has room for */
	size_t count_offset; /* of the uint32_t that says how many are in use; NO_COUNT: all */
	uint64_t min, max;   /* of FIELD_UINT, inclusive */
	uint64_t def;	     /* after reset, and when an older stream lacks it */
	const struct field *sub;
};

#define NO_COUNT   ((size_t)-1)
#define FIELD_KEEP 1 /* survives a reset (a time of day, say) */

#define FIELD_ELEM(s, m) sizeof(((s *)0)->m[0])
/* One unsigned integer or bool, with the range that is legal. */
#define FIELD_INT(s, m, lo, hi)                                                                 \
	{                                                                                       \
		.name = #m, .type = FIELD_UINT, .since = 1, .offset = offsetof(s, m),           \
		.size = sizeof(((s *)0)->m), .count = 1, .count_offset = NO_COUNT, .min = (lo), \
		.max = (hi)                                                                     \
	}
/* One unsigned integer of any value. */
#define FIELD_ANY(s, m)	 FIELD_INT(s, m, 0, UINT64_MAX)
#define FIELD_BOOL(s, m) FIELD_INT(s, m, 0, 1)
/* An array of unsigned integers, all of its elements. */
#define FIELD_ARRAY(s, m, lo, hi)                                                          \
	{                                                                                  \
		.name = #m, .type = FIELD_UINT, .since = 1, .offset = offsetof(s, m),      \
		.size = FIELD_ELEM(s, m), .count = sizeof(((s *)0)->m) / FIELD_ELEM(s, m), \
		.count_offset = NO_COUNT, .min = (lo), .max = (hi)                         \
	}
/* A struct or an array of bytes as it stands in memory: for what the KVM API defines byte by byte.
 */
#define FIELD_RAW(s, m)                                                                           \
	{                                                                                         \
		.name = #m, .type = FIELD_BYTES, .since = 1, .offset = offsetof(s, m), .size = 1, \
		.count = sizeof(((s *)0)->m), .count_offset = NO_COUNT                            \
	}
/* The first @n (a uint32_t member, itself a field above this one) bytes of a byte array. */
#define FIELD_RAW_N(s, m, n)                                                                      \
	{                                                                                         \
		.name = #m, .type = FIELD_BYTES, .since = 1, .offset = offsetof(s, m), .size = 1, \
		.count = sizeof(((s *)0)->m), .count_offset = offsetof(s, n)                      \
	}
/* An array of structs, the first @n of them (or all with FIELD_STRUCTS). */
#define FIELD_STRUCTS_N(s, m, table, n)                                                    \
	{                                                                                  \
		.name = #m, .type = FIELD_STRUCT, .since = 1, .offset = offsetof(s, m),    \
		.size = FIELD_ELEM(s, m), .count = sizeof(((s *)0)->m) / FIELD_ELEM(s, m), \
		.count_offset = offsetof(s, n), .sub = (table)                             \
	}
#define FIELD_STRUCTS(s, m, table)                                                         \
	{                                                                                  \
		.name = #m, .type = FIELD_STRUCT, .since = 1, .offset = offsetof(s, m),    \
		.size = FIELD_ELEM(s, m), .count = sizeof(((s *)0)->m) / FIELD_ELEM(s, m), \
		.count_offset = NO_COUNT, .sub = (table)                                   \
	}
#define FIELDS_END                \
	{                         \
		.type = FIELD_END \
	}

/*
 * Append the fields of @state to the open node of @fdt, which is being written sequentially
 * (fdt_begin_node has been called). Returns 0 or a libfdt error, -FDT_ERR_NOSPACE among them.
 */
int state_save(void *fdt, const struct field *fields, const void *state);

/*
 * Read @node of @fdt into @state. Fields that are younger than @version take their default; a
 * missing, unknown, mis-sized or out-of-range one is an error that names @device and the field.
 * An unknown property or subnode is skipped when its name begins with '?'. Hostile input.
 */
int state_load(const void *fdt, int node, const struct field *fields, void *state,
	       unsigned int version, const char *device, struct error *err);

/* Set every field without FIELD_KEEP to its default. */
void state_reset(const struct field *fields, void *state);

#endif
