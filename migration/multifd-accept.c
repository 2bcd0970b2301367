/* SPDX-License-Identifier: BSD-2-Clause */
/* Who comes to the destination while it waits for its data connections: those who know the token.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/param.h>
#include <sys/random.h>

#include "migration/messages.h"
#include "migration/multifd-load.h"

#define VISITOR_MS 1000 /* for the first record of whoever connects */
#define TICK_MS	   100

int multifd_token(char token[TOKEN_SIZE], struct error *err)
{
	uint8_t bits[(TOKEN_SIZE - 1) / 2];

	if (getrandom(bits, sizeof(bits), 0) != sizeof(bits))
		return error_set(err, -EIO, "receive", "channels", "token", "random numbers", "%m");
	for (size_t i = 0; i < sizeof(bits); i++)
		snprintf(token + 2 * i, 3, "%02x", bits[i]);
	return 0;
}

/* In a time that does not tell how much of it is right. */
static bool same_token(const char *a, const char *b)
{
	unsigned int differ = 0;

	for (size_t i = 0; i < TOKEN_SIZE; i++)
		differ |= (unsigned int)(a[i] ^ b[i]);
	return !differ;
}

bool multifd_ask(struct protocol *p, const char *token, struct record *rec, uint64_t *number)
{
	char theirs[TOKEN_SIZE] = "";
	struct error ignored = { 0 };
	const void *fdt;

	if (protocol_expect(p, RECORD_CHANNEL, rec, &ignored) < 0)
		return false;
	fdt = message_open(rec, &ignored);
	if (!fdt)
		return false;
	message_get_string(fdt, "token", theirs, sizeof(theirs));
	*number = message_get_u64(fdt, "number", UINT64_MAX);
	return same_token(theirs, token);
}

/*
 * Does the visitor at @ch belong here? *@number is then which channel it is. An error in @err is
 * one that ends the migration; without the token it is only somebody else.
 */
static bool ask(struct protocol *p, const struct multifd_load *l, const char *token,
		uint64_t *number, struct error *err)
{
	struct record rec;

	if (!multifd_ask(p, token, &rec, number))
		return false;
	if (*number < l->n && !l->channels[*number].ch)
		return true;
	error_set(err, -EPROTO, "stream", rec.device, "number", "", "%llu%s",
		  (unsigned long long)*number, *number < l->n ? " for the second time" : "");
	error_expected(err, "0 to %u, each once", l->n - 1);
	return true;
}

/* Let @ch in, or send it away. Owns it. */
static int admit(struct multifd_load *l, struct channel *ch, const char *token, struct error *err)
{
	struct protocol *p = malloc(sizeof(*p));
	const int *deadline = &l->main->deadline_ms;
	uint64_t number = UINT64_MAX;
	struct load_channel *c;
	int ret;

	if (!p) {
		channel_close(ch);
		return error_set(err, -ENOMEM, "receive", "channels", "", "memory", "none");
	}
	protocol_init(p, ch, SIDE_DESTINATION, PROTOCOL_DATA);
	protocol_set_deadline(p, *deadline ? MIN(*deadline, VISITOR_MS) : VISITOR_MS);
	if (!ask(p, l, token, &number, err) || err->code) {
		protocol_free(p);
		free(p);
		channel_close(ch);
		return err->code;
	}
	c = &l->channels[number];
	c->l = l;
	c->p = *p;
	free(p);
	/* What is inside of @p and points to it has moved along. */
	c->p.writer.stream = c->p.reader.stream = &c->p.stream;
	c->ch = ch;
	protocol_set_deadline(&c->p, *deadline);
	stream_set_iov_max(&c->p.stream, l->m->params.iovecs);
	ret = migration_set_channel(l->m, 1 + (unsigned int)number, ch, err);
	l->arrived++;
	return ret;
}

static int too_few(struct multifd_load *l, const struct channel_listener *listener, int code,
		   struct error *err)
{
	error_clear(err);
	error_set(err, code, "receive", listener->uri, "channels", "", "%u in time", l->arrived);
	error_expected(err, "%u data connections", l->n);
	/* Perhaps the source has given up, and has said why. */
	protocol_explain(l->main, err);
	return err->code;
}

/*
 * The source says nothing on the main connection before it has opened all channels or given up. So
 * once it has, those that are missing are on their way or will never come.
 */
int multifd_accept_all(struct multifd_load *l, struct channel_listener *listener, const char *token,
		       struct error *err)
{
	int64_t until = channel_now_ms() + protocol_limit(l->main);
	bool told = false;

	while (l->arrived < l->n) {
		struct channel *ch;
		int ret = channel_accept(listener, TICK_MS, l->m->cancel_fd, &ch, err);

		if (ret == 0)
			ret = admit(l, ch, token, err);
		if (ret < 0 && ret != -ETIMEDOUT)
			return ret;
		error_clear(err);
		if (!told && stream_wait(&l->main->stream, -1, 0) == 0) {
			told = true;
			until = MIN(until, channel_now_ms() + VISITOR_MS);
		}
		if (l->arrived < l->n && channel_now_ms() > until)
			return too_few(l, listener, told ? -EPIPE : -ETIMEDOUT, err);
	}
	return 0;
}
