/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stream, by the seven steps of the 2013 series it comes from. What threads, signals and tiny
 * buffers do to it is in test_stream_io.c.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/stream.h"
#include "tests/unit/memchannel.h"

static struct stream stream;
static struct mem_channel mem;

static void start(bool vector)
{
	mem_init(&mem, vector);
	stream_init(&stream, &mem.base);
}

static struct stream_stats tx(void)
{
	struct stream_stats s;

	stream_stats(&stream, &s, NULL);
	return s;
}

static struct stream_stats rx(void)
{
	struct stream_stats s;

	stream_stats(&stream, NULL, &s);
	return s;
}

/* ---- 1 channel ops with writev_buffer ---- */

static int test_connect(const char *uri, const char *rest, const struct channel_wait *wait,
			struct channel **ch, struct error *err)
{
	(void)uri, (void)rest, (void)wait, (void)err;
	*ch = &mem.base;
	return 0;
}

/* All that a new channel needs: this file, and no list. */
static const struct channel_type test_type = {
	.scheme = "test",
	.form = "test:",
	.connect = test_connect,
};
CHANNEL_TYPE(test_type);

static void step1_type_registers_itself(void **state)
{
	struct error err = { 0 };
	struct channel *ch;
	char forms[160];

	(void)state;
	start(true);
	assert_int_equal(channel_connect("test:", 0, -1, &ch, &err), 0);
	assert_ptr_equal(ch, &mem.base);
	assert_non_null(ch->ops->writev_buffer);
	assert_non_null(strstr(channel_forms(forms, sizeof(forms)), "test:"));
	assert_int_equal(channel_close(ch), 0);
}

static void step1_vector_ops_are_optional(void **state)
{
	char got[4];

	(void)state;
	start(false);
	assert_null(mem.base.ops->writev_buffer);
	assert_null(mem.base.ops->readv_buffer);
	channel_shutdown(&mem.base); /* without the operation: nothing */
	channel_set_timeout(&mem.base, 1);
	stream_put_buffer(&stream, "abcd", 4);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(stream_get_buffer(&stream, got, 4), 0);
	assert_memory_equal(got, "abcd", 4);
	channel_close(&mem.base);
}

/* ---- 2 the socket's writev_buffer over sendmsg ---- */

static void socket_pair(struct channel **ch, int *other)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(channel_from_fd(fds[0], "pair", false, ch), 0);
	*other = fds[1];
}

static void step2_one_sendmsg_for_all_iovecs(void **state)
{
	char a[] = "one ", b[] = "two ", c[] = "three", got[16] = "";
	struct iovec iov[3] = { { a, 4 }, { b, 4 }, { c, 5 } };
	struct channel *ch;
	int other;

	(void)state;
	socket_pair(&ch, &other);
	assert_int_equal(ch->ops->writev_buffer(ch, iov, 3), 13);
	assert_int_equal(ch->writes, 1);
	assert_int_equal(read(other, got, sizeof(got)), 13);
	assert_string_equal(got, "one two three");
	close(other);
	assert_int_equal(channel_close(ch), 0);
}

static void step2_no_signal_when_the_peer_is_gone(void **state)
{
	struct iovec iov = { (char[]){ "x" }, 1 };
	struct channel *ch;
	int other;

	(void)state;
	signal(SIGPIPE, SIG_DFL);
	socket_pair(&ch, &other);
	close(other);
	assert_int_equal(ch->ops->writev_buffer(ch, &iov, 1), -EPIPE);
	channel_close(ch);
}

/* ---- 3 bytes_xfer counted in put_byte ---- */

static void step3_every_byte_counts(void **state)
{
	(void)state;
	start(true);
	stream_put_byte(&stream, 1);
	assert_int_equal(tx().bytes_xfer, 1);
	stream_put_be16(&stream, 2);
	stream_put_be32(&stream, 3);
	stream_put_be64(&stream, 4);
	stream_put_buffer(&stream, "abc", 3);
	stream_put_buffer_async(&stream, "defg", 4);
	assert_int_equal(tx().bytes_xfer, 1 + 2 + 4 + 8 + 3 + 4);
	assert_int_equal(tx().bytes_referenced, 4);
	assert_int_equal(tx().bytes_copied, 18);
	assert_int_equal(stream_put_position(&stream), 22);
	assert_int_equal(stream_flush(&stream), 0);
	assert_memory_equal(mem.data, "\1\0\2\0\0\0\3\0\0\0\0\0\0\0\4abcdefg", 22);
	channel_close(&mem.base);
}

