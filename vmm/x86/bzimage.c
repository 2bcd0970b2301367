/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Linux' bzImage by its 64-bit entry (Linux, Documentation/x86/boot.rst, "64-bit Boot Protocol").
 * The guest gets %rsi = the "zero page", struct boot_params, which leads to command line, memory
 * map, initrd, ACPI tables and, as setup_data of the type SETUP_DTB, the machine tree.
 */
#include "vmm/x86/bzimage.h"

#include <asm/bootparam.h>
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

#define SECTOR		  512
#define HEADER_AT	  0x1f1 /* of struct setup_header, in the file and in the zero page */
#define JUMP_AT		  0x201 /* the header ends where this jump goes */
#define MAGIC_AT	  0x202
#define HEADER_MAGIC	  0x53726448U /* "HdrS" */
#define PROTOCOL_MIN	  0x020c      /* the first with xloadflags, thus with a 64-bit entry */
#define ENTRY_64	  0x200
#define LOADER_UNDEFINED  0xff
#define DEFAULT_SETUP	  4 /* sectors, when the header says 0 */
#define SELECTOR_CODE	  0x10
#define SELECTOR_DATA	  0x18
#define GDT_CODE	  0x00af9b000000ffffULL
#define GDT_DATA	  0x00cf93000000ffffULL
#define CR0_PE		  1ULL
#define CR0_ET		  0x10ULL
#define CR0_PG		  (1ULL << 31)
#define CR4_PAE		  (1ULL << 5)
#define EFER_LME_LMA	  (1ULL << 8 | 1ULL << 10)
#define PAGE_TABLE_FLAGS  3ULL /* present, writable */
#define PAGE_LARGE	  0x80ULL
#define LARGE_PAGE	  (2ULL << 20)
#define TABLE_ENTRIES	  512
#define GIB_MAPPED	  4
#define PAGE_TABLES_BYTES ((2 + GIB_MAPPED) * PAGE_SIZE)

/* Kernels of other architectures, which are no ELF either. */
static const struct {
	size_t at;
	char magic[5];
	const char *name;
} others[] = {
	{ 0x38, "ARM\x64", "an ARM64 Image" },
	{ 0x38, "RSC\x05", "a RISC-V Image" },
	{ 0x24, "\x18\x28\x6f\x01", "an ARM zImage" },
};

static const char *other_architecture(const struct boot_file *file)
{
	for (unsigned int i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		if (file->size >= others[i].at + 4 &&
		    memcmp(file->data + others[i].at, others[i].magic, 4) == 0)
			return others[i].name;
	}
	return NULL;
}

static bool has_magic(const struct boot_file *file)
{
	uint32_t magic = 0;

	if (file->size >= MAGIC_AT + sizeof(magic))
		memcpy(&magic, file->data + MAGIC_AT, sizeof(magic));
	return magic == HEADER_MAGIC;
}

static bool bzimage_probe(const struct boot_file *kernel)
{
	return has_magic(kernel) || other_architecture(kernel);
}

static int bad(const struct boot_file *file, const char *field, const char *expected, uint64_t got,
	       struct error *err)
{
	return error_set(err, -ENOEXEC, "boot", file->path, field, expected, "0x%llx",
			 (unsigned long long)got);
}

/* The header as far as this file's version of it goes, the rest 0; *setup is what precedes the
 * kernel proper in the file. */
static int read_header(const struct boot_file *file, struct setup_header *hdr, size_t *setup,
		       struct error *err)
{
	size_t end;

	if (!has_magic(file))
		return error_set(err, -ENOEXEC, "boot", file->path, "architecture",
				 "an x86-64 kernel", "%s", other_architecture(file));
	end = (size_t)MAGIC_AT + file->data[JUMP_AT];
	if (end > HEADER_AT + sizeof(*hdr))
		end = HEADER_AT + sizeof(*hdr);
	if (end > file->size)
		return bad(file, "size", "a whole header: the file is truncated", file->size, err);
	memset(hdr, 0, sizeof(*hdr));
	memcpy(hdr, file->data + HEADER_AT, end - HEADER_AT);
	if (hdr->version < PROTOCOL_MIN)
		return bad(file, "boot protocol", "version 0x20c (Linux 3.8) or later",
			   hdr->version, err);
	if (!(hdr->loadflags & LOADED_HIGH))
		return bad(file, "loadflags", "a bzImage, not a zImage", hdr->loadflags, err);
	if (!(hdr->xloadflags & XLF_KERNEL_64))
		return bad(file, "xloadflags",
			   "a 64-bit entry (XLF_KERNEL_64); this is a 32-bit kernel",
			   hdr->xloadflags, err);
	*setup = (size_t)((hdr->setup_sects ? hdr->setup_sects : DEFAULT_SETUP) + 1) * SECTOR;
	if (file->size <= *setup || file->size - *setup < (uint64_t)hdr->syssize * 16)
		return bad(file, "size", "all of the kernel: the file is truncated", file->size,
			   err);
	return 0;
}

