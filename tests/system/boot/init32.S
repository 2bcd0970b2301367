/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Process 1 of a 32-bit Linux without a C library: it shows the file SHOWN once a timer of a tenth of a
 * second has rung, and ends the machine by the debug exit.
 */
	.set SYS_OPEN, 5
	.set SYS_READ, 3
	.set SYS_WRITE, 4
	.set SYS_MOUNT, 21
	.set SYS_IOPERM, 101
	.set SYS_NANOSLEEP, 162

	.text
	.globl start
start:
	mov $SYS_MOUNT, %eax
	mov $proc, %ebx
	mov $proc_at, %ecx
	mov $proc, %edx
	xor %esi, %esi
	xor %edi, %edi
	int $0x80
	mov $SYS_NANOSLEEP, %eax
	mov $delay, %ebx
	xor %ecx, %ecx
	int $0x80
	mov $SYS_OPEN, %eax
	mov $shown, %ebx
	xor %ecx, %ecx
	int $0x80
	mov %eax, %ebp
1:	mov $SYS_READ, %eax
	mov %ebp, %ebx
	mov $buffer, %ecx
	mov $4096, %edx
	int $0x80
	test %eax, %eax
	jle 2f
	mov %eax, %edx
	call print
	jmp 1b
2:	mov $done, %ecx
	mov $done_end - done, %edx
	mov %ecx, %esi
	mov $SYS_WRITE, %eax
	mov $1, %ebx
	int $0x80
	/* Once more: what the serial port has sent by interrupts by now is in the file. */
	mov $SYS_IOPERM, %eax
	mov $0xf4, %ebx
	mov $1, %ecx
	mov $1, %edx
	int $0x80
	mov $0x2a, %al
	out %al, $0xf4
3:	jmp 3b

print: /* EDX bytes of buffer */
	mov $SYS_WRITE, %eax
	mov $1, %ebx
	mov $buffer, %ecx
	int $0x80
	ret

	.data
delay:
	.long 0, 100000000
proc:
	.asciz "proc"
proc_at:
	.asciz "/proc"
shown:
	.asciz "/proc/interrupts"
done:
	.ascii "shown\n"
done_end:

	.bss
buffer:
	.skip 4096

	.section .note.GNU-stack, "", @progbits
