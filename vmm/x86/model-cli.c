/* SPDX-License-Identifier: BSD-2-Clause */
/* CPU models on the command line: --cpu of `ferry run`, and `ferry cpu`. */
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/kvm.h"
#include "vmm/x86/model.h"
#include "vmm/x86/x86.h"

const char *arch_cpu_help(void)
{
	return "host, x86-64-v2, x86-64-v3, or a FILE of 'ferry cpu' (default host)";
}

int arch_tree_cpu(void *fdt, size_t room, const char *model, struct error *err)
{
	struct cpuid_table *table = NULL;
	int ret = 0;

	if (!model_is_name(model)) {
		table = malloc(sizeof(*table));
		ret = table ? model_read(model, table, err)
			    : error_set(err, -ENOMEM, "options", "--cpu", "", "memory", "none");
		if (ret < 0) {
			free(table);
			return ret;
		}
	}
	ret = fdt_open_into(fdt, fdt, (int)room);
	if (ret == 0)
		ret = table ? cpuid_to_tree(table, fdt)
			    : fdt_setprop(fdt, fdt_path_offset(fdt, "/cpus"), PROP_CPU_MODEL, model,
					  (int)strlen(model) + 1);
	ret = ret ? ret : fdt_pack(fdt);
	free(table);
	if (ret)
		return error_set(err, -E2BIG, "options", "--cpu", "", "a tree below 1 MiB", "%s",
				 fdt_strerror(ret));
	return 0;
}

static int read_host(struct cpuid_table *table, struct error *err)
{
	int fd = kvm_open(err), ret;

	if (fd < 0)
		return fd;
	ret = x86_cpuid_host(fd, table, err);
	close(fd);
	return ret;
}

static int read_files(const char *const *files, unsigned int n, struct cpuid_table *table,
		      struct error *err)
{
	struct cpuid_table *other = malloc(sizeof(*other));
	int ret = model_read(files[0], table, err);

	if (!other)
		ret = error_set(err, -ENOMEM, "cpu", "", "", "memory", "none");
	for (unsigned int i = 1; i < n && ret == 0; i++) {
		ret = model_read(files[i], other, err);
		ret = ret ? ret : model_intersect(table, other, err);
	}
	free(other);
	return ret;
}

int arch_cpu_describe(const char *const *files, unsigned int n, FILE *out, struct error *err)
{
	struct cpuid_table *table = malloc(sizeof(*table));
	int ret;

	if (!table)
		return error_set(err, -ENOMEM, "cpu", "", "", "memory", "none");
	ret = n ? read_files(files, n, table, err) : read_host(table, err);
	ret = ret ? ret : model_write(out, table, err);
	free(table);
	return ret;
}
