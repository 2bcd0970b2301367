/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/state.h"

struct ring {
	uint16_t index;
	bool ready;
	uint64_t desc;
};

struct board {
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	bool flag;
	uint8_t kept;
	uint16_t table[3];
	uint32_t n_bytes;
	uint8_t bytes[8];
	uint8_t raw[5];
	uint32_t n_rings;
	struct ring rings[20];
	struct ring all[2];
	uint32_t young;
};

static const struct field ring_fields[] = {
	FIELD_INT(struct ring, index, 0, 1023),
	FIELD_BOOL(struct ring, ready),
	FIELD_ANY(struct ring, desc),
	FIELDS_END,
};

#define YOUNG(v)                                                                \
	{                                                                       \
		.name = "young", .type = FIELD_UINT, .since = (v),              \
		.offset = offsetof(struct board, young), .size = 4, .count = 1, \
		.count_offset = NO_COUNT, .max = 99, .def = 42                  \
	}

static const struct field board_fields[] = {
	FIELD_STRUCTS(struct board, all, ring_fields), /* before properties: order is ours */
	FIELD_INT(struct board, u8, 1, 200),
	FIELD_ANY(struct board, u16),
	FIELD_ANY(struct board, u32),
	FIELD_ANY(struct board, u64),
	FIELD_BOOL(struct board, flag),
	{ .name = "kept",
	  .type = FIELD_UINT,
	  .since = 1,
	  .flags = FIELD_KEEP,
	  .offset = offsetof(struct board, kept),
	  .size = 1,
	  .count = 1,
	  .count_offset = NO_COUNT,
	  .max = 255 },
	FIELD_ARRAY(struct board, table, 0, 0xfff0),
	FIELD_INT(struct board, n_bytes, 0, 8),
	FIELD_RAW_N(struct board, bytes, n_bytes),
	FIELD_RAW(struct board, raw),
	FIELD_INT(struct board, n_rings, 0, 30), /* too generous: the room is checked as well */
	FIELD_STRUCTS_N(struct board, rings, ring_fields, n_rings),
	YOUNG(2),
	FIELDS_END,
};

static struct board example(void)
{
	struct board b;

	memset(&b, 0, sizeof(b));
	b.u8 = 200;
	b.u16 = 0x1234;
	b.u32 = 0xfedcba98;
	b.u64 = 0x0123456789abcdef;
	b.flag = true;
	b.kept = 7;
	b.table[2] = 0xfff0;
	b.n_bytes = 3;
	memcpy(b.bytes, "abc", 3);
	memcpy(b.raw, "\0\1\2\3\xff", 5);
	b.n_rings = 18;
	for (uint16_t i = 0; i < 18; i++)
		b.rings[i] = (struct ring){ .index = i, .ready = i % 2, .desc = ~0ULL - i };
	b.all[1].desc = 5;
	b.young = 77;
	return b;
}

static char blob[16384], edited[20000];

/* The state as the one node below the root; returns the node. */
static int save(const struct board *b, size_t room)
{
	int ret = fdt_create(blob, (int)room);

	ret = ret ? ret : fdt_finish_reservemap(blob);
	ret = ret ? ret : fdt_begin_node(blob, "");
	ret = ret ? ret : fdt_begin_node(blob, "board");
	ret = ret ? ret : state_save(blob, board_fields, b);
	ret = ret ? ret : fdt_end_node(blob);
	ret = ret ? ret : fdt_end_node(blob);
	ret = ret ? ret : fdt_finish(blob);
	return ret ? ret : fdt_path_offset(blob, "/board");
}

/* Open the saved tree for edits; returns the node. */
static int edit(void)
{
	struct board b = example();

	assert_true(save(&b, sizeof(blob)) > 0);
	assert_int_equal(fdt_open_into(blob, edited, sizeof(edited)), 0);
	return fdt_path_offset(edited, "/board");
}

static int load(const void *fdt, struct board *b, unsigned int version, struct error *err)
{
	memset(err, 0, sizeof(*err));
	assert_int_equal(fdt_check_full(fdt, sizeof(edited)), 0);
	return state_load(fdt, fdt_path_offset(fdt, "/board"), board_fields, b, version, "board",
			  err);
}

static void refused(const char *field, const char *expected, const char *got)
{
	struct board b;
	struct error err;

	assert_int_equal(load(edited, &b, 2, &err), -EINVAL);
	assert_string_equal(err.phase, "load");
	assert_string_equal(err.device, "board");
	assert_string_equal(err.field, field);
	assert_string_equal(err.expected, expected);
	assert_string_equal(err.got, got);
}

