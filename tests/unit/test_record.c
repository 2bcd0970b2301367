/* SPDX-License-Identifier: BSD-2-Clause */
/* Records: what goes in comes out, and nothing that is damaged does. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "migration/crc32c.h"
#include "migration/record.h"
#include "migration/stream.h"
#include "tests/unit/memchannel.h"

static struct stream stream;
static struct mem_channel mem;
static struct record_writer writer;
static struct record_reader reader;
static struct record rec;
static struct error err;

static int setup(void **state)
{
	(void)state;
	mem_init(&mem, true);
	stream_init(&stream, &mem.base);
	record_writer_init(&writer, &stream);
	record_reader_init(&reader, &stream);
	error_clear(&err);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	record_reader_free(&reader);
	channel_close(&mem.base);
	return 0;
}

/* Read what is in mem.data once more, by a fresh reader. */
static void rewind_reader(void)
{
	mem.pos = 0;
	stream_init(&stream, &mem.base);
	record_reader_free(&reader);
	record_reader_init(&reader, &stream);
	error_clear(&err);
}

/* Set a field of the header at @at and mend the checksum, as a hostile sender would. */
static void forge(size_t at, size_t field, size_t size, uint64_t value)
{
	uint8_t *h = mem.data + at;
	uint32_t crc;

	for (size_t i = size; i--; value >>= 8)
		h[field + i] = (uint8_t)value;
	crc = crc32c(0, h, 28);
	for (size_t i = 4; i--; crc >>= 8)
		h[28 + i] = (uint8_t)crc;
}

static void assert_error(int code, const char *device, const char *field)
{
	assert_int_equal(err.code, code);
	assert_string_equal(err.phase, "stream");
	assert_string_equal(err.device, device);
	assert_string_equal(err.field, field);
}

static void send_text(uint16_t type, const char *text)
{
	assert_int_equal(record_send(&writer, type, text, strlen(text), 0, &err), 0);
}

/* ---- Good streams ---- */

static void every_type_round_trips(void **state)
{
	(void)state;
	for (uint16_t type = RECORD_HELLO; type <= RECORD_BLOCK; type++)
		send_text(type, record_name(type));
	assert_int_equal(stream_flush(&stream), 0);
	for (uint16_t type = RECORD_HELLO; type <= RECORD_BLOCK; type++) {
		assert_int_equal(record_read(&reader, &rec, &err), 0);
		assert_int_equal(rec.type, type);
		assert_int_equal(rec.sequence, type - RECORD_HELLO);
		assert_int_equal(rec.meta_len, strlen(record_name(type)));
		assert_memory_equal(rec.meta, record_name(type), rec.meta_len);
		assert_int_equal(rec.payload_len, 0);
		assert_int_equal(rec.flags, type == RECORD_PROGRESS ? 0 : RECORD_MANDATORY);
	}
	assert_int_equal(record_read(&reader, &rec, &err), -ENODATA);
	assert_string_equal(err.expected, "32 bytes");
	assert_string_equal(err.got, "the end of the stream after 0 bytes");
}

/* The layout in record.h, byte by byte. */
static void layout_is_as_documented(void **state)
{
	static const uint8_t expected[34] = {
		'F', 'R', 'R', 'Y', 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0,
	};

	(void)state;
	send_text(RECORD_HELLO, "hi");
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(mem.len, 34);
	assert_memory_equal(mem.data, expected, 24);
	assert_memory_equal(mem.data + 32, "hi", 2);
	assert_int_equal(be32toh(*(uint32_t *)(void *)(mem.data + 24)), crc32c_table(0, "hi", 2));
	assert_int_equal(be32toh(*(uint32_t *)(void *)(mem.data + 28)),
			 crc32c_table(0, mem.data, 28));
}

static void large_tree_round_trips(void **state)
{
	const size_t len = 4u << 20;
	uint8_t *tree = malloc(len);

	(void)state;
	for (size_t i = 0; i < len; i++)
		tree[i] = (uint8_t)(i ^ i >> 11);
	assert_int_equal(record_send_async(&writer, RECORD_STATE, tree, len, 0, &err), 0);
	assert_int_equal(stream_flush(&stream), 0);
	mem.step = 100000;
	assert_int_equal(record_read(&reader, &rec, &err), 0);
	assert_int_equal(rec.meta_len, len);
	assert_memory_equal(rec.meta, tree, len);
	assert_int_equal(record_send(&writer, RECORD_STATE, tree, len + 1, 0, &err), -EMSGSIZE);
	free(tree);
}

