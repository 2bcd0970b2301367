/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saving a machine: what a source says, without waiting for answers, into a file. The guest is
 * paused until all of it is there, or, with background-snapshot, until its RAM is protected, and
 * goes on afterwards. The file appears under its name when it is complete and on the disk.
 *
 * In a regular file RAM has a place of its own behind the records (ram-map.h). Without mapped-ram,
 * and into a pipe, it is a stream of RAM records as in a migration.
 */
#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/ram-map.h"
#include "migration/source.h"

#define SCHEME "file:"

/* The guest goes on, or stays paused if it was. What it missed is the blackout. */
static int let_go(struct source *s, struct error *err)
{
	int ret = source_resume(s, err);

	if (ret == 0 && s->paused && s->before == VM_RUNNING) {
		s->m->stats.blackout_ns = s->vm->resumed_at - s->vm->paused_at;
		s->m->stats.blackout_method = "clock";
	}
	s->paused = false;
	return ret;
}

static int save_stream(struct source *s, struct error *err)
{
	void *state = NULL;
	int ret = source_pause(s, true, err);

	ret = ret < 0 ? ret : vm_save_state(s->vm, &state, err);
	ret = ret < 0 ? ret : ram_save_init(s->ram, s->m, s->p, RAM_BATCH, err);
	ret = ret < 0 ? ret : ram_save_round(s->ram, false, err);
	ret = ret < 0 ? ret : source_send_state(s, state, err);
	free(state);
	return ret;
}

/* Where the records end, the two that are still to come among them, and END. */
static uint64_t records_end(struct source *s, const void *state)
{
	return stream_put_position(&s->p->stream) + 3 * RECORD_HEADER +
	       MEMORY_MAX_REGIONS * RAM_MAP_WIRE + fdt_totalsize(state);
}

static int say_map(struct source *s, const struct ram_map *map, struct error *err)
{
	uint8_t wire[MEMORY_MAX_REGIONS * RAM_MAP_WIRE];

	return protocol_send(s->p, RECORD_RAM_MAP, wire, ram_map_encode(map, wire), 0, false, err);
}

static int save_mapped(struct source *s, struct ram_map_save *ram, struct error *err)
{
	void *state = NULL;
	int ret = ram_map_save_init(ram, s->m, s->ch, err);

	ret = ret < 0 ? ret : source_pause(s, false, err);
	ret = ret < 0 ? ret : vm_save_state(s->vm, &state, err);
	ret = ret < 0 ? ret : ram_map_save_begin(ram, records_end(s, state), err);
	if (ret == 0 && ram->guard) {
		ret = let_go(s, err);
		migration_set_status(s->m, MIGRATION_ACTIVE);
	}
	ret = ret < 0 ? ret : ram_map_save_run(ram, err);
	ret = ret < 0 ? ret : say_map(s, &ram->map, err);
	ret = ret < 0 ? ret : source_send_state(s, state, err);
	free(state);
	return ret;
}

static int save(struct source *s, bool mapped, struct error *err)
{
	struct ram_map_save ram = { 0 };
	int ret;

	hello_local(&s->ours);
	ret = source_introduce(s, err);
	if (ret == 0)
		ret = mapped ? save_mapped(s, &ram, err) : save_stream(s, err);
	ret = ret < 0 ? ret : protocol_say(s->p, RECORD_END, NULL, err);
	ram_map_save_free(&ram);
	return ret;
}

/* A pipe or a terminal: nothing to replace, and no place for a page. */
static bool is_no_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

/* Save to @uri, which is removed again if it is not all there is. To have it on the disk takes time
 * that the guest need not wait. */
static int save_to(struct source *s, struct migration *m, const char *uri, bool mapped,
		   struct error *err)
{
	int ret = source_open(s, m, uri, err), closed, resumed;
	bool ours = s->ch && uri != m->uri;

	ret = ret < 0 ? ret : save(s, mapped, err);
	resumed = let_go(s, ret < 0 ? NULL : err);
	ret = ret < 0 ? ret : resumed;
	closed = source_close(s);
	if (ret == 0 && closed < 0)
		ret = error_set(err, closed, "save", m->uri + strlen(SCHEME), "",
				"a file on the disk", "%s", strerror(-closed));
	if (ret < 0 && ours)
		unlink(uri + strlen(SCHEME));
	return ret;
}

int snapshot_check(const struct migration *m, const char *uri, struct error *err)
{
	const struct migration_params *p = &m->params;
	const char *field = p->background  ? "background-snapshot"
			    : p->direct_io ? "direct-io"
			    : p->multifd   ? "channels"
					   : NULL;

	if (strncmp(uri, SCHEME, strlen(SCHEME)) != 0)
		return !p->background ? 0
				      : error_set(err, -EINVAL, "migrate", uri, field, "file:PATH",
						  "a destination");
	if (p->mirror)
		return error_set(err, -EINVAL, "migrate", uri, "blk",
				 "a destination to mirror disks to", "a file");
	if (field && (!p->mapped_ram || is_no_file(uri + strlen(SCHEME))))
		return error_set(err, -EINVAL, "migrate", uri, field,
				 "a regular file, and mapped-ram", "%s",
				 p->mapped_ram ? "something else" : "mapped-ram off");
	return 0;
}

/* Give the file its name, for as long as the file itself lasts. */
static int settle(const char *partial, const char *path, struct error *err)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) : 0;
	char folder[PATH_MAX];
	int fd, ret = 0;

	if (rename(partial, path) < 0) {
		ret = error_set(err, -errno, "save", path, "", "to give the file its name", "%m");
		unlink(partial);
		return ret;
	}
	snprintf(folder, sizeof(folder), "%.*s", (int)len, path);
	fd = open(!slash ? "." : !len ? "/" : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* One may be allowed to write to a folder and not to read it (EACCES); on some file systems
	 * a name needs no such thing (EINVAL). */
	if (fd < 0 ? errno != EACCES : fsync(fd) < 0 && errno != EINVAL)
		ret = error_set(err, -errno, "save", path, "", "its name on the disk", "%m");
	if (fd >= 0)
		close(fd);
	return ret;
}

int snapshot_run(struct migration *m, struct error *err)
{
	const char *path = m->uri + strlen(SCHEME);
	struct source s = { 0 };
	char partial[sizeof(m->uri) + 16];
	int ret;

	if (is_no_file(path)) {
		ret = save_to(&s, m, m->uri, false, err);
		source_free(&s);
		return ret;
	}
	snprintf(partial, sizeof(partial), "%s.partial", m->uri);
	ret = save_to(&s, m, partial, m->params.mapped_ram, err);
	ret = ret < 0 ? ret : settle(partial + strlen(SCHEME), path, err);
	source_free(&s);
	return ret;
}
