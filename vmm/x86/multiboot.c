/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Multiboot 1 (Multiboot Specification version 0.6.96, chapter 3): an ELF32, or a flat image whose
 * header says where it goes. The guest gets %ebx = the information structure, which leads to
 * command line, memory map and modules: the initrd, and as the last one, named "fdt", the machine
 * tree.
 */
#include "vmm/x86/multiboot.h"

#include <elf.h>
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/tree.h"
#include "vmm/vm.h"
#include "vmm/x86/elf.h"
#include "vmm/x86/entry.h"
#include "vmm/x86/memmap.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/pvh.h"

#define HEADER_MAGIC	 0x1badb002U
#define LOADER_MAGIC	 0x2badb002U
#define SEARCH		 8192U /* bytes of the file in which the header begins and ends */
#define FLAG_MODS_ALIGN	 (1U << 0)
#define FLAG_MEMORY	 (1U << 1)
#define FLAGS_REQUIRED	 0xffffU /* what a loader must know or refuse */
#define FLAG_ADDRESSES	 (1U << 16)
#define INFO_MEMORY	 (1U << 0)
#define INFO_CMDLINE	 (1U << 2)
#define INFO_MODS	 (1U << 3)
#define INFO_MMAP	 (1U << 6)
#define INFO_LOADER_NAME (1U << 9)

struct header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

#define HEADER_SIZE offsetof(struct header, header_addr) /* without FLAG_ADDRESSES */

struct mb_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4], mmap_length, mmap_addr, drives_length, drives_addr, config_table;
	uint32_t boot_loader_name, apm_table;
};

struct mb_range {
	uint32_t size; /* of what follows */
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

struct mb_module {
	uint32_t start, end, string, reserved;
};

/* All that the information points to, as it is laid out at BOOT_INFO. */
struct boot_info {
	struct mb_info info;
	struct mb_module modules[2];
	struct mb_range map[MEMMAP_MAX];
	char initrd_name[8], fdt_name[8], loader_name[8];
};

#define INFO_AT(member) ((uint32_t)BOOT_INFO + (uint32_t)offsetof(struct boot_info, member))

/* Find the header; *at becomes its offset in the file. The address fields may be cut off. */
static bool find_header(const struct boot_file *kernel, struct header *h, uint32_t *at)
{
	size_t size = kernel->size < SEARCH ? kernel->size : SEARCH;

	for (uint32_t i = 0; i + HEADER_SIZE <= size; i += 4) {
		size_t there = size - i < sizeof(*h) ? size - i : sizeof(*h);

		memset(h, 0, sizeof(*h));
		memcpy(h, kernel->data + i, there);
		*at = i;
		if (h->magic == HEADER_MAGIC && h->magic + h->flags + h->checksum == 0)
			return true;
	}
	return false;
}

bool multiboot_has_header(const struct boot_file *kernel)
{
	struct header h;
	uint32_t at;

	return find_header(kernel, &h, &at);
}

static bool multiboot_probe(const struct boot_file *kernel)
{
	return multiboot_has_header(kernel) && !pvh_has_note(kernel);
}

static int bad(const struct boot_file *kernel, const char *field, const char *expected,
	       uint64_t got, struct error *err)
{
	return error_set(err, -ENOEXEC, "boot", kernel->path, field, expected, "0x%llx",
			 (unsigned long long)got);
}

/* What an image must not cover, for we put something there. */
static const struct gpa_range kept[] = { { BOOT_INFO, sizeof(struct boot_info) },
					 { BOOT_CMDLINE, BOOT_CMDLINE_MAX },
					 { ACPI_TABLES, TABLES_MAX } };

#define N_KEPT (sizeof(kept) / sizeof(kept[0]))

/* An entry is a virtual address; it is entered by the physical one of the segment it lies in. */
static int load_elf(struct vm *vm, const struct boot_file *kernel, uint64_t *entry, uint64_t *end,
		    struct error *err)
{
	struct elf elf;
	int ret;

