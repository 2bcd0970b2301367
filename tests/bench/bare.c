/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the kernel alone needs, for comparison.
 *
 *	bare receive BYTES RAM RECORD N		prints the port it listens at, then its costs
 *	bare send PORT BYTES RAM RECORD N		sends, and prints its costs
 *	bare touch RAM				writes so much memory and ends
 *	bare copy BYTES N			copies so many bytes in memory, by N threads
 *	bare start COMMAND…			prints the ns from exec to the first byte COMMAND
 *says
 *
 * The pair moves BYTES over N TCP connections, a thread each, as a migration does that has nothing
 *to think about: the sender's memory of RAM bytes is full and goes out by one sendmsg for each
 *RECORD bytes; the receiver's is untouched, and one recvmsg reads as much directly into it. Socket
 *options and buffer sizes are those of migration/channel-socket.c. Costs are printed as "ns=…
 *cpu_ns=… syscalls=…".
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ULL
#define LINES_MAX 64

struct costs {
	uint64_t ns, cpu_ns, syscalls;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

static void costs_begin(struct costs *c)
{
	c->ns = clock_ns(CLOCK_MONOTONIC);
	c->cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	c->syscalls = 0;
}

static void costs_print(const struct costs *c)
{
	printf("ns=%ju cpu_ns=%ju syscalls=%ju\n", (uintmax_t)(clock_ns(CLOCK_MONOTONIC) - c->ns),
	       (uintmax_t)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - c->cpu_ns), (uintmax_t)c->syscalls);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	if (!*text || *end)
		errx(2, "%s: a number is expected", text);
	return n;
}

static unsigned int lines_of(const char *text)
{
	uint64_t n = number(text);

	if (n < 1 || n > LINES_MAX)
		errx(2, "%s: 1 to %d connections", text, LINES_MAX);
	return (unsigned int)n;
}

/* Memory like a guest's: anonymous, private, huge pages wanted. */
static uint8_t *make_ram(uint64_t size)
{
	void *ram = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (ram == MAP_FAILED)
		err(1, "mmap");
	madvise(ram, size, MADV_HUGEPAGE);
	return ram;
}

static int make_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "socket");
	return fd;
}

static void no_delay(int fd)
{
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
}

/* A piece of @ram for the bytes from @done on; they go round in it. */
static struct iovec piece(uint8_t *ram, uint64_t size, uint64_t done, uint64_t len)
{
	uint64_t at = done % size;

	return (struct iovec){ ram + at, MIN(len, size - at) };
}

/* One of the connections, which moves its share of the bytes from or to its share of the memory. */
struct line {
	pthread_t thread;
	int fd;
	bool sends;
	uint8_t *ram;
	uint64_t bytes, size, record, syscalls;
};

static void *move(void *opaque)
{
	struct line *l = opaque;

	for (uint64_t done = 0; done < l->bytes; l->syscalls++) {
		struct iovec iov = piece(l->ram, l->size, done, MIN(l->record, l->bytes - done));
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n = l->sends ? sendmsg(l->fd, &msg, MSG_NOSIGNAL)
				     : recvmsg(l->fd, &msg, MSG_WAITALL);

		if (n <= 0)
			err(1, l->sends ? "sendmsg" : "recvmsg");
		done += (uint64_t)n;
	}
	return NULL;
}

/* All of @bytes over @n connections, a thread each, with memory @ram of @size; adds the calls. */
static void move_all(struct line *lines, unsigned int n, uint8_t *ram, uint64_t bytes,
		     uint64_t size, uint64_t record, struct costs *costs)
{
	for (unsigned int i = 0; i < n; i++) {
		struct line *l = &lines[i];

		l->bytes = bytes / n + (i ? 0 : bytes % n);
		l->size = size / n;
		l->ram = ram + i * l->size;
		l->record = record;
		if (pthread_create(&l->thread, NULL, move, l) != 0)
			errx(1, "no thread");
	}
	for (unsigned int i = 0; i < n; i++) {
		pthread_join(lines[i].thread, NULL);
		costs->syscalls += lines[i].syscalls;
	}
}

