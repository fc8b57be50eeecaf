// SPDX-License-Identifier: GPL-2.0
/* AMD: the legacy registers, and events that only AMD has. */
#include "amd.h"

static void check_switches(void)
{
	pmu_reset();
	wrmsr(PERF_GLOBAL_CTL, CORE_ALL);
	MEASURE_MSR(LEGACY_PERF_CTL0, AMD_INSNS | SEL_OS | SEL_EN, ".rept 100; nop; .endr");
	is_u64(PMC(0), 100 + MEASURE_OVERHEAD, "enabled and disabled by a legacy PerfEvtSel");

	pmu_reset();
	setup_pmc(0, 0x0001 | SEL_OS);
	setup_pmc(1, AMD_INSNS | BIT(32) | SEL_OS);	/* 1C0H */
	setup_pmc(2, 0x00c5 | SEL_OS);			/* mispredicted taken branches are not modelled */
	MEASURE(CORE_ALL, ".rept 100; nop; .endr; jmp 1f; 1:");
	is_u64(PMC(0) | PMC(1) | PMC(2), 0, "events that do not exist do not happen");
}

/* Cycles with one branch, with two, and without one, of what interrupts */
static void setup_cycles(void)
{
	pmu_reset();
	setup_pmc(0, AMD_FAR | SEL_OS | SEL_CMASK(1));
	setup_pmc(1, AMD_FAR | SEL_OS | SEL_CMASK(2));
	setup_pmc(2, AMD_FAR | SEL_OS | SEL_INV | SEL_CMASK(2));
	setup_pmc(3, AMD_CYCLES | SEL_OS);
	setup_pmc(4, AMD_FAR | SEL_OS);
}

static void is_cycles(u64 far, u64 cycles, const char *what)
{
	is_u64(PMC(4), far, "%s: far transfers", what);
	is_u64(PMC(0), far, "%s: cycles with one", what);
	is_u64(PMC(1), 0, "%s: cycles with two", what);
	is_u64(PMC(2), cycles, "%s: cycles with less than two", what);
	is_u64(PMC(3), cycles, "%s: cycles", what);
}

/* Two interrupts in a row, or one and a far transfer in its handler, are in no cycle together. */
static void check_interrupts_share_no_cycle(void)
{
	/* An NMI whose handler is an IRET: it and the IRET */
	set_gate(VEC_NMI, quick_iret);
	apic_write(APIC_LVTPC, LVT_NMI);
	setup_cycles();
	setup_pmc(5, AMD_INSNS | SEL_OS | SEL_INT);
	preset_pmc(5, 5);
	MEASURE(CORE_ALL, ".rept 10; nop; .endr");
	is_cycles(2, 10 + 1 + MEASURE_OVERHEAD, "an NMI and IRET");

	/* An interrupt whose delivery overflows: it, the NMI, and two IRETs */
	set_gate(VEC_IPI, quick_eoi);
	setup_cycles();
	setup_pmc(5, AMD_BRANCHES | SEL_OS | SEL_INT);
	preset_pmc(5, 1);
	asm volatile("sti");
	MEASURE(CORE_ALL, SEND_SELF_IPI "; nop; nop");
	asm volatile("cli");
	is_cycles(4, 4 + 3 + MEASURE_OVERHEAD, "an interrupt and an NMI");
	set_gate(VEC_IPI, NULL);
	set_gate(VEC_NMI, NULL);
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}

/* An interrupt takes no cycle of its own. */
static void check_interrupt_in_cycle(void)
{
	set_gate(VEC_IPI, quick_eoi);
	pmu_reset();
	setup_pmc(0, AMD_BRANCHES | SEL_OS | SEL_CMASK(1));
	setup_pmc(1, AMD_BRANCHES | SEL_OS | SEL_CMASK(2));
	asm volatile("sti");
	MEASURE(CORE_ALL, SEND_SELF_IPI "; nop; nop");
	asm volatile("cli");
	set_gate(VEC_IPI, NULL);
	is_u64(PMC(0), 2, "an interrupt and its IRET: cycles with a branch");
	is_u64(PMC(1), 0, "an interrupt and its IRET: cycles with two branches");
}

/* Dispatched loads, stores, and instructions that are both, by unit mask */
static void check_memory(void)
{
	pmu_reset();
	setup_pmc(0, AMD_LS_DISPATCH | 1 << 8 | SEL_OS);
	setup_pmc(1, AMD_LS_DISPATCH | 2 << 8 | SEL_OS);
	setup_pmc(2, AMD_LS_DISPATCH | 4 << 8 | SEL_OS);
	setup_pmc(3, AMD_LS_DISPATCH | 7 << 8 | SEL_OS);
	setup_pmc(4, AMD_LS_DISPATCH | SEL_OS);
	MEASURE(CORE_ALL,
		".rept 10; mov (%%rbx), %%eax; .endr; .rept 5; mov %%eax, (%%rbx); .endr;"
		".rept 3; incl (%%rbx); .endr; nop; nop");
	is_u64(PMC(0), 10, "loads");
	is_u64(PMC(1), 5, "stores");
	is_u64(PMC(2), 3, "loads with stores");
	is_u64(PMC(3), 18, "all of them");
	is_u64(PMC(4), 0, "none of them");
}

static void check_models(void)
{
	pmu_reset();
	setup_pmc(0, AMD_CYCLES | SEL_OS);
	setup_pmc(1, AMD_REF_CYCLES | SEL_OS);
	setup_pmc(2, AMD_BR_MISSES | SEL_OS);
	setup_pmc(3, AMD_L2_REFS | SEL_OS);
	setup_pmc(4, AMD_L2_MISSES | SEL_OS);
	setup_pmc(5, AMD_INSNS | SEL_OS);
	MEASURE(CORE_ALL, "mov $100000, %%ecx; 1: nop; nop; dec %%ecx; jnz 1b");
	is_u64(PMC(0), PMC(5), "model: a cycle for each instruction");
	is_u64(PMC(1), PMC(0), "model: reference cycles are core cycles");
	ok(PMC(2) >= 1 && PMC(2) < 100,
	   "model: mispredicted branches: a loop is learnt (%lu)", PMC(2));
	ok(PMC(3) > 100 && PMC(3) < 100000, "model: L2 requests in a loop (%lu)", PMC(3));
	ok(PMC(4) > 10 && PMC(4) < PMC(3), "model: L2 misses in a loop (%lu)", PMC(4));
}

void test_amd_counting(void)
{
	check_switches();
	check_interrupt_in_cycle();
	check_interrupts_share_no_cycle();
	check_memory();
	check_models();
}
