/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/device.h"
#include "vmm/tree.h"

#define GIB (1ULL << 30)

static int add_disk(struct machine_tree *mt, const char *value, struct error *err);
static int add_port(struct machine_tree *mt, const char *value, struct error *err);
static int default_port(struct machine_tree *mt, struct error *err);
static int default_plain(struct machine_tree *mt, struct error *err);

static const struct device_class disk = {
	.name = "tdisk",
	.compatible = "test,disk",
	.option = { .name = "tdisk", .arg = "FILE", .add = add_disk }
};
static const struct device_class port = {
	.name = "tport",
	.compatible = "test,port",
	.option = { .name = "tport", .arg = "WHERE", .add = add_port, .add_default = default_port }
};
static const struct device_class plain = { .name = "aplain",
					   .compatible = "test,plain",
					   .option = { .add_default = default_plain } };
DEVICE_CLASS(disk);
DEVICE_CLASS(port);
DEVICE_CLASS(plain);

static int add_disk(struct machine_tree *mt, const char *value, struct error *err)
{
	int ret = machine_tree_begin_mmio(mt, &disk, "virtio,mmio", err);

	if (ret < 0)
		return ret;
	machine_tree_string(mt, "host-path", value);
	machine_tree_u64(mt, "size", 4096);
	machine_tree_flag(mt, value[0] == 'd' ? "host-direct" : "readonly");
	return machine_tree_end(mt, err);
}

static int add_port(struct machine_tree *mt, const char *value, struct error *err)
{
	machine_tree_begin_pio(mt, &port, NULL, 0x2e8, 8, 3, err);
	machine_tree_string(mt, "host-backend", value);
	return machine_tree_end(mt, err);
}

static int default_port(struct machine_tree *mt, struct error *err)
{
	return add_port(mt, "none", err);
}

static int default_plain(struct machine_tree *mt, struct error *err)
{
	machine_tree_begin(mt, &plain, err);
	return machine_tree_end(mt, err);
}

static const struct machine_options options = { .memory = GIB,
						.cpus = 2,
						.kernel = "/boot/k",
						.initrd = "/boot/i",
						.cmdline = "a b",
						.name = "guest1" };

/* The tree of @opt with the disks named; NULL ends. */
static void *build(const struct machine_options *opt, const char *const *disks, const char *where)
{
	struct error err = { 0 };
	struct machine_tree *mt;
	void *fdt;

	assert_int_equal(machine_tree_new(&mt, opt, &err), 0);
	if (where)
		assert_int_equal(add_port(mt, where, &err), 0);
	for (; disks && *disks; disks++)
		assert_int_equal(add_disk(mt, *disks, &err), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, &err), 0);
	return fdt;
}

static const char *const two_disks[] = { "direct", "other", NULL };

static int node_of(const void *fdt, const char *compatible, int n)
{
	int node = -1;

	do {
		node = fdt_node_offset_by_compatible(fdt, node, compatible);
	} while (node >= 0 && n-- > 0);
	return node;
}

static const char *text_of(const void *fdt, int node, const char *property)
{
	return device_node_string(fdt, node, property);
}

static void a_machine_from_options(void **state)
{
	void *fdt = build(&options, two_disks, NULL);
	uint64_t base, size, gpa, slot_size;
	int node;
	bool pio;
	uint32_t gsi, want;

	(void)state;
	assert_int_equal(machine_tree_check(fdt, fdt_totalsize(fdt), NULL), 0);
	assert_string_equal(text_of(fdt, 0, "compatible"), arch_machine());
	assert_string_equal(text_of(fdt, 0, "ferry,name"), "guest1");
	node = fdt_path_offset(fdt, "/chosen");
	assert_string_equal(text_of(fdt, node, "bootargs"), "a b");
	assert_string_equal(text_of(fdt, node, "host-kernel"), "/boot/k");
	assert_string_equal(text_of(fdt, node, "host-initrd"), "/boot/i");
	node = fdt_path_offset(fdt, "/memory@0");
	assert_string_equal(text_of(fdt, node, "host-backing"), "anon");
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), 0);
	assert_int_equal(base, 0);
	assert_int_equal(size, GIB);
	assert_true(fdt_path_offset(fdt, "/cpus") > 0);

	for (unsigned int i = 0; i < 2; i++) {
		node = node_of(fdt, "test,disk", (int)i);
		arch_mmio_slot(i, &gpa, &slot_size, &want);
		assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), 0);
		assert_int_equal(base, gpa);
		assert_int_equal(size, slot_size);
		assert_int_equal(device_node_irq(fdt, node, &gsi, NULL), 0);
		assert_int_equal(gsi, want);
		assert_int_equal(fdt_node_check_compatible(fdt, node, "virtio,mmio"), 0);
		assert_string_equal(text_of(fdt, node, "host-path"), two_disks[i]);
		assert_int_equal(device_node_u64(fdt, node, "size", 0), 4096);
		assert_true(device_node_flag(fdt, node, i ? "readonly" : "host-direct"));
	}
	node = fdt_path_offset(fdt, "/isa/tport@2e8");
	assert_string_equal(text_of(fdt, node, "host-backend"), "none"); /* by default */
	assert_int_equal(device_node_reg(fdt, node, &base, &size, &pio, NULL), 0);
	assert_true(pio && base == 0x2e8 && size == 8);
	assert_true(fdt_path_offset(fdt, "/aplain") > 0);
	free(fdt);
}

