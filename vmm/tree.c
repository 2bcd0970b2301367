/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Building the machine tree. Nodes are collected as options come and written in one go at the end,
 * because a flattened tree only grows at its end and ports belong under one "isa" node.
 */
#include "vmm/tree.h"

#include <errno.h>
#include <inttypes.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/arch.h"
#include "vmm/device.h"
#include "vmm/memory.h"

#define MAX_CLASSES 64
#define ISA_IO	    1 /* first cell of an ISA address: this is a port (IEEE 1275 ISA binding) */

struct tree_property {
	struct tree_property *next;
	char name[32];
	size_t len;
	char data[];
};

struct tree_node {
	struct tree_node *next;
	const struct device_class *class;
	bool isa;
	char name[64];
	struct tree_property *properties, **tail;
};

struct machine_tree {
	const struct machine_options *opt; /* NULL for a tree of devices only */
	struct machine_options options;
	struct tree_node *nodes, **tail;
	struct tree_node *open;
	unsigned int slots; /* MMIO slots that are taken */
	struct error err;   /* the first, sticky */
};

int machine_tree_new(struct machine_tree **out, const struct machine_options *opt,
		     struct error *err)
{
	struct machine_tree *mt = calloc(1, sizeof(*mt));

	*out = mt;
	if (!mt)
		return error_set(err, -ENOMEM, "options", "machine tree", "", "memory", "none");
	mt->tail = &mt->nodes;
	if (opt) {
		mt->options = *opt;
		mt->opt = &mt->options;
	}
	return 0;
}

void machine_tree_free(struct machine_tree *mt)
{
	while (mt && mt->nodes) {
		struct tree_node *node = mt->nodes;

		mt->nodes = node->next;
		while (node->properties) {
			struct tree_property *p = node->properties;

			node->properties = p->next;
			free(p);
		}
		free(node);
	}
	free(mt);
}

/* Pass the sticky error on. */
static int report(const struct machine_tree *mt, struct error *err)
{
	if (mt->err.code && err && !err->code)
		*err = mt->err;
	return mt->err.code;
}

static void add_property(struct machine_tree *mt, const char *name, const void *data, size_t len)
{
	struct tree_property *p;

	if (!mt->open || mt->err.code)
		return;
	p = calloc(1, sizeof(*p) + len);
	if (!p || len > TREE_MAX_SIZE || strlen(name) >= sizeof(p->name)) {
		error_set(&mt->err, -E2BIG, "options", mt->open->name, name,
			  "a property that fits into a tree", "one of %zu bytes", len);
		free(p);
		return;
	}
	strcpy(p->name, name);
	p->len = len;
	if (len)
		memcpy(p->data, data, len);
	*mt->open->tail = p;
	mt->open->tail = &p->next;
}

void machine_tree_string(struct machine_tree *mt, const char *property, const char *value)
{
	add_property(mt, property, value, strlen(value) + 1);
}

void machine_tree_u64(struct machine_tree *mt, const char *property, uint64_t value)
{
	fdt64_t v = cpu_to_fdt64(value);

	add_property(mt, property, &v, sizeof(v));
}

void machine_tree_flag(struct machine_tree *mt, const char *property)
{
	add_property(mt, property, NULL, 0);
}

/* Open a node; from here on every failure is kept in mt->err. */
static struct tree_node *begin(struct machine_tree *mt, const struct device_class *class,
			       const char *type)
{
	struct tree_node *node = calloc(1, sizeof(*node));
	char compatible[128];
	int len;

	if (!node) {
		error_set(&mt->err, -ENOMEM, "options", class->name, "", "memory", "none");
		return NULL;
	}
	node->class = class;
	node->tail = &node->properties;
	*mt->tail = node;
	mt->tail = &node->next;
	mt->open = node;
	len = snprintf(compatible, sizeof(compatible), "%s%c%s", class->compatible, 0,
		       type ? type : "");
	add_property(mt, "compatible", compatible, (size_t)len + (type ? 1 : 0));
	return node;
}

static void add_interrupt(struct machine_tree *mt, uint32_t gsi)
{
	fdt32_t cell = cpu_to_fdt32(gsi);

	add_property(mt, "interrupts", &cell, sizeof(cell));
}