static int load_kernel(struct vm *vm, const struct boot_file *file, const struct setup_header *hdr,
		       size_t setup, struct error *err)
{
	uint64_t size = file->size - setup;

	if (hdr->init_size < size || size <= ENTRY_64)
		return bad(file, "init_size", "room for the kernel in the file", hdr->init_size,
			   err);
	if (hdr->pref_address < HIGH_RAM_START || hdr->pref_address >= HOLE_START)
		return bad(file, "pref_address", "an address from 1 MiB to 3 GiB",
			   hdr->pref_address, err);
	if (!memory_hva(&vm->memory, hdr->pref_address, hdr->init_size)) {
		error_set(err, -ENOSPC, "boot", file->path, "memory", "", "%llu bytes",
			  (unsigned long long)vm->memory.size);
		error_expected(err, "at least %llu bytes, for the kernel to unpack itself",
			       (unsigned long long)(hdr->pref_address + hdr->init_size));
		return -ENOSPC;
	}
	return memory_write(&vm->memory, hdr->pref_address, file->data + setup, size);
}

static int load_initrd(struct vm *vm, const struct boot_file *initrd, struct boot_params *params,
		       uint64_t floor, uint64_t *top, struct error *err)
{
	int ret;

	*top = (uint64_t)params->hdr.initrd_addr_max + 1;
	if (!initrd->data)
		return 0;
	ret = x86_memmap_place(&vm->memory, initrd->size, floor, top, "initrd", err);
	if (ret < 0)
		return ret;
	params->hdr.ramdisk_image = (uint32_t)*top;
	params->hdr.ramdisk_size = (uint32_t)initrd->size;
	return memory_write(&vm->memory, *top, initrd->data, initrd->size);
}

/* The machine tree as the first and only setup_data. */
static int load_tree(struct vm *vm, struct boot_params *params, uint64_t floor, uint64_t *top,
		     struct error *err)
{
	struct setup_data head = { .type = SETUP_DTB };
	void *fdt;
	int ret = machine_tree_for_guest(vm->tree, params->hdr.ramdisk_image,
					 params->hdr.ramdisk_size, &fdt, err);

	if (ret < 0)
		return ret;
	head.len = fdt_totalsize(fdt);
	ret = x86_memmap_place(&vm->memory, sizeof(head) + head.len, floor, top, "machine tree",
			       err);
	if (ret == 0) {
		params->hdr.setup_data = *top;
		memory_write(&vm->memory, *top, &head, sizeof(head));
		memory_write(&vm->memory, *top + sizeof(head), fdt, head.len);
	}
	free(fdt);
	return ret;
}

static void fill_memmap(struct vm *vm, struct boot_params *params)
{
	struct memmap_range ranges[MEMMAP_MAX];
	unsigned int n = x86_memmap(&vm->memory, ranges);

	for (unsigned int i = 0; i < n; i++)
		params->e820_table[i] =
			(struct boot_e820_entry){ ranges[i].gpa, ranges[i].size, ranges[i].type };
	params->e820_entries = (uint8_t)n;
}

static int load_cmdline(struct vm *vm, const struct boot_image *image, struct boot_params *params,
			struct error *err)
{
	size_t len = strlen(image->cmdline), max = params->hdr.cmdline_size;

	if (max > BOOT_CMDLINE_MAX - 1)
		max = BOOT_CMDLINE_MAX - 1;
	if (len > max) {
		error_set(err, -E2BIG, "boot", "cmdline", "", "", "%zu", len);
		error_expected(err, "at most %zu characters, which this kernel takes", max);
		return -E2BIG;
	}
	params->hdr.cmd_line_ptr = BOOT_CMDLINE;
	return memory_write(&vm->memory, BOOT_CMDLINE, image->cmdline, len + 1);
}