static void step3_received_bytes_count_too(void **state)
{
	uint8_t byte;
	uint16_t two;
	uint32_t four;
	uint64_t eight;
	char buf[4];

	(void)state;
	start(true);
	stream_put_byte(&stream, 200);
	stream_put_be16(&stream, 0x0102);
	stream_put_be32(&stream, 0x01020304);
	stream_put_be64(&stream, 0x0102030405060708);
	stream_put_buffer(&stream, "data", 4);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(stream_get_byte(&stream, &byte), 0);
	assert_int_equal(rx().bytes_xfer, 1);
	assert_int_equal(stream_get_be16(&stream, &two), 0);
	assert_int_equal(stream_get_be32(&stream, &four), 0);
	assert_int_equal(stream_get_be64(&stream, &eight), 0);
	assert_int_equal(byte, 200);
	assert_int_equal(two, 0x0102);
	assert_int_equal(four, 0x01020304);
	assert_int_equal(eight, 0x0102030405060708);
	assert_int_equal(stream_readv(&stream, &(struct iovec){ buf, 4 }, 1), 0);
	assert_int_equal(rx().bytes_xfer, 19);
	assert_int_equal(stream_get_position(&stream), 19);
	channel_close(&mem.base);
}

/* ---- 4 everything queued also as iovecs, adjacent ones coalesced ---- */

static void step4_single_byte_is_an_iovec(void **state)
{
	(void)state;
	start(true);
	stream_put_byte(&stream, 7);
	assert_int_equal(stream.tx.iovcnt, 1);
	assert_int_equal(stream.tx.iov[0].iov_len, 1);
	assert_int_equal(*(uint8_t *)stream.tx.iov[0].iov_base, 7);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(mem.last_n, 1);
	channel_close(&mem.base);
}

static void step4_neighbours_become_one(void **state)
{
	(void)state;
	start(true);
	for (int i = 0; i < 100; i++)
		stream_put_byte(&stream, (uint8_t)i);
	stream_put_be32(&stream, 5);
	stream_put_buffer(&stream, "hello", 5);
	assert_int_equal(stream.tx.iovcnt, 1);
	assert_int_equal(stream.tx.iov[0].iov_len, 109);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(tx().iovecs_queued, 102);
	assert_int_equal(tx().iovecs_sent, 1);
	assert_int_equal(tx().flushes, 1);
	channel_close(&mem.base);
}

static void step4_neighbouring_memory_becomes_one(void **state)
{
	char text[] = "abcdefgh", other[] = "XY";

	(void)state;
	start(true);
	stream_put_buffer_async(&stream, text, 3);
	stream_put_buffer_async(&stream, text + 3, 3);
	stream_put_buffer_async(&stream, other, 2); /* elsewhere */
	stream_put_buffer_async(&stream, text + 6, 2);
	stream_put_byte(&stream, '!');
	stream_put_buffer_async(&stream, text, 1);
	stream_put_byte(&stream, '?'); /* next to '!' in the batch, but not in the queue */
	assert_int_equal(stream.tx.iovcnt, 6);
	assert_int_equal(stream.tx.iov[0].iov_len, 6);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(mem.len, 13);
	assert_memory_equal(mem.data, "abcdefXYgh!a?", 13);
	channel_close(&mem.base);
}

static void step4_nothing_queues_nothing(void **state)
{
	(void)state;
	start(true);
	stream_put_buffer(&stream, "", 0);
	stream_put_buffer_async(&stream, "", 0);
	assert_int_equal(stream.tx.iovcnt, 0);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(mem.vector_calls, 0);
	channel_close(&mem.base);
}

