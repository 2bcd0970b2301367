/* SPDX-License-Identifier: BSD-2-Clause */
/* Section numbers are those of the virtio 1.2 specification. */
#include "cpu.h"
#include "lapic.h"
#include "program.h"
#include "ram.h"
#include "virtio.h"

enum { /* 4.2.2 */
       REG_MAGIC = 0x00,
       REG_VERSION = 0x04,
       REG_DEVICE_ID = 0x08,
       REG_DEVICE_FEATURES = 0x10,
       REG_DEVICE_FEATURES_SEL = 0x14,
       REG_DRIVER_FEATURES = 0x20,
       REG_DRIVER_FEATURES_SEL = 0x24,
       REG_QUEUE_SEL = 0x30,
       REG_QUEUE_NUM_MAX = 0x34,
       REG_QUEUE_NUM = 0x38,
       REG_QUEUE_READY = 0x44,
       REG_QUEUE_NOTIFY = 0x50,
       REG_INTERRUPT_STATUS = 0x60,
       REG_INTERRUPT_ACK = 0x64,
       REG_STATUS = 0x70,
       REG_QUEUE_DESC = 0x80,
       REG_QUEUE_DRIVER = 0x90,
       REG_QUEUE_DEVICE = 0xa0,
       REG_CONFIG_GENERATION = 0xfc,
       REG_CONFIG = 0x100,
       MAGIC = 0x74726976,
};

enum { /* 2.1, 2.7.5, 2.7.6 */
       STATUS_ACKNOWLEDGE = 1,
       STATUS_DRIVER = 2,
       STATUS_DRIVER_OK = 4,
       STATUS_FEATURES_OK = 8,
       DESC_NEXT = 1,
       DESC_WRITE = 2,
       DESC_INDIRECT = 4,
       AVAIL_NO_INTERRUPT = 1,
       USED_NO_NOTIFY = 1,
};

#define F_INDIRECT  (1ull << 28) /* 6 */
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)
#define PATIENCE_NS (5 * SECOND_NS)

#define fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static uint32_t reg(const struct virtio *v, unsigned at)
{
	return mmio_read(v->base + at);
}

static void set(const struct virtio *v, unsigned at, uint32_t value)
{
	mmio_write(v->base + at, value);
}

uint32_t virtio_probe(const struct device *device)
{
	struct virtio v = { .base = device->address };

	return reg(&v, REG_MAGIC) == MAGIC && reg(&v, REG_VERSION) == 2 ? reg(&v, REG_DEVICE_ID)
									: 0;
}

