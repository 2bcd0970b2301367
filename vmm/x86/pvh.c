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
#include "vmm/x86/acpi.h"
#include "vmm/x86/memmap.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/pvh.h"

#define NOTE_PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define START_MAGIC	  0x336ec578U
#define CR0_PE		  1U
#define CR0_ET		  0x10U

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

/* An ELF program header of either class. */
struct segment {
	uint32_t type;
	uint64_t offset, paddr, filesz, memsz, align;
};

struct elf {
	const struct boot_file *file;
	bool is64;
	uint64_t phoff;
	unsigned int phnum, phentsize;
};

static int bad(const struct elf *elf, const char *field, const char *expected, uint64_t got,
	       struct error *err)
{
	return error_set(err, -ENOEXEC, "boot", elf->file->path, field, expected, "0x%llx",
			 (unsigned long long)got);
}

static int open_elf(struct elf *elf, const struct boot_file *file, struct error *err)
{
	Elf64_Ehdr e64;
	Elf32_Ehdr e32;
	uint16_t machine;

	*elf = (struct elf){ .file = file };
	if (file->size < sizeof(e64))
		return bad(elf, "size", "an ELF header", file->size, err);
	memcpy(&e64, file->data, sizeof(e64));
	memcpy(&e32, file->data, sizeof(e32));
	elf->is64 = e64.e_ident[EI_CLASS] == ELFCLASS64;
	machine = e64.e_machine; /* at the same place in both */
	if (machine != (elf->is64 ? EM_X86_64 : EM_386))
		return bad(elf, "architecture", "x86", machine, err);
	if (e64.e_ident[EI_DATA] != ELFDATA2LSB)
		return bad(elf, "byte order", "little endian", e64.e_ident[EI_DATA], err);
	elf->phoff = elf->is64 ? e64.e_phoff : e32.e_phoff;
	elf->phnum = elf->is64 ? e64.e_phnum : e32.e_phnum;
	elf->phentsize = elf->is64 ? e64.e_phentsize : e32.e_phentsize;
	if (elf->phentsize != (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return bad(elf, "program header size", "that of its class", elf->phentsize, err);
	if (elf->phoff > file->size ||
	    (uint64_t)elf->phnum * elf->phentsize > file->size - elf->phoff)
		return bad(elf, "program headers", "to lie in the file", elf->phoff, err);
	return 0;
}

static int get_segment(const struct elf *elf, unsigned int i, struct segment *s, struct error *err)
{
	const uint8_t *at = elf->file->data + elf->phoff + (uint64_t)i * elf->phentsize;

	if (elf->is64) {
		Elf64_Phdr p;

		memcpy(&p, at, sizeof(p));
		*s = (struct segment){ p.p_type,   p.p_offset, p.p_paddr,
				       p.p_filesz, p.p_memsz,  p.p_align };
	} else {
		Elf32_Phdr p;

		memcpy(&p, at, sizeof(p));
		*s = (struct segment){ p.p_type,   p.p_offset, p.p_paddr,
				       p.p_filesz, p.p_memsz,  p.p_align };
	}
	if (s->type != PT_LOAD && s->type != PT_NOTE)
		return 0;
	if (s->offset > elf->file->size || s->filesz > elf->file->size - s->offset)
		return bad(elf, "segment", "to lie in the file, which may be truncated",
			   s->offset + s->filesz, err);
	if (s->type == PT_LOAD && s->memsz < s->filesz)
		return bad(elf, "segment size", "at least what is in the file", s->memsz, err);
	return 0;
}

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

static bool pvh_probe(const struct boot_file *kernel)
{
	return kernel->size >= SELFMAG && memcmp(kernel->data, ELFMAG, SELFMAG) == 0;
}

static bool overlaps(const struct segment *s, uint64_t gpa, uint64_t size)
{
	return s->paddr < gpa + size && gpa < s->paddr + s->memsz;
}

/* Copy the image in; *end becomes the first gpa after it. */
static int load_segments(struct vm *vm, const struct elf *elf, uint64_t *entry, uint64_t *end,
			 struct error *err)
{
	bool has_entry = false;
	int ret;

	*end = 0;
	for (unsigned int i = 0; i < elf->phnum; i++) {
		struct segment s;
		uint8_t *to;

		ret = get_segment(elf, i, &s, err);
		if (ret < 0)
			return ret;
		if (s.type == PT_NOTE)
			has_entry = has_entry || find_entry(elf, &s, entry);
		if (s.type != PT_LOAD || s.memsz == 0)
			continue;
		to = memory_hva(&vm->memory, s.paddr, s.memsz);
		if (!to)
			return bad(elf, "segment address", "guest RAM large enough for it", s.paddr,
				   err);
		if (overlaps(&s, BOOT_INFO, sizeof(struct boot_info)) ||
		    overlaps(&s, BOOT_CMDLINE, BOOT_CMDLINE_MAX))
			return bad(elf, "segment address",
				   "an image that leaves 0x6000 and 0x20000 to 0x2ffff free",
				   s.paddr, err);
		memcpy(to, elf->file->data + s.offset, s.filesz);
		memset(to + s.filesz, 0, s.memsz - s.filesz);
		memory_mark_dirty(&vm->memory, s.paddr, s.memsz);
		if (s.paddr + s.memsz > *end)
			*end = s.paddr + s.memsz;
	}
	if (!has_entry)
		return error_set(err, -ENOEXEC, "boot", elf->file->path, "entry",
				 "a PVH note (XEN_ELFNOTE_PHYS32_ENTRY)", "none");
	if (*entry > UINT32_MAX || !memory_hva(&vm->memory, *entry, 1))
		return bad(elf, "entry", "an address in RAM below 4 GiB", *entry, err);
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
	if ((ret = open_elf(&elf, &image->kernel, err)) < 0 ||
	    (ret = load_segments(vm, &elf, entry, &end, err)) < 0)
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

	return ret < 0 ? ret : set_registers(vm, entry, err);
}

static const struct loader pvh_loader = {
	.name = "ELF with a PVH note",
	.probe = pvh_probe,
	.load = pvh_load,
};
LOADER(pvh_loader);
