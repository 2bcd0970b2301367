/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saving a machine: what a source says, without waiting for answers, into a file. The guest is
 * paused meanwhile and goes on afterwards. The file appears under its name when it is complete.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migration/source.h"

#define SCHEME "file:"

static int save(struct source *s, struct error *err)
{
	void *state = NULL;
	int ret;

	hello_local(&s->ours);
	ret = source_introduce(s, err);
	ret = ret < 0 ? ret : source_pause(s, true, err);
	ret = ret < 0 ? ret : vm_save_state(s->vm, &state, err);
	ret = ret < 0 ? ret : ram_save_init(s->ram, s->m, s->p, RAM_BATCH, err);
	ret = ret < 0 ? ret : ram_save_round(s->ram, false, err);
	ret = ret < 0 ? ret : source_send_state(s, state, err);
	ret = ret < 0 ? ret : protocol_say(s->p, RECORD_END, NULL, err);
	free(state);
	return ret;
}

int snapshot_run(struct migration *m, struct error *err)
{
	const char *path = m->uri + strlen(SCHEME);
	struct source s = { 0 };
	char partial[sizeof(m->uri) + 16];
	int ret, closed;

	snprintf(partial, sizeof(partial), "%s.partial", m->uri);
	ret = source_open(&s, m, partial, err);
	ret = ret < 0 ? ret : save(&s, err);
	closed = source_close(&s);
	if (ret == 0 && closed < 0)
		ret = error_set(err, closed, "save", path, "", "a file on the disk", "%s",
				strerror(-closed));
	if (ret == 0 && rename(partial + strlen(SCHEME), path) < 0)
		ret = error_set(err, -errno, "save", path, "", "to give the file its name", "%m");
	if (ret < 0)
		unlink(partial + strlen(SCHEME));
	closed = source_resume(&s, ret < 0 ? NULL : err);
	source_free(&s);
	return ret < 0 ? ret : closed;
}
