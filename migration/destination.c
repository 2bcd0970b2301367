/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The side that gets the guest: an empty machine that listens, builds what the stream describes,
 * fills it, and runs it when, and only when, COMMIT has come. A saved machine is received in the
 * same way, without answers.
 */
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <time.h>

#include "migration/backlog.h"
#include "migration/destination.h"
#include "migration/ram-map.h"
#include "vmm/command.h"
#include "vmm/tree.h"

static int allocate(struct destination *d, struct migration *m, struct error *err)
{
	d->m = m;
	d->vm = m->vm;
	d->p = malloc(sizeof(*d->p));
	d->ram = calloc(1, sizeof(*d->ram));
	if (!d->p || !d->ram)
		return error_set(err, -ENOMEM, "receive", m->uri, "", "memory", "none");
	return 0;
}

struct realize {
	struct destination *d;
	const void *fdt;
	struct error *err;
	int ret;
};

static void realize(void *opaque)
{
	struct realize *r = opaque;

	r->ret = r->d->m->realize(r->d->vm, r->fdt, true, r->err);
}

/* Build the machine of the MACHINE record, with what is local to this host in place. */
static int build_machine(struct destination *d, const struct record *rec, struct error *err)
{
	struct realize r = { .d = d, .fdt = rec->meta, .err = err };
	void *mine = NULL;
	int ret = machine_tree_check(rec->meta, rec->meta_len, err);

	if (ret == 0 && d->m->override) {
		ret = d->m->override(d->m->override_opaque, rec->meta,
				     channel_is_foreign(d->m->uri), &mine, err);
		r.fdt = mine;
	}
	if (ret == 0) {
		loop_call(d->vm->loop, realize, &r);
		ret = r.ret;
	}
	device_fds_free(&d->vm->given);
	free(mine);
	return ret;
}

/* From here on its disks are ours alone, long before the guest is: they are written to. */
static int prepare_disks(struct destination *d, struct error *err)
{
	int ret;

	if (!d->mirror)
		return 0;
	ret = block_load_init(&d->block, d->m, err);
	d->claimed = ret == 0;
	return ret;
}

static void announce(void *vm)
{
	vm_announce(vm);
}

static int get_stopped(struct destination *d, const struct record *rec, struct error *err)
{
	const void *fdt = message_open(rec, err);

	if (!fdt)
		return -EPROTO;
	d->run = message_get_u64(fdt, "run", 0) != 0;
	d->crc = message_get_u64(fdt, "ram-crc", UINT64_MAX);
	d->has_crc = d->crc != UINT64_MAX;
	block_load_stopped(&d->block, fdt);
	migration_set_status(d->m, MIGRATION_DEVICE);
	/* It answers nobody where it is now, nor where it was before it runs here. */
	if (d->run && !d->m->file)
		loop_call(d->vm->loop, announce, d->vm);
	return 0;
}

/* RAM, over the connection on which the source has said that it comes. */
static int get_ram(struct destination *d, const struct record *rec, struct error *err)
{
	if (d->multifd)
		return error_set(err, -EPROTO, "stream", rec->device, "type",
				 "pages on data connections only", "RAM");
	if (postcopy_load_is_on(d->postcopy))
		return error_set(err, -EPROTO, "stream", rec->device, "type",
				 "no pages after LISTEN", "RAM");
	if (d->m->lazy)
		return error_set(err, -EOPNOTSUPP, "load", d->m->uri, "lazy",
				 "a file in which every page has its place", "a stream of pages");
	/* Mapped for reading only. */
	if (d->vm->memory.adopted)
		return error_set(err, -EPROTO, "stream", rec->device, "type",
				 "no pages of RAM that came by descriptor", "RAM");
	return ram_load_record(d->ram, &d->ram->table, d->p, rec, err);
}

static int get_round(struct destination *d, const struct record *rec, struct error *err)
{
	if (!d->multifd)
		return error_set(err, -EPROTO, "stream", rec->device, "type",
				 "a round on data connections", "ROUND without any");
	return multifd_load_round(d->multifd, rec, err);
}

static int get_ram_fd(struct destination *d, const struct record *rec, struct error *err)
{
	if (d->multifd || d->postcopy)
		return error_set(err, -EPROTO, "stream", rec->device, "type",
				 "pages on data connections", "RAM_FD");
	return receive_ram_fd(d->m, d->p, rec, err);
}