static void ram_runs_and_payload(void **state)
{
	static uint8_t from[3 * 4096], to[3 * 4096], wire[RAM_RUNS_MAX * RAM_RUN_WIRE];
	const struct ram_run runs[3] = { { 0x1000, 2, RAM_DATA },
					 { 0x100000000, 77, RAM_ZERO },
					 { 0x8000, 1, RAM_DATA } };
	struct ram_run got[RAM_RUNS_MAX];
	struct iovec iov[2] = { { to, 8192 }, { to + 8192, 4096 } };
	size_t len = ram_runs_encode(runs, 3, wire);

	(void)state;
	memset(from, 0x5a, sizeof(from));
	assert_int_equal(len, 48);
	assert_memory_equal(wire + 16, "\0\0\0\1\0\0\0\0\0\0\0\115\2\0\0\0", 16);
	assert_int_equal(record_send_async(&writer, RECORD_RAM, wire, len, sizeof(from), &err), 0);
	stream_put_buffer_async(&stream, from, sizeof(from));
	send_text(RECORD_STOPPED, "");
	assert_int_equal(stream_flush(&stream), 0);

	assert_int_equal(record_read(&reader, &rec, &err), 0);
	assert_int_equal(rec.payload_len, sizeof(from));
	assert_int_equal(ram_runs_decode(&rec, got, &err), 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(got[i].gpa, runs[i].gpa);
		assert_int_equal(got[i].pages, runs[i].pages);
		assert_int_equal(got[i].kind, runs[i].kind);
	}
	assert_int_equal(stream_readv(&stream, iov, 2), 0);
	assert_int_equal(record_payload_result(&reader, &rec, 0, &err), 0);
	assert_memory_equal(to, from, sizeof(from));
	assert_int_equal(record_read(&reader, &rec, &err), 0);
	assert_int_equal(rec.type, RECORD_STOPPED);
}

static void unknown_optional_is_skipped(void **state)
{
	static const char payload[5000];

	(void)state;
	send_text(RECORD_HELLO, "a");
	assert_int_equal(record_send(&writer, RECORD_RAM, "later", 5, sizeof(payload), &err), 0);
	stream_put_buffer(&stream, payload, sizeof(payload));
	send_text(RECORD_COMMIT, "b");
	assert_int_equal(stream_flush(&stream), 0);
	forge(33, 4, 2, 4711);
	forge(33, 6, 2, 0);
	assert_int_equal(record_read(&reader, &rec, &err), 0);
	assert_int_equal(rec.type, RECORD_HELLO);
	assert_int_equal(record_read(&reader, &rec, &err), 0);
	assert_int_equal(rec.type, RECORD_COMMIT);
	assert_int_equal(rec.sequence, 2);
}

static void meta_fields_round_trip(void **state)
{
	uint8_t buf[64];
	char text[8];
	struct record_meta m;

	(void)state;
	record_meta_init(&m, buf, sizeof(buf));
	record_put_be16(&m, 0x1234);
	record_put_be32(&m, 0x12345678);
	record_put_be64(&m, 0x123456789abcdef0);
	record_put_string(&m, "sevenby");
	record_put_string(&m, "");
	assert_false(m.overrun);
	rec = (struct record){ .meta = buf, .meta_len = (uint32_t)m.pos, .device = "X" };
	record_meta_parse(&m, &rec);
	assert_int_equal(record_get_be16(&m), 0x1234);
	assert_int_equal(record_get_be32(&m), 0x12345678);
	assert_int_equal(record_get_be64(&m), 0x123456789abcdef0);
	assert_int_equal(record_meta_end(&m, &rec, &err), -EPROTO); /* more to come */
	error_clear(&err);
	record_get_string(&m, text, sizeof(text));
	assert_string_equal(text, "sevenby");
	record_get_string(&m, text, sizeof(text));
	assert_string_equal(text, "");
	assert_int_equal(record_meta_end(&m, &rec, &err), 0);
	assert_int_equal(record_get_be32(&m), 0); /* nothing left */
	assert_true(m.overrun);
	assert_int_equal(record_meta_end(&m, &rec, &err), -EPROTO);
	assert_error(-EPROTO, "X", "metadata");
}

