/* SPDX-License-Identifier: BSD-2-Clause */
/* The other CPUs. */
#ifndef GUEST_CPUS_H
#define GUEST_CPUS_H

#include "cpu.h"

extern struct cpu *cpus[MAX_CPUS]; /* by id, machine.cpu_count of them; [0] is the boot CPU */

/*
 * Starts all CPUs but this one; each calls @run in ring 3 with its clock going and interrupts on,
 * and halts when that returns. fail() when one does not come.
 */
void cpus_start(void (*run)(struct cpu *cpu));

#endif
