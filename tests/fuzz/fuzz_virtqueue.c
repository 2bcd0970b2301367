/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest that does anything: the input is a program of register writes, descriptors, and plain
 * bytes for guest memory, run against virtio-blk (on a file without a name) and virtio-rng.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "tests/fuzz/input.h"
#include "tests/unit/guest-virtio.h"

#define RING	 0x10000ULL
#define RINGS	 0x3000ULL /* desc, avail and used of one device, a page each */
#define BUFFER	 0x20000ULL
#define FEATURES (V1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX)

/* Mostly in RAM, at its edges and in the rings; sometimes anywhere. */
static uint64_t take_gpa(struct input *in)
{
	uint64_t v = take(in, 2);

	switch (take(in, 1) % 8) {
	case 0:
		return take(in, 8);
	case 1:
		return RAM_LOW - v % 256;
	case 2:
		return RAM_HOLE + RAM_LOW - v % 256;
	case 3:
		return RAM_HOLE + v;
	case 4:
		return RING + v % (2 * RINGS);
	default:
		return BUFFER + v;
	}
}

/* Descriptors of other tables than the ring's: anywhere in the buffers. */
static void put_memory(struct vm *vm, struct input *in)
{
	uint64_t gpa = take_gpa(in);
	size_t len = take(in, 1) % 33;
	uint8_t buf[32];

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)take(in, 1);
	if (len)
		memory_write(&vm->memory, gpa, buf, len);
}

static void access_bus(struct guest_queue *gq, struct input *in)
{
	struct bus *bus = &gq->vd->dev.vm->mmio;
	uint64_t addr = gq->vd->base + take(in, 2) % 0x400, value = take(in, 4);
	unsigned int len = 1U << take(in, 1) % 4;

	bus_write(bus, addr, &value, len);
	bus_read(bus, addr, &value, len);
}

/* A disk request that is nearly right: chance alone seldom gets there. */
static void put_request(struct guest_queue *gq, struct input *in)
{
	struct virtio_blk_outhdr hdr = { .type = (uint32_t)take(in, 1) % 16,
					 .sector = take(in, 1) };
	struct virtio_blk_discard_write_zeroes seg = { take(in, 1), (uint32_t)take(in, 1),
						       (uint32_t)take(in, 1) % 4 };
	uint64_t at = BUFFER + 64 * (take(in, 1) % 16);
	uint16_t d = (uint16_t)(3 * (take(in, 1) % 8));
	uint8_t kind = (uint8_t)take(in, 1);
	uint64_t data = kind & 1 ? at + 16 : take_gpa(in);
	uint32_t len = hdr.type > 10 ? sizeof(seg)
		       : kind & 4    ? 20
				     : 512 * (uint32_t)(take(in, 1) % 16);

	memory_write(&gq->vd->dev.vm->memory, at, &hdr, sizeof(hdr));
	memory_write(&gq->vd->dev.vm->memory, at + 16, &seg, sizeof(seg));
	guest_desc(gq, d, at, sizeof(hdr), VRING_DESC_F_NEXT, (uint16_t)(d + 1));
	guest_desc(gq, d + 1U, data, len, VRING_DESC_F_NEXT | (kind & 8 ? VRING_DESC_F_WRITE : 0),
		   (uint16_t)(d + 2));
	guest_desc(gq, d + 2U, at + 40, 1 + (kind >> 7), VRING_DESC_F_WRITE, 0);
	guest_add(gq, d);
	virtio_run_queue(gq->vd, 0);
}

/* Out and in again: what is accepted as state must be safe to run. */
static void save_and_load(struct guest_queue *gq, struct input *in)
{
	struct virtio_state *s = gq->vd->state;
	struct device *dev = &gq->vd->dev;
	size_t at = take(in, 2) % sizeof(*s);
	struct virtio_state before = *s;
	struct error err = { 0 };

	dev->class->quiesce(dev);
	((uint8_t *)s)[at] ^= (uint8_t)take(in, 1);
	/* A bool holds 0 or 1 in memory; the loader sees to it on the wire. */
	*(uint8_t *)&s->queue[0].ready &= 1;
	if (s->n_queues > VIRTIO_MAX_QUEUES || test_migrate(dev, dev, &err))
		*s = before;
	dev->class->resume(dev);
}

static void step(struct guest_queue *gq, struct input *in)
{
	struct device *dev = &gq->vd->dev;
	unsigned int i;

	switch (take(in, 1) % 10) {
	case 0:
		put_memory(dev->vm, in);
		break;
	case 1:
		i = (unsigned int)take(in, 1) % 32;
		guest_desc(gq, i, take_gpa(in), (uint32_t)take(in, 1 + take(in, 1) % 3),
			   (uint16_t)take(in, 1), (uint16_t)take(in, 1));
		break;
	case 2:
		put_request(gq, in);
		break;
	case 3:
		guest_add(gq, (uint16_t)take(in, 1));
		break;
	case 4:
		virtio_run_queue(gq->vd, 0);
		break;
	case 5:
		/* The registers that matter are these. */
		reg_write(gq->vd, 4 * (take(in, 1) % 64), (uint32_t)take(in, 4));
		break;
	case 6:
		access_bus(gq, in);
		break;
	case 7:
		dev->class->quiesce(dev);
		dev->class->resume(dev);
		break;
	case 8:
		save_and_load(gq, in);
		break;
	default:
		guest_start(gq, dev, FEATURES ^ take(in, 2), (uint16_t)(1 << take(in, 1) % 7),
			    gq->desc);
	}
}

/* Once: making a machine takes longer than an input. */
static void make_machine(struct vm *vm)
{
	char path[] = "/dev/shm/ferry-fuzz-XXXXXX", option[64]; /* a flush costs nothing there */
	struct error err = { 0 };
	int fd = mkstemp(path);

	if (fd < 0 || ftruncate(fd, 65536))
		abort();
	test_machine_init(vm);
	snprintf(option, sizeof(option), "%s,sync", path);
	if (!test_device(vm, "virtio-blk", option, &err) ||
	    !test_device(vm, "virtio-rng", "", &err))
		test_die("device", &err);
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		((struct virtio_device *)dev)->told = true; /* a thousand times is too often */
	unlink(path);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vm vm;
	struct input in = { data, size };
	struct guest_queue queues[2];

	if (!vm.loop)
		make_machine(&vm);
	memset(vm.memory.regions[0].hva, 0, BUFFER + 0x10100);
	memset(vm.memory.regions[1].hva, 0, 0x10100);
	guest_start(&queues[0], vm.devices, FEATURES, 32, RING);
	guest_start(&queues[1], vm.devices->next, FEATURES, 32, RING + RINGS);
	for (unsigned int steps = 0; in.left && steps < 100; steps++)
		step(&queues[take(&in, 1) % 4 == 0], &in);
	return 0;
}
