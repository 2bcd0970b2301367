/* SPDX-License-Identifier: BSD-2-Clause */
/* Disks on their way: what is written while they are copied, errors, and whole migrations. */
#include "block-fixture.h"

#include "migration/crc32c.h"

static void whole_disk(void **state)
{
	struct ends *e = *state;
	const struct migration_stats *stats = &e->m[1].stats;

	memset(e->from->data + MIRROR_BLOCK, 0, 3 * MIRROR_BLOCK);
	e->from->hole_from = 2;
	e->from->hole_to = 4;
	begin(e, BLOCK_PAYLOAD_MAX);
	send_round(e, true);
	assert_int_equal(e->from->reads, BLOCKS + 1 - 2); /* holes are not read */
	assert_int_equal(e->save.dirty, 0);
	assert_int_equal(receive(e), 1);
	same_disks(e);
	assert_int_equal(stats->disk_zero, 3 * MIRROR_BLOCK);
	assert_int_equal(stats->disk_data, SIZE - 3 * MIRROR_BLOCK);
	assert_int_equal(stats->disk_total, SIZE);
	assert_int_equal(e->m[0].stats.disk_data, stats->disk_data);
	assert_int_equal(e->m[0].stats.disk_zero, stats->disk_zero);
	/* Nothing written, nothing to send. */
	block_save_fetch(&e->save);
	send_round(e, true);
	assert_int_equal(receive(e), 0);
	assert_int_equal(block_load_finish(&e->load, &e->err), 0);
	assert_true(e->to->syncs == 1 && e->to->closed);
}

/* A destination that takes little at a time. */
static void several_records(void **state)
{
	struct ends *e = *state;

	begin(e, 2 * MIRROR_BLOCK + 1);
	send_round(e, true);
	assert_int_equal(receive(e), (BLOCKS + 2) / 2);
	same_disks(e);
}

/* The limit holds, and is kept by small records; not any more when the guest is paused. */
static void limited_bandwidth(void **state)
{
	struct ends *e = *state;
	uint64_t start;

	begin(e, BLOCK_PAYLOAD_MAX);
	e->m[0].params.max_bandwidth = 40 * MIRROR_BLOCK;
	start = now_ns();
	send_round(e, true);
	assert_true(now_ns() - start > 80000000); /* 6 blocks at 40 a second, less a burst */
	assert_int_equal(receive(e), (BLOCKS + 2) / 2);
	for (unsigned int b = 0; b <= BLOCKS; b++)
		guest_writes(e->from, b, 9);
	block_save_fetch(&e->save);
	send_round(e, false);
	assert_int_equal(receive(e), 1);
	same_disks(e);
}

/* Every block, written while every block is read, also while it is read itself. */
static void written_while_it_is_read(void **state)
{
	struct ends *e = *state;

	begin(e, BLOCK_PAYLOAD_MAX);
	send_round(e, true);
	for (int during = 0; during <= BLOCKS; during++) {
		for (int written = 0; written <= BLOCKS; written++) {
			for (unsigned int b = 0; b <= BLOCKS; b++)
				guest_writes(e->from, b, (uint8_t)(during * 16 + written));
			e->from->during = during;
			e->from->written = written;
			block_save_fetch(&e->save);
			assert_int_equal(block_save_total(&e->save, &e->ram), SIZE);
			send_round(e, true);
			block_save_fetch(&e->save);
			assert_int_equal(e->save.dirty, written < BLOCKS ? MIRROR_BLOCK : TAIL);
			send_round(e, false);
			assert_in_range(receive(e), 2, 3);
			same_disks(e);
		}
	}
}

