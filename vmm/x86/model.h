/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CPU models: what of a host's CPU a guest is shown, so that it can move to hosts which are unlike.
 * Without KVM; any thread.
 */
#ifndef VMM_X86_MODEL_H
#define VMM_X86_MODEL_H

#include <stdbool.h>
#include <stdio.h>

#include "vmm/x86/cpuid.h"

/* In /cpus of a tree that has no table yet: the name of the model to make one of. */
#define PROP_CPU_MODEL "ferry,cpu-model"

/* "host", "x86-64-v2", "x86-64-v3"? */
bool model_is_name(const char *name);
/* The table of a named model, made of what the host offers. -ENOTSUP, naming features, when that is
 * too little for it. */
int model_build(const char *name, const struct cpuid_table *host, struct cpuid_table *out,
		struct error *err);

/* Reduce @table to what @other has too; vendors must be the same. What is no feature (names,
 * caches) stays that of @table. */
int model_intersect(struct cpuid_table *table, const struct cpuid_table *other, struct error *err);

/* The text that `ferry cpu` writes, the same for the same table; and reading it, which is checked.
 * A file is hostile. */
int model_write(FILE *out, const struct cpuid_table *table, struct error *err);
int model_read(const char *path, struct cpuid_table *table, struct error *err);

#endif
