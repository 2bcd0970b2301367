/* SPDX-License-Identifier: BSD-2-Clause */
/* Flat binaries, finding the loader, and what files that are no images look like. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <unistd.h>

#include "bootrig.h"
#include "vmm/boot.h"
#include "vmm/x86/flat.h"

static int setup(void **state)
{
	struct rig *r = rig_new();

	for (unsigned int i = 0; i < sizeof(r->file); i++)
		r->file[i] = (uint8_t)(i * 7 + 1);
	r->image.kernel.size = 5000;
	r->image.flat = true;
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
	int ret = flat_place(r->vm, &r->image, &r->err);

	r->entry = (uint32_t)r->image.flat_address;
	return ret;
}

static void anywhere_in_ram(void **state)
{
	static const uint64_t fits[] = { 0, 1, 0x7c00, 0xa0000, 0x100000, RAM - 5000 };
	struct rig *r = *state;
	uint64_t bits[RAM / PAGE_SIZE / 64] = { 0 };

	for (unsigned int i = 0; i < 6; i++) {
		r->image.flat_address = fits[i];
		assert_int_equal(rig_place(r, call), 0);
		assert_memory_equal(at(r, fits[i], 5000), r->file, 5000);
	}
	memory_fetch_own(&r->vm->memory.regions[0], 0, RAM / PAGE_SIZE, bits);
	assert_true(bits[0x7c00 / PAGE_SIZE / 64] >> 0x7c00 / PAGE_SIZE % 64 & 1);
}

static void nowhere_else(void **state)
{
	static const uint64_t outside[] = { RAM - 4999, RAM,	  HOLE_START,
					    UINT32_MAX, HOLE_END, UINT64_MAX - 4999,
					    UINT64_MAX };
	struct rig *r = *state;

	for (unsigned int i = 0; i < 7; i++) {
		r->image.flat_address = outside[i];
		assert_int_equal(rig_place(r, call), -ENOEXEC);
		assert_string_equal(r->err.field, "--flat");
	}
}

static void nothing_is_handed_over(void **state)
{
	struct rig *r = *state;

	r->image.cmdline = "x";
	assert_int_equal(rig_place(r, call), -EINVAL);
	assert_string_equal(r->err.field, "--cmdline");
	r->image.cmdline = "";
	r->image.initrd = (struct boot_file){ "initrd", r->file, 1 };
	assert_int_equal(rig_place(r, call), -EINVAL);
	assert_string_equal(r->err.field, "--initrd");
}

/* Replace the tree by one whose /chosen says so. */
static void choose(struct rig *r, const char *kernel, uint64_t address)
{
	struct machine_options opt = { .memory = RAM,
				       .cpus = 1,
				       .kernel = kernel,
				       .flat = address != UINT64_MAX,
				       .flat_address = address };
	struct machine_tree *mt;

	free(r->vm->tree);
	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &r->vm->tree, NULL), 0);
}

static void only_when_the_tree_says_so(void **state)
{
	struct rig *r = *state;
	char path[] = "/tmp/ferry-flat-XXXXXX";
	struct boot_image image;
	const uint32_t multiboot[] = { 0x1badb002, 0, 0xe4524ffe };
	int fd = mkstemp(path);

	assert_int_equal(write(fd, r->file, 100), 100);
	choose(r, path, UINT64_MAX);
	assert_int_equal(boot_image_open(r->vm, &image, &r->err), -ENOEXEC);
	assert_non_null(strstr(r->err.expected, "multiboot"));
	assert_null(strstr(r->err.expected, "flat"));
	assert_string_equal(r->err.got, "a file beginning with 01 08 0f 16");
	for (unsigned int i = 0; i < 2; i++) {
		choose(r, path, 0x7c00);
		assert_int_equal(boot_image_open(r->vm, &image, NULL), 0);
		assert_string_equal(image.loader->name, "flat");
		assert_true(image.flat && image.flat_address == 0x7c00);
		boot_image_close(&image);
		/* Also a file that others know. */
		assert_int_equal(pwrite(fd, multiboot, 12, 0), 12);
	}
	choose(r, path, UINT64_MAX);
	assert_int_equal(boot_image_open(r->vm, &image, NULL), 0);
	assert_string_equal(image.loader->name, "multiboot");
	boot_image_close(&image);
	/* A tree that says it wrongly. */
	choose(r, path, 0x7c00);
	assert_int_equal(fdt_setprop_inplace_namelen_partial(
				 r->vm->tree, fdt_path_offset(r->vm->tree, "/chosen"),
				 "ferry,flat-address", 18, 0, "\xff", 1),
			 0);
	assert_int_equal(boot_image_open(r->vm, &image, NULL), 0);
	assert_int_equal(image.flat_address, 0xff00000000007c00);
	boot_image_close(&image);
	fdt_nop_property(r->vm->tree, fdt_path_offset(r->vm->tree, "/chosen"),
			 "ferry,flat-address");
	assert_int_equal(boot_image_open(r->vm, &image, NULL), 0);
	assert_false(image.flat);
	boot_image_close(&image);
	close(fd);
	unlink(path);
}