/* What becomes zero is zero there too. */
static void zeroes_replace_data(void **state)
{
	struct ends *e = *state;

	begin(e, BLOCK_PAYLOAD_MAX);
	send_round(e, true);
	guest_writes(e->from, 0, 0);
	guest_writes(e->from, BLOCKS, 0);
	block_save_fetch(&e->save);
	send_round(e, true);
	assert_int_equal(receive(e), 2);
	same_disks(e);
	assert_int_equal(e->m[1].stats.disk_zero, MIRROR_BLOCK + TAIL);
	/* Almost zero is not zero, wherever it differs. */
	e->from->data[MIRROR_BLOCK - 1] = 1;
	e->from->data[SIZE - 1] = 1;
	e->from->noted = 1 | 1ULL << BLOCKS;
	block_save_fetch(&e->save);
	send_round(e, true);
	assert_int_equal(receive(e), 1);
	same_disks(e);
}

static void forced_and_cancelled(void **state)
{
	struct ends *e = *state;

	begin(e, 2 * MIRROR_BLOCK);
	e->m[0].params.force = true;
	e->m[0].timed_out = true;
	send_round(e, true);
	assert_int_equal(e->save.dirty, SIZE);
	send_round(e, false); /* the guest is paused: all of it */
	assert_int_equal(e->save.dirty, 0);
	receive(e);
	same_disks(e);
	guest_writes(e->from, 1, 9);
	block_save_fetch(&e->save);
	e->m[0].timed_out = false;
	e->m[0].cancelled = true;
	assert_int_equal(block_save_round(&e->save, true, &e->err), -ECANCELED);
}

static void estimate(void **state)
{
	struct ends *e = *state;

	begin(e, BLOCK_PAYLOAD_MAX);
	assert_true(block_save_total_ns(&e->save, &e->ram) == UINT64_MAX);
	bandwidth_add(&e->save.bandwidth, 1000000, BANDWIDTH_WINDOW_NS); /* 20 MB/s */
	assert_int_equal(block_save_total_ns(&e->save, &e->ram) / 1000000, SIZE / 20000);
	/* Both are counted, and disks are not taken to be faster than RAM. */
	bandwidth_add(&e->ram.bandwidth, 500000, BANDWIDTH_WINDOW_NS);
	e->ram.dirty = 16;
	assert_int_equal(block_save_total(&e->save, &e->ram), SIZE + 16 * PAGE_SIZE);
	assert_int_equal(block_save_total_ns(&e->save, &e->ram) / 1000000,
			 (SIZE + 16 * PAGE_SIZE) / 10000);
}

static void errors_of_disks(void **state)
{
	struct ends *e = *state;

	begin(e, BLOCK_PAYLOAD_MAX);
	send_round(e, true);
	e->to->fail = -ENOSPC;
	assert_int_equal(receive(e), -ENOSPC);
	assert_string_equal(e->err.device, "disk@1");
	error_clear(&e->err);
	guest_writes(e->from, 2, 9);
	block_save_fetch(&e->save);
	e->from->fail = -EIO;
	assert_int_equal(block_save_round(&e->save, true, &e->err), -EIO);
	assert_string_equal(e->err.device, "disk@1");
}

static void an_older_destination(void **state)
{
	struct ends *e = *state;

	assert_int_equal(block_save_init(&e->save, &e->m[0], &e->p[0], &e->ram, 0, &e->err),
			 -EOPNOTSUPP);
	assert_string_equal(e->err.field, "block-record-max");
}

static void checksums(void **state)
{
	struct ends *e = *state;
	struct message m;
	const void *fdt;

	begin(e, BLOCK_PAYLOAD_MAX);
	send_round(e, true);
	receive(e);
	message_begin(&m);
	assert_int_equal(block_save_checksums(&e->save, &m, &e->err), 0);
	fdt = message_end(&m);
	assert_int_equal(message_get_u64(fdt, "disk-crc-disk@1", 0),
			 crc32c(0, e->from->data, SIZE));
	block_load_stopped(&e->load, fdt);
	assert_int_equal(block_load_finish(&e->load, &e->err), 0);
	e->to->closed = false;
	e->to->data[SIZE - 1] ^= 1;
	assert_int_equal(block_load_finish(&e->load, &e->err), -EBADMSG);
	assert_string_equal(e->err.device, "disk@1");
	assert_string_equal(e->err.field, "checksum");
	assert_false(e->to->closed);
}

/* ---- Whole migrations ---- */

