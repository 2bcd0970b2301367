/* SPDX-License-Identifier: BSD-2-Clause */
/* Where the x86 machine keeps RAM and devices. */
#include "vmm/x86/platform.h"

#include <errno.h>

#include "vmm/arch.h"

const char *arch_machine(void)
{
	return "ferry,machine-x86_64";
}

void arch_relax(void)
{
	__builtin_ia32_pause();
}

void arch_memory_hole(uint64_t *start, uint64_t *end)
{
	*start = HOLE_START;
	*end = HOLE_END;
}

int arch_mmio_slot(unsigned int i, uint64_t *gpa, uint64_t *size, uint32_t *gsi)
{
	/* Pins 16 to 23 of the IOAPIC are free of ISA meaning; then the ISA lines no PC device has.
	 */
	static const uint32_t gsis[] = {
		16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 14, 15
	};

	if (i >= sizeof(gsis) / sizeof(gsis[0]))
		return -ENOSPC;
	*gpa = MMIO_BASE + i * MMIO_SLOT_SIZE;
	*size = MMIO_SLOT_SIZE;
	*gsi = gsis[i];
	return 0;
}
