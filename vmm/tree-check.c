/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Is this a machine tree? Asked of files and of what comes in a stream, before anything else looks
 * at it. Only the shape is checked here; each device checks its own node when it is realized.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libfdt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/memory.h"
#include "vmm/tree.h"

#define MAX_DEPTH 8
#define MAX_NODES 512 /* vCPUs have one each, and so has a device */
#define MAX_NAME  63  /* of struct device */

__attribute__((format(printf, 5, 6))) static int refuse(const char *node, const char *field,
							const char *expected, struct error *err,
							const char *fmt, ...)
{
	char got[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(got, sizeof(got), fmt, ap);
	va_end(ap);
	return error_set(err, -EINVAL, "machine tree", node, field, expected, "%s", got);
}

static int check_cells(const void *fdt, const char *property, struct error *err)
{
	int len;
	const fdt32_t *cell = fdt_getprop(fdt, 0, property, &len);

	if (!cell || len != 4 || fdt32_ld(cell) != 2)
		return refuse("/", property, "2", err, cell ? "something else" : "nothing");
	return 0;
}

static int check_root(const void *fdt, struct error *err)
{
	const char *compatible = fdt_stringlist_get(fdt, 0, "compatible", 0, NULL);
	int ret;

	if (!compatible || strcmp(compatible, arch_machine()) != 0)
		return refuse("/", "compatible", arch_machine(), err, "%s",
			      compatible ? compatible : "nothing");
	ret = check_cells(fdt, "#address-cells", err);
	return ret ? ret : check_cells(fdt, "#size-cells", err);
}

/* Names are unique in all of the tree, because state is found by them. */
static int check_nodes(const void *fdt, struct error *err)
{
	const char *names[MAX_NODES];
	unsigned int n = 0;
	int depth = 0, len;

	for (int node = 0; node >= 0 && depth >= 0; node = fdt_next_node(fdt, node, &depth)) {
		const char *name = fdt_get_name(fdt, node, &len);

		if (!name || len > MAX_NAME)
			return refuse("/", "nodes", "names of at most 63 bytes", err, "%s",
				      name ? name : fdt_strerror(len));
		if (depth > MAX_DEPTH)
			return refuse(name, "", "at most 8 levels", err, "more");
		if (n == MAX_NODES)
			return refuse(name, "", "at most 512 nodes", err, "more");
		for (unsigned int i = 0; i < n; i++) {
			if (strcmp(names[i], name) == 0)
				return refuse(name, "", "one node of that name", err, "two");
		}
		names[n++] = name;
	}
	return 0;
}

/* Read the regions of RAM and see that they are laid out as this machine does it. */
static int check_memory(const void *fdt, struct error *err)
{
	uint64_t hole, end, low, high;
	const fdt64_t *reg;
	int len;

	reg = fdt_getprop(fdt, fdt_path_offset(fdt, "/memory@0"), "reg", &len);
	if (!reg || (len != 16 && len != 32))
		return refuse("memory@0", "reg", "one or two ranges", err,
			      reg ? "something else" : "nothing");
	arch_memory_hole(&hole, &end);
	low = fdt64_ld(&reg[1]);
	high = len == 32 ? fdt64_ld(&reg[3]) : 0;
	if (low < MEMORY_MIN || low % PAGE_SIZE || high % PAGE_SIZE)
		return refuse("memory@0", "size", "at least 2 MiB, in steps of 4 KiB", err,
			      "%" PRIu64 " bytes", low + high);
	if (fdt64_ld(&reg[0]) != 0 || low > hole ||
	    (len == 32 &&
	     (low != hole || fdt64_ld(&reg[2]) != end || high == 0 || high > INT64_MAX - end))) {
		refuse("memory@0", "reg", "", err, "another layout");
		error_expected(err, "RAM from 0 to at most 0x%" PRIx64 ", the rest from 0x%" PRIx64,
			       hole, end);
		return -EINVAL;
	}
	return 0;
}

int machine_tree_check(const void *fdt, size_t size, struct error *err)
{
	int ret;

	if (size > TREE_MAX_SIZE)
		return refuse("/", "size", "at most 1 MiB", err, "%zu bytes", size);
	ret = fdt_check_full(fdt, size);
	if (ret < 0)
		return refuse("/", "", "a flattened device tree", err, "%s", fdt_strerror(ret));
	ret = check_root(fdt, err);
	ret = ret ? ret : check_nodes(fdt, err);
	return ret ? ret : check_memory(fdt, err);
}

/* Read at most @room bytes of @fd; returns the number or a negative errno. */
static ssize_t read_all(int fd, char *buf, size_t room)
{
	size_t done = 0;

	while (done < room) {
		ssize_t n = read(fd, buf + done, room - done);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			break;
		if (n > 0)
			done += (size_t)n;
	}
	return (ssize_t)done;
}

int machine_tree_read(const char *path, void **out, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *fdt = malloc(TREE_MAX_SIZE + 1);
	ssize_t n = fd < 0 ? -errno : -ENOMEM;
	int ret;

	*out = NULL;
	if (fd >= 0 && fdt)
		n = read_all(fd, fdt, TREE_MAX_SIZE + 1);
	if (fd >= 0)
		close(fd);
	if (n < 0)
		ret = error_set(err, (int)n, "machine tree", path, "", "a readable file", "%s",
				strerror((int)-n));
	else
		ret = machine_tree_check(fdt, (size_t)n, err);
	/* Say which file it was that a node or property is missing from. */
	if (n >= 0 && ret < 0 && err && strcmp(err->device, "/") == 0)
		snprintf(err->device, sizeof(err->device), "%s", path);
	if (ret < 0) {
		free(fdt);
		return ret;
	}
	*out = realloc(fdt, (size_t)n);
	return 0;
}
