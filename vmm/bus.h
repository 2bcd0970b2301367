/* SPDX-License-Identifier: BSD-2-Clause */
/* An address space of device registers (MMIO, or port I/O where the architecture has it). */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include <stdint.h>

#include "vmm/error.h"

struct device;

/*
 * Register access by the guest. @offset + @len never leaves the range; @len is 1, 2, 4 or 8. Called
 * on the vCPU's thread with the device's lock held.
 */
struct bus_ops {
	void (*read)(struct device *dev, uint64_t offset, void *data, unsigned int len);
	void (*write)(struct device *dev, uint64_t offset, const void *data, unsigned int len);
};

struct bus_range {
	uint64_t base, size;
	struct device *dev;
	const struct bus_ops *ops;
};

#define BUS_MAX_RANGES 64

struct bus {
	struct bus_range ranges[BUS_MAX_RANGES]; /* sorted by base, never overlapping */
	unsigned int n;
};

/* Claim [base, base + size) for @dev. -EEXIST names the owner it collides with. Not while vCPUs
 * run. */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, struct device *dev,
	    const struct bus_ops *ops, struct error *err);
/* Give up all ranges of @dev. Not while vCPUs run. */
void bus_remove(struct bus *bus, const struct device *dev);

/* What nobody claims reads all ones and ignores writes; both return 0 when claimed, -ENXIO if not.
 */
int bus_read(struct bus *bus, uint64_t addr, void *data, unsigned int len);
int bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned int len);

#endif
