/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What runs in a guest of the pair while it moves, and knows afterwards whether anything was lost,
 *changed or doubled.
 *
 *	witness run DISK PORT TTY	work until told to stop; one process a job
 *	witness stop			have the jobs end, after a look at all of the disk
 *	witness show			the counters, as "name=value" in one line
 *
 * Jobs: blocks of the disk, numbered and filled by their number, written and read at random past
 *the page cache, two processes that have a half each; numbered messages over TCP, in both
 *directions; numbered lines on a terminal.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNTERS   "/witness.counters" /* of the initramfs: shared by the jobs and by show */
#define BLOCK	   4096
#define RUN_MAX	   8 /* blocks a request */
#define SYNC_EVERY 8 /* writes between two fsyncs */
#define DISK_MS	   4
#define MESSAGE	   256 /* bytes */
#define MESSAGE_MS 20
#define LINE_MS	   100
#define LAST	   (1ULL << 63) /* of a message's number: the sender is done */

/* Each has one writer, so that they need no lock. */
struct counters {
	volatile uint64_t writes[2], reads[2], syncs[2], blocks[2];
	volatile uint64_t received, sent, lines;
	volatile uint64_t errors[6]; /* by job: disk, disk, receiver, sender, lines, parent */
	volatile uint64_t stop, done;
};

enum job { DISK0, DISK1, RECEIVER, SENDER, LINES, PARENT };

static struct counters *counters_map(bool create)
{
	int fd = open(COUNTERS, O_RDWR | (create ? O_CREAT | O_TRUNC : 0), 0600);
	void *map;

	if (fd < 0 || (create && ftruncate(fd, sizeof(struct counters)) < 0))
		return NULL;
	map = mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return map == MAP_FAILED ? NULL : map;
}

/* Goes where the kernel's log is looked at, too; the job goes on. */
__attribute__((format(printf, 3, 4))) static void wrong(struct counters *c, enum job job,
							const char *format, ...)
{
	char text[200];
	FILE *kmsg = fopen("/dev/kmsg", "w");
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	c->errors[job]++;
	if (kmsg) {
		fprintf(kmsg, "<3>witness: error: %s\n", text);
		fclose(kmsg);
	}
}

static void pause_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* xorshift64*, Vigna 2014: cheap, and each number starts a sequence of its own. */
static uint64_t next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545F4914F6CDD1DULL;
}

/* Words of @buffer: where it belongs, its number, and what follows from both; all zero for number
 * 0. */
static void fill(uint64_t *buffer, size_t size, uint64_t place, uint64_t number)
{
	uint64_t state = (place << 40 ^ number) * 2 + 1;

	if (number == 0) {
		memset(buffer, 0, size);
		return;
	}
	buffer[0] = htobe64(place);
	buffer[1] = htobe64(number);
	for (size_t i = 2; i < size / 8; i++)
		buffer[i] = next(&state);
}

/* --- the disk ----------------------------------------------------------------------------- */

struct disk {
	struct counters *c;
	int job, fd;
	uint64_t first, blocks, number, random;
	uint64_t *expected; /* the number of each block, as it was written last */
	uint64_t *buffer, *wanted;
};

static void disk_write(struct disk *d, uint64_t at, unsigned int n)
{
	ssize_t size = (ssize_t)n * BLOCK;

	for (unsigned int i = 0; i < n; i++) {
		d->expected[at + i] = ++d->number;
		fill(d->buffer + i * (BLOCK / 8), BLOCK, d->first + at + i, d->number);
	}
	if (pwrite(d->fd, d->buffer, size, (off_t)(d->first + at) * BLOCK) != size)
		wrong(d->c, d->job, "write of %u blocks at %lu: %s", n, d->first + at,
		      strerror(errno));
	if (++d->c->writes[d->job] % SYNC_EVERY)
		return;
	if (fsync(d->fd) < 0)
		wrong(d->c, d->job, "fsync: %s", strerror(errno));
	d->c->syncs[d->job]++;
}

static void disk_check(struct disk *d, uint64_t at, unsigned int n)
{
	ssize_t size = (ssize_t)n * BLOCK;

	memset(d->buffer, 0xa5, size);
	if (pread(d->fd, d->buffer, size, (off_t)(d->first + at) * BLOCK) != size) {
		wrong(d->c, d->job, "read of %u blocks at %lu: %s", n, d->first + at,
		      strerror(errno));
		return;
	}
	for (unsigned int i = 0; i < n; i++) {
		uint64_t *block = d->buffer + i * (BLOCK / 8), number = d->expected[at + i];

		fill(d->wanted, BLOCK, d->first + at + i, number);
		if (memcmp(block, d->wanted, BLOCK))
			wrong(d->c, d->job,
			      "block %lu has place %lu, number %lu; expected number %lu",
			      d->first + at + i, be64toh(block[0]), be64toh(block[1]), number);
	}
	d->c->reads[d->job]++;
}

