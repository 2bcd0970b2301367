/* SPDX-License-Identifier: BSD-2-Clause */
/* Messages as small trees; see messages.h for what each has. */
#include "migration/messages.h"

#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>

#include "migration/protocol.h"
#include "vmm/arch.h"

void message_begin(struct message *m)
{
	memset(m, 0, sizeof(*m));
	m->ret = fdt_create(m->buf, sizeof(m->buf));
	m->ret = m->ret ? m->ret : fdt_finish_reservemap(m->buf);
	m->ret = m->ret ? m->ret : fdt_begin_node(m->buf, "");
}

void message_u64(struct message *m, const char *name, uint64_t value)
{
	m->ret = m->ret ? m->ret : fdt_property_u64(m->buf, name, value);
}

void message_string(struct message *m, const char *name, const char *value)
{
	m->ret = m->ret ? m->ret : fdt_property(m->buf, name, value, (int)strlen(value) + 1);
}

const void *message_end(struct message *m)
{
	m->ret = m->ret ? m->ret : fdt_end_node(m->buf);
	m->ret = m->ret ? m->ret : fdt_finish(m->buf);
	if (m->ret)
		fdt_create_empty_tree(m->buf, 256);
	return m->buf;
}

const void *message_open(const struct record *rec, struct error *err)
{
	int ret = rec->meta_len ? fdt_check_full(rec->meta, rec->meta_len) : -FDT_ERR_TRUNCATED;

	if (ret == 0)
		return rec->meta;
	error_set(err, -EPROTO, "stream", rec->device, "metadata", "a flattened tree", "%s",
		  fdt_strerror(ret));
	return NULL;
}

uint64_t message_get_u64(const void *fdt, const char *name, uint64_t def)
{
	int len;
	const fdt64_t *value = fdt_getprop(fdt, 0, name, &len);

	return value && len == sizeof(*value) ? fdt64_ld(value) : def;
}

void message_get_string(const void *fdt, const char *name, char *buf, size_t size)
{
	int len;
	const char *value = fdt_getprop(fdt, 0, name, &len);
	size_t n = value && len > 0 ? strnlen(value, (size_t)len) : 0;

	if (n >= size)
		n = size - 1;
	for (size_t i = 0; i < n; i++)
		buf[i] = value[i] >= ' ' && value[i] <= '~' ? value[i] : '?';
	buf[n] = '\0';
}

/* ---- HELLO ---- */

/* The first line of @path that begins with @key, what follows its ':'; or the first line. */
static void host_line(const char *path, const char *key, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	char line[256];
	size_t n;

	buf[0] = '\0';
	while (f && !buf[0] && fgets(line, sizeof(line), f)) {
		const char *value = line;

		line[strcspn(line, "\n")] = '\0';
		if (*key) {
			const char *colon = strchr(line, ':');

			if (!colon || strncmp(line, key, strlen(key)) != 0)
				continue;
			value = colon + 1 + strspn(colon + 1, " ");
		}
		n = strnlen(value, size - 1);
		memcpy(buf, value, n);
		buf[n] = '\0';
	}
	if (f)
		fclose(f);
}

void hello_local(struct hello *hello)
{
	memset(hello, 0, sizeof(*hello));
	hello->version_min = PROTOCOL_VERSION_MIN;
	hello->version_max = PROTOCOL_VERSION_MAX;
	snprintf(hello->machine, sizeof(hello->machine), "%s", arch_machine());
	snprintf(hello->build, sizeof(hello->build), "ferry %s", FERRY_VERSION);
	host_line("/proc/cpuinfo", "model name", hello->cpu, sizeof(hello->cpu));
	host_line("/proc/sys/kernel/random/boot_id", "", hello->boot_id, sizeof(hello->boot_id));
	hello->ram_record_max = record_info(RECORD_RAM)->payload_max;
	hello->block_record_max = record_info(RECORD_BLOCK)->payload_max;
}

void message_hello(struct message *m, const struct hello *hello)
{
	message_begin(m);
	message_u64(m, "version-min", hello->version_min);
	message_u64(m, "version-max", hello->version_max);
	message_string(m, "machine", hello->machine);
	message_string(m, "build", hello->build);
	message_string(m, "cpu", hello->cpu);
	message_string(m, "boot-id", hello->boot_id);
	message_u64(m, "ram-record-max", hello->ram_record_max);
	if (hello->block_record_max)
		message_u64(m, "block-record-max", hello->block_record_max);
	if (hello->mirror_disks)
		message_u64(m, "mirror-disks", hello->mirror_disks);
	if (hello->ram_fd)
		message_u64(m, "ram-fd", hello->ram_fd);
	if (hello->device_fds)
		message_u64(m, "device-fds", hello->device_fds);
	if (hello->zstd)
		message_u64(m, "zstd", hello->zstd);
	if (hello->postcopy)
		message_u64(m, "postcopy", hello->postcopy);
	if (hello->channels)
		message_u64(m, "channels", hello->channels);
	if (hello->channels_max) {
		message_u64(m, "channels-max", hello->channels_max);
		message_string(m, "channels-token", hello->channels_token);
	}
}

