/* SPDX-License-Identifier: BSD-2-Clause */
/* RAM that crosses compressed: what arrives, when it is chosen, what is refused. */
#include <stdio.h>

#include <zstd.h>

#include "ram-pair.h"

/* Pages that get smaller, no two alike. */
static void fill_text(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->n_regions; i++) {
		uint32_t *words = mem->regions[i].hva;

		for (uint64_t w = 0; w < mem->regions[i].size / sizeof(*words); w++)
			words[w] = (uint32_t)(w & 7 ? w / 64 : w * 2654435761u);
	}
}

static void begin_zipped(struct pair *t, enum compress_mode mode)
{
	struct error err = { 0 };

	t->vm[0]->migration->params.compress = mode;
	begin(t);
	assert_int_equal(ram_save_compress(t->save, ZSTD_WITH_XOR, &err), 0);
}

static void crosses(void **state)
{
	struct pair *t = new_pair(37 * MIB + 3 * PAGE_SIZE, HOLE, 1UL << 32);
	uint64_t pages = t->vm[0]->memory.size / PAGE_SIZE;

	(void)state;
	fill_text(&t->vm[0]->memory);
	begin_zipped(t, COMPRESS_ON);
	send_round(t, true);
	end(t);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	assert_int_equal(stats(t, 0)->pages_data, pages);
	assert_int_equal(stats(t, 1)->pages_data, pages);
	assert_int_equal(stats(t, 0)->zipped_pages, pages);
	assert_in_range(stats(t, 0)->zipped_bytes, 1, pages * PAGE_SIZE / 2);
	assert_in_range(stats(t, 0)->bytes_xfer, stats(t, 0)->zipped_bytes,
			stats(t, 0)->zipped_bytes + 65536);
	free_pair(t);
}

/* Runs with holes between them, and zero pages among them. */
static void crosses_in_pieces(void **state)
{
	struct pair *t = new_pair(8 * MIB, HOLE, 1UL << 32);

	(void)state;
	fill_text(&t->vm[0]->memory);
	for (uint64_t gpa = 0; gpa + 3 * PAGE_SIZE < HOLE; gpa += 5 * PAGE_SIZE)
		memset(memory_hva(&t->vm[0]->memory, gpa, PAGE_SIZE), 0, PAGE_SIZE);
	begin_zipped(t, COMPRESS_ON);
	send_round(t, true);
	end(t);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	assert_true(stats(t, 0)->pages_zero > 100);
	assert_int_equal(stats(t, 0)->pages_zero, stats(t, 1)->pages_zero);
	free_pair(t);
}

/* What does not get smaller goes as it is. */
static void random_bytes_stay(void **state)
{
	struct pair *t = new_pair(8 * MIB, HOLE, 1UL << 32);

	(void)state;
	fill_random(&t->vm[0]->memory, 1);
	begin_zipped(t, COMPRESS_ON);
	send_round(t, true);
	end(t);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	assert_int_equal(stats(t, 0)->zipped_pages, 0);
	assert_int_equal(stats(t, 0)->pages_data, 8 * MIB / PAGE_SIZE);
	free_pair(t);
}

/* The guest writes to what is being compressed. */
static void written_meanwhile(void **state)
{
	struct pair *t = new_pair(8 * MIB, HOLE, 1UL << 32);
	struct writer w = { .mem = &t->vm[0]->memory };
	struct error err = { 0 };
	pthread_t thread;

	(void)state;
	fill_text(&t->vm[0]->memory);
	begin_zipped(t, COMPRESS_ON);
	assert_int_equal(pthread_create(&thread, NULL, write_wildly, &w), 0);
	for (int i = 0; i < 20; i++) {
		send_round(t, true);
		assert_int_equal(ram_save_fetch(t->save, &err), 0);
	}
	w.stop = true;
	pthread_join(thread, NULL);
	assert_int_equal(ram_save_fetch(t->save, &err), 0);
	send_round(t, false);
	end(t);
	assert_true(stats(t, 0)->zipped_pages > 0);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	free_pair(t);
}

/* The rate limit is one of bytes on the wire, so more of RAM fits in; auto finds that out. */
static void wins_under_a_limit(void **state)
{
	struct pair *t = new_pair(24 * MIB, HOLE, 1UL << 32);

	(void)state;
	fill_text(&t->vm[0]->memory);
	t->vm[0]->migration->params.max_bandwidth = 20 * MIB;
	begin_zipped(t, COMPRESS_AUTO);
	send_round(t, true);
	end(t);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	assert_true(stats(t, 0)->zipped_pages > 12 * MIB / PAGE_SIZE);
	/* Plainly it would be 1.2 s. */
	assert_in_range(stats(t, 0)->send_ns, 1, 1000000000);
	free_pair(t);
}

