/* SPDX-License-Identifier: BSD-2-Clause */
/* Weak stand-ins for the control socket until it is there; then this file goes. */
#include <errno.h>

#include "vmm/control.h"

__attribute__((weak)) int control_open(struct vm *vm, const char *path, struct error *err)
{
	(void)vm;
	return error_set(err, -ENOSYS, "start", path, "--control", "a control socket", "none yet");
}

__attribute__((weak)) void control_close(struct vm *vm)
{
	(void)vm;
}
