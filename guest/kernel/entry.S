/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All of ring 0: from the PVH entry point to ring 3, the way back in by interrupt, exception and
 * system call, and the start of the other CPUs. It is short because some KVM hosts emulate ring 0
 * one instruction at a time and lack many of them; what is used here is plain moves, int and iretq.
 *
 * Specifications: Xen docs/misc/pvh.pandoc (boot state), Intel SDM volume 3, 5.5 (paging),
 * 6.14 (interrupts in 64-bit mode), 9.8.5 (entering IA-32e mode), 9.4 (INIT-SIPI).
 */
#include "layout.h"

#define CR0_LONG 0x80000033 /* PG, NE, ET, MP, PE */
#define CR4_LONG 0x620	    /* PAE, OSFXSR, OSXMMEXCPT */
#define CR4_OSXSAVE 0x40000
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define RFLAGS_IF 0x200
#define RFLAGS_USER 0x3002 /* IOPL 3, interrupts off */
#define PTE_TABLE 0x07	   /* present, writable, user */
#define PTE_LARGE 0x87	   /* the same, 2 MiB page */

	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 8, 18 /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.quad pvh_entry

/* ---- boot ---- */

	.text
	.code32
	.globl pvh_entry
pvh_entry: /* 32-bit protected mode, no paging, EBX = hvm_start_info */
	cli
	mov %ebx, start_info
	lgdt gdt_pointer

enter_long_mode: /* the boot CPU and the others alike */
	mov $SEL_KDATA, %eax
	mov %eax, %ss
	mov $SEL_UDATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov $CR4_LONG, %eax
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $MSR_EFER, %ecx
	rdmsr
	or $EFER_LME, %eax
	wrmsr
	mov $CR0_LONG, %eax
	mov %eax, %cr0
	ljmp $SEL_KCODE, $long_mode

	.code64
long_mode: /* to ring 3: starting_entry(starting_cpu), on the CPU's own stacks */
	mov starting_cpu, %rbx
	mov starting_tss, %ecx
	lea CPU_KSTACK(%rbx), %rsp
	mov %rsp, CPU_TSS + 4(%rbx) /* RSP0 */
	lea CPU_TSS(%rbx), %rax
	mov %ax, gdt + 2(%rcx)
	shr $16, %eax
	mov %al, gdt + 4(%rcx)
	mov %ah, gdt + 7(%rcx)
	ltr %cx
	lidt idt_pointer
	lea CPU_SIZE - 8(%rbx), %rax /* as after a call */
	mov %rbx, %rdi
	pushq $SEL_UDATA
	push %rax
	pushq $RFLAGS_USER
	pushq $SEL_UCODE
	push starting_entry
	iretq

/* ---- other CPUs: copied to TRAMPOLINE, entered there in real mode with IP 0 ---- */

	.code16
	.globl trampoline, trampoline_end
trampoline:
	cli
	lgdtl %cs:trampoline_gdt - trampoline
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $SEL_CODE32, $enter_long_mode
trampoline_gdt:
	.word gdt_end - gdt - 1
	.long gdt
trampoline_end:

/* ---- interrupts: count, tell the LAPIC, go on; who waits looks at the counter ---- */

	.code64
	.balign STUB_SIZE
	.globl irq_stubs, irq_spurious
irq_stubs:
	vector = 0
	.rept VECTOR_COUNT
	.balign STUB_SIZE
	push %rax
	mov %rsp, %rax
	and $-CPU_SIZE, %rax
	incq 8 * vector(%rax)
	jmp irq_eoi
	vector = vector + 1
	.endr
	.balign STUB_SIZE
irq_eoi:
	mov $(LAPIC_BASE + LAPIC_EOI), %eax
	movl $0, (%rax)
	cmpq $wait_hlt, 8(%rsp)
	jne 1f
	incq 8(%rsp) /* over the hlt: what it would wait for has come */
1:	pop %rax
irq_spurious:
	iretq

/* ---- exceptions: an MSR that is not there is an answer, all others are reported in ring 3 ---- */

	.balign STUB_SIZE
	.globl exception_stubs
exception_stubs:
	vector = 0
	.rept 32
	.balign STUB_SIZE
	.if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30
	pushq $0 /* the CPU pushes no error code for this one */
	.endif
	pushq $vector
	jmp exception
	vector = vector + 1
	.endr

	.balign STUB_SIZE
