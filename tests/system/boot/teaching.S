/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A multiboot kernel as courses write them: text in the memory of the screen, an interrupt table, the
 * two PICs (Intel 8259A) moved to vector 32, the PIT (8254) at 100 Hz, no APIC, no paging. It says on
 * the serial port what it found, and ends by the debug exit when it has counted TICKS.
 */
	.set MAGIC, 0x1badb002
	.set SCREEN, 0xb8000
	.set SCREEN_WORDS, 80 * 25
	.set PIT_HZ, 1193182
	.set VECTOR, 32
	.set TICKS, 20
	.set ABSENT, 0x2f0 /* a port that no device of the machine has */

	.text
	.globl start
	.balign 4
	.long MAGIC, 0, -MAGIC

start:
	cld
	mov $stack_end, %esp
	lgdt gdt_pointer /* multiboot leaves it to us */
	ljmp $8, $1f
1:	mov $16, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss

	/* Each place of the screen another value, then all of them compared. */
	mov $SCREEN, %edi
	mov $SCREEN_WORDS, %ecx
1:	lea 0x0700(%ecx), %eax
	stosw
	loop 1b
	mov $SCREEN, %esi
	mov $SCREEN_WORDS, %ecx
	xor %ebx, %ebx
1:	lodsw
	lea 0x0700(%ecx), %edx
	cmp %dx, %ax
	jne 2f
	inc %ebx
2:	loop 1b
	mov $s_screen, %esi
	call put_named

	mov $ABSENT, %dx
	in (%dx), %eax
	mov %eax, %ebx
	mov $s_absent, %esi
	call put_named

	/* Vector 32 leads to tick, all others to wrong. */
	mov $idt, %edi
	mov $256, %ecx
	mov $wrong, %eax
1:	call gate
	loop 1b
	mov $idt + VECTOR * 8, %edi
	mov $tick, %eax
	call gate
	lidt idt_pointer

	/* ICW1 to ICW4, then all but line 0 masked; the mask is read back. */
	mov $0x11, %al
	out %al, $0x20
	out %al, $0xa0
	mov $VECTOR, %al
	out %al, $0x21
	mov $VECTOR + 8, %al
	out %al, $0xa1
	mov $4, %al
	out %al, $0x21
	mov $2, %al
	out %al, $0xa1
	mov $1, %al
	out %al, $0x21
	out %al, $0xa1
	mov $0xfe, %al
	out %al, $0x21
	mov $0xff, %al
	out %al, $0xa1
	xor %eax, %eax
	in $0xa1, %al
	mov %al, %ah
	in $0x21, %al
	mov %eax, %ebx
	mov $s_masks, %esi
	call put_named

	/* Counter 0, low byte then high byte, mode 2. */
	mov $0x34, %al
	out %al, $0x43
	mov $PIT_HZ / 100, %eax
	out %al, $0x40
	mov %ah, %al
	out %al, $0x40
	sti
1:	hlt
	cmpl $TICKS, ticks
	jb 1b
	cli
	mov ticks, %ebx
	mov $s_ticks, %esi
	call put_named
	mov $0x2a, %al
	out %al, $0xf4
2:	hlt
	jmp 2b

gate: /* at EDI, to EAX; EDI goes to the next one */
	mov %ax, (%edi)
	movw $8, 2(%edi)
	movw $0x8e00, 4(%edi)
	mov %eax, %edx
	shr $16, %edx
	mov %dx, 6(%edi)
	add $8, %edi
	ret

tick:
	push %eax
	incl ticks
	mov $0x20, %al
	out %al, $0x20
	pop %eax
	iret

wrong:
	mov $s_wrong, %esi
	call put_named
	mov $1, %al
	out %al, $0xf4
	hlt

	.include "print.inc"

	.data
	.balign 8
gdt:
	.quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
	.word . - gdt - 1
	.long gdt
idt_pointer:
	.word 256 * 8 - 1
	.long idt
s_screen:
	.asciz "screen "
s_absent:
	.asciz "absent port "
s_masks:
	.asciz "masks "
s_ticks:
	.asciz "ticks "
s_wrong:
	.asciz "an interrupt that nobody wanted "

	.bss
	.balign 8
ticks:
	.skip 4
	.balign 8
idt:
	.skip 256 * 8
	.skip 4096
stack_end:

	.section .note.GNU-stack, "", @progbits
