/* SPDX-License-Identifier: BSD-2-Clause */
/* Multiboot kernels that are wrong: each refused by name, or placed within RAM. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>

#include "multiboot-fixture.h"

static void flags_that_we_lack(void **state)
{
	struct rig *r = *state;

	for (unsigned int bit = 2; bit < 16; bit++) {
		put_header(r, HEADER_AT, 1U << bit);
		refused(r, "multiboot flags");
	}
	for (unsigned int bit = 17; bit < 32; bit++) { /* may be passed over */
		put_header(r, HEADER_AT, 1U << bit);
		assert_int_equal(place(r), 0);
	}
}

static void elfs_that_are_wrong(void **state)
{
	static const struct {
		uint32_t paddr, memsz;
	} outside[] = {
		{ RAM - 499, 500 },
		{ RAM, 500 },
		{ UINT32_MAX - 499, 500 },
		{ UINT32_MAX, 500 },
		{ LOAD_AT, UINT32_MAX },
		{ 0xfffffe00, 0x300 }, /* beyond 4 GiB */
		{ BOOT_INFO, 500 },
		{ BOOT_CMDLINE - 499, 500 },
		{ 0, RAM },
	};
	struct rig *r = *state;
	Elf32_Phdr *p;

	for (unsigned int i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
		put_elf(r, &p);
		p->p_paddr = outside[i].paddr;
		p->p_memsz = outside[i].memsz;
		refused(r, "segment address");
	}
	put_elf(r, NULL);
	r->file[EI_CLASS] = ELFCLASS64;
	((Elf64_Ehdr *)r->file)->e_machine = EM_X86_64;
	((Elf64_Ehdr *)r->file)->e_phentsize = sizeof(Elf64_Phdr);
	((Elf64_Ehdr *)r->file)->e_phnum = 0;
	put_header(r, HEADER_AT, 0);
	refused(r, "class");
	put_elf(r, NULL);
	((Elf32_Ehdr *)r->file)->e_machine = EM_ARM;
	refused(r, "architecture");
	assert_string_equal(r->err.got, "Arm");
	put_elf(r, NULL);
	((Elf32_Ehdr *)r->file)->e_phnum = 0xffff;
	refused(r, "program headers");
	put_elf(r, NULL);
	((Elf32_Ehdr *)r->file)->e_entry = 0x80000000;
	refused(r, "entry");
	put_elf(r, NULL);
	r->file[0] = 0;
	refused(r, "multiboot header");
}

/* Segments over each other: the later one wins, and nothing else happens. */
static void segments_that_overlap(void **state)
{
	struct rig *r = *state;
	Elf32_Phdr *p;

	put_elf(r, &p);
	((Elf32_Ehdr *)r->file)->e_phnum = 2;
	put_header(r, HEADER_AT + 16, 0);
	p[1] = p[0];
	p[1].p_paddr += 100;
	assert_int_equal(place(r), 0);
	assert_memory_equal(at(r, LOAD_AT, 100), r->file + CODE_AT, 100);
	assert_memory_equal(at(r, LOAD_AT + 100, CODE_BYTES), r->file + CODE_AT, CODE_BYTES);
}

static void address_fields_that_are_wrong(void **state)
{
	static const struct {
		uint32_t header, load, load_end, bss_end, entry;
		const char *field;
	} wrong[] = {
		{ LOAD_AT - 1, LOAD_AT, 0, 0, ENTRY, "load_addr" }, /* before what is loaded */
		{ 0, UINT32_MAX, 0, 0, ENTRY, "load_addr" },
		{ LOAD_AT + HEADER_AT + 1, LOAD_AT, 0, 0, ENTRY,
		  "load_addr" }, /* before the file */
		{ UINT32_MAX, 0, 0, 0, ENTRY, "load_addr" },
		{ LOAD_AT, LOAD_AT, LOAD_AT - 1, 0, ENTRY, "load_end_addr" },
		{ LOAD_AT, LOAD_AT, LOAD_AT + FILE_SIZE - HEADER_AT + 1, 0, ENTRY,
		  "load_end_addr" },
		{ LOAD_AT, LOAD_AT, UINT32_MAX, 0, ENTRY, "load_end_addr" },
		{ LOAD_AT, LOAD_AT, LOAD_AT, 0, ENTRY, "load_end_addr" },
		{ LOAD_AT, LOAD_AT, 0, LOAD_AT + 10, ENTRY, "bss_end_addr" },
		{ LOAD_AT, LOAD_AT, 0, LOAD_AT - 1, ENTRY, "bss_end_addr" },
		{ LOAD_AT, LOAD_AT, 0, RAM + 1, ENTRY, "load_addr" },
		{ LOAD_AT, LOAD_AT, 0, UINT32_MAX, ENTRY, "load_addr" },
		{ RAM - 10, RAM - 10, 0, 0, ENTRY, "load_addr" },
		{ UINT32_MAX - 10, UINT32_MAX - 10, 0, 0, ENTRY, "load_addr" },
		{ UINT32_MAX - 10, UINT32_MAX - 10, 0, 5, ENTRY, "bss_end_addr" },
		{ BOOT_INFO, BOOT_INFO, 0, 0, ENTRY, "load_addr" },
		{ BOOT_CMDLINE - 10, BOOT_CMDLINE - 10, 0, 0, ENTRY, "load_addr" },
		{ 0x1000, 0x1000, 0, RAM, ENTRY, "load_addr" },
		{ LOAD_AT, LOAD_AT, 0, 0, RAM, "entry" },
		{ LOAD_AT, LOAD_AT, 0, 0, UINT32_MAX, "entry" },
	};
	struct rig *r = *state;

	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct header *h = put_flat(r);

		h->header_addr = wrong[i].header;
		h->load_addr = wrong[i].load;
		h->load_end = wrong[i].load_end;
		h->bss_end = wrong[i].bss_end;
		h->entry = wrong[i].entry;
		refused(r, wrong[i].field);
	}
}

static void truncated_anywhere(void **state)
{
	struct rig *r = *state;

	for (unsigned int flat = 0; flat < 2; flat++) {
		if (flat)
			put_flat(r);
		else
			put_elf(r, NULL);
		for (r->image.kernel.size = 0; r->image.kernel.size < FILE_SIZE;
		     r->image.kernel.size++)
			assert_int_equal(place(r), -ENOEXEC);
		assert_int_equal(place(r), 0);
	}
}

/* Whatever comes of it, it does not reach beyond the file or RAM. */
static void changed_anywhere(void **state)
{
	static const uint8_t values[] = { 0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff };
	struct rig *r = *state;
	unsigned int refusals = 0;

	for (unsigned int flat = 0; flat < 2; flat++) {
		for (unsigned int i = 0; i < CODE_AT; i++) {
			for (unsigned int v = 0; v < sizeof(values); v++) {
				if (flat)
					put_flat(r);
				else
					put_elf(r, NULL);
				r->file[i] = values[v];
				refusals += place(r) < 0;
			}
		}
	}
	assert_true(refusals > 300);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(flags_that_we_lack),    TEST(elfs_that_are_wrong),
		TEST(segments_that_overlap), TEST(address_fields_that_are_wrong),
		TEST(truncated_anywhere),    TEST(changed_anywhere),
	};

	return cmocka_run_group_tests_name("multiboot, hostile", tests, NULL, NULL);
}
