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
#include <sys/ioctl.h>

#include "vmm/tree.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"
#include "vmm/x86/elf.h"
#include "vmm/x86/multiboot.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/pvh.h"

#define NOTE_PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define START_MAGIC	  0x336ec578U
#define CR0_PE		  1U
#define CR0_ET		  0x10U
#define E820_RAM	  1
#define E820_RESERVED	  2

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
	struct memmap_entry memmap[6];
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
					  { BOOT_CMDLINE, BOOT_CMDLINE_MAX } };
	int ret = elf_load(vm, elf, keep, 2, end, err);

	if (ret < 0)
		return ret;
	if (!find_note(elf, entry))
		return error_set(err, -ENOEXEC, "boot", elf->file->path, "entry",
				 "a PVH note (XEN_ELFNOTE_PHYS32_ENTRY)", "none");
	if (*entry > UINT32_MAX || !memory_hva(&vm->memory, *entry, 1))
		return elf_bad(elf, "entry", "an address in RAM below 4 GiB", *entry, err);
	return 0;
}

static void add_memory(struct boot_info *info, uint64_t from, uint64_t to, uint32_t type)
{
	if (from < to)
		info->memmap[info->start.memmap_entries++] =
			(struct memmap_entry){ from, to - from, type, 0 };
}

static void fill_memmap(struct vm *vm, struct boot_info *info)
{
	uint64_t low = vm->memory.regions[0].size;

	add_memory(info, 0, EBDA_START, E820_RAM);
	add_memory(info, EBDA_START, HIGH_RAM_START, E820_RESERVED);
	add_memory(info, HIGH_RAM_START, low, E820_RAM);
	if (vm->memory.n_regions > 1)
		add_memory(info, HOLE_END, HOLE_END + vm->memory.regions[1].size, E820_RAM);
}

/* Place @size bytes page aligned as high as RAM below the hole allows, above @floor, below *top. */
static int place(struct vm *vm, const void *data, uint64_t size, uint64_t floor, uint64_t *top,
		 const char *what, struct error *err)
{
	uint64_t gpa;

	if (size > *top || (gpa = (*top - size) & ~(PAGE_SIZE - 1)) < floor) {
		error_set(err, -ENOSPC, "boot", what, "size", "", "%llu bytes",
			  (unsigned long long)size);
		error_expected(err, "at most %llu bytes, what RAM has left beside the kernel",
			       (unsigned long long)(*top > floor ? *top - floor : 0));
		return -ENOSPC;
	}
	*top = gpa;
	return memory_write(&vm->memory, gpa, data, size);
}

static int add_modules(struct vm *vm, const struct boot_image *image, struct boot_info *info,
		       uint64_t floor, struct error *err)
{
	uint64_t top = vm->memory.regions[0].size;
	struct module *m = info->modules;
	void *fdt;
	int ret;

	if (image->initrd.data) {
		ret = place(vm, image->initrd.data, image->initrd.size, floor, &top, "initrd", err);
		if (ret < 0)
			return ret;
		*m++ = (struct module){ top, image->initrd.size, 0, 0 };
	}
	ret = machine_tree_for_guest(vm->tree, top, image->initrd.size, &fdt, err);
	if (ret < 0)
		return ret;
	ret = place(vm, fdt, fdt_totalsize(fdt), floor, &top, "machine tree", err);
	*m++ = (struct module){ top, fdt_totalsize(fdt),
				BOOT_INFO + offsetof(struct boot_info, fdt_name), 0 };
	info->start.nr_modules = (uint32_t)(m - info->modules);
	free(fdt);
	return ret;
}

/* Flat 32-bit protected mode, paging off. */
static int set_registers(struct vm *vm, uint64_t entry, struct error *err)
{
	struct kvm_segment code = { .limit = 0xffffffff,
				    .selector = 0x8,
				    .type = 0xb,
				    .present = 1,
				    .db = 1,
				    .s = 1,
				    .g = 1 };
	struct kvm_segment data = { .limit = 0xffffffff,
				    .selector = 0x10,
				    .type = 0x3,
				    .present = 1,
				    .db = 1,
				    .s = 1,
				    .g = 1 };
	struct kvm_segment tss = { .limit = 0x67, .selector = 0x18, .type = 0xb, .present = 1 };
	struct kvm_regs regs = { .rip = entry, .rbx = BOOT_INFO, .rflags = 2 };
	struct kvm_sregs sregs;
	int fd = vm->vcpus[0]->fd;

	if (ioctl(fd, KVM_GET_SREGS, &sregs) < 0)
		return error_set(err, -errno, "boot", "cpu@0", "registers", "KVM to give them",
				 "%m");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = tss;
	sregs.cr0 = CR0_PE | CR0_ET;
	if (ioctl(fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(fd, KVM_SET_REGS, &regs) < 0)
		return error_set(err, -errno, "boot", "cpu@0", "registers", "KVM to take them",
				 "%m");
	return 0;
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

	return ret < 0 ? ret : set_registers(vm, entry, err);
}

static const struct loader pvh_loader = {
	.name = "ELF with a PVH note",
	.probe = pvh_probe,
	.load = pvh_load,
};
LOADER(pvh_loader);