/* ---- 5 writev_buffer where present, put_buffer where not ---- */

static void step5_with_and_without_writev(void **state)
{
	char a[] = "left", b[] = "right";

	(void)state;
	for (int vector = 0; vector < 2; vector++) {
		start(vector);
		stream_put_be16(&stream, 0x4142);
		stream_put_buffer_async(&stream, a, 4);
		stream_put_buffer_async(&stream, b, 5);
		assert_int_equal(stream_flush(&stream), 0);
		assert_int_equal(mem.vector_calls, vector ? 1 : 0);
		assert_int_equal(mem.put_calls, vector ? 0 : 3);
		assert_int_equal(mem.len, 11);
		assert_memory_equal(mem.data, "ABleftright", 11);
		channel_close(&mem.base);
	}
}

static void step5_with_and_without_readv(void **state)
{
	char a[3], b[8];
	struct iovec iov[2] = { { a, 3 }, { b, 8 } };

	(void)state;
	for (int vector = 0; vector < 2; vector++) {
		start(vector);
		stream_put_buffer(&stream, "abcdefghijk", 11);
		assert_int_equal(stream_flush(&stream), 0);
		mem.step = 2;
		assert_int_equal(stream_readv(&stream, iov, 2), 0);
		assert_memory_equal(a, "abc", 3);
		assert_memory_equal(b, "defghijk", 8);
		assert_int_equal(rx().bytes_copied, 0);
		channel_close(&mem.base);
	}
}

static void step5_first_failure_is_kept(void **state)
{
	struct error err = { 0 };

	(void)state;
	for (int vector = 0; vector < 2; vector++) {
		start(vector);
		mem.fail = -ECONNRESET;
		stream_put_byte(&stream, 1);
		assert_int_equal(stream_error(&stream), 0);
		assert_int_equal(stream_flush(&stream), -ECONNRESET);
		mem.fail = 0;
		stream_put_byte(&stream, 1);
		stream_put_buffer_async(&stream, "abc", 3);
		assert_int_equal(tx().bytes_xfer, 1);
		assert_int_equal(stream_flush(&stream), -ECONNRESET);
		assert_int_equal(stream_error(&stream), -ECONNRESET);
		assert_int_equal(mem.len, 0);
		error_clear(&err);
		assert_int_equal(stream_check(&stream, &err), -ECONNRESET);
		assert_string_equal(err.phase, "stream");
		assert_string_equal(err.device, "mem:");
		assert_string_equal(err.field, "sending");
		channel_close(&mem.base);
	}
}

/* ---- 6 stream_put_buffer_async refers and never copies ---- */

static void step6_async_refers(void **state)
{
	char referred[] = "before", copied[] = "before";

	(void)state;
	start(true);
	stream_put_buffer_async(&stream, referred, 6);
	stream_put_buffer(&stream, copied, 6);
	memcpy(referred, "after!", 6);
	memcpy(copied, "after!", 6);
	assert_int_equal(stream_flush(&stream), 0);
	assert_ptr_equal(mem.first, referred);
	assert_memory_equal(mem.data, "after!before", 12);
	assert_int_equal(tx().bytes_referenced, 6);
	assert_int_equal(tx().bytes_copied, 6);
	channel_close(&mem.base);
}

static void step6_copy_all_copies(void **state)
{
	char text[] = "before";

	(void)state;
	start(true);
	stream_set_copy_all(&stream, true);
	stream_put_buffer_async(&stream, text, 6);
	memcpy(text, "after!", 6);
	assert_int_equal(stream_flush(&stream), 0);
	assert_memory_equal(mem.data, "before", 6);
	assert_int_equal(tx().bytes_referenced, 0);
	channel_close(&mem.base);
}

static void step6_memory_is_free_after_an_automatic_flush(void **state)
{
	char a[] = "a", b[] = "b";

	(void)state;
	start(true);
	assert_int_equal(stream_set_iov_max(&stream, 1), 0);
	stream_put_buffer_async(&stream, a, 1);
	assert_int_equal(mem.len, 0);
	stream_put_buffer_async(&stream, b, 1); /* no room: the first one goes now */
	assert_int_equal(mem.len, 1);
	*a = 'x';
	assert_int_equal(stream_flush(&stream), 0);
	assert_memory_equal(mem.data, "ab", 2);
	channel_close(&mem.base);
}

