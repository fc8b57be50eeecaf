// SPDX-License-Identifier: GPL-2.0
/* AMD: LVTPC does not mask itself. */
#include "amd.h"

void test_amd_overflow(void)
{
	prepare_overflow(LVT_NMI, AMD_INSNS, 5);
	MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	preset_pmc(0, 5);
	MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 2, "NMI: the next overflow is delivered at once, status bit or not");
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}
