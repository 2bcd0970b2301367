/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * speed: how many requests a second a disk answers (virtio 1.2, section 5.2), with no guest kernel
 * in the way. Reads only, of what happens to be there; vio is for whether it is right.
 */
#include "kernel/program.h"
#include "kernel/ram.h"
#include "kernel/virtio.h"

enum { T_IN = 0, S_OK = 0, CONFIG_CAPACITY = 0, SECTOR = 512, BYTES_MAX = 1 << 20 };

struct request {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	uint8_t status;
	void *data;
};

struct speed {
	struct virtio v;
	struct request requests[VIRTIO_SLOTS];
	uint64_t places, next, done; /* places: of one request each on the disk */
	uint64_t random;	     /* state of the generator, 0: in order */
	uint32_t bytes;
};

/* xorshift64* (Vigna 2014): any order will do, as long as it is the same under each VMM. */
static uint64_t place(struct speed *s)
{
	if (!s->random)
		return s->next++ % s->places;
	s->random ^= s->random >> 12;
	s->random ^= s->random << 25;
	s->random ^= s->random >> 27;
	return s->random * 0x2545f4914f6cdd1dull % s->places;
}

static void start(struct speed *s, unsigned slot)
{
	struct request *r = &s->requests[slot];
	struct virtio_buffer parts[] = { { &r->header, sizeof(r->header), false },
					 { r->data, s->bytes, true },
					 { &r->status, 1, true } };

	r->header.type = T_IN;
	r->header.sector = place(s) * (s->bytes / SECTOR);
	r->status = 0xff;
	s->v.busy++;
	virtio_submit(&s->v, 0, slot, parts, 3);
}

/* Take what is finished and, while @more, start as many again. */
static void turn(struct speed *s, bool more)
{
	uint32_t size;
	int slot;

	while ((slot = virtio_done(&s->v, 0, &size)) >= 0) {
		if (*(volatile uint8_t *)&s->requests[slot].status != S_OK)
			fail("status %u at sector %lu", s->requests[slot].status,
			     s->requests[slot].header.sector);
		s->v.busy--;
		s->done++;
		if (more)
			start(s, (unsigned)slot);
	}
}

static void open_disk(struct speed *s, unsigned depth)
{
	const struct device *disk = NULL;

	for (unsigned i = 0; i < machine.virtio_count && !disk; i++)
		if (virtio_probe(&machine.virtio[i]) == VIRTIO_BLK)
			disk = &machine.virtio[i];
	if (!disk)
		fail("a disk is expected, there is none");
	virtio_open(&s->v, disk, 0, 1, depth);
	s->places = virtio_config(&s->v, CONFIG_CAPACITY, 8) * SECTOR / s->bytes;
	if (!s->places)
		fail("a disk of %u bytes at least is expected", s->bytes);
	for (unsigned i = 0; i < s->v.queue[0].slots; i++)
		s->requests[i].data = ram_alloc((s->bytes + PAGE - 1) / PAGE, PAGE);
}

static void speed(void)
{
	struct speed *s = ram_alloc((sizeof(*s) + PAGE - 1) / PAGE, PAGE);
	uint64_t length = option_number("ms", 1000) * (SECOND_NS / 1000), begun, now;

	s->bytes = (uint32_t)option_number("bytes", PAGE);
	if (!s->bytes || s->bytes % SECTOR || s->bytes > BYTES_MAX)
		fail("option bytes: a multiple of 512 up to 1 MiB is expected, not %u", s->bytes);
	s->random = option_is("order", "random", true) ? 1 : 0;
	open_disk(s, (unsigned)option_number("depth", 1));
	print("speed ready depth=%u bytes=%u\n", s->v.queue[0].slots, s->bytes);
	begun = now = clock_ns();
	for (unsigned i = 0; i < s->v.queue[0].slots; i++)
		start(s, i);
	while (s->v.busy) {
		if (virtio_due(&s->v))
			turn(s, now < begun + length);
		now = clock_ns();
	}
	print("speed requests=%lu bytes=%lu ns=%lu\n", s->done, s->done * s->bytes, now - begun);
	virtio_close(&s->v);
}

PROGRAM(speed, "requests a second of the first disk: depth=1 bytes=4096 order=random|sequential "
	       "ms=1000 irq=0");