static void order_is_that_of_options_then_of_names(void **state)
{
	void *fdt = build(&options, two_disks, "here"), *again = build(&options, two_disks, "here");
	int disk0 = node_of(fdt, "test,disk", 0), disk1 = node_of(fdt, "test,disk", 1);

	(void)state;
	assert_true(fdt_path_offset(fdt, "/cpus") < fdt_path_offset(fdt, "/isa"));
	assert_true(fdt_path_offset(fdt, "/isa") < disk0);
	assert_true(disk0 < disk1);
	assert_true(disk1 < fdt_path_offset(fdt, "/aplain"));
	assert_string_equal(text_of(fdt, fdt_path_offset(fdt, "/isa/tport@2e8"), "host-backend"),
			    "here");
	assert_int_equal(node_of(fdt, "test,port", 1), -FDT_ERR_NOTFOUND);
	assert_int_equal(fdt_totalsize(fdt), fdt_totalsize(again));
	assert_memory_equal(fdt, again, fdt_totalsize(fdt));
	free(fdt);
	free(again);
}

static void memory_around_the_hole(void **state)
{
	struct machine_options opt = { .memory = 5 * GIB + 4096, .cpus = 1 };
	const fdt64_t *reg;
	uint64_t hole, end;
	void *fdt = build(&opt, NULL, NULL);
	int len;

	(void)state;
	arch_memory_hole(&hole, &end);
	reg = fdt_getprop(fdt, fdt_path_offset(fdt, "/memory@0"), "reg", &len);
	assert_int_equal(len, 32);
	assert_int_equal(fdt64_ld(&reg[1]), hole);
	assert_int_equal(fdt64_ld(&reg[2]), end);
	assert_int_equal(fdt64_ld(&reg[1]) + fdt64_ld(&reg[3]), opt.memory);
	free(fdt);
}

static void bad_machines_are_refused(void **state)
{
	static const uint64_t sizes[] = { 0, 1 << 20, (2 << 20) + 1, UINT64_MAX - 4095 };

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct machine_options opt = { .memory = sizes[i], .cpus = 1 };
		struct error err = { 0 };
		struct machine_tree *mt;
		void *fdt;

		assert_int_equal(machine_tree_new(&mt, &opt, &err), 0);
		assert_int_equal(machine_tree_finish(mt, &fdt, &err), -EINVAL);
		assert_string_equal(err.device, "memory@0");
		assert_null(fdt);
	}
}

static void errors_stick(void **state)
{
	struct error err = { 0 };
	struct machine_tree *mt;
	void *fdt;
	int n = 0;

	(void)state;
	machine_tree_new(&mt, &options, &err);
	while (add_disk(mt, "x", &err) == 0)
		n++;
	assert_true(n > 7);
	assert_int_equal(err.code, -ENOSPC);
	assert_non_null(strstr(err.expected, "MMIO devices"));
	memset(&err, 0, sizeof(err));
	assert_int_equal(machine_tree_finish(mt, &fdt, &err), -ENOSPC);
	assert_int_equal(err.code, -ENOSPC);

	/* The same port twice. */
	machine_tree_new(&mt, &options, &err);
	add_port(mt, "a", &err);
	add_port(mt, "b", &err);
	memset(&err, 0, sizeof(err));
	assert_int_equal(machine_tree_finish(mt, &fdt, &err), -EINVAL);
	assert_string_equal(err.device, "tport@2e8");

	/* A property that no tree can hold. */
	memset(&err, 0, sizeof(err));
	machine_tree_new(&mt, &options, &err);
	machine_tree_begin(mt, &plain, &err);
	machine_tree_flag(mt, "a-name-that-is-too-long-for-a-property");
	machine_tree_string(mt, "ignored", "now");
	assert_int_equal(machine_tree_end(mt, &err), -E2BIG);
	machine_tree_free(mt);
}

