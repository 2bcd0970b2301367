/* SPDX-License-Identifier: BSD-2-Clause */
/* What a client of the control socket may send: every text gets exactly one answer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/control-server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* These would connect somewhere, or write files: not what is tested here. */
static bool reaches_out(const struct frame *frame)
{
	return memmem(frame->text, frame->len, "migrat", 6) ||
	       memmem(frame->text, frame->len, "\\u", 2);
}

static void answer(struct vm *vm, bool *ready, const struct frame *frame)
{
	json_t *reply = control_answer(vm, ready, false, frame->text, frame->len);
	char *text = json_dumps(reply, 0);

	if (!text || !json_object_get(reply, "return") == !json_object_get(reply, "error"))
		abort();
	free(text);
	json_decref(reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame frame = { .max = 4096 };
	const char *p = (const char *)data;
	struct vm *vm;
	bool ready = size & 1;

	if (vm_create(&vm, NULL) < 0)
		abort();
	while (size) {
		enum frame_event event;
		size_t used = frame_feed(&frame, p, size, &event);

		if (!used || used > size)
			abort();
		p += used;
		size -= used;
		if (event == FRAME_TEXT && !reaches_out(&frame))
			answer(vm, &ready, &frame);
	}
	frame_free(&frame);
	vm_destroy(vm);
	return 0;
}
