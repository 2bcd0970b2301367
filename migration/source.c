/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The side that has the guest. Whatever goes wrong before COMMIT is sent ends in give_up(), with
 * the guest running here as if nothing had happened; after it the guest never runs here again,
 * unless a person wants it.
 */
#include "migration/source.h"

#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/param.h>

#include "migration/backlog.h"
#include "migration/multifd.h"
#include "migration/postcopy.h"
#include "vmm/successor.h"

#define CONNECT_MS     10000
#define CLAIM_TRIES    100
#define CLAIM_PAUSE_NS 50000000ULL /* between tries to take disks back: 5 s in all */

int source_open(struct source *s, struct migration *m, const char *uri, struct error *err)
{
	int ret;

	s->m = m;
	s->vm = m->vm;
	s->p = malloc(sizeof(*s->p));
	s->ram = calloc(1, sizeof(*s->ram));
	if (!s->p || !s->ram)
		return error_set(err, -ENOMEM, "migrate", uri, "", "memory", "none");
	ret = channel_connect(uri, m->params.deadline_ms ? m->params.deadline_ms : CONNECT_MS,
			      m->cancel_fd, &s->ch, err);
	if (ret < 0)
		return ret;
	protocol_init(s->p, s->ch, SIDE_SOURCE, m->file ? PROTOCOL_FILE : PROTOCOL_LIVE);
	protocol_set_deadline(s->p, m->params.deadline_ms);
	stream_set_iov_max(&s->p->stream, m->params.iovecs);
	stream_set_copy_all(&s->p->stream, m->params.copy);
	if (!m->file && !multifd_wanted(m))
		ret = channel_set_zerocopy(s->ch, (enum zerocopy_mode)m->params.zero_copy, err);
	return ret < 0 ? ret : migration_set_channel(m, 0, s->ch, err);
}

int source_close(struct source *s)
{
	struct channel *ch = s->ch;

	multifd_save_free(s->multifd);
	s->multifd = NULL;
	postcopy_save_free(s->postcopy);
	s->postcopy = NULL;
	if (!ch)
		return 0;
	channel_reap_zerocopy(ch);
	migration_count(s->m, s->p);
	migration_set_channel(s->m, 0, NULL, NULL);
	protocol_free(s->p);
	s->ch = NULL;
	return channel_close(ch);
}

void source_free(struct source *s)
{
	block_save_free(&s->block);
	if (s->ram)
		ram_save_free(s->ram);
	free(s->ram);
	free(s->p);
}

int source_introduce(struct source *s, struct error *err)
{
	struct message m;
	const void *fdt;
	int ret;

	message_hello(&m, &s->ours);
	fdt = message_end(&m);
	ret = protocol_send(s->p, RECORD_HELLO, fdt, fdt_totalsize(fdt), 0, false, err);
	if (ret == 0 && s->vm->handing_on && s->theirs.device_fds)
		ret = hand_over_devices(s->m, s->p, err);
	return ret < 0 ? ret : protocol_say(s->p, RECORD_MACHINE, s->vm->tree, err);
}

/* Get to know each other, and offer the machine. The guest does not notice. */
static int negotiate(struct source *s, struct error *err)
{
	unsigned int version;
	struct record rec;
	int ret;

	hello_local(&s->ours);
	s->ours.mirror_disks = s->m->params.mirror;
	s->ours.channels = multifd_wanted(s->m);
	ret = protocol_expect(s->p, RECORD_HELLO, &rec, err);
	ret = ret < 0 ? ret : message_get_hello(&rec, &s->theirs, err);
	ret = ret < 0 ? ret : hello_agree(&s->ours, &s->theirs, "destination", &version, err);
	ret = ret < 0 ? ret : multifd_check(s->m, s->theirs.channels_max, err);
	s->by_fd = s->theirs.ram_fd && hand_over_possible(s->m, s->ch);
	if (postcopy_wanted(s->m) && !s->by_fd)
		ret = ret < 0 ? ret
			      : postcopy_agree(s->m, s->theirs.postcopy, &s->ours.postcopy, err);
	ret = ret < 0 ? ret : source_introduce(s, err);
	ret = ret < 0 ? ret : protocol_expect(s->p, RECORD_ACCEPT, &rec, err);
	s->m->stats.setup_ns = now_ns() - s->m->stats.started_ns;
	return ret;
}

/* One round over disks and RAM; the disks first, for the guest goes on writing RAM meanwhile. */
static int send_round(struct source *s, bool live, struct error *err)
{
	int ret = block_save_round(&s->block, live, err);

	if (ret < 0)
		return ret;
	return s->multifd ? multifd_save_round(s->multifd, live, err)
			  : ram_save_round(s->ram, live, err);
}

