/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From one process to another on the same host: instead of RAM its memfd, and for `ferry upgrade`
 * also what devices have open. Descriptors cross beside the first byte of the record that tells of
 * them (channel_give_fds), so when that has been read, they are there.
 */
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migration/messages.h"
#include "migration/migration.h"
#include "migration/multifd.h"
#include "migration/protocol.h"

/* A record of @type, message @m, with @fds beside it. */
static int say_with_fds(struct protocol *p, uint16_t type, struct message *m, const int *fds,
			unsigned int n, struct error *err)
{
	int ret = protocol_flush(p, err);

	ret = ret < 0 ? ret : channel_give_fds(p->channel, fds, n);
	if (ret < 0)
		return error_set(err, ret, "migrate", p->channel->name, "", "to send a descriptor",
				 "%s", strerror(-ret));
	return protocol_say(p, type, message_end(m), err);
}

/* ---- RAM ---- */

bool hand_over_possible(const struct migration *m, const struct channel *ch)
{
	return m->vm->memory.backing == MEMORY_SHARED && !m->params.send_ram && !m->params.mirror &&
	       !multifd_wanted(m) && channel_carries_fds(ch);
}

int hand_over_ram(struct migration *m, struct protocol *p, struct error *err)
{
	const struct memory *mem = &m->vm->memory;
	struct message msg;
	int ret;

	m->stats.ram_total = mem->size;
	migration_set_status(m, MIGRATION_ACTIVE);
	message_begin(&msg);
	message_u64(&msg, "size", mem->size);
	ret = say_with_fds(p, RECORD_RAM_FD, &msg, &mem->fd, 1, err);
	ret = ret < 0 ? ret : migration_check(m, err);
	if (ret == 0)
		m->stats.ram_given = mem->size;
	return ret;
}

int receive_ram_fd(struct migration *m, struct protocol *p, const struct record *rec,
		   struct error *err)
{
	int ret, fd = channel_take_fd(p->channel);

	if (fd < 0)
		return error_set(err, -EPROTO, "stream", rec->device, "descriptor", "one beside it",
				 "none");
	/* The size is for people: the descriptor's own is what is checked. */
	ret = memory_adopt(&m->vm->memory, fd, err);
	if (ret == 0)
		m->stats.ram_given = m->vm->memory.size;
	return ret;
}

/* ---- Devices ---- */

struct collect {
	struct device *dev;
	struct device_fds fds;
};

static void collect(void *opaque)
{
	struct collect *c = opaque;

	pthread_mutex_lock(&c->dev->lock);
	c->dev->class->hand_on(c->dev, &c->fds);
	pthread_mutex_unlock(&c->dev->lock);
}

static int hand_over_device(struct protocol *p, struct device *dev, struct error *err)
{
	struct collect c = { .dev = dev };
	struct message m;

	loop_call(dev->vm->loop, collect, &c);
	if (!c.fds.n)
		return 0;
	message_begin(&m);
	message_string(&m, "device", dev->name);
	message_u64(&m, "fds", c.fds.n);
	message_u64(&m, "note", c.fds.note);
	return say_with_fds(p, RECORD_DEVICE_FD, &m, c.fds.fd, c.fds.n, err);
}

int hand_over_devices(struct migration *m, struct protocol *p, struct error *err)
{
	int ret = 0;

	for (struct device *dev = m->vm->devices; dev && ret == 0; dev = dev->next) {
		if (dev->class->hand_on)
			ret = hand_over_device(p, dev, err);
	}
	return ret;
}

/* Put the descriptors of @rec into @fds, as many as it says, or as many as there are. */
static int take_fds(struct protocol *p, const struct record *rec, struct device_fds *fds,
		    struct error *err)
{
	const void *fdt = message_open(rec, err);
	uint64_t n;

	if (!fdt)
		return -EPROTO;
	message_get_string(fdt, "device", fds->device, sizeof(fds->device));
	fds->note = message_get_u64(fdt, "note", 0);
	n = message_get_u64(fdt, "fds", 0);
	if (n < 1 || n > DEVICE_MAX_FDS)
		return error_set(err, -EPROTO, "stream", rec->device, "fds", "1 to 16", "%llu",
				 (unsigned long long)n);
	for (; fds->n < n; fds->n++) {
		int fd = channel_take_fd(p->channel);

		if (fd < 0)
			return error_set(err, -EPROTO, "stream", rec->device, "descriptors",
					 "as many as it says", "%u of %llu", fds->n,
					 (unsigned long long)n);
		fds->fd[fds->n] = fd;
	}
	return 0;
}

static int receive_device_fds(struct migration *m, struct protocol *p, const struct record *rec,
			      struct error *err)
{
	struct device_fds *fds;

	if (!m->heir)
		return error_set(err, -EPERM, "stream", rec->device, "", "a machine and no more",
				 "descriptors, which only ferry upgrade hands on");
	fds = calloc(1, sizeof(*fds));
	if (!fds)
		return error_set(err, -ENOMEM, "stream", rec->device, "", "memory", "none");
	fds->next = m->vm->given;
	m->vm->given = fds;
	return take_fds(p, rec, fds, err);
}

int receive_machine_record(struct migration *m, struct protocol *p, struct record *rec,
			   struct error *err)
{
	int ret;

	do {
		ret = protocol_receive(p, rec, err);
		if (ret == 0 && rec->type == RECORD_DEVICE_FD)
			ret = receive_device_fds(m, p, rec, err);
	} while (ret == 0 && rec->type == RECORD_DEVICE_FD);
	/* Nothing else may come in this state (protocol.c). */
	return ret;
}