int machine_tree_begin_mmio(struct machine_tree *mt, const struct device_class *class,
			    const char *type, struct error *err)
{
	uint64_t gpa, size;
	uint32_t gsi;
	fdt64_t reg[2];

	if (arch_mmio_slot(mt->slots, &gpa, &size, &gsi) < 0) {
		error_set(&mt->err, -ENOSPC, "options", class->name, "", "", "one more");
		error_expected(&mt->err, "at most %u MMIO devices", mt->slots);
		return report(mt, err);
	}
	mt->slots++;
	if (begin(mt, class, type)) {
		snprintf(mt->open->name, sizeof(mt->open->name), "%s@%" PRIx64, class->name, gpa);
		reg[0] = cpu_to_fdt64(gpa);
		reg[1] = cpu_to_fdt64(size);
		add_property(mt, "reg", reg, sizeof(reg));
		add_interrupt(mt, gsi);
	}
	return report(mt, err);
}

int machine_tree_begin_pio(struct machine_tree *mt, const struct device_class *class,
			   const char *type, uint64_t port, uint32_t n_ports, int gsi,
			   struct error *err)
{
	fdt32_t reg[3] = { cpu_to_fdt32(ISA_IO), cpu_to_fdt32((uint32_t)port),
			   cpu_to_fdt32(n_ports) };

	if (begin(mt, class, type)) {
		mt->open->isa = true;
		snprintf(mt->open->name, sizeof(mt->open->name), "%s@%" PRIx64, class->name, port);
		add_property(mt, "reg", reg, sizeof(reg));
		if (gsi >= 0)
			add_interrupt(mt, (uint32_t)gsi);
	}
	return report(mt, err);
}

static unsigned int count_class(const struct machine_tree *mt, const struct device_class *class)
{
	unsigned int n = 0;

	for (const struct tree_node *node = mt->nodes; node; node = node->next)
		n += strcmp(node->class->compatible, class->compatible) == 0;
	return n;
}

int machine_tree_begin(struct machine_tree *mt, const struct device_class *class, struct error *err)
{
	unsigned int before = count_class(mt, class);

	if (begin(mt, class, NULL)) {
		snprintf(mt->open->name, sizeof(mt->open->name), before ? "%s-%u" : "%s",
			 class->name, before);
	}
	return report(mt, err);
}

int machine_tree_end(struct machine_tree *mt, struct error *err)
{
	mt->open = NULL;
	return report(mt, err);
}

