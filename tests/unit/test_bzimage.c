/* SPDX-License-Identifier: BSD-2-Clause */
/* The bzImage loader and hostile kernels: each refused by a sentence, or placed within RAM. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <asm/bootparam.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/tree.h"
#include "vmm/vm.h"
#include "vmm/x86/bzimage.h"
#include "vmm/x86/platform.h"

#define RAM	  (8UL << 20)
#define LOAD_AT	  (2UL << 20)
#define INIT_SIZE (1UL << 20)
#define SECTORS	  3
#define SETUP	  ((SECTORS + 1) * 512)
#define CODE	  2048
#define FILE_SIZE (SETUP + CODE)
#define HEADER	  0x1f1

struct rig {
	struct vm *vm;
	uint8_t file[FILE_SIZE];
	struct setup_header h; /* written to the file by place() */
	uint8_t jump;	       /* the header's length */
	struct boot_image image;
	uint64_t entry;
	struct error err;
};

static int setup(void **state)
{
	struct machine_options opt = { .memory = RAM, .cpus = 2, .kernel = "secret" };
	struct rig *r = calloc(1, sizeof(*r));
	struct machine_tree *mt;

	assert_int_equal(vm_create(&r->vm, NULL), 0);
	assert_int_equal(memory_alloc(&r->vm->memory, RAM, MEMORY_ANON, HOLE_START, HOLE_END, NULL),
			 0);
	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &r->vm->tree, NULL), 0);
	r->h = (struct setup_header){ .setup_sects = SECTORS,
				      .syssize = CODE / 16,
				      .boot_flag = 0xaa55,
				      .header = 0x53726448,
				      .version = 0x20f,
				      .loadflags = LOADED_HIGH,
				      .initrd_addr_max = 0x7fffffff,
				      .kernel_alignment = 2 << 20,
				      .relocatable_kernel = 1,
				      .xloadflags = XLF_KERNEL_64,
				      .cmdline_size = 100,
				      .pref_address = LOAD_AT,
				      .init_size = INIT_SIZE };
	r->jump = (uint8_t)(HEADER + sizeof(r->h) - 0x202);
	memset(r->file, 0xaa, SETUP); /* what must not get into the zero page */
	for (unsigned int i = 0; i < CODE; i++)
		r->file[SETUP + i] = (uint8_t)(i * 3 + 1);
	r->image.kernel = (struct boot_file){ "bzImage", r->file, FILE_SIZE };
	r->image.cmdline = "console=ttyS0";
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

/* Place what is in the file now: an exact copy of it, for ASan. */
static int place(struct rig *r)
{
	size_t size = r->image.kernel.size;
	uint8_t *copy = malloc(size ? size : 1);
	int ret;

	memcpy(copy, r->file, size);
	r->image.kernel.data = copy;
	memset(&r->err, 0, sizeof(r->err));
	r->entry = 0;
	ret = bzimage_place(r->vm, &r->image, &r->entry, &r->err);
	r->image.kernel.data = NULL;
	free(copy);
	if (ret < 0)
		assert_int_equal(r->err.code, ret);
	else
		assert_non_null(memory_hva(&r->vm->memory, r->entry, 1));
	return ret;
}

static void write_header(struct rig *r)
{
	memcpy(r->file + HEADER, &r->h, sizeof(r->h));
	r->file[0x201] = r->jump;
}

static void refused(struct rig *r, int code, const char *field)
{
	write_header(r);
	assert_int_equal(place(r), code);
	assert_string_equal(r->err.phase, "boot");
	assert_string_equal(r->err.field, field);
	assert_string_not_equal(r->err.got, "");
	assert_string_not_equal(r->err.expected, "");
}

static void *at(struct rig *r, uint64_t gpa, uint64_t len)
{
	void *hva = memory_hva(&r->vm->memory, gpa, len);

	assert_non_null(hva);
	return hva;
}

static const struct boot_params *params(struct rig *r)
{
	return at(r, BOOT_PARAMS, sizeof(struct boot_params));
}

