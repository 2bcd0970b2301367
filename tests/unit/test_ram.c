/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest RAM from one side to the other: what is sent, what arrives, what is refused. */
#include <stdio.h>
#include <sys/mman.h>

#include "ram-pair.h"

#include <sys/param.h>

#include "migration/untouched.h"

/* Pages of @mem that have memory of their own. */
static uint64_t resident(const struct memory *mem)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < mem->n_regions; i++) {
		uint64_t pages = mem->regions[i].size / PAGE_SIZE;
		unsigned char *vec = malloc(pages);

		assert_return_code(mincore(mem->regions[i].hva, mem->regions[i].size, vec), errno);
		for (uint64_t p = 0; p < pages; p++)
			n += vec[p] & 1;
		free(vec);
	}
	return n;
}

static void all_zero(void **state)
{
	struct pair *t = new_pair(64 * MIB, HOLE, 1UL << 32);

	(void)state;
	begin(t);
	send_round(t, true);
	end(t);
	assert_int_equal(stats(t, 0)->pages_zero, 64 * MIB / PAGE_SIZE);
	assert_int_equal(stats(t, 0)->pages_data, 0);
	assert_in_range(stream_put_position(&t->p[0]->stream), 1, 4096);
	/* Nobody has touched what was zero from the start. */
	assert_int_equal(resident(&t->vm[1]->memory), 0);
	free_pair(t);
}

static void sparse(void **state)
{
	struct pair *t = new_pair(16 * MIB, HOLE, 1UL << 32);
	unsigned int n = 0;

	(void)state;
	for (uint64_t gpa = 0; gpa + PAGE_SIZE <= HOLE; gpa += 7 * PAGE_SIZE, n++)
		memset(memory_hva(&t->vm[0]->memory, gpa + 4095, 1), 0x5a, 1);
	begin(t);
	send_round(t, true);
	end(t);
	assert_int_equal(stats(t, 0)->pages_data, n);
	assert_int_equal(stats(t, 1)->pages_data, n);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	free_pair(t);
}

/* To send what nobody has touched fills no memory, at either side. */
static void untouched_memory_stays_so(void **state)
{
	struct pair *t = new_pair(24 * MIB, 8 * MIB, 1UL << 32);
	int fd = untouched_open(&t->vm[0]->memory);

	(void)state;
	assert_return_code(fd, errno);
	memset(memory_hva(&t->vm[0]->memory, MIB, PAGE_SIZE), 0x5a, PAGE_SIZE);
	begin(t);
	send_round(t, true);
	end(t);
	assert_int_equal(stats(t, 0)->pages_data, 1);
	assert_int_equal(stats(t, 0)->pages_zero, 24 * MIB / PAGE_SIZE - 1);
	for (int side = 0; side < 2; side++) {
		const struct memory_region *r = &t->vm[side]->memory.regions[1];

		assert_false(untouched(fd, t->vm[side]->memory.regions[0].hva, UNTOUCHED_MAX));
		for (uint64_t at = 0; at < r->size; at += UNTOUCHED_MAX)
			assert_true(untouched(fd, (char *)r->hva + at,
					      MIN(UNTOUCHED_MAX, r->size - at)));
	}
	close(fd);
	free_pair(t);
}

/* Odd size, two regions; by reference, and hardly a byte copied on either side. */
static void all_data(void **state)
{
	struct pair *t = new_pair(37 * MIB + 3 * PAGE_SIZE, HOLE, 1UL << 32);
	uint64_t pages = t->vm[0]->memory.size / PAGE_SIZE;

	(void)state;
	fill_random(&t->vm[0]->memory, 1);
	begin(t);
	send_round(t, true);
	end(t);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	for (int side = 0; side < 2; side++) {
		assert_int_equal(stats(t, side)->pages_data, pages);
		assert_true(stats(t, side)->bytes_referenced >= pages * PAGE_SIZE / 1000 * 999);
		assert_in_range(stats(t, side)->bytes_copied, 1, pages * PAGE_SIZE / 1000);
	}
	/* A few MiB a system call. */
	assert_in_range(stats(t, 0)->syscalls, 1, pages * PAGE_SIZE / MIB);
	assert_true(bandwidth_get(&t->save->bandwidth) > 0);
	assert_true(ram_checksum(&t->vm[0]->memory) == ram_checksum(&t->vm[1]->memory));
	*(char *)memory_hva(&t->vm[1]->memory, PAGE_SIZE, 1) ^= 1;
	assert_true(ram_checksum(&t->vm[0]->memory) != ram_checksum(&t->vm[1]->memory));
	free_pair(t);
}

