/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keeps one virtual machine with a vCPU open for as long as a box lives.
 *
 * With its first machine, and after its last, KVM rewrites jumps in __schedule() and in its own
 * code (preempt_notifier_key, apic_sw_disabled), by way of an int3 that other processors may run
 * into. TCG's threads can keep the translation of that int3 when it is long gone: the processor
 * then takes the breakpoint for ever, with interrupts off, and the box hangs. With a machine that
 * is always there, nothing is rewritten while tests run.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0UL);

	if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0UL) < 0 ||
	    ioctl(vm, KVM_CREATE_VCPU, 0UL) < 0) {
		perror("hold: /dev/kvm");
		return 1;
	}
	/* The parent goes on when this one does. */
	if (daemon(1, 1) < 0)
		return 1;
	for (;;)
		pause();
}
