/* SPDX-License-Identifier: BSD-2-Clause */
/* The PVH loader and hostile kernels: each refused by a sentence, or placed within RAM. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/tree.h"
#include "vmm/vm.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/pvh.h"

#define RAM	   (2UL << 20)
#define LOAD_AT	   HIGH_RAM_START
#define CODE_BYTES 200
#define BSS_BYTES  300
#define NOTE_AT	   0x100
#define CODE_AT	   0x180
#define FILE_SIZE  (CODE_AT + CODE_BYTES)
#define ENTRY	   (LOAD_AT + 8)

/* As the guest sees it (start_info.h). */
struct start {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct mod {
	uint64_t paddr, size, cmdline, reserved;
};

struct range {
	uint64_t addr, size;
	uint32_t type, reserved;
};

struct note {
	Elf64_Nhdr head;
	char name[4];
	uint64_t entry;
};

struct rig {
	struct vm *vm;
	uint8_t file[FILE_SIZE];
	Elf64_Ehdr e;
	Elf64_Phdr p[2]; /* the code, the note */
	struct note note;
	struct boot_image image;
	uint64_t entry;
	struct error err;
};

static void write_elf64(struct rig *r)
{
	memset(r->file, 0, CODE_AT);
	memcpy(r->file, &r->e, sizeof(r->e));
	memcpy(r->file + r->e.e_phoff, r->p, sizeof(r->p));
	memcpy(r->file + NOTE_AT, &r->note, sizeof(r->note));
}

static void write_elf32(struct rig *r)
{
	Elf32_Ehdr e = { .e_machine = EM_386,
			 .e_phoff = sizeof(e),
			 .e_phnum = 2,
			 .e_phentsize = sizeof(Elf32_Phdr) };

	memset(r->file, 0, CODE_AT);
	memcpy(e.e_ident, r->e.e_ident, EI_NIDENT);
	e.e_ident[EI_CLASS] = ELFCLASS32;
	memcpy(r->file, &e, sizeof(e));
	for (unsigned int i = 0; i < 2; i++) {
		const Elf64_Phdr *from = &r->p[i];
		Elf32_Phdr p = { .p_type = from->p_type,
				 .p_offset = (Elf32_Off)from->p_offset,
				 .p_paddr = (Elf32_Addr)from->p_paddr,
				 .p_filesz = (Elf32_Word)from->p_filesz,
				 .p_memsz = (Elf32_Word)from->p_memsz,
				 .p_align = (Elf32_Word)from->p_align };

		memcpy(r->file + sizeof(e) + i * sizeof(p), &p, sizeof(p));
	}
	memcpy(r->file + NOTE_AT, &r->note, sizeof(r->note));
}

static int setup(void **state)
{
	struct machine_options opt = { .memory = RAM, .cpus = 1 };
	struct rig *r = calloc(1, sizeof(*r));
	struct machine_tree *mt;
	uint64_t hole, end;

	assert_int_equal(vm_create(&r->vm, NULL), 0);
	hole = HOLE_START;
	end = HOLE_END;
	assert_int_equal(memory_alloc(&r->vm->memory, RAM, MEMORY_ANON, hole, end, NULL), 0);
	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &r->vm->tree, NULL), 0);
	r->e = (Elf64_Ehdr){ .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 },
			     .e_machine = EM_X86_64,
			     .e_phoff = sizeof(r->e),
			     .e_phnum = 2,
			     .e_phentsize = sizeof(Elf64_Phdr) };
	r->p[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
				.p_offset = CODE_AT,
				.p_paddr = LOAD_AT,
				.p_filesz = CODE_BYTES,
				.p_memsz = CODE_BYTES + BSS_BYTES };
	r->note = (struct note){ { 4, 4, 18 }, "Xen", ENTRY };
	r->p[1] = (Elf64_Phdr){ .p_type = PT_NOTE,
				.p_offset = NOTE_AT,
				.p_filesz = sizeof(Elf64_Nhdr) + 8,
				.p_align = 4 };
	for (unsigned int i = 0; i < CODE_BYTES; i++)
		r->file[CODE_AT + i] = (uint8_t)(i + 1);
	r->image.kernel = (struct boot_file){ "kernel.elf", r->file, FILE_SIZE };
	r->image.cmdline = "console=ttyS0";
	write_elf64(r);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	vm_destroy(r->vm);
	free(r);
	return 0;
}

/* Place what is in the file now, and nothing that it has not said: in an exact copy, for ASan. */
static int place(struct rig *r)
{
	uint8_t *copy = malloc(r->image.kernel.size ? r->image.kernel.size : 1);
	int ret;

	memcpy(copy, r->file, r->image.kernel.size);
	r->image.kernel.data = copy;
	memset(&r->err, 0, sizeof(r->err));
	r->entry = 0;
	ret = pvh_place(r->vm, &r->image, &r->entry, &r->err);
	r->image.kernel.data = NULL;
	free(copy);
	if (ret < 0)
		assert_int_equal(r->err.code, ret);
	else
		assert_non_null(memory_hva(&r->vm->memory, r->entry, 1));
	return ret;
}

