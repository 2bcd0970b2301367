/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of the whole machine as one tree: a node a device, by the tables of their classes.
 *
 * Loading parses and validates everything into staging copies first. Nothing has been touched when
 * that fails; only then are the copies applied, stage by stage.
 */
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vm.h"

#define STATE_MAX_SIZE (16U << 20)
#define STATE_GUESS    (64U << 10)

static void *device_state(const struct device *dev)
{
	return (char *)(uintptr_t)dev + dev->class->state_offset;
}

static int save_devices(struct vm *vm, void *fdt)
{
	int ret = fdt_finish_reservemap(fdt);

	ret = ret ? ret : fdt_begin_node(fdt, "");
	ret = ret ? ret : fdt_property_u32(fdt, "version", STATE_VERSION);
	for (struct device *dev = vm->devices; dev && ret == 0; dev = dev->next) {
		if (!dev->class->fields)
			continue;
		ret = fdt_begin_node(fdt, dev->name);
		ret = ret ? ret : state_save(fdt, dev->class->fields, device_state(dev));
		ret = ret ? ret : fdt_end_node(fdt);
	}
	ret = ret ? ret : fdt_end_node(fdt);
	return ret ? ret : fdt_finish(fdt);
}

int vm_save_state(struct vm *vm, void **out, struct error *err)
{
	int ret;

	*out = NULL;
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		ret = dev->class->pre_save ? dev->class->pre_save(dev, err) : 0;
		if (ret < 0)
			return ret;
	}
	for (unsigned int size = STATE_GUESS; size <= STATE_MAX_SIZE; size *= 2) {
		/* libfdt leaves padding as it was, and nothing of ours shall go out in it. */
		void *fdt = calloc(1, size);

		if (!fdt)
			break;
		ret = fdt_create(fdt, (int)size);
		ret = ret ? ret : save_devices(vm, fdt);
		if (ret == 0) {
			*out = fdt;
			return 0;
		}
		free(fdt);
		if (ret != -FDT_ERR_NOSPACE)
			return error_set(err, -EINVAL, "save", "state", "", "a state tree", "%s",
					 fdt_strerror(ret));
	}
	return error_set(err, -ENOMEM, "save", "state", "", "memory for the state tree", "none");
}

/* What no device of this machine answers to is an error, unless marked by '?'. */
static int check_nodes(struct vm *vm, const void *fdt, struct error *err)
{
	int node, offset;

	fdt_for_each_property_offset (offset, fdt, 0) {
		const char *name;

		if (fdt_getprop_by_offset(fdt, offset, &name, NULL) && name[0] != '?' &&
		    strcmp(name, "version") != 0)
			return error_set(err, -EINVAL, "load", "state", name,
					 "a field that this build knows", "another");
	}
	fdt_for_each_subnode (node, fdt, 0) {
		const char *name = fdt_get_name(fdt, node, NULL);
		struct device *dev = vm->devices;

		while (dev && (!dev->class->fields || strcmp(dev->name, name) != 0))
			dev = dev->next;
		if (!dev && name[0] != '?')
			return error_set(err, -EINVAL, "load", name, "", "a device of this machine",
					 "a node without one");
		if (dev && fdt_subnode_offset(fdt, 0, name) != node)
			return error_set(err, -EINVAL, "load", name, "", "one node", "two");
	}
	return 0;
}

static int stage_device(struct device *dev, const void *fdt, unsigned int version, void **staged,
			struct error *err)
{
	int node = fdt_subnode_offset(fdt, 0, dev->name);
	int ret;

	if (node < 0)
		return error_set(err, -EINVAL, "load", dev->name, "", "its state", "none");
	*staged = malloc(dev->class->state_size);
	if (!*staged)
		return error_set(err, -ENOMEM, "load", dev->name, "", "memory", "none");
	memcpy(*staged, device_state(dev), dev->class->state_size);
	ret = state_load(fdt, node, dev->class->fields, *staged, version, dev->name, err);
	if (ret == 0 && dev->class->check)
		ret = dev->class->check(dev, *staged, err);
	return ret;
}

static int stage_all(struct vm *vm, const void *fdt, size_t size, void **staged, struct error *err)
{
	struct device *dev = vm->devices;
	const fdt32_t *version;
	int len, ret = fdt_check_full(fdt, size);

	if (ret < 0)
		return error_set(err, -EINVAL, "load", "state", "", "a state tree", "%s",
				 fdt_strerror(ret));
	version = fdt_getprop(fdt, 0, "version", &len);
	if (!version || len != 4 || fdt32_ld(version) < 1 || fdt32_ld(version) > STATE_VERSION) {
		error_set(err, -EINVAL, "load", "state", "version", "", "%u",
			  version && len == 4 ? fdt32_ld(version) : 0);
		error_expected(err, "1 to %d", STATE_VERSION);
		return -EINVAL;
	}
	ret = check_nodes(vm, fdt, err);
	for (unsigned int i = 0; dev && ret == 0; dev = dev->next, i++) {
		if (dev->class->fields)
			ret = stage_device(dev, fdt, fdt32_ld(version), &staged[i], err);
	}
	return ret;
}

static int apply_all(struct vm *vm, void **staged, struct error *err)
{
	for (int stage = 0; stage < STAGES; stage++) {
		struct device *dev = vm->devices;

		for (unsigned int i = 0; dev; dev = dev->next, i++) {
			int ret = 0;

			if (!staged[i] || (int)dev->class->stage != stage)
				continue;
			memcpy(device_state(dev), staged[i], dev->class->state_size);
			if (dev->class->post_load)
				ret = dev->class->post_load(dev, err);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

int vm_load_state(struct vm *vm, const void *fdt, size_t size, bool *applied, struct error *err)
{
	unsigned int n = 0;
	void **staged;
	int ret;

	*applied = false;
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		n++;
	staged = calloc(n + 1, sizeof(*staged));
	if (!staged)
		return error_set(err, -ENOMEM, "load", "state", "", "memory", "none");
	ret = stage_all(vm, fdt, size, staged, err);
	if (ret == 0) {
		*applied = true;
		ret = apply_all(vm, staged, err);
	}
	for (unsigned int i = 0; i < n; i++)
		free(staged[i]);
	free(staged);
	return ret;
}

int vm_claim(struct vm *vm, struct error *err)
{
	int given = memory_check_given(&vm->memory, err);

	if (given < 0)
		return given;
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		int ret = dev->class->claim ? dev->class->claim(dev, err) : 0;

		if (ret < 0) {
			vm_yield(vm);
			return ret;
		}
	}
	return 0;
}

void vm_yield(struct vm *vm)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->yield)
			dev->class->yield(dev);
	}
}

void vm_announce(struct vm *vm)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->announce)
			dev->class->announce(dev);
	}
}
