/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP echo (RFC 9293) for one client at a time, on the echo port of net-host.c's host.
 *
 * What is echoed has the sequence numbers that it came with, for our first one is the client's. So
 * nothing needs to be kept: when an echo is lost, the client does not learn that what it sent has
 * come and sends it again, and so gets it again. All there is to know is which byte comes next.
 */
#include "kernel/program.h"
#include "net.h"

enum {
	IP = 14, /* offsets in a frame, as in net-host.c */
	IP_LENGTH = 16,
	IP_CSUM = 24,
	IP_FROM = 26,
	IP_TO = 30,
	TCP = 34,
	TCP_TO = 36,
	TCP_SEQ = 38,
	TCP_ACK = 42,
	TCP_OFFSET = 46,
	TCP_FLAGS = 47,
	TCP_WINDOW = 48,
	TCP_CSUM = 50,
	TCP_URGENT = 52,
	TCP_DATA = 54, /* without options */
	FIN = 1,
	SYN = 2,
	RST = 4,
	PSH = 8,
	ACK = 16,
	PROTOCOL_TCP = 6,
	PORT_ECHO = 7,
};

/* The checksum of RFC 1071 over the segment and what it shares with the IP header. */
static uint32_t checksum(const uint8_t *frame, uint32_t segment)
{
	uint32_t sum = PROTOCOL_TCP + segment;

	for (uint32_t i = IP_FROM; i < TCP + segment; i++)
		sum += i & 1 ? frame[i] : (uint32_t)frame[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

/* Answers @frame with flags and @size bytes of its data, which begin at @data. */
static void answer(struct net *n, const uint8_t *frame, uint8_t flags, const uint8_t *data,
		   uint32_t size)
{
	uint32_t seq = net_get32(frame + TCP_SEQ), segment = TCP_DATA - TCP + size;
	uint8_t *p = net_frame(n);

	if (!p)
		return;
	memcpy(p, frame, TCP);
	memcpy(p, frame + 6, 6);
	memcpy(p + 6, n->mac, 6);
	memcpy(p + IP_FROM, frame + IP_TO, 4);
	memcpy(p + IP_TO, frame + IP_FROM, 4);
	net_put16(p + IP_LENGTH, 20 + segment);
	net_put16(p + IP_CSUM, 0);
	net_put16(p + IP_CSUM, net_checksum(p + IP, 20));
	memcpy(p + TCP, frame + TCP_TO, 2);
	memcpy(p + TCP_TO, frame + TCP, 2);
	/* An answer without data comes after all that was echoed, as the client has confirmed or
	 * soon will. */
	net_put32(p + TCP_SEQ, size || flags & (SYN | FIN) ? seq : n->tcp_next);
	net_put32(p + TCP_ACK, n->tcp_next);
	p[TCP_OFFSET] = (TCP_DATA - TCP) / 4 << 4;
	p[TCP_FLAGS] = flags;
	net_put16(p + TCP_WINDOW, 0xffff);
	net_put16(p + TCP_CSUM, 0);
	net_put16(p + TCP_URGENT, 0);
	memcpy(p + TCP_DATA, data, size);
	net_put16(p + TCP_CSUM, checksum(p, segment));
	net_send(n, TCP_DATA + size);
}

void net_on_tcp(struct net *n, const uint8_t *frame, uint32_t size)
{
	if (size < TCP_DATA || net_get16(frame + TCP_TO) != PORT_ECHO)
		return;
	uint32_t total = net_get16(frame + IP_LENGTH), head = (frame[TCP_OFFSET] >> 4) * 4u;
	uint32_t seq = net_get32(frame + TCP_SEQ), port = net_get16(frame + TCP);
	uint8_t flags = frame[TCP_FLAGS];

	if (head < 20 || total < 20 + head || IP + total > size || flags & RST)
		return;
	uint32_t length = total - 20 - head;
	if (flags & SYN) {
		n->tcp_port = port;
		n->tcp_next = seq + 1;
		answer(n, frame, SYN | ACK, frame, 0);
		return;
	}
	if (port != n->tcp_port)
		return;
	/* What is after a gap must come again; so must what the client sent in other pieces before.
	 */
	if ((int32_t)(seq - n->tcp_next) > 0) {
		answer(n, frame, ACK, frame, 0);
		return;
	}
	uint32_t end = seq + length + (flags & FIN);
	if (end == seq)
		return;
	if ((int32_t)(end - n->tcp_next) > 0)
		n->tcp_next = end;
	n->tcp_echo += length > 0;
	answer(n, frame, ACK | (length ? PSH : 0) | (flags & FIN), frame + TCP + head, length);
}
