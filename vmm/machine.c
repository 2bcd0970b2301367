/* SPDX-License-Identifier: BSD-2-Clause */
/* Building the machine that a tree describes, and taking it apart. */
#include "vmm/machine.h"

#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/device-registry.h"
#include "vmm/tree.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

static void *device_state(struct device *dev)
{
	return (char *)dev + dev->class->state_offset;
}

static void destroy_device(struct device *dev)
{
	if (dev->class->unrealize)
		dev->class->unrealize(dev);
	device_release_ranges(dev);
	pthread_mutex_destroy(&dev->lock);
	free(dev);
}

static int create_device(struct vm *vm, const struct device_class *class, int node,
			 struct device ***tail, struct error *err)
{
	struct device *dev = calloc(1, class->size);
	int ret;

	if (!dev)
		return error_set(err, -ENOMEM, "realize", class->name, "", "memory", "none");
	dev->vm = vm;
	dev->class = class;
	snprintf(dev->name, sizeof(dev->name), "%s", fdt_get_name(vm->tree, node, NULL));
	pthread_mutex_init(&dev->lock, NULL);
	if (class->fields)
		state_reset(class->fields, device_state(dev));
	ret = class->realize(dev, vm->tree, node, err);
	if (ret < 0) {
		destroy_device(dev);
		return ret;
	}
	**tail = dev;
	*tail = &dev->next;
	return 0;
}

/* Every node with a "compatible" is a device, except the containers. */
static bool is_container(const void *fdt, int node)
{
	return fdt_node_check_compatible(fdt, node, "isa") == 0 ||
	       fdt_node_check_compatible(fdt, node, arch_machine()) == 0;
}

static int create_devices(struct vm *vm, struct error *err)
{
	struct device **tail = &vm->devices;
	int ret, node;

	for (node = fdt_next_node(vm->tree, -1, NULL); node >= 0;
	     node = fdt_next_node(vm->tree, node, NULL)) {
		const char *name = fdt_getprop(vm->tree, node, "compatible", NULL);
		const struct device_class *class = device_class_find(vm->tree, node);

		if (!name || is_container(vm->tree, node))
			continue;
		if (!class)
			return error_set(err, -ENODEV, "realize",
					 fdt_get_name(vm->tree, node, NULL), "compatible",
					 "a device that this build has", "%s", name);
		ret = create_device(vm, class, node, &tail, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int create_memory(struct vm *vm, struct error *err)
{
	int node = fdt_path_offset(vm->tree, "/memory@0");
	const char *backing = device_node_string(vm->tree, node, "host-backing");
	enum memory_backing kind = MEMORY_ANON;
	uint64_t start, end, size = 0;
	const fdt64_t *reg;
	int len;

	reg = fdt_getprop(vm->tree, node, "reg", &len);
	if (!reg || len <= 0 || len % 16)
		return error_set(err, -EINVAL, "realize", "memory@0", "reg",
				 "pairs of address and size", "%d bytes", len);
	for (int i = 1; i < len / 8; i += 2)
		size += fdt64_ld(&reg[i]);
	if (backing && strcmp(backing, "hugetlb") == 0)
		kind = MEMORY_HUGETLB;
	else if (backing && strcmp(backing, "shared") == 0)
		kind = MEMORY_SHARED;
	else if (backing && strcmp(backing, "anon") != 0)
		return error_set(err, -EINVAL, "realize", "memory@0", "host-backing",
				 "anon, hugetlb or shared", "%s", backing);
	arch_memory_hole(&start, &end);
	return memory_alloc(&vm->memory, size, kind, start, end, err);
}

static int create_vcpus(struct vm *vm, struct error *err)
{
	int cpus = fdt_path_offset(vm->tree, "/cpus");
	unsigned int n = 0, max = kvm_max_vcpus(vm);
	int node, ret;

	if (cpus < 0)
		return error_set(err, -EINVAL, "realize", "cpus", "", "a node in the tree", "none");
	fdt_for_each_subnode (node, vm->tree, cpus)
		n++;
	if (n < 1 || n > max) {
		error_set(err, -EINVAL, "realize", "cpus", "", "", "%u vCPUs", n);
		error_expected(err, "1 to %u vCPUs", max);
		return -EINVAL;
	}
	while (vm->n_vcpus < n) {
		ret = vcpu_create(vm, vm->n_vcpus, &vm->vcpus[vm->n_vcpus], err);
		if (ret < 0)
			return ret;
		vm->n_vcpus++;
	}
	return 0;
}

static int realize(struct vm *vm, struct error *err)
{
	int ret;

	vm->kvm_fd = kvm_open(err);
	if (vm->kvm_fd < 0)
		return vm->kvm_fd;
	if ((ret = create_memory(vm, err)) < 0 || (ret = kvm_create_vm(vm, err)) < 0 ||
	    (ret = arch_vm_init(vm, err)) < 0 || (ret = create_vcpus(vm, err)) < 0 ||
	    (ret = create_devices(vm, err)) < 0)
		return ret;
	machine_reset(vm);
	return 0;
}

int vm_realize(struct vm *vm, const void *fdt, bool incoming, struct error *err)
{
	size_t size = fdt_totalsize(fdt);
	const char *name;
	int ret;

	vm->tree = malloc(size);
	if (!vm->tree)
		return error_set(err, -ENOMEM, "realize", "tree", "", "memory", "none");
	memcpy(vm->tree, fdt, size);
	ret = machine_tree_check(vm->tree, size, err);
	if (ret == 0)
		ret = realize(vm, err);
	if (ret == 0 && !incoming)
		ret = vm_claim(vm, err);
	if (ret < 0) {
		machine_unrealize(vm);
		return ret;
	}
	name = device_node_string(vm->tree, 0, "ferry,name");
	vm->name = name ? strdup(name) : NULL;
	return 0;
}

void machine_reset(struct vm *vm)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->fields)
			state_reset(dev->class->fields, device_state(dev));
		if (dev->class->reset)
			dev->class->reset(dev);
	}
}

void machine_unrealize(struct vm *vm)
{
	while (vm->devices) {
		struct device *dev = vm->devices;

		vm->devices = dev->next;
		destroy_device(dev);
	}
	while (vm->n_vcpus > 0)
		vcpu_destroy(vm->vcpus[--vm->n_vcpus]);
	arch_vm_free(vm);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	vm->fd = vm->kvm_fd = -1;
	memory_free(&vm->memory);
	free(vm->tree);
	free(vm->name);
	vm->tree = vm->name = NULL;
}