static void too_much_for_a_tree(void **state)
{
	struct machine_options opt = options;
	char *text = malloc(TREE_MAX_SIZE + 10);
	struct error err = { 0 };
	struct machine_tree *mt;
	void *fdt;

	(void)state;
	memset(text, 'x', TREE_MAX_SIZE);
	text[TREE_MAX_SIZE] = 0;
	opt.cmdline = text;
	machine_tree_new(&mt, &opt, &err);
	assert_int_equal(machine_tree_finish(mt, &fdt, &err), -E2BIG);
	assert_string_equal(err.expected, "a tree below 1 MiB");
	free(text);
}

static int override(const void *fdt, const void *local, bool foreign, void **out, struct error *err)
{
	struct tree_locals locals = { .devices = local, .foreign = foreign };

	return machine_tree_override(fdt, &locals, out, err);
}

static void overriding_what_is_local(void **state)
{
	static const char *const local_disks[] = { "there", NULL };
	void *fdt = build(&options, two_disks, "here");
	void *local = build(NULL, local_disks, "elsewhere"), *out;
	struct error err = { 0 };
	int node;

	(void)state;
	assert_int_equal(node_of(local, "test,plain", 0), -FDT_ERR_NOTFOUND);
	assert_int_equal(override(fdt, local, false, &out, &err), 0);
	assert_int_equal(machine_tree_check(out, fdt_totalsize(out), &err), 0);
	node = node_of(out, "test,disk", 0);
	assert_string_equal(text_of(out, node, "host-path"), "there");
	assert_false(device_node_flag(out, node, "host-direct")); /* was of the other host */
	assert_false(device_node_flag(out, node, "readonly"));	  /* is not the host's to say */
	node = node_of(out, "test,disk", 1);
	assert_string_equal(text_of(out, node, "host-path"), "other");
	node = node_of(out, "test,port", 0);
	assert_string_equal(text_of(out, node, "host-backend"), "elsewhere");
	node = fdt_path_offset(out, "/chosen");
	assert_string_equal(text_of(out, node, "host-kernel"), "/boot/k");
	free(out);
	free(local);
	local = build(NULL, (const char *const[]){ "1", "2", "3", NULL }, NULL);
	assert_int_equal(override(fdt, local, false, &out, &err), -ENODEV);
	assert_string_equal(err.device, "test,disk");
	assert_non_null(strstr(err.expected, "the 2 of them"));
	assert_null(out);
	free(local);
	free(fdt);
}

/* Over a network nobody may name files of this host, wherever in the tree and by whatever property.
 */
static void foreign_trees_name_no_files(void **state)
{
	static const char *const both[] = { "there", "elsewhere", NULL };
	void *fdt = build(&options, two_disks, "here"), *none = build(NULL, NULL, NULL), *out;
	void *local = build(NULL, both, "mine");
	struct tree_locals locals = { .devices = local, .foreign = true };
	struct error err = { 0 };
	int node;

	(void)state;
	assert_int_equal(override(fdt, none, true, &out, &err), -EPERM);
	assert_null(out);
	assert_non_null(strstr(err.expected, "--trust-source"));
	assert_non_null(strstr(err.got, "named by the source"));
	assert_int_equal(override(fdt, none, false, &out, &err), 0);
	free(out);

	assert_int_equal(override(fdt, local, true, &out, &err), 0);
	node = fdt_path_offset(out, "/chosen");
	assert_null(fdt_getprop(out, node, "host-kernel", NULL));
	assert_null(fdt_getprop(out, node, "host-initrd", NULL));
	assert_non_null(fdt_getprop(out, node, "bootargs", NULL));
	assert_string_equal(text_of(out, node_of(out, "test,disk", 1), "host-path"), "elsewhere");
	free(out);

	locals.kernel = "/srv/k";
	assert_int_equal(machine_tree_override(fdt, &locals, &out, &err), 0);
	node = fdt_path_offset(out, "/chosen");
	assert_string_equal(text_of(out, node, "host-kernel"), "/srv/k");
	assert_null(fdt_getprop(out, node, "host-initrd", NULL));
	free(out);
	free(local);
	free(none);
	free(fdt);
}

