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
	setup_pmc(2, 0x00c8 | SEL_OS);			/* near returns are not modelled */
	MEASURE(CORE_ALL, ".rept 100; nop; .endr; jmp 1f; 1:");
	is_u64(PMC(0) | PMC(1) | PMC(2), 0, "events that do not exist do not happen");
}

#define KINDS_OF_BRANCHES(all, taken, far, what, body)			\
do {									\
	pmu_reset();							\
	setup_pmc(0, AMD_BRANCHES | SEL_OS);				\
	setup_pmc(1, AMD_TAKEN | SEL_OS);				\
	setup_pmc(2, AMD_FAR | SEL_OS);					\
	MEASURE(CORE_ALL, body);					\
	is_u64(PMC(0), all, what ": branches");				\
	is_u64(PMC(1), taken, what ": taken");				\
	is_u64(PMC(2), far, what ": far");				\
} while (0)

static void check_kinds_of_branches(void)
{
	KINDS_OF_BRANCHES(10, 9, 0, "loop", "mov $10, %%ecx; 1: dec %%ecx; jnz 1b");
	KINDS_OF_BRANCHES(3, 3, 0, "CALL and RET", "call 1f; jmp 2f; 1: ret; 2:");
	KINDS_OF_BRANCHES(1, 1, 1, "far RET",
			  "pushq $" STR(SEL_CODE64) "; lea 1f(%%rip), %%r8; push %%r8; lretq; 1:");
	set_gate(VEC_INT, quick_iret);
	KINDS_OF_BRANCHES(2, 2, 2, "INT n and IRET", "int $" STR(VEC_INT));
	set_gate(VEC_UD, quick_skip2);
	KINDS_OF_BRANCHES(2, 2, 2, "#UD and IRET", "ud2");
	set_gate(VEC_UD, NULL);
}

/* An interrupt takes no cycle of its own, but is in one. */
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
	check_kinds_of_branches();
	check_interrupt_in_cycle();
	check_memory();
	check_models();
}