static void destination_without_it(void **state)
{
	struct pair *t = new_pair(4 * MIB, HOLE, 1UL << 32);
	struct error err = { 0 };

	(void)state;
	fill_text(&t->vm[0]->memory);
	t->vm[0]->migration->params.compress = COMPRESS_AUTO;
	begin(t);
	assert_int_equal(ram_save_compress(t->save, 0, &err), 0);
	t->vm[0]->migration->params.compress = COMPRESS_ON;
	assert_int_equal(ram_save_compress(t->save, 0, &err), -EOPNOTSUPP);
	assert_string_equal(err.field, "zstd");
	send_round(t, true);
	end(t);
	assert_int_equal(stats(t, 0)->zipped_pages, 0);
	free_pair(t);
}

/* ---- The choice ---- */

struct link {
	double wire, zip, ratio; /* ns a byte, ns a byte, part that is left */
	double hidden;		 /* part of the shorter one that the longer one hides */
};

static double zipped_ns(const struct link *l)
{
	double sending = l->ratio * l->wire;
	double shorter = l->zip < sending ? l->zip : sending;

	return l->zip + sending - l->hidden * shorter;
}

/* Send @records of 4 MiB over @link; how many of them went compressed. */
static unsigned int play(struct compress_choice *c, const struct link *l, unsigned int records)
{
	const double bytes = 4 * MIB, sample = MIB / 4;
	unsigned int n = 0;

	for (unsigned int i = 0; i < records; i++) {
		enum compress_what what = compress_choose(c);
		bool all = what == COMPRESS_ALL;
		double raw = all ? bytes : sample;

		if (what != COMPRESS_NOTHING)
			compress_was(c, (uint64_t)raw, (uint64_t)(raw * l->ratio),
				     (uint64_t)(raw * l->zip));
		compress_sent(c, all, 4 * MIB, (uint64_t)(bytes * (all ? zipped_ns(l) : l->wire)));
		n += all;
	}
	return n;
}

static void choice(void **state)
{
	const struct link gigabit = { 8.5, 5, 0.4, 1 }, loopback = { 0.5, 2.5, 0.4, 1 };
	const struct link dense = { 8.5, 2.5, 0.99, 1 }, unbuffered = { 8.5, 6, 0.5, 0 };
	struct compress_choice c = { 0 };

	(void)state;
	assert_in_range(play(&c, &gigabit, 1000), 900, 999);
	/* Another link: seen within as many records as pass between two tries. */
	play(&c, &loopback, 2000);
	assert_int_equal(play(&c, &loopback, 5000), 0);
	play(&c, &gigabit, 2000);
	assert_in_range(play(&c, &gigabit, 1000), 900, 999);
	play(&c, &dense, 2000);
	assert_int_equal(play(&c, &dense, 5000), 0);
	/* It promises what it does not keep. */
	play(&c, &unbuffered, 2000);
	assert_in_range(play(&c, &unbuffered, 5000), 1, 100);
}

/* A last round of a few pages tells nothing of the link, nor of what compressing costs. */
static void choice_of_little(void **state)
{
	const struct link gigabit = { 8.5, 2.5, 0.4, 1 };
	struct compress_choice c = { 0 };

	(void)state;
	play(&c, &gigabit, 100);
	for (int i = 0; i < 100; i++) {
		compress_was(&c, PAGE_SIZE, PAGE_SIZE, 1000000);
		compress_sent(&c, true, PAGE_SIZE, 10000);
	}
	assert_true(c.ratio < 0.5 && c.zip_ns < 3 && c.zipped_ns < 8.5);
}

/* ---- Hostile payloads ---- */

#define FRAME_PAGES 3

/* What the destination says to @len bytes as the payload of pages [0, 2) and [4, 5), the
 * last one of @kind. */
static int load_kind(const void *payload, size_t len, enum ram_kind kind, struct error *err)
{
	const struct ram_run runs[] = { { 0, 2, RAM_DATA }, { 4 * PAGE_SIZE, 1, (uint8_t)kind } };
	struct pair *t = new_pair(2 * MIB, HOLE, 1UL << 32);
	uint8_t wire[2 * RAM_RUN_WIRE];
	struct record rec;
	int ret;

	assert_int_equal(ram_load_init(t->load, t->vm[1]->migration, &t->vm[1]->memory, err), 0);
	ram_runs_encode(runs, 2, wire);
	assert_int_equal(
		record_send(&t->p[0]->writer, RECORD_RAM_ZSTD, wire, sizeof(wire), len, err), 0);
	stream_put_buffer(&t->p[0]->stream, payload, len);
	assert_int_equal(stream_flush(&t->p[0]->stream), 0);
	assert_int_equal(protocol_receive(t->p[1], &rec, err), 0);
	ret = ram_load_record(t->load, &t->load->table, t->p[1], &rec, err);
	/* Nothing but what was named is ever written. */
	for (uint64_t gpa = 0; gpa < 2 * MIB; gpa += PAGE_SIZE) {
		if (gpa < 2 * PAGE_SIZE || gpa == 4 * PAGE_SIZE)
			continue;
		for (size_t i = 0; i < PAGE_SIZE; i++)
			assert_int_equal(*(uint8_t *)memory_hva(&t->vm[1]->memory, gpa + i, 1), 0);
	}
	free_pair(t);
	return ret;
}