exception: /* vector, error code, RIP, CS, RFLAGS, RSP, SS are on the stack */
	cmpq $msr_read, 16(%rsp)
	je msr_missing
	cmpq $msr_write, 16(%rsp)
	je msr_missing
	pop %rdi
	pop %rsi
	mov (%rsp), %rdx
	mov 8(%rsp), %rcx
	mov 24(%rsp), %r8
	mov %cr2, %r9
	movq $trap_report, (%rsp)
	movq $SEL_UCODE, 8(%rsp)
	movq $RFLAGS_USER, 16(%rsp)
	mov %rsp, %rax
	and $-CPU_SIZE, %rax
	add $(CPU_SIZE - 8), %rax
	mov %rax, 24(%rsp)
	movq $SEL_UDATA, 32(%rsp)
	iretq

msr_missing:
	add $16, %rsp
	movq $msr_fault, (%rsp)
	iretq

/* ---- system calls ---- */

	.globl syscall_entry
syscall_entry:
	jmp *syscall_table(, %rax, 8)

sys_wait:
	cmp %rsi, (%rdi)
	jne 1f
	/*
	 * An interrupt between the two would be waited for again. The shadow of sti keeps it away
	 * (SDM volume 2, STI), but emulated SVM forgets the shadow when an exit falls there, since
	 * its VMRUN does not load interrupt_shadow (APM volume 2, 15.21.5); so irq_eoi looks, too.
	 */
	sti
wait_hlt:
	hlt
	cli
1:	iretq

sys_rdmsr:
	mov %edi, %ecx
msr_read:
	rdmsr
	shl $32, %rdx
	or %rdx, %rax
	xor %edx, %edx
	iretq

sys_wrmsr:
	mov %edi, %ecx
	mov %esi, %eax
	mov %rsi, %rdx
	shr $32, %rdx
msr_write:
	wrmsr
	xor %edx, %edx
	iretq

msr_fault: /* ring 0 again, after the #GP */
	xor %eax, %eax
	mov $1, %edx
	iretq

sys_cpuid:
	push %rbx
	mov %rdx, %r8
	mov %edi, %eax
	mov %esi, %ecx
	cpuid
	mov %eax, (%r8)
	mov %ebx, 4(%r8)
	mov %ecx, 8(%r8)
	mov %edx, 12(%r8)
	pop %rbx
	iretq

sys_xsetbv:
	mov %cr4, %rax
	or $CR4_OSXSAVE, %eax
	mov %rax, %cr4
	xor %ecx, %ecx
	mov %edi, %eax
	mov %rdi, %rdx
	shr $32, %rdx
	xsetbv
	iretq

sys_irq_on:
	orq $RFLAGS_IF, 16(%rsp)
	iretq

sys_no_idt:
	lidt no_idt_pointer
	iretq

sys_halt:
	cli
	hlt
	jmp sys_halt

/* ---- tables, made by the assembler so that no boot time is spent on them ---- */

	.section .rodata
	.balign 8
syscall_table:
	.quad sys_wait, sys_rdmsr, sys_wrmsr, sys_cpuid, sys_xsetbv, sys_irq_on, sys_no_idt, sys_halt
no_idt_pointer:
	.word 0
	.quad 0
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt
idt_pointer:
	.word 256 * 16 - 1
	.quad idt

	.data
	.globl start_info, starting_cpu, starting_entry, starting_tss
start_info:
	.quad 0
starting_cpu:
	.quad cpu0
starting_entry:
	.quad guest_main
starting_tss:
	.long SEL_TSS

	.balign 16
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* SEL_KCODE: 64-bit, DPL 0 */
	.quad 0x00cf93000000ffff /* SEL_KDATA */
	.quad 0x00cf9b000000ffff /* SEL_CODE32 */
	.quad 0x00cff3000000ffff /* SEL_UDATA: DPL 3 */
	.quad 0x00affb000000ffff /* SEL_UCODE: 64-bit, DPL 3 */
	.rept MAX_CPUS
	.quad 0x0000890000000067, 0 /* available TSS of 104 bytes, base to be filled in */
	.endr
gdt_end:

	.balign 4096
	.globl pml4, pdpt
pml4:
	.quad pdpt + PTE_TABLE
	.balign 4096
pdpt: /* the first 4 GiB; ram.c adds what RAM lies above */
	.quad pages + PTE_TABLE, pages + 0x1000 + PTE_TABLE
	.quad pages + 0x2000 + PTE_TABLE, pages + 0x3000 + PTE_TABLE
	.balign 4096
pages:
	address = 0
	.rept 4 * 512
	.quad address + PTE_LARGE
	address = address + 0x200000
	.endr

	.bss
	.balign CPU_SIZE
	.globl cpu0
cpu0:
	.skip CPU_SIZE
	.globl idt
idt:
	.skip 256 * 16

	.section .note.GNU-stack, "", @progbits