/* ---- 7 guest pages go that way ---- */

#define GUEST	   (16u << 20)
#define PAGE	   4096u
#define EVERY	   3 /* one page in three stays behind, so that runs are not all one */
#define RUNS	   (GUEST / PAGE / EVERY)
#define RUN_LENGTH ((EVERY - 1) * PAGE)

struct guest {
	uint8_t *from, *to;
	struct stream source, destination;
};

/* A header of four bytes, then a batch of runs, as RAM records do it. */
static void *send_guest(void *arg)
{
	struct guest *g = arg;

	for (uint32_t first = 0; first < RUNS; first += 256) {
		uint32_t n = MIN(256, RUNS - first);

		stream_put_be32(&g->source, n);
		for (uint32_t i = first; i < first + n; i++) {
			uint8_t *run = g->from + (size_t)i * EVERY * PAGE;

			for (uint32_t p = 0; p < EVERY - 1; p++)
				stream_put_buffer_async(&g->source, run + p * PAGE, PAGE);
		}
		stream_flush(&g->source);
	}
	return NULL;
}

static void receive_guest(struct guest *g)
{
	struct iovec iov[256];
	uint32_t n;

	for (uint32_t first = 0; first < RUNS; first += n) {
		assert_int_equal(stream_get_be32(&g->destination, &n), 0);
		assert_in_range(n, 1, 256);
		for (uint32_t i = 0; i < n; i++)
			iov[i] = (struct iovec){ g->to + (size_t)(first + i) * EVERY * PAGE,
						 RUN_LENGTH };
		assert_int_equal(stream_readv(&g->destination, iov, n), 0);
	}
}

static void check_guest(struct guest *g)
{
	struct stream_stats s, d;
	const uint64_t pages = (uint64_t)RUNS * RUN_LENGTH;

	for (size_t i = 0; i < GUEST / PAGE / EVERY * EVERY; i++) {
		if (i % EVERY < EVERY - 1)
			assert_memory_equal(g->to + i * PAGE, g->from + i * PAGE, PAGE);
		else
			assert_int_equal(g->to[i * PAGE], 0);
	}
	stream_stats(&g->source, &s, NULL);
	stream_stats(&g->destination, NULL, &d);
	assert_int_equal(s.bytes_referenced, pages);
	assert_int_equal(s.bytes_xfer, d.bytes_xfer);
	assert_true(s.bytes_copied * 1000 < s.bytes_xfer);
	assert_true(d.bytes_copied * 1000 < d.bytes_xfer);
	/* Two neighbouring pages a run are one iovec. */
	assert_int_equal(s.iovecs_queued, s.flushes + RUNS * (EVERY - 1));
	assert_int_equal(s.iovecs_sent, s.flushes + RUNS);
	assert_int_equal(s.syscalls, s.flushes);
	assert_true(s.bytes_xfer / s.syscalls > 1 << 20);
	assert_true(d.bytes_xfer / d.syscalls > 512 << 10);
}

static void step7_guest_pages_by_reference(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));
	struct channel *a, *b;
	pthread_t thread;
	int other;

	(void)state;
	g->from = mmap(NULL, GUEST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g->to = mmap(NULL, GUEST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < GUEST / 8; i++)
		((uint64_t *)(void *)g->from)[i] = i * 0x9e3779b97f4a7c15;
	socket_pair(&a, &other);
	assert_int_equal(channel_from_fd(other, "other", false, &b), 0);
	stream_init(&g->source, a);
	stream_init(&g->destination, b);
	assert_int_equal(pthread_create(&thread, NULL, send_guest, g), 0);
	receive_guest(g);
	pthread_join(thread, NULL);
	assert_int_equal(stream_error(&g->source), 0);
	check_guest(g);
	munmap(g->from, GUEST);
	munmap(g->to, GUEST);
	channel_close(a);
	channel_close(b);
	free(g);
}

