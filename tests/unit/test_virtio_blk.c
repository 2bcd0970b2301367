/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-blk: requests, errors, locks and moves, with io_uring and with blocking I/O. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "guest-virtio.h"

#define RING	 0x10000ULL
#define HEADER	 0x20000ULL /* 32 bytes a request: header, then the status byte */
#define BUFFER	 0x30000ULL
#define SECTORS	 4096ULL
#define FEATURES (V1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_BLK_F_FLUSH)

#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT

struct fixture {
	struct vm vm;
	struct device *dev;
	struct virtio_device *vd;
	struct guest_queue gq;
	char path[64], option[128];
	int fd;
	const char *suboptions;
};

static int setup(void **state)
{
	const char *suboptions = *state ? *state : "";
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	snprintf(f->path, sizeof(f->path), "/tmp/ferry-blk-XXXXXX");
	f->fd = mkstemp(f->path);
	assert_true(f->fd >= 0);
	assert_int_equal(ftruncate(f->fd, SECTORS * 512), 0);
	snprintf(f->option, sizeof(f->option), "%s%s", f->path, suboptions);
	f->suboptions = suboptions;
	test_machine_init(&f->vm);
	f->dev = test_device(&f->vm, "virtio-blk", f->option, &err);
	if (!f->dev)
		error_print(&err);
	assert_non_null(f->dev);
	f->vd = (struct virtio_device *)f->dev;
	guest_start(&f->gq, f->dev, FEATURES, 128, RING);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	test_machine_free(&f->vm);
	close(f->fd);
	unlink(f->path);
	free(f);
	return 0;
}

static uint8_t *status(struct fixture *f, unsigned int i)
{
	return (uint8_t *)ram(f->vd, HEADER + 32 * i + 16);
}

/* Put request @i of @type into the ring, with @len bytes at @data; it uses descriptors from 3i. */
static void add(struct fixture *f, unsigned int i, uint32_t type, uint64_t sector, uint64_t data,
		uint32_t len)
{
	struct virtio_blk_outhdr hdr = { .type = type, .sector = sector };
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	unsigned int d = 3 * i;

	memcpy(ram(f->vd, HEADER + 32 * i), &hdr, sizeof(hdr));
	*status(f, i) = 0xee;
	guest_desc(&f->gq, d, HEADER + 32 * i, sizeof(hdr), N, (uint16_t)(len ? d + 1 : d + 2));
	guest_desc(&f->gq, d + 1, data, len, in ? W | N : N, (uint16_t)(d + 2));
	guest_desc(&f->gq, d + 2, HEADER + 32 * i + 16, 1, W, 0);
	guest_add(&f->gq, (uint16_t)d);
}

/* Do one request; returns its status, and *used (unless NULL) the length in the used ring. */
static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint64_t data,
		       uint32_t len, uint32_t *used)
{
	uint32_t head, n;

	add(f, 0, type, sector, data, len);
	guest_settle(&f->gq);
	assert_true(guest_get(&f->gq, &head, &n));
	assert_int_equal(head, 0);
	if (used)
		*used = n;
	return *status(f, 0);
}

static void fill(struct fixture *f, uint64_t gpa, size_t len, unsigned int seed)
{
	uint8_t *p = ram(f->vd, gpa);

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed + i * 7 + i / 256);
}

static void what_is_written_is_read(void **state)
{
	struct fixture *f = *state;
	uint8_t file[4096];
	uint32_t used;

	fill(f, BUFFER, 4096, 1);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8, BUFFER, 4096, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 1);
	assert_int_equal(pread(f->fd, file, 4096, 8 * 512), 4096);
	assert_memory_equal(file, ram(f->vd, BUFFER), 4096);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8, BUFFER + 4096, 4096, &used),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(used, 4097);
	assert_memory_equal(file, ram(f->vd, BUFFER + 4096), 4096);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, 0, &used), VIRTIO_BLK_S_OK);
	/* The last sector is there. */
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, SECTORS - 1, BUFFER, 512, &used),
			 VIRTIO_BLK_S_OK);
}

