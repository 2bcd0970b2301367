/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What becomes of saved machines in which every page has its place, and which are cut, damaged or
 * made by somebody hostile.
 */
#include "saved-rig.h"

#include "migration/crc32c.h"
#include "migration/record.h"

/* The position of the RAM_MAP record in @data. */
static size_t find_map(const uint8_t *data)
{
	size_t at = 0;

	while (data[at + 5] != RECORD_RAM_MAP)
		at += RECORD_HEADER + ((size_t)data[at + 14] << 8 | data[at + 15]);
	return at;
}

/* … and where the records end, all metadata being smaller than 64 KiB. */
static size_t find_end(const uint8_t *data)
{
	size_t at = 0;

	while (data[at + 5] != RECORD_END)
		at += RECORD_HEADER + ((size_t)data[at + 14] << 8 | data[at + 15]);
	return at + RECORD_HEADER;
}

static void put_be(uint8_t *to, uint64_t value, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--, value >>= 8)
		to[i] = (uint8_t)value;
}

/* Make the checksums of the record at @r right again. */
static void sign(uint8_t *r)
{
	put_be(r + 24, crc32c(0, r + RECORD_HEADER, (size_t)r[14] << 8 | r[15]), 4);
	put_be(r + 28, crc32c(0, r, 28), 4);
}

static void every_truncation(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };
	size_t end;

	(void)state;
	save_and_read(from, &f, true);
	vm_destroy(from);
	end = find_end(f.data);
	for (size_t n = 0; n < end; n++)
		assert_refused(restore_bytes(f.data, n), "first bytes", n);
	for (size_t n = end; n < f.size; n += 77777)
		assert_refused(restore_head(f.data, end, n), "first bytes", n);
	assert_refused(restore_head(f.data, end, f.size - 1), "first bytes", f.size - 1);
	remove_file(&f);
}

static void every_changed_byte(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };
	size_t end;

	(void)state;
	save_and_read(from, &f, true);
	vm_destroy(from);
	end = find_end(f.data);
	for (size_t i = 0; i < end; i++) {
		f.data[i] ^= (uint8_t)(1U << i % 8);
		assert_refused(restore_head(f.data, end, f.size), "changed byte", i);
		f.data[i] ^= (uint8_t)(1U << i % 8);
	}
	remove_file(&f);
}

/* Pages are changed, lost or in each other's place: their sum tells. */
static void changed_pages(void **state)
{
	struct vm *from = new_source(2 * MIB), *to;
	struct stream_file f = { 0 };
	uint8_t page[PAGE_SIZE], *ram;

	(void)state;
	fill_random(&from->memory, 1);
	save_and_read(from, &f, true);
	vm_destroy(from);
	ram = f.data + 2 * MIB;
	ram[MIB] ^= 4;
	to = restore_bytes(f.data, f.size);
	assert_string_equal(to->migration->error.field, "checksum");
	assert_refused(to, "changed page", 0);
	ram[MIB + PAGE_SIZE] ^= 4;
	assert_refused(restore_bytes(f.data, f.size), "two pages changed alike", 0);
	ram[MIB] ^= 4;
	ram[MIB + PAGE_SIZE] ^= 4;
	memcpy(page, ram, PAGE_SIZE);
	memcpy(ram, ram + PAGE_SIZE, PAGE_SIZE);
	memcpy(ram + PAGE_SIZE, page, PAGE_SIZE);
	assert_refused(restore_bytes(f.data, f.size), "pages exchanged", 0);
	memset(ram, 0, PAGE_SIZE);
	assert_refused(restore_bytes(f.data, f.size), "lost page", 0);
	remove_file(&f);
}

static void refuse_map(struct stream_file *f, size_t at, uint64_t value, int bytes,
		       const char *field)
{
	uint8_t *copy = malloc(f->size), *r;

	for (int lazy = 0; lazy < 2; lazy++) {
		int fd = memfd_create("saved", MFD_CLOEXEC);
		struct vm *vm;
		char uri[64];

		memcpy(copy, f->data, f->size);
		r = copy + find_map(copy);
		put_be(r + at, value, bytes);
		sign(r);
		assert_int_equal(write(fd, copy, f->size), f->size);
		snprintf(uri, sizeof(uri), "file:/proc/self/fd/%d", fd);
		vm = restore_with(uri, 2, lazy);
		if (strcmp(vm->migration->error.field, field) != 0)
			fail_msg("0x%llx at %zu: %s: %s", (unsigned long long)value, at,
				 vm->migration->error.field, vm->migration->error.got);
		assert_refused(vm, field, at);
		close(fd);
	}
	free(copy);
}

static void hostile_maps(void **state)
{
	struct vm *from = new_source(2 * MIB);
	struct stream_file f = { 0 };

	(void)state;
	save_and_read(from, &f, true);
	vm_destroy(from);
	refuse_map(&f, 32, PAGE_SIZE, 8, "region 0 gpa");
	refuse_map(&f, 32, 1, 8, "region 0 gpa");
	refuse_map(&f, 32, UINT64_MAX - PAGE_SIZE + 1, 8, "region 0 size");
	refuse_map(&f, 40, 0, 8, "region 0 size");
	refuse_map(&f, 40, 4097, 8, "region 0 size");
	refuse_map(&f, 40, MIB, 8, "region 0 size");
	refuse_map(&f, 40, 4 * MIB, 8, "region 0 size");
	refuse_map(&f, 40, -4096ULL, 8, "region 0 size");
	refuse_map(&f, 48, 0, 8, "region 0 offset");
	refuse_map(&f, 48, 2 * MIB + 512, 8, "region 0 offset");
	refuse_map(&f, 48, -4096ULL, 8, "region 0 offset");
	refuse_map(&f, 48, INT64_MAX - 4095, 8, "region 0 offset");
	refuse_map(&f, 48, 4 * MIB, 8, "file");
	refuse_map(&f, 48, 2 * MIB + PAGE_SIZE, 8, "file");
	/* Lengths that are not those of regions; what follows is no record then, and is not looked
	 * at. */
	refuse_map(&f, 12, 0, 4, "metadata length");
	refuse_map(&f, 12, 31, 4, "metadata length");
	refuse_map(&f, 12, 64, 4, "region 1 gpa");
	refuse_map(&f, 12, 96, 4, "metadata length");
	refuse_map(&f, 16, 1, 8, "payload length");
	remove_file(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_truncation),
		cmocka_unit_test(every_changed_byte),
		cmocka_unit_test(changed_pages),
		cmocka_unit_test(hostile_maps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
