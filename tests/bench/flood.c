/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many frames a second a guest takes: flood ADDRESS BYTES MS
 *
 * Sends UDP datagrams of BYTES in groups, and the last of each group to the echo port. Its answer
 * says that the guest has had the whole group, for a network card keeps the order. Two groups are
 * under way at a time: there is always something to receive, and never more than a tap keeps (1000
 * frames, TUN_READQ_SIZE 500 on older kernels). Prints "frames=… ns=… lost=…"; lost are groups
 * whose answer did not come within a second, which do not count.
 */
#include <arpa/inet.h>
#include <err.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define GROUP	   128 /* frames */
#define UNDER_WAY  2   /* groups */
#define BYTES_MIN  4   /* the number that the guest wants to see grow (guest/net-host.c) */
#define BYTES_MAX  1472
#define PORT_ECHO  7
#define PORT_OTHER 9
#define ANSWER_MS  1000

struct flood {
	int fd;
	struct sockaddr_in to;
	uint8_t data[BYTES_MAX];
	size_t size;
	uint32_t sent, answered; /* groups */
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void send_group(struct flood *f)
{
	uint32_t number = htonl(++f->sent);

	memcpy(f->data, &number, sizeof(number));
	for (unsigned int i = 1; i <= GROUP; i++) {
		f->to.sin_port = htons(i == GROUP ? PORT_ECHO : PORT_OTHER);
		if (sendto(f->fd, f->data, f->size, 0, (struct sockaddr *)&f->to, sizeof(f->to)) <
		    0)
			err(1, "sendto");
	}
}

/* Wait for the next answer: true, or false when none comes. */
static bool answer(struct flood *f)
{
	struct pollfd p = { .fd = f->fd, .events = POLLIN };
	uint32_t number;

	while (poll(&p, 1, ANSWER_MS) > 0) {
		if (recv(f->fd, &number, sizeof(number), 0) != sizeof(number))
			err(1, "recv");
		number = ntohl(number);
		if (number > f->answered && number <= f->sent) {
			f->answered = number; /* and all before it: the order is kept */
			return true;
		}
	}
	return false;
}

int main(int argc, char **argv)
{
	struct flood f = { .to.sin_family = AF_INET };
	uint64_t began, length, groups = 0, lost = 0, ended;

	if (argc != 4 || inet_pton(AF_INET, argv[1], &f.to.sin_addr) != 1)
		errx(2, "usage: flood ADDRESS BYTES MS");
	f.size = strtoul(argv[2], NULL, 10);
	length = strtoull(argv[3], NULL, 10) * 1000000;
	if (f.size < BYTES_MIN || f.size > BYTES_MAX)
		errx(2, "BYTES: %d to %d", BYTES_MIN, BYTES_MAX);
	f.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (f.fd < 0)
		err(1, "socket");
	/* The first answer only says that both know each other's address. */
	send_group(&f);
	if (!answer(&f))
		errx(1, "%s does not answer", argv[1]);
	began = ended = now_ns();
	while (ended - began < length || f.answered < f.sent) {
		while (f.sent - f.answered < UNDER_WAY && ended - began < length)
			send_group(&f);
		uint32_t before = f.answered;
		if (answer(&f)) {
			groups++;
			lost += f.answered - before - 1;
		} else {
			lost += f.sent - f.answered;
			f.answered = f.sent;
		}
		ended = now_ns();
	}
	printf("frames=%ju ns=%ju lost=%ju\n", (uintmax_t)(groups * GROUP),
	       (uintmax_t)(ended - began), (uintmax_t)lost);
	return 0;
}