static void receive(uint64_t bytes, uint64_t size, uint64_t record, unsigned int n)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	uint8_t *ram = make_ram(size);
	struct line lines[LINES_MAX] = { 0 };
	int listener = make_socket();
	struct costs costs;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, LINES_MAX) < 0 ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
		err(1, "listen");
	printf("port=%u\n", ntohs(addr.sin_port));
	fflush(stdout);
	for (unsigned int i = 0; i < n; i++) {
		lines[i].fd = accept(listener, NULL, NULL);
		if (lines[i].fd < 0)
			err(1, "accept");
		no_delay(lines[i].fd);
	}
	costs_begin(&costs);
	move_all(lines, n, ram, bytes, size, record, &costs);
	if (write(lines[0].fd, "", 1) != 1)
		err(1, "write");
	costs_print(&costs);
}

static void send_all(uint16_t port, uint64_t bytes, uint64_t size, uint64_t record, unsigned int n)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct line lines[LINES_MAX] = { 0 };
	uint8_t *ram = make_ram(size);
	struct costs costs;
	char ack;

	memset(ram, 0x5a, size);
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	costs_begin(&costs);
	for (unsigned int i = 0; i < n; i++) {
		lines[i].fd = make_socket();
		lines[i].sends = true;
		if (connect(lines[i].fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
			err(1, "connect");
		no_delay(lines[i].fd);
	}
	move_all(lines, n, ram, bytes, size, record, &costs);
	if (read(lines[0].fd, &ack, 1) != 1)
		err(1, "read");
	costs_print(&costs);
}

/* Memory to memory, far beyond what caches hold: what no migration on this host can exceed. */
#define COPY_RAM (256UL << 20)

static void *copy(void *opaque)
{
	struct line *l = opaque;

	for (uint64_t done = 0; done < l->bytes; done += l->size / 2)
		memcpy(l->ram + l->size / 2, l->ram, l->size / 2);
	return NULL;
}

static void copy_all(uint64_t bytes, unsigned int n)
{
	struct line lines[LINES_MAX] = { 0 };
	uint8_t *ram = make_ram(COPY_RAM);
	struct costs costs;

	memset(ram, 0x5a, COPY_RAM);
	costs_begin(&costs);
	for (unsigned int i = 0; i < n; i++) {
		lines[i] = (struct line){ .ram = ram + i * (COPY_RAM / n),
					  .size = COPY_RAM / n,
					  .bytes = bytes / n };
		if (pthread_create(&lines[i].thread, NULL, copy, &lines[i]) != 0)
			errx(1, "no thread");
	}
	for (unsigned int i = 0; i < n; i++)
		pthread_join(lines[i].thread, NULL);
	costs_print(&costs);
}

static void start(char **command)
{
	int out[2];
	char byte;
	pid_t pid;
	uint64_t began;

	if (pipe(out) < 0)
		err(1, "pipe");
	began = clock_ns(CLOCK_MONOTONIC);
	pid = vfork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execvp(command[0], command);
		_exit(127);
	}
	close(out[1]);
	if (pid < 0 || read(out[0], &byte, 1) != 1)
		errx(1, "%s said nothing", command[0]);
	printf("ns=%ju\n", (uintmax_t)(clock_ns(CLOCK_MONOTONIC) - began));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "receive"))
		receive(number(argv[2]), number(argv[3]), number(argv[4]), lines_of(argv[5]));
	else if (argc == 7 && !strcmp(argv[1], "send"))
		send_all((uint16_t)number(argv[2]), number(argv[3]), number(argv[4]),
			 number(argv[5]), lines_of(argv[6]));
	else if (argc == 3 && !strcmp(argv[1], "touch"))
		memset(make_ram(number(argv[2])), 1, number(argv[2]));
	else if (argc == 4 && !strcmp(argv[1], "copy"))
		copy_all(number(argv[2]), lines_of(argv[3]));
	else if (argc >= 3 && !strcmp(argv[1], "start"))
		start(argv + 2);
	else
		errx(2, "see the top of bare.c");
	return 0;
}
