/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers that entry.S and the C files must agree on: selectors, vectors, system calls and the
 * shape of a CPU's block. Preprocessor only, since the assembler reads it too.
 */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

/* Selectors of the GDT in entry.S; the ring-3 ones carry their RPL. */
#define SEL_KCODE  0x08
#define SEL_KDATA  0x10
#define SEL_CODE32 0x18
#define SEL_UDATA  0x23
#define SEL_UCODE  0x2b
#define SEL_TSS	   0x30 /* one of 16 bytes a CPU */

#define MAX_CPUS 255 /* as many as xAPICs have numbers for */

/*
 * A CPU's block: its struct cpu and the ring-0 stack share the first page, the ring-3 stack is the
 * rest. Blocks are aligned to their size, so both rings find theirs by masking the stack pointer.
 */
#define CPU_SIZE   16384
#define CPU_KSTACK 4096 /* where the ring-0 stack begins to grow down */
#define CPU_TSS	   512	/* after the interrupt counters */

/* Interrupt vectors that are counted: each has a stub of STUB_SIZE bytes. */
#define VECTOR_FIRST	0x20 /* PIC: IRQ 0 to 15 */
#define VECTOR_TIMER	0x30 /* LAPIC timer */
#define VECTOR_IPI	0x31
#define VECTOR_GSI	0x40 /* + GSI, IOAPIC pins 0 to 23 */
#define VECTOR_COUNT	64
#define VECTOR_SYSCALL	0x80
#define VECTOR_SPURIOUS 0xff
#define STUB_SIZE	32

/* System calls: number in RAX, arguments in RDI, RSI, RDX; result in RAX, RDX set after a #GP. */
#define SYS_WAIT   0 /* (counter, old): hlt unless *counter differs from old already */
#define SYS_RDMSR  1 /* (msr) */
#define SYS_WRMSR  2 /* (msr, value) */
#define SYS_CPUID  3 /* (leaf, subleaf, uint32_t out[4]) */
#define SYS_XSETBV 4 /* (xcr0): sets CR4.OSXSAVE first */
#define SYS_IRQ_ON 5 /* returns with interrupts enabled */
#define SYS_NO_IDT 6 /* loads an empty IDT: the next exception is a triple fault */
#define SYS_HALT   7 /* cli; hlt, for ever */
#define SYS_COUNT  8

#define LAPIC_BASE 0xfee00000
#define LAPIC_EOI  0xb0

#define TRAMPOLINE 0x8000 /* where APs start in real mode; the SIPI vector is this >> 12 */

#endif
