/* SPDX-License-Identifier: BSD-2-Clause */
/* What a hostile source can say about disks: nothing of it is written anywhere. */
#include "block-fixture.h"

#define B MIRROR_BLOCK

static const struct hostile {
	const char *what, *name;
	struct block_run runs[2];
	unsigned int n;
	uint64_t payload;
	const char *field;
} hostile[] = {
	{ "unknown device", "disk@2", { { 0, B, RAM_DATA } }, 1, B, "device" },
	{ "no name", "", { { 0, B, RAM_DATA } }, 1, B, "device" },
	{ "no runs", "disk@1", { { 0 } }, 0, 0, "metadata" },
	{ "beyond the end", "disk@1", { { BLOCKS * B, B, RAM_DATA } }, 1, B, "run 0 length" },
	{ "far beyond", "disk@1", { { 1ULL << 62, B, RAM_ZERO } }, 1, 0, "run 0 length" },
	{ "past the end", "disk@1", { { SIZE - TAIL + B, B, RAM_DATA } }, 1, B, "run 0 length" },
	{ "one too long", "disk@1", { { 0, SIZE + 1, RAM_ZERO } }, 1, 0, "run 0 length" },
	{ "overflow", "disk@1", { { B, UINT64_MAX - B + 1, RAM_ZERO } }, 1, 0, "run 0 length" },
	{ "overflow of 63 bits", "disk@1", { { B, INT64_MAX, RAM_ZERO } }, 1, 0, "run 0 length" },
	{ "huge offset", "disk@1", { { ~0ULL - B + 1, 1, RAM_ZERO } }, 1, 0, "run 0 length" },
	{ "unaligned", "disk@1", { { 512, B, RAM_DATA } }, 1, B, "run 0 offset" },
	{ "part of a block", "disk@1", { { 0, 512, RAM_DATA } }, 1, 512, "run 0 length" },
	{ "zero length", "disk@1", { { 0, 0, RAM_ZERO } }, 1, 0, "run 0 length" },
	{ "overlap",
	  "disk@1",
	  { { 0, 2 * B, RAM_ZERO }, { B, B, RAM_DATA } },
	  2,
	  B,
	  "run 1 offset" },
	{ "twice", "disk@1", { { B, B, RAM_DATA }, { B, B, RAM_DATA } }, 2, 2 * B, "run 1 offset" },
	{ "order", "disk@1", { { B, B, RAM_DATA }, { 0, B, RAM_DATA } }, 2, 2 * B, "run 1 offset" },
	{ "kind 0", "disk@1", { { 0, B, 0 } }, 1, 0, "run 0 kind" },
	{ "kind 3", "disk@1", { { 0, B, 3 } }, 1, 0, "run 0 kind" },
	{ "less payload", "disk@1", { { 0, B, RAM_DATA } }, 1, B - 1, "payload length" },
	{ "more payload", "disk@1", { { 0, B, RAM_ZERO } }, 1, B, "payload length" },
	/* Good first, so that what is bad later must have been seen before. */
	{ "second bad",
	  "disk@1",
	  { { 0, B, RAM_ZERO }, { 7 * B, B, RAM_ZERO } },
	  2,
	  0,
	  "run 1 length" },
};

static void send_raw(struct ends *e, const uint8_t *wire, size_t len, uint64_t payload)
{
	static const uint8_t junk[2 * B];

	assert_int_equal(protocol_send(&e->p[0], RECORD_BLOCK, wire, len, payload, false, &e->err),
			 0);
	stream_put_buffer(&e->p[0].stream, junk, payload);
	assert_int_equal(protocol_flush(&e->p[0], &e->err), 0);
}

static void refused(struct ends *e, const char *what, const char *field)
{
	if (receive(e) != -EPROTO || strcmp(e->err.field, field) != 0)
		fail_msg("%s: code %d, field '%s' instead of '%s'", what, e->err.code, e->err.field,
			 field);
	for (size_t i = 0; i < SIZE; i++)
		assert_int_equal(e->to->data[i], 0xff);
}

static void hostile_runs(void **state)
{
	uint8_t wire[BLOCK_META_MAX];

	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		const struct hostile *h = &hostile[i];
		struct ends *e = *state;

		begin(e, BLOCK_PAYLOAD_MAX);
		send_raw(e, wire, block_runs_encode(h->name, h->runs, h->n, wire), h->payload);
		refused(e, h->what, h->field);
		teardown(state);
		setup(state);
	}
}

/* What block_runs_encode would not write: @change is done to good metadata of @len bytes. */
static void damaged(void **state, const char *what, size_t at, uint8_t value, size_t len,
		    const char *field)
{
	const struct block_run run = { 0, B, RAM_ZERO };
	struct ends *e = *state;
	uint8_t wire[BLOCK_META_MAX] = { 0 };

	begin(e, BLOCK_PAYLOAD_MAX);
	assert_int_equal(block_runs_encode("disk@1", &run, 1, wire), 8 + BLOCK_RUN_WIRE);
	wire[at] = value;
	send_raw(e, wire, len, 0);
	refused(e, what, field);
	for (const char *c = e->err.got; *c; c++)
		assert_true(*c >= ' ');
	teardown(state);
	setup(state);
}

static void hostile_bytes(void **state)
{
	size_t len = 8 + BLOCK_RUN_WIRE;

	damaged(state, "reserved", len - 1, 1, len, "run 0 reserved bytes");
	damaged(state, "reserved", len - 7, 0x80, len, "run 0 reserved bytes");
	damaged(state, "half a run", 0, 0, len - 1, "metadata");
	damaged(state, "half a name", 1, 200, len, "metadata");
	damaged(state, "a name too long", 1, 64, BLOCK_META_MAX, "metadata");
	damaged(state, "a NUL in the name", 4, 0, len, "metadata");
	damaged(state, "nothing", 0, 0, 0, "metadata");
	damaged(state, "a name that rings", 3, 7, len, "device");
	damaged(state, "too much at the end", 0, 0, len + 5, "metadata");
}

static void payload_that_does_not_come(void **state)
{
	const struct block_run run = { 0, B, RAM_DATA };
	struct ends *e = *state;
	uint8_t wire[BLOCK_META_MAX];

	begin(e, BLOCK_PAYLOAD_MAX);
	send_raw(e, wire, block_runs_encode("disk@1", &run, 1, wire), B);
	e->mem.len -= 100;
	assert_int_equal(receive(e), -EPIPE);
	assert_int_equal(e->to->data[0], 0xff);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(hostile_runs),
		T(hostile_bytes),
		T(payload_that_does_not_come),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
