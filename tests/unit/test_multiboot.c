/* SPDX-License-Identifier: BSD-2-Clause */
/* The multiboot loader: which files it takes, and what the guest finds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <libfdt.h>
#include <stdio.h>

#include "multiboot-fixture.h"
#include "vmm/x86/pvh.h"

struct info {
	uint32_t flags, lower, upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	uint32_t mmap_length, mmap_addr, drives[2], config, loader_name, apm;
};

struct range {
	uint32_t size, addr[2], len[2], type;
};

struct mod {
	uint32_t start, end, string, reserved;
};

static const struct info *check_info(struct rig *r)
{
	const struct info *info = at(r, BOOT_INFO, sizeof(*info));
	const struct range *map = at(r, info->mmap_addr, info->mmap_length);

	assert_int_equal(info->flags, 0x24d); /* memory, command line, modules, map, loader name */
	assert_int_equal(info->lower, 639);
	assert_int_equal(info->upper, (RAM - HIGH_RAM_START) / 1024);
	assert_string_equal(at(r, info->cmdline, 10), "one two=3");
	assert_string_equal(at(r, info->loader_name, 6), "ferry");
	assert_int_equal(info->mmap_length, 3 * sizeof(*map));
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(map[i].size, 20);
		assert_true(map[i].addr[1] == 0 && map[i].len[1] == 0);
		assert_int_equal(map[i].addr[0], i ? map[i - 1].addr[0] + map[i - 1].len[0] : 0);
		assert_int_equal(map[i].type, i == 1 ? 2 : 1);
	}
	assert_int_equal(map[2].addr[0] + map[2].len[0], RAM);
	return info;
}

static void check_code(struct rig *r, uint32_t where)
{
	const uint8_t zeros[BSS_BYTES] = { 0 };

	assert_memory_equal(at(r, where, CODE_BYTES), r->file + CODE_AT, CODE_BYTES);
	assert_memory_equal(at(r, where + CODE_BYTES, BSS_BYTES), zeros, BSS_BYTES);
	assert_int_equal(r->entry, ENTRY);
}

static void an_elf(void **state)
{
	struct rig *r = *state;
	const struct info *info;
	const struct mod *tree;

	memset(at(r, LOAD_AT, RAM - LOAD_AT), 0xee, RAM - LOAD_AT);
	assert_int_equal(place(r), 0);
	check_code(r, LOAD_AT);
	info = check_info(r);
	assert_int_equal(info->mods_count, 1);
	tree = at(r, info->mods_addr, sizeof(*tree));
	assert_string_equal(at(r, tree->string, 4), "fdt");
	assert_int_equal(fdt_check_full(at(r, tree->start, tree->end - tree->start),
					tree->end - tree->start),
			 0);
	/* With flags that ask for what is there anyway. */
	put_header(r, HEADER_AT, 3);
	assert_int_equal(place(r), 0);
	/* An entry that is a physical address. */
	((Elf32_Ehdr *)r->file)->e_entry = ENTRY;
	assert_int_equal(place(r), 0);
	assert_int_equal(r->entry, ENTRY);
}

static void a_flat_image(void **state)
{
	struct rig *r = *state;
	struct header *h = put_flat(r);

	memset(at(r, LOAD_AT, RAM - LOAD_AT), 0xee, RAM - LOAD_AT);
	assert_int_equal(place(r), 0);
	assert_memory_equal(at(r, LOAD_AT, 0x60), r->file + 0x40, 0x60);
	check_code(r, LOAD_AT + CODE_AT - 0x40);
	check_info(r);
	h->load_end = h->bss_end = 0; /* to the end of the file, no bss */
	memset(at(r, LOAD_AT, RAM - LOAD_AT), 0xee, RAM - LOAD_AT);
	assert_int_equal(place(r), 0);
	assert_memory_equal(at(r, LOAD_AT, FILE_SIZE - 0x40), r->file + 0x40, FILE_SIZE - 0x40);
	assert_int_equal(*(uint8_t *)at(r, LOAD_AT + FILE_SIZE - 0x40, 1), 0xee);
	/* The address fields come first, also in an ELF. */
	put_elf(r, NULL);
	memcpy(r->file + HEADER_AT,
	       &(struct header){ MAGIC, 1U << 16, -(MAGIC + (1U << 16)), LOAD_AT + HEADER_AT,
				 LOAD_AT, 0, 0, ENTRY },
	       sizeof(*h));
	assert_int_equal(place(r), 0);
	assert_memory_equal(at(r, LOAD_AT, FILE_SIZE), r->file, FILE_SIZE);
}