static void saved_is_loaded(void **state)
{
	struct board a = example(), b;
	struct error err;

	(void)state;
	memset(&b, 0, sizeof(b));
	assert_true(save(&a, sizeof(blob)) > 0);
	assert_int_equal(load(blob, &b, 2, &err), 0);
	assert_memory_equal(&a, &b, sizeof(a));
}

static void wire_is_big_endian_and_exact(void **state)
{
	struct board a = example();
	const void *p;
	int node = save(&a, sizeof(blob)), len;

	(void)state;
	p = fdt_getprop(blob, node, "u32", &len);
	assert_int_equal(len, 4);
	assert_memory_equal(p, "\xfe\xdc\xba\x98", 4);
	p = fdt_getprop(blob, node, "table", &len);
	assert_int_equal(len, 6);
	assert_memory_equal(p, "\0\0\0\0\xff\xf0", 6);
	p = fdt_getprop(blob, node, "bytes", &len);
	assert_int_equal(len, 3);
	assert_memory_equal(p, "abc", 3);
	p = fdt_getprop(blob, fdt_path_offset(blob, "/board/rings@11"), "index", &len);
	assert_int_equal(len, 2);
	assert_memory_equal(p, "\0\x11", 2);
	assert_int_equal(fdt_path_offset(blob, "/board/rings@12"), -FDT_ERR_NOTFOUND);
}

static void saving_reports_lack_of_space(void **state)
{
	struct board a = example();

	(void)state;
	assert_int_equal(save(&a, 600), -FDT_ERR_NOSPACE);
	a.n_bytes = 9;
	assert_int_equal(save(&a, sizeof(blob)), -FDT_ERR_BADVALUE);
}

static void result_depends_on_the_stream_alone(void **state)
{
	struct board a = example(), b, c;
	struct error err;

	(void)state;
	save(&a, sizeof(blob));
	memset(&b, 0, sizeof(b));
	memset(&c, 0, sizeof(c));
	memset(b.bytes, 0xff, sizeof(b.bytes));
	b.rings[19].desc = 1;
	assert_int_equal(load(blob, &b, 2, &err), 0);
	assert_int_equal(load(blob, &c, 2, &err), 0);
	assert_memory_equal(&b, &c, sizeof(b));
}

static void older_stream_gives_the_default(void **state)
{
	struct board b;
	struct error err;
	int node = edit();

	(void)state;
	assert_int_equal(fdt_delprop(edited, node, "young"), 0);
	assert_int_equal(load(edited, &b, 1, &err), 0);
	assert_int_equal(b.young, 42);
	refused("young", "a value", "none");
	/* An old stream cannot have a field of the future. */
	edit();
	assert_int_equal(load(edited, &b, 1, &err), -EINVAL);
	assert_string_equal(err.field, "young");
}

static void values_out_of_range(void **state)
{
	(void)state;
	fdt_setprop(edited, edit(), "u8", "\0", 1);
	refused("u8", "0x1 to 0xc8", "0x0");
	fdt_setprop(edited, edit(), "u8", "\xc9", 1);
	refused("u8", "0x1 to 0xc8", "0xc9");
	fdt_setprop(edited, edit(), "flag", "\2", 1);
	refused("flag", "0x0 to 0x1", "0x2");
	fdt_setprop(edited, edit(), "table", "\0\0\xff\xf1\0\0", 6);
	refused("table", "0x0 to 0xfff0", "0xfff1");
	edit();
	fdt_setprop(edited, fdt_path_offset(edited, "/board/rings@3"), "index", "\4\0", 2);
	refused("rings@3.index", "0x0 to 0x3ff", "0x400");
}

static void wrong_sizes(void **state)
{
	(void)state;
	fdt_setprop(edited, edit(), "u64", "\0\0\0\0", 4);
	refused("u64", "8 bytes", "4 bytes");
	fdt_setprop(edited, edit(), "bytes", "abcd", 4);
	refused("bytes", "3 bytes", "4 bytes");
	fdt_setprop(edited, edit(), "table", "", 0);
	refused("table", "6 bytes", "0 bytes");
}