static void requests_may_be_laid_out_in_any_way(void **state)
{
	struct fixture *f = *state;
	struct vring_desc *table = ram(f->vd, BUFFER + 0x8000);
	struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_OUT, .sector = 3 };
	uint8_t file[512];
	uint32_t head, len;

	/* Header in two pieces, the second in front of the data; an indirect table. */
	fill(f, BUFFER + 12, 512, 5);
	memcpy(ram(f->vd, HEADER), &hdr, 4);
	memcpy(ram(f->vd, BUFFER), (char *)&hdr + 4, 12);
	table[0] = (struct vring_desc){ HEADER, 4, N, 1 };
	table[1] = (struct vring_desc){ BUFFER, 200, N, 2 };
	table[2] = (struct vring_desc){ BUFFER + 200, 324, N, 3 };
	table[3] = (struct vring_desc){ HEADER + 16, 1, W, 0 };
	guest_desc(&f->gq, 7, BUFFER + 0x8000, 64, VRING_DESC_F_INDIRECT, 0);
	guest_add(&f->gq, 7);
	guest_settle(&f->gq);
	assert_true(guest_get(&f->gq, &head, &len));
	assert_int_equal(head, 7);
	assert_int_equal(*status(f, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(pread(f->fd, file, 512, 3 * 512), 512);
	assert_memory_equal(file, ram(f->vd, BUFFER + 12), 512);
	/* And back, with the status byte behind the data in one buffer. */
	hdr.type = VIRTIO_BLK_T_IN;
	memcpy(ram(f->vd, HEADER), &hdr, sizeof(hdr));
	guest_desc(&f->gq, 0, HEADER, 16, N, 1);
	guest_desc(&f->gq, 1, BUFFER + 0x2000, 513, W, 0);
	((uint8_t *)ram(f->vd, BUFFER + 0x2000))[512] = 0xee;
	guest_add(&f->gq, 0);
	guest_settle(&f->gq);
	assert_true(guest_get(&f->gq, &head, &len));
	assert_int_equal(len, 513);
	assert_memory_equal(file, ram(f->vd, BUFFER + 0x2000), 512);
	assert_int_equal(((uint8_t *)ram(f->vd, BUFFER + 0x2000))[512], VIRTIO_BLK_S_OK);
}

static void put_segment(struct fixture *f, uint64_t sector, uint32_t n, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes seg = { sector, n, flags };

	memcpy(ram(f->vd, BUFFER), &seg, sizeof(seg));
}

static void sectors_are_zeroed_and_discarded(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t type, flags;
		uint8_t status;
	} cases[] = {
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, VIRTIO_BLK_S_OK },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 1, VIRTIO_BLK_S_OK },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 2, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_DISCARD, 0, VIRTIO_BLK_S_OK },
		{ VIRTIO_BLK_T_DISCARD, 1, VIRTIO_BLK_S_UNSUPP },
	};
	uint8_t ones[8 * 512], file[sizeof(ones)], zeroes[4 * 512] = { 0 };

	memset(ones, 0xff, sizeof(ones));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(pwrite(f->fd, ones, sizeof(ones), 0), sizeof(ones));
		put_segment(f, 2, 4, cases[i].flags);
		assert_int_equal(request(f, cases[i].type, 0, BUFFER, 16, NULL), cases[i].status);
		assert_int_equal(pread(f->fd, file, sizeof(file), 0), sizeof(file));
		assert_memory_equal(file, ones, 2 * 512);
		assert_memory_equal(file + 6 * 512, ones, 2 * 512);
		if (cases[i].type == VIRTIO_BLK_T_WRITE_ZEROES && cases[i].status == 0)
			assert_memory_equal(file + 2 * 512, zeroes, 4 * 512);
		if (cases[i].status)
			assert_memory_equal(file + 2 * 512, ones, 4 * 512);
	}
	put_segment(f, SECTORS - 1, 2, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, BUFFER, 16, NULL), VIRTIO_BLK_S_IOERR);
	put_segment(f, ~0ULL, 2, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, BUFFER, 16, NULL), VIRTIO_BLK_S_IOERR);
	put_segment(f, 0, 0xffffffff, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, BUFFER, 16, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, BUFFER, 15, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, BUFFER, 32, NULL), VIRTIO_BLK_S_IOERR);
}

