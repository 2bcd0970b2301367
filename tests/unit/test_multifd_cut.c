/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Data connections that break, stall, come twice, come from strangers or say what they must not:
 * the guest goes on at the source, and both sides know why.
 */
#include "multifd-rig.h"

#include <endian.h>
#include <sys/param.h>

#include "migration/messages.h"
#include "migration/multifd.h"

#define CHANNELS 3
#define LINES	 (1 + CHANNELS) /* the main connection is line 0 */

/* Between source and destination: forwards each connection, and cuts line @at after @limit. */
struct proxy {
	struct channel_listener *listener;
	const char *uri; /* of the destination */
	int line;
	uint64_t limit;
	bool stall; /* instead of hanging up */
	uint64_t passed[LINES];
	pthread_t threads[LINES], acceptor;
	struct channel *in[LINES], *out[LINES];
	unsigned int n;
};

struct forward {
	struct proxy *p;
	unsigned int line;
};

/* Towards the source: nobody cuts that. */
static void *forward_back(void *opaque)
{
	struct forward *f = opaque;
	struct channel *in = f->p->in[f->line], *out = f->p->out[f->line];
	uint8_t buf[16384];
	ssize_t n;

	while ((n = out->ops->get_buffer(out, buf, sizeof(buf))) > 0 &&
	       in->ops->put_buffer(in, buf, (size_t)n) > 0)
		;
	channel_shutdown(in);
	channel_shutdown(out);
	return NULL;
}

static void *forward(void *opaque)
{
	struct forward *f = opaque;
	struct proxy *p = f->p;
	struct channel *in = p->in[f->line], *out = p->out[f->line];
	bool cut = p->line == (int)f->line;
	pthread_t back;
	uint8_t buf[16384];
	ssize_t n;

	pthread_create(&back, NULL, forward_back, f);
	while ((n = in->ops->get_buffer(in, buf, sizeof(buf))) > 0) {
		uint64_t left = cut ? p->limit - p->passed[f->line] : UINT64_MAX;

		n = (ssize_t)MIN((uint64_t)n, left);
		p->passed[f->line] += (uint64_t)n;
		if (n && out->ops->put_buffer(out, buf, (size_t)n) < 0)
			break;
		if (cut && p->passed[f->line] >= p->limit) {
			/* Swallow the rest, until one side finds out by its deadline. */
			while (p->stall && in->ops->get_buffer(in, buf, sizeof(buf)) > 0)
				;
			break;
		}
	}
	channel_shutdown(in);
	channel_shutdown(out);
	pthread_join(back, NULL);
	free(f);
	return NULL;
}

static void *accept_lines(void *opaque)
{
	struct proxy *p = opaque;
	struct error err = { 0 };

	while (p->n < LINES) {
		struct forward *f = malloc(sizeof(*f));
		unsigned int i = p->n;

		if (channel_accept(p->listener, 500, -1, &p->in[i], &err) < 0) {
			free(f);
			break;
		}
		if (channel_connect(p->uri, 5000, -1, &p->out[i], &err) < 0) {
			channel_close(p->in[i]);
			free(f);
			break;
		}
		*f = (struct forward){ p, i };
		p->n++;
		pthread_create(&p->threads[i], NULL, forward, f);
	}
	return NULL;
}

/* Cross with line @line cut after @limit bytes. */
static void cross(struct rig *r, struct proxy *p)
{
	struct error err = { 0 };
	char uri[64];

	snprintf(uri, sizeof(uri), "unix:/tmp/ferry-multifd-proxy-%d", (int)getpid());
	p->uri = r->uri;
	assert_int_equal(channel_listen(uri, &p->listener, &err), 0);
	pthread_create(&p->acceptor, NULL, accept_lines, p);
	rig_cross(r, uri);
	pthread_join(p->acceptor, NULL);
	for (unsigned int i = 0; i < p->n; i++) {
		pthread_join(p->threads[i], NULL);
		channel_close(p->in[i]);
		channel_close(p->out[i]);
	}
	channel_listener_close(p->listener);
}

static void fill(struct rig *r)
{
	for (uint64_t gpa = 0; gpa < r->from->memory.size; gpa += 3 * PAGE_SIZE)
		memset(memory_hva(&r->from->memory, gpa, 1), 0x5a, 1);
}

static void whole(uint64_t size[LINES])
{
	struct proxy p = { .line = -1 };
	struct rig r;

	rig_prepare(&r, 4 * MIB, CHANNELS, 10000);
	fill(&r);
	cross(&r, &p);
	assert_moved(&r);
	for (unsigned int i = 0; i < LINES; i++)
		size[i] = p.passed[i];
	rig_finish(&r);
}

/* How chunks are shared out differs from run to run, so a place beyond what a line carries then is
 * no cut at all. */
static void cut_one(int line, uint64_t limit, bool stall, unsigned int *cuts)
{
	struct proxy p = { .line = line, .limit = limit, .stall = stall };
	struct rig r;

	rig_prepare(&r, 4 * MIB, CHANNELS, stall ? 400 : 10000);
	fill(&r);
	cross(&r, &p);
	if (r.to->state == VM_RUNNING) {
		assert_true(p.passed[line] <= limit);
		assert_moved(&r);
	} else {
		assert_stayed(&r);
		++*cuts;
	}
	rig_finish(&r);
}

