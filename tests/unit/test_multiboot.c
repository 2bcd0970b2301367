/* SPDX-License-Identifier: BSD-2-Clause */
/* The multiboot loader: what the guest finds, and hostile images of both kinds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>

#include "bootrig.h"
#include "vmm/x86/multiboot.h"
#include "vmm/x86/pvh.h"

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

static void put_header(struct rig *r, uint32_t where, uint32_t flags)
{
	struct header h = { .magic = MAGIC, .flags = flags, .checksum = -(MAGIC + flags) };

	memcpy(r->file + where, &h, 12);
}

/* An ELF32 with one segment, whose virtual addresses are elsewhere. */
static void put_elf(struct rig *r, Elf32_Phdr **p)
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

static struct header *put_flat(struct rig *r)
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

static int setup(void **state)
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

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

static int call(struct rig *r)
{
	return multiboot_place(r->vm, &r->image, &r->entry, &r->err);
}

static int place(struct rig *r)
{
	return rig_place(r, call);
}

static void refused(struct rig *r, const char *field)
{
	assert_int_equal(place(r), -ENOEXEC);
	assert_string_equal(r->err.device, "kernel");
	assert_string_equal(r->err.field, field);
	assert_string_not_equal(r->err.got, "");
}

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

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_elf),
		TEST(a_flat_image),
		TEST(modules),
		TEST(a_long_command_line),
		TEST(where_headers_may_be),
		TEST(who_takes_which_file),
		TEST(flags_that_we_lack),
		TEST(elfs_that_are_wrong),
		TEST(segments_that_overlap),
		TEST(address_fields_that_are_wrong),
		TEST(truncated_anywhere),
		TEST(changed_anywhere),
	};

	return cmocka_run_group_tests_name("multiboot", tests, NULL, NULL);
}
