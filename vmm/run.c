/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry run: build a machine from options or a tree, boot it, serve it. */
#include "vmm/serve.h"

#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/arch.h"
#include "vmm/command.h"
#include "vmm/tree.h"
#include "vmm/vm.h"

#define DEFAULT_MEMORY (256ULL << 20)

struct run_options {
	struct machine_options machine;
	struct serve_options serve;
	const char *tree;
	void *fdt;
	const char *dump;
	bool paused;
	bool help;
	bool shaped; /* an option was given that a tree would say */
};

/* Setters of what a machine tree says too, so that both are not given. */
static int set_memory(void *opaque, const char *value, struct error *err)
{
	struct run_options *o = opaque;

	o->shaped = true;
	return option_set_mib(&o->machine.memory, value, err);
}

static int set_cpus(void *opaque, const char *value, struct error *err)
{
	struct run_options *o = opaque;
	uint64_t n;
	int ret = parse_uint(value, 1, VM_MAX_VCPUS, &n, err);

	o->shaped = true;
	if (ret == 0)
		o->machine.cpus = (unsigned int)n;
	return ret;
}

#define STRING_SETTER(member)                                                       \
	static int set_##member(void *opaque, const char *value, struct error *err) \
	{                                                                           \
		struct run_options *o = opaque;                                     \
                                                                                    \
		(void)err;                                                          \
		o->shaped = true;                                                   \
		o->machine.member = value;                                          \
		return 0;                                                           \
	}
static int set_flat(void *opaque, const char *value, struct error *err)
{
	struct run_options *o = opaque;

	o->shaped = o->machine.flat = true;
	return parse_uint(value, 0, UINT32_MAX, &o->machine.flat_address, err);
}

STRING_SETTER(kernel)
STRING_SETTER(initrd)
STRING_SETTER(cmdline)
STRING_SETTER(name)
STRING_SETTER(cpu)

static int set_backing(void *opaque, const char *value, struct error *err)
{
	struct run_options *o = opaque;

	if (strcmp(value, "anon") != 0 && strcmp(value, "hugetlb") != 0 &&
	    strcmp(value, "shared") != 0)
		return error_set(err, -EINVAL, "options", "--memory-backing", "",
				 "anon, hugetlb or shared", "%s", value);
	o->shaped = true;
	o->machine.backing = value;
	return 0;
}

static unsigned int run_specs(struct run_options *o, struct option_spec *specs)
{
	const struct option_spec own[] = {
		{ "kernel", "FILE", "boot this image, of whichever known format", set_kernel, o },
		{ "flat", "ADDRESS", "it has no format: put it there and begin there", set_flat,
		  o },
		{ "initrd", "FILE", "hand this file to the kernel", set_initrd, o },
		{ "cmdline", "TEXT", "the kernel's command line", set_cmdline, o },
		{ "memory", "SIZE", "RAM, bare numbers are MiB (default 256)", set_memory, o },
		{ "memory-backing", "KIND", "anon, hugetlb or shared (default anon)", set_backing,
		  o },
		{ "cpus", "N", "vCPUs, 1 to 255, or what KVM has (default 1)", set_cpus, o },
		{ "cpu", "MODEL", arch_cpu_help(), set_cpu, o },
		{ "name", "NAME", "a name for the machine", set_name, o },
		{ "paused", NULL, "do not start the vCPUs", option_set_flag, &o->paused },
		{ "dump-dtb", "FILE", "write the machine tree and end ('-': stdout)",
		  option_set_string, &o->dump },
		{ "help", NULL, "show this", option_set_flag, &o->help },
	};
	unsigned int n = sizeof(own) / sizeof(own[0]);

	memcpy(specs, own, sizeof(own));
	return n + serve_specs(&o->serve, specs + n);
}

static int tree_from_options(struct run_options *o, void **fdt, struct error *err)
{
	struct machine_tree *mt;
	int ret = machine_tree_new(&mt, &o->machine, err);

	if (ret < 0)
		return ret;
	ret = serve_add_devices(&o->serve, mt, err);
	if (ret < 0) {
		machine_tree_free(mt);
		return ret;
	}
	return machine_tree_finish(mt, fdt, err);
}

static int tree_from_file(struct run_options *o, void **fdt, struct error *err)
{
	void *file;
	int ret = machine_tree_read(o->tree, &file, err);

	if (ret < 0)
		return ret;
	ret = serve_override(&o->serve, file, false, fdt, err);
	free(file);
	return ret;
}

static int dump(const char *path, const void *fdt, struct error *err)
{
	FILE *out = strcmp(path, "-") == 0 ? stdout : fopen(path, "we");
	size_t size = fdt_totalsize(fdt);
	bool ok = out && fwrite(fdt, size, 1, out) == 1 && fflush(out) == 0;
	int error = errno;

	if (out && out != stdout)
		fclose(out);
	errno = error;
	return ok ? 0
		  : error_set(err, -error, "options", path, "--dump-dtb",
			      "a file to write the tree to", "%m");
}

static int start(struct vm *vm, void *opaque, struct error *err)
{
	const struct run_options *o = opaque;
	int ret;

	if ((ret = vm_realize(vm, o->fdt, false, err)) < 0 || (ret = vm_reset(vm, false, err)) < 0)
		return ret;
	return o->paused ? 0 : vm_set_state(vm, VM_RUNNING, err);
}

static int run_main(int argc, char **argv)
{
	struct run_options o = { .machine = { .memory = DEFAULT_MEMORY, .cpus = 1 } };
	struct option_spec specs[16 + MAX_SERVE_SPECS];
	unsigned int n = run_specs(&o, specs), n_rest = 0;
	struct error err = { 0 };
	int status;

	if (options_parse(argc, argv, specs, n, &o.tree, 1, &n_rest, &err) < 0)
		return usage_error("run", &err);
	if (o.help) {
		printf("Usage: ferry run [TREE.dtb] [OPTION]…\n\n");
		options_help(specs, n);
		return STATUS_OK;
	}
	if (o.tree && o.shaped) {
		error_set(&err, -EINVAL, "options", o.tree, "",
			  "either a machine tree or options that describe the machine", "both");
		return usage_error("run", &err);
	}
	if ((o.tree ? tree_from_file(&o, &o.fdt, &err) : tree_from_options(&o, &o.fdt, &err)) < 0 ||
	    (o.dump && dump(o.dump, o.fdt, &err) < 0)) {
		error_print(&err);
		free(o.fdt);
		return STATUS_ERROR;
	}
	status = o.dump ? STATUS_OK : serve(&o.serve, start, &o);
	free(o.fdt);
	return status;
}

static const struct command run_command = {
	.name = "run",
	.synopsis = "[TREE.dtb] [OPTION]…",
	.help = "boot a machine and serve it until it ends",
	.run = run_main,
};
COMMAND(run_command);
