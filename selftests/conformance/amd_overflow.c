// SPDX-License-Identifier: GPL-2.0
/* AMD: LVTPC does not mask itself, and interrupts count as branches. */
#include "amd.h"

static void check_no_self_masking(void)
{
	prepare_overflow(LVT_NMI, AMD_INSNS, 5);
	MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	preset_pmc(0, 5);
	MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 2, "NMI: the next overflow is delivered at once, status bit or not");
}

/* An interrupt that a processor sends to itself is the branch that overflows. */
static void check_interrupt_overflows(void)
{
	set_gate(VEC_IPI, quick_eoi);
	prepare_overflow(LVT_NMI, AMD_BRANCHES, 1);
	asm volatile("sti");
	MEASURE(CORE_ALL, SEND_SELF_IPI "; nop; nop");
	asm volatile("cli");
	set_gate(VEC_IPI, NULL);
	is_u64(pmi_count, 1, "NMI: an interrupt makes a counter of branches overflow");
	is_u64(pmi_rip[0], (u64)quick_eoi, "NMI: before the interrupt's handler begins");
}

void test_amd_overflow(void)
{
	check_no_self_masking();
	check_interrupt_overflows();
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}