static void any_channel_cut_anywhere(void **state)
{
	uint64_t size[LINES];
	unsigned int cuts = 0;

	(void)state;
	whole(size);
	for (int line = 1; line < LINES; line++) {
		/* Inside of CHANNEL, at its end, in a table, in pages, and near the end. */
		const uint64_t at[] = { 1,
					32,
					100,
					250,
					300,
					4000,
					70000,
					size[line] / 2,
					size[line] - 200,
					size[line] - 1 };

		for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++)
			cut_one(line, at[i], false, &cuts);
	}
	assert_true(cuts >= 15);
}

static void any_channel_stalled(void **state)
{
	unsigned int cuts = 0;

	(void)state;
	for (int line = 1; line < LINES; line++) {
		cut_one(line, 100, true, &cuts);
		cut_one(line, 4000, true, &cuts);
	}
	assert_true(cuts >= 3);
}

/* ---- A source made by hand ---- */

struct fake {
	struct rig r;
	pthread_t loop;
	struct channel *ch[LINES];
	struct protocol *p[LINES];
	char token[TOKEN_SIZE];
};

static struct protocol *dial(struct fake *f, unsigned int i)
{
	struct error err = { 0 };

	assert_int_equal(channel_connect(f->r.uri, 5000, -1, &f->ch[i], &err), 0);
	channel_set_timeout(f->ch[i], 10000);
	f->p[i] = malloc(sizeof(*f->p[i]));
	protocol_init(f->p[i], f->ch[i], SIDE_SOURCE, i ? PROTOCOL_DATA : PROTOCOL_LIVE);
	return f->p[i];
}

static void begin_fake(struct fake *f, uint64_t channels, uint16_t until)
{
	struct error err = { 0 };
	struct protocol *p;
	struct hello hello, theirs;
	struct record rec;
	struct message m;
	void *tree = fake_tree(4 * MIB);

	memset(f, 0, sizeof(*f));
	rig_prepare(&f->r, 4 * MIB, 1, 2000);
	pthread_create(&f->loop, NULL, rig_run_loop, f->r.to);
	p = dial(f, 0);
	assert_int_equal(protocol_expect(p, RECORD_HELLO, &rec, &err), 0);
	assert_int_equal(message_get_hello(&rec, &theirs, &err), 0);
	assert_int_equal(theirs.channels_max, CHANNELS_MAX);
	assert_int_equal(strlen(theirs.channels_token), TOKEN_SIZE - 1);
	strcpy(f->token, theirs.channels_token);
	hello_local(&hello);
	hello.channels = channels;
	message_hello(&m, &hello);
	assert_int_equal(protocol_say(p, RECORD_HELLO, message_end(&m), &err), 0);
	if (until == RECORD_ACCEPT) {
		assert_int_equal(protocol_say(p, RECORD_MACHINE, tree, &err), 0);
		assert_int_equal(protocol_expect(p, RECORD_ACCEPT, &rec, &err), 0);
	}
	free(tree);
}

/* The destination has failed with @code and says so on the main connection; @field of @device. */
static void end_fake(struct fake *f, int code, const char *field)
{
	struct error err = { 0 };
	struct record rec;
	int ret;

	do {
		ret = protocol_receive(f->p[0], &rec, &err);
	} while (ret == 0);
	if (ret != code || strcmp(err.field, field) != 0)
		error_print(&err);
	assert_int_equal(ret, code);
	assert_string_equal(err.field, field);
	for (unsigned int i = 0; i < LINES; i++) {
		if (!f->p[i])
			continue;
		protocol_free(f->p[i]);
		free(f->p[i]);
		channel_close(f->ch[i]);
	}
	pthread_join(f->loop, NULL);
	assert_int_equal(f->r.to->state, VM_INMIGRATE);
	rig_finish(&f->r);
}

static void say_channel(struct fake *f, unsigned int i, const char *token, uint64_t number)
{
	struct error err = { 0 };
	struct message m;

	message_begin(&m);
	message_string(&m, "token", token);
	message_u64(&m, "number", number);
	assert_int_equal(protocol_say(dial(f, i), RECORD_CHANNEL, message_end(&m), &err), 0);
}

static void say_round(struct fake *f, unsigned int i, uint64_t round)
{
	struct error err = { 0 };
	struct message m;

	message_begin(&m);
	message_u64(&m, "round", round);
	protocol_say(f->p[i], RECORD_ROUND, message_end(&m), &err);
}