static struct memdisk *disk_of(struct vm *vm)
{
	return memdisk(vm->devices->next);
}

static int realize_with_disk(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	int ret = fake_realize(vm, fdt, incoming, err);

	if (ret == 0)
		vm->devices->next = &new_memdisk(vm, "disk@1")->dev;
	return ret;
}

static int realize_with_busy_disk(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	int ret = realize_with_disk(vm, fdt, incoming, err);

	if (ret == 0)
		disk_of(vm)->fail = -EBUSY;
	return ret;
}

static void stop_loop(struct migration *m, int ret)
{
	(void)ret;
	loop_stop(m->vm->loop);
}

static void *run_loop(void *opaque)
{
	loop_run(((struct vm *)opaque)->loop);
	return NULL;
}

static void migrate(struct vm *from, struct vm *to, bool mirror)
{
	struct error err = { 0 };
	const char *bound;
	pthread_t thread;

	assert_int_equal(destination_start(to, "tcp:127.0.0.1:0", &bound, &err), 0);
	to->migration->ended = stop_loop;
	migration_get(from)->params.verify = true;
	from->migration->params.mirror = mirror;
	assert_int_equal(source_start(from, bound, &err), 0);
	from->migration->ended = stop_loop;
	assert_int_equal(pthread_create(&thread, NULL, run_loop, to), 0);
	loop_run(from->loop);
	pthread_join(thread, NULL);
}

static struct vm *source_with_disk(void)
{
	struct vm *vm = new_source(2 * MIB);

	vm->devices->next = &new_memdisk(vm, "disk@1")->dev;
	for (unsigned int b = 0; b <= BLOCKS; b++)
		guest_writes(disk_of(vm), b, (uint8_t)(b % 3));
	disk_of(vm)->during = 4;
	disk_of(vm)->written = 4;
	return vm;
}

static void crosses(void **state)
{
	(void)state;
	for (int mirror = 0; mirror < 2; mirror++) {
		struct vm *from = source_with_disk(), *to = new_destination();

		to->migration->realize = realize_with_disk;
		migrate(from, to, mirror);
		assert_int_equal(from->state, VM_POSTMIGRATE);
		assert_int_equal(to->state, VM_RUNNING);
		assert_false(disk_of(from)->tracked);
		assert_int_equal(disk_of(to)->closed, mirror);
		assert_int_equal(disk_of(to)->opened, mirror);
		assert_int_equal(memcmp(disk_of(from)->data, disk_of(to)->data, SIZE) == 0, mirror);
		assert_int_equal(from->migration->stats.disk_total, mirror ? SIZE : 0);
		vm_destroy(from);
		vm_destroy(to);
	}
}

static void a_disk_in_use_is_refused_before_RAM_is_sent(void **state)
{
	struct vm *from = source_with_disk(), *to = new_destination();

	(void)state;
	to->migration->realize = realize_with_busy_disk;
	migrate(from, to, true);
	assert_int_equal(from->state, VM_RUNNING);
	assert_int_equal(from->migration->error.code, -EBUSY);
	assert_string_equal(from->migration->error.device, "disk@1");
	assert_int_equal(from->migration->stats.records, 0);
	assert_false(disk_of(from)->tracked);
	vm_destroy(from);
	vm_destroy(to);
}

static void not_to_a_file(void **state)
{
	struct vm *from = source_with_disk();
	struct error err = { 0 };

	(void)state;
	migration_get(from)->params.mirror = true;
	assert_int_equal(source_start(from, "file:/nonexistent/file", &err), -EINVAL);
	assert_string_equal(err.field, "blk");
	vm_destroy(from);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(whole_disk),
		T(several_records),
		T(limited_bandwidth),
		T(written_while_it_is_read),
		T(zeroes_replace_data),
		T(forced_and_cancelled),
		T(estimate),
		T(errors_of_disks),
		T(an_older_destination),
		T(checksums),
		cmocka_unit_test(crosses),
		cmocka_unit_test(a_disk_in_use_is_refused_before_RAM_is_sent),
		cmocka_unit_test(not_to_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
