/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks on their way, between devices that are no more than memory: what is written while they are
 * copied, what a hostile source says, and whole migrations.
 */
#include "migration-fixture.h"

#include <stdio.h>

#include "memchannel.h"
#include "migration/block.h"
#include "migration/crc32c.h"

#define BLOCKS 6
#define TAIL   1536 /* of a last block that is not whole */
#define SIZE   (BLOCKS * MIRROR_BLOCK + TAIL)
#define WORDS  1

/* ---- A disk that is memory ---- */

struct memdisk {
	struct device dev;
	uint8_t data[SIZE];
	uint64_t noted;
	bool tracked, opened, closed;
	unsigned int reads, syncs;
	int fail; /* negative errno of open, read and write */
	/* While block @during is read, but behind what is read, the guest writes to @written. */
	int during, written;
	unsigned int hole_from, hole_to; /* blocks */
};

static struct memdisk *memdisk(struct device *dev)
{
	return (struct memdisk *)dev;
}

static int failed(struct device *dev, struct error *err)
{
	int code = memdisk(dev)->fail;

	return code ? error_set(err, code, "mirror", dev->name, "", "", "%s", strerror(-code)) : 0;
}

static uint64_t memdisk_size(struct device *dev)
{
	(void)dev;
	return SIZE;
}

static int memdisk_track(struct device *dev, struct error *err)
{
	(void)err;
	memdisk(dev)->tracked = true;
	memdisk(dev)->noted = 0;
	return 0;
}

static void memdisk_untrack(struct device *dev)
{
	memdisk(dev)->tracked = false;
}

static void memdisk_fetch(struct device *dev, uint64_t *bitmap)
{
	assert_true(memdisk(dev)->tracked);
	*bitmap |= memdisk(dev)->noted;
	memdisk(dev)->noted = 0;
}

static uint64_t memdisk_next_data(struct device *dev, uint64_t offset)
{
	uint64_t block = offset / MIRROR_BLOCK;

	return block >= memdisk(dev)->hole_from && block < memdisk(dev)->hole_to
		       ? memdisk(dev)->hole_to * MIRROR_BLOCK
		       : offset;
}

static void guest_writes(struct memdisk *disk, unsigned int block, uint8_t value)
{
	memset(disk->data + block * MIRROR_BLOCK, value, block < BLOCKS ? MIRROR_BLOCK : TAIL);
	if (disk->tracked)
		disk->noted |= 1ULL << block;
}

static int memdisk_read(struct device *dev, uint64_t offset, void *buf, size_t len,
			struct error *err)
{
	struct memdisk *disk = memdisk(dev);

	assert_true(offset <= SIZE && len <= SIZE - offset);
	memcpy(buf, disk->data + offset, len);
	disk->reads++;
	if (disk->during == (int)(offset / MIRROR_BLOCK)) {
		guest_writes(disk, (unsigned int)disk->written, 0x77);
		disk->during = -1;
	}
	return failed(dev, err);
}

static int memdisk_open(struct device *dev, struct error *err)
{
	memdisk(dev)->opened = !memdisk(dev)->fail;
	return failed(dev, err);
}

static int memdisk_write(struct device *dev, uint64_t offset, const void *buf, size_t len,
			 struct error *err)
{
	assert_true(memdisk(dev)->opened);
	assert_true(offset <= SIZE && len <= SIZE - offset);
	memcpy(memdisk(dev)->data + offset, buf, len);
	return failed(dev, err);
}

static int memdisk_zero(struct device *dev, uint64_t offset, uint64_t len, struct error *err)
{
	assert_true(memdisk(dev)->opened);
	assert_true(offset <= SIZE && len <= SIZE - offset);
	memset(memdisk(dev)->data + offset, 0, len);
	return failed(dev, err);
}

static int memdisk_sync(struct device *dev, struct error *err)
{
	(void)err;
	memdisk(dev)->syncs++;
	return 0;
}

static int memdisk_close(struct device *dev, struct error *err)
{
	(void)err;
	memdisk(dev)->closed = true;
	return 0;
}

