/* SPDX-License-Identifier: BSD-2-Clause */
/* How the destination and a source find each other, and agree how to talk. */
#include <errno.h>
#include <string.h>
#include <sys/param.h>

#include "migration/destination.h"
#include "migration/userfault.h"

static int accept_visitor(struct destination *d, struct error *err)
{
	struct migration *m = d->m;
	int ret = channel_accept(m->listener, -1, m->cancel_fd, &d->ch, err);

	if (ret < 0)
		return ret;
	m->stats.started_ns = now_ns();
	protocol_init(d->p, d->ch, SIDE_DESTINATION, m->file ? PROTOCOL_FILE : PROTOCOL_LIVE);
	protocol_set_deadline(d->p, m->params.deadline_ms);
	stream_set_iov_max(&d->p->stream, m->params.iovecs);
	return migration_set_channel(m, 0, d->ch, err);
}

void destination_close_channel(struct destination *d)
{
	multifd_load_free(d->multifd);
	d->multifd = NULL;
	if (!d->ch)
		return;
	migration_count(d->m, d->p);
	migration_set_channel(d->m, 0, NULL, NULL);
	protocol_free(d->p);
	channel_close(d->ch);
	d->ch = NULL;
}

static int agree_channels(struct destination *d, const struct hello *ours,
			  const struct hello *theirs, struct error *err)
{
	d->channels = (unsigned int)MIN(theirs->channels, ours->channels_max);
	if (theirs->channels == d->channels)
		return 0;
	error_set(err, -EPROTO, "hello", "source", "channels", "", "%llu",
		  (unsigned long long)theirs->channels);
	error_expected(err, "at most %llu", (unsigned long long)ours->channels_max);
	return -EPROTO;
}

static int agree_postcopy(const struct destination *d, const struct hello *ours, struct error *err)
{
	if (!d->wants_postcopy || (ours->postcopy && !d->channels))
		return 0;
	return error_set(err, -EPROTO, "hello", "source", "postcopy",
			 ours->postcopy ? "no other data connections" : "0", "1");
}

/* Say HELLO and hear one. *known: the visitor is a ferry, whether we agree or not. */
static int greet(struct destination *d, bool *known, struct error *err)
{
	struct hello ours, theirs;
	unsigned int version;
	struct record rec;
	struct message m;
	int ret = 0;

	hello_local(&ours);
	ours.ram_fd = channel_carries_fds(d->ch) && !d->m->params.send_ram;
	ours.zstd = ZSTD_WITH_XOR;
	ours.device_fds = channel_carries_fds(d->ch) && d->m->heir;
	if (!d->m->listener->once) {
		ours.channels_max = CHANNELS_MAX;
		ours.postcopy = userfault_probe(NULL) == 0;
		ret = multifd_token(d->token, err);
		memcpy(ours.channels_token, d->token, sizeof(d->token));
	}
	message_hello(&m, &ours);
	if (!d->m->file)
		ret = ret < 0 ? ret : protocol_say(d->p, RECORD_HELLO, message_end(&m), err);
	ret = ret < 0 ? ret : protocol_expect(d->p, RECORD_HELLO, &rec, err);
	ret = ret < 0 ? ret : message_get_hello(&rec, &theirs, err);
	*known = ret == 0;
	d->wants_postcopy = *known && theirs.postcopy;
	d->mirror = *known && theirs.mirror_disks && !d->m->file;
	ret = ret < 0 ? ret : hello_agree(&ours, &theirs, "source", &version, err);
	ret = ret < 0 ? ret : agree_channels(d, &ours, &theirs, err);
	return ret < 0 ? ret : agree_postcopy(d, &ours, err);
}

/* Not a word that a ferry says came from there: tell whoever reads stderr, and the visitor. */
static void send_away(struct destination *d, const struct error *why)
{
	struct error note = { 0 };
	char sentence[sizeof(note)];

	protocol_fail(d->p, why);
	destination_close_channel(d);
	error_set(&note, why->code, "receive", d->m->uri, "", "a source", "%s; waiting for another",
		  error_sentence(why, sentence, sizeof(sentence)));
	error_print(&note);
}

static void stop_listening(struct destination *d)
{
	channel_listener_close(d->m->listener);
	d->m->listener = NULL;
}

/*
 * Wait for a source. Whoever else finds the port (a scanner, a health check, a source that died
 * before it said a word) does not end the waiting.
 */
int destination_meet_source(struct destination *d, struct error *err)
{
	bool known = false;
	int ret;

	for (;;) {
		ret = accept_visitor(d, err);
		ret = ret < 0 ? ret : greet(d, &known, err);
		if (ret == 0 || known || !d->ch || d->m->listener->once ||
		    migration_check(d->m, NULL) < 0)
			break;
		send_away(d, err);
		error_clear(err);
	}
	if (ret < 0 || !(d->channels || d->wants_postcopy))
		stop_listening(d);
	return ret;
}

/* The data connections come once the machine is accepted. */
int destination_accept_channels(struct destination *d, struct error *err)
{
	int ret;

	if (d->wants_postcopy) {
		struct channel_listener *listener = d->m->listener;

		d->m->listener = NULL;
		return postcopy_load_accept(&d->postcopy, d->ram, d->p, listener, d->token, err);
	}
	if (!d->channels)
		return 0;
	ret = multifd_load_accept(&d->multifd, d->ram, d->p, d->m->listener, d->channels, d->token,
				  err);
	stop_listening(d);
	return ret;
}