static int load(const void *payload, size_t len, struct error *err)
{
	struct error other = { 0 };
	int ret;

	error_clear(err);
	ret = load_kind(payload, len, RAM_DATA, err);
	assert_int_equal(load_kind(payload, len, RAM_XOR, &other), ret);
	assert_string_equal(other.got, err->got);
	return ret;
}

static size_t frame(uint8_t *out, size_t size, size_t bytes)
{
	static uint8_t in[8 * PAGE_SIZE];
	size_t ret;

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i / 37 * 7);
	ret = ZSTD_compress(out, size, in, bytes, 1);
	assert_false(ZSTD_isError(ret));
	return ret;
}

static void hostile_frames(void **state)
{
	uint8_t good[PAGE_SIZE * FRAME_PAGES], bad[sizeof(good)];
	size_t len = frame(good, sizeof(good), FRAME_PAGES * PAGE_SIZE), n;
	struct error err = { 0 };

	(void)state;
	assert_int_equal(load(good, len, &err), 0);
	for (size_t cut = 1; cut < len; cut++) {
		assert_int_equal(load(good, cut, &err), -EPROTO);
		assert_string_equal(err.field, "payload");
	}
	for (size_t i = 0; i < len; i++) {
		memcpy(bad, good, len);
		bad[i] ^= (uint8_t)(1u << i % 8);
		/* There is no checksum: it may be another page, but never other places. */
		if (load(bad, len, &err) != 0)
			assert_string_equal(err.field, "payload");
	}
	memcpy(bad, good, len);
	bad[len] = 0;
	assert_int_equal(load(bad, len + 1, &err), -EPROTO);
	for (size_t pages = 1; pages < 8; pages++) {
		n = frame(bad, sizeof(bad), pages * PAGE_SIZE);
		assert_int_equal(load(bad, n, &err), pages == FRAME_PAGES ? 0 : -EPROTO);
	}
	n = frame(bad, sizeof(bad), FRAME_PAGES * PAGE_SIZE - 1);
	assert_int_equal(load(bad, n, &err), -EPROTO);
	/* Two frames of what should be in one. */
	n = frame(bad, sizeof(bad), 2 * PAGE_SIZE);
	n += frame(bad + n, sizeof(bad) - n, PAGE_SIZE);
	assert_int_equal(load(bad, n, &err), -EPROTO);
}

/* A frame that asks for more memory than any of ours. */
static void hostile_window(void **state)
{
	uint8_t in[FRAME_PAGES * PAGE_SIZE] = { 1 }, out[sizeof(in)];
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	ZSTD_inBuffer from = { in, sizeof(in), 0 };
	ZSTD_outBuffer to = { out, sizeof(out), 0 };
	struct error err = { 0 };

	(void)state;
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, 27);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, 0);
	assert_int_equal(ZSTD_compressStream2(zstd, &to, &from, ZSTD_e_flush), 0);
	assert_int_equal(ZSTD_compressStream2(zstd, &to, &from, ZSTD_e_end), 0);
	assert_int_equal(load(out, to.pos, &err), -EPROTO);
	assert_non_null(strstr(err.got, "memory"));
	ZSTD_freeCCtx(zstd);
}

/* Lengths that no honest source says, before any byte of payload is read. */
static void hostile_lengths(void **state)
{
	const struct {
		uint32_t pages;
		uint64_t payload;
		enum ram_kind kind;
	} cases[] = {
		{ 1, 0, RAM_DATA },    { 1, 4096, RAM_DATA }, { 1, 5000, RAM_DATA },
		{ 1025, 1, RAM_DATA }, { 1, 1, RAM_ZERO },    { UINT32_MAX, 1, RAM_DATA },
		{ 1, 0, RAM_XOR },     { 1, 4096, RAM_XOR },  { 1025, 1, RAM_XOR },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ram_run run = { 0, cases[i].pages, (uint8_t)cases[i].kind }, runs[1];
		uint8_t wire[RAM_RUN_WIRE];
		struct error err = { 0 };
		struct record rec = { .type = RECORD_RAM_ZSTD,
				      .meta = wire,
				      .meta_len = (uint32_t)ram_runs_encode(&run, 1, wire),
				      .payload_len = cases[i].payload };

		assert_int_equal(ram_runs_decode(&rec, runs, &err), -EPROTO);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crosses),
		cmocka_unit_test(crosses_in_pieces),
		cmocka_unit_test(random_bytes_stay),
		cmocka_unit_test(written_meanwhile),
		cmocka_unit_test(wins_under_a_limit),
		cmocka_unit_test(destination_without_it),
		cmocka_unit_test(choice),
		cmocka_unit_test(choice_of_little),
		cmocka_unit_test(hostile_frames),
		cmocka_unit_test(hostile_window),
		cmocka_unit_test(hostile_lengths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