static void a_kernel(void **state)
{
	struct rig *r = *state;
	const struct boot_params *p;
	const struct setup_data *data;

	write_header(r);
	assert_int_equal(place(r), 0);
	assert_int_equal(r->entry, LOAD_AT + 0x200);
	assert_memory_equal(at(r, LOAD_AT, CODE), r->file + SETUP, CODE);
	p = params(r);
	assert_int_equal(p->sentinel, 0);
	assert_int_equal(p->hdr.header, 0x53726448);
	assert_int_equal(p->hdr.type_of_loader, 0xff);
	assert_int_equal(p->hdr.ramdisk_size, 0);
	assert_string_equal(at(r, p->hdr.cmd_line_ptr, 64), "console=ttyS0");
	assert_int_equal(p->acpi_rsdp_addr, ACPI_TABLES);
	assert_int_equal(p->e820_entries, 3);
	assert_int_equal(p->e820_table[0].type, 1);
	assert_int_equal(p->e820_table[1].type, 2);
	assert_int_equal(p->e820_table[2].addr + p->e820_table[2].size, RAM);
	data = at(r, p->hdr.setup_data, sizeof(*data));
	assert_int_equal(data->type, SETUP_DTB);
	assert_int_equal(data->next, 0);
	assert_int_equal(
		fdt_check_full(at(r, p->hdr.setup_data + sizeof(*data), data->len), data->len), 0);
	assert_true(p->hdr.setup_data >= LOAD_AT + INIT_SIZE);
	assert_null(fdt_getprop(data->data, fdt_path_offset(data->data, "/chosen"), "host-kernel",
				NULL));
}

/* Every address below 4 GiB is mapped to itself. */
static void page_tables_and_gdt(void **state)
{
	static const uint64_t places[] = { 0, 0x123456, LOAD_AT, HOLE_START, 0xffffffff };
	struct rig *r = *state;
	const uint64_t *gdt;

	write_header(r);
	assert_int_equal(place(r), 0);
	for (unsigned int i = 0; i < 5; i++) {
		const uint64_t *table = at(r, BOOT_PAGE_TABLES, PAGE_SIZE);

		table = at(r, table[0] & ~0xfffULL, PAGE_SIZE);
		table = at(r, table[places[i] >> 30] & ~0xfffULL, PAGE_SIZE);
		assert_int_equal(table[places[i] >> 21 & 511], (places[i] & ~0x1fffffULL) | 0x83);
	}
	gdt = at(r, BOOT_GDT, 32);
	assert_true(gdt[2] >> 53 & 1); /* selector 0x10 is 64-bit code */
	assert_true(gdt[2] >> 43 & 1);
	assert_false(gdt[3] >> 43 & 1);
}

static void an_initrd(void **state)
{
	struct rig *r = *state;
	uint8_t *data = malloc(RAM);
	const struct setup_header *h = &params(r)->hdr;

	for (unsigned int i = 0; i < RAM; i++)
		data[i] = (uint8_t)(i * 7);
	r->image.initrd = (struct boot_file){ "initrd", data, 5000 };
	write_header(r);
	assert_int_equal(place(r), 0);
	assert_int_equal(h->ramdisk_size, 5000);
	assert_int_equal(h->ramdisk_image, RAM - 8192);
	assert_memory_equal(at(r, h->ramdisk_image, 5000), data, 5000);
	assert_true(h->setup_data < h->ramdisk_image);
	/* Not above what the kernel can reach, its last byte counted, */
	r->h.initrd_addr_max = 0x4fffff;
	write_header(r);
	assert_int_equal(place(r), 0);
	assert_true(h->ramdisk_image + h->ramdisk_size <= 0x500000);
	assert_true(h->ramdisk_image >= LOAD_AT + INIT_SIZE);
	/* and not where the kernel unpacks itself. */
	r->h.initrd_addr_max = LOAD_AT + INIT_SIZE + 4998;
	refused(r, -ENOSPC, "size");
	assert_string_equal(r->err.device, "initrd");
	r->h.initrd_addr_max = 0;
	refused(r, -ENOSPC, "size");
	r->h.initrd_addr_max = 0xffffffff;
	r->image.initrd.size = RAM;
	refused(r, -ENOSPC, "size");
	r->image.initrd.size = RAM - LOAD_AT - INIT_SIZE; /* and none for the tree */
	refused(r, -ENOSPC, "size");
	assert_string_equal(r->err.device, "machine tree");
	free(data);
}

/* 5 GiB that nobody touches: 3 below the hole, 2 above, and the initrd within the kernel's reach.
 */
static void memory_above_4_GiB(void **state)
{
	struct rig *r = *state;
	const struct boot_params *p;

	memory_free(&r->vm->memory);
	assert_int_equal(
		memory_alloc(&r->vm->memory, 5ULL << 30, MEMORY_ANON, HOLE_START, HOLE_END, NULL),
		0);
	r->image.initrd = (struct boot_file){ "initrd", r->file, 512 };
	write_header(r);
	assert_int_equal(place(r), 0);
	p = params(r);
	assert_int_equal(p->e820_entries, 4);
	assert_int_equal(p->e820_table[2].addr + p->e820_table[2].size, HOLE_START);
	assert_int_equal(p->e820_table[3].addr, HOLE_END);
	assert_int_equal(p->e820_table[3].size, 2ULL << 30);
	assert_int_equal(p->hdr.ramdisk_image, 0x80000000 - PAGE_SIZE);
}