static void refused(struct rig *r, int code, const char *field)
{
	write_elf64(r);
	assert_int_equal(place(r), code);
	assert_string_equal(r->err.phase, "boot");
	assert_string_equal(r->err.field, field);
	assert_string_not_equal(r->err.got, "");
}

static void *at(struct rig *r, uint64_t gpa, uint64_t len)
{
	void *hva = memory_hva(&r->vm->memory, gpa, len);

	assert_non_null(hva);
	return hva;
}

static void check_placed(struct rig *r)
{
	const uint8_t zeros[BSS_BYTES] = { 0 };
	const struct start *s = at(r, BOOT_INFO, sizeof(*s));
	const struct range *map = at(r, s->memmap, s->memmap_entries * sizeof(*map));
	const struct mod *tree = at(r, s->modlist, sizeof(*tree));

	assert_int_equal(r->entry, ENTRY);
	assert_memory_equal(at(r, LOAD_AT, CODE_BYTES), r->file + CODE_AT, CODE_BYTES);
	assert_memory_equal(at(r, LOAD_AT + CODE_BYTES, BSS_BYTES), zeros, BSS_BYTES);
	assert_int_equal(s->magic, 0x336ec578);
	assert_int_equal(s->version, 1);
	assert_string_equal(at(r, s->cmdline, 64), "console=ttyS0");
	assert_int_equal(s->memmap_entries, 3);
	assert_int_equal(map[0].addr, 0);
	for (unsigned int i = 1; i < 3; i++)
		assert_int_equal(map[i].addr, map[i - 1].addr + map[i - 1].size);
	assert_int_equal(map[2].addr + map[2].size, RAM);
	assert_int_equal(map[2].type, 1);
	assert_int_equal(s->nr_modules, 1);
	assert_string_equal(at(r, tree->cmdline, 4), "fdt");
	assert_int_equal(fdt_check_full(at(r, tree->paddr, tree->size), tree->size), 0);
}

static void a_64_bit_image(void **state)
{
	struct rig *r = *state;

	memset(at(r, LOAD_AT, RAM - LOAD_AT), 0xee, RAM - LOAD_AT); /* what was there before */
	assert_int_equal(place(r), 0);
	check_placed(r);
}

static void a_32_bit_image(void **state)
{
	struct rig *r = *state;

	write_elf32(r);
	assert_int_equal(place(r), 0);
	check_placed(r);
}

static void what_is_placed_is_logged(void **state)
{
	struct rig *r = *state;
	uint64_t bits[RAM / PAGE_SIZE / 64] = { 0 };
	const uint64_t pages[] = { LOAD_AT, BOOT_INFO, BOOT_CMDLINE, RAM - 1 };

	assert_int_equal(place(r), 0);
	memory_fetch_own(&r->vm->memory.regions[0], 0, RAM / PAGE_SIZE, bits);
	for (unsigned int i = 0; i < 4; i++)
		assert_true(bits[pages[i] / PAGE_SIZE / 64] >> pages[i] / PAGE_SIZE % 64 & 1);
}

static void an_initrd(void **state)
{
	struct rig *r = *state;
	uint8_t *data = malloc(RAM);
	const struct start *s;
	const struct mod *m;

	for (unsigned int i = 0; i < RAM; i++)
		data[i] = (uint8_t)(i * 7);
	r->image.initrd = (struct boot_file){ "initrd", data, 5000 };
	assert_int_equal(place(r), 0);
	s = at(r, BOOT_INFO, sizeof(*s));
	assert_int_equal(s->nr_modules, 2);
	m = at(r, s->modlist, 2 * sizeof(*m));
	assert_int_equal(m[0].size, 5000);
	assert_int_equal(m[0].paddr % PAGE_SIZE, 0);
	assert_memory_equal(at(r, m[0].paddr, 5000), data, 5000);
	assert_true(m[1].paddr + m[1].size <= m[0].paddr);
	assert_true(m[1].paddr >= LOAD_AT + CODE_BYTES + BSS_BYTES);

	/* The initrd alone fills what is left; then there is no room for the tree; then for it. */
	r->image.initrd.size = RAM - LOAD_AT - PAGE_SIZE;
	assert_int_equal(place(r), -ENOSPC);
	assert_string_equal(r->err.device, "machine tree");
	r->image.initrd.size++;
	assert_int_equal(place(r), -ENOSPC);
	assert_string_equal(r->err.device, "initrd");
	r->image.initrd.size = RAM;
	assert_int_equal(place(r), -ENOSPC);
	r->image.initrd.size = SIZE_MAX;
	assert_int_equal(place(r), -ENOSPC);
	free(data);
}

