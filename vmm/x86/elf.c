/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading ELF images and copying them into RAM, for the loaders that are about ELF files. */
#include "vmm/x86/elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "vmm/vm.h"

int elf_bad(const struct elf *elf, const char *field, const char *expected, uint64_t got,
	    struct error *err)
{
	return error_set(err, -ENOEXEC, "boot", elf->file->path, field, expected, "0x%llx",
			 (unsigned long long)got);
}

bool elf_is(const struct boot_file *file)
{
	return file->size >= SELFMAG && memcmp(file->data, ELFMAG, SELFMAG) == 0;
}

static int other_machine(const struct elf *elf, uint16_t machine, struct error *err)
{
	static const struct {
		uint16_t machine;
		const char *name;
	} names[] = {
		{ EM_386, "i386 in the class of x86-64" },
		{ EM_X86_64, "x86-64 in the class of i386" },
		{ EM_AARCH64, "AArch64" },
		{ EM_ARM, "Arm" },
		{ EM_RISCV, "RISC-V" },
		{ EM_PPC64, "PowerPC 64" },
		{ EM_S390, "s390" },
		{ EM_MIPS, "MIPS" },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (names[i].machine == machine)
			return error_set(err, -ENOEXEC, "boot", elf->file->path, "architecture",
					 "x86", "%s", names[i].name);
	}
	return elf_bad(elf, "architecture", "x86", machine, err);
}

int elf_open(struct elf *elf, const struct boot_file *file, struct error *err)
{
	Elf64_Ehdr e64;
	Elf32_Ehdr e32;
	uint16_t machine;

	*elf = (struct elf){ .file = file };
	if (file->size < sizeof(e64))
		return elf_bad(elf, "size", "an ELF header", file->size, err);
	memcpy(&e64, file->data, sizeof(e64));
	memcpy(&e32, file->data, sizeof(e32));
	elf->is64 = e64.e_ident[EI_CLASS] == ELFCLASS64;
	machine = e64.e_machine; /* at the same place in both */
	if (e64.e_ident[EI_DATA] != ELFDATA2LSB)
		return elf_bad(elf, "byte order", "little endian", e64.e_ident[EI_DATA], err);
	if (machine != (elf->is64 ? EM_X86_64 : EM_386))
		return other_machine(elf, machine, err);
	elf->entry = elf->is64 ? e64.e_entry : e32.e_entry;
	elf->phoff = elf->is64 ? e64.e_phoff : e32.e_phoff;
	elf->phnum = elf->is64 ? e64.e_phnum : e32.e_phnum;
	elf->phentsize = elf->is64 ? e64.e_phentsize : e32.e_phentsize;
	if (elf->phentsize != (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return elf_bad(elf, "program header size", "that of its class", elf->phentsize,
			       err);
	if (elf->phoff > file->size ||
	    (uint64_t)elf->phnum * elf->phentsize > file->size - elf->phoff)
		return elf_bad(elf, "program headers", "to lie in the file", elf->phoff, err);
	return 0;
}

int elf_segment(const struct elf *elf, unsigned int i, struct segment *s, struct error *err)
{
	const uint8_t *at = elf->file->data + elf->phoff + (uint64_t)i * elf->phentsize;

	if (elf->is64) {
		Elf64_Phdr p;

		memcpy(&p, at, sizeof(p));
		*s = (struct segment){ p.p_type,   p.p_offset, p.p_vaddr, p.p_paddr,
				       p.p_filesz, p.p_memsz,  p.p_align };
	} else {
		Elf32_Phdr p;

		memcpy(&p, at, sizeof(p));
		*s = (struct segment){ p.p_type,   p.p_offset, p.p_vaddr, p.p_paddr,
				       p.p_filesz, p.p_memsz,  p.p_align };
	}
	if (s->type != PT_LOAD && s->type != PT_NOTE)
		return 0;
	if (s->offset > elf->file->size || s->filesz > elf->file->size - s->offset)
		return elf_bad(elf, "segment", "to lie in the file, which may be truncated",
			       s->offset + s->filesz, err);
	if (s->type == PT_LOAD && s->memsz < s->filesz)
		return elf_bad(elf, "segment size", "at least what is in the file", s->memsz, err);
	return 0;
}

/* @s is in RAM, so that sums do not overflow. */
static int check_kept(const struct elf *elf, const struct segment *s, const struct gpa_range *keep,
		      unsigned int n, struct error *err)
{
	for (unsigned int i = 0; i < n; i++) {
		uint64_t end = keep[i].start + keep[i].size;

		if (s->paddr >= end || s->paddr + s->memsz <= keep[i].start)
			continue;
		elf_bad(elf, "segment address", "", s->paddr, err);
		error_expected(err, "an image that leaves 0x%llx to 0x%llx free",
			       (unsigned long long)keep[i].start, (unsigned long long)end - 1);
		return -ENOEXEC;
	}
	return 0;
}

int elf_load(struct vm *vm, const struct elf *elf, const struct gpa_range *keep, unsigned int n,
	     uint64_t *end, struct error *err)
{
	*end = 0;
	for (unsigned int i = 0; i < elf->phnum; i++) {
		struct segment s;
		uint8_t *to;
		int ret = elf_segment(elf, i, &s, err);

		if (ret < 0)
			return ret;
		if (s.type != PT_LOAD || s.memsz == 0)
			continue;
		to = memory_hva(&vm->memory, s.paddr, s.memsz);
		if (!to)
			return elf_bad(elf, "segment address", "guest RAM large enough for it",
				       s.paddr, err);
		ret = check_kept(elf, &s, keep, n, err);
		if (ret < 0)
			return ret;
		memcpy(to, elf->file->data + s.offset, s.filesz);
		memset(to + s.filesz, 0, s.memsz - s.filesz);
		memory_mark_dirty(&vm->memory, s.paddr, s.memsz);
		if (s.paddr + s.memsz > *end)
			*end = s.paddr + s.memsz;
	}
	return 0;
}
