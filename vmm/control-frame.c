/* SPDX-License-Identifier: BSD-2-Clause */
/* Cuts what a QMP peer sends into JSON texts, within bounds, whatever the bytes are. */
#include <stdlib.h>
#include <string.h>

#include "vmm/control-server.h"

#define END_OF_ANYTHING                                                           \
	((char)0xff) /* never in UTF-8; the QMP specification's way to start over \
		      */

/* Follow brackets and strings. True when the text ends with @c. */
static bool ends_with(struct frame *frame, char c)
{
	if (frame->string) {
		if (frame->escape)
			frame->escape = false;
		else if (c == '\\')
			frame->escape = true;
		else if (c == '"')
			frame->string = false;
		return c == '\n'; /* not allowed in a string (RFC 8259, 7) */
	}
	switch (c) {
	case '"':
		frame->string = true;
		return false;
	case '{':
	case '[':
		frame->depth++;
		return false;
	case '}':
	case ']':
		if (frame->depth)
			frame->depth--;
		return frame->depth == 0;
	default:
		return c == '\n' && frame->depth == 0;
	}
}

static bool store(struct frame *frame, char c)
{
	if (frame->len == frame->size) {
		size_t size = frame->size ? 2 * frame->size : 512;
		char *text;

		if (size > frame->max)
			size = frame->max;
		if (size == frame->len)
			return false;
		text = realloc(frame->text, size);
		if (!text)
			return false;
		frame->text = text;
		frame->size = size;
	}
	frame->text[frame->len++] = c;
	return true;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static enum frame_event feed_byte(struct frame *frame, char c)
{
	bool end;

	if (!frame->len && !frame->skip && (is_blank(c) || c == END_OF_ANYTHING))
		return FRAME_MORE;
	end = c == END_OF_ANYTHING || ends_with(frame, c);
	if (end) {
		frame->depth = 0;
		frame->string = frame->escape = false;
	}
	if (frame->skip) {
		frame->skip = !end;
		return FRAME_MORE;
	}
	if (frame->depth > FRAME_MAX_DEPTH || !store(frame, c)) {
		frame->len = 0;
		frame->skip = !end;
		return frame->depth > FRAME_MAX_DEPTH ? FRAME_TOO_DEEP : FRAME_TOO_LONG;
	}
	return end ? FRAME_TEXT : FRAME_MORE;
}

size_t frame_feed(struct frame *frame, const char *data, size_t n, enum frame_event *event)
{
	size_t i = 0;

	/* What the last call returned as a text has been seen by now. */
	if (frame->ended)
		frame->len = 0;
	*event = FRAME_MORE;
	while (i < n && *event == FRAME_MORE)
		*event = feed_byte(frame, data[i++]);
	frame->ended = *event == FRAME_TEXT;
	return i;
}

void frame_free(struct frame *frame)
{
	free(frame->text);
	frame->text = NULL;
	frame->len = frame->size = 0;
}
