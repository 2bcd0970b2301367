/* SPDX-License-Identifier: BSD-2-Clause */
/* Every legal move of a migration in one table, and the only way to send or receive a record. */
#include "migration/protocol.h"

#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>

#include "migration/messages.h"

#define BIT(n)	(1U << (n))
#define LAST_MS 1000 /* for last words */
#define SAME	-1
#define LIVE	BIT(PROTOCOL_LIVE)
#define FILE_	BIT(PROTOCOL_FILE)
#define DATA	BIT(PROTOCOL_DATA)
#define PAGES	BIT(PROTOCOL_PAGES)

static const struct {
	const char *name;
	int deadline_ms;
} states[PROTOCOL_STATES] = {
	[PROTOCOL_START] = { "start", 10000 },
	/* Half of what a source waits that has to queue behind a visitor who says nothing. */
	[PROTOCOL_GREETED] = { "greeted", 5000 },
	[PROTOCOL_OFFER] = { "offer", 10000 },
	[PROTOCOL_ANSWER] = { "answer", 30000 },
	[PROTOCOL_RAM] = { "ram", 30000 },
	[PROTOCOL_STOPPED] = { "stopped", 10000 },
	[PROTOCOL_LOADING] = { "loading", 10000 },
	[PROTOCOL_LOADED] = { "loaded", 10000 },
	[PROTOCOL_COMMITTED] = { "committed", 10000 },
	[PROTOCOL_DONE] = { "done", 1000 },
	[PROTOCOL_REFUSED] = { "refused", 1000 },
};

#define BEFORE_COMMIT (BIT(PROTOCOL_COMMITTED) - 1)

/* What may be said, by whom, in which states, and where it leads. Nothing else is legal. */
static const struct {
	unsigned int from; /* states, a bit each */
	unsigned int kind; /* of conversation, a bit each */
	enum protocol_side side;
	uint16_t type;
	int to;
} moves[] = {
	{ BIT(PROTOCOL_START), LIVE, SIDE_DESTINATION, RECORD_HELLO, PROTOCOL_GREETED },
	{ BIT(PROTOCOL_GREETED), LIVE, SIDE_SOURCE, RECORD_HELLO, PROTOCOL_OFFER },
	{ BIT(PROTOCOL_START), FILE_, SIDE_SOURCE, RECORD_HELLO, PROTOCOL_OFFER },
	{ BIT(PROTOCOL_OFFER), LIVE, SIDE_SOURCE, RECORD_DEVICE_FD, SAME },
	{ BIT(PROTOCOL_OFFER), LIVE, SIDE_SOURCE, RECORD_MACHINE, PROTOCOL_ANSWER },
	{ BIT(PROTOCOL_OFFER), FILE_, SIDE_SOURCE, RECORD_MACHINE, PROTOCOL_RAM },
	{ BIT(PROTOCOL_ANSWER), LIVE, SIDE_DESTINATION, RECORD_ACCEPT, PROTOCOL_RAM },
	{ BIT(PROTOCOL_ANSWER), LIVE, SIDE_DESTINATION, RECORD_REJECT, PROTOCOL_REFUSED },
	{ BIT(PROTOCOL_RAM) | BIT(PROTOCOL_STOPPED), LIVE | FILE_, SIDE_SOURCE, RECORD_RAM, SAME },
	{ BIT(PROTOCOL_RAM) | BIT(PROTOCOL_STOPPED), LIVE, SIDE_SOURCE, RECORD_RAM_ZSTD, SAME },
	{ BIT(PROTOCOL_RAM) | BIT(PROTOCOL_STOPPED), LIVE, SIDE_SOURCE, RECORD_BLOCK, SAME },
	{ BIT(PROTOCOL_RAM), LIVE, SIDE_SOURCE, RECORD_RAM_FD, SAME },
	{ BIT(PROTOCOL_RAM) | BIT(PROTOCOL_STOPPED), LIVE, SIDE_SOURCE, RECORD_ROUND, SAME },
	{ BIT(PROTOCOL_STOPPED), FILE_, SIDE_SOURCE, RECORD_RAM_MAP, SAME },
	{ BIT(PROTOCOL_RAM), LIVE | FILE_, SIDE_SOURCE, RECORD_PROGRESS, SAME },
	{ BIT(PROTOCOL_RAM), LIVE | FILE_, SIDE_SOURCE, RECORD_STOPPED, PROTOCOL_STOPPED },
	{ BIT(PROTOCOL_STOPPED), LIVE | FILE_, SIDE_SOURCE, RECORD_STATE, PROTOCOL_LOADING },
	{ BIT(PROTOCOL_LOADING), FILE_, SIDE_SOURCE, RECORD_END, PROTOCOL_DONE },
	{ BIT(PROTOCOL_LOADING), LIVE, SIDE_DESTINATION, RECORD_LOADED, PROTOCOL_LOADED },
	{ BIT(PROTOCOL_LOADED), LIVE, SIDE_SOURCE, RECORD_BACKLOG, SAME },
	{ BIT(PROTOCOL_LOADED), LIVE, SIDE_SOURCE, RECORD_COMMIT, PROTOCOL_COMMITTED },
	{ BIT(PROTOCOL_COMMITTED), LIVE, SIDE_DESTINATION, RECORD_RUNNING, PROTOCOL_DONE },
	{ BEFORE_COMMIT, LIVE, SIDE_SOURCE, RECORD_FAILED, PROTOCOL_REFUSED },
	{ BEFORE_COMMIT, LIVE, SIDE_DESTINATION, RECORD_FAILED, PROTOCOL_REFUSED },
	{ BIT(PROTOCOL_START), DATA, SIDE_SOURCE, RECORD_CHANNEL, PROTOCOL_RAM },
	{ BIT(PROTOCOL_RAM), DATA, SIDE_SOURCE, RECORD_RAM, SAME },
	{ BIT(PROTOCOL_RAM), DATA, SIDE_SOURCE, RECORD_RAM_ZSTD, SAME },
	{ BIT(PROTOCOL_RAM), DATA, SIDE_SOURCE, RECORD_ROUND, SAME },
	{ BIT(PROTOCOL_RAM), DATA, SIDE_SOURCE, RECORD_END, PROTOCOL_DONE },
	{ BIT(PROTOCOL_RAM) | BIT(PROTOCOL_STOPPED), LIVE, SIDE_SOURCE, RECORD_MISSING, SAME },
	{ BIT(PROTOCOL_RAM), LIVE, SIDE_SOURCE, RECORD_LISTEN, SAME },
	{ BIT(PROTOCOL_RAM), LIVE, SIDE_DESTINATION, RECORD_READY, SAME },
	{ BIT(PROTOCOL_START), PAGES, SIDE_SOURCE, RECORD_CHANNEL, PROTOCOL_RAM },
	{ BIT(PROTOCOL_RAM), PAGES, SIDE_SOURCE, RECORD_RAM, SAME },
	{ BIT(PROTOCOL_RAM), PAGES, SIDE_DESTINATION, RECORD_REQUEST, SAME },
	{ BIT(PROTOCOL_RAM), PAGES, SIDE_DESTINATION, RECORD_MISSING, SAME },
	{ BIT(PROTOCOL_RAM), PAGES, SIDE_DESTINATION, RECORD_READY, SAME },
	{ BIT(PROTOCOL_RAM), PAGES, SIDE_DESTINATION, RECORD_END, PROTOCOL_DONE },
};