static int by_name(const void *a, const void *b)
{
	const struct device_class *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

/* What no option asked for. In the order of names: that of the linker is nobody's business. */
static int add_defaults(struct machine_tree *mt, struct error *err)
{
	const struct device_class *classes[MAX_CLASSES];
	unsigned int n = 0;
	int ret = 0;

	for_each_class (pp) {
		if ((*pp)->option.add_default && n < MAX_CLASSES)
			classes[n++] = *pp;
	}
	qsort(classes, n, sizeof(classes[0]), by_name);
	for (unsigned int i = 0; i < n && ret == 0; i++) {
		if (count_class(mt, classes[i]) == 0)
			ret = classes[i]->option.add_default(mt, err);
	}
	return ret;
}

static int put_string(void *fdt, const char *name, const char *text)
{
	return fdt_property(fdt, name, text, (int)strlen(text) + 1);
}

static int write_root(const struct machine_tree *mt, void *fdt)
{
	int ret = fdt_begin_node(fdt, "");

	ret = ret ? ret : put_string(fdt, "compatible", arch_machine());
	ret = ret ? ret : put_string(fdt, "model", "ferry");
	ret = ret ? ret : put_string(fdt, "ferry,version", FERRY_VERSION);
	if (mt->opt && mt->opt->name)
		ret = ret ? ret : put_string(fdt, "ferry,name", mt->opt->name);
	ret = ret ? ret : fdt_property_u32(fdt, "#address-cells", 2);
	return ret ? ret : fdt_property_u32(fdt, "#size-cells", 2);
}

static int write_chosen(const struct machine_options *opt, void *fdt)
{
	int ret = fdt_begin_node(fdt, "chosen");

	ret = ret ? ret : put_string(fdt, "bootargs", opt->cmdline ? opt->cmdline : "");
	if (opt->kernel)
		ret = ret ? ret : put_string(fdt, "host-kernel", opt->kernel);
	if (opt->flat)
		ret = ret ? ret : fdt_property_u64(fdt, "ferry,flat-address", opt->flat_address);
	if (opt->initrd)
		ret = ret ? ret : put_string(fdt, "host-initrd", opt->initrd);
	return ret ? ret : fdt_end_node(fdt);
}

static int write_memory(const struct machine_options *opt, void *fdt)
{
	uint64_t hole, end, low;
	fdt64_t reg[4];
	int ret;

	arch_memory_hole(&hole, &end);
	low = opt->memory < hole ? opt->memory : hole;
	reg[0] = 0;
	reg[1] = cpu_to_fdt64(low);
	reg[2] = cpu_to_fdt64(end);
	reg[3] = cpu_to_fdt64(opt->memory - low);
	ret = fdt_begin_node(fdt, "memory@0");
	ret = ret ? ret : put_string(fdt, "device_type", "memory");
	ret = ret ? ret : fdt_property(fdt, "reg", reg, opt->memory > low ? 32 : 16);
	ret = ret ? ret : put_string(fdt, "host-backing", opt->backing ? opt->backing : "anon");
	return ret ? ret : fdt_end_node(fdt);
}

static int write_node(const struct tree_node *node, void *fdt)
{
	int ret = fdt_begin_node(fdt, node->name);

	for (const struct tree_property *p = node->properties; p && ret == 0; p = p->next)
		ret = fdt_property(fdt, p->name, p->data, (int)p->len);
	return ret ? ret : fdt_end_node(fdt);
}

static int write_devices(const struct machine_tree *mt, bool isa, void *fdt)
{
	int ret = 0;

	for (const struct tree_node *node = mt->nodes; node && ret == 0; node = node->next) {
		if (node->isa == isa)
			ret = write_node(node, fdt);
	}
	return ret;
}

static int write_isa(const struct machine_tree *mt, void *fdt)
{
	int ret = fdt_begin_node(fdt, "isa");

	ret = ret ? ret : put_string(fdt, "compatible", "isa");
	ret = ret ? ret : fdt_property_u32(fdt, "#address-cells", 2);
	ret = ret ? ret : fdt_property_u32(fdt, "#size-cells", 1);
	ret = ret ? ret : write_devices(mt, true, fdt);
	return ret ? ret : fdt_end_node(fdt);
}

/* All of the tree into @fdt, which has room for TREE_MAX_SIZE. Returns 0 or a libfdt error. */
static int write_tree(const struct machine_tree *mt, void *fdt)
{
	int ret = fdt_create(fdt, TREE_MAX_SIZE);

	ret = ret ? ret : fdt_finish_reservemap(fdt);
	ret = ret ? ret : write_root(mt, fdt);
	if (mt->opt) {
		ret = ret ? ret : write_chosen(mt->opt, fdt);
		ret = ret ? ret : write_memory(mt->opt, fdt);
	}
	ret = ret ? ret : write_isa(mt, fdt);
	ret = ret ? ret : write_devices(mt, false, fdt);
	ret = ret ? ret : fdt_end_node(fdt);
	ret = ret ? ret : fdt_finish(fdt);
	if (mt->opt) {
		/* Adding a node to a finished tree puts it in front of its siblings. */
		ret = ret ? ret : fdt_open_into(fdt, fdt, TREE_MAX_SIZE);
		ret = ret ? ret : arch_tree(fdt, mt->opt->cpus);
	}
	return ret ? ret : fdt_pack(fdt);
}

int machine_tree_finish(struct machine_tree *mt, void **out, struct error *err)
{
	void *fdt = malloc(TREE_MAX_SIZE); /* what is not written to is never allocated */
	int ret = 0;

	*out = NULL;
	if (!fdt)
		ret = error_set(err, -ENOMEM, "options", "machine tree", "", "memory", "none");
	if (ret == 0 && mt->opt)
		ret = add_defaults(mt, err);
	if (ret == 0)
		ret = report(mt, err);
	if (ret == 0 && (ret = write_tree(mt, fdt)) < 0)
		ret = error_set(err, -E2BIG, "options", "machine tree", "", "a tree below 1 MiB",
				"%s", fdt_strerror(ret));
	if (ret == 0 && mt->opt && mt->opt->cpu)
		ret = arch_tree_cpu(fdt, TREE_MAX_SIZE, mt->opt->cpu, err);
	if (ret == 0 && mt->opt)
		ret = machine_tree_check(fdt, fdt_totalsize(fdt), err);
	machine_tree_free(mt);
	if (ret < 0) {
		free(fdt);
		return ret;
	}
	*out = realloc(fdt, fdt_totalsize(fdt));
	return 0;
}