/* Later rounds carry what was written since, and only that; also what has become zero. */
static void rounds(void **state)
{
	struct pair *t = new_pair(8 * MIB, HOLE, 1UL << 32);
	struct memory *mem = &t->vm[0]->memory;
	struct error err = { 0 };
	char zeros[PAGE_SIZE] = { 0 };

	(void)state;
	fill_random(mem, 2);
	assert_int_equal(memory_write(mem, 0x5000, "before", 6), 0);
	begin(t);
	assert_int_equal(ram_save_remaining(t->save), 8 * MIB);
	send_round(t, true);
	assert_int_equal(memory_write(mem, 0x1fff, "ab", 2), 0);
	assert_int_equal(memory_write(mem, 0x7000, zeros, sizeof(zeros)), 0);
	assert_int_equal(memory_write(mem, 1UL << 32, "high", 4), 0);
	assert_int_equal(ram_save_fetch(t->save, &err), 0);
	assert_int_equal(ram_save_remaining(t->save), 4 * PAGE_SIZE);
	send_round(t, true);
	assert_int_equal(stats(t, 0)->pages_data, 8 * MIB / PAGE_SIZE + 3);
	assert_int_equal(stats(t, 0)->pages_zero, 1);
	assert_int_equal(ram_save_fetch(t->save, &err), 0);
	assert_int_equal(ram_save_remaining(t->save), 0);
	end(t);
	assert_same_memory(mem, &t->vm[1]->memory);
	free_pair(t);
}

/* Whatever is written while rounds go on, the last one makes both sides equal. */
static void written_while_sent(void **state)
{
	struct pair *t = new_pair(8 * MIB, HOLE, 1UL << 32);
	struct writer w = { .mem = &t->vm[0]->memory };
	struct error err = { 0 };
	pthread_t thread;

	(void)state;
	begin(t);
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
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	free_pair(t);
}

/* Two regions without a gap between their addresses: a run still ends with its region. */
static void runs_end_with_their_region(void **state)
{
	for (int data = 0; data < 2; data++) {
		struct pair *t = new_pair(8 * MIB, 2 * MIB, 2 * MIB);

		assert_int_equal(t->vm[0]->memory.n_regions, 2);
		if (data)
			fill_random(&t->vm[0]->memory, 3);
		begin(t);
		send_round(t, true);
		end(t);
		assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
		free_pair(t);
	}
	(void)state;
}

static void keeps_the_limit(void **state)
{
	struct pair *t = new_pair(4 * MIB, HOLE, 1UL << 32);
	uint64_t start = now_ns();

	(void)state;
	fill_random(&t->vm[0]->memory, 4);
	t->vm[0]->migration->params.max_bandwidth = 20 * MIB;
	begin(t);
	send_round(t, true);
	assert_in_range(now_ns() - start, 150000000, 5000000000);
	/* The limit is also what there is for an estimate. */
	assert_in_range((uint64_t)bandwidth_get(&t->save->bandwidth), 10 * MIB, 25 * MIB);
	end(t);
	free_pair(t);
}

static void one_iovec_at_a_time(void **state)
{
	struct pair *t = new_pair(4 * MIB, HOLE, 1UL << 32);

	(void)state;
	fill_random(&t->vm[0]->memory, 5);
	stream_set_iov_max(&t->p[0]->stream, 1);
	stream_set_iov_max(&t->p[1]->stream, 1);
	begin(t);
	send_round(t, true);
	end(t);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	free_pair(t);
}

/* A receiver that is slower than the socket's buffer is deep: the estimate is not that of filling
 * the buffer, and what is settled has left it. */
static void slow_receiver(void **state)
{
	struct pair *t = new_pair(4 * MIB, HOLE, 1UL << 32);
	struct error err = { 0 };

	(void)state;
	fill_random(&t->vm[0]->memory, 8);
	memset(t->vm[0]->memory.regions[0].hva, 0, HOLE - 20 * PAGE_SIZE);
	memset(t->vm[0]->memory.regions[1].hva, 0, MIB);
	t->slow = true;
	begin(t);
	send_round(t, true);
	assert_true(channel_pending(t->ch[0]) > 64UL << 10);
	assert_int_equal(ram_save_settle(t->save, &err), 0);
	assert_true(channel_pending(t->ch[0]) <= 64UL << 10);
	assert_in_range((uint64_t)bandwidth_get(&t->save->bandwidth), 1, 2 * MIB);
	end(t);
	free_pair(t);
}

/* Time is up and the switch-over is to be forced: the round ends, what is left stays known. */
static void forced(void **state)
{
	struct pair *t = new_pair(32 * MIB, HOLE, 1UL << 32);
	uint64_t left;

	(void)state;
	fill_random(&t->vm[0]->memory, 6);
	begin(t);
	t->vm[0]->migration->timed_out = true;
	t->vm[0]->migration->params.force = true;
	send_round(t, true);
	left = ram_save_remaining(t->save);
	assert_in_range(left, 8 * MIB, 32 * MIB);
	send_round(t, false);
	end(t);
	assert_same_memory(&t->vm[0]->memory, &t->vm[1]->memory);
	free_pair(t);
}

/* ---- Hostile tables ---- */