/* Strangers among the channels: no token, another one, none of our language, silence. */
static void strangers_are_sent_away(void **state)
{
	struct error err = { 0 };
	struct channel *stranger[3];
	struct fake f;

	(void)state;
	begin_fake(&f, 2, RECORD_ACCEPT);
	say_channel(&f, 1, "0123456789abcdef0123456789abcdef", 0);
	protocol_free(f.p[1]);
	free(f.p[1]);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(channel_connect(f.r.uri, 5000, -1, &stranger[i], &err), 0);
		if (i == 0)
			stranger[i]->ops->put_buffer(stranger[i],
						     "GET / HTTP/1.0\r\n\r\n........"
						     "............",
						     36);
	}
	channel_close(stranger[1]); /* came and went */
	channel_close(f.ch[1]);
	say_channel(&f, 1, f.token, 0);
	say_channel(&f, 2, f.token, 1);
	/* Both are in: what the one says is heard. */
	say_round(&f, 1, 2);
	end_fake(&f, -EPROTO, "round");
	channel_close(stranger[0]);
	channel_close(stranger[2]);
}

static void bad_numbers(void **state)
{
	static const uint64_t numbers[] = { 0, 2, 64, UINT64_MAX };
	struct fake f;

	(void)state;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		begin_fake(&f, 2, RECORD_ACCEPT);
		say_channel(&f, 1, f.token, 0);
		say_channel(&f, 2, f.token, numbers[i]);
		end_fake(&f, -EPROTO, "number");
	}
}

static void too_many_or_too_few(void **state)
{
	struct fake f;

	(void)state;
	begin_fake(&f, CHANNELS_MAX + 1, RECORD_HELLO);
	end_fake(&f, -EPROTO, "channels");
	begin_fake(&f, 2, RECORD_ACCEPT);
	say_channel(&f, 1, f.token, 0);
	end_fake(&f, -ETIMEDOUT, "channels");
}

static void send_ram(struct fake *f, unsigned int i, uint64_t gpa, uint32_t pages, uint8_t kind)
{
	const struct ram_run run = { gpa, pages, kind };
	uint8_t wire[RAM_RUN_WIRE];
	struct error err = { 0 };

	ram_runs_encode(&run, 1, wire);
	assert_int_equal(protocol_send(f->p[i], RECORD_RAM, wire, sizeof(wire), 0, false, &err), 0);
	assert_int_equal(protocol_flush(f->p[i], &err), 0);
}

/* The same checks of a table as on the main connection, and the channel says whose fault it was. */
static void bad_runs(void **state)
{
	static const struct {
		uint64_t gpa;
		uint32_t pages;
		uint8_t kind;
		const char *field;
	} runs[] = {
		{ 4 * MIB, 1, RAM_ZERO, "run 0 gpa" },
		{ 4 * MIB - PAGE_SIZE, 2, RAM_ZERO, "run 0 gpa" },
		{ 1UL << 62, 1, RAM_ZERO, "run 0 gpa" },
		{ 123, 1, RAM_ZERO, "run 0 gpa" },
		{ 0, 0, RAM_ZERO, "run 0 pages" },
		{ 0, UINT32_MAX, RAM_ZERO, "run 0 gpa" },
		{ 0, 1, 3, "run 0 kind" },
		{ 0, 1, RAM_DATA, "payload length" },
		{ UINT64_MAX - 4095, 2, RAM_ZERO, "run 0 pages" },
	};
	struct fake f;

	(void)state;
	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		begin_fake(&f, 2, RECORD_ACCEPT);
		say_channel(&f, 1, f.token, 1);
		say_channel(&f, 2, f.token, 0);
		send_ram(&f, 2, 0, 4, RAM_ZERO);
		send_ram(&f, 1, runs[i].gpa, runs[i].pages, runs[i].kind);
		end_fake(&f, -EPROTO, runs[i].field);
	}
}

/* RAM on the main connection, a round that not all have ended, an end before the others'. */
static void out_of_step(void **state)
{
	struct error err = { 0 };
	struct fake f;

	(void)state;
	begin_fake(&f, 2, RECORD_ACCEPT);
	say_channel(&f, 1, f.token, 0);
	say_channel(&f, 2, f.token, 1);
	send_ram(&f, 0, 0, 4, RAM_ZERO);
	end_fake(&f, -EPROTO, "type");

	begin_fake(&f, 2, RECORD_ACCEPT);
	say_channel(&f, 1, f.token, 0);
	say_channel(&f, 2, f.token, 1);
	say_round(&f, 1, 1);
	say_round(&f, 0, 1);
	end_fake(&f, -ETIMEDOUT, "ram"); /* the other channel never came to its end */

	begin_fake(&f, 2, RECORD_ACCEPT);
	say_channel(&f, 1, f.token, 0);
	say_channel(&f, 2, f.token, 1);
	say_round(&f, 1, 1);
	protocol_say(f.p[2], RECORD_END, NULL, &err);
	end_fake(&f, -EPROTO, "");

	/* Without data connections there is nothing whose round could end. */
	begin_fake(&f, 0, RECORD_ACCEPT);
	say_round(&f, 0, 1);
	end_fake(&f, -EPROTO, "type");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_channel_cut_anywhere),
		cmocka_unit_test(any_channel_stalled),
		cmocka_unit_test(strangers_are_sent_away),
		cmocka_unit_test(bad_numbers),
		cmocka_unit_test(too_many_or_too_few),
		cmocka_unit_test(bad_runs),
		cmocka_unit_test(out_of_step),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
