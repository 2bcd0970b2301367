/* SPDX-License-Identifier: BSD-2-Clause */
/* The tables by which a kernel without a device tree finds CPUs, interrupts and devices. */
#ifndef VMM_X86_ACPI_H
#define VMM_X86_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/error.h"

struct vm;
struct aml;

/*
 * Put tables made from vm->tree into guest RAM at ACPI_TABLES. A machine without a power
 * management block (no "ferry,acpi-pm" in its tree) is one without ACPI: nothing is written.
 * Hostile tree: an error names what does not fit. Loop thread.
 */
int acpi_write(struct vm *vm, struct error *err);

/* Where the root pointer (RSDP) is, or 0 in a machine without ACPI. */
uint64_t acpi_rsdp(const struct vm *vm);

/* What the DSDT says after its header: all devices of @tree that have a name in ACPI. */
int dsdt_write(struct aml *aml, const void *tree, struct error *err);

/* The MultiProcessor tables at MP_TABLES, for kernels older than ACPI. Loop thread. */
int mptable_write(struct vm *vm, struct error *err);

/* What makes the sum of all bytes 0, the byte itself having been 0. */
uint8_t table_checksum(const void *table, size_t len);

/* Of the power management block: where its registers are, and what its types of sleep are. */
#define ACPI_PM_COMPATIBLE "ferry,acpi-pm"
#define ACPI_PM_EVENT	   0 /* status and enable, 2 bytes each */
#define ACPI_PM_CONTROL	   4
#define ACPI_PM_RESET	   8
#define ACPI_PM_RESET_NOW  1
#define ACPI_PM_S0	   0
#define ACPI_PM_S5	   5

#endif