static void bad_requests_get_an_error(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		uint8_t status;
	} cases[] = {
		{ VIRTIO_BLK_T_IN, SECTORS, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, SECTORS - 1, 1024, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, ~0ULL, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, 1ULL << 55, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, 0, 511, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, 0, 513, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_GET_ID, 0, 19, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_SCSI_CMD, 0, 512, VIRTIO_BLK_S_UNSUPP },
		{ 0x80000000, 0, 512, VIRTIO_BLK_S_UNSUPP },
	};
	uint32_t head, len;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(
			request(f, cases[i].type, cases[i].sector, BUFFER, cases[i].len, NULL),
			cases[i].status);
	/* Too short for a header. */
	guest_desc(&f->gq, 0, HEADER, 15, N, 1);
	guest_desc(&f->gq, 1, HEADER + 16, 1, W, 0);
	guest_add(&f->gq, 0);
	guest_settle(&f->gq);
	assert_true(guest_get(&f->gq, &head, &len));
	assert_int_equal(*status(f, 0), VIRTIO_BLK_S_IOERR);
	assert_false(guest_needs_reset(f->vd));
	/* No place for a status: nothing to answer with. */
	guest_desc(&f->gq, 0, HEADER, 16, 0, 0);
	guest_add(&f->gq, 0);
	virtio_run_queue(f->vd, 0);
	assert_true(guest_needs_reset(f->vd));
	guest_start(&f->gq, f->dev, FEATURES, 128, RING);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER, 512, NULL), VIRTIO_BLK_S_OK);
}

static void errors_of_the_host_reach_the_guest(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(ftruncate(f->fd, 512), 0); /* behind our back */
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER, 1024, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8, BUFFER, 512, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER, 512, NULL), VIRTIO_BLK_S_OK);
}

static void dirty_marks_cover_what_was_written(void **state)
{
	struct fixture *f = *state;
	uint64_t pages[16];

	test_dirty(&f->vm, pages, 16);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER + 0x800, 0x1000, NULL), 0);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 4);
	assert_int_equal(pages[0], f->gq.used);
	assert_int_equal(pages[1], HEADER);
	assert_int_equal(pages[2], BUFFER);
	assert_int_equal(pages[3], BUFFER + 0x1000);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, BUFFER, 0x4000, NULL), 0);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 2); /* used ring and status */
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, BUFFER + 0x2ff0, 20, NULL), 0);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 4);
	/* A read that failed may have written anything. */
	assert_int_equal(ftruncate(f->fd, 512), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER, 0x4000, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 6);
}

static void on_interrupt(void *opaque, uint32_t events)
{
	struct fixture *f = opaque;

	(void)events;
	guest_interrupts(f->vd);
	if (guest_used_index(&f->gq) == f->gq.next_avail)
		loop_stop(f->vm.loop);
}

static void many_requests_are_in_flight(void **state)
{
	struct fixture *f = *state;
	struct loop_fd *watch;
	uint32_t head, len;
	uint8_t file[512];

	loop_fd_add(f->vm.loop, f->vd->irq, EPOLLIN, on_interrupt, f, &watch);
	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < 40; i++) {
			fill(f, BUFFER + 512 * i, 512, round * 40 + i);
			add(f, i, VIRTIO_BLK_T_OUT, round * 40 + i, BUFFER + 512 * i, 512);
		}
		reg_write(f->vd, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		loop_run(f->vm.loop);
		for (unsigned int i = 0; i < 40; i++) {
			assert_true(guest_get(&f->gq, &head, &len));
			assert_int_equal(*status(f, head / 3), VIRTIO_BLK_S_OK);
		}
	}
	loop_fd_del(watch);
	for (unsigned int i = 0; i < 800; i++) {
		assert_int_equal(pread(f->fd, file, 512, 512 * i), 512);
		fill(f, BUFFER, 512, i);
		assert_memory_equal(file, ram(f->vd, BUFFER), 512);
	}
}