static void meta_strings_are_bounded(void **state)
{
	char text[4] = "???";
	struct record_meta m;
	uint8_t buf[8];

	(void)state;
	record_meta_init(&m, buf, sizeof(buf));
	record_put_string(&m, "four");
	record_meta_init(&m, buf, 6);
	record_get_string(&m, text, sizeof(text)); /* does not fit with its NUL */
	assert_true(m.overrun);
	assert_string_equal(text, "");
	record_meta_init(&m, buf, 5);
	record_get_string(&m, text, sizeof(text)); /* cut short */
	assert_true(m.overrun);
	buf[3] = 0;
	buf[1] = 2;
	record_meta_init(&m, buf, 4);
	record_get_string(&m, text, sizeof(text)); /* a NUL inside */
	assert_true(m.overrun);
	record_meta_init(&m, buf, sizeof(buf));
	record_put_string(&m, "too long");
	assert_true(m.overrun);
}

/* ---- Misuse by the sender ---- */

static void sender_keeps_its_promises(void **state)
{
	(void)state;
	assert_int_equal(record_send(&writer, RECORD_RAM, "", 0, 4096, &err), 0);
	stream_put_buffer(&stream, "short", 5);
	assert_int_equal(record_send(&writer, RECORD_COMMIT, "", 0, 0, &err), -EPROTO);
	assert_error(-EPROTO, "COMMIT", "payload before it");
	error_clear(&err);
	assert_int_equal(record_send(&writer, 4711, "", 0, 0, &err), -EMSGSIZE);
	error_clear(&err);
	assert_int_equal(record_send(&writer, RECORD_RAM, "", 0, RAM_PAYLOAD_MAX + 1, &err),
			 -EMSGSIZE);
	error_clear(&err);
	assert_int_equal(record_send(&writer, RECORD_COMMIT, "", 0, 1, &err), -EMSGSIZE);
}

static void sending_on_a_broken_stream(void **state)
{
	(void)state;
	mem.fail = -EPIPE;
	send_text(RECORD_HELLO, "x");
	assert_int_equal(stream_flush(&stream), -EPIPE);
	assert_int_equal(record_send(&writer, RECORD_HELLO, "x", 1, 0, &err), -EPIPE);
	assert_error(-EPIPE, "mem:", "sending");
}

static void unread_payload_is_refused(void **state)
{
	(void)state;
	assert_int_equal(record_send(&writer, RECORD_RAM, "", 0, 4, &err), 0);
	stream_put_be32(&stream, 0);
	send_text(RECORD_STOPPED, "");
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(record_read(&reader, &rec, &err), 0);
	assert_int_equal(stream_skip(&stream, 3), 0);
	assert_int_equal(record_read(&reader, &rec, &err), -EPROTO);
	assert_error(-EPROTO, "record at byte 35", "payload before it");
	assert_string_equal(err.got, "1 bytes left");
}

/* ---- Hostile headers ---- */

static void one_forged(size_t field, size_t size, uint64_t value, int code, const char *device,
		       const char *name)
{
	rewind_reader();
	forge(0, field, size, value);
	assert_int_equal(record_read(&reader, &rec, &err), code);
	assert_error(code, device, name);
	assert_true(err.expected[0] && err.got[0]);
}

static void forged_headers_are_named(void **state)
{
	uint8_t good[33];

	(void)state;
	send_text(RECORD_HELLO, "x");
	assert_int_equal(stream_flush(&stream), 0);
	memcpy(good, mem.data, sizeof(good));
	one_forged(0, 4, 0x51454d55, -EPROTO, "record at byte 0", "magic");
	memcpy(mem.data, good, sizeof(good));
	one_forged(4, 2, 4711, -EOPNOTSUPP, "unknown record at byte 0", "type");
	assert_string_equal(err.got, "4711");
	memcpy(mem.data, good, sizeof(good));
	one_forged(6, 2, 3, -EPROTO, "HELLO record at byte 0", "flags");
	memcpy(mem.data, good, sizeof(good));
	one_forged(8, 4, 1, -EPROTO, "HELLO record at byte 0", "sequence number");
	assert_string_equal(err.expected, "0");
	assert_string_equal(err.got, "1");
	memcpy(mem.data, good, sizeof(good));
	one_forged(12, 4, 65537, -EPROTO, "HELLO record at byte 0", "metadata length");
	memcpy(mem.data, good, sizeof(good));
	one_forged(12, 4, UINT32_MAX, -EPROTO, "HELLO record at byte 0", "metadata length");
	memcpy(mem.data, good, sizeof(good));
	one_forged(16, 8, 1, -EPROTO, "HELLO record at byte 0", "payload length");
	memcpy(mem.data, good, sizeof(good));
	one_forged(24, 4, 0, -EBADMSG, "HELLO record at byte 0", "metadata checksum");
	memcpy(mem.data, good, sizeof(good));
	/* An unknown optional record has limits too. */
	forge(0, 6, 2, 0);
	forge(0, 4, 2, 4711);
	one_forged(16, 8, UINT64_MAX, -EPROTO, "unknown record at byte 0", "payload length");
}