int message_get_hello(const struct record *rec, struct hello *hello, struct error *err)
{
	const void *fdt = message_open(rec, err);

	memset(hello, 0, sizeof(*hello));
	if (!fdt)
		return -EPROTO;
	hello->version_min = message_get_u64(fdt, "version-min", 0);
	hello->version_max = message_get_u64(fdt, "version-max", 0);
	message_get_string(fdt, "machine", hello->machine, sizeof(hello->machine));
	message_get_string(fdt, "build", hello->build, sizeof(hello->build));
	message_get_string(fdt, "cpu", hello->cpu, sizeof(hello->cpu));
	message_get_string(fdt, "boot-id", hello->boot_id, sizeof(hello->boot_id));
	hello->ram_record_max = message_get_u64(fdt, "ram-record-max", 0);
	hello->block_record_max = message_get_u64(fdt, "block-record-max", 0);
	hello->mirror_disks = message_get_u64(fdt, "mirror-disks", 0);
	hello->ram_fd = message_get_u64(fdt, "ram-fd", 0);
	hello->device_fds = message_get_u64(fdt, "device-fds", 0);
	hello->zstd = message_get_u64(fdt, "zstd", 0);
	hello->postcopy = message_get_u64(fdt, "postcopy", 0);
	hello->channels = message_get_u64(fdt, "channels", 0);
	hello->channels_max = message_get_u64(fdt, "channels-max", 0);
	message_get_string(fdt, "channels-token", hello->channels_token,
			   sizeof(hello->channels_token));
	return 0;
}

int hello_agree(const struct hello *ours, const struct hello *theirs, const char *device,
		unsigned int *version, struct error *err)
{
	if (theirs->version_min > ours->version_max || theirs->version_max < ours->version_min ||
	    theirs->version_min > theirs->version_max) {
		error_set(err, -EPROTONOSUPPORT, "hello", device, "version", "", "%llu to %llu",
			  (unsigned long long)theirs->version_min,
			  (unsigned long long)theirs->version_max);
		error_expected(err, "%llu to %llu", (unsigned long long)ours->version_min,
			       (unsigned long long)ours->version_max);
		return -EPROTONOSUPPORT;
	}
	*version = (unsigned int)(theirs->version_max < ours->version_max ? theirs->version_max
									  : ours->version_max);
	if (strcmp(ours->machine, theirs->machine) != 0)
		return error_set(err, -EPROTONOSUPPORT, "hello", device, "machine", ours->machine,
				 "%s", theirs->machine);
	if (theirs->ram_record_max < RAM_RECORD_MIN)
		return error_set(err, -EPROTO, "hello", device, "ram-record-max", "at least a page",
				 "%llu", (unsigned long long)theirs->ram_record_max);
	return 0;
}

/* ---- REJECT and FAILED ---- */

void message_error(struct message *m, const struct error *err)
{
	message_begin(m);
	message_u64(m, "code", (uint64_t)-err->code);
	message_string(m, "phase", err->phase);
	message_string(m, "device", err->device);
	message_string(m, "field", err->field);
	message_string(m, "expected", err->expected);
	message_string(m, "got", err->got);
}

int message_get_error(const struct record *rec, struct error *err)
{
	const void *fdt = message_open(rec, err);
	struct error e = { 0 };
	uint64_t code;

	if (!fdt)
		return -EPROTO;
	code = message_get_u64(fdt, "code", EREMOTEIO);
	e.code = code >= 1 && code < 4096 ? -(int)code : -EREMOTEIO;
	message_get_string(fdt, "phase", e.phase, sizeof(e.phase));
	message_get_string(fdt, "device", e.device, sizeof(e.device));
	message_get_string(fdt, "field", e.field, sizeof(e.field));
	message_get_string(fdt, "expected", e.expected, sizeof(e.expected));
	message_get_string(fdt, "got", e.got, sizeof(e.got));
	if (err && !err->code)
		*err = e;
	return e.code;
}