static int get_missing(struct destination *d, const struct record *rec, struct error *err)
{
	if (!d->postcopy)
		return error_set(err, -EPROTO, "stream", rec->device, "type",
				 "a source that wants postcopy", "%s", record_name(rec->type));
	return rec->type == RECORD_LISTEN ? postcopy_load_listen(d->postcopy, rec, err)
					  : postcopy_load_missing(d->postcopy, rec, err);
}

static int take_record(struct destination *d, const struct record *rec, struct error *err)
{
	switch (rec->type) {
	case RECORD_RAM:
	case RECORD_RAM_ZSTD:
		return get_ram(d, rec, err);
	case RECORD_RAM_MAP:
		return ram_map_load(d->ram, d->ch, rec, err);
	case RECORD_BLOCK:
		return block_load_record(&d->block, d->p, rec, err);
	case RECORD_ROUND:
		return get_round(d, rec, err);
	case RECORD_MISSING:
	case RECORD_LISTEN:
		return get_missing(d, rec, err);
	case RECORD_RAM_FD:
		return get_ram_fd(d, rec, err);
	default:
		return get_stopped(d, rec, err);
	}
}

/* Everything up to the STATE record, which is left in @rec. */
static int receive_ram(struct destination *d, struct record *rec, struct error *err)
{
	int ret = ram_load_init(d->ram, d->m, &d->vm->memory, err);

	ret = ret < 0 ? ret : destination_accept_channels(d, err);
	migration_set_status(d->m, MIGRATION_ACTIVE);
	while (ret == 0) {
		ret = d->multifd ? multifd_load_wait(d->multifd, err) : 0;
		ret = ret < 0 ? ret : protocol_receive(d->p, rec, err);
		if (ret < 0 || rec->type == RECORD_STATE)
			break;
		ret = take_record(d, rec, err);
	}
	return ret < 0 || !d->multifd ? ret : multifd_load_end(d->multifd, err);
}

static int verify_ram(struct destination *d, struct error *err)
{
	char expected[32];
	uint32_t crc;

	if (!d->has_crc)
		return 0;
	crc = ram_checksum(&d->vm->memory);
	snprintf(expected, sizeof(expected), "0x%08llx", (unsigned long long)d->crc);
	return crc == d->crc ? 0
			     : error_set(err, -EBADMSG, "load", "RAM", "checksum", expected,
					 "0x%08x", crc);
}

static int claim(struct destination *d, struct error *err)
{
	int ret = vm_claim(d->vm, err);

	d->claimed |= ret == 0;
	return ret;
}

static int wait_commit(struct destination *d, struct error *err)
{
	struct record rec;
	int ret;

	do {
		ret = protocol_receive(d->p, &rec, err);
		if (ret == 0 && rec.type == RECORD_BACKLOG)
			ret = backlog_receive(d->m, d->p, &rec, err);
	} while (ret == 0 && rec.type != RECORD_COMMIT);
	return ret;
}

/* The source must have let go before we take, and both before anybody runs. */
static int take_over(struct destination *d, const struct record *state, struct error *err)
{
	struct record rec;
	bool applied;
	int ret = postcopy_load_is_on(d->postcopy) ? postcopy_load_start(d->postcopy, err)
						   : verify_ram(d, err);

	ret = ret < 0 ? ret : block_load_finish(&d->block, err);
	ret = ret < 0 ? ret : vm_load_state(d->vm, state->meta, state->meta_len, &applied, err);
	if (d->m->file) {
		ret = ret < 0 ? ret : protocol_expect(d->p, RECORD_END, &rec, err);
		return ret < 0 ? ret : claim(d, err);
	}
	ret = ret < 0 ? ret : claim(d, err);
	if (postcopy_load_is_on(d->postcopy))
		ret = ret < 0 ? ret : postcopy_load_keep(d->postcopy, err);
	ret = ret < 0 ? ret : protocol_say(d->p, RECORD_LOADED, NULL, err);
	ret = ret < 0 ? ret : wait_commit(d, err);
	d->commit_ns = now_ns();
	return ret;
}

static uint64_t realtime_ns(uint64_t monotonic)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec - (now_ns() - monotonic);
}

