/* SPDX-License-Identifier: BSD-2-Clause */
/* The console: a 16550 at port 0x3f8, polled (PC16550D data sheet, section 8), and print. */
#include <stdarg.h>
#include "clock.h"
#include "cpu.h"
#include "program.h"
#include "machine.h"

enum {
	THR = 0x3f8, /* transmit, receive */
	IER = 0x3f9,
	FCR = 0x3fa,
	LCR = 0x3fb,
	MCR = 0x3fc,
	LSR = 0x3fd,
	LCR_8N1 = 0x03,
	MCR_DTR_RTS = 0x03,
	LSR_DATA = 0x01,
	LSR_THR_EMPTY = 0x20,
	POLL_NS = 10000000,
};

static volatile int console_lock;
static uint64_t console_polled;
static struct gap *console_gap;

void console_init(void)
{
	outb(IER, 0);
	outb(FCR, 0);
	outb(LCR, LCR_8N1);
	outb(MCR, MCR_DTR_RTS);
}

int console_get(void)
{
	return inb(LSR) & LSR_DATA ? inb(THR) : -1;
}

int console_command(uint64_t now_ns)
{
	if (now_ns - console_polled < POLL_NS)
		return 0;
	console_polled = now_ns;
	int c = console_get();
	return c == 's' || c == 't' || c == 'v' || c == 'r' || c == 'q' ? c : 0;
}

void console_watch(struct gap *gap)
{
	console_gap = gap;
}

static void put(char c)
{
	do {
		if (console_gap)
			gap_look(console_gap);
	} while (!(inb(LSR) & LSR_THR_EMPTY));
	outb(THR, (uint8_t)c);
}

static void put_number(uint64_t value, unsigned base, int width, char pad)
{
	char digits[24];
	int n = 0;

	do
		digits[n++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (width-- > n)
		put(pad);
	while (n)
		put(digits[--n]);
}

static void print_list(const char *fmt, va_list args)
{
	for (; *fmt; fmt++) {
		if (*fmt == '\n')
			put('\r');
		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		char pad = *++fmt == '0' ? '0' : ' ';
		int width = 0, longs = 0;
		for (; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + *fmt - '0';
		for (; *fmt == 'l'; fmt++)
			longs++;
		if (*fmt == 's') {
			for (const char *s = va_arg(args, const char *); *s; s++, width--)
				put(*s);
			while (width-- > 0)
				put(' ');
		} else if (*fmt == 'c') {
			put((char)va_arg(args, int));
		} else if (*fmt == 'd') {
			long v = longs ? va_arg(args, long) : va_arg(args, int);
			if (v < 0)
				put('-');
			put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, width, pad);
		} else if (*fmt == 'u' || *fmt == 'x') {
			uint64_t v = longs ? va_arg(args, uint64_t) : va_arg(args, unsigned);
			put_number(v, *fmt == 'x' ? 16 : 10, width, pad);
		} else {
			put(*fmt);
		}
	}
}

static void console_take(void)
{
	while (__atomic_exchange_n(&console_lock, 1, __ATOMIC_ACQUIRE))
		cpu_relax();
}

void print(const char *fmt, ...)
{
	va_list args;

	console_take();
	va_start(args, fmt);
	print_list(fmt, args);
	va_end(args);
	__atomic_store_n(&console_lock, 0, __ATOMIC_RELEASE);
}

void fail(const char *fmt, ...)
{
	va_list args;
	static volatile int failing;

	if (__atomic_exchange_n(&failing, 1, __ATOMIC_ACQUIRE)) /* another CPU was first */
		syscall(SYS_HALT, 0, 0, 0, NULL);
	console_gap = NULL; /* the clock may be what failed */
	print("FAIL %s: ", machine.program ? machine.program : "boot");
	va_start(args, fmt);
	print_list(fmt, args);
	va_end(args);
	print("\n");
	machine_end(false);
}
