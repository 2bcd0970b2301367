/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest that does anything: the input is a program of register writes, descriptors, and plain
 * bytes for guest memory, run against virtio-blk (on a file without a name) and virtio-rng.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "tests/unit/guest-virtio.h"

#define RING	 0x10000ULL
#define RINGS	 0x3000ULL /* desc, avail and used of one device, a page each */
#define BUFFER	 0x20000ULL
#define FEATURES (V1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p;
	size_t left;
};

static uint64_t take(struct input *in, unsigned int bytes)
{
	uint64_t v = 0;

	while (bytes-- && in->left) {
		v = v << 8 | *in->p++;
		in->left--;
	}
	return v;
}

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

static void step(struct guest_queue *gq, struct input *in)
{
	struct device *dev = &gq->vd->dev;
	struct virtio_blk_outhdr hdr = { 0 };
	unsigned int i;

	switch (take(in, 1) % 10) {
	case 0:
		put_memory(dev->vm, in);
		break;
	case 1:
	case 2:
		i = (unsigned int)take(in, 1) % 32;
		guest_desc(gq, i, take_gpa(in), (uint32_t)take(in, 1 + take(in, 1) % 3),
			   (uint16_t)take(in, 1), (uint16_t)take(in, 1));
		break;
	case 3:
		guest_add(gq, (uint16_t)take(in, 1));
		virtio_run_queue(gq->vd, 0);
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
		hdr.type = (uint32_t)take(in, 1) % 16;
		hdr.sector = take(in, 1);
		memory_write(&dev->vm->memory, BUFFER + 16 * (take(in, 1) % 16), &hdr, sizeof(hdr));
		break;
	default:
		guest_start(gq, dev, FEATURES ^ take(in, 1), (uint16_t)(1 << take(in, 1) % 7),
			    gq->desc);
	}
}

/* Once: making a machine takes longer than an input. */
static void make_machine(struct vm *vm)
{
	char path[] = "/tmp/ferry-fuzz-XXXXXX", option[64];
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
	while (in.left)
		step(&queues[take(&in, 1) % 4 == 0], &in);
	return 0;
}