static void *run_loop(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

/* Wait until everything is used, asking for one interrupt at the end of it (2.7.7.1). */
static void wait_for_all(struct fixture *f)
{
	struct pollfd irq = { .fd = f->vd->irq, .events = POLLIN };

	for (;;) {
		guest_used_event(&f->gq, (uint16_t)(f->gq.next_avail - 1));
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (guest_used_index(&f->gq) == f->gq.next_avail)
			return;
		assert_int_equal(poll(&irq, 1, 10000), 1); /* or a kick or an interrupt was lost */
		guest_interrupts(f->vd);
		reg_write(f->vd, VIRTIO_MMIO_INTERRUPT_ACK, 1);
	}
}

/* As it is in life: the guest on its thread, the device on the loop's, both as lazy as the event
 * index allows. */
static void guest_and_device_meet_on_two_threads(void **state)
{
	struct fixture *f = *state;
	uint64_t features = FEATURES | 1ULL << VIRTIO_RING_F_EVENT_IDX;
	uint32_t head, len;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run_loop, f->vm.loop), 0);
	guest_start(&f->gq, f->dev, features, 128, RING);
	for (unsigned int round = 0; round < 500; round++) {
		unsigned int n = 1 + round * 7 % 40;
		uint16_t before = f->gq.next_avail;

		for (unsigned int i = 0; i < n; i++)
			add(f, i, round % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, i,
			    BUFFER + 512 * i, 512);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (vring_need_event(guest_avail_event(&f->gq), f->gq.next_avail, before))
			reg_write(f->vd, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		if (round % 50 == 49) { /* the driver goes away in the middle of it */
			guest_start(&f->gq, f->dev, features, 128, RING);
			continue;
		}
		wait_for_all(f);
		while (guest_get(&f->gq, &head, &len))
			assert_int_equal(*status(f, head / 3), VIRTIO_BLK_S_OK);
	}
	loop_stop(f->vm.loop);
	pthread_join(thread, NULL);
}

static void pause_and_reset_drain_what_is_in_flight(void **state)
{
	struct fixture *f = *state;
	uint64_t pages[16];
	struct error err = { 0 };

	for (unsigned int i = 0; i < 40; i++)
		add(f, i, VIRTIO_BLK_T_IN, i, BUFFER + 512 * i, 512);
	virtio_run_queue(f->vd, 0);
	f->dev->class->quiesce(f->dev);
	assert_int_equal(guest_used_index(&f->gq), 40);
	assert_int_equal(f->dev->class->pre_save(f->dev, &err), 0);
	test_dirty(&f->vm, pages, 16);
	f->dev->class->resume(f->dev);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 0);

	for (unsigned int i = 0; i < 40; i++)
		add(f, i, VIRTIO_BLK_T_IN, i, BUFFER + 512 * i, 512);
	virtio_run_queue(f->vd, 0);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
	test_dirty(&f->vm, pages, 16);
	guest_start(&f->gq, f->dev, FEATURES, 128, RING);
	guest_settle(&f->gq);
	assert_int_equal(guest_used_index(&f->gq), 0);
	assert_int_equal(test_dirty(&f->vm, pages, 16), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER, 512, NULL), VIRTIO_BLK_S_OK);
}

