/* SPDX-License-Identifier: BSD-2-Clause */
/* What a file that is no boot image looks like, so that the error can say so. */
#include <stdio.h>
#include <string.h>

#include "vmm/boot.h"
#include "vmm/loader.h"

/* Of several that match, the first. Places are those of the formats' own documents; of Linux
 * images Documentation/arch/<arch>/boot. */
/* clang-format off */
static const struct signature {
	size_t at;
	const char *bytes;
	size_t len;
	const char *words;
} signatures[] = {
	{ 0x202, "HdrS", 4, "a Linux bzImage" },
	{ 0x38, "ARM\x64", 4, "a Linux Image for AArch64" },
	{ 0x38, "RSC\x05", 4, "a Linux Image for RISC-V" },
	{ 0, "\x7f" "ELF", 4, "an ELF" },
	{ 0, "\x1f\x8b", 2, "gzip, to be unpacked first" },
	{ 0, "\xfd" "7zXZ", 5, "xz, to be unpacked first" },
	{ 0, "\x28\xb5\x2f\xfd", 4, "zstd, to be unpacked first" },
	{ 0, "BZh", 3, "bzip2, to be unpacked first" },
	{ 0, "\x04\x22\x4d\x18", 4, "LZ4, to be unpacked first" },
	{ 0, "\x02\x21\x4c\x18", 4, "LZ4, to be unpacked first" },
	{ 0, "\x5d\0\0", 3, "LZMA, to be unpacked first" },
	{ 0, "PK\x03\x04", 4, "zip, to be unpacked first" },
	{ 0, "\xd0\x0d\xfe\xed", 4, "a device tree" },
	{ 0, "\x27\x05\x19\x56", 4, "a U-Boot image" },
	{ 0, "ANDROID!", 8, "an Android boot image" },
	{ 0, "070701", 6, "a cpio archive, such as an initrd" },
	{ 0, "QFI\xfb", 4, "a qcow2 disk image" },
	{ 0x8001, "CD001", 5, "an ISO 9660 disk image" },
	{ 0, "MZ", 2, "a program for EFI or Windows" },
	{ 0, "#!", 2, "a script" },
	{ 0x1fe, "\x55\xaa", 2, "a boot sector (--flat 0x7c00 would start it, without a BIOS)" },
};
/* clang-format on */

static bool matches(const struct boot_file *file, const struct signature *s)
{
	return file->size >= s->len && s->at <= file->size - s->len &&
	       memcmp(file->data + s->at, s->bytes, s->len) == 0;
}

const char *boot_guess(const struct boot_file *file, char *buf, size_t size)
{
	char hex[16] = "";

	for (size_t i = 0; i < sizeof(signatures) / sizeof(signatures[0]); i++) {
		if (matches(file, &signatures[i])) {
			snprintf(buf, size, "what looks like %s", signatures[i].words);
			return buf;
		}
	}
	for (size_t i = 0; i < 4 && i < file->size; i++)
		snprintf(hex + 3 * i, sizeof(hex) - 3 * i, " %02x", file->data[i]);
	snprintf(buf, size, "a file beginning with%s", hex);
	return buf;
}
