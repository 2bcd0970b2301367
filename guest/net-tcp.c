/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP echo (RFC 9293) for one client at a time, on the echo port of net-host.c's host.
 *
 * Our first sequence number is the client's, so the echo of a byte has the number of the byte, and
 * the two directions are one row of numbers: una <= sent <= next. What is echoed is kept until it
 * is confirmed and goes again after RESEND_NS or three duplicate acknowledgements, from the first
 * byte on.
 *
 * A host on a LAN needs no more. It has no options (so segments of 536 bytes, no SACK, no scaled
 * windows), keeps nothing that comes after a gap, neither measures round trips nor backs off, has
 * no congestion window, closes only when the client does, probes no shut window, and trusts the
 * checksums that the device has looked at. A new client takes the place of the one before, which
 * hears nothing more.
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
	TCP_DATA = 54, /* without options */
	FIN = 1,
	SYN = 2,
	RST = 4,
	PSH = 8,
	ACK = 16,
	PROTOCOL_TCP = 6,
	PORT_ECHO = 7,
	MSS = 536, /* RFC 9293, 3.7.1: where nobody says another */
	DUPLICATES = 3,
};

#define RESEND_NS (200 * 1000000ul)

/* Is @a before @b? Sequence numbers wrap. */
static bool before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

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

/* Ethernet and IP header of what goes back to where @frame came from. */
static void set_head(struct net *n, const uint8_t *frame)
{
	uint8_t *head = n->tcp.head;

	memcpy(head, frame, TCP);
	memcpy(head, frame + 6, 6);
	memcpy(head + 6, n->mac, 6);
	memcpy(head + IP_FROM, frame + IP_TO, 4);
	memcpy(head + IP_TO, frame + IP_FROM, 4);
}

/* Sends @size bytes from `sent` on. False: no frame is free, so later. */
static bool segment(struct net *n, uint8_t flags, uint32_t size)
{
	struct net_tcp *t = &n->tcp;
	uint8_t *p = net_frame(n);

	if (!p)
		return false;
	memcpy(p, t->head, TCP);
	memset(p + TCP, 0, TCP_DATA - TCP);
	net_put16(p + IP_LENGTH, 20 + TCP_DATA - TCP + size);
	net_put16(p + IP_CSUM, 0);
	net_put16(p + IP_CSUM, net_checksum(p + IP, 20));
	net_put16(p + TCP, PORT_ECHO);
	net_put16(p + TCP_TO, t->port);
	net_put32(p + TCP_SEQ, t->sent);
	net_put32(p + TCP_ACK, t->next);
	p[TCP_OFFSET] = (TCP_DATA - TCP) / 4 << 4;
	p[TCP_FLAGS] = flags;
	net_put16(p + TCP_WINDOW, NET_TCP_BYTES - (t->next - t->una));
	for (uint32_t i = 0; i < size; i++)
		p[TCP_DATA + i] = t->data[(t->sent + i) % NET_TCP_BYTES];
	net_put16(p + TCP_CSUM, checksum(p, TCP_DATA - TCP + size));
	net_send(n, TCP_DATA + size);
	t->owed = false;
	return true;
}

/* Sends what may be sent: SYN and FIN have a number each, as if they were bytes. */
static void output(struct net *n, uint64_t now)
{
	struct net_tcp *t = &n->tcp;
	uint32_t left, size;

	while ((left = t->next - t->sent) && t->sent - t->una < t->window) {
		bool fin = t->closing && left <= MSS + 1;

		size = t->opening ? 0 : left - (t->closing ? 1 : 0);
		if (size > MSS)
			size = MSS;
		if (t->sent == t->una)
			t->due = now + RESEND_NS;
		if (!segment(n, ACK | (t->opening ? SYN : size ? PSH : 0) | (fin ? FIN : 0), size))
			return;
		t->sent += size + t->opening + fin;
	}
	if (t->owed)
		segment(n, ACK, 0);
}

static void send_again(struct net_tcp *t)
{
	t->sent = t->una;
	t->duplicates = 0;
	t->resent++;
}

static void on_ack(struct net_tcp *t, uint32_t ack, bool bare, uint64_t now)
{
	if (before(t->una, ack) && !before(t->next, ack)) {
		/* A window that was shut must be seen to open. */
		t->owed |= t->next - t->una == NET_TCP_BYTES;
		t->una = ack;
		t->opening = false;
		t->duplicates = 0;
		t->due = now + RESEND_NS;
		if (before(t->sent, ack))
			t->sent = ack;
		t->open = !(t->closing && ack == t->next);
	} else if (ack == t->una && bare && t->sent != t->una && ++t->duplicates == DUPLICATES) {
		send_again(t);
	}
}

/* Takes what comes next of @length bytes from @seq on, as much as there is room for. */
static void on_data(struct net_tcp *t, uint32_t seq, const uint8_t *data, uint32_t length, bool fin)
{
	uint32_t known = t->next - seq, room = NET_TCP_BYTES - (t->next - t->una);

	t->owed = true;
	/* After a gap it must come again; before, it has been here. */
	if (t->closing || t->opening || before(t->next, seq) || known > length)
		return;
	data += known;
	length -= known;
	fin = fin && length <= room;
	if (length > room)
		length = room;
	for (uint32_t i = 0; i < length; i++)
		t->data[(t->next + i) % NET_TCP_BYTES] = data[i];
	t->next += length + fin;
	t->closing = fin;
	t->echo += length > 0;
}

static void on_syn(struct net *n, const uint8_t *frame)
{
	struct net_tcp *t = &n->tcp;

	set_head(n, frame);
	t->port = net_get16(frame + TCP);
	t->una = t->sent = net_get32(frame + TCP_SEQ);
	t->next = t->una + 1;
	t->open = t->opening = true;
	t->closing = t->owed = false;
	t->duplicates = 0;
}

void net_on_tcp(struct net *n, const uint8_t *frame, uint32_t size)
{
	struct net_tcp *t = &n->tcp;

	if (size < TCP_DATA || net_get16(frame + TCP_TO) != PORT_ECHO)
		return;
	uint32_t total = net_get16(frame + IP_LENGTH), head = (frame[TCP_OFFSET] >> 4) * 4u;
	uint8_t flags = frame[TCP_FLAGS];
	uint64_t now = clock_ns();

	if (head < 20 || total < 20 + head || IP + total > size)
		return;
	uint32_t length = total - 20 - head;
	if (flags & SYN)
		on_syn(n, frame);
	else if (!t->open || net_get16(frame + TCP) != t->port ||
		 memcmp(frame + IP_FROM, t->head + IP_TO, 4) != 0)
		return;
	t->window = net_get16(frame + TCP_WINDOW);
	if (flags & RST) {
		t->open = false;
		return;
	}
	if (flags & ACK)
		on_ack(t, net_get32(frame + TCP_ACK), !length, now);
	if (t->open && (length || flags & FIN))
		on_data(t, net_get32(frame + TCP_SEQ), frame + TCP + head, length, flags & FIN);
	output(n, now);
}

void net_tcp_step(struct net *n, uint64_t now)
{
	struct net_tcp *t = &n->tcp;

	if (!t->open)
		return;
	if (t->sent != t->una && now >= t->due)
		send_again(t);
	output(n, now);
}
