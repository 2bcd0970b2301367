/* SPDX-License-Identifier: BSD-2-Clause */
/* ferry inspect: print a saved stream, record by record. */
#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migration/block-runs.h"
#include "migration/channel.h"
#include "migration/chunks.h"
#include "migration/ram-map.h"
#include "migration/record.h"
#include "migration/stream.h"
#include "vmm/command.h"
#include "vmm/options.h"
#include "vmm/serve.h"
#include "vmm/tree.h"

struct inspect {
	struct stream *stream;
	struct channel *ch;
	struct record_reader reader;
	struct ram_run runs[RAM_RUNS_MAX];
	uint64_t records, data_pages, zero_pages;
	bool mapped; /* behind END there is RAM */
	bool ended;
};

/* The table of a RAM record: what lies where. */
static int print_ram(struct inspect *in, const struct record *rec, struct error *err)
{
	uint64_t data = 0, zero = 0;
	int n = ram_runs_decode(rec, in->runs, err);

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		const struct ram_run *run = &in->runs[i];

		*(run->kind == RAM_DATA ? &data : &zero) += run->pages;
		printf("          0x%09llx  %6u pages  %s\n", (unsigned long long)run->gpa,
		       run->pages, run->kind == RAM_DATA ? "data" : "zero");
	}
	in->data_pages += data;
	in->zero_pages += zero;
	return 0;
}

/* Where a region lies, what of it is data, and whether that is what it was. */
static int print_extent(struct inspect *in, const struct ram_extent *e, int fd, char *buf,
			struct error *err)
{
	uint64_t sum = 0, data = 0, pos = e->offset, end = pos + e->size, from, to;
	off_t size = lseek(fd, 0, SEEK_END);

	if (size < (off_t)end) {
		error_set(err, -EPIPE, "inspect", in->ch->name, "RAM", "", "%lld", (long long)size);
		error_expected(err, "a file of %llu bytes", (unsigned long long)end);
		return -EPIPE;
	}

	while (pos < end && ram_map_next_data(fd, pos, end, &from, &to)) {
		uint64_t n = to - from < CHUNK_SIZE ? to - from : CHUNK_SIZE;

		if (pread(fd, buf, n, (off_t)from) != (ssize_t)n)
			return error_set(err, -EPIPE, "inspect", in->ch->name, "RAM", "all of it",
					 "fewer at byte %llu", (unsigned long long)from);
		sum += ram_map_sum(buf, e->gpa + (from - e->offset), n, &data);
		pos = from + n;
	}
	in->data_pages += data;
	in->zero_pages += (e->size >> PAGE_SHIFT) - data;
	printf("          0x%09llx  %6llu pages  at byte %llu, %llu of them data, sum %s\n",
	       (unsigned long long)e->gpa, (unsigned long long)(e->size >> PAGE_SHIFT),
	       (unsigned long long)e->offset, (unsigned long long)data,
	       sum == e->sum ? "right" : "WRONG");
	return sum == e->sum ? 0
			     : error_set(err, -EBADMSG, "inspect", in->ch->name, "RAM",
					 "pages whose sum is that of RAM_MAP", "other pages");
}

