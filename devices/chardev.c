/* SPDX-License-Identifier: BSD-2-Clause */
/* Character devices: two buffers that migrate, and their life. chardev-flow.c moves the bytes. */
#include "devices/chardev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/chardev-flow.h"

#define DROP_STEP 4096U

#define KEEP(n, t, bytes, elements, of, most)                                                      \
	{                                                                                          \
		.name = #n, .type = (t), .since = 1, .flags = FIELD_KEEP,                          \
		.offset = offsetof(struct chardev_state, n), .size = (bytes), .count = (elements), \
		.count_offset = (of), .max = (most)                                                \
	}

const struct field chardev_fields[] = {
	KEEP(in_len, FIELD_UINT, sizeof(uint32_t), 1, NO_COUNT, CHARDEV_IN),
	KEEP(out_len, FIELD_UINT, sizeof(uint32_t), 1, NO_COUNT, CHARDEV_OUT),
	KEEP(in, FIELD_BYTES, 1, CHARDEV_IN, offsetof(struct chardev_state, in_len), 0),
	KEEP(out, FIELD_BYTES, 1, CHARDEV_OUT, offsetof(struct chardev_state, out_len), 0),
	FIELDS_END,
};

void chardev_shift(uint8_t *buf, uint32_t *len, size_t n)
{
	*len -= (uint32_t)n;
	memmove(buf, buf + n, *len);
}

/* Make room for @len bytes, of which there are at most CHARDEV_OUT, by forgetting the oldest. */
static void drop_oldest(struct chardev_state *s, size_t len)
{
	size_t room = sizeof(s->out) - s->out_len;
	size_t drop = len > room ? len - room : 0;

	if (drop > 0 && drop < DROP_STEP)
		drop = DROP_STEP;
	chardev_shift(s->out, &s->out_len, drop < s->out_len ? drop : s->out_len);
}

size_t chardev_write(struct chardev *cd, const void *data, size_t len)
{
	struct chardev_state *s = cd->state;
	size_t n = len < sizeof(s->out) ? len : sizeof(s->out);

	if (cd->gone)
		return len;
	if (chardev_nobody_reads(cd))
		drop_oldest(s, n);
	if (n > sizeof(s->out) - s->out_len)
		n = sizeof(s->out) - s->out_len;
	memcpy(s->out + s->out_len, data, n);
	s->out_len += (uint32_t)n;
	cd->refused = n < len;
	if (cd->refused || !cd->blocked)
		chardev_kick(cd);
	return n;
}

void chardev_poke(struct chardev *cd)
{
	if (cd->state->in_len > 0)
		chardev_kick(cd);
}

int chardev_check(const char *spec, const char *option, struct error *err)
{
	return chardev_host_check(spec, option, err);
}

int chardev_open(struct chardev **out, struct device *dev, const char *spec,
		 const struct chardev_ops *ops, struct chardev_state *state, struct error *err)
{
	struct chardev *cd = calloc(1, sizeof(*cd));
	int ret;

	*out = NULL;
	if (!cd)
		return error_set(err, -ENOMEM, "realize", dev->name, "", "memory", "none");
	cd->dev = dev;
	cd->ops = ops;
	cd->state = state;
	cd->in_polled = true;
	cd->owned = !device_is_incoming(dev);
	ret = chardev_host_open(&cd->host, spec ? spec : "none", dev, err);
	if (ret < 0) {
		free(cd);
		return ret;
	}
	cd->gone = cd->host.out < 0 && cd->host.listener < 0;
	ret = chardev_flow_open(cd);
	if (ret < 0) {
		chardev_close(cd);
		return error_set(err, ret, "realize", dev->name, "", "an eventfd", "%s",
				 strerror(-ret));
	}
	*out = cd;
	return 0;
}

void chardev_close(struct chardev *cd)
{
	if (!cd)
		return;
	chardev_flow_close(cd);
	cd->host.lent |= device_is_handing_on(cd->dev);
	chardev_host_close(&cd->host);
	free(cd);
}

static void set_owned(struct chardev *cd, bool owned)
{
	if (!cd)
		return;
	pthread_mutex_lock(&cd->dev->lock);
	cd->owned = owned;
	pthread_mutex_unlock(&cd->dev->lock);
}

void chardev_claim(struct chardev *cd)
{
	set_owned(cd, true);
}

void chardev_yield(struct chardev *cd)
{
	set_owned(cd, false);
}

/* dev->lock is held. */
void chardev_hand_on(struct chardev *cd, struct device_fds *fds)
{
	chardev_host_hand_on(&cd->host, fds);
}
