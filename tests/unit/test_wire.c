/* SPDX-License-Identifier: BSD-2-Clause */
/* The hex dump in migration/README.md is what this build writes, and reads. */
#include <errno.h>
#include <libfdt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memchannel.h"
#include "migration/messages.h"
#include "migration/protocol.h"

#define README "migration/README.md"
#define ROOM   4096

/* A message of one number, as short a tree as there is: in place of machine and state. */
static const void *tree(struct message *m, const char *name, uint64_t value)
{
	message_begin(m);
	message_u64(m, name, value);
	return message_end(m);
}

static void say(struct protocol *p, uint16_t type, const void *fdt)
{
	struct error err = { 0 };

	assert_int_equal(protocol_say(p, type, fdt, &err), 0);
}

static void say_hello(struct protocol *p)
{
	const struct hello hello = {
		.version_min = 1,
		.version_max = 1,
		.machine = "ferry,machine-x86_64",
		.build = "ferry",
		.cpu = "a CPU",
		.boot_id = "a boot",
		.ram_record_max = 256 << 20,
	};
	struct message m;

	message_hello(&m, &hello);
	say(p, RECORD_HELLO, message_end(&m));
}

/* A saved machine in as few bytes as can be: 2 MiB of RAM, all zero. */
static void write_stream(struct protocol *p)
{
	const struct ram_run run = { 0, 512, RAM_ZERO };
	uint8_t wire[RAM_RUN_WIRE];
	struct error err = { 0 };
	struct message m;

	say_hello(p);
	say(p, RECORD_MACHINE, tree(&m, "memory", 2 << 20));
	say(p, RECORD_STOPPED, tree(&m, "run", 1));
	ram_runs_encode(&run, 1, wire);
	assert_int_equal(protocol_send(p, RECORD_RAM, wire, sizeof(wire), 0, false, &err), 0);
	say(p, RECORD_STATE, tree(&m, "version", 1));
	say(p, RECORD_END, NULL);
}

/* The bytes of all lines that look like "    000010  46 52 52 59 …". */
static size_t read_dump(uint8_t *data)
{
	FILE *f = fopen(README, "re");
	char line[256];
	size_t n = 0;

	if (!f)
		fail_msg("%s: %s", README, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		unsigned int offset, byte;
		int at = 0, len;

		if (sscanf(line, "    %6x  %n", &offset, &at) != 1 || at != 12)
			continue;
		assert_int_equal(offset, n);
		while (n < ROOM && sscanf(line + at, "%2x%n", &byte, &len) == 1 && len == 2) {
			data[n++] = (uint8_t)byte;
			at += 3;
		}
	}
	fclose(f);
	return n;
}

static void print_dump(const uint8_t *data, size_t n)
{
	for (size_t i = 0; i < n; i += 16) {
		printf("    %06zx  ", i);
		for (size_t j = i; j < n && j < i + 16; j++)
			printf("%02x ", data[j]);
		printf("\n");
	}
}

static struct protocol *new_protocol(struct mem_channel *ch, enum protocol_side side)
{
	struct protocol *p = malloc(sizeof(*p));

	protocol_init(p, &ch->base, side, PROTOCOL_FILE);
	return p;
}

static void dump_is_true(void **state)
{
	struct protocol *p;
	struct mem_channel ch;
	uint8_t dump[ROOM];
	size_t n = read_dump(dump);

	(void)state;
	mem_init(&ch, true);
	p = new_protocol(&ch, SIDE_SOURCE);
	write_stream(p);
	if (n != ch.len || memcmp(dump, ch.data, n) != 0) {
		print_dump(ch.data, ch.len);
		fail_msg("%s has %zu other bytes", README, n);
	}
	protocol_free(p);
	free(p);
	mem_close(&ch.base);
}

static void dump_is_read(void **state)
{
	static const uint16_t types[] = { RECORD_HELLO, RECORD_MACHINE, RECORD_STOPPED,
					  RECORD_RAM,	RECORD_STATE,	RECORD_END };
	struct error err = { 0 };
	struct mem_channel ch;
	struct protocol *p;
	struct record rec;

	(void)state;
	mem_init(&ch, true);
	ch.data = malloc(ROOM);
	ch.len = read_dump(ch.data);
	p = new_protocol(&ch, SIDE_DESTINATION);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		assert_int_equal(protocol_expect(p, types[i], &rec, &err), 0);
	assert_int_equal(p->state, PROTOCOL_DONE);
	assert_int_equal(ch.pos, ch.len);
	protocol_free(p);
	free(p);
	mem_close(&ch.base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dump_is_true),
		cmocka_unit_test(dump_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
