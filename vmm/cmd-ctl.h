/* SPDX-License-Identifier: BSD-2-Clause */
/* What small clients of the control socket share. */
#ifndef VMM_CMD_CTL_H
#define VMM_CMD_CTL_H

#include <jansson.h>

#include "vmm/error.h"

#define CTL_TIMEOUT_MS 30000

/* "key=value" words as an object: a value that is JSON is taken as such, any other is a string. */
int ctl_parse_args(const char *const *words, unsigned int n, json_t **out, struct error *err);

/* Setter of an option in seconds; @opaque is a uint64_t of milliseconds. */
int ctl_set_seconds(void *opaque, const char *value, struct error *err);

#endif
