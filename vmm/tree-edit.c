/* SPDX-License-Identifier: BSD-2-Clause */
/* Machine trees made from others: with another host's names, and without any for the guest. */
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/arch.h"
#include "vmm/tree.h"

#define HOST	   "host-"
#define GUEST_ROOM 256 /* for what the guest's tree has in addition */
#define BOOT_ROOM  128 /* for /chosen and the names of two properties */

static bool is_host(const char *property)
{
	return strncmp(property, HOST, strlen(HOST)) == 0;
}

/* Remove the "host-…" properties of @node. */
static int remove_host(void *fdt, int node)
{
	int offset = fdt_first_property_offset(fdt, node);
	const char *name;

	while (offset >= 0) {
		int ret = 0;

		if (!fdt_getprop_by_offset(fdt, offset, &name, &ret))
			return ret;
		if (!is_host(name)) {
			offset = fdt_next_property_offset(fdt, offset);
			continue;
		}
		ret = fdt_delprop(fdt, node, name);
		if (ret < 0)
			return ret;
		offset = fdt_first_property_offset(fdt, node);
	}
	return 0;
}

/* Give @node of @fdt the "host-…" properties of @from of @local instead of its own. */
static int replace_host(void *fdt, int node, const void *local, int from)
{
	int offset, len, ret = remove_host(fdt, node);

	fdt_for_each_property_offset (offset, local, from) {
		const char *name;
		const void *value = fdt_getprop_by_offset(local, offset, &name, &len);

		if (value && is_host(name))
			ret = ret ? ret : fdt_setprop(fdt, node, name, value, len);
	}
	return ret;
}

static const char *class_of(const void *fdt, int node)
{
	return fdt_stringlist_get(fdt, node, "compatible", 0, NULL);
}

/* The @n-th node of @class (counting from 0), a libfdt error if there are fewer. */
static int find_nth(const void *fdt, const char *class, unsigned int n)
{
	int node = -1;

	do {
		node = fdt_node_offset_by_compatible(fdt, node, class);
	} while (node >= 0 && n-- > 0);
	return node;
}

/* How many nodes of @class come before @node? */
static unsigned int count_before(const void *fdt, const char *class, int node)
{
	unsigned int n = 0;

	while (find_nth(fdt, class, n) < node)
		n++;
	return n;
}

/* Override by one node of @local; those without anything local to a host (the root) are passed. */
static int override_node(void *fdt, const void *local, int from, struct error *err)
{
	const char *class = class_of(local, from);
	unsigned int n;
	int node, ret;

	if (!class || from == 0 || strcmp(class, "isa") == 0)
		return 0;
	n = count_before(local, class, from);
	node = find_nth(fdt, class, n);
	if (node < 0) {
		error_set(err, -ENODEV, "options", class, "", "", "an option for one more");
		error_expected(err, "the %u of them that the machine has", n);
		return -ENODEV;
	}
	ret = replace_host(fdt, node, local, from);
	if (ret < 0)
		return error_set(err, -E2BIG, "options", class, "", "a tree below 1 MiB", "%s",
				 fdt_strerror(ret));
	return 0;
}

/* A copy of @fdt with room to grow by @more. */
static int copy_tree(const void *fdt, size_t more, void **out, struct error *err)
{
	size_t room = fdt_totalsize(fdt) + more;
	int ret;

	*out = malloc(room);
	if (!*out)
		return error_set(err, -ENOMEM, "machine tree", "/", "", "memory", "none");
	ret = fdt_open_into(fdt, *out, (int)room);
	if (ret == 0)
		return 0;
	free(*out);
	*out = NULL;
	return error_set(err, -EINVAL, "machine tree", "/", "", "a flattened device tree", "%s",
			 fdt_strerror(ret));
}

static int set_string(void *fdt, int node, const char *property, const char *value)
{
	return fdt_setprop(fdt, node, property, value, (int)strlen(value) + 1);
}

/* Put the files that options name into /chosen, in place of those of the former host. */
static int override_boot(void *fdt, const struct tree_locals *locals)
{
	int node = fdt_path_offset(fdt, "/chosen");
	int ret = node < 0 || !locals->foreign ? 0 : remove_host(fdt, node);

	if (ret < 0 || (!locals->kernel && !locals->initrd))
		return ret;
	if (node < 0)
		node = fdt_add_subnode(fdt, 0, "chosen");
	if (locals->kernel)
		ret = set_string(fdt, node, "host-kernel", locals->kernel);
	if (locals->initrd)
		ret = ret ? ret : set_string(fdt, node, "host-initrd", locals->initrd);
	return node < 0 ? node : ret;
}