	if (!elf_is(kernel))
		return error_set(err, -ENOEXEC, "boot", kernel->path, "multiboot header",
				 "address fields (flag 16), as this is no ELF", "none");
	ret = elf_open(&elf, kernel, err);
	if (ret == 0 && elf.is64)
		ret = error_set(err, -ENOEXEC, "boot", kernel->path, "class",
				"ELF32, which multiboot asks for", "ELF64");
	ret = ret ? ret : elf_load(vm, &elf, kept, N_KEPT, end, err);
	*entry = elf.entry;
	for (unsigned int i = 0; ret == 0 && i < elf.phnum; i++) {
		struct segment s;

		ret = elf_segment(&elf, i, &s, err);
		if (s.type == PT_LOAD && elf.entry >= s.vaddr && elf.entry - s.vaddr < s.memsz) {
			*entry = s.paddr + (elf.entry - s.vaddr);
			break;
		}
	}
	return ret;
}

static bool overlaps_kept(uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < N_KEPT; i++) {
		if (start < kept[i].start + kept[i].size && kept[i].start < end)
			return true;
	}
	return false;
}

/* 3.1.3: the header tells where it is in memory, and so where the file's bytes go. */
static int load_flat(struct vm *vm, const struct boot_file *kernel, const struct header *h,
		     uint32_t at, uint64_t *end, struct error *err)
{
	uint64_t before = (uint64_t)h->header_addr - h->load_addr, size, load_end;
	uint8_t *to;

	if (at + sizeof(*h) > kernel->size || at + sizeof(*h) > SEARCH)
		return bad(kernel, "multiboot header",
			   "address fields in the first 8192 bytes of the file", at, err);
	if (h->header_addr < h->load_addr || before > at)
		return bad(kernel, "load_addr", "at most header_addr, and that in the file",
			   h->load_addr, err);
	size = kernel->size - (at - before);
	if (h->load_end_addr) {
		if (h->load_end_addr < h->load_addr || h->load_end_addr - h->load_addr > size)
			return bad(kernel, "load_end_addr",
				   "the end of what is in the file, which may be truncated",
				   h->load_end_addr, err);
		size = h->load_end_addr - h->load_addr;
	}
	load_end = h->load_addr + size;
	*end = h->bss_end_addr ? h->bss_end_addr : load_end;
	if (*end < load_end)
		return bad(kernel, "bss_end_addr", "none, or the end of the image", *end, err);
	if (*end == h->load_addr)
		return bad(kernel, "load_end_addr", "an image that is not empty", *end, err);
	to = memory_hva(&vm->memory, h->load_addr, *end - h->load_addr);
	if (!to)
		return bad(kernel, "load_addr", "guest RAM large enough for the image",
			   h->load_addr, err);
	if (overlaps_kept(h->load_addr, *end))
		return bad(kernel, "load_addr",
			   "an image that leaves 0x6000 and 0x20000 to 0x2ffff free", h->load_addr,
			   err);
	memcpy(to, kernel->data + (at - before), size);
	memset(to + size, 0, *end - load_end);
	memory_mark_dirty(&vm->memory, h->load_addr, *end - h->load_addr);
	return 0;
}

static int load_image(struct vm *vm, const struct boot_file *kernel, uint64_t *entry, uint64_t *end,
		      struct error *err)
{
	struct header h;
	uint32_t at;
	int ret;

	if (!find_header(kernel, &h, &at))
		return error_set(err, -ENOEXEC, "boot", kernel->path, "multiboot header",
				 "one in the first 8192 bytes", "none");
	if (h.flags & FLAGS_REQUIRED & ~(FLAG_MODS_ALIGN | FLAG_MEMORY))
		return bad(kernel, "multiboot flags",
			   "none but 0 (page-aligned modules) and 1 (memory) of the first 16",
			   h.flags, err);
	*entry = h.entry_addr;
	ret = h.flags & FLAG_ADDRESSES ? load_flat(vm, kernel, &h, at, end, err)
				       : load_elf(vm, kernel, entry, end, err);
	if (ret < 0)
		return ret;
	if (*entry > UINT32_MAX || !memory_hva(&vm->memory, *entry, 1))
		return bad(kernel, "entry", "an address in RAM below 4 GiB", *entry, err);
	return 0;
}

