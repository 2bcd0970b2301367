/* SPDX-License-Identifier: BSD-2-Clause */
/* A read-only walk over a flattened device tree; nothing in it is trusted. */
#ifndef GUEST_FDT_H
#define GUEST_FDT_H

#include <stdbool.h>
#include <stdint.h>

#define FDT_PROPS 24 /* properties of a node that are looked at; more are ignored */

struct fdt_prop {
	const char *name;
	const uint8_t *data;
	uint32_t size;
};

struct fdt_node {
	const char *name;    /* with the unit address; "" is the root */
	uint32_t addr_cells; /* how many cells an address in its reg has */
	uint32_t size_cells;
	struct fdt_prop props[FDT_PROPS];
	unsigned prop_count;
};

/*
 * Calls @visit for every node, parents first, with all of its properties. Returns false, perhaps
 * after some visits, when the blob is not a well-formed tree of at most @size bytes.
 */
bool fdt_walk(const void *fdt, uint64_t size, void (*visit)(const struct fdt_node *node));

/* The property, or NULL. */
const struct fdt_prop *fdt_find(const struct fdt_node *node, const char *name);

/* True when one of the strings of `compatible` is @what. */
bool fdt_compatible(const struct fdt_node *node, const char *what);

/* Reads @cells big-endian cells from cell @at on; 0 when the property is too short. */
uint64_t fdt_cells(const struct fdt_prop *prop, uint32_t at, uint32_t cells);

#endif