/* Run the guest and say so. That the word arrives is the source's concern. */
static int run_guest(struct destination *d, struct error *err)
{
	struct error lost = { 0 };
	struct message m;
	uint64_t resumed;
	int ret = memory_take_over(&d->vm->memory, err);

	ret = ret < 0 ? ret : vm_set_state(d->vm, d->run ? VM_RUNNING : VM_PAUSED, err);
	if (ret < 0 || d->m->file)
		return ret;
	resumed = d->run ? d->vm->resumed_at : now_ns();
	message_begin(&m);
	message_u64(&m, "commit-ns", resumed - d->commit_ns);
	message_u64(&m, "resumed-ns", resumed);
	message_u64(&m, "realtime-ns", realtime_ns(resumed));
	if (protocol_say(d->p, RECORD_RUNNING, message_end(&m), &lost) < 0)
		error_print(&lost);
	return 0;
}

/* Let go first: the source waits for it. Then say why. */
static void give_up(struct destination *d, const struct error *err)
{
	multifd_load_free(d->multifd);
	d->multifd = NULL;
	postcopy_load_free(d->postcopy);
	d->postcopy = NULL;
	if (d->claimed)
		vm_yield(d->vm);
	if (d->ch && protocol_fail(d->p, err))
		protocol_linger(d->p);
}

static int receive_machine(struct destination *d, struct error *err)
{
	struct record rec;
	int ret = destination_meet_source(d, err);

	ret = ret < 0 ? ret : receive_machine_record(d->m, d->p, &rec, err);
	ret = ret < 0 ? ret : build_machine(d, &rec, err);
	ret = ret < 0 ? ret : prepare_disks(d, err);
	if (!d->m->file)
		ret = ret < 0 ? ret : protocol_say(d->p, RECORD_ACCEPT, NULL, err);
	d->m->stats.setup_ns = now_ns() - d->m->stats.started_ns;
	ret = ret < 0 ? ret : receive_ram(d, &rec, err);
	ret = ret < 0 ? ret : take_over(d, &rec, err);
	/* Nobody can stop it now: the source has let go for good. */
	ret = ret < 0 ? ret : migration_commit(d->m, err);
	if (ret == 0 && postcopy_load_is_on(d->postcopy))
		postcopy_load_commit(d->postcopy);
	return ret < 0 ? ret : run_guest(d, err);
}

static int destination_run(struct migration *m, struct error *err)
{
	struct destination d = { 0 };
	int ret = allocate(&d, m, err);

	ret = ret < 0 ? ret : receive_machine(&d, err);
	if (ret < 0)
		give_up(&d, err);
	else if (postcopy_load_is_on(d.postcopy))
		ret = postcopy_load_finish(d.postcopy, err);
	postcopy_load_free(d.postcopy);
	destination_close_channel(&d);
	block_load_free(&d.block);
	if (d.ram)
		ram_load_free(d.ram);
	free(d.ram);
	free(d.p);
	return ret;
}

static void destination_ended(struct migration *m, int ret)
{
	if (ret == 0)
		return;
	error_print(&m->error);
	m->vm->exit_status = STATUS_ERROR;
	loop_stop(m->vm->loop);
}

int destination_prepare(struct vm *vm, override_fn *override, void *opaque, struct error *err)
{
	struct migration *m = migration_get(vm);

	if (!m)
		return error_set(err, -ENOMEM, "receive", "machine", "", "memory", "none");
	m->override = override;
	m->override_opaque = opaque;
	return vm_set_state(vm, VM_INMIGRATE, err);
}

int destination_start(struct vm *vm, const char *uri, const char **bound, struct error *err)
{
	struct migration *m = vm->migration;
	struct channel_listener *listener;
	int ret;

	if (!m || vm->state != VM_INMIGRATE || migration_is_active(m))
		return error_set(err, -EBUSY, "receive", uri, "",
				 "a machine that waits for a migration", "%s",
				 m && migration_is_active(m) ? "one that is receiving"
							     : vm_state_name(vm->state));
	ret = channel_listen(uri, &listener, err);
	if (ret < 0)
		return ret;
	m->listener = listener;
	ret = migration_start(m, channel_listener_uri(listener), true, destination_run,
			      destination_ended, err);
	if (ret < 0) {
		channel_listener_close(listener);
		m->listener = NULL;
	} else if (bound) {
		*bound = m->uri;
	}
	return ret;
}