static void fill_memmap(struct vm *vm, struct boot_info *boot)
{
	struct memmap_range ranges[MEMMAP_MAX];
	unsigned int n = x86_memmap(&vm->memory, ranges);

	for (unsigned int i = 0; i < n; i++)
		boot->map[i] = (struct mb_range){ sizeof(boot->map[i]) - sizeof(boot->map[i].size),
						  ranges[i].gpa, ranges[i].size, ranges[i].type };
	boot->info.mmap_length = n * (uint32_t)sizeof(boot->map[0]);
	boot->info.mem_lower = (uint32_t)(EBDA_START >> 10);
	boot->info.mem_upper = (uint32_t)((vm->memory.regions[0].size - HIGH_RAM_START) >> 10);
}

static int add_module(struct vm *vm, const void *data, uint64_t size, uint64_t floor, uint64_t *top,
		      const char *what, uint32_t name, struct boot_info *boot, struct error *err)
{
	int ret = entry_place(vm, data, size, floor, top, what, err);

	if (ret == 0)
		boot->modules[boot->info.mods_count++] =
			(struct mb_module){ (uint32_t)*top, (uint32_t)(*top + size), name, 0 };
	return ret;
}

static int add_modules(struct vm *vm, const struct boot_image *image, struct boot_info *boot,
		       uint64_t floor, struct error *err)
{
	uint64_t top = vm->memory.regions[0].size;
	void *fdt;
	int ret = 0;

	if (image->initrd.data)
		ret = add_module(vm, image->initrd.data, image->initrd.size, floor, &top, "initrd",
				 INFO_AT(initrd_name), boot, err);
	ret = ret ? ret : machine_tree_for_guest(vm->tree, top, image->initrd.size, &fdt, err);
	if (ret < 0)
		return ret;
	ret = add_module(vm, fdt, fdt_totalsize(fdt), floor, &top, "machine tree",
			 INFO_AT(fdt_name), boot, err);
	free(fdt);
	return ret;
}

int multiboot_place(struct vm *vm, const struct boot_image *image, uint32_t *entry,
		    struct error *err)
{
	struct boot_info boot = { .info = { .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS |
						     INFO_MMAP | INFO_LOADER_NAME,
					    .cmdline = BOOT_CMDLINE,
					    .mods_addr = INFO_AT(modules),
					    .mmap_addr = INFO_AT(map),
					    .boot_loader_name = INFO_AT(loader_name) },
				  .initrd_name = "initrd",
				  .fdt_name = "fdt",
				  .loader_name = "ferry" };
	size_t cmdline = strlen(image->cmdline) + 1;
	uint64_t start = 0, end = 0;
	int ret;

	if (cmdline > BOOT_CMDLINE_MAX)
		return error_set(err, -E2BIG, "boot", "cmdline", "", "at most 65535 characters",
				 "%zu", cmdline - 1);
	ret = load_image(vm, &image->kernel, &start, &end, err);
	if (ret < 0)
		return ret;
	*entry = (uint32_t)start;
	fill_memmap(vm, &boot);
	ret = add_modules(vm, image, &boot, end > HIGH_RAM_START ? end : HIGH_RAM_START, err);
	if (ret < 0)
		return ret;
	if (memory_write(&vm->memory, BOOT_CMDLINE, image->cmdline, cmdline) < 0 ||
	    memory_write(&vm->memory, BOOT_INFO, &boot, sizeof(boot)) < 0)
		return error_set(err, -EFAULT, "boot", "memory", "", "RAM below 640 KiB", "none");
	return 0;
}

static int multiboot_load(struct vm *vm, const struct boot_image *image, struct error *err)
{
	uint32_t entry;
	int ret = multiboot_place(vm, image, &entry, err);

	return ret < 0 ? ret
		       : entry_protected(vm, entry, 0, LOADER_MAGIC, (uint32_t)BOOT_INFO, err);
}

static const struct loader multiboot_loader = {
	.name = "multiboot",
	.probe = multiboot_probe,
	.load = multiboot_load,
};
LOADER(multiboot_loader);