static void a_property_of_another_size(void **state)
{
	struct rig *r = *state;
	char tree[65536];
	struct boot_image image;

	choose(r, "x", 0x7c00);
	assert_int_equal(fdt_open_into(r->vm->tree, tree, sizeof(tree)), 0);
	assert_int_equal(fdt_setprop_u32(tree, fdt_path_offset(tree, "/chosen"),
					 "ferry,flat-address", 0x7c00),
			 0);
	r->vm->tree = realloc(r->vm->tree, sizeof(tree));
	memcpy(r->vm->tree, tree, sizeof(tree));
	assert_int_equal(boot_image_open(r->vm, &image, &r->err), -EINVAL);
	assert_string_equal(r->err.field, "ferry,flat-address");
	assert_string_equal(r->err.got, "4 bytes");
}

static void what_files_look_like(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *word;
	} files[] = {
		{ "\x1f\x8b\x08\x00", 4, "gzip" },
		{ "\xfd"
		  "7zXZ",
		  5, "xz" },
		{ "\x28\xb5\x2f\xfd", 4, "zstd" },
		{ "BZh9", 4, "bzip2" },
		{ "\x04\x22\x4d\x18", 4, "LZ4" },
		{ "#!/bin/sh", 9, "script" },
		{ "MZ", 2, "EFI" },
		{ "\xd0\x0d\xfe\xed", 4, "device tree" },
		{ "070701", 6, "cpio" },
		{ "\x1f", 1, "beginning with 1f" },
		{ "abcdef", 6, "61 62 63 64" },
	};
	struct rig *r = *state;
	char buf[96];

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		/* Nothing behind its end is looked at. */
		uint8_t *copy = malloc(files[i].len);
		struct boot_file file = { "x", copy, files[i].len };

		memcpy(copy, files[i].bytes, files[i].len);
		assert_non_null(strstr(boot_guess(&file, buf, sizeof(buf)), files[i].word));
		free(copy);
	}
	r->image.kernel.data = r->file;
	memcpy(r->file + 0x38, "ARM\x64", 4);
	assert_non_null(strstr(boot_guess(&r->image.kernel, buf, sizeof(buf)), "AArch64"));
	memcpy(r->file + 0x1fe, "\x55\xaa", 2);
	memcpy(r->file + 0x202, "HdrS", 4);
	assert_non_null(strstr(boot_guess(&r->image.kernel, buf, sizeof(buf)), "bzImage"));
	r->file[0x38] = r->file[0x202] = 0;
	assert_non_null(strstr(boot_guess(&r->image.kernel, buf, sizeof(buf)), "boot sector"));
	for (r->image.kernel.size = 1; r->image.kernel.size < 600; r->image.kernel.size++) {
		uint8_t *copy = malloc(r->image.kernel.size);

		memcpy(copy, r->file, r->image.kernel.size);
		r->image.kernel.data = copy;
		boot_guess(&r->image.kernel, buf, sizeof(buf));
		free(copy);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(anywhere_in_ram),
		TEST(nowhere_else),
		TEST(nothing_is_handed_over),
		TEST(only_when_the_tree_says_so),
		TEST(a_property_of_another_size),
		TEST(what_files_look_like),
	};

	return cmocka_run_group_tests_name("flat", tests, NULL, NULL);
}