int protocol_next(enum protocol_state state, enum protocol_kind kind, enum protocol_side side,
		  uint16_t type)
{
	for (size_t i = 0; i < sizeof(moves) / sizeof(moves[0]); i++) {
		if ((moves[i].from & BIT(state)) && (moves[i].kind & BIT(kind)) &&
		    moves[i].side == side && moves[i].type == type)
			return moves[i].to == SAME ? (int)state : moves[i].to;
	}
	return -EPROTO;
}

const char *protocol_state_name(enum protocol_state state)
{
	return states[state].name;
}

int protocol_deadline(enum protocol_state state)
{
	return states[state].deadline_ms;
}

int protocol_limit(const struct protocol *p)
{
	return p->deadline_ms ? p->deadline_ms : protocol_deadline(p->state);
}

static void set_state(struct protocol *p, enum protocol_state state)
{
	p->state = state;
	channel_set_timeout(p->channel, protocol_limit(p));
}

void protocol_init(struct protocol *p, struct channel *channel, enum protocol_side side,
		   enum protocol_kind kind)
{
	memset(p, 0, sizeof(*p));
	p->side = side;
	p->kind = kind;
	p->channel = channel;
	stream_init(&p->stream, channel);
	record_writer_init(&p->writer, &p->stream);
	record_reader_init(&p->reader, &p->stream);
	set_state(p, PROTOCOL_START);
}

void protocol_set_deadline(struct protocol *p, int ms)
{
	p->deadline_ms = ms;
	set_state(p, p->state);
}

void protocol_free(struct protocol *p)
{
	record_reader_free(&p->reader);
}

/* "RAM or STOPPED": what @side may say in @state. */
static void legal_names(enum protocol_state state, enum protocol_kind kind, enum protocol_side side,
			char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (uint16_t type = RECORD_HELLO; type <= RECORD_TYPE_MAX && len < size; type++) {
		if (protocol_next(state, kind, side, type) >= 0)
			len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? " or " : "",
						record_name(type));
	}
	if (!buf[0])
		snprintf(buf, size, "nothing");
}

static int move(struct protocol *p, enum protocol_side side, uint16_t type, const char *device,
		struct error *err)
{
	int next = protocol_next(p->state, p->kind, side, type);
	char legal[128];

	if (next < 0) {
		legal_names(p->state, p->kind, side, legal, sizeof(legal));
		return error_set(err, -EPROTO, "protocol", device, protocol_state_name(p->state),
				 legal, "%s", record_name(type));
	}
	if (next != (int)p->state)
		set_state(p, (enum protocol_state)next);
	return 0;
}

