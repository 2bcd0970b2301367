/* SPDX-License-Identifier: BSD-2-Clause */
/* A multiboot kernel of either kind, for tests to spoil. */
#ifndef TESTS_UNIT_MULTIBOOT_FIXTURE_H
#define TESTS_UNIT_MULTIBOOT_FIXTURE_H

#include <elf.h>
#include <errno.h>

#include "bootrig.h"
#include "vmm/x86/multiboot.h"

#define MAGIC	   0x1badb002U
#define LOAD_AT	   ((uint32_t)HIGH_RAM_START)
#define HEADER_AT  0x80U /* in the file */
#define CODE_AT	   0xa0U
#define CODE_BYTES 200U
#define BSS_BYTES  300U
#define FILE_SIZE  (CODE_AT + CODE_BYTES)
#define ENTRY	   (LOAD_AT + 8)
#define VIRTUAL	   0xc0000000U

struct header {
	uint32_t magic, flags, checksum, header_addr, load_addr, load_end, bss_end, entry;
};

static inline void put_header(struct rig *r, uint32_t where, uint32_t flags)
{
	struct header h = { .magic = MAGIC, .flags = flags, .checksum = -(MAGIC + flags) };

	memcpy(r->file + where, &h, 12);
}

/* An ELF32 with one segment, whose virtual addresses are elsewhere. */
static inline void put_elf(struct rig *r, Elf32_Phdr **p)
{
	Elf32_Ehdr e = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 },
			 .e_machine = EM_386,
			 .e_entry = VIRTUAL + 8,
			 .e_phoff = sizeof(e),
			 .e_phnum = 1,
			 .e_phentsize = sizeof(Elf32_Phdr) };
	Elf32_Phdr load = { .p_type = PT_LOAD,
			    .p_offset = CODE_AT,
			    .p_vaddr = VIRTUAL,
			    .p_paddr = LOAD_AT,
			    .p_filesz = CODE_BYTES,
			    .p_memsz = CODE_BYTES + BSS_BYTES };

	memset(r->file, 0, CODE_AT);
	memcpy(r->file, &e, sizeof(e));
	memcpy(r->file + sizeof(e), &load, sizeof(load));
	put_header(r, HEADER_AT, 0);
	if (p)
		*p = (Elf32_Phdr *)(r->file + sizeof(e));
}

static inline struct header *put_flat(struct rig *r)
{
	struct header *h = (struct header *)(r->file + HEADER_AT);

	memset(r->file, 0x90, CODE_AT);
	put_header(r, HEADER_AT, 1U << 16);
	h->header_addr = LOAD_AT + 0x40; /* so that loading begins at 0x40 of the file */
	h->load_addr = LOAD_AT;
	h->load_end = LOAD_AT + FILE_SIZE - 0x40;
	h->bss_end = h->load_end + BSS_BYTES;
	h->entry = ENTRY;
	return h;
}

static inline int setup(void **state)
{
	struct rig *r = rig_new();

	for (unsigned int i = 0; i < CODE_BYTES; i++)
		r->file[CODE_AT + i] = (uint8_t)(i + 1);
	r->image.kernel.size = FILE_SIZE;
	r->image.cmdline = "one two=3";
	put_elf(r, NULL);
	*state = r;
	return 0;
}

static inline int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

static inline int call(struct rig *r)
{
	return multiboot_place(r->vm, &r->image, &r->entry, &r->err);
}

static inline int place(struct rig *r)
{
	return rig_place(r, call);
}

static inline void refused(struct rig *r, const char *field)
{
	assert_int_equal(place(r), -ENOEXEC);
	assert_string_equal(r->err.device, "kernel");
	assert_string_equal(r->err.field, field);
	assert_string_not_equal(r->err.got, "");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
