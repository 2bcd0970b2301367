/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A flat binary that says in which mode it runs, where, and with which stack, and ends by the debug
 * exit. BITS is 16 or 32.
 */
	.text
	.globl start
	.if BITS == 16
	.code16
	.endif
start:
	call 1f
1:	.if BITS == 16
	pop %bx
	movzwl %bx, %ebx
	mov %cs, %ax
	movzwl %ax, %eax
	shl $4, %eax
	add %eax, %ebx /* linear */
	.else
	pop %ebx
	.endif
	sub $(1b - start), %ebx
	mov %cr0, %eax
	and $1, %al
	add $'0', %al
	call put
	mov $' ', %al
	call put
	call put_hex
	mov $' ', %al
	call put
	.if BITS == 16
	movzwl %sp, %ebx
	.else
	mov %esp, %ebx
	.endif
	call put_hex
	mov $'\n', %al
	call put
	mov $0x2a, %al
	out %al, $0xf4
2:	hlt
	jmp 2b

put_hex:
	mov $8, %cx
1:	rol $4, %ebx
	mov %bl, %al
	and $15, %al
	cmp $10, %al
	jb 2f
	add $('a' - '0' - 10), %al
2:	add $'0', %al
	call put
	dec %cx
	jnz 1b
	ret

put:
	mov %al, %ah
	mov $0x3fd, %dx
1:	in (%dx), %al
	test $0x20, %al
	jz 1b
	mov %ah, %al
	mov $0x3f8, %dx
	out %al, (%dx)
	ret

	.section .note.GNU-stack, "", @progbits