static void a_long_command_line(void **state)
{
	struct rig *r = *state;
	char *text = calloc(1, BOOT_CMDLINE_MAX + 1);

	memset(text, 'x', BOOT_CMDLINE_MAX - 1);
	r->image.cmdline = text;
	assert_int_equal(place(r), 0);
	assert_string_equal(at(r, BOOT_CMDLINE, BOOT_CMDLINE_MAX), text);
	text[BOOT_CMDLINE_MAX - 1] = 'x';
	assert_int_equal(place(r), -E2BIG);
	assert_string_equal(r->err.device, "cmdline");
	free(text);
}

static void headers_that_are_wrong(void **state)
{
	struct rig *r = *state;
	const Elf64_Ehdr good = r->e;

	r->e.e_machine = EM_AARCH64;
	refused(r, -ENOEXEC, "architecture");
	r->e = good;
	r->e.e_ident[EI_DATA] = ELFDATA2MSB;
	refused(r, -ENOEXEC, "byte order");
	r->e = good;
	r->e.e_phentsize = sizeof(Elf32_Phdr);
	refused(r, -ENOEXEC, "program header size");
	r->e = good;
	r->e.e_phnum = 0xffff;
	refused(r, -ENOEXEC, "program headers");
	r->e.e_phnum = 0;
	refused(r, -ENOEXEC, "entry");
	for (unsigned int i = 0; i < 4; i++) {
		const uint64_t far[] = { FILE_SIZE - 1, FILE_SIZE + 1, 1ULL << 63, UINT64_MAX };

		r->e = good;
		write_elf64(r);
		memcpy(r->file + offsetof(Elf64_Ehdr, e_phoff), &far[i], 8);
		assert_int_equal(place(r), -ENOEXEC);
		assert_string_equal(r->err.field, "program headers");
	}
}

static void segments_that_do_not_fit(void **state)
{
	static const struct {
		uint64_t paddr, memsz;
	} outside[] = {
		{ RAM - 499, 500 },	     { RAM, 500 },
		{ UINT64_MAX - 499, 500 },   { UINT64_MAX, 500 },
		{ LOAD_AT, UINT64_MAX },     { LOAD_AT, UINT64_MAX - LOAD_AT + 1 },
		{ HOLE_START, 500 },	     { HOLE_END, 500 },
		{ BOOT_INFO, 500 },	     { BOOT_INFO - 499, 500 },
		{ BOOT_CMDLINE, 500 },	     { BOOT_CMDLINE + BOOT_CMDLINE_MAX - 1, 500 },
		{ BOOT_CMDLINE - 499, 500 }, { 0, RAM },
		{ ACPI_TABLES - 499, 500 },  { MP_TABLES + MP_TABLES_MAX - 1, 500 },
	};
	struct rig *r = *state;

	for (unsigned int i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
		r->p[0].p_paddr = outside[i].paddr;
		r->p[0].p_memsz = outside[i].memsz;
		refused(r, -ENOEXEC, "segment address");
	}
}

static void segments_that_just_fit(void **state)
{
	static const uint64_t fits[] = { 0, BOOT_INFO - 500, BOOT_CMDLINE - 500,
					 BOOT_CMDLINE + BOOT_CMDLINE_MAX };
	struct rig *r = *state;

	r->p[0].p_memsz = 500;
	for (unsigned int i = 0; i < 4; i++) {
		r->p[0].p_paddr = fits[i];
		write_elf64(r);
		assert_int_equal(place(r), 0);
		assert_memory_equal(at(r, fits[i], CODE_BYTES), r->file + CODE_AT, CODE_BYTES);
	}
	/* There, but nothing else has room then. */
	r->p[0].p_paddr = RAM - 500;
	write_elf64(r);
	assert_int_equal(place(r), -ENOSPC);
	/* An empty one may be anywhere. */
	r->p[0].p_paddr = UINT64_MAX;
	r->p[0].p_memsz = r->p[0].p_filesz = 0;
	write_elf64(r);
	assert_int_equal(place(r), 0);
}

static void segments_that_are_not_in_the_file(void **state)
{
	static const uint64_t offsets[] = { CODE_AT + 1, FILE_SIZE + 1, UINT64_MAX,
					    UINT64_MAX - CODE_BYTES + 1 };
	struct rig *r = *state;

	for (unsigned int segment = 0; segment < 2; segment++) {
		const Elf64_Phdr good = r->p[segment];

		for (unsigned int i = 0; i < 4; i++) {
			r->p[segment].p_filesz = CODE_BYTES;
			r->p[segment].p_offset = offsets[i];
			refused(r, -ENOEXEC, "segment");
		}
		r->p[segment] = good;
		r->p[segment].p_filesz = UINT64_MAX;
		refused(r, -ENOEXEC, "segment");
		r->p[segment] = good;
	}
	r->p[0].p_memsz = CODE_BYTES - 1;
	refused(r, -ENOEXEC, "segment size");
}

