/* SPDX-License-Identifier: BSD-2-Clause */
/* Saving, loading and resetting device state by its table of fields. */
#include "vmm/state.h"

#include <errno.h>
#include <inttypes.h>
#include <libfdt.h>
#include <stdarg.h>
#include <string.h>

#define NAME_MAX_LEN 64

/* A name made of a field's and an index, as subnodes have: "queues@1f". */
static void element_name(char *buf, const struct field *f, size_t index)
{
	snprintf(buf, NAME_MAX_LEN, "%s@%zx", f->name, index);
}

static size_t used_count(const struct field *f, const void *state)
{
	uint32_t n;

	if (f->count_offset == NO_COUNT)
		return f->count;
	memcpy(&n, (const char *)state + f->count_offset, sizeof(n));
	return n;
}

static uint64_t load_uint(const void *p, size_t size)
{
	union {
		uint8_t u8;
		uint16_t u16;
		uint32_t u32;
		uint64_t u64;
	} v = { .u64 = 0 };

	memcpy(&v, p, size);
	return size == 1 ? v.u8 : size == 2 ? v.u16 : size == 4 ? v.u32 : v.u64;
}

static void store_uint(void *p, size_t size, uint64_t value)
{
	uint8_t u8 = (uint8_t)value;
	uint16_t u16 = (uint16_t)value;
	uint32_t u32 = (uint32_t)value;

	memcpy(p,
	       size == 1   ? (void *)&u8
	       : size == 2 ? (void *)&u16
	       : size == 4 ? (void *)&u32
			   : (void *)&value,
	       size);
}

static void put_be(uint8_t *to, size_t size, uint64_t value)
{
	for (size_t i = 0; i < size; i++)
		to[i] = (uint8_t)(value >> 8 * (size - 1 - i));
}

static uint64_t get_be(const uint8_t *from, size_t size)
{
	uint64_t value = 0;

	for (size_t i = 0; i < size; i++)
		value = value << 8 | from[i];
	return value;
}

static int save_property(void *fdt, const struct field *f, const void *state)
{
	const char *from = (const char *)state + f->offset;
	size_t n = used_count(f, state);
	void *to;
	int ret;

	if (n > f->count)
		return -FDT_ERR_BADVALUE;
	ret = fdt_property_placeholder(fdt, f->name, (int)(n * f->size), &to);
	if (ret < 0)
		return ret;
	if (f->type == FIELD_BYTES) {
		memcpy(to, from, n);
		return 0;
	}
	for (size_t i = 0; i < n; i++)
		put_be((uint8_t *)to + i * f->size, f->size,
		       load_uint(from + i * f->size, f->size));
	return 0;
}

