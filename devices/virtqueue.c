/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Split virtqueues (virtio 1.2, section 2.7) with indirect descriptors and event index.
 *
 * All that lies in guest memory may change while we look at it: every value is read once, into a
 * local, and checked there. All that we write there is marked dirty right after.
 */
#include "devices/virtio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>

/* Offsets in the avail ring and the used ring (2.7.6, 2.7.8). Both end in an event index. */
#define RING_FLAGS 0
#define RING_IDX   2
#define RING_ELEMS 4

/* Guest memory is little-endian; so is every host that ferry is built for. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are read as they are");

/* What is read after a load was written before the guest's store of that value, and the reverse. */
static uint16_t ring_load(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void ring_store(uint8_t *p, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)p, value, __ATOMIC_RELEASE);
}

const char *virtq_map(struct virtio_device *vd, const struct virtq_state *s, struct virtq *vq)
{
	const struct memory *mem = device_memory(&vd->dev);
	uint64_t n = s->size;

	if (n == 0 || n > vq->max || (n & (n - 1)))
		return "size";
	vq->desc = s->desc % 16 ? NULL : memory_hva(mem, s->desc, 16 * n);
	if (!vq->desc)
		return "desc";
	vq->driver = s->driver % 2 ? NULL : memory_hva(mem, s->driver, 6 + 2 * n);
	if (!vq->driver)
		return "driver";
	vq->device = s->device % 4 ? NULL : memory_hva(mem, s->device, 6 + 8 * n);
	return vq->device ? NULL : "device";
}

void virtq_stop(struct virtio_device *vd, unsigned int q)
{
	struct virtq *vq = &vd->queue[q];

	vq->epoch++;
	vq->desc = vq->driver = vq->device = NULL;
	vq->most = 0;
	vd->state->queue[q].ready = false;
}

void virtq_kick(struct virtio_device *vd, unsigned int q)
{
	eventfd_write(vd->queue[q].kick, 1);
}

void virtq_want_kick(struct virtio_device *vd, unsigned int q, bool want)
{
	const struct virtq_state *s = &vd->state->queue[q];
	size_t offset = RING_FLAGS;
	uint16_t value = want ? 0 : VRING_USED_F_NO_NOTIFY;

	if (virtio_has(vd, VIRTIO_RING_F_EVENT_IDX)) {
		/* When entry last_avail is filled, or a later one. An event that has passed is no
		 * kick. */
		if (!want)
			return;
		offset = RING_ELEMS + s->size * sizeof(struct vring_used_elem);
		value = (uint16_t)(s->last_avail + vd->queue[q].most / 2);
	}
	/* Written only when it changes, so that an idle queue does not keep its page dirty. */
	if (ring_load(vd->queue[q].device + offset) != value) {
		ring_store(vd->queue[q].device + offset, value);
		memory_mark_dirty(device_memory(&vd->dev), s->device + offset, 2);
	}
	/* 2.7.10.1: the guest stores idx, then looks at the event; we the other way round. */
	atomic_thread_fence(memory_order_seq_cst);
}

/* Queue @q is empty: have somebody notice when it no longer is. */
static void watch(struct virtio_device *vd, unsigned int q)
{
	const void *index = vd->queue[q].driver + RING_IDX;
	bool polled = !vd->queue[q].lazy &&
		      virtio_poll_queue(vd, q, index, vd->state->queue[q].last_avail);

	virtq_want_kick(vd, q, !polled);
}

bool virtq_waiting(struct virtio_device *vd, unsigned int q)
{
	struct virtq_state *s = &vd->state->queue[q];
	struct virtq *vq = &vd->queue[q];
	uint16_t n;

	if (!virtio_live(vd) || vd->quiesced || !s->ready)
		return false;
	n = (uint16_t)(ring_load(vq->driver + RING_IDX) - s->last_avail);
	if (n == 0) {
		watch(vd, q);
		n = (uint16_t)(ring_load(vq->driver + RING_IDX) - s->last_avail);
	}
	if (n > s->size) {
		virtio_broken(vd, "queue %u: %u chains available in a ring of %u", q, n, s->size);
		return false;
	}
	if (vq->lazy && n > vq->most)
		vq->most = n;
	return n > 0;
}