static void negotiate(struct virtio *v, uint64_t wanted)
{
	uint64_t offered = 0;

	for (unsigned i = 0; i < 2; i++) {
		set(v, REG_DEVICE_FEATURES_SEL, i);
		offered |= (uint64_t)reg(v, REG_DEVICE_FEATURES) << 32 * i;
	}
	if (option_number("indirect", 1))
		wanted |= F_INDIRECT;
	if (option_number("event_idx", 1))
		wanted |= F_EVENT_IDX;
	v->features = offered & (wanted | F_VERSION_1);
	for (unsigned i = 0; i < 2; i++) {
		set(v, REG_DRIVER_FEATURES_SEL, i);
		set(v, REG_DRIVER_FEATURES, (uint32_t)(v->features >> 32 * i));
	}
	set(v, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	if (!(reg(v, REG_STATUS) & STATUS_FEATURES_OK))
		fail("virtio device %u refuses features 0x%lx of 0x%lx", v->id, v->features,
		     offered);
}

static void set_address(struct virtio *v, unsigned at, volatile void *p)
{
	set(v, at, (uint32_t)(uintptr_t)p);
	set(v, at + 4, (uint32_t)((uintptr_t)p >> 32));
}

static void open_queue(struct virtio *v, unsigned index, unsigned slots)
{
	struct virtio_queue *q = &v->queue[index];
	bool indirect = v->features & F_INDIRECT;

	set(v, REG_QUEUE_SEL, index);
	uint32_t max = reg(v, REG_QUEUE_NUM_MAX);
	q->size = VIRTIO_SLOTS * VIRTIO_BUFFERS;
	while (q->size > max)
		q->size /= 2;
	q->slots = indirect ? q->size : q->size / VIRTIO_BUFFERS;
	if (q->slots > slots)
		q->slots = slots;
	if (!q->slots)
		fail("queue %u of virtio device %u has %u entries", index, v->id, max);
	q->rings = ram_alloc((sizeof(*q->rings) + PAGE - 1) / PAGE, PAGE);
	if (!v->irq)
		q->rings->avail.flags = AVAIL_NO_INTERRUPT;
	set(v, REG_QUEUE_NUM, q->size);
	set_address(v, REG_QUEUE_DESC, q->rings->desc);
	set_address(v, REG_QUEUE_DRIVER, &q->rings->avail);
	set_address(v, REG_QUEUE_DEVICE, &q->rings->used);
	set(v, REG_QUEUE_READY, 1);
}

void virtio_open(struct virtio *v, const struct device *device, uint64_t features, unsigned queues,
		 unsigned slots)
{
	*v = (struct virtio){ .base = device->address,
			      .vector = VECTOR_GSI + device->irq,
			      .id = virtio_probe(device),
			      .irq = option_number("irq", 0) };
	set(v, REG_STATUS, 0);
	while (reg(v, REG_STATUS))
		cpu_relax();
	set(v, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	negotiate(v, features);
	for (unsigned i = 0; i < queues; i++)
		open_queue(v, i, slots < VIRTIO_SLOTS ? slots : VIRTIO_SLOTS);
	if (v->irq) {
		if (device->irq >= 24)
			fail("GSI %u is not one of the first I/O APIC", device->irq);
		ioapic_route(device->irq, v->vector);
		syscall(SYS_IRQ_ON, 0, 0, 0, NULL);
	}
	set(v, REG_STATUS,
	    STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

void virtio_close(struct virtio *v)
{
	set(v, REG_STATUS, 0);
	while (reg(v, REG_STATUS))
		cpu_relax();
}

uint64_t virtio_config(struct virtio *v, unsigned offset, unsigned bytes)
{
	uint32_t generation;
	uint64_t value;

	do {
		generation = reg(v, REG_CONFIG_GENERATION);
		value = reg(v, REG_CONFIG + offset);
		if (bytes == 8)
			value |= (uint64_t)reg(v, REG_CONFIG + offset + 4) << 32;
	} while (generation != reg(v, REG_CONFIG_GENERATION));
	return value;
}

void virtio_config_set(struct virtio *v, unsigned offset, uint32_t value)
{
	set(v, REG_CONFIG + offset, value);
}

/* 2.7.13: does the device want to be told, having been told of @kicked? */
static void notify(struct virtio *v, unsigned queue)
{
	struct virtio_queue *q = &v->queue[queue];
	uint16_t now = q->rings->avail.idx;

	fence(); /* the index before what the device says of it */
	/* avail_event follows the used ring, whose length is the queue's, not the struct's */
	uint16_t event = *(volatile uint16_t *)&q->rings->used.ring[q->size];
	bool wanted = v->features & F_EVENT_IDX
			      ? (uint16_t)(now - event - 1) < (uint16_t)(now - q->kicked)
			      : !(q->rings->used.flags & USED_NO_NOTIFY);
	q->kicked = now;
	if (wanted)
		set(v, REG_QUEUE_NOTIFY, queue);
}

void virtio_submit(struct virtio *v, unsigned queue, unsigned slot,
		   const struct virtio_buffer *buffers, unsigned n)
{
	struct virtio_queue *q = &v->queue[queue];
	bool indirect = v->features & F_INDIRECT;
	uint16_t first = indirect ? 0 : slot * VIRTIO_BUFFERS, head = indirect ? slot : first;
	volatile struct virtio_desc *d = indirect ? q->rings->table[slot] : q->rings->desc + first;

	for (unsigned i = 0; i < n; i++) {
		d[i].address = (uintptr_t)buffers[i].data;
		d[i].size = buffers[i].size;
		d[i].flags = (buffers[i].in ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0);
		d[i].next = first + i + 1;
	}
	if (indirect) {
		q->rings->desc[head].address = (uintptr_t)d;
		q->rings->desc[head].size = n * sizeof(*d);
		q->rings->desc[head].flags = DESC_INDIRECT;
	}
	uint16_t idx = q->rings->avail.idx;
	q->rings->avail.ring[idx % q->size] = head;
	fence(); /* the entry before the index */
	q->rings->avail.idx = idx + 1;
	v->patience.spent = 0;
	notify(v, queue);
}

int virtio_done(struct virtio *v, unsigned queue, uint32_t *size)
{
	struct virtio_queue *q = &v->queue[queue];

	if (v->irq) { /* used_event follows the available ring: an interrupt for what comes next */
		*(volatile uint16_t *)&q->rings->avail.ring[q->size] = q->used_seen;
		fence();
	}
	uint16_t idx = q->rings->used.idx;
	if (idx == q->used_seen)
		return -1;
	if ((uint16_t)(idx - q->used_seen) > q->size)
		fail("used index of queue %u went from %u to %u", queue, q->used_seen, idx);
	uint32_t id = q->rings->used.ring[q->used_seen % q->size].id;
	uint32_t slot = v->features & F_INDIRECT ? id : id / VIRTIO_BUFFERS;
	if (slot >= q->slots)
		fail("queue %u: the used ring names descriptor %u", queue, id);
	*size = q->rings->used.ring[q->used_seen++ % q->size].size;
	v->patience.spent = 0;
	return (int)slot;
}

bool virtio_due(struct virtio *v)
{
	if (patience_over(&v->patience, PATIENCE_NS) && v->busy)
		fail("virtio device %u: no %s in 5 s, %u requests wait, status 0x%x", v->id,
		     v->irq ? "interrupt" : "answer", v->busy, reg(v, REG_STATUS));
	if (!v->irq)
		return true;
	if (irq_count(&cpu0, v->vector) == v->irqs_seen)
		return false;
	v->irqs_seen = irq_count(&cpu0, v->vector);
	set(v, REG_INTERRUPT_ACK, reg(v, REG_INTERRUPT_STATUS));
	v->patience.spent = 0;
	return true;
}
