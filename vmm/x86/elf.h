/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ELF images of either class, as far as loaders need them (System V ABI, chapters 4 and 5). Files
 * are hostile; errors name what in the file is wrong.
 */
#ifndef VMM_X86_ELF_H
#define VMM_X86_ELF_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/error.h"
#include "vmm/loader.h"

struct vm;

/* A program header of either class. */
struct segment {
	uint32_t type;
	uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

struct elf {
	const struct boot_file *file;
	bool is64;
	uint64_t entry; /* e_entry, unchecked */
	uint64_t phoff;
	unsigned int phnum, phentsize;
};

struct gpa_range {
	uint64_t start, size;
};

/* Does the file begin as an ELF does? */
bool elf_is(const struct boot_file *file);
/* Read the header, which must be of an x86. @file is borrowed. */
int elf_open(struct elf *elf, const struct boot_file *file, struct error *err);
/* Read the @i-th of elf->phnum program headers; what PT_LOAD and PT_NOTE refer to is in the file.
 */
int elf_segment(const struct elf *elf, unsigned int i, struct segment *s, struct error *err);
/* Copy all PT_LOAD segments to RAM, by their physical addresses, none of them into one of the @n
 * ranges of @keep; *end becomes the first gpa behind the highest. Loop thread. */
int elf_load(struct vm *vm, const struct elf *elf, const struct gpa_range *keep, unsigned int n,
	     uint64_t *end, struct error *err);

/* @field of the image is @got instead of @expected; returns -ENOEXEC. */
int elf_bad(const struct elf *elf, const char *field, const char *expected, uint64_t got,
	    struct error *err);

#endif
