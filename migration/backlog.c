/* SPDX-License-Identifier: BSD-2-Clause */
/* BACKLOG records, the last before COMMIT: by then everybody has long been told where to send to.
 */
#include "migration/backlog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int backlog_send(struct migration *m, struct protocol *p, struct error *err)
{
	int ret = 0;

	for (struct device *dev = m->vm->devices; dev && ret == 0; dev = dev->next) {
		uint8_t name[BACKLOG_META_MAX];
		struct record_meta meta;
		size_t len = 0;
		const void *data = dev->class->backlog ? dev->class->backlog(dev, &len) : NULL;

		if (!data || len > BACKLOG_PAYLOAD_MAX)
			continue;
		record_meta_init(&meta, name, sizeof(name));
		record_put_string(&meta, dev->name);
		ret = protocol_send(p, RECORD_BACKLOG, name, meta.pos, len, false, err);
		stream_put_buffer_async(&p->stream, data, len);
		m->stats.backlog += len;
	}
	return ret;
}

static struct device *find_device(struct vm *vm, const struct record *rec, struct error *err)
{
	char name[sizeof(((struct device *)0)->name)];
	struct record_meta meta;

	record_meta_parse(&meta, rec);
	record_get_string(&meta, name, sizeof(name));
	if (record_meta_end(&meta, rec, err) < 0)
		return NULL;
	for (struct device *dev = vm->devices; dev; dev = dev->next) {
		if (dev->class->take_backlog && strcmp(dev->name, name) == 0)
			return dev;
	}
	error_set(err, -EPROTO, "stream", rec->device, "device", "one that can have a backlog",
		  "%s", name);
	return NULL;
}

int backlog_receive(struct migration *m, struct protocol *p, const struct record *rec,
		    struct error *err)
{
	struct device *dev = find_device(m->vm, rec, err);
	size_t len = rec->payload_len;
	void *data = dev ? malloc(len ? len : 1) : NULL;
	int ret;

	if (!dev)
		return -EPROTO;
	/* A network may lose frames: no reason to lose a guest. */
	ret = data ? stream_readv(&p->stream, &(struct iovec){ data, len }, 1)
		   : stream_skip(&p->stream, len);
	ret = record_payload_result(&p->reader, rec, ret, err);
	if (ret == 0 && data)
		ret = dev->class->take_backlog(dev, data, len, err);
	m->stats.backlog += len;
	free(data);
	return ret;
}