static const struct {
	const char *name, *field;
	struct ram_run runs[3];
	unsigned int n;
	uint64_t payload;
} hostile[] = {
	{ "over the end of RAM", "run 0 gpa", { { HOLE - PAGE_SIZE, 2, RAM_DATA } }, 1, 8192 },
	{ "in the hole", "run 0 gpa", { { HOLE, 1, RAM_ZERO } }, 1, 0 },
	{ "far away", "run 0 gpa", { { 1UL << 60, 1, RAM_ZERO } }, 1, 0 },
	{ "wrapping", "run 0 pages", { { -PAGE_SIZE, 2, RAM_ZERO } }, 1, 0 },
	{ "all there is and more", "run 0 gpa", { { 0, UINT32_MAX, RAM_ZERO } }, 1, 0 },
	{ "no pages", "run 1 pages", { { 0, 1, RAM_ZERO }, { 4096, 0, RAM_ZERO } }, 2, 0 },
	{ "unknown kind", "run 0 kind", { { 0, 1, 3 } }, 1, 0 },
	{ "kind 0", "run 0 kind", { { 0, 1, 0 } }, 1, 0 },
	{ "unaligned", "run 0 gpa", { { 0x1001, 1, RAM_ZERO } }, 1, 0 },
	{ "too little payload", "payload length", { { 0, 2, RAM_DATA } }, 1, 4096 },
	{ "too much payload", "payload length", { { 0, 2, RAM_DATA } }, 1, 12288 },
	{ "payload of nothing", "payload length", { { 0, 2, RAM_ZERO } }, 1, 4096 },
	{ "twice the same page",
	  "run 1 gpa",
	  { { 0, 2, RAM_DATA }, { 4096, 1, RAM_ZERO } },
	  2,
	  8192 },
	{ "backwards", "run 1 gpa", { { 8192, 1, RAM_ZERO }, { 0, 1, RAM_ZERO } }, 2, 0 },
	{ "good runs before a bad one",
	  "run 2 gpa",
	  { { 0, 1, RAM_DATA }, { 4096, 1, RAM_ZERO }, { 1UL << 33, 1, RAM_ZERO } },
	  3,
	  4096 },
};

static void hostile_tables(void **state)
{
	uint8_t wire[3 * RAM_RUN_WIRE], payload[3 * PAGE_SIZE];

	(void)state;
	memset(payload, 0xff, sizeof(payload));
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		struct pair *t = new_pair(8 * MIB, HOLE, 1UL << 32);
		struct error err = { 0 };
		struct record rec;
		uint32_t before;

		fill_random(&t->vm[1]->memory, i);
		memory_mark_dirty(&t->vm[1]->memory, 0, HOLE);
		before = ram_checksum(&t->vm[1]->memory);
		assert_int_equal(
			ram_load_init(t->load, t->vm[1]->migration, &t->vm[1]->memory, &err), 0);
		ram_runs_encode(hostile[i].runs, hostile[i].n, wire);
		assert_int_equal(record_send(&t->p[0]->writer, RECORD_RAM, wire,
					     hostile[i].n * RAM_RUN_WIRE, hostile[i].payload, &err),
				 0);
		stream_put_buffer(&t->p[0]->stream, payload, hostile[i].payload);
		assert_int_equal(stream_flush(&t->p[0]->stream), 0);
		assert_int_equal(protocol_receive(t->p[1], &rec, &err), 0);
		if (ram_load_record(t->load, &t->load->table, t->p[1], &rec, &err) != -EPROTO ||
		    strcmp(err.field, hostile[i].field) != 0)
			fail_msg("%s: field %s, got %s", hostile[i].name, err.field, err.got);
		assert_true(ram_checksum(&t->vm[1]->memory) == before);
		free_pair(t);
	}
}

/* A payload that ends early is an error that says so. */
static void cut_payload(void **state)
{
	struct pair *t = new_pair(8 * MIB, HOLE, 1UL << 32);
	struct ram_run run = { 0, 2, RAM_DATA };
	uint8_t wire[RAM_RUN_WIRE], payload[PAGE_SIZE] = { 1 };
	struct error err = { 0 };
	struct record rec;

	(void)state;
	assert_int_equal(ram_load_init(t->load, t->vm[1]->migration, &t->vm[1]->memory, &err), 0);
	ram_runs_encode(&run, 1, wire);
	assert_int_equal(record_send(&t->p[0]->writer, RECORD_RAM, wire, sizeof(wire), 8192, &err),
			 0);
	stream_put_buffer(&t->p[0]->stream, payload, sizeof(payload));
	assert_int_equal(stream_flush(&t->p[0]->stream), 0);
	channel_shutdown(t->ch[0]);
	assert_int_equal(protocol_receive(t->p[1], &rec, &err), 0);
	assert_int_equal(ram_load_record(t->load, &t->load->table, t->p[1], &rec, &err), -EPIPE);
	assert_string_equal(err.field, "payload");
	free_pair(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_zero),
		cmocka_unit_test(sparse),
		cmocka_unit_test(untouched_memory_stays_so),
		cmocka_unit_test(all_data),
		cmocka_unit_test(rounds),
		cmocka_unit_test(written_while_sent),
		cmocka_unit_test(runs_end_with_their_region),
		cmocka_unit_test(keeps_the_limit),
		cmocka_unit_test(one_iovec_at_a_time),
		cmocka_unit_test(slow_receiver),
		cmocka_unit_test(forced),
		cmocka_unit_test(hostile_tables),
		cmocka_unit_test(cut_payload),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