static void modules(void **state)
{
	struct rig *r = *state;
	uint8_t *data = malloc(RAM);
	const struct info *info;
	const struct mod *m;

	for (unsigned int i = 0; i < RAM; i++)
		data[i] = (uint8_t)(i * 7);
	r->image.initrd = (struct boot_file){ "initrd", data, 5000 };
	assert_int_equal(place(r), 0);
	info = check_info(r);
	assert_int_equal(info->mods_count, 2);
	m = at(r, info->mods_addr, 2 * sizeof(*m));
	assert_int_equal(m[0].end - m[0].start, 5000);
	assert_int_equal(m[0].start % PAGE_SIZE, 0);
	assert_memory_equal(at(r, m[0].start, 5000), data, 5000);
	assert_string_equal(at(r, m[0].string, 7), "initrd");
	assert_true(m[1].end <= m[0].start && m[1].start >= LOAD_AT + CODE_BYTES + BSS_BYTES);
	r->image.initrd.size = RAM - LOAD_AT - PAGE_SIZE;
	assert_int_equal(place(r), -ENOSPC);
	assert_string_equal(r->err.device, "machine tree");
	for (unsigned int i = 0; i < 3; i++) {
		const size_t sizes[] = { RAM - LOAD_AT, RAM, SIZE_MAX };

		r->image.initrd.size = sizes[i];
		assert_int_equal(place(r), -ENOSPC);
		assert_string_equal(r->err.device, "initrd");
	}
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
	free(text);
}

static void where_headers_may_be(void **state)
{
	struct rig *r = *state;

	r->image.kernel.data = r->file;
	r->image.kernel.size = sizeof(r->file);
	for (uint32_t where = 0; where < sizeof(r->file) - 12; where++) {
		memset(r->file, 0, sizeof(r->file));
		put_header(r, where, 0);
		assert_int_equal(multiboot_has_header(&r->image.kernel),
				 where % 4 == 0 && where + 12 <= 8192);
	}
	/* One with a wrong checksum before the right one. */
	memset(r->file, 0, sizeof(r->file));
	memcpy(r->file, &(uint32_t){ MAGIC }, 4);
	assert_false(multiboot_has_header(&r->image.kernel));
	put_header(r, 8, 0);
	assert_true(multiboot_has_header(&r->image.kernel));
	for (r->image.kernel.size = 0; r->image.kernel.size < 20; r->image.kernel.size++)
		assert_false(multiboot_has_header(&r->image.kernel));
	/* Address fields that end behind the part that counts. */
	for (uint32_t where = 8160; where <= 8180; where += 4) {
		struct header h = {
			MAGIC, 1U << 16, -(MAGIC + (1U << 16)), LOAD_AT + where, LOAD_AT, 0,
			0,     ENTRY
		};

		memset(r->file, 0, sizeof(r->file));
		memcpy(r->file + where, &h, sizeof(h));
		r->image.kernel.size = sizeof(r->file);
		if (where == 8160)
			assert_int_equal(place(r), 0);
		else
			refused(r, "multiboot header");
	}
}

static const struct loader *loader_of(const struct boot_file *file)
{
	const struct loader *found = NULL;

	for_each_loader (l) {
		if (!(*l)->probe(file))
			continue;
		assert_null(found); /* at most one, whatever their order */
		found = *l;
	}
	return found;
}

static void who_takes_which_file(void **state)
{
	struct rig *r = *state;
	const Elf64_Nhdr note = { 4, 4, 18 };
	Elf32_Phdr *p;

	r->image.kernel.data = r->file;
	assert_string_equal(loader_of(&r->image.kernel)->name, "multiboot");
	put_flat(r);
	assert_string_equal(loader_of(&r->image.kernel)->name, "multiboot");
	/* With a PVH note as well. */
	put_elf(r, &p);
	((Elf32_Ehdr *)r->file)->e_phnum = 2;
	p[1] = (Elf32_Phdr){ .p_type = PT_NOTE, .p_offset = CODE_AT, .p_filesz = 20 };
	put_header(r, 0x100, 0);
	memcpy(r->file + CODE_AT, &note, sizeof(note));
	memcpy(r->file + CODE_AT + sizeof(note), "Xen", 4);
	assert_true(pvh_has_note(&r->image.kernel) && multiboot_has_header(&r->image.kernel));
	assert_string_equal(loader_of(&r->image.kernel)->name, "ELF with a PVH note");
	/* An ELF with neither is refused by PVH, by name. */
	memset(r->file + 0x100, 0, 12);
	r->file[CODE_AT + 8] = 17;
	put_header(r, HEADER_AT, 1);
	r->file[HEADER_AT]++;
	assert_string_equal(loader_of(&r->image.kernel)->name, "ELF with a PVH note");
	r->file[0] = 0;
	assert_null(loader_of(&r->image.kernel));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_elf),
		TEST(a_flat_image),
		TEST(modules),
		TEST(a_long_command_line),
		TEST(where_headers_may_be),
		TEST(who_takes_which_file),
	};

	return cmocka_run_group_tests_name("multiboot", tests, NULL, NULL);
}
