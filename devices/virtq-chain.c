/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Chains of descriptors as host memory (virtio 1.2, sections 2.7.4, 2.7.5).
 *
 * Descriptors may change while we look at them: each is read once, into a local, and checked there.
 */
#include "devices/virtio.h"

#include <linux/virtio_ring.h>
#include <string.h>

_Static_assert(VIRTIO_MAX_QUEUE_SIZE <= VIRTQ_MAX_CHAIN, "a direct chain fits");

/* Read one descriptor, once: the barrier keeps the compiler from going back to guest memory. */
static struct vring_desc desc_load(const uint8_t *table, uint32_t i)
{
	struct vring_desc d;

	memcpy(&d, table + i * sizeof(d), sizeof(d));
	__asm__ volatile("" : : : "memory");
	return d;
}

/* Append one descriptor's buffer to @chain. */
static bool chain_add(struct virtio_device *vd, unsigned int q, struct virtq_chain *chain,
		      const struct vring_desc *d)
{
	unsigned int n = chain->n_out + chain->n_in;
	void *hva;

	if (n == VIRTQ_MAX_CHAIN) {
		virtio_broken(vd, "queue %u: chain of more than %d descriptors", q,
			      VIRTQ_MAX_CHAIN);
		return false;
	}
	hva = memory_hva(device_memory(&vd->dev), d->addr, d->len);
	if (!hva) {
		virtio_broken(vd, "queue %u: buffer of %u bytes at 0x%llx is not in RAM", q, d->len,
			      (unsigned long long)d->addr);
		return false;
	}
	if (chain->out_len + chain->in_len + d->len > UINT32_MAX) {
		virtio_broken(vd, "queue %u: chain of more than 4 GiB", q);
		return false;
	}
	chain->iov[n] = (struct iovec){ .iov_base = hva, .iov_len = d->len };
	chain->gpa[n] = d->addr;
	if (d->flags & VRING_DESC_F_WRITE) {
		chain->n_in++;
		chain->in_len += d->len;
	} else if (chain->n_in) {
		/* 2.7.4.2: device-readable buffers come first. */
		virtio_broken(vd, "queue %u: readable buffer after a writable one", q);
		return false;
	} else {
		chain->n_out++;
		chain->out_len += d->len;
	}
	return true;
}

/* Go over to the table of indirect descriptors that @d refers to (2.7.5.3). */
static bool enter_indirect(struct virtio_device *vd, unsigned int q, const struct vring_desc *d,
			   const uint8_t **table, uint32_t *size)
{
	uint32_t n = d->len / sizeof(struct vring_desc);

	if (!virtio_has(vd, VIRTIO_RING_F_INDIRECT_DESC) || d->flags & VRING_DESC_F_NEXT ||
	    d->len % sizeof(struct vring_desc) || n == 0 || n > VIRTQ_MAX_CHAIN) {
		virtio_broken(vd, "queue %u: indirect descriptor of %u bytes, flags %u", q, d->len,
			      d->flags);
		return false;
	}
	*table = memory_hva(device_memory(&vd->dev), d->addr, d->len);
	if (!*table) {
		virtio_broken(vd, "queue %u: indirect table at 0x%llx is not in RAM", q,
			      (unsigned long long)d->addr);
		return false;
	}
	*size = n;
	return true;
}

bool virtq_load_chain(struct virtio_device *vd, unsigned int q, struct virtq_chain *chain)
{
	const uint8_t *table = vd->queue[q].desc;
	uint32_t size = vd->state->queue[q].size, i = chain->head, steps = 0;
	bool indirect = false;
	struct vring_desc d;

	chain->n_out = chain->n_in = 0;
	chain->out_len = chain->in_len = 0;
	for (;;) {
		if (i >= size) {
			virtio_broken(vd, "queue %u: descriptor %u of %u", q, i, size);
			return false;
		}
		/* A chain that visits more descriptors than there are has a loop. */
		if (steps++ == size) {
			virtio_broken(vd, "queue %u: descriptors form a loop", q);
			return false;
		}
		d = desc_load(table, i);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (indirect) {
				virtio_broken(vd, "queue %u: indirect table in another one", q);
				return false;
			}
			if (!enter_indirect(vd, q, &d, &table, &size))
				return false;
			indirect = true;
			i = steps = 0;
			continue;
		}
		if (!chain_add(vd, q, chain, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			break;
		i = d.next;
	}
	chain->out = chain->iov;
	chain->in = chain->iov + chain->n_out;
	return true;
}

bool virtq_pull(struct virtq_chain *chain, void *buf, size_t len)
{
	uint8_t *to = buf;
	size_t n;

	if (chain->out_len < len)
		return false;
	chain->out_len -= len;
	while (len) {
		n = chain->out->iov_len < len ? chain->out->iov_len : len;
		memcpy(to, chain->out->iov_base, n);
		chain->out->iov_base = (uint8_t *)chain->out->iov_base + n;
		chain->out->iov_len -= n;
		if (chain->out->iov_len == 0) {
			chain->out++;
			chain->n_out--;
		}
		to += n;
		len -= n;
	}
	return true;
}

bool virtq_cut(struct virtq_chain *chain, size_t len, uint64_t *gpa)
{
	struct iovec *last = chain->in + chain->n_in - 1;

	if (chain->n_in == 0 || last->iov_len < len)
		return false;
	chain->in_len -= len;
	last->iov_len -= len;
	*gpa = chain->gpa[last - chain->iov] + last->iov_len;
	if (last->iov_len == 0)
		chain->n_in--;
	return true;
}

/* Copy @from (unless NULL) to bytes [@offset, @offset + @len) of in, and mark what is there of them
 * dirty. */
static size_t fill(struct virtio_device *vd, const struct virtq_chain *chain, size_t offset,
		   const uint8_t *from, size_t len)
{
	size_t done = 0;

	for (unsigned int i = 0; i < chain->n_in && done < len; i++) {
		const struct iovec *iov = &chain->in[i];
		size_t n;

		if (offset >= iov->iov_len) {
			offset -= iov->iov_len;
			continue;
		}
		n = iov->iov_len - offset < len - done ? iov->iov_len - offset : len - done;
		if (from)
			memcpy((uint8_t *)iov->iov_base + offset, from + done, n);
		memory_mark_dirty(device_memory(&vd->dev), chain->gpa[iov - chain->iov] + offset,
				  n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t virtq_write(struct virtio_device *vd, struct virtq_chain *chain, size_t offset,
		   const void *buf, size_t len)
{
	return fill(vd, chain, offset, buf, len);
}

void virtq_dirty(struct virtio_device *vd, const struct virtq_chain *chain, size_t offset,
		 size_t len)
{
	fill(vd, chain, offset, NULL, len);
}