int protocol_send(struct protocol *p, uint16_t type, const void *meta, size_t len,
		  uint64_t payload_len, bool async, struct error *err)
{
	int ret = move(p, p->side, type, "record to be sent", err);

	if (ret < 0)
		return ret;
	return (async ? record_send_async : record_send)(&p->writer, type, meta, len, payload_len,
							 err);
}

int protocol_flush(struct protocol *p, struct error *err)
{
	stream_flush(&p->stream);
	return stream_check(&p->stream, err);
}

int protocol_say(struct protocol *p, uint16_t type, const void *fdt, struct error *err)
{
	int ret = protocol_send(p, type, fdt, fdt ? fdt_totalsize(fdt) : 0, 0, false, err);

	return ret < 0 ? ret : protocol_flush(p, err);
}

/* Whose records @p reads. Where nobody answers, it is the source who is heard. */
static enum protocol_side speaker(const struct protocol *p)
{
	bool both = p->kind == PROTOCOL_LIVE || p->kind == PROTOCOL_PAGES;

	return both && p->side == SIDE_SOURCE ? SIDE_DESTINATION : SIDE_SOURCE;
}

/* Nothing came where a record had to: say what was waited for, not what a parser missed. */
static int nothing_came(const struct protocol *p, int code, struct error *err)
{
	int ms = p->deadline_ms ? p->deadline_ms : protocol_deadline(p->state);
	char legal[128], got[96];

	legal_names(p->state, p->kind, speaker(p), legal, sizeof(legal));
	if (code == -ETIMEDOUT)
		snprintf(got, sizeof(got), "nothing within %d ms", ms);
	else
		snprintf(got, sizeof(got), "%s",
			 p->kind == PROTOCOL_FILE ? "the end of the file"
						  : "the connection closed by the other side");
	if (err)
		error_clear(err);
	return error_set(err, code, "protocol", p->channel->name, protocol_state_name(p->state),
			 legal, "%s", got);
}

static int read_record(struct protocol *p, struct record *rec, struct error *err)
{
	int ret = record_read(&p->reader, rec, err);

	if ((ret == -ENODATA || ret == -ECONNRESET || ret == -ETIMEDOUT) &&
	    stream_get_position(&p->stream) == rec->offset)
		ret = nothing_came(p, ret, err);
	return ret;
}

int protocol_receive(struct protocol *p, struct record *rec, struct error *err)
{
	int ret;

	do {
		ret = read_record(p, rec, err);
		ret = ret < 0 ? ret : move(p, speaker(p), rec->type, rec->device, err);
		if (ret < 0)
			return ret;
		if (rec->type == RECORD_PROGRESS)
			ret = record_payload_result(&p->reader, rec,
						    stream_skip(&p->stream, rec->payload_len), err);
	} while (ret == 0 && rec->type == RECORD_PROGRESS);
	if (ret == 0 && (rec->type == RECORD_REJECT || rec->type == RECORD_FAILED))
		ret = message_get_error(rec, err);
	return ret;
}

int protocol_expect(struct protocol *p, uint16_t type, struct record *rec, struct error *err)
{
	int ret = protocol_receive(p, rec, err);

	if (ret == 0 && rec->type != type)
		ret = error_set(err, -EPROTO, "protocol", rec->device,
				protocol_state_name(p->state), record_name(type), "%s",
				record_name(rec->type));
	return ret;
}

bool protocol_fail(struct protocol *p, const struct error *why)
{
	bool answer = p->side == SIDE_DESTINATION && p->state == PROTOCOL_ANSWER;
	struct error ignored = { 0 };
	struct message m;

	if (p->kind != PROTOCOL_LIVE ||
	    protocol_next(p->state, PROTOCOL_LIVE, p->side, RECORD_FAILED) < 0 ||
	    stream_error(&p->stream))
		return false;
	p->deadline_ms = LAST_MS;
	message_error(&m, why);
	return protocol_say(p, answer ? RECORD_REJECT : RECORD_FAILED, message_end(&m), &ignored) ==
	       0;
}

void protocol_explain(struct protocol *p, struct error *err)
{
	struct error theirs = { 0 };
	struct record rec;

	if (p->kind != PROTOCOL_LIVE || p->state == PROTOCOL_REFUSED ||
	    (err->code != -EPIPE && err->code != -ECONNRESET && err->code != -ENODATA))
		return;
	channel_set_timeout(p->channel, LAST_MS);
	if (record_read(&p->reader, &rec, &theirs) == 0 &&
	    (rec.type == RECORD_FAILED || rec.type == RECORD_REJECT) &&
	    message_get_error(&rec, &theirs) < 0) {
		*err = theirs;
		p->state = PROTOCOL_REFUSED;
	}
}

void protocol_linger(struct protocol *p)
{
	int64_t until = channel_now_ms() + LAST_MS;

	if (p->kind != PROTOCOL_LIVE)
		return;
	channel_set_timeout(p->channel, LAST_MS);
	while (channel_now_ms() < until && stream_skip(&p->stream, 1 << 20) == 0)
		;
}
