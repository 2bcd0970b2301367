/* SPDX-License-Identifier: BSD-2-Clause */
/* Handing over to a boot image (SDM volume 3, 9.1 and 3.4: processor modes and their segments). */
#include "vmm/x86/entry.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "vmm/vcpu.h"
#include "vmm/vm.h"
#include "vmm/x86/memmap.h"

#define CR0_PE	   1U
#define CR0_ET	   0x10U
#define RFLAGS_ONE 2U /* always set */
#define CODE	   0xb
#define DATA	   0x3
#define TSS_BUSY   0xb

int entry_place(struct vm *vm, const void *data, uint64_t size, uint64_t floor, uint64_t *top,
		const char *what, struct error *err)
{
	int ret = x86_memmap_place(&vm->memory, size, floor, top, what, err);

	return ret < 0 ? ret : memory_write(&vm->memory, *top, data, size);
}

static int enter(struct vm *vm, const struct kvm_segment *code, const struct kvm_segment *data,
		 uint32_t cr0, const struct kvm_regs *regs, struct error *err)
{
	const struct kvm_segment tss = {
		.limit = 0x67, .selector = 0x18, .type = TSS_BUSY, .present = 1
	};
	struct kvm_sregs sregs;
	int fd = vm->vcpus[0]->fd;

	if (ioctl(fd, KVM_GET_SREGS, &sregs) < 0)
		return error_set(err, -errno, "boot", "cpu@0", "registers", "KVM to give them",
				 "%m");
	sregs.cs = *code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = *data;
	sregs.tr = tss;
	sregs.cr0 = cr0;
	if (ioctl(fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(fd, KVM_SET_REGS, regs) < 0)
		return error_set(err, -errno, "boot", "cpu@0", "registers", "KVM to take them",
				 "%m");
	return 0;
}

int entry_protected(struct vm *vm, uint32_t eip, uint32_t esp, uint32_t eax, uint32_t ebx,
		    struct error *err)
{
	const struct kvm_segment code = { .limit = 0xffffffff,
					  .selector = 0x8,
					  .type = CODE,
					  .present = 1,
					  .db = 1,
					  .s = 1,
					  .g = 1 };
	struct kvm_regs regs = {
		.rip = eip, .rsp = esp, .rax = eax, .rbx = ebx, .rflags = RFLAGS_ONE
	};
	struct kvm_segment data = code;

	data.selector = 0x10;
	data.type = DATA;
	return enter(vm, &code, &data, CR0_PE | CR0_ET, &regs, err);
}

int entry_real(struct vm *vm, uint32_t start, uint16_t sp, struct error *err)
{
	/* Boot sectors expect CS 0 where it reaches. */
	uint16_t selector = start > 0xffff ? (uint16_t)(start >> 4) : 0;
	const struct kvm_segment data = { .limit = 0xffff, .type = DATA, .present = 1, .s = 1 };
	struct kvm_regs regs = { .rip = start - selector * 16U, .rsp = sp, .rflags = RFLAGS_ONE };
	struct kvm_segment code = data;

	code.selector = selector;
	code.base = selector * 16U;
	code.type = CODE;
	return enter(vm, &code, &data, CR0_ET, &regs, err);
}
