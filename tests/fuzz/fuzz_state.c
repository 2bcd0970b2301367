/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of a machine that somebody has changed: the input is a list of edits to a state tree
 * that is good. What is refused must be refused by name and change nothing; what is taken must be
 * safe to run, and must be taken again when it is saved.
 */
#include <libfdt.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "tests/fuzz/input.h"
#include "tests/unit/guest-virtio.h"

#define RING	   0x10000ULL
#define RING_PAGES 3
#define BUFFER	   0x80000ULL
#define QUEUE_SIZE 32
#define FIELDS	   512
#define ROOM	   8192 /* bytes by which edits may make the tree larger */
#define EDITS	   16

struct field_name {
	char node[64], property[32];
};

struct machine {
	struct vm vm;
	void *good;
	struct field_name fields[FIELDS];
	unsigned int n_fields;
	char *tree; /* the one being edited */
	int room;
};

static bool is_virtio(const struct device *dev)
{
	return strncmp(dev->class->name, "virtio-", 7) == 0;
}

/* A driver that has set up all queues, and offers a buffer in each. */
static void start_driver(struct virtio_device *vd, uint64_t *gpa)
{
	guest_negotiate(vd, vd->features);
	for (unsigned int q = 0; q < vd->state->n_queues; q++, *gpa += RING_PAGES * PAGE_SIZE) {
		struct guest_queue gq = { .vd = vd,
					  .index = q,
					  .size = QUEUE_SIZE,
					  .desc = *gpa,
					  .avail = *gpa + PAGE_SIZE,
					  .used = *gpa + 2 * PAGE_SIZE };

		guest_set_queue(&gq, 1);
		guest_desc(&gq, 0, BUFFER, 16, VRING_DESC_F_NEXT, 1);
		guest_desc(&gq, 1, BUFFER + PAGE_SIZE, 600, VRING_DESC_F_WRITE, 0);
		guest_add(&gq, 0);
	}
	reg_write(vd, VIRTIO_MMIO_STATUS,
		  STATUS_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void list_fields(struct machine *m)
{
	int node, offset;

	fdt_for_each_subnode (node, m->good, 0) {
		fdt_for_each_property_offset (offset, m->good, node) {
			struct field_name *f = &m->fields[m->n_fields];
			const char *name;

			fdt_getprop_by_offset(m->good, offset, &name, NULL);
			if (m->n_fields++ == FIELDS)
				abort();
			snprintf(f->node, sizeof(f->node), "%s", fdt_get_name(m->good, node, NULL));
			snprintf(f->property, sizeof(f->property), "%s", name);
		}
	}
}

static void quiesce(struct vm *vm)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		if (dev->class->quiesce)
			dev->class->quiesce(dev);
}

static void make_machine(struct machine *m)
{
	static const char *const plain[] = { "cmos", "i8042", "acpi-pm" };
	char disk[64], net[64];
	struct error err = { 0 };
	uint64_t gpa = RING;
	int cable[2], fd = memfd_create("disk", 0);
	const struct {
		const char *name, *value;
	} others[] = { { "serial", "none" },	     { "virtio-rng", "" },
		       { "virtio-console", "none" }, { "virtio-balloon", "" },
		       { "virtio-blk", disk },	     { "virtio-net", net } };

	test_machine_init(&m->vm);
	if (fd < 0 || ftruncate(fd, 1 << 20) || socketpair(AF_UNIX, SOCK_DGRAM, 0, cable))
		abort();
	snprintf(disk, sizeof(disk), "/proc/self/fd/%d", fd);
	snprintf(net, sizeof(net), "socket,vnet-hdr,fd=%d", cable[1]);
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		if (!test_device(&m->vm, plain[i], NULL, &err))
			test_die(plain[i], &err);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (!test_device(&m->vm, others[i].name, others[i].value, &err))
			test_die(others[i].name, &err);
	if (vm_claim(&m->vm, &err))
		test_die("claim", &err);
	for (struct device *dev = m->vm.devices; dev; dev = dev->next)
		if (is_virtio(dev))
			start_driver((struct virtio_device *)dev, &gpa);
	quiesce(&m->vm);
	if (vm_save_state(&m->vm, &m->good, &err))
		test_die("save", &err);
	list_fields(m);
	m->room = (int)fdt_totalsize(m->good) + ROOM;
	m->tree = malloc((size_t)m->room);
}

/* One change of one field, or of a whole device. */
static void edit(struct machine *m, struct input *in)
{
	static const uint32_t numbers[] = { 0, 1, 0xffffffff, 0x7fffffff, 0x80000000, 0x10000 };
	const struct field_name *f = &m->fields[take(in, 2) % m->n_fields];
	int len, node = fdt_subnode_offset(m->tree, 0, f->node);
	char *value = fdt_getprop_w(m->tree, node, f->property, &len);
	uint8_t bytes[64];
	size_t n;

	if (!value)
		return;
	switch (take(in, 1) % 8) {
	case 0:
		n = take(in, 1) % sizeof(bytes);
		for (size_t i = 0; i < n; i++)
			bytes[i] = (uint8_t)take(in, 1);
		fdt_setprop(m->tree, node, f->property, bytes, (int)n);
		break;
	case 1:
		fdt_delprop(m->tree, node, f->property);
		break;
	case 2:
		fdt_del_node(m->tree, node);
		break;
	case 3:
		fdt_add_subnode(m->tree, 0, take(in, 1) & 1 ? "?later" : "stranger");
		break;
	case 4:
		if (len >= 4)
			fdt32_st(value + len - 4, numbers[take(in, 1) % 6]);
		break;
	case 5:
		fdt_setprop_u32(m->tree, node, take(in, 1) & 1 ? "?later" : "stranger", 1);
		break;
	default:
		if (len)
			value[take(in, 2) % (size_t)len] ^= (char)take(in, 1);
	}
}

/* All that a guest and the world can set going, and what the loop would do then. */
static void run(struct machine *m)
{
	for (struct device *dev = m->vm.devices; dev; dev = dev->next)
		if (dev->class->resume)
			dev->class->resume(dev);
	for (struct device *dev = m->vm.devices; dev; dev = dev->next) {
		struct virtio_device *vd = (struct virtio_device *)dev;

		for (unsigned int q = 0; is_virtio(dev) && q < vd->state->n_queues; q++)
			virtio_run_queue(vd, q);
		for (uint64_t reg = 0; is_virtio(dev) && reg < 0x120; reg += 4)
			reg_read(vd, reg);
	}
	quiesce(&m->vm);
}

static void load(struct machine *m, const void *tree)
{
	struct error err = { 0 };
	void *before, *after;
	bool applied;
	int ret;

	if (vm_save_state(&m->vm, &before, NULL))
		abort();
	ret = vm_load_state(&m->vm, tree, fdt_totalsize(tree), &applied, &err);
	if (ret && (!err.code || !err.phase[0] || !err.device[0]))
		abort();
	if (vm_save_state(&m->vm, &after, NULL))
		abort();
	if (ret && !applied &&
	    (fdt_totalsize(before) != fdt_totalsize(after) ||
	     memcmp(before, after, fdt_totalsize(after)) != 0))
		test_die("a state that was refused has changed something", &err);
	if (!ret) {
		run(m);
		if (vm_load_state(&m->vm, after, fdt_totalsize(after), &applied, &err))
			test_die("what was taken and saved is refused", &err);
	}
	free(before);
	free(after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine m;
	struct input in = { data, size };

	if (!m.tree)
		make_machine(&m);
	if (fdt_open_into(m.good, m.tree, m.room))
		abort();
	for (unsigned int i = 0; in.left && i < EDITS; i++)
		edit(&m, &in);
	fdt_pack(m.tree);
	load(&m, m.tree);
	load(&m, m.good);
	return 0;
}