bool virtq_lazy(struct virtio_device *vd, unsigned int q, bool lazy)
{
	struct virtq *vq = &vd->queue[q];

	vq->lazy = lazy && virtio_has(vd, VIRTIO_RING_F_EVENT_IDX);
	if (!vq->lazy)
		vq->most = 0;
	return vq->most / 2 > 0;
}

void virtq_unlimited(struct virtio_device *vd, unsigned int q)
{
	vd->queue[q].budget = -1;
}

bool virtq_pop(struct virtio_device *vd, unsigned int q, struct virtq_chain *chain)
{
	struct virtq_state *s = &vd->state->queue[q];
	struct virtq *vq = &vd->queue[q];

	if (!virtq_waiting(vd, q))
		return false;
	if ((uint16_t)(s->last_avail - s->used) >= s->size) {
		virtio_broken(vd, "queue %u: more chains made available than it has entries", q);
		return false;
	}
	if (vq->budget == 0) {
		vq->more = true;
		return false;
	}
	if (vq->budget > 0)
		vq->budget--;
	chain->head = ring_load(vq->driver + RING_ELEMS + 2 * (s->last_avail % s->size));
	chain->epoch = vq->epoch;
	if (!virtq_load_chain(vd, q, chain))
		return false;
	s->last_avail++;
	return true;
}

void virtq_unpop(struct virtio_device *vd, unsigned int q, const struct virtq_chain *chain)
{
	if (chain->epoch == vd->queue[q].epoch)
		vd->state->queue[q].last_avail--;
}

void virtq_push(struct virtio_device *vd, unsigned int q, const struct virtq_chain *chain,
		uint32_t len)
{
	struct virtq_state *s = &vd->state->queue[q];
	struct virtq *vq = &vd->queue[q];
	struct vring_used_elem elem = { .id = chain->head, .len = len };
	size_t offset = RING_ELEMS + (s->used % (s->size ? s->size : 1)) * sizeof(elem);

	virtq_dirty(vd, chain, 0, len);
	if (!virtio_live(vd) || !s->ready || chain->epoch != vq->epoch)
		return;
	memcpy(vq->device + offset, &elem, sizeof(elem));
	memory_mark_dirty(device_memory(&vd->dev), s->device + offset, sizeof(elem));
	s->used++;
}

/* Whether the guest wants an interrupt for used entries [@from, @to) (2.7.7, 2.7.10). */
static bool wants_interrupt(struct virtio_device *vd, unsigned int q, uint16_t from, uint16_t to)
{
	const uint8_t *driver = vd->queue[q].driver;
	uint16_t event;

	/* used->idx must be visible before we look at what the guest wants. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!virtio_has(vd, VIRTIO_RING_F_EVENT_IDX))
		return !(ring_load(driver + RING_FLAGS) & VRING_AVAIL_F_NO_INTERRUPT);
	event = ring_load(driver + RING_ELEMS + 2 * vd->state->queue[q].size);
	return vring_need_event(event, to, from);
}

void virtq_flush(struct virtio_device *vd, unsigned int q)
{
	struct virtq_state *s = &vd->state->queue[q];
	uint16_t from = s->published;

	if (!virtio_live(vd) || !s->ready || s->used == from)
		return;
	s->published = s->used;
	ring_store(vd->queue[q].device + RING_IDX, s->used);
	memory_mark_dirty(device_memory(&vd->dev), s->device + RING_IDX, 2);
	if (wants_interrupt(vd, q, from, s->used)) {
		vd->state->interrupt_status |= VIRTIO_MMIO_INT_VRING;
		device_irq_pulse(vd->irq);
	}
}
