/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PVH boot: an ELF32 or ELF64 whose note names a 32-bit entry point (Xen's docs/misc/pvh.pandoc and
 * public/arch-x86/hvm/start_info.h). The guest gets %ebx = the start info, which leads to command
 * line, memory map and modules: the initrd, and as the last one, named "fdt", the machine tree.
 */
#include <elf.h>
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/tree.h"
#include "vmm/vm.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/elf.h"
#include "vmm/x86/entry.h"
#include "vmm/x86/memmap.h"
#include "vmm/x86/multiboot.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/pvh.h"

#define NOTE_PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define START_MAGIC	  0x336ec578U

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct module {
	uint64_t paddr, size, cmdline, reserved;
};

struct memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* All that start info points to, as it is laid out at BOOT_INFO. */
struct boot_info {
	struct start_info start;
	struct memmap_entry memmap[MEMMAP_MAX];
	struct module modules[2];
	char fdt_name[8];
};

static uint64_t align_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) / align * align;
}

/* Notes are two sizes and a type, then name and descriptor. Both descriptor and next note begin at
 * a multiple of the alignment, 4 or 8, counted from the note (binutils, ELF_NOTE_DESC_OFFSET). */
static bool find_entry(const struct elf *elf, const struct segment *s, uint64_t *entry)
{
	const uint8_t *at = elf->file->data + s->offset, *end = at + s->filesz;
	uint64_t align = s->align == 8 ? 8 : 4;
	Elf64_Nhdr n;

	while ((size_t)(end - at) >= sizeof(n)) {
		uint64_t desc, next;

		memcpy(&n, at, sizeof(n));
		desc = align_up(sizeof(n) + n.n_namesz, align);
		next = align_up(desc + n.n_descsz, align);
		if (desc + n.n_descsz > (size_t)(end - at))
			return false;
		if (n.n_type == NOTE_PHYS32_ENTRY && n.n_namesz == 4 &&
		    memcmp(at + sizeof(n), "Xen", 4) == 0 && (n.n_descsz == 4 || n.n_descsz == 8)) {
			*entry = 0;
			memcpy(entry, at + desc, n.n_descsz);
			return true;
		}
		if (next > (size_t)(end - at))
			return false; /* the last one needs no padding */
		at += next;
	}
	return false;
}

static bool find_note(const struct elf *elf, uint64_t *entry)
{
	struct segment s;

	for (unsigned int i = 0; i < elf->phnum; i++) {
		if (elf_segment(elf, i, &s, NULL) == 0 && s.type == PT_NOTE &&
		    find_entry(elf, &s, entry))
			return true;
	}
	return false;
}

bool pvh_has_note(const struct boot_file *kernel)
{
	struct elf elf;
	uint64_t entry;

	return elf_is(kernel) && elf_open(&elf, kernel, NULL) == 0 && find_note(&elf, &entry);
}

/* An ELF of no other kind is taken to be ours, so that it is refused by what is wrong with it. */
static bool pvh_probe(const struct boot_file *kernel)
{
	return elf_is(kernel) && (pvh_has_note(kernel) || !multiboot_has_header(kernel));
}

static int load_image(struct vm *vm, const struct elf *elf, uint64_t *entry, uint64_t *end,
		      struct error *err)
{
	const struct gpa_range keep[] = { { BOOT_INFO, sizeof(struct boot_info) },
					  { BOOT_CMDLINE, BOOT_CMDLINE_MAX },
					  { ACPI_TABLES, TABLES_MAX } };
	int ret = elf_load(vm, elf, keep, 3, end, err);

	if (ret < 0)
		return ret;
	if (!find_note(elf, entry))
		return error_set(err, -ENOEXEC, "boot", elf->file->path, "entry",
				 "a PVH note (XEN_ELFNOTE_PHYS32_ENTRY)", "none");
	if (*entry > UINT32_MAX || !memory_hva(&vm->memory, *entry, 1))
		return elf_bad(elf, "entry", "an address in RAM below 4 GiB", *entry, err);
	return 0;
}

static void fill_memmap(struct vm *vm, struct boot_info *info)
{
	struct memmap_range ranges[MEMMAP_MAX];
	unsigned int n = x86_memmap(&vm->memory, ranges);

	for (unsigned int i = 0; i < n; i++)
		info->memmap[i] =
			(struct memmap_entry){ ranges[i].gpa, ranges[i].size, ranges[i].type, 0 };
	info->start.memmap_entries = n;
}

static int add_modules(struct vm *vm, const struct boot_image *image, struct boot_info *info,
		       uint64_t floor, struct error *err)
{
	uint64_t top = vm->memory.regions[0].size;
	struct module *m = info->modules;
	void *fdt;
	int ret;

	if (image->initrd.data) {
		ret = entry_place(vm, image->initrd.data, image->initrd.size, floor, &top, "initrd",
				  err);
		if (ret < 0)
			return ret;
		*m++ = (struct module){ top, image->initrd.size, 0, 0 };
	}
	ret = machine_tree_for_guest(vm->tree, top, image->initrd.size, &fdt, err);
	if (ret < 0)
		return ret;
	ret = entry_place(vm, fdt, fdt_totalsize(fdt), floor, &top, "machine tree", err);
	*m++ = (struct module){ top, fdt_totalsize(fdt),
				BOOT_INFO + offsetof(struct boot_info, fdt_name), 0 };
	info->start.nr_modules = (uint32_t)(m - info->modules);
	free(fdt);
	return ret;
}

int pvh_place(struct vm *vm, const struct boot_image *image, uint64_t *entry, struct error *err)
{
	struct boot_info info = { .start = { .magic = START_MAGIC, .version = 1 },
				  .fdt_name = "fdt" };
	size_t cmdline = strlen(image->cmdline) + 1;
	struct elf elf;
	uint64_t end;
	int ret;

	if (cmdline > BOOT_CMDLINE_MAX)
		return error_set(err, -E2BIG, "boot", "cmdline", "", "at most 65535 characters",
				 "%zu", cmdline - 1);
	if ((ret = elf_open(&elf, &image->kernel, err)) < 0 ||
	    (ret = load_image(vm, &elf, entry, &end, err)) < 0)
		return ret;
	fill_memmap(vm, &info);
	ret = add_modules(vm, image, &info, end > HIGH_RAM_START ? end : HIGH_RAM_START, err);
	if (ret < 0)
		return ret;
	info.start.cmdline = BOOT_CMDLINE;
	info.start.rsdp = acpi_rsdp(vm);
	info.start.memmap = BOOT_INFO + offsetof(struct boot_info, memmap);
	info.start.modlist = BOOT_INFO + offsetof(struct boot_info, modules);
	if (memory_write(&vm->memory, BOOT_CMDLINE, image->cmdline, cmdline) < 0 ||
	    memory_write(&vm->memory, BOOT_INFO, &info, sizeof(info)) < 0)
		return error_set(err, -EFAULT, "boot", "memory", "", "RAM below 640 KiB", "none");
	return 0;
}

static int pvh_load(struct vm *vm, const struct boot_image *image, struct error *err)
{
	uint64_t entry;
	int ret = pvh_place(vm, image, &entry, err);

	return ret < 0 ? ret : entry_protected(vm, (uint32_t)entry, 0, 0, (uint32_t)BOOT_INFO, err);
}

static const struct loader pvh_loader = {
	.name = "ELF with a PVH note",
	.probe = pvh_probe,
	.load = pvh_load,
};
LOADER(pvh_loader);
