/* SPDX-License-Identifier: BSD-2-Clause */
/* From a node of a tree to the class of device it asks for. */
#ifndef VMM_DEVICE_REGISTRY_H
#define VMM_DEVICE_REGISTRY_H

#include "vmm/device.h"

/* The class that the first known string of the node's "compatible" names, NULL if there is none.
 * Any thread. */
const struct device_class *device_class_find(const void *fdt, int node);

#endif