static void notes_that_name_no_entry(void **state)
{
	struct rig *r = *state;
	const struct note good = r->note;

	r->note.head.n_type = 17;
	refused(r, -ENOEXEC, "entry");
	r->note = good;
	memcpy(r->note.name, "Zen", 4);
	refused(r, -ENOEXEC, "entry");
	r->note = good;
	r->note.head.n_descsz = 3;
	refused(r, -ENOEXEC, "entry");
	r->note.head.n_descsz = UINT32_MAX;
	refused(r, -ENOEXEC, "entry");
	r->note = good;
	r->note.head.n_namesz = UINT32_MAX;
	refused(r, -ENOEXEC, "entry");
	r->note = good;
	r->p[1].p_type = PT_NULL;
	refused(r, -ENOEXEC, "entry");
	r->p[1].p_type = PT_NOTE;
	r->p[1].p_filesz--; /* cut off */
	refused(r, -ENOEXEC, "entry");
	r->p[1].p_filesz = 0;
	refused(r, -ENOEXEC, "entry");
}

static void entries_outside_of_ram(void **state)
{
	struct rig *r = *state;

	r->p[1].p_filesz = sizeof(struct note);
	r->note.head.n_descsz = 8;
	write_elf64(r);
	assert_int_equal(place(r), 0);
	check_placed(r);
	r->note.entry = RAM;
	refused(r, -ENOEXEC, "entry");
	r->note.entry = ENTRY | 1ULL << 32;
	refused(r, -ENOEXEC, "entry");
	r->note.entry = UINT64_MAX;
	refused(r, -ENOEXEC, "entry");
}

/* Two notes, the second of which is the one; what is aligned is counted from each note's start. */
static void notes_of_both_alignments(void **state)
{
	struct rig *r = *state;

	for (unsigned int align = 4; align <= 8; align += 4) {
		const Elf64_Nhdr other = { 5, 1, 99 };
		size_t desc = align == 8 ? 24 : 20, next = align == 8 ? 32 : 24;

		r->p[1].p_align = align;
		r->p[1].p_filesz = next + sizeof(Elf64_Nhdr) + 8;
		write_elf64(r);
		memcpy(r->file + NOTE_AT, &other, sizeof(other));
		memcpy(r->file + NOTE_AT + sizeof(other), "GNUs", 5);
		r->file[NOTE_AT + desc] = 1;
		memcpy(r->file + NOTE_AT + next, &r->note, sizeof(Elf64_Nhdr) + 8);
		assert_int_equal(place(r), 0);
		check_placed(r);
	}
}

static void truncated_anywhere(void **state)
{
	struct rig *r = *state;

	for (unsigned int bits = 32; bits <= 64; bits += 32) {
		if (bits == 32)
			write_elf32(r);
		else
			write_elf64(r);
		for (r->image.kernel.size = 0; r->image.kernel.size < FILE_SIZE;
		     r->image.kernel.size++)
			assert_int_equal(place(r), -ENOEXEC);
		assert_int_equal(place(r), 0);
	}
}

/* Whatever comes of it, it does not reach beyond the file or RAM. */
static void changed_anywhere(void **state)
{
	struct rig *r = *state;
	unsigned int refusals = 0;

	for (unsigned int bits = 32; bits <= 64; bits += 32) {
		for (unsigned int i = 0; i < CODE_AT; i++) {
			for (unsigned int value = 0; value < 256; value += 1 + value % 16 / 2) {
				if (bits == 32)
					write_elf32(r);
				else
					write_elf64(r);
				r->file[i] = (uint8_t)value;
				refusals += place(r) < 0;
			}
		}
	}
	assert_true(refusals > 1000);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_64_bit_image),
		TEST(a_32_bit_image),
		TEST(what_is_placed_is_logged),
		TEST(an_initrd),
		TEST(a_long_command_line),
		TEST(headers_that_are_wrong),
		TEST(segments_that_do_not_fit),
		TEST(segments_that_just_fit),
		TEST(segments_that_are_not_in_the_file),
		TEST(notes_that_name_no_entry),
		TEST(entries_outside_of_ram),
		TEST(notes_of_both_alignments),
		TEST(truncated_anywhere),
		TEST(changed_anywhere),
	};

	return cmocka_run_group_tests_name("pvh", tests, NULL, NULL);
}
