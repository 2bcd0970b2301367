/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading ELF headers of either class, other architectures, and what an image must leave free. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <stdio.h>

#include "bootrig.h"
#include "vmm/x86/elf.h"

#define SEGMENTS 4U
#define DATA_AT	 0x400U
#define SIZE	 0x600U

static Elf64_Phdr *segments(struct rig *r)
{
	return (Elf64_Phdr *)(r->file + sizeof(Elf64_Ehdr));
}

static int setup(void **state)
{
	struct rig *r = rig_new();
	const Elf64_Ehdr e = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 },
			       .e_machine = EM_X86_64,
			       .e_entry = 0x123456789,
			       .e_phoff = sizeof(e),
			       .e_phnum = SEGMENTS,
			       .e_phentsize = sizeof(Elf64_Phdr) };

	r->image.kernel.size = SIZE;
	r->image.kernel.data = r->file;
	memcpy(r->file, &e, sizeof(e));
	for (unsigned int i = 0; i < SEGMENTS; i++)
		segments(r)[i] = (Elf64_Phdr){ .p_type = PT_LOAD,
					       .p_offset = DATA_AT + i * 0x10,
					       .p_vaddr = 0xffffffff80000000 + i,
					       .p_paddr = HIGH_RAM_START + i * 0x1000,
					       .p_filesz = 0x100,
					       .p_memsz = 0x200 };
	for (unsigned int i = DATA_AT; i < SIZE; i++)
		r->file[i] = (uint8_t)(i * 5 + 3);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

static int load(struct rig *r, const struct gpa_range *keep, unsigned int n, uint64_t *end)
{
	struct elf elf;
	int ret;

	memset(&r->err, 0, sizeof(r->err));
	ret = elf_open(&elf, &r->image.kernel, &r->err);
	return ret ? ret : elf_load(r->vm, &elf, keep, n, end, &r->err);
}

static void headers_of_both_classes(void **state)
{
	struct rig *r = *state;
	const Elf32_Ehdr e = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 },
			       .e_machine = EM_386,
			       .e_entry = 0x12345678,
			       .e_phoff = sizeof(e),
			       .e_phnum = 1,
			       .e_phentsize = sizeof(Elf32_Phdr) };
	const Elf32_Phdr p = { PT_LOAD, 1, 2, 3, 4, 5, 6, 7 };
	struct segment s;
	struct elf elf;

	assert_int_equal(elf_open(&elf, &r->image.kernel, NULL), 0);
	assert_true(elf.is64 && elf.entry == 0x123456789 && elf.phnum == SEGMENTS);
	assert_int_equal(elf_segment(&elf, 2, &s, NULL), 0);
	assert_true(s.vaddr == 0xffffffff80000002 && s.paddr == HIGH_RAM_START + 0x2000);
	memcpy(r->file, &e, sizeof(e));
	memcpy(r->file + sizeof(e), &p, sizeof(p));
	assert_int_equal(elf_open(&elf, &r->image.kernel, NULL), 0);
	assert_true(!elf.is64 && elf.entry == 0x12345678 && elf.phnum == 1);
	assert_int_equal(elf_segment(&elf, 0, &s, NULL), 0);
	assert_true(s.type == PT_LOAD && s.offset == 1 && s.vaddr == 2 && s.paddr == 3 &&
		    s.filesz == 4 && s.memsz == 5 && s.align == 7);
}

static void other_architectures(void **state)
{
	static const struct {
		uint16_t machine;
		uint8_t class;
		const char *got;
	} others[] = {
		{ EM_AARCH64, ELFCLASS64, "AArch64" },
		{ EM_RISCV, ELFCLASS64, "RISC-V" },
		{ EM_ARM, ELFCLASS32, "Arm" },
		{ EM_386, ELFCLASS64, "i386 in the class of x86-64" },
		{ EM_X86_64, ELFCLASS32, "x86-64 in the class of i386" }, /* x32 */
		{ 0x1234, ELFCLASS64, "0x1234" },
	};
	struct rig *r = *state;
	struct elf elf;

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		memset(&r->err, 0, sizeof(r->err));
		((Elf64_Ehdr *)r->file)->e_machine = others[i].machine;
		r->file[EI_CLASS] = others[i].class;
		assert_int_equal(elf_open(&elf, &r->image.kernel, &r->err), -ENOEXEC);
		assert_string_equal(r->err.field, "architecture");
		assert_string_equal(r->err.got, others[i].got);
	}
}

static void what_must_be_left_free(void **state)
{
	struct rig *r = *state;
	const uint64_t at2 = HIGH_RAM_START + 0x2000;
	uint64_t end;

	assert_int_equal(load(r, NULL, 0, &end), 0);
	assert_int_equal(end, HIGH_RAM_START + 0x3200);
	for (unsigned int i = 0; i < SEGMENTS; i++)
		assert_memory_equal(at(r, HIGH_RAM_START + i * 0x1000, 0x100),
				    r->file + DATA_AT + i * 0x10, 0x100);
	for (unsigned int i = 0; i < 6; i++) {
		const struct gpa_range keep[6][2] = {
			{ { 0, 0x1000 }, { at2 - 0x10, 0x10 } }, /* just before */
			{ { 0, 0x1000 }, { at2 + 0x200, 1 } },	 /* just behind */
			{ { 0, 0x1000 }, { at2 - 0x10, 0x11 } },
			{ { 0, 0x1000 }, { at2 + 0x1ff, 1 } },
			{ { 0, 0x1000 }, { at2 + 0x10, 1 } },
			{ { 0, HIGH_RAM_START + 1 }, { 0, 0 } },
		};

		assert_int_equal(load(r, keep[i], 2, &end), i < 2 ? 0 : -ENOEXEC);
		assert_string_equal(r->err.field, i < 2 ? "" : "segment address");
	}
	assert_string_equal(r->err.expected, "an image that leaves 0x0 to 0x100000 free");
}

static void counts_that_overflow(void **state)
{
	static const uint64_t far[] = { SIZE, SIZE + 1, 1ULL << 63, UINT64_MAX,
					UINT64_MAX - SEGMENTS * sizeof(Elf64_Phdr) + 1 };
	struct rig *r = *state;
	uint64_t end;

	for (unsigned int i = 0; i < 5; i++) {
		((Elf64_Ehdr *)r->file)->e_phoff = far[i];
		assert_int_equal(load(r, NULL, 0, &end), -ENOEXEC);
		assert_string_equal(r->err.field, "program headers");
	}
	((Elf64_Ehdr *)r->file)->e_phoff = sizeof(Elf64_Ehdr);
	((Elf64_Ehdr *)r->file)->e_phnum = 0xffff;
	assert_int_equal(load(r, NULL, 0, &end), -ENOEXEC);
	((Elf64_Ehdr *)r->file)->e_phnum = SEGMENTS;
	for (unsigned int i = 0; i < 5; i++) {
		segments(r)[3].p_offset = far[i];
		assert_int_equal(load(r, NULL, 0, &end), -ENOEXEC);
		assert_string_equal(r->err.field, "segment");
	}
	segments(r)[3].p_offset = DATA_AT;
	for (unsigned int i = 0; i < 5; i++) {
		segments(r)[3].p_memsz = far[i];
		segments(r)[3].p_paddr = -far[i];
		assert_int_equal(load(r, NULL, 0, &end), -ENOEXEC);
		assert_string_equal(r->err.field, "segment address");
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(headers_of_both_classes),
		TEST(other_architectures),
		TEST(what_must_be_left_free),
		TEST(counts_that_overflow),
	};

	return cmocka_run_group_tests_name("elf", tests, NULL, NULL);
}
