/* SPDX-License-Identifier: BSD-2-Clause */
/* Following a migration through the control socket; used by ferry migrate and ferry save. */
#include "migration/watch.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 200
#define KIB	1024.0

static double number(const json_t *info, const char *object, const char *key)
{
	const json_t *from = object ? json_object_get(info, object) : info;

	return json_number_value(json_object_get(from, key));
}

static const char *text(const json_t *info, const char *key)
{
	const char *value = json_string_value(json_object_get(info, key));

	return value ? value : "";
}

/* "12.3 MiB" */
static const char *human(double bytes, char *buf, size_t size)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	unsigned int i = 0;

	for (; bytes >= KIB && i < 4; i++)
		bytes /= KIB;
	snprintf(buf, size, i ? "%.1f %s" : "%.0f %s", bytes, units[i]);
	return buf;
}

void watch_block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static bool interrupted(void)
{
	const struct timespec at_once = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	return sigtimedwait(&set, NULL, &at_once) > 0;
}

int watch_absolute(const char *uri, char *buf, size_t size, struct error *err)
{
	const char *path = strchr(uri, ':');
	char cwd[4096] = "";
	size_t scheme = path ? (size_t)(path + 1 - uri) : 0;
	int n;

	if ((strncmp(uri, "file:", scheme) == 0 || strncmp(uri, "unix:", scheme) == 0) && scheme &&
	    path[1] != '/' && path[1]) {
		if (!getcwd(cwd, sizeof(cwd)))
			return error_set(err, -errno, "migrate", uri, "", "a current directory",
					 "%m");
		strcat(cwd, "/");
	}
	n = snprintf(buf, size, "%.*s%s%s", (int)scheme, uri, cwd, uri + scheme);
	if (n < 0 || (size_t)n >= size)
		return error_set(err, -ENAMETOOLONG, "migrate", uri, "", "a shorter path",
				 "%d bytes", n);
	return 0;
}

/* ---- Progress ---- */

static void show_progress(struct control_client *client)
{
	char left[32], rate[32], dirty[32];
	double remaining, bandwidth, throttle;
	json_t *info;

	if (control_execute(client, "query-migrate", NULL, &info, NULL) < 0)
		return;
	remaining = number(info, "ram", "remaining") + number(info, "disk", "remaining");
	bandwidth = number(info, "x-ferry", "bandwidth");
	throttle = number(info, NULL, "cpu-throttle-percentage");
	fprintf(stderr, "\r%s: round %.0f, %s left, %s/s", text(info, "status"),
		number(info, "x-ferry", "rounds"), human(remaining, left, sizeof(left)),
		human(bandwidth, rate, sizeof(rate)));
	if (bandwidth > 0)
		fprintf(stderr, ", %.1f s to go", remaining / bandwidth);
	/* Of the last round; the first knows nothing yet. */
	if (number(info, "x-ferry", "rounds") > 1)
		fprintf(stderr, ", %s/s dirtied, blackout %.0f ms",
			human(number(info, "ram", "dirty-pages-rate") *
				      number(info, "ram", "page-size"),
			      dirty, sizeof(dirty)),
			number(info, NULL, "expected-downtime"));
	if (throttle > 0)
		fprintf(stderr, ", slowed by %.0f %%", throttle);
	fputs("\033[K", stderr);
	json_decref(info);
}

/* Does @event end the migration, or pause it until somebody resumes it? Then *info is its report.
 */
static bool is_the_end(const json_t *event, json_t **info)
{
	json_t *data = json_object_get(event, "data");

	if (strcmp(text(event, "event"), "MIGRATION") != 0)
		return false;
	*info = json_incref(json_object_get(data, "x-info"));
	return *info != NULL;
}

static int outcome(const json_t *info, struct error *err)
{
	const char *status = text(info, "status");

	if (strcmp(status, "completed") == 0)
		return 0;
	if (json_object_get(info, "x-error")) {
		error_from_json(json_object_get(info, "x-error"), err);
		return -EREMOTEIO;
	}
	return error_set(err, -EREMOTEIO, "migrate", "", "status", "completed", "%s", status);
}

int watch_migration(struct control_client *client, const char *uri, bool mirror, bool progress,
		    json_t **info, struct error *err)
{
	json_t *arguments = json_pack("{s:s}", "uri", uri);
	int ret;

	/* Only if it is wanted: an older ferry does not know it. */
	if (mirror)
		json_object_set_new(arguments, "blk", json_true());
	*info = NULL;
	ret = control_execute(client, "migrate", arguments, NULL, err);
	return ret < 0 ? ret : watch_end(client, progress, info, err);
}