/* A node that claims another class first, or none, is no way around. */
static void foreign_trees_cannot_hide_a_name(void **state)
{
	void *fdt = build(&options, two_disks, "none"), *out;
	void *local = build(NULL, two_disks, NULL);
	struct error err = { 0 };
	static char tree[8192];
	static const char classes[] = "test,other\0test,disk";
	int node;

	(void)state;
	assert_int_equal(override(fdt, local, true, &out, &err), 0);
	free(out);
	assert_int_equal(fdt_open_into(fdt, tree, sizeof(tree)), 0);
	node = node_of(tree, "test,disk", 0);
	assert_int_equal(fdt_setprop_string(tree, node, "host-path", "/etc/shadow"), 0);
	assert_int_equal(fdt_setprop(tree, node, "compatible", classes, sizeof(classes)), 0);
	err.code = override(tree, local, true, &out, NULL);
	/* Either it was replaced by ours, or it is refused. */
	if (err.code == 0) {
		node = node_of(out, "test,disk", 0);
		assert_string_not_equal(text_of(out, node, "host-path"), "/etc/shadow");
		free(out);
	}
	assert_int_equal(fdt_open_into(fdt, tree, sizeof(tree)), 0);
	node = fdt_add_subnode(tree, 0, "trojan");
	assert_int_equal(fdt_setprop_string(tree, node, "host-anything", "/etc/shadow"), 0);
	error_clear(&err);
	assert_int_equal(override(tree, local, true, &out, &err), -EPERM);
	assert_string_equal(err.device, "trojan");
	free(local);
	free(fdt);
}

static void no_host_in_the_guests_tree(void **state)
{
	void *fdt = build(&options, two_disks, "here"), *out;
	struct error err = { 0 };
	char *text;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	int node;

	(void)state;
	assert_int_equal(machine_tree_for_guest(fdt, 0x1000000, 0x5000, &out, &err), 0);
	node = fdt_path_offset(out, "/chosen");
	assert_int_equal(device_node_u64(out, node, "linux,initrd-start", 0), 0x1000000);
	assert_int_equal(device_node_u64(out, node, "linux,initrd-end", 0), 0x1005000);
	assert_string_equal(text_of(out, node, "bootargs"), "a b");
	assert_int_equal(device_node_u64(out, node_of(out, "test,disk", 1), "size", 0), 4096);
	tree_print(f, out);
	fclose(f);
	assert_null(strstr(text, "host-"));
	free(text);
	free(out);
	assert_int_equal(machine_tree_for_guest(fdt, 0, 0, &out, &err), 0);
	assert_false(device_node_flag(out, fdt_path_offset(out, "/chosen"), "linux,initrd-end"));
	free(out);
	free(fdt);
}

/* Devicetree specification 2.4; what a kernel with CONFIG_OF makes of it is tested by kernels.t. */
static void interrupts_in_the_guests_tree_lead_to_the_IOAPIC(void **state)
{
	void *fdt = build(&options, two_disks, "here"), *out;
	int node, ioapic, len, own;
	const fdt32_t *cells;

	(void)state;
	assert_int_equal(machine_tree_for_guest(fdt, 0, 0, &out, NULL), 0);
	ioapic = node_of(out, "intel,ce4100-ioapic", 0);
	assert_true(ioapic > 0);
	cells = fdt_getprop(out, 0, "interrupt-parent", &len);
	assert_non_null(cells);
	assert_int_equal(fdt32_ld(cells), fdt_get_phandle(out, ioapic));
	node = node_of(out, "test,disk", 1);
	cells = fdt_getprop(out, node, "interrupts", &len);
	assert_int_equal(len, 8);
	own = node_of(fdt, "test,disk", 1);
	assert_int_equal(cells[0], *(const fdt32_t *)fdt_getprop(fdt, own, "interrupts", &len));
	assert_int_equal(len, 4);
	assert_int_equal(fdt32_ld(cells + 1), 3);
	free(out);
	free(fdt);
}