/* Metadata that a type may not have is refused before memory is taken or a byte of it awaited. */
static void long_metadata_is_not_awaited(void **state)
{
	(void)state;
	send_text(RECORD_MACHINE, "");
	assert_int_equal(stream_flush(&stream), 0);
	forge(0, 12, 4, (4u << 20) + 1);
	mem.end = -ETIMEDOUT;
	assert_int_equal(record_read(&reader, &rec, &err), -EPROTO);
	assert_int_equal(reader.meta_size, 0);
}

/* ---- Damage: every cut and every changed byte of a small stream ---- */

static const struct ram_run zero_run = { 0x2000, 3, RAM_ZERO };

static void small_stream(void)
{
	uint8_t wire[RAM_RUN_WIRE];

	send_text(RECORD_HELLO, "version 1");
	send_text(RECORD_MACHINE, "a tree");
	assert_int_equal(record_send(&writer, RECORD_RAM, wire, ram_runs_encode(&zero_run, 1, wire),
				     0, &err),
			 0);
	send_text(RECORD_PROGRESS, "50 %");
	send_text(RECORD_STATE, "another tree");
	send_text(RECORD_COMMIT, "");
	assert_int_equal(stream_flush(&stream), 0);
}

/* Read all there is. Returns the records read; the code that ended it is in err. */
static int read_all(void)
{
	struct ram_run runs[RAM_RUNS_MAX];
	int n = 0;

	while (!record_read(&reader, &rec, &err)) {
		n++;
		if (rec.type == RECORD_RAM && ram_runs_decode(&rec, runs, &err) < 0)
			break;
	}
	return n;
}

static void cut_after_every_byte(void **state)
{
	size_t whole, starts[7], n = 0;
	char expected[64];

	(void)state;
	small_stream();
	whole = mem.len;
	while (!record_read(&reader, &rec, &err))
		starts[n++] = rec.offset;
	assert_int_equal(n, 6);
	starts[n] = whole;
	for (size_t cut = 0; cut < whole; cut++) {
		int records = 0;

		while (starts[records + 1] <= cut)
			records++;
		mem.len = cut;
		for (size_t step = 0; step < 3; step++) {
			rewind_reader();
			mem.step = step;
			assert_int_equal(read_all(), records);
			if (cut == starts[records]) {
				assert_int_equal(record_read(&reader, &rec, NULL), -ENODATA);
				continue;
			}
			assert_int_equal(err.code, -EPIPE);
			snprintf(expected, sizeof(expected), "after %zu bytes",
				 cut - starts[records] < 32 ? cut - starts[records]
							    : cut - starts[records] - 32);
			assert_non_null(strstr(err.got, expected));
			assert_string_equal(err.field,
					    cut - starts[records] < 32 ? "header" : "metadata");
		}
	}
}

static void every_changed_byte_is_refused(void **state)
{
	size_t whole;

	(void)state;
	small_stream();
	whole = mem.len;
	for (size_t at = 0; at < whole; at++) {
		for (int change = 1; change < 256; change++) {
			rewind_reader();
			mem.data[at] ^= (uint8_t)change;
			if (read_all() == 6)
				fail_msg("byte %zu changed by 0x%02x is not seen", at, change);
			assert_true(err.code == -EPROTO || err.code == -EBADMSG);
			mem.data[at] ^= (uint8_t)change;
		}
	}
	rewind_reader();
	assert_int_equal(read_all(), 6);
}

static void records_cannot_change_places(void **state)
{
	(void)state;
	send_text(RECORD_HELLO, "1");
	send_text(RECORD_HELLO, "2");
	assert_int_equal(stream_flush(&stream), 0);
	memmove(mem.data, mem.data + 33, 33); /* the second comes first */
	assert_int_equal(record_read(&reader, &rec, &err), -EPROTO);
	assert_error(-EPROTO, "HELLO record at byte 0", "sequence number");
}