/* Rounds over RAM and mirrored disks, the guest running; or all of RAM by one descriptor. */
static int send_ram(struct source *s, struct error *err)
{
	enum converge_step step;
	uint64_t before = UINT64_MAX;
	int ret;

	if (s->by_fd)
		return hand_over_ram(s->m, s->p, err);
	ret = dirty_log_start(s->vm, err);
	s->logging = ret == 0;
	ret = ret < 0 ? ret : ram_save_init(s->ram, s->m, s->p, s->theirs.ram_record_max, err);
	ret = ret < 0 ? ret : ram_save_compress(s->ram, s->theirs.zstd, err);
	if (ret == 0 && s->ours.mirror_disks)
		ret = block_save_init(&s->block, s->m, s->p, s->ram, s->theirs.block_record_max,
				      err);
	if (ret == 0 && s->ours.channels)
		ret = multifd_save_open(&s->multifd, s->ram, s->m->uri,
					(unsigned int)s->ours.channels, s->theirs.channels_token,
					err);
	if (ret == 0 && s->ours.postcopy)
		ret = postcopy_save_open(&s->postcopy, s->ram, s->m->uri, s->theirs.channels_token,
					 err);
	if (ret < 0)
		return ret;
	s->m->postcopy_can = s->ours.postcopy;
	migration_set_status(s->m, MIGRATION_ACTIVE);
	source_converge_begin(s);
	ret = ram_hints_start(s->ram, err);
	while (ret == 0) {
		if (postcopy_save_is_due(s->postcopy, before))
			return postcopy_save_prepare(s->postcopy, err);
		before = block_save_total(&s->block, s->ram);
		migration_pass_event(s->m, s->m->stats.rounds + 1);
		ret = send_round(s, true, err);
		ret = ret < 0 ? ret : ram_save_settle(s->ram, err);
		ret = ret < 0 ? ret : migration_check(s->m, err);
		ret = ret < 0 ? ret : ram_save_fetch(s->ram, err);
		block_save_fetch(&s->block);
		step = ret == 0 ? source_decide(s, before) : CONVERGE_GO_ON;
		if (step == CONVERGE_POSTCOPY)
			return postcopy_save_prepare(s->postcopy, err);
		if (step == CONVERGE_SWITCH)
			break;
	}
	return ret;
}

/* ---- The guest is paused from here on ---- */

struct pause {
	struct source *s;
	struct error *err;
	int ret;
};

/* On the loop thread nobody can change the state between the look and the move. */
static void pause_guest(void *opaque)
{
	struct pause *p = opaque;

	p->s->before = p->s->vm->state;
	p->ret = vm_set_state(p->s->vm, VM_FINISH_MIGRATE, p->err);
}

int source_pause(struct source *s, bool checksum, struct error *err)
{
	struct pause pause = { .s = s, .err = err };
	struct message m;
	const void *fdt;
	int ret = 0;

	migration_set_status(s->m, MIGRATION_DEVICE);
	loop_call(s->vm->loop, pause_guest, &pause);
	if (pause.ret < 0)
		return pause.ret;
	s->paused = true;
	message_begin(&m);
	message_u64(&m, "run", s->before == VM_RUNNING);
	if (checksum)
		message_u64(&m, "ram-crc", ram_checksum(&s->vm->memory));
	if (checksum)
		ret = block_save_checksums(&s->block, &m, err);
	fdt = message_end(&m);
	/* At once: what others send to the guest can be kept for it as soon as this is known. */
	return ret < 0 ? ret : protocol_say(s->p, RECORD_STOPPED, fdt, err);
}

int source_send_state(struct source *s, const void *state, struct error *err)
{
	return protocol_say(s->p, RECORD_STATE, state, err);
}

int source_resume(struct source *s, struct error *err)
{
	return s->paused ? vm_set_state(s->vm, s->before, err) : 0;
}

/*
 * The last RAM and blocks, the state, and what only one machine may have. The state is fetched
 * before the dirty log is read for the last time, so that it does not matter what fetching it
 * writes.
 */
static int send_rest(struct source *s, struct error *err)
{
	void *state = NULL;
	int ret = vm_save_state(s->vm, &state, err);

	ret = ret < 0 || s->by_fd ? ret : ram_save_fetch(s->ram, err);
	block_save_fetch(&s->block);
	if (postcopy_save_is_on(s->postcopy))
		ret = ret < 0 ? ret : postcopy_save_switch(s->postcopy, err);
	else
		ret = ret < 0 || s->by_fd ? ret : send_round(s, false, err);
	if (ret == 0 && s->multifd)
		ret = multifd_save_end(s->multifd, err);
	if (ret == 0) {
		vm_yield(s->vm);
		s->yielded = true;
		ret = source_send_state(s, state, err);
	}
	free(state);
	return ret;
}