static char edited[65536];

/* An editable copy of a good tree. */
static void edit(void)
{
	void *fdt = build(&options, two_disks, NULL);

	assert_int_equal(fdt_open_into(fdt, edited, sizeof(edited)), 0);
	free(fdt);
}

static void refused(const char *device, const char *field)
{
	struct error err = { 0 };

	assert_int_equal(machine_tree_check(edited, sizeof(edited), &err), -EINVAL);
	assert_string_equal(err.device, device);
	assert_string_equal(err.field, field);
}

static void set_memory(int n, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	fdt64_t reg[4] = { cpu_to_fdt64(a), cpu_to_fdt64(b), cpu_to_fdt64(c), cpu_to_fdt64(d) };

	edit();
	fdt_setprop(edited, fdt_path_offset(edited, "/memory@0"), "reg", reg, n * 8);
}

static void checking_the_shape(void **state)
{
	uint64_t hole, end;
	int node = 0;

	(void)state;
	arch_memory_hole(&hole, &end);
	edit();
	assert_int_equal(machine_tree_check(edited, sizeof(edited), NULL), 0);
	assert_int_equal(machine_tree_check(edited, TREE_MAX_SIZE + 1, NULL), -EINVAL);
	assert_int_equal(machine_tree_check(edited, 8, NULL), -EINVAL);
	fdt_setprop_string(edited, 0, "compatible", "ferry,machine-pdp11");
	refused("/", "compatible");
	edit();
	fdt_setprop_u32(edited, 0, "#size-cells", 1);
	refused("/", "#size-cells");
	edit();
	for (int i = 0; i < 9; i++) {
		char name[] = "deep0";

		name[4] = (char)('0' + i);
		node = fdt_add_subnode(edited, node, name);
	}
	refused("deep8", "");
	edit();
	for (int i = 0; i < 512; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%d", i);
		fdt_add_subnode(edited, 0, name);
	}
	assert_int_equal(machine_tree_check(edited, sizeof(edited), NULL), -EINVAL);
	edit();
	fdt_add_subnode(edited, fdt_path_offset(edited, "/isa"), "chosen");
	refused("chosen", "");
	edit();
	fdt_add_subnode(edited, 0,
			"a-name-of-more-than-sixty-three-bytes-for-which-no-device-has-any-room");
	refused("/", "nodes");
}

static void checking_memory(void **state)
{
	uint64_t hole, end;

	(void)state;
	arch_memory_hole(&hole, &end);
	set_memory(4, 0, hole, end, 4096);
	assert_int_equal(machine_tree_check(edited, sizeof(edited), NULL), 0);
	set_memory(3, 0, hole, end, 0);
	refused("memory@0", "reg");
	set_memory(2, 4096, GIB, 0, 0);
	refused("memory@0", "reg");
	set_memory(2, 0, hole + 4096, 0, 0);
	refused("memory@0", "reg");
	set_memory(4, 0, hole - 4096, end, 4096);
	refused("memory@0", "reg");
	set_memory(4, 0, hole, end - 4096, 4096);
	refused("memory@0", "reg");
	set_memory(4, 0, hole, end, 0);
	refused("memory@0", "reg");
	set_memory(4, 0, hole, end, ~4095ULL);
	refused("memory@0", "reg");
	set_memory(2, 0, 4096, 0, 0);
	refused("memory@0", "size");
	edit();
	fdt_del_node(edited, fdt_path_offset(edited, "/memory@0"));
	refused("memory@0", "reg");
}

/* Hostile bytes: whatever single byte is changed, checking and all that may follow is safe. */
static void every_single_byte_changed(void **state)
{
	void *fdt = build(&options, two_disks, NULL);
	void *local = build(NULL, two_disks, "x"), *out;
	size_t size = fdt_totalsize(fdt);
	FILE *null = fopen("/dev/null", "w");

	(void)state;
	for (size_t i = 0; i < size; i++) {
		memcpy(edited, fdt, size);
		edited[i] = (char)(edited[i] ^ (i % 3 ? 0x80 : 1));
		if (machine_tree_check(edited, size, NULL) < 0)
			continue;
		if (override(edited, local, i % 2, &out, NULL) == 0)
			free(out);
		if (machine_tree_for_guest(edited, 1, 1, &out, NULL) == 0)
			free(out);
		tree_print(null, edited);
	}
	for (size_t i = 0; i < size; i++)
		assert_int_equal(machine_tree_check(fdt, i, NULL), -EINVAL);
	fclose(null);
	free(local);
	free(fdt);
}