/* The first 4 GiB at their own addresses by pages of 2 MiB, and a GDT with the selectors that the
 * protocol names. */
static void write_mode(struct vm *vm)
{
	const uint64_t gdt[] = { 0, 0, GDT_CODE, GDT_DATA };
	uint64_t table[TABLE_ENTRIES] = { 0 };
	uint64_t pdpt = BOOT_PAGE_TABLES + PAGE_SIZE, directory = pdpt + PAGE_SIZE;

	memory_write(&vm->memory, BOOT_GDT, gdt, sizeof(gdt));
	table[0] = pdpt | PAGE_TABLE_FLAGS;
	memory_write(&vm->memory, BOOT_PAGE_TABLES, table, sizeof(table));
	for (unsigned int i = 0; i < GIB_MAPPED; i++)
		table[i] = (directory + i * PAGE_SIZE) | PAGE_TABLE_FLAGS;
	memory_write(&vm->memory, pdpt, table, sizeof(table));
	for (unsigned int i = 0; i < GIB_MAPPED; i++) {
		for (unsigned int j = 0; j < TABLE_ENTRIES; j++)
			table[j] = (i * TABLE_ENTRIES + j) * LARGE_PAGE | PAGE_LARGE |
				   PAGE_TABLE_FLAGS;
		memory_write(&vm->memory, directory + i * PAGE_SIZE, table, sizeof(table));
	}
}

int bzimage_place(struct vm *vm, const struct boot_image *image, uint64_t *entry, struct error *err)
{
	struct boot_params params = { .acpi_rsdp_addr = acpi_rsdp(vm) };
	struct setup_header hdr; /* aligned, where the one in params is not */
	uint64_t end, top;
	size_t setup = 0;
	int ret;

	if ((ret = read_header(&image->kernel, &hdr, &setup, err)) < 0 ||
	    (ret = load_kernel(vm, &image->kernel, &hdr, setup, err)) < 0)
		return ret;
	params.hdr = hdr;
	params.hdr.type_of_loader = LOADER_UNDEFINED;
	end = hdr.pref_address + hdr.init_size;
	if ((ret = load_initrd(vm, &image->initrd, &params, end, &top, err)) < 0 ||
	    (ret = load_tree(vm, &params, end, &top, err)) < 0 ||
	    (ret = load_cmdline(vm, image, &params, err)) < 0)
		return ret;
	fill_memmap(vm, &params);
	write_mode(vm);
	*entry = hdr.pref_address + ENTRY_64;
	return memory_write(&vm->memory, BOOT_PARAMS, &params, sizeof(params));
}

static int set_registers(struct vm *vm, uint64_t entry, struct error *err)
{
	const struct kvm_segment code = { .limit = 0xffffffff,
					  .selector = SELECTOR_CODE,
					  .type = 0xb,
					  .present = 1,
					  .l = 1,
					  .s = 1,
					  .g = 1 };
	const struct kvm_segment data = { .limit = 0xffffffff,
					  .selector = SELECTOR_DATA,
					  .type = 0x3,
					  .present = 1,
					  .db = 1,
					  .s = 1,
					  .g = 1 };
	struct kvm_regs regs = { .rip = entry, .rsi = BOOT_PARAMS, .rflags = 2 };
	struct kvm_sregs sregs;
	int fd = vm->vcpus[0]->fd;

	if (ioctl(fd, KVM_GET_SREGS, &sregs) < 0)
		return error_set(err, -errno, "boot", "cpu@0", "registers", "KVM to give them",
				 "%m");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.gdt.base = BOOT_GDT;
	sregs.gdt.limit = 4 * sizeof(uint64_t) - 1;
	sregs.cr3 = BOOT_PAGE_TABLES;
	sregs.cr4 = CR4_PAE;
	sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
	sregs.efer = EFER_LME_LMA;
	if (ioctl(fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(fd, KVM_SET_REGS, &regs) < 0)
		return error_set(err, -errno, "boot", "cpu@0", "registers", "KVM to take them",
				 "%m");
	return 0;
}

static int bzimage_load(struct vm *vm, const struct boot_image *image, struct error *err)
{
	uint64_t entry;
	int ret = bzimage_place(vm, image, &entry, err);

	return ret < 0 ? ret : set_registers(vm, entry, err);
}

static const struct loader bzimage_loader = {
	.name = "Linux bzImage",
	.probe = bzimage_probe,
	.load = bzimage_load,
};
LOADER(bzimage_loader);