/* What names nothing that the other host could have meant to reach here. */
static bool is_harmless(const char *value, int len)
{
	static const char *const words[] = { "stdio", "pty", "none", "anon", "shared", "hugetlb" };

	if (len == 0)
		return true; /* a flag */
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if ((size_t)len == strlen(words[i]) + 1 &&
		    memcmp(value, words[i], (size_t)len) == 0)
			return true;
	}
	return false;
}

/* Does a node of @local have the very same property? */
static bool is_said_here(const void *local, const char *property, const void *value, int len)
{
	for (int node = 0; node >= 0; node = fdt_next_node(local, node, NULL)) {
		int ours_len;
		const void *ours = fdt_getprop(local, node, property, &ours_len);

		if (ours && ours_len == len && memcmp(ours, value, (size_t)len) == 0)
			return true;
	}
	return false;
}

/* Whoever reaches our port could else have us open any file, socket or network by its name. */
static int refuse_foreign(const void *fdt, int node, const void *local, struct error *err)
{
	int offset, len;

	fdt_for_each_property_offset (offset, fdt, node) {
		const char *name, *value = fdt_getprop_by_offset(fdt, offset, &name, &len);

		if (!value || !is_host(name) || is_harmless(value, len) ||
		    is_said_here(local, name, value, len))
			continue;
		return error_set(err, -EPERM, "options", fdt_get_name(fdt, node, NULL), name,
				 "an option of ours for it, or --trust-source",
				 "%.*s, named by the source", len, value);
	}
	return 0;
}

static int apply_locals(void *fdt, const struct tree_locals *locals, struct error *err)
{
	int node, ret = 0;

	for (node = 0; node >= 0 && ret == 0; node = fdt_next_node(locals->devices, node, NULL))
		ret = override_node(fdt, locals->devices, node, err);
	if (ret == 0 && (ret = override_boot(fdt, locals)) < 0)
		error_set(err, -E2BIG, "options", "chosen", "", "a tree below 1 MiB", "%s",
			  fdt_strerror(ret));
	if (!locals->foreign)
		return ret;
	node = fdt_path_offset(fdt, "/chosen");
	for (int n = 0; n >= 0 && ret == 0; n = fdt_next_node(fdt, n, NULL)) {
		if (n != node)
			ret = refuse_foreign(fdt, n, locals->devices, err);
	}
	return ret;
}

int machine_tree_override(const void *fdt, const struct tree_locals *locals, void **out,
			  struct error *err)
{
	size_t more = fdt_totalsize(locals->devices) + BOOT_ROOM;
	int ret;

	more += locals->kernel ? strlen(locals->kernel) : 0;
	more += locals->initrd ? strlen(locals->initrd) : 0;
	ret = copy_tree(fdt, more, out, err);
	if (ret < 0)
		return ret;
	ret = apply_locals(*out, locals, err);
	if (ret < 0) {
		free(*out);
		*out = NULL;
		return ret;
	}
	fdt_pack(*out);
	return 0;
}

static int add_initrd(void *fdt, uint64_t initrd, uint64_t size)
{
	int node = fdt_path_offset(fdt, "/chosen"), ret;

	if (size == 0)
		return 0;
	if (node == -FDT_ERR_NOTFOUND)
		node = fdt_add_subnode(fdt, 0, "chosen");
	if (node < 0)
		return node;
	ret = fdt_setprop_u64(fdt, node, "linux,initrd-start", initrd);
	return ret ? ret : fdt_setprop_u64(fdt, node, "linux,initrd-end", initrd + size);
}

int machine_tree_for_guest(const void *fdt, uint64_t initrd, uint64_t initrd_size, void **out,
			   struct error *err)
{
	int ret = copy_tree(fdt, GUEST_ROOM + arch_guest_tree_room(fdt), out, err);

	if (ret < 0)
		return ret;
	for (int node = 0; node >= 0 && ret == 0; node = fdt_next_node(*out, node, NULL))
		ret = remove_host(*out, node);
	ret = ret ? ret : add_initrd(*out, initrd, initrd_size);
	ret = ret ? ret : arch_guest_tree(*out);
	ret = ret ? ret : fdt_pack(*out);
	if (ret < 0) {
		free(*out);
		*out = NULL;
		return error_set(err, -EINVAL, "boot", "machine tree", "", "a tree for the guest",
				 "%s", fdt_strerror(ret));
	}
	return 0;
}
