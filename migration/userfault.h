/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM whose pages come when they are touched: userfaultfd(2) in missing mode. Whoever touches
 * a page that is not there sleeps in the kernel, a vCPU in KVM_RUN or a device's DMA alike, until
 * somebody has put the page in its place.
 *
 * It takes CAP_SYS_PTRACE, the sysctl vm.unprivileged_userfaultfd or rights on /dev/userfaultfd,
 * for KVM touches pages from inside the kernel. Works with MEMORY_ANON and MEMORY_SHARED.
 *
 * Errors: {"userfaultfd", "RAM", …}. Any thread, but for open, register and close.
 */
#ifndef MIGRATION_USERFAULT_H
#define MIGRATION_USERFAULT_H

#include "vmm/memory.h"

struct userfault {
	int fd; /* readable when there are faults; -1: closed */
	const struct memory *mem;
};

/* Can this process do it at all? */
int userfault_probe(struct error *err);
/* @mem is empty yet, and pages of it may be taken away again one by one. */
void userfault_prepare(const struct memory *mem);
/* Get ready, and have faults in all of @mem reported from now on. It must outlive this. */
int userfault_open(struct userfault *u, const struct memory *mem, struct error *err);
/* Whoever still sleeps finds a zero page. Once more is harmless. */
void userfault_close(struct userfault *u);

/* Make pages [@gpa, @gpa + @len) missing, whatever they held. 0 or a negative errno; -EBUSY when
 * the kernel did not let go of one. */
int userfault_discard(struct userfault *u, uint64_t gpa, uint64_t len);
/* Up to @n gpas of pages that were touched, in the order of that. Does not wait; 0: none. */
int userfault_read(struct userfault *u, uint64_t *gpas, int n);
/* Put whole pages that are missing in their place, and wake who waits for them. 0, -EEXIST when one
 * is there already, or another negative errno. */
int userfault_copy(struct userfault *u, uint64_t gpa, const void *from, uint64_t len);
int userfault_zero(struct userfault *u, uint64_t gpa, uint64_t len);
/* The page is there: whoever waits for it may look again. */
void userfault_wake(struct userfault *u, uint64_t gpa);

#endif