static void what_the_channel_says_is_passed_on(void **state)
{
	static const int codes[] = { -ETIMEDOUT, -ECANCELED, -ECONNRESET };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		teardown(NULL);
		setup(NULL);
		assert_int_equal(record_send(&writer, RECORD_RAM, "", 0, 8, &err), 0);
		stream_put_be32(&stream, 0);
		assert_int_equal(stream_flush(&stream), 0);
		mem.end = codes[i];
		assert_int_equal(record_read(&reader, &rec, &err), 0);
		assert_int_equal(
			record_payload_result(&reader, &rec, stream_skip(&stream, 8), &err),
			codes[i]);
		assert_error(codes[i], "RAM record at byte 0", "payload");
	}
	assert_string_equal(err.expected, "8 bytes");
	assert_string_equal(err.got, "4 bytes, then Connection reset by peer");
}

/* ---- RAM descriptors ---- */

static void bad_runs_are_refused(void **state)
{
	static const struct {
		struct ram_run run;
		uint64_t payload;
		const char *field;
	} cases[] = {
		{ { 0x1001, 1, RAM_ZERO }, 0, "run 1 gpa" },
		{ { 0x1000, 0, RAM_ZERO }, 0, "run 1 pages" },
		{ { UINT64_MAX - 4095, 2, RAM_ZERO }, 0, "run 1 pages" },
		{ { 0x1000, 1, 0 }, 0, "run 1 kind" },
		{ { 0x1000, 1, RAM_XOR }, 4096, "run 1 kind" },
		{ { 0x1000, 1, 4 }, 0, "run 1 kind" },
		{ { 0x1000, 1, RAM_DATA }, 0, "payload length" },
		{ { 0x1000, 1, RAM_DATA }, 4097, "payload length" },
		{ { 0x1000, 1, RAM_ZERO }, 4096, "payload length" },
		{ { 0x1000, UINT32_MAX, RAM_DATA }, 4096, "payload length" },
	};
	uint8_t wire[RAM_RUNS_MAX * RAM_RUN_WIRE] = { 0 };
	struct ram_run runs[RAM_RUNS_MAX];

	(void)state;
	rec = (struct record){ .type = RECORD_RAM, .meta = wire, .device = "RAM" };
	ram_runs_encode(&zero_run, 1, wire);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ram_runs_encode(&cases[i].run, 1, wire + RAM_RUN_WIRE);
		rec.meta_len = 2 * RAM_RUN_WIRE;
		rec.payload_len = cases[i].payload;
		error_clear(&err);
		assert_int_equal(ram_runs_decode(&rec, runs, &err), -EPROTO);
		assert_error(-EPROTO, "RAM", cases[i].field);
	}
	/* The last page of the address space is a legal place for a run. */
	ram_runs_encode(&(struct ram_run){ UINT64_MAX - 4095, 1, RAM_ZERO }, 1, wire);
	rec.payload_len = 0;
	rec.meta_len = RAM_RUN_WIRE;
	assert_int_equal(ram_runs_decode(&rec, runs, NULL), 1);
	for (int i = 13; i < 16; i++) {
		wire[i] = 1;
		assert_int_equal(ram_runs_decode(&rec, runs, NULL), -EPROTO);
		wire[i] = 0;
	}
	for (uint32_t len = 0; len < 40; len++) {
		rec.meta_len = len;
		if (len != 16)
			assert_int_equal(ram_runs_decode(&rec, runs, NULL), -EPROTO);
	}
	rec.meta_len = (RAM_RUNS_MAX + 1) * RAM_RUN_WIRE;
	assert_int_equal(ram_runs_decode(&rec, runs, NULL), -EPROTO);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_type_round_trips),	    TEST(layout_is_as_documented),
		TEST(large_tree_round_trips),	    TEST(ram_runs_and_payload),
		TEST(unknown_optional_is_skipped),  TEST(meta_fields_round_trip),
		TEST(meta_strings_are_bounded),	    TEST(sender_keeps_its_promises),
		TEST(sending_on_a_broken_stream),   TEST(unread_payload_is_refused),
		TEST(forged_headers_are_named),	    TEST(long_metadata_is_not_awaited),
		TEST(cut_after_every_byte),	    TEST(every_changed_byte_is_refused),
		TEST(records_cannot_change_places), TEST(what_the_channel_says_is_passed_on),
		TEST(bad_runs_are_refused),
	};

	return cmocka_run_group_tests_name("records", tests, NULL, NULL);
}
