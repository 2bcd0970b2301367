/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A multiboot kernel that prints what it is handed on the first serial port and ends by the debug
 * exit. Assembled with FLAGS=0 it is loaded by its ELF headers, with bit 16 by the address fields.
 */
	.set MAGIC, 0x1badb002

	.text
	.globl start
begin:
	.asciz "this goes before the header"
	.balign 4
header:
	.long MAGIC, FLAGS, -(MAGIC + FLAGS)
	.long header, begin, data_end, bss_end, start

start:
	mov $stack_end, %esp
	mov %ebx, %ebp
	mov %eax, %ebx
	mov $s_magic, %esi
	call put_named
	mov (%ebp), %ebx
	mov $s_flags, %esi
	call put_named
	mov 4(%ebp), %ebx
	mov $s_lower, %esi
	call put_named
	mov 8(%ebp), %ebx
	mov $s_upper, %esi
	call put_named
	mov $s_cmdline, %esi
	call put_string
	mov 16(%ebp), %esi
	call put_string
	call put_newline
	mov unset, %ebx /* .bss, which must be clear */
	mov $s_bss, %esi
	call put_named

	mov 48(%ebp), %edi /* memory map: size, then base and length of 64 bits, type */
range:
	mov 48(%ebp), %eax
	add 44(%ebp), %eax
	cmp %eax, %edi
	jae modules
	mov $s_range, %esi
	call put_string
	lea 4(%edi), %esi
	mov $5, %ecx
	call put_words
	call put_newline
	add (%edi), %edi
	add $4, %edi
	jmp range

modules:
	mov 20(%ebp), %ecx
	mov 24(%ebp), %edi /* start, end, string, reserved */
module:
	jecxz done
	push %ecx
	mov $s_module, %esi
	call put_string
	mov 8(%edi), %esi
	call put_string
	mov $' ', %al
	call put
	mov 4(%edi), %ebx
	sub (%edi), %ebx
	call put_hex
	mov (%edi), %esi
	mov $2, %ecx
	call put_words
	call put_newline
	add $16, %edi
	pop %ecx
	dec %ecx
	jmp module
done:
	mov $0x2a, %al
	out %al, $0xf4
1:	hlt
	jmp 1b

put_words: /* ECX words at ESI, each after a blank */
	mov $' ', %al
	call put
	mov (%esi), %ebx
	call put_hex
	add $4, %esi
	loop put_words
	ret

	.include "print.inc"

	.data
s_magic:
	.asciz "magic "
s_flags:
	.asciz "flags "
s_lower:
	.asciz "lower "
s_upper:
	.asciz "upper "
s_cmdline:
	.asciz "cmdline "
s_bss:
	.asciz "bss "
s_range:
	.asciz "range"
s_module:
	.asciz "module "
data_end:

	.bss
unset:
	.skip 4
	.skip 4096
stack_end:
bss_end:

	.section .note.GNU-stack, "", @progbits
