/* SPDX-License-Identifier: BSD-2-Clause */
/* What a device asks of the machine: registers, interrupts, doorbells, requests. Without KVM (a
 * machine in a unit test) interrupts and doorbells are plain eventfds. */
#include "vmm/device.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/vm.h"

struct memory *device_memory(struct device *dev)
{
	return &dev->vm->memory;
}

struct loop *device_loop(struct device *dev)
{
	return dev->vm->loop;
}

int device_claim_mmio(struct device *dev, uint64_t base, uint64_t size, const struct bus_ops *ops,
		      struct error *err)
{
	return bus_add(&dev->vm->mmio, base, size, dev, ops, err);
}

int device_claim_pio(struct device *dev, uint64_t base, uint64_t size, const struct bus_ops *ops,
		     struct error *err)
{
	return bus_add(&dev->vm->pio, base, size, dev, ops, err);
}

void device_release_ranges(struct device *dev)
{
	bus_remove(&dev->vm->mmio, dev);
	bus_remove(&dev->vm->pio, dev);
}

/* KVM_IRQFD, KVM API 4.75. */
static int set_irqfd(struct device *dev, uint32_t gsi, int fd, uint32_t flags)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags };

	if (dev->vm->fd < 0)
		return 0;
	return ioctl(dev->vm->fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int device_irq_open(struct device *dev, uint32_t gsi, int *fd, struct error *err)
{
	int ret;

	*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (*fd < 0)
		return error_set(err, -errno, "realize", dev->name, "interrupt", "an eventfd",
				 "%m");
	ret = set_irqfd(dev, gsi, *fd, 0);
	if (ret < 0) {
		close(*fd);
		*fd = -1;
		errno = -ret;
		error_set(err, ret, "realize", dev->name, "interrupts", "", "%m");
		error_expected(err, "an interrupt %" PRIu32 " of KVM's", gsi);
	}
	return ret;
}

void device_irq_pulse(int fd)
{
	uint64_t one = 1;
	ssize_t n = write(fd, &one, sizeof(one));

	(void)n; /* EAGAIN: there are pulses enough */
}

void device_irq_close(struct device *dev, uint32_t gsi, int fd)
{
	if (fd < 0)
		return;
	set_irqfd(dev, gsi, fd, KVM_IRQFD_FLAG_DEASSIGN);
	close(fd);
}

void device_irq_set(struct device *dev, uint32_t gsi, bool level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	/* Fails only for lines that do not exist, which then have nobody to tell. */
	if (dev->vm->fd >= 0)
		ioctl(dev->vm->fd, KVM_IRQ_LINE, &irq);
}

int device_ioeventfd(struct device *dev, uint64_t gpa, uint32_t value, int fd, bool assign,
		     struct error *err)
{
	struct kvm_ioeventfd io = {
		.datamatch = value,
		.addr = gpa,
		.len = sizeof(value),
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (assign ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	int ret;

	if (dev->vm->fd < 0 || ioctl(dev->vm->fd, KVM_IOEVENTFD, &io) == 0)
		return 0;
	ret = error_set(err, -errno, "realize", dev->name, "doorbell", "", "%m");
	error_expected(err, "KVM to watch 0x%" PRIx64, gpa);
	return ret;
}

void device_request_reset(struct device *dev)
{
	vm_request(dev->vm, VM_REQUEST_RESET);
}

void device_request_exit(struct device *dev, int status)
{
	vm_request_exit(dev->vm, status);
}

bool device_is_incoming(struct device *dev)
{
	return dev->vm->state == VM_INMIGRATE;
}

struct device_fds *device_given(struct device *dev)
{
	struct device_fds *fds = dev->vm->given;

	while (fds && strcmp(fds->device, dev->name) != 0)
		fds = fds->next;
	return fds;
}

bool device_is_heir(struct device *dev)
{
	return dev->vm->leash_fd >= 0 && device_is_incoming(dev);
}

bool device_is_handing_on(struct device *dev)
{
	return dev->vm->handing_on;
}

void device_fds_free(struct device_fds **list)
{
	while (*list) {
		struct device_fds *fds = *list;

		*list = fds->next;
		for (unsigned int i = 0; i < fds->n; i++) {
			if (fds->fd[i] >= 0)
				close(fds->fd[i]);
		}
		free(fds);
	}
}
