/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine tree: one FDT that describes the machine. Options only build it; vm_realize() only
 * reads it; a migration stream begins with it.
 */
#ifndef VMM_TREE_H
#define VMM_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/error.h"

#define TREE_MAX_SIZE (1U << 20)

struct machine_tree;

/* What `ferry run` was told, apart from devices. Strings are borrowed. */
struct machine_options {
	uint64_t memory; /* bytes */
	unsigned int cpus;
	const char *cpu;     /* the CPU model, as --cpu takes it; NULL: the default */
	const char *backing; /* "anon", "hugetlb", "shared" */
	bool flat;	     /* the kernel is a flat binary, for flat_address */
	uint64_t flat_address;
	const char *kernel, *initrd, *cmdline, *name;
};

/*
 * Build a tree: machine_tree_new, then the `add` of device options, then machine_tree_finish, which
 * returns the malloc'd blob and frees @mt. The first error met on the way is reported there.
 */
int machine_tree_new(struct machine_tree **out, const struct machine_options *opt,
		     struct error *err);
void machine_tree_free(struct machine_tree *mt);
int machine_tree_finish(struct machine_tree *mt, void **fdt, struct error *err);

/* What this host has to say of a machine that was described elsewhere. Borrowed. */
struct tree_locals {
	const void *devices;	     /* a tree of the device options that were given */
	const char *kernel, *initrd; /* NULL: not given */
	/* The tree comes from somebody who has no rights here: names of files and the like that no
	 * option has replaced are refused, boot files forgotten. */
	bool foreign;
};

/*
 * Replace "host-…" properties of @fdt's nodes by those of @locals, the n-th node of a class by the
 * n-th; returns a new malloc'd blob. A device of @locals without counterpart is an error, and what
 * a foreign tree may not name is one (-EPERM).
 */
int machine_tree_override(const void *fdt, const struct tree_locals *locals, void **out,
			  struct error *err);

/* Check a blob of @size bytes from a file or a stream: a well-formed tree of this machine type. */
int machine_tree_check(const void *fdt, size_t size, struct error *err);
/* Read and check a .dtb file; malloc'd. */
int machine_tree_read(const char *path, void **fdt, struct error *err);

/*
 * The tree that the guest is handed: without "host-…" properties, with the initrd's place in
 * /chosen. malloc'd.
 */
int machine_tree_for_guest(const void *fdt, uint64_t initrd, uint64_t initrd_size, void **out,
			   struct error *err);

/* Print as text, in the syntax of dts. */
struct _IO_FILE;
void tree_print(struct _IO_FILE *out, const void *fdt);

#endif
