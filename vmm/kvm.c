/* SPDX-License-Identifier: BSD-2-Clause */
/* /dev/kvm: opening it with a useful error, creating a VM, its memory slots. */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/dirty-ring.h"
#include "vmm/vm.h"

#define KVM_DEVICE "/dev/kvm"

static int open_failed(int error, struct error *err)
{
	struct stat st;

	switch (error) {
	case ENOENT:
		if (stat("/sys/module/kvm", &st) < 0)
			return error_set(
				err, -error, "kvm", KVM_DEVICE, "", "a device",
				"none, and the module kvm is not loaded: load kvm_intel or "
				"kvm_amd (modprobe), after virtualisation is on in the firmware");
		return error_set(
			err, -error, "kvm", KVM_DEVICE, "", "a device",
			"none, though module kvm is there: the processor offers no VMX or SVM "
			"here; on a virtual machine, ask for nested virtualisation");
	case EACCES:
	case EPERM:
		return error_set(err, -error, "kvm", KVM_DEVICE, "", "permission to read and write",
				 "none: join its group (adduser USER kvm) and log in again");
	case ENODEV:
	case ENXIO:
		return error_set(err, -error, "kvm", KVM_DEVICE, "", "a driver behind it",
				 "none: load the module kvm_intel or kvm_amd (modprobe)");
	default:
		errno = error;
		return error_set(err, -error, "kvm", KVM_DEVICE, "", "a device that opens", "%m");
	}
}

static int check_capabilities(int fd, struct error *err)
{
	static const struct {
		unsigned long cap;
		const char *name;
	} needed[] = {
		{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
		{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
		{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
		{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	};
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION) {
		error_set(err, -ENOTSUP, "kvm", KVM_DEVICE, "API version", "", "%d", version);
		error_expected(err, "%d", KVM_API_VERSION);
		return -ENOTSUP;
	}
	for (unsigned int i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return error_set(err, -ENOTSUP, "kvm", KVM_DEVICE, needed[i].name,
					 "a kernel that has it", "one that has not");
	}
	return 0;
}

int kvm_open(struct error *err)
{
	int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return open_failed(errno, err);
	ret = check_capabilities(fd, err);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return fd;
}

int kvm_extension(const struct vm *vm, unsigned long cap)
{
	int ret = ioctl(vm->fd, KVM_CHECK_EXTENSION, cap);

	return ret < 0 ? 0 : ret;
}

unsigned int kvm_max_vcpus(const struct vm *vm)
{
	int max = kvm_extension(vm, KVM_CAP_MAX_VCPUS);

	/* KVM API 4.7: without it the recommended number, and without that one, 4. */
	if (max <= 0)
		max = kvm_extension(vm, KVM_CAP_NR_VCPUS);
	if (max <= 0)
		max = 4;
	return max < VM_MAX_VCPUS ? (unsigned int)max : VM_MAX_VCPUS;
}

int kvm_set_slots(struct vm *vm, bool log_dirty, struct error *err)
{
	for (unsigned int i = 0; i < vm->memory.n_regions; i++) {
		struct memory_region *r = &vm->memory.regions[i];
		struct kvm_userspace_memory_region slot = {
			.slot = r->slot,
			.flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = r->gpa,
			.memory_size = r->size,
			.userspace_addr = (uintptr_t)r->hva,
		};

		if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return error_set(err, -errno, "kvm", "memory", "", "a memory slot",
					 "%m for gpa 0x%llx", (unsigned long long)r->gpa);
	}
	return 0;
}

/* The flag INITIALLY_SET saves write-protecting all of RAM when logging starts: the first round
 * sends everything anyway, and protects chunk by chunk as it goes (KVM API 4.117, 7.18). */
static void enable_manual_protect(struct vm *vm)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };
	int offered = kvm_extension(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);

	cap.args[0] = (unsigned int)offered &
		      (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	vm->manual_protect = cap.args[0] && ioctl(vm->fd, KVM_ENABLE_CAP, &cap) == 0;
}

int kvm_create_vm(struct vm *vm, struct error *err)
{
	int ret;

	do {
		vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0UL);
	} while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0)
		return error_set(err, -errno, "kvm", KVM_DEVICE, "", "a VM", "%m");
	ret = dirty_ring_enable(vm, err);
	if (ret < 0)
		return ret;
	/* A ring has nothing that clears INITIALLY_SET: no write would ever be seen. */
	if (!vm->ring_entries)
		enable_manual_protect(vm);
	return kvm_set_slots(vm, false, err);
}
