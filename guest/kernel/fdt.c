/* SPDX-License-Identifier: BSD-2-Clause */
/* Devicetree Specification 0.4, chapter 5: the flattened format. */
#include "fdt.h"
#include "mem.h"

enum {
	MAGIC = 0xd00dfeedu,
	BEGIN_NODE = 1,
	END_NODE = 2,
	PROP = 3,
	NOP = 4,
	END = 9,
	HEADER_SIZE = 40,
	MAX_DEPTH = 16,
};

struct walk {
	const uint8_t *structs, *strings;
	uint32_t structs_size, strings_size;
	uint32_t at; /* in structs */
	struct {
		uint32_t addr_cells, size_cells; /* for the children */
	} level[MAX_DEPTH];
	int depth; /* of the node being read, -1 before the root */
	struct fdt_node node;
	bool open; /* node has been read but not yet visited */
};

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* A NUL-terminated string inside [base, base + size), NULL when there is none at @at. */
static const char *string_at(const uint8_t *base, uint32_t size, uint32_t at)
{
	for (uint32_t i = at; i < size; i++)
		if (!base[i])
			return (const char *)base + at;
	return NULL;
}

static bool next_cell(struct walk *w, uint32_t *value)
{
	if (w->structs_size < 4 || w->at > w->structs_size - 4)
		return false;
	*value = be32(w->structs + w->at);
	w->at += 4;
	return true;
}

static bool begin_node(struct walk *w)
{
	const char *name = string_at(w->structs, w->structs_size, w->at);

	if (!name || w->depth + 1 >= MAX_DEPTH)
		return false;
	w->at += ((uint32_t)strlen(name) + 1 + 3) & ~3u;
	w->depth++;
	w->level[w->depth].addr_cells = 2; /* the defaults of section 2.3.5 */
	w->level[w->depth].size_cells = 1;
	w->node.name = name;
	w->node.prop_count = 0;
	w->node.addr_cells = w->depth ? w->level[w->depth - 1].addr_cells : 0;
	w->node.size_cells = w->depth ? w->level[w->depth - 1].size_cells : 0;
	w->open = true;
	return true;
}

static bool add_prop(struct walk *w)
{
	uint32_t size, name;

	if (!w->open || !next_cell(w, &size) || !next_cell(w, &name) ||
	    size > w->structs_size - w->at)
		return false;
	struct fdt_prop p = { string_at(w->strings, w->strings_size, name), w->structs + w->at,
			      size };
	if (!p.name)
		return false;
	w->at += (size + 3) & ~3u;
	if (w->node.prop_count < FDT_PROPS)
		w->node.props[w->node.prop_count++] = p;
	if (strcmp(p.name, "#address-cells") == 0)
		w->level[w->depth].addr_cells = (uint32_t)fdt_cells(&p, 0, 1);
	if (strcmp(p.name, "#size-cells") == 0)
		w->level[w->depth].size_cells = (uint32_t)fdt_cells(&p, 0, 1);
	return true;
}

bool fdt_walk(const void *fdt, uint64_t size, void (*visit)(const struct fdt_node *node))
{
	const uint8_t *h = fdt;
	struct walk w = { .depth = -1 };
	uint32_t token;

	if (size < HEADER_SIZE || be32(h) != MAGIC || be32(h + 4) > size)
		return false;
	uint32_t total = be32(h + 4), structs = be32(h + 8), strings = be32(h + 12);
	w.strings_size = be32(h + 32);
	w.structs_size = be32(h + 36);
	if (structs > total || w.structs_size > total - structs || strings > total ||
	    w.strings_size > total - strings)
		return false;
	w.structs = h + structs;
	w.strings = h + strings;
	while (next_cell(&w, &token)) {
		if (token == PROP) {
			if (!add_prop(&w))
				return false;
			continue;
		}
		if (w.open && token != NOP) {
			visit(&w.node);
			w.open = false;
		}
		if (token == END)
			return w.depth == -1;
		if (token == END_NODE ? w.depth-- < 0
				      : token != NOP && (token != BEGIN_NODE || !begin_node(&w)))
			return false;
	}
	return false;
}

const struct fdt_prop *fdt_find(const struct fdt_node *node, const char *name)
{
	for (unsigned i = 0; i < node->prop_count; i++)
		if (strcmp(node->props[i].name, name) == 0)
			return &node->props[i];
	return NULL;
}

bool fdt_compatible(const struct fdt_node *node, const char *what)
{
	const struct fdt_prop *p = fdt_find(node, "compatible");
	const char *s;

	for (uint32_t at = 0; p && (s = string_at(p->data, p->size, at));
	     at += (uint32_t)strlen(s) + 1)
		if (strcmp(s, what) == 0)
			return true;
	return false;
}

uint64_t fdt_cells(const struct fdt_prop *prop, uint32_t at, uint32_t cells)
{
	uint64_t value = 0;

	if (!prop || cells > 2 || at > 64 || (at + cells) * 4 > prop->size)
		return 0;
	for (uint32_t i = at; i < at + cells; i++)
		value = value << 32 | be32(prop->data + i * 4);
	return value;
}