static void the_command_line(void **state)
{
	struct rig *r = *state;
	static char text[BOOT_CMDLINE_MAX + 2];

	r->image.cmdline = memset(text, 'x', 100);
	write_header(r);
	assert_int_equal(place(r), 0);
	text[100] = 'x';
	refused(r, -E2BIG, "");
	assert_string_equal(r->err.device, "cmdline");
	/* A kernel that would take more than there is room for. */
	r->h.cmdline_size = 0xffffffff;
	memset(text, 'x', BOOT_CMDLINE_MAX - 1);
	write_header(r);
	assert_int_equal(place(r), 0);
	text[BOOT_CMDLINE_MAX - 1] = 'x';
	refused(r, -E2BIG, "");
}

static void what_cannot_be_booted(void **state)
{
	struct rig *r = *state;
	const struct setup_header good = r->h;

	r->h.xloadflags = 0;
	refused(r, -ENOEXEC, "xloadflags");
	r->h = good, r->h.version = 0x20b;
	refused(r, -ENOEXEC, "boot protocol");
	r->h = good, r->h.version = 0;
	refused(r, -ENOEXEC, "boot protocol");
	r->h = good, r->h.loadflags = 0;
	refused(r, -ENOEXEC, "loadflags");
	r->h = good, r->h.pref_address = 0x7000;
	refused(r, -ENOEXEC, "pref_address");
	r->h = good, r->h.pref_address = UINT64_MAX - 100;
	refused(r, -ENOEXEC, "pref_address");
	r->h = good, r->h.pref_address = RAM - 4096;
	refused(r, -ENOSPC, "memory");
	r->h = good, r->h.init_size = UINT32_MAX;
	refused(r, -ENOSPC, "memory");
	r->h = good, r->h.init_size = CODE - 1;
	refused(r, -ENOEXEC, "init_size");
	r->h = good, r->h.syssize = CODE / 16 + 1;
	refused(r, -ENOEXEC, "size");
	r->h = good, r->h.syssize = UINT32_MAX;
	refused(r, -ENOEXEC, "size");
	r->h = good, r->h.setup_sects = 255;
	refused(r, -ENOEXEC, "size");
	r->h = good, r->h.setup_sects = 0; /* means 4 */
	refused(r, -ENOEXEC, "size");
}

static void other_architectures(void **state)
{
	struct rig *r = *state;
	static const struct {
		size_t at;
		const char *magic, *name;
	} others[] = { { 0x38, "ARM\x64", "ARM64" },
		       { 0x38, "RSC\x05", "RISC-V" },
		       { 0x24, "\x18\x28\x6f\x01", "ARM zImage" } };

	for (unsigned int i = 0; i < 3; i++) {
		memset(r->file, 0, FILE_SIZE);
		memcpy(r->file + others[i].at, others[i].magic, 4);
		assert_int_equal(place(r), -ENOEXEC);
		assert_string_equal(r->err.field, "architecture");
		assert_non_null(strstr(r->err.got, others[i].name));
	}
}

/* No part of the file is a kernel, and none is read beyond. */
static void truncated_everywhere(void **state)
{
	struct rig *r = *state;

	write_header(r);
	for (size_t size = 0x206; size < FILE_SIZE; size++) {
		r->image.kernel.size = size;
		assert_int_equal(place(r), -ENOEXEC);
		assert_string_equal(r->err.field, "size");
	}
}

/* Whatever the header says, what comes of it is an error or an entry in RAM. */
static void any_byte_of_the_header(void **state)
{
	static const uint8_t values[] = { 0, 1, 0x7f, 0x80, 0xff };
	struct rig *r = *state;

	for (size_t i = HEADER; i < HEADER + sizeof(r->h); i++) {
		for (unsigned int v = 0; v < sizeof(values); v++) {
			write_header(r);
			r->file[i] = values[v];
			if (memcmp(r->file + 0x202, "HdrS", 4) == 0)
				place(r);
		}
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_kernel),
		TEST(page_tables_and_gdt),
		TEST(an_initrd),
		TEST(memory_above_4_GiB),
		TEST(the_command_line),
		TEST(what_cannot_be_booted),
		TEST(other_architectures),
		TEST(truncated_everywhere),
		TEST(any_byte_of_the_header),
	};

	return cmocka_run_group_tests_name("bzimage", tests, NULL, NULL);
}