/*
 * A flush that fails has left at least the last byte of the record unsent, and without it the
 * destination cannot take it for a COMMIT: the guest is still ours then.
 */
static int commit(struct source *s, struct error *err)
{
	int ret = migration_commit(s->m, err);

	ret = ret < 0 ? ret : backlog_send(s->m, s->p, err);
	ret = ret < 0 ? ret : protocol_send(s->p, RECORD_COMMIT, NULL, 0, 0, false, err);
	s->committed_ns = now_ns();
	ret = ret < 0 ? ret : protocol_flush(s->p, err);
	s->committed = ret == 0;
	s->vm->memory.given = s->committed && (s->by_fd || postcopy_save_is_on(s->postcopy));
	return ret;
}

static int wait_running(struct source *s, struct error *err)
{
	struct record rec;
	const void *fdt = NULL;
	int ret = protocol_expect(s->p, RECORD_RUNNING, &rec, err);

	if (ret == 0)
		fdt = message_open(&rec, err);
	if (!fdt)
		return -EPROTO;
	source_measure_blackout(s, fdt);
	return vm_set_state(s->vm, VM_POSTMIGRATE, err);
}

static int switch_over(struct source *s, struct error *err)
{
	struct record rec;
	bool postcopy = postcopy_save_is_on(s->postcopy);
	/* Hinted pages differ, as they may (ram-hint.c). */
	bool checksum = s->m->params.verify && !s->m->stats.pages_hinted && !postcopy;
	int ret = source_pause(s, checksum, err);

	source_converge_end(s); /* it is nobody's speed any more, or all that it had */
	ret = ret < 0 ? ret : send_rest(s, err);
	ret = ret < 0 ? ret : protocol_expect(s->p, RECORD_LOADED, &rec, err);
	if (postcopy)
		ret = ret < 0 ? ret : postcopy_save_check(s->postcopy, err);
	ret = ret < 0 ? ret : commit(s, err);
	ret = ret < 0 ? ret : wait_running(s, err);
	return s->committed && postcopy ? postcopy_save_run(s->postcopy, ret, err) : ret;
}

/* ---- When it fails ---- */

/* Take back what was yielded. The other side lets go of it when its connection or process ends. */
static int claim_again(struct source *s, struct error *err)
{
	int ret = -EAGAIN;

	for (int i = 0; i < CLAIM_TRIES && ret < 0; i++) {
		struct timespec ts = { 0, i ? CLAIM_PAUSE_NS : 0 };

		nanosleep(&ts, NULL);
		error_clear(err);
		ret = vm_claim(s->vm, err);
	}
	return ret;
}

static void give_up(struct source *s, struct error *err)
{
	struct error lost = { 0 };

	if (s->ch) {
		protocol_explain(s->p, err);
		protocol_fail(s->p, err);
	}
	source_close(s);
	successor_end(s->vm);
	if (s->yielded && claim_again(s, &lost) < 0) {
		error_print(&lost);
		s->before = VM_PAUSED;
	}
	if (source_resume(s, &lost) < 0)
		error_print(&lost);
}

/* COMMIT is out and nobody has said RUNNING: whether the guest runs there is not known. */
static void hand_over(struct source *s, struct error *err)
{
	struct error why = *err;
	char sentence[sizeof(why)];

	s->m->handed_over = true;
	error_clear(err);
	error_set(err, why.code, "migrate", s->m->uri, "", "the other side to run the guest",
		  "no word of it (%s); the guest is paused here for a person to decide",
		  error_sentence(&why, sentence, sizeof(sentence)));
	vm_set_state(s->vm, VM_HANDED_OVER, NULL);
	/* Postcopy has come to its end, so nobody takes pages from here any more. */
	if (s->vm->state == VM_HANDED_OVER && !s->by_fd)
		s->vm->memory.given = false;
}

int source_run(struct migration *m, struct error *err)
{
	struct source s = { 0 };
	int ret = source_open(&s, m, m->uri, err);

	ret = ret < 0 ? ret : negotiate(&s, err);
	ret = ret < 0 ? ret : send_ram(&s, err);
	ret = ret < 0 ? ret : switch_over(&s, err);
	source_converge_end(&s);
	if (ret < 0 && !s.committed)
		give_up(&s, err);
	else if (ret < 0)
		hand_over(&s, err);
	if (s.logging) {
		ram_hints_over(s.ram);
		dirty_log_stop(s.vm);
	}
	source_close(&s);
	source_free(&s);
	return ret;
}
