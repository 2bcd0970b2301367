/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Boot images. A loader recognises a file by its content and says how it wants to be placed and
 * entered; each is one file that registers itself by LOADER().
 */
#ifndef VMM_LOADER_H
#define VMM_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/error.h"

struct vm;

/* A file mapped read-only. */
struct boot_file {
	const char *path;
	const uint8_t *data;
	size_t size;
};

struct boot_image {
	struct boot_file kernel;
	struct boot_file initrd; /* data NULL when there is none */
	const char *cmdline;	 /* never NULL */
	bool flat;		 /* no format: load it at flat_address and begin there */
	uint64_t flat_address;
	const struct loader *loader;
};

struct loader {
	const char *name; /* "PVH ELF" */
	/* Is the file of this kind, whatever else may be wrong with it? */
	bool (*probe)(const struct boot_file *kernel);
	bool flat; /* takes images that were said to be flat, which no content can tell; no other */
	/* Place image, initrd, command line and what the protocol wants, and set the first vCPU's
	 * registers. Hostile file. */
	int (*load)(struct vm *vm, const struct boot_image *image, struct error *err);
};

#define LOADER(l) \
	static const struct loader *const l##_entry __attribute__((used, section("loaders"))) = &(l)

extern const struct loader *const __start_loaders[];
extern const struct loader *const __stop_loaders[];
#define for_each_loader(pp) \
	for (const struct loader *const *pp = __start_loaders; pp < __stop_loaders; pp++)

/* Map the files named in /chosen of the machine tree and find the loader; names what is wrong. */
int boot_image_open(struct vm *vm, struct boot_image *image, struct error *err);
void boot_image_close(struct boot_image *image);

#endif