static void counts_are_checked_against_the_room(void **state)
{
	(void)state;
	fdt_setprop_u32(edited, edit(), "n_bytes", 9);
	refused("n_bytes", "0x0 to 0x8", "0x9");
	fdt_setprop_u32(edited, edit(), "n_rings", 30);
	refused("rings", "at most 20 elements", "30");
	fdt_setprop_u32(edited, edit(), "n_rings", 19);
	refused("rings@12", "a node", "none");
	fdt_setprop_u32(edited, edit(), "n_rings", 17);
	refused("rings@11", "a node this build knows", "an unknown one");
}

static void missing_things(void **state)
{
	(void)state;
	fdt_delprop(edited, edit(), "raw");
	refused("raw", "a value", "none");
	edit();
	fdt_del_node(edited, fdt_path_offset(edited, "/board/all@1"));
	refused("all@1", "a node", "none");
}

/* For trees that the library does not write. */
static void rename_in_tree(const char *from, const char *to)
{
	char *p = edited;

	while (memcmp(p, from, strlen(from) + 1) != 0)
		p++;
	memcpy(p, to, strlen(to));
}

static void unknown_things(void **state)
{
	struct board b;
	struct error err;
	int node;

	(void)state;
	fdt_setprop_u32(edited, edit(), "colour", 1);
	refused("colour", "a field this build knows", "an unknown one");
	fdt_add_subnode(edited, edit(), "rings@012");
	refused("rings@012", "a node this build knows", "an unknown one");
	fdt_add_subnode(edited, edit(), "ringz");
	rename_in_tree("ringz", "rings");
	refused("rings", "a node this build knows", "an unknown one");
	/* Marked as optional: skipped, with all that is below. */
	node = edit();
	fdt_setprop_u32(edited, node, "?colour", 1);
	fdt_setprop_u32(edited, fdt_add_subnode(edited, node, "?paint"), "colour", 1);
	assert_int_equal(load(edited, &b, 2, &err), 0);
}

static void duplicates(void **state)
{
	int node;

	(void)state;
	fdt_setprop_u32(edited, edit(), "u33", 1);
	rename_in_tree("u33", "u32");
	refused("u32", "one value", "two");
	node = fdt_add_subnode(edited, edit(), "all@9");
	fdt_setprop_u64(edited, node, "desc", 0);
	fdt_setprop(edited, node, "ready", "", 1);
	fdt_setprop(edited, node, "index", "\0", 2);
	rename_in_tree("all@9", "all@1");
	refused("all@1", "one node", "two");
}

static void reset_keeps_what_shall_be_kept(void **state)
{
	struct board b;

	(void)state;
	memset(&b, 0xff, sizeof(b));
	state_reset(board_fields, &b);
	assert_int_equal(b.kept, 0xff);
	assert_int_equal(b.u64, 0);
	assert_int_equal(b.flag, 0);
	assert_int_equal(b.bytes[7], 0);
	assert_int_equal(b.rings[19].desc, 0);
	assert_int_equal(b.young, 42);
}

/* Whatever byte is changed: an error or a state in range, never more. For the sanitizers. */
static void every_single_byte_changed(void **state)
{
	struct board a = example(), b;
	struct error err;
	size_t size;

	(void)state;
	save(&a, sizeof(blob));
	size = fdt_totalsize(blob);
	for (size_t i = 0; i < size; i++) {
		for (int bit = 0; bit < 8; bit += 7) {
			memcpy(edited, blob, size);
			edited[i] = (char)(edited[i] ^ 1 << bit);
			if (fdt_check_full(edited, size) != 0)
				continue;
			err.code = 0;
			if (state_load(edited, fdt_path_offset(edited, "/board"), board_fields, &b,
				       2, "board", &err) < 0)
				assert_int_equal(err.code, -EINVAL);
			else
				assert_in_range(b.n_rings, 0, 20);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(saved_is_loaded),
		cmocka_unit_test(wire_is_big_endian_and_exact),
		cmocka_unit_test(saving_reports_lack_of_space),
		cmocka_unit_test(result_depends_on_the_stream_alone),
		cmocka_unit_test(older_stream_gives_the_default),
		cmocka_unit_test(values_out_of_range),
		cmocka_unit_test(wrong_sizes),
		cmocka_unit_test(counts_are_checked_against_the_room),
		cmocka_unit_test(missing_things),
		cmocka_unit_test(unknown_things),
		cmocka_unit_test(duplicates),
		cmocka_unit_test(reset_keeps_what_shall_be_kept),
		cmocka_unit_test(every_single_byte_changed),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
