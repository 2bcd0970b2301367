/* SPDX-License-Identifier: BSD-2-Clause */
/* Finding the device behind an address. Ranges do not change while vCPUs run, so lookups take no
 * lock. */
#include "vmm/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vmm/device.h"

/* Index of the first range that ends above @addr. */
static unsigned int lower_bound(const struct bus *bus, uint64_t addr)
{
	unsigned int lo = 0, hi = bus->n;

	while (lo < hi) {
		unsigned int mid = (lo + hi) / 2;

		if (addr - bus->ranges[mid].base < bus->ranges[mid].size ||
		    addr < bus->ranges[mid].base)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t size, struct device *dev,
	    const struct bus_ops *ops, struct error *err)
{
	unsigned int i = lower_bound(bus, base);
	struct bus_range *range = &bus->ranges[i];

	if (size == 0 || base + size - 1 < base)
		return error_set(err, -EINVAL, "realize", dev->name, "reg", "a range of addresses",
				 "0x%" PRIx64 " bytes at 0x%" PRIx64, size, base);
	if (i < bus->n && range->base <= base + size - 1) {
		error_set(err, -EEXIST, "realize", dev->name, "reg", "",
			  "%s at 0x%" PRIx64 " to 0x%" PRIx64, range->dev->name, range->base,
			  range->base + range->size - 1);
		error_expected(err, "nobody at 0x%" PRIx64 " to 0x%" PRIx64, base, base + size - 1);
		return -EEXIST;
	}
	if (bus->n == BUS_MAX_RANGES)
		return error_set(err, -ENOSPC, "realize", dev->name, "reg", "room on the bus",
				 "%u ranges already", bus->n);
	memmove(range + 1, range, (bus->n - i) * sizeof(*range));
	*range = (struct bus_range){ .base = base, .size = size, .dev = dev, .ops = ops };
	bus->n++;
	return 0;
}

void bus_remove(struct bus *bus, const struct device *dev)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < bus->n; i++) {
		if (bus->ranges[i].dev != dev)
			bus->ranges[kept++] = bus->ranges[i];
	}
	bus->n = kept;
}

/* The range that all of an access of a legal width lies in. */
static const struct bus_range *find(const struct bus *bus, uint64_t addr, unsigned int len)
{
	unsigned int i = lower_bound(bus, addr);
	const struct bus_range *range = &bus->ranges[i];

	if (len != 1 && len != 2 && len != 4 && len != 8)
		return NULL;
	if (i == bus->n || addr < range->base || range->size - (addr - range->base) < len)
		return NULL;
	return range;
}

int bus_read(struct bus *bus, uint64_t addr, void *data, unsigned int len)
{
	const struct bus_range *range = find(bus, addr, len);

	memset(data, 0xff, len);
	if (!range)
		return -ENXIO;
	pthread_mutex_lock(&range->dev->lock);
	range->ops->read(range->dev, addr - range->base, data, len);
	pthread_mutex_unlock(&range->dev->lock);
	return 0;
}

int bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned int len)
{
	const struct bus_range *range = find(bus, addr, len);

	if (!range)
		return -ENXIO;
	pthread_mutex_lock(&range->dev->lock);
	range->ops->write(range->dev, addr - range->base, data, len);
	pthread_mutex_unlock(&range->dev->lock);
	return 0;
}