static void disk_job(struct counters *c, const char *path, int half)
{
	struct disk d = { .c = c, .job = half, .random = 88172645463325252ULL + half };
	off_t size;

	d.fd = open(path, O_RDWR | O_DIRECT);
	size = lseek(d.fd, 0, SEEK_END);
	if (d.fd < 0 || size < 2 * RUN_MAX * BLOCK) {
		wrong(c, half, "%s: %s", path, strerror(errno));
		return;
	}
	d.blocks = (uint64_t)size / BLOCK / 2;
	d.first = d.blocks * half;
	d.expected = calloc(d.blocks, sizeof(uint64_t));
	d.buffer = aligned_alloc(BLOCK, RUN_MAX * BLOCK);
	d.wanted = aligned_alloc(BLOCK, BLOCK);
	if (!d.expected || !d.buffer || !d.wanted) {
		wrong(c, half, "no memory");
		return;
	}
	while (!c->stop) {
		unsigned int n = 1 + next(&d.random) % RUN_MAX;
		uint64_t at = next(&d.random) % (d.blocks - n + 1);

		if (next(&d.random) % 2)
			disk_write(&d, at, n);
		else
			disk_check(&d, at, n);
		pause_ms(DISK_MS);
	}
	for (uint64_t at = 0; at + RUN_MAX <= d.blocks; at += RUN_MAX) {
		disk_check(&d, at, RUN_MAX);
		c->blocks[half] += RUN_MAX;
	}
}

/* --- TCP ---------------------------------------------------------------------------------- */

static void receive_job(struct counters *c, int fd)
{
	uint64_t message[MESSAGE / 8], wanted[MESSAGE / 8];
	ssize_t n;

	while ((n = recv(fd, message, MESSAGE, MSG_WAITALL)) == MESSAGE) {
		fill(wanted, MESSAGE, 1, c->received + 1);
		if (memcmp(message, wanted, MESSAGE)) {
			wrong(c, RECEIVER, "message %lu came instead of %lu", be64toh(message[1]),
			      c->received + 1);
			return;
		}
		c->received++;
	}
	if (n)
		wrong(c, RECEIVER, "the stream ended with %zd bytes: %s", n,
		      n < 0 ? strerror(errno) : "");
}

static void send_job(struct counters *c, int fd)
{
	uint64_t message[MESSAGE / 8], last = 0;

	while (!last) {
		pause_ms(MESSAGE_MS);
		last = c->stop ? LAST : 0;
		fill(message, MESSAGE, 2, last | (c->sent + 1));
		if (send(fd, message, MESSAGE, MSG_NOSIGNAL) != MESSAGE) {
			wrong(c, SENDER, "send: %s", strerror(errno));
			return;
		}
		c->sent++;
	}
	shutdown(fd, SHUT_WR);
}

/* One client, for good. */
static int accept_client(int port)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, fd, listener = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&name, sizeof(name)) < 0 || listen(listener, 1) < 0)
		return -1;
	fd = accept(listener, NULL, NULL);
	close(listener);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void tcp_job(struct counters *c, int port)
{
	int fd = accept_client(port);

	if (fd < 0) {
		wrong(c, PARENT, "port %d: %s", port, strerror(errno));
		return;
	}
	if (fork() == 0) {
		send_job(c, fd);
		_exit(0);
	}
	receive_job(c, fd);
	wait(NULL);
}

/* --- lines -------------------------------------------------------------------------------- */

/* Each line is one write, which others on the terminal do not come between; "<number:what follows
 * from it>". */
static void line_job(struct counters *c, const char *path)
{
	int fd = open(path, O_WRONLY | O_NOCTTY);

	while (!c->stop) {
		uint64_t number = c->lines + 1, state = number * 2 + 1;
		char line[40];
		int n = snprintf(line, sizeof(line), "<%lu:%08x>\n", number,
				 (uint32_t)(next(&state) >> 32));

		if (write(fd, line, n) != n)
			wrong(c, LINES, "%s: %s", path, strerror(errno));
		c->lines = number;
		pause_ms(LINE_MS);
	}
}

/* --- commands ----------------------------------------------------------------------------- */

static int run(const char *disk, int port, const char *tty)
{
	struct counters *c = counters_map(true);

	if (!c)
		return 1;
	for (int job = 0; job < 4; job++) {
		if (fork())
			continue;
		if (job < 2)
			disk_job(c, disk, job);
		else if (job == 2)
			tcp_job(c, port);
		else
			line_job(c, tty);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	c->done = 1;
	return 0;
}

static int show(struct counters *c)
{
	uint64_t errors = 0;

	for (int i = 0; i < 6; i++)
		errors += c->errors[i];
	printf("writes=%lu reads=%lu syncs=%lu blocks=%lu received=%lu sent=%lu lines=%lu "
	       "errors=%lu done=%lu\n",
	       c->writes[0] + c->writes[1], c->reads[0] + c->reads[1], c->syncs[0] + c->syncs[1],
	       c->blocks[0] + c->blocks[1], c->received, c->sent, c->lines, errors, c->done);
	return 0;
}

int main(int argc, char **argv)
{
	struct counters *c;

	if (argc == 5 && !strcmp(argv[1], "run"))
		return run(argv[2], atoi(argv[3]), argv[4]);
	c = argc == 2 ? counters_map(false) : NULL;
	if (c && !strcmp(argv[1], "show"))
		return show(c);
	if (c && !strcmp(argv[1], "stop")) {
		c->stop = 1;
		return 0;
	}
	fprintf(stderr, "usage: witness run DISK PORT TTY | stop | show\n");
	return 2;
}