/* ---- The future work of the series: the iovec limit is a run-time setting ---- */

static void iov_max_is_a_setting(void **state)
{
	static const int limits[] = { 1, 64, IOV_MAX };
	static char memory[3000];

	(void)state;
	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (char)(i * 7);
	for (size_t l = 0; l < 3; l++) {
		start(true);
		assert_int_equal(stream_set_iov_max(&stream, limits[l]), 0);
		for (size_t i = 0; i < sizeof(memory); i += 2)
			stream_put_buffer_async(&stream, memory + i, 1);
		assert_int_equal(stream_flush(&stream), 0);
		assert_int_equal(mem.len, 1500);
		assert_int_equal(tx().flushes, (1500 + limits[l] - 1) / limits[l]);
		for (size_t i = 0; i < mem.len; i++)
			assert_int_equal(mem.data[i], (uint8_t)(i * 14));
		channel_close(&mem.base);
	}
	assert_int_equal(stream_set_iov_max(&stream, 0), -EINVAL);
	assert_int_equal(stream_set_iov_max(&stream, -1), -EINVAL);
	assert_int_equal(stream_set_iov_max(&stream, IOV_MAX + 1), -EINVAL);
	assert_int_equal(stream.iov_max, IOV_MAX);
}

static void iov_max_holds_for_receiving(void **state)
{
	static char memory[3000], to[6000];
	static struct iovec iov[1500];

	(void)state;
	for (size_t i = 0; i < 1500; i++)
		iov[i] = (struct iovec){ to + i * 4, i % 5 ? 2 : 0 };
	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (char)(i * 3 + i / 100);
	start(true);
	assert_int_equal(stream_set_iov_max(&stream, 64), 0);
	stream_put_buffer(&stream, memory, 2400);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(stream_readv(&stream, iov, 1500), 0);
	assert_int_equal(rx().iovecs_queued, 1200);
	assert_int_equal(rx().flushes, (1200 + 63) / 64);
	for (size_t i = 0, n = 0; i < 1500; i++) {
		if (i % 5)
			assert_memory_equal(to + i * 4, memory + 2 * n++, 2);
	}
	channel_close(&mem.base);
}

static void long_buffers_pass_through_the_batch(void **state)
{
	size_t len = 3 * STREAM_BATCH + 17;
	uint8_t *long_one = malloc(len), *got = malloc(len);

	(void)state;
	for (size_t i = 0; i < len; i++)
		long_one[i] = (uint8_t)(i ^ i >> 8);
	start(true);
	stream_put_byte(&stream, 9);
	stream_put_buffer(&stream, long_one, len);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(mem.len, len + 1);
	assert_memory_equal(mem.data + 1, long_one, len);
	assert_int_equal(stream_get_byte(&stream, got), 0);
	assert_int_equal(stream_get_buffer(&stream, got, len), 0);
	assert_memory_equal(got, long_one, len);
	/* All but what came along with the first byte went straight to its place. */
	assert_int_equal(rx().bytes_copied, STREAM_READ_AHEAD);
	assert_int_equal(mem.longest, STREAM_READ_AHEAD);
	free(long_one);
	free(got);
	channel_close(&mem.base);
}

