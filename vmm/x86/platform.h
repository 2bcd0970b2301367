/* SPDX-License-Identifier: BSD-2-Clause */
/* The fixed places of the x86 machine: one map, so that loaders, tables and devices agree. */
#ifndef VMM_X86_PLATFORM_H
#define VMM_X86_PLATFORM_H

/* RAM below 4 GiB ends here at the latest; devices and the local APICs live above. */
#define HOLE_START     0xc0000000ULL
#define HOLE_END       0x100000000ULL
#define MMIO_BASE      0xd0000000ULL
#define MMIO_SLOT_SIZE 0x1000ULL
#define IOAPIC_BASE    0xfec00000ULL
#define LAPIC_BASE     0xfee00000ULL
/* Three pages that KVM wants on Intel hosts, and one for its identity map (KVM API 4.34, 4.35). */
#define KVM_TSS_BASE   0xfffbd000ULL
#define KVM_IDMAP_BASE 0xfffbc000ULL

/* Below 1 MiB: what boot protocols want there. */
#define BOOT_GDT	 0x500ULL
#define BOOT_INFO	 0x6000ULL /* start_info, memory map, module list */
#define BOOT_PARAMS	 0x7000ULL /* Linux' "zero page" */
#define BOOT_PAGE_TABLES 0x9000ULL /* six pages: all below 4 GiB at its own address */
#define BOOT_CMDLINE	 0x20000ULL
#define BOOT_CMDLINE_MAX 0x10000ULL
#define EBDA_START	 0x9fc00ULL
#define LOW_RAM_END	 0xa0000ULL
/* Where operating systems search for them (ACPI 5.2.5.1, MultiProcessor Specification 4.1). */
#define ACPI_TABLES	0xe0000ULL
#define ACPI_TABLES_MAX 0x10000ULL
#define MP_TABLES	0xf0000ULL
#define MP_TABLES_MAX	0x10000ULL
#define TABLES_MAX	(ACPI_TABLES_MAX + MP_TABLES_MAX) /* of both, from ACPI_TABLES on */
#define HIGH_RAM_START	0x100000ULL

#endif