int watch_end(struct control_client *client, bool progress, json_t **info, struct error *err)
{
	struct error ignored = { 0 };
	int ret = 0;

	*info = NULL;
	while (ret == 0 && !*info) {
		json_t *event = NULL;

		/* Too late to cancel is no error: the end will come by itself. */
		error_clear(&ignored);
		if (interrupted())
			control_execute(client, "migrate_cancel", NULL, NULL, &ignored);
		ret = control_next_event(client, TICK_MS, &event, err);
		if (ret == 0 && event && is_the_end(event, info))
			ret = outcome(*info, err);
		else if (ret == 0 && progress)
			show_progress(client);
		json_decref(event);
	}
	if (progress)
		fputs("\r\033[K", stderr);
	return ret;
}

/* ---- The report ---- */

static void print_costs(FILE *out, const json_t *info)
{
	double referenced = number(info, "x-ferry", "bytes-referenced");
	double copied = number(info, "x-ferry", "bytes-copied");
	double calls = number(info, "x-ferry", "syscalls");
	char a[32], b[32];

	fprintf(out, "  by reference  %s\n", human(referenced, a, sizeof(a)));
	fprintf(out, "  copied        %s", human(copied, a, sizeof(a)));
	if (referenced + copied > 0)
		fprintf(out, " (%.4f %%)", copied / (referenced + copied) * 100);
	fprintf(out, "\n  iovecs        %.0f queued, %.0f sent\n",
		number(info, "x-ferry", "iovecs-queued"), number(info, "x-ferry", "iovecs-sent"));
	fprintf(out, "  system calls  %.0f", calls);
	if (calls > 0)
		fprintf(out, ", %s each", human((referenced + copied) / calls, b, sizeof(b)));
	fputc('\n', out);
	if (number(info, "x-ferry", "zstd-pages") > 0)
		fprintf(out, "  compressed    %s to %s, %.0f of %.0f pages as differences\n",
			human(number(info, "x-ferry", "zstd-pages") *
				      number(info, "ram", "page-size"),
			      a, sizeof(a)),
			human(number(info, "x-ferry", "zstd-bytes"), b, sizeof(b)),
			number(info, "x-ferry", "delta-pages"),
			number(info, "x-ferry", "zstd-pages"));
	if (number(info, "x-ferry", "zero-copy-bytes") +
		    number(info, "x-ferry", "zero-copy-fallbacks") >
	    0)
		fprintf(out, "  zero copy     %s, of which the kernel copied %s; %.0f fallbacks\n",
			human(number(info, "x-ferry", "zero-copy-bytes"), a, sizeof(a)),
			human(number(info, "x-ferry", "zero-copy-copied"), b, sizeof(b)),
			number(info, "x-ferry", "zero-copy-fallbacks"));
}

void watch_report(FILE *out, const json_t *info)
{
	const json_t *own = json_object_get(info, "x-ferry");
	char a[32], b[32];

	fprintf(out, "%s %s in %.3f s\n", text(info, "status"), text(own, "uri"),
		number(info, "x-ferry", "total-ns") / 1e9);
	fprintf(out, "  rounds        %.0f\n", number(info, "x-ferry", "rounds"));
	fprintf(out, "  RAM           %s data, %s zero\n",
		human(number(info, "ram", "normal-bytes"), a, sizeof(a)),
		human(number(info, "ram", "duplicate") * number(info, "ram", "page-size"), b,
		      sizeof(b)));
	if (number(info, "x-ferry", "ram-given") > 0)
		fprintf(out, "  handed over   %s of RAM, by descriptor\n",
			human(number(info, "x-ferry", "ram-given"), a, sizeof(a)));
	if (number(info, "x-ferry", "pages-hinted") > 0)
		fprintf(out, "  hinted free   %s not sent\n",
			human(number(info, "x-ferry", "pages-hinted") *
				      number(info, "ram", "page-size"),
			      a, sizeof(a)));
	if (json_object_get(info, "disk"))
		fprintf(out, "  disks         %s data, %s zero\n",
			human(number(info, "disk", "normal-bytes"), a, sizeof(a)),
			human(number(info, "disk", "duplicate") * number(info, "disk", "page-size"),
			      b, sizeof(b)));
	if (number(info, "ram", "postcopy-bytes") > 0)
		fprintf(out, "  postcopy      %s, %.0f pages of it asked for\n",
			human(number(info, "ram", "postcopy-bytes"), a, sizeof(a)),
			number(info, "ram", "postcopy-requests"));
	print_costs(out, info);
	fprintf(out, "  throughput    %s/s while sending\n",
		human(number(info, "x-ferry", "bandwidth"), a, sizeof(a)));
	if (json_object_get(own, "blackout-ns"))
		fprintf(out, "  blackout      %.3f ms (by %s)\n",
			number(info, "x-ferry", "blackout-ns") / 1e6, text(own, "blackout-method"));
}