static void requests_go_on_after_a_migration(void **state)
{
	struct fixture *f = *state;
	struct device *to;
	struct vm other;
	struct error err = { 0 };
	uint32_t head, len;

	test_machine_init(&other);
	to = test_device(&other, "virtio-blk", f->option, &err);
	assert_non_null(to);
	to->class->quiesce(to);
	fill(f, BUFFER, 512, 9);
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(request(f, VIRTIO_BLK_T_OUT, i, BUFFER, 512, NULL), 0);
	add(f, 0, VIRTIO_BLK_T_IN, 4, BUFFER + 0x1000, 512); /* not kicked yet */
	f->dev->class->quiesce(f->dev);
	assert_int_equal(test_migrate(f->dev, to, &err), 0);
	for (unsigned int r = 0; r < 2; r++)
		memcpy(other.memory.regions[r].hva, f->vm.memory.regions[r].hva,
		       f->vm.memory.regions[r].size);
	f->gq.vd = f->vd = (struct virtio_device *)to;
	to->class->resume(to);
	to->class->quiesce(to);
	assert_true(guest_get(&f->gq, &head, &len));
	assert_memory_equal(ram(f->vd, BUFFER), ram(f->vd, BUFFER + 0x1000), 512);
	to->class->resume(to);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(guest_used_index(&f->gq), 7);
	test_machine_free(&other);
}

static void config_space_tells_the_limits(void **state)
{
	struct fixture *f = *state;
	struct virtio_blk_config c;
	uint64_t base = f->vd->base + VIRTIO_MMIO_CONFIG;
	uint8_t zero = 0, wce;

	for (unsigned int i = 0; i < sizeof(c); i++)
		bus_read(&f->vm.mmio, base + i, (uint8_t *)&c + i, 1);
	assert_int_equal(c.capacity, SECTORS);
	assert_int_equal(c.seg_max, 254);
	assert_int_equal(c.blk_size, 512);
	assert_int_equal(c.max_discard_seg, 1);
	assert_int_equal(c.wce, 1);
	/* The cache mode can be changed only where that was negotiated. */
	bus_write(&f->vm.mmio, base + offsetof(struct virtio_blk_config, wce), &zero, 1);
	bus_read(&f->vm.mmio, base + offsetof(struct virtio_blk_config, wce), &wce, 1);
	assert_int_equal(wce, 1);
	guest_start(&f->gq, f->dev, FEATURES | 1ULL << VIRTIO_BLK_F_CONFIG_WCE, 128, RING);
	bus_write(&f->vm.mmio, base + offsetof(struct virtio_blk_config, wce), &zero, 1);
	bus_read(&f->vm.mmio, base + offsetof(struct virtio_blk_config, wce), &wce, 1);
	assert_int_equal(wce, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, BUFFER, 512, NULL), VIRTIO_BLK_S_OK);
	reg_write(f->vd, VIRTIO_MMIO_STATUS, 0);
	bus_read(&f->vm.mmio, base + offsetof(struct virtio_blk_config, wce), &wce, 1);
	assert_int_equal(wce, 1);
}

/* Another device on the same file, in the same machine. */
static struct device *second(struct fixture *f, const char *suboptions)
{
	struct error err = { 0 };
	char option[128];
	struct device *dev;

	snprintf(option, sizeof(option), "%s%s", f->path, suboptions);
	dev = test_device(&f->vm, "virtio-blk", option, &err);
	assert_non_null(dev);
	return dev;
}

static void a_disk_has_one_writer(void **state)
{
	struct fixture *f = *state;
	struct device *b = second(f, ""), *r1 = second(f, ",readonly"),
		      *r2 = second(f, ",readonly");
	const struct device_class *class = f->dev->class;
	struct error err = { 0 };

	assert_int_equal(class->claim(f->dev, &err), 0);
	assert_int_equal(class->claim(f->dev, &err), 0); /* again is fine */
	assert_int_equal(class->claim(b, &err), -EBUSY);
	assert_string_equal(err.device, f->path);
	assert_non_null(strstr(err.got, "another process"));
	assert_int_equal(class->claim(r1, &err), -EBUSY);
	class->yield(f->dev);
	assert_int_equal(class->claim(r1, &err), 0);
	assert_int_equal(class->claim(r2, &err), 0);
	assert_int_equal(class->claim(b, &err), -EBUSY);
	class->yield(r1);
	class->yield(r2);
	assert_int_equal(class->claim(b, &err), 0);
	class->yield(b);
	assert_int_equal(class->claim(f->dev, &err), 0);
}