/* Any mixture of puts, limits, reads and short transfers carries the same bytes. */
static void random_mixture(void **state)
{
	static uint8_t memory[70000], got[70000];
	unsigned int seed = 1;

	(void)state;
	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (uint8_t)rand_r(&seed);
	for (int round = 0; round < 300; round++) {
		start(round & 1);
		stream_set_iov_max(&stream, 1 + rand_r(&seed) % 5);
		stream_set_copy_all(&stream, round % 7 == 0);
		for (size_t at = 0; at < sizeof(memory);) {
			size_t some = (size_t)rand_r(&seed) % 9000,
			       n = MIN(sizeof(memory) - at, some);

			if (rand_r(&seed) & 1)
				stream_put_buffer(&stream, memory + at, n);
			else
				stream_put_buffer_async(&stream, memory + at, n);
			at += n;
		}
		assert_int_equal(stream_flush(&stream), 0);
		assert_int_equal(mem.len, sizeof(memory));
		assert_memory_equal(mem.data, memory, sizeof(memory));
		mem.step = (size_t)rand_r(&seed) % 3000;
		for (size_t at = 0; at < sizeof(got);) {
			size_t some = (size_t)rand_r(&seed) % 2000;
			size_t n = MIN(sizeof(got) - at, some), half = n / 2;
			struct iovec iov[2] = { { got + at, half }, { got + at + half, n - half } };

			if (rand_r(&seed) & 1)
				assert_int_equal(stream_get_buffer(&stream, got + at, n), 0);
			else
				assert_int_equal(stream_readv(&stream, iov, 2), 0);
			at += n;
		}
		assert_memory_equal(got, memory, sizeof(memory));
		memset(got, 0, sizeof(got));
		channel_close(&mem.base);
	}
}

static void end_of_stream_says_how_far(void **state)
{
	uint8_t got[16];
	uint64_t wide = 1;

	(void)state;
	start(true);
	stream_put_buffer(&stream, "12345", 5);
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(stream_get_be64(&stream, &wide), -ENODATA);
	assert_int_equal(wide, 0);
	assert_int_equal(stream_get_position(&stream), 5);
	assert_int_equal(stream_get_byte(&stream, got), -ENODATA);
	assert_int_equal(stream_readv(&stream, &(struct iovec){ got, 1 }, 1), -ENODATA);
	assert_int_equal(stream_skip(&stream, 1), -ENODATA);
	channel_close(&mem.base);
}

static void skip_forgets(void **state)
{
	uint8_t byte;

	(void)state;
	start(true);
	for (int i = 0; i < 50000; i++)
		stream_put_byte(&stream, (uint8_t)(i % 251));
	assert_int_equal(stream_flush(&stream), 0);
	assert_int_equal(stream_get_byte(&stream, &byte), 0);
	assert_int_equal(stream_skip(&stream, 0), 0);
	assert_int_equal(stream_skip(&stream, 40000), 0);
	assert_int_equal(stream_get_byte(&stream, &byte), 0);
	assert_int_equal(byte, 40001 % 251);
	channel_close(&mem.base);
}

#define TEST(prefix, f)                        \
	{                                      \
		prefix #f, f, NULL, NULL, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST("channel ops with writev_buffer: ", step1_type_registers_itself),
		TEST("channel ops with writev_buffer: ", step1_vector_ops_are_optional),
		TEST("writev_buffer over sendmsg: ", step2_one_sendmsg_for_all_iovecs),
		TEST("writev_buffer over sendmsg: ", step2_no_signal_when_the_peer_is_gone),
		TEST("bytes_xfer in put_byte: ", step3_every_byte_counts),
		TEST("bytes_xfer in put_byte: ", step3_received_bytes_count_too),
		TEST("everything as iovecs: ", step4_single_byte_is_an_iovec),
		TEST("everything as iovecs: ", step4_neighbours_become_one),
		TEST("everything as iovecs: ", step4_neighbouring_memory_becomes_one),
		TEST("everything as iovecs: ", step4_nothing_queues_nothing),
		TEST("writev_buffer or put_buffer: ", step5_with_and_without_writev),
		TEST("writev_buffer or put_buffer: ", step5_with_and_without_readv),
		TEST("writev_buffer or put_buffer: ", step5_first_failure_is_kept),
		TEST("put_buffer_async refers: ", step6_async_refers),
		TEST("put_buffer_async refers: ", step6_copy_all_copies),
		TEST("put_buffer_async refers: ", step6_memory_is_free_after_an_automatic_flush),
		TEST("guest pages by reference: ", step7_guest_pages_by_reference),
		TEST("iovec limit: ", iov_max_is_a_setting),
		TEST("iovec limit: ", iov_max_holds_for_receiving),
		TEST("", long_buffers_pass_through_the_batch),
		TEST("", random_mixture),
		TEST("", end_of_stream_says_how_far),
		TEST("", skip_forgets),
	};

	return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