static const struct block_ops memdisk_ops = {
	.size = memdisk_size,
	.track = memdisk_track,
	.untrack = memdisk_untrack,
	.fetch = memdisk_fetch,
	.next_data = memdisk_next_data,
	.read = memdisk_read,
	.open = memdisk_open,
	.write = memdisk_write,
	.zero = memdisk_zero,
	.sync = memdisk_sync,
	.close = memdisk_close,
};

static void no_unrealize(struct device *dev)
{
	(void)dev;
}

static const struct device_class memdisk_class = {
	.name = "memdisk",
	.compatible = "ferry,test-memdisk",
	.stage = STAGE_DEVICE,
	.size = sizeof(struct memdisk),
	.unrealize = no_unrealize,
	.block = &memdisk_ops,
};

static struct memdisk *new_memdisk(struct vm *vm, const char *name)
{
	struct memdisk *disk = calloc(1, sizeof(*disk));

	disk->dev.vm = vm;
	disk->dev.class = &memdisk_class;
	disk->during = -1;
	strcpy(disk->dev.name, name);
	pthread_mutex_init(&disk->dev.lock, NULL);
	return disk;
}

/* ---- Both ends of a stream that is kept in memory ---- */

struct ends {
	struct vm vm[2];
	struct migration m[2];
	struct memdisk *from, *to;
	struct ram_save ram;
	struct block_save save;
	struct block_load load;
	struct mem_channel mem;
	struct protocol p[2];
	struct error err;
};

static int setup(void **state)
{
	struct ends *e = calloc(1, sizeof(*e));

	mem_init(&e->mem, true);
	for (int i = 0; i < 2; i++) {
		e->m[i].vm = &e->vm[i];
		e->m[i].cancel_fd = -1;
		pthread_mutex_init(&e->m[i].lock, NULL);
		protocol_init(&e->p[i], &e->mem.base, i ? SIDE_DESTINATION : SIDE_SOURCE, false);
		e->p[i].state = PROTOCOL_RAM;
	}
	e->from = new_memdisk(&e->vm[0], "disk@1");
	e->to = new_memdisk(&e->vm[1], "disk@1");
	e->vm[0].devices = &e->from->dev;
	e->vm[1].devices = &e->to->dev;
	for (unsigned int b = 0; b <= BLOCKS; b++)
		guest_writes(e->from, b, (uint8_t)(b + 1));
	memset(e->to->data, 0xff, SIZE);
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct ends *e = *state;

	block_save_free(&e->save);
	block_load_free(&e->load);
	assert_false(e->from->tracked);
	for (int i = 0; i < 2; i++)
		protocol_free(&e->p[i]);
	channel_close(&e->mem.base);
	free(e->from);
	free(e->to);
	free(e);
	return 0;
}

static void begin(struct ends *e, uint64_t batch_max)
{
	assert_int_equal(block_save_init(&e->save, &e->m[0], &e->p[0], &e->ram, batch_max, &e->err),
			 0);
	assert_int_equal(block_load_init(&e->load, &e->m[1], &e->err), 0);
	assert_true(e->from->tracked && e->to->opened);
	assert_int_equal(block_save_total(&e->save, &e->ram), SIZE);
}

static void send_round(struct ends *e, bool live)
{
	assert_int_equal(block_save_round(&e->save, live, &e->err), 0);
}

/* Let the destination have all that was sent; the records there were, or what was wrong. */
static int receive(struct ends *e)
{
	struct record rec;
	int ret, n = 0;

	while (e->mem.pos < e->mem.len || e->p[1].stream.rx.pos < e->p[1].stream.rx.len) {
		ret = protocol_expect(&e->p[1], RECORD_BLOCK, &rec, &e->err);
		ret = ret ? ret : block_load_record(&e->load, &e->p[1], &rec, &e->err);
		if (ret < 0)
			return ret;
		n++;
	}
	return n;
}

static void same_disks(const struct ends *e)
{
	assert_memory_equal(e->from->data, e->to->data, SIZE);
}

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

/* ---- A hostile source ---- */

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
		T(hostile_runs),
		T(hostile_bytes),
		T(payload_that_does_not_come),
		cmocka_unit_test(crosses),
		cmocka_unit_test(a_disk_in_use_is_refused_before_RAM_is_sent),
		cmocka_unit_test(not_to_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