static int print_map(struct inspect *in, const struct record *rec, struct error *err)
{
	struct ram_map map;
	char *buf;
	int ret = ram_map_decode(rec, &map, err), fd;

	if (ret < 0)
		return ret;
	in->mapped = true;
	fd = channel_file(in->ch, O_RDONLY);
	buf = fd < 0 ? NULL
		     : mmap(NULL, CHUNK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
	if (!buf || buf == MAP_FAILED)
		ret = error_set(err, fd < 0 ? fd : -ENOMEM, "inspect", in->ch->name, "RAM",
				"a regular file, and memory for a piece of it", "neither");
	for (unsigned int i = 0; i < map.n && ret == 0; i++)
		ret = print_extent(in, &map.extents[i], fd, buf, err);
	if (buf && buf != MAP_FAILED)
		munmap(buf, CHUNK_SIZE);
	if (fd >= 0)
		close(fd);
	return ret;
}

/* The table of a BLOCK record, in a captured stream. */
static int print_block(const struct record *rec, struct error *err)
{
	struct block_run runs[BLOCK_RUNS_MAX];
	char name[BLOCK_NAME_MAX];
	int n = block_runs_decode(rec, name, runs, err);

	for (int i = 0; i < n; i++)
		printf("          %s  %12llu  %10llu bytes  %s\n", name,
		       (unsigned long long)runs[i].offset, (unsigned long long)runs[i].len,
		       runs[i].kind == RAM_DATA ? "data" : "zero");
	return n < 0 ? n : 0;
}

static int print_tree(const struct record *rec, struct error *err)
{
	int ret = fdt_check_full(rec->meta, rec->meta_len);

	if (ret)
		return error_set(err, -EPROTO, "inspect", rec->device, "metadata",
				 "a flattened tree", "%s", fdt_strerror(ret));
	tree_print(stdout, rec->meta);
	return 0;
}

static int print_record(struct inspect *in, const struct record *rec, struct error *err)
{
	int ret = 0;

	printf("%9llu  %-8s  number %u, %u + %llu bytes, checksums right\n",
	       (unsigned long long)rec->offset, record_name(rec->type), rec->sequence,
	       rec->meta_len, (unsigned long long)rec->payload_len);
	if (rec->type == RECORD_RAM)
		ret = print_ram(in, rec, err);
	else if (rec->type == RECORD_RAM_MAP)
		ret = print_map(in, rec, err);
	else if (rec->type == RECORD_BLOCK)
		ret = print_block(rec, err);
	else if (rec->meta_len)
		ret = print_tree(rec, err);
	in->records++;
	in->ended = rec->type == RECORD_END;
	if (ret == 0)
		ret = record_payload_result(&in->reader, rec,
					    stream_skip(in->stream, rec->payload_len), err);
	return ret;
}

/* All records to the end of the stream or to the first that is wrong. */
static int inspect_stream(struct inspect *in, struct error *err)
{
	struct record rec;
	int ret;

	while ((ret = record_read(&in->reader, &rec, err)) == 0) {
		ret = print_record(in, &rec, err);
		if (ret < 0 || (in->mapped && in->ended))
			return ret;
	}
	if (ret == -ENODATA && in->ended) {
		error_clear(err);
		return 0;
	}
	return ret;
}

static int inspect_file(const char *path, struct error *err)
{
	struct channel_listener *listener = NULL;
	struct channel *ch = NULL;
	struct inspect *in = calloc(1, sizeof(*in));
	char uri[4096];
	int ret;

	snprintf(uri, sizeof(uri), "file:%s", path);
	if (in)
		in->stream = malloc(sizeof(*in->stream));
	ret = in && in->stream ? channel_listen(uri, &listener, err)
			       : error_set(err, -ENOMEM, "inspect", path, "", "memory", "none");
	ret = ret < 0 ? ret : channel_accept(listener, -1, -1, &ch, err);
	if (ret == 0) {
		in->ch = ch;
		stream_init(in->stream, ch);
		record_reader_init(&in->reader, in->stream);
		ret = inspect_stream(in, err);
		printf("%llu records, %llu bytes, RAM: %llu data and %llu zero pages; %s\n",
		       (unsigned long long)in->records,
		       (unsigned long long)stream_get_position(in->stream),
		       (unsigned long long)in->data_pages, (unsigned long long)in->zero_pages,
		       ret == 0 ? "complete" : "NOT COMPLETE");
		record_reader_free(&in->reader);
	}
	channel_close(ch);
	channel_listener_close(listener);
	if (in)
		free(in->stream);
	free(in);
	return ret;
}

static int main_inspect(int argc, char **argv)
{
	bool help = false;
	const struct option_spec specs[] = {
		{ "help", NULL, "show this", option_set_flag, &help },
	};
	struct error err = { 0 };
	unsigned int n_rest;
	const char *file;

	if (options_parse(argc, argv, specs, 1, &file, 1, &n_rest, &err) == 0 && !help && !n_rest)
		error_set(&err, -EINVAL, "options", "arguments", "", "FILE", "none");
	if (err.code)
		return usage_error("inspect", &err);
	if (help) {
		puts("Usage: ferry inspect FILE");
		return STATUS_OK;
	}
	if (inspect_file(file, &err) == 0)
		return STATUS_OK;
	fflush(stdout);
	error_print(&err);
	return STATUS_ERROR;
}

static const struct command inspect_command = {
	.name = "inspect",
	.synopsis = "FILE",
	.help = "print a saved machine or a captured stream, record by record",
	.run = main_inspect,
};
COMMAND(inspect_command);