static void readonly_disks_are_not_written(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *vd = (struct virtio_device *)second(f, ",readonly,id=r");

	assert_int_equal(guest_features(vd) >> VIRTIO_BLK_F_RO & 1, 1);
	assert_int_equal(guest_features(vd) >> VIRTIO_BLK_F_DISCARD & 1, 0);
	f->vd = vd;
	guest_start(&f->gq, &vd->dev, FEATURES, 128, RING);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, BUFFER, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, BUFFER, 512, NULL), VIRTIO_BLK_S_IOERR);
	put_segment(f, 0, 1, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, BUFFER, 16, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, BUFFER, 20, NULL), VIRTIO_BLK_S_OK);
	assert_string_equal((char *)ram(vd, BUFFER), "r");
}

static void bad_options_are_named(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *suboptions, *expect;
	} bad[] = {
		{ ",queue-size=300", "" },
		{ ",queue-size=6", "queue-size" },
		{ ",id=123456789012345678901", "--disk" },
		{ ",fast", "--disk" },
		{ ",readonly=1", "--disk" },
	};
	char option[128];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = { 0 };

		snprintf(option, sizeof(option), "%s%s", f->path, bad[i].suboptions);
		assert_null(test_device(&f->vm, "virtio-blk", option, &err));
		assert_true(err.code < 0);
		assert_true(strstr(err.device, bad[i].expect) || strstr(err.field, bad[i].expect));
	}
	for (unsigned int i = 0; i < 3; i++) {
		static const char *const paths[] = { "/nonexistent/x", "/tmp", "/dev/null" };
		struct error err = { 0 };

		assert_null(test_device(&f->vm, "virtio-blk", paths[i], &err));
		assert_string_equal(err.device, paths[i]);
	}
}

static void a_file_of_another_size_is_refused(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	const struct device_class *class = f->dev->class;
	char fdt[1024];
	struct device *dev = calloc(1, class->size);

	fdt_create(fdt, sizeof(fdt));
	fdt_finish_reservemap(fdt);
	fdt_begin_node(fdt, "");
	fdt_property(fdt, "host-path", f->path, (int)strlen(f->path) + 1);
	fdt_property_u64(fdt, "size", SECTORS * 512 + 512);
	fdt_end_node(fdt);
	fdt_finish(fdt);
	dev->vm = &f->vm;
	dev->class = class;
	snprintf(dev->name, sizeof(dev->name), "virtio-blk@1");
	assert_int_equal(class->realize(dev, fdt, 0, &err), -EINVAL);
	assert_string_equal(err.device, "virtio-blk@1");
	assert_string_equal(err.field, "size");
	assert_non_null(strstr(err.expected, "2097664"));
	assert_non_null(strstr(err.got, "2097152"));
	class->unrealize(dev);
	free(dev);
}

int main(void)
{
#define BOTH(name)                                                                  \
	cmocka_unit_test_setup_teardown(name, setup, teardown),                     \
	{                                                                           \
#name " (sync)", name, setup, teardown, (void *)(uintptr_t) ",sync" \
	}
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		BOTH(what_is_written_is_read),
		BOTH(requests_may_be_laid_out_in_any_way),
		BOTH(sectors_are_zeroed_and_discarded),
		BOTH(bad_requests_get_an_error),
		BOTH(errors_of_the_host_reach_the_guest),
		BOTH(dirty_marks_cover_what_was_written),
		BOTH(many_requests_are_in_flight),
		BOTH(guest_and_device_meet_on_two_threads),
		BOTH(pause_and_reset_drain_what_is_in_flight),
		BOTH(requests_go_on_after_a_migration),
		TEST(config_space_tells_the_limits),
		TEST(a_disk_has_one_writer),
		TEST(readonly_disks_are_not_written),
		TEST(bad_options_are_named),
		TEST(a_file_of_another_size_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
