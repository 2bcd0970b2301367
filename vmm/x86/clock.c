/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * kvmclock: the guest's monotonic time. It is set before any vCPU runs, and advanced by the time
 * that passed since it was read on the source, so that it never goes back and the wall clock the
 * guest derives from it stays right.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "vmm/vm.h"
#include "vmm/x86/x86.h"

struct clock_state {
	uint64_t clock;	   /* ns, as the guest counts */
	uint64_t realtime; /* ns of CLOCK_REALTIME when it was read */
};

struct clock {
	struct device dev;
	struct clock_state state;
};

static const struct field clock_fields[] = {
	FIELD_ANY(struct clock_state, clock),
	FIELD_ANY(struct clock_state, realtime),
	FIELDS_END,
};

static int clock_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	(void)dev;
	(void)fdt;
	(void)node;
	(void)err;
	return 0;
}

static int clock_pre_save(struct device *dev, struct error *err)
{
	struct clock *clock = (struct clock *)dev;
	struct kvm_clock_data data = { 0 };

	if (ioctl(dev->vm->fd, KVM_GET_CLOCK, &data) < 0)
		return error_set(err, -errno, "save", dev->name, "", "KVM to give it", "%m");
	/* Of KVM where it has both at one moment (KVM API 4.29), lest we sleep in between. */
	clock->state.realtime = data.flags & KVM_CLOCK_REALTIME ? data.realtime : x86_realtime_ns();
	clock->state.clock = data.clock;
	return 0;
}

static int clock_post_load(struct device *dev, struct error *err)
{
	const struct clock *clock = (struct clock *)dev;
	struct kvm_clock_data data = {
		.clock = clock->state.clock + x86_elapsed_ns(clock->state.realtime),
	};

	if (ioctl(dev->vm->fd, KVM_SET_CLOCK, &data) < 0)
		return error_set(err, -errno, "load", dev->name, "", "KVM to take it", "%m");
	return 0;
}

static const struct device_class clock_class = {
	.name = "clock",
	.compatible = "ferry,x86-clock",
	.stage = STAGE_CLOCK,
	.size = sizeof(struct clock),
	.state_offset = offsetof(struct clock, state),
	.state_size = sizeof(struct clock_state),
	.fields = clock_fields,
	.realize = clock_realize,
	.pre_save = clock_pre_save,
	.post_load = clock_post_load,
};
DEVICE_CLASS(clock_class);
