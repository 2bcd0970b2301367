/* SPDX-License-Identifier: BSD-2-Clause */
/* From those who care about a guest's use of its RAM to the devices that know of it, and back. */
#include "vmm/vm.h"

struct device *vm_ram_device(struct vm *vm)
{
	struct device *dev = vm->devices;

	while (dev && !(dev->class->ram && dev->class->ram->resize))
		dev = dev->next;
	return dev;
}

void device_ram_changed(struct device *dev, uint64_t bytes)
{
	for (struct vm_listener *l = dev->vm->listeners, *next; l; l = next) {
		next = l->next;
		if (l->ram)
			l->ram(l->opaque, bytes);
	}
}

static bool can_hint(const struct device *dev)
{
	return dev->class->ram && dev->class->ram->hint_start;
}

bool vm_can_hint(const struct vm *vm)
{
	const struct device *dev = vm->devices;

	while (dev && !can_hint(dev))
		dev = dev->next;
	return dev;
}

void vm_hint_start(struct vm *vm, struct page_hints *hints)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (can_hint(dev))
			dev->class->ram->hint_start(dev, hints);
	}
}

void vm_hint_stop(struct vm *vm, bool over)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (can_hint(dev))
			dev->class->ram->hint_stop(dev, over);
	}
}
