/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The terminal that ferry was started on: at most one device has it at a time, in raw mode, and it
 * is put back on every way out.
 */
#ifndef DEVICES_TERMINAL_H
#define DEVICES_TERMINAL_H

#include <stdbool.h>

#include "vmm/error.h"

/*
 * Claim standard input and output for @device. If input is a terminal it becomes raw (and *is_tty
 * is set): keys reach the guest unchanged, Ctrl-C included. -EBUSY names the device that has it
 * already. Any thread.
 */
int terminal_claim(const char *device, bool *is_tty, struct error *err);

/* Give it up and put its mode back. Only by who claimed it. Any thread. */
void terminal_release(void);

#endif
