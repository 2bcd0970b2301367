/* SPDX-License-Identifier: BSD-2-Clause */
/* Boot images: mapping the files of /chosen, finding the loader that knows the format. */
#include "vmm/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/loader.h"
#include "vmm/vm.h"

static int map_file(struct boot_file *file, const char *path, const char *what, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *data;

	if (fd < 0 || fstat(fd, &st) < 0) {
		int ret = error_set(err, -errno, "boot", path, what, "a file to read", "%m");

		if (fd >= 0)
			close(fd);
		return ret;
	}
	if (!S_ISREG(st.st_mode) || st.st_size == 0) {
		close(fd);
		return error_set(err, -EINVAL, "boot", path, what, "a regular file with content",
				 S_ISREG(st.st_mode) ? "an empty file" : "another kind of file");
	}
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (data == MAP_FAILED)
		return error_set(err, -errno, "boot", path, what, "to be mapped", "%m");
	file->path = path;
	file->data = data;
	file->size = (size_t)st.st_size;
	return 0;
}

static void unmap_file(struct boot_file *file)
{
	if (file->data)
		munmap((void *)(uintptr_t)file->data, file->size);
	file->data = NULL;
}

void boot_image_close(struct boot_image *image)
{
	unmap_file(&image->kernel);
	unmap_file(&image->initrd);
}

static int find_loader(struct boot_image *image, struct error *err)
{
	char known[128] = "", looks[96];

	for_each_loader (l) {
		if ((*l)->flat != image->flat)
			continue;
		if (image->flat || (*l)->probe(&image->kernel)) {
			image->loader = *l;
			return 0;
		}
		if (known[0])
			strncat(known, ", ", sizeof(known) - strlen(known) - 1);
		strncat(known, (*l)->name, sizeof(known) - strlen(known) - 1);
	}
	error_set(err, -ENOEXEC, "boot", image->kernel.path, "format", "", "%s",
		  boot_guess(&image->kernel, looks, sizeof(looks)));
	error_expected(err, "one of: %s", known);
	return -ENOEXEC;
}

/* /chosen says that the kernel is flat by saying where it goes. */
static int read_flat(const void *fdt, int chosen, struct boot_image *image, struct error *err)
{
	int len;
	const fdt64_t *address = fdt_getprop(fdt, chosen, "ferry,flat-address", &len);

	if (!address)
		return 0;
	if (len != 8)
		return error_set(err, -EINVAL, "boot", "chosen", "ferry,flat-address",
				 "an address of 8 bytes", "%d bytes", len);
	image->flat = true;
	image->flat_address = fdt64_ld(address);
	return 0;
}

int boot_image_open(struct vm *vm, struct boot_image *image, struct error *err)
{
	const char *kernel = NULL, *initrd = NULL;
	int ret = 0, chosen;

	*image = (struct boot_image){ .cmdline = "" };
	if (vm->tree) {
		chosen = fdt_path_offset(vm->tree, "/chosen");
		kernel = device_node_string(vm->tree, chosen, "host-kernel");
		initrd = device_node_string(vm->tree, chosen, "host-initrd");
		if (device_node_string(vm->tree, chosen, "bootargs"))
			image->cmdline = device_node_string(vm->tree, chosen, "bootargs");
		ret = read_flat(vm->tree, chosen, image, err);
	}
	if (ret < 0)
		return ret;
	if (!kernel)
		return error_set(err, -EINVAL, "boot", "kernel", "", "a file (--kernel)", "none");
	ret = map_file(&image->kernel, kernel, "kernel", err);
	if (ret == 0 && initrd)
		ret = map_file(&image->initrd, initrd, "initrd", err);
	if (ret == 0)
		ret = find_loader(image, err);
	if (ret < 0)
		boot_image_close(image);
	return ret;
}

int boot_load(struct vm *vm, struct error *err)
{
	struct boot_image image;
	int ret = boot_image_open(vm, &image, err);

	if (ret < 0)
		return ret;
	ret = arch_boot_tables(vm, err);
	ret = ret ? ret : image.loader->load(vm, &image, err);
	boot_image_close(&image);
	return ret;
}