static void reading_a_file(void **state)
{
	void *fdt = build(&options, two_disks, NULL), *out;
	char path[] = "/tmp/ferry-tree-XXXXXX";
	struct error err = { 0 };
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write(fd, fdt, fdt_totalsize(fdt)), fdt_totalsize(fdt));
	assert_int_equal(machine_tree_read(path, &out, &err), 0);
	assert_memory_equal(fdt, out, fdt_totalsize(fdt));
	free(out);
	assert_int_equal(ftruncate(fd, 100), 0);
	assert_int_equal(machine_tree_read(path, &out, &err), -EINVAL);
	assert_string_equal(err.device, path);
	assert_string_equal(err.expected, "a flattened device tree");
	memset(&err, 0, sizeof(err));
	assert_int_equal(ftruncate(fd, 100 << 20), 0);
	assert_int_equal(machine_tree_read(path, &out, &err), -EINVAL);
	assert_string_equal(err.field, "size");
	close(fd);
	unlink(path);
	memset(&err, 0, sizeof(err));
	assert_int_equal(machine_tree_read(path, &out, &err), -ENOENT);
	assert_string_equal(err.device, path);
	assert_null(out);
	free(fdt);
}

static void printing_like_dtc(void **state)
{
	static const char want[] = "/dts-v1/;\n"
				   "\n"
				   "/ {\n"
				   "\tname = \"text\", \"more \\\"of\\\" it\\n\";\n"
				   "\tflag;\n"
				   "\tcells = <0x01 0xffffff00>;\n"
				   "\tbytes = [01 02 ff];\n"
				   "\tempty = [00];\n"
				   "\tzero = <0x00>;\n"
				   "\n"
				   "\tsub@1 {\n"
				   "\t\tb?d = \"x\";\n"
				   "\n"
				   "\t\tdeep {\n"
				   "\t\t};\n"
				   "\t};\n"
				   "\n"
				   "\tlast {\n"
				   "\t};\n"
				   "};\n";
	char *text;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	(void)state;
	fdt_create(edited, sizeof(edited));
	fdt_finish_reservemap(edited);
	fdt_begin_node(edited, "");
	fdt_property(edited, "name", "text\0more \"of\" it\n", 19);
	fdt_property(edited, "flag", NULL, 0);
	fdt_property(edited, "cells", "\0\0\0\1\xff\xff\xff\0", 8);
	fdt_property(edited, "bytes", "\1\2\xff", 3);
	fdt_property(edited, "empty", "", 1);
	fdt_property(edited, "zero", "\0\0\0", 4);
	fdt_begin_node(edited, "sub@1");
	fdt_property(edited, "b\033d", "x", 2);
	fdt_begin_node(edited, "deep");
	fdt_end_node(edited);
	fdt_end_node(edited);
	fdt_begin_node(edited, "last");
	fdt_end_node(edited);
	fdt_end_node(edited);
	fdt_finish(edited);
	tree_print(f, edited);
	fclose(f);
	assert_string_equal(text, want);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_machine_from_options),
		cmocka_unit_test(order_is_that_of_options_then_of_names),
		cmocka_unit_test(memory_around_the_hole),
		cmocka_unit_test(bad_machines_are_refused),
		cmocka_unit_test(errors_stick),
		cmocka_unit_test(too_much_for_a_tree),
		cmocka_unit_test(overriding_what_is_local),
		cmocka_unit_test(foreign_trees_name_no_files),
		cmocka_unit_test(foreign_trees_cannot_hide_a_name),
		cmocka_unit_test(no_host_in_the_guests_tree),
		cmocka_unit_test(interrupts_in_the_guests_tree_lead_to_the_IOAPIC),
		cmocka_unit_test(checking_the_shape),
		cmocka_unit_test(checking_memory),
		cmocka_unit_test(every_single_byte_changed),
		cmocka_unit_test(reading_a_file),
		cmocka_unit_test(printing_like_dtc),
	};

	return cmocka_run_group_tests_name("tree", tests, NULL, NULL);
}