static int save_structs(void *fdt, const struct field *f, const void *state)
{
	size_t n = used_count(f, state);
	char name[NAME_MAX_LEN];
	int ret;

	if (n > f->count)
		return -FDT_ERR_BADVALUE;
	for (size_t i = 0; i < n; i++) {
		element_name(name, f, i);
		ret = fdt_begin_node(fdt, name);
		if (ret == 0)
			ret = state_save(fdt, f->sub,
					 (const char *)state + f->offset + i * f->size);
		if (ret == 0)
			ret = fdt_end_node(fdt);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* Properties come before subnodes (Devicetree Specification 0.4, 5.4.2). */
int state_save(void *fdt, const struct field *fields, const void *state)
{
	int ret = 0;

	for (const struct field *f = fields; f->type != FIELD_END && ret == 0; f++) {
		if (f->type != FIELD_STRUCT)
			ret = save_property(fdt, f, state);
	}
	for (const struct field *f = fields; f->type != FIELD_END && ret == 0; f++) {
		if (f->type == FIELD_STRUCT)
			ret = save_structs(fdt, f, state);
	}
	return ret;
}

/* Set fields, all of their room, to the default; those with a flag of @keep stay. */
static void set_defaults(const struct field *fields, void *state, unsigned int keep)
{
	for (const struct field *f = fields; f->type != FIELD_END; f++) {
		char *to = (char *)state + f->offset;

		if (f->flags & keep)
			continue;
		if (f->type == FIELD_BYTES)
			memset(to, 0, f->count);
		for (size_t i = 0; i < f->count && f->type != FIELD_BYTES; i++, to += f->size) {
			if (f->type == FIELD_STRUCT)
				set_defaults(f->sub, to, keep);
			else
				store_uint(to, f->size, f->def);
		}
	}
}

void state_reset(const struct field *fields, void *state)
{
	set_defaults(fields, state, FIELD_KEEP);
}

/* A node that is being loaded: the same for all fields but the place. */
struct load {
	const void *fdt;
	int node;
	const struct field *fields;
	unsigned int version;
	const char *device;
	char prefix[NAME_MAX_LEN]; /* of field names in errors: "queues@1." */
	struct error *err;
};

__attribute__((format(printf, 4, 5))) static int refuse(const struct load *l, const char *name,
							const char *expected, const char *fmt, ...)
{
	char field[2 * NAME_MAX_LEN], got[128];
	va_list ap;

	snprintf(field, sizeof(field), "%s%.60s", l->prefix, name);
	va_start(ap, fmt);
	vsnprintf(got, sizeof(got), fmt, ap);
	va_end(ap);
	return error_set(l->err, -EINVAL, "load", l->device, field, expected, "%s", got);
}

static bool has(const struct load *l, const struct field *f)
{
	return f->since <= l->version;
}

static int check_count(const struct load *l, const struct field *f, size_t n)
{
	if (n <= f->count)
		return 0;
	refuse(l, f->name, "", "%zu", n);
	error_expected(l->err, "at most %zu elements", f->count);
	return -EINVAL;
}

static int load_ints(const struct load *l, const struct field *f, const uint8_t *from, size_t n,
		     char *to)
{
	for (size_t i = 0; i < n; i++, from += f->size, to += f->size) {
		uint64_t value = get_be(from, f->size);

		if (value < f->min || value > f->max) {
			refuse(l, f->name, "", "0x%" PRIx64, value);
			error_expected(l->err, "0x%" PRIx64 " to 0x%" PRIx64, f->min, f->max);
			return -EINVAL;
		}
		store_uint(to, f->size, value);
	}
	return 0;
}

static int load_property(const struct load *l, const struct field *f, void *state)
{
	size_t n = used_count(f, state);
	char *to = (char *)state + f->offset;
	const void *from;
	int len, ret;

	ret = check_count(l, f, n);
	if (ret < 0)
		return ret;
	from = fdt_getprop(l->fdt, l->node, f->name, &len);
	if (!from)
		return refuse(l, f->name, "a value", "none");
	if ((size_t)len != n * f->size) {
		refuse(l, f->name, "", "%d bytes", len);
		error_expected(l->err, "%zu bytes", n * f->size);
		return -EINVAL;
	}
	if (f->type == FIELD_UINT)
		return load_ints(l, f, from, n, to);
	memcpy(to, from, n);
	return 0;
}

static int load_node(const struct load *l, void *state);

/* The element is most likely what follows the one @before, since state_save writes them in a row;
 * searching for each by name would take a time of n² in the middle of a blackout. */
static int find_element(const struct load *l, int before, const char *name)
{
	int next =
		before < 0 ? fdt_first_subnode(l->fdt, l->node) : fdt_next_subnode(l->fdt, before);
	const char *found = next < 0 ? NULL : fdt_get_name(l->fdt, next, NULL);

	if (found && strcmp(found, name) == 0)
		return next;
	return fdt_subnode_offset(l->fdt, l->node, name);
}

static int load_structs(const struct load *l, const struct field *f, void *state)
{
	size_t n = used_count(f, state);
	char name[NAME_MAX_LEN];
	int ret = check_count(l, f, n), node = -1;

	for (size_t i = 0; i < n && ret == 0; i++) {
		struct load sub = *l;

		element_name(name, f, i);
		snprintf(sub.prefix, sizeof(sub.prefix), "%.30s%.30s.", l->prefix, name);
		sub.fields = f->sub;
		node = find_element(l, node, name);
		if (node < 0)
			return refuse(l, name, "a node", "none");
		sub.node = node;
		ret = load_node(&sub, (char *)state + f->offset + i * f->size);
	}
	return ret;
}

static bool is_property(const struct load *l, const char *name)
{
	for (const struct field *f = l->fields; f->type != FIELD_END; f++) {
		if (f->type != FIELD_STRUCT && has(l, f) && strcmp(f->name, name) == 0)
			return true;
	}
	return false;
}

/* Is @name one of the elements that are in use? Counts have been loaded. */
static bool is_element(const struct load *l, const char *name, const void *state)
{
	char element[NAME_MAX_LEN];

	for (const struct field *f = l->fields; f->type != FIELD_END; f++) {
		size_t len = strlen(f->name);

		if (f->type != FIELD_STRUCT || !has(l, f) || strncmp(f->name, name, len) != 0)
			continue;
		for (size_t i = 0; i < used_count(f, state); i++) {
			element_name(element, f, i);
			if (strcmp(element, name) == 0)
				return true;
		}
	}
	return false;
}

/* Are there as many names as there must be? Not counting those marked by '?'. */
static bool count_is_right(const struct load *l, const void *state)
{
	size_t wanted = 0, found = 0;
	const char *name;
	int offset;

	for (const struct field *f = l->fields; f->type != FIELD_END; f++) {
		if (has(l, f))
			wanted += f->type == FIELD_STRUCT ? used_count(f, state) : 1;
	}
	fdt_for_each_property_offset (offset, l->fdt, l->node)
		found += fdt_getprop_by_offset(l->fdt, offset, &name, NULL) && name[0] != '?';
	fdt_for_each_subnode (offset, l->fdt, l->node) {
		name = fdt_get_name(l->fdt, offset, NULL);
		found += name && name[0] != '?';
	}
	return found == wanted;
}

/* What is there must be known, once, or marked by '?'. All that is wanted has been found: if there
 * are as many, there is nothing else. If not, find out what it is. */
static int check_names(const struct load *l, const void *state)
{
	int offset, len;

	if (count_is_right(l, state))
		return 0;
	fdt_for_each_property_offset (offset, l->fdt, l->node) {
		const char *name;
		const void *value = fdt_getprop_by_offset(l->fdt, offset, &name, &len);

		if (!value)
			return refuse(l, "", "a property", "%s", fdt_strerror(len));
		if (name[0] == '?')
			continue;
		if (!is_property(l, name))
			return refuse(l, name, "a field this build knows", "an unknown one");
		if (fdt_getprop(l->fdt, l->node, name, NULL) != value)
			return refuse(l, name, "one value", "two");
	}
	fdt_for_each_subnode (offset, l->fdt, l->node) {
		const char *name = fdt_get_name(l->fdt, offset, &len);

		if (!name)
			return refuse(l, "", "a node", "%s", fdt_strerror(len));
		if (name[0] == '?')
			continue;
		if (!is_element(l, name, state))
			return refuse(l, name, "a node this build knows", "an unknown one");
		if (fdt_subnode_offset(l->fdt, l->node, name) != offset)
			return refuse(l, name, "one node", "two");
	}
	return 0;
}

static int load_node(const struct load *l, void *state)
{
	int ret = 0;

	for (const struct field *f = l->fields; f->type != FIELD_END && ret == 0; f++) {
		if (f->type != FIELD_STRUCT && has(l, f))
			ret = load_property(l, f, state);
	}
	for (const struct field *f = l->fields; f->type != FIELD_END && ret == 0; f++) {
		if (f->type == FIELD_STRUCT && has(l, f))
			ret = load_structs(l, f, state);
	}
	return ret < 0 ? ret : check_names(l, state);
}

int state_load(const void *fdt, int node, const struct field *fields, void *state,
	       unsigned int version, const char *device, struct error *err)
{
	struct load l = {
		.fdt = fdt,
		.node = node,
		.fields = fields,
		.version = version,
		.device = device,
		.err = err,
	};

	/* Also what is beyond the counts and what is too young: the result depends on the stream
	 * alone, not on what @state held. */
	set_defaults(fields, state, 0);
	return load_node(&l, state);
}
