// SPDX-License-Identifier: GPL-2.0
/* Intel: the fixed counters, and events that only Intel has. */
#include "intel.h"

static void check_switches(void)
{
	pmu_reset();
	wrmsr(IA32_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	MEASURE_MSR(IA32_FIXED_CTR_CTRL, FIXED_CTRL(0, FIXED_OS), ".rept 100; nop; .endr");
	is_u64(FIXED(0), 100 + MEASURE_OVERHEAD, "enabled and disabled by FIXED_CTR_CTRL");

	pmu_reset();
	setup_pmc(0, 0x0001 | SEL_OS);
	setup_pmc(1, 0x00ff | SEL_OS);
	setup_pmc(2, 0x01c0 | SEL_OS);
	MEASURE(GLOBAL_ALL, ".rept 100; nop; .endr");
	is_u64(PMC(0) | PMC(1) | PMC(2), 0, "events that do not exist do not happen");
}

static void check_cycles(void)
{
	setup_exact(ALL_MODES);
	setup_pmc(3, EV_REF | ALL_MODES);
	setup_pmc(4, EV_SLOTS | ALL_MODES);
	MEASURE(GLOBAL_ALL,
		"mov $10000, %%ecx; 1: nop; nop; nop; loop 1b; mov $4000, %%ecx; rep stosb");
	ok(FIXED(1) >= FIXED(0), "there are at least as many cycles as instructions");
	is_u64(PMC(2), FIXED(1), "core cycles: GP and fixed counter agree");
	is_u64(PMC(3), FIXED(2), "reference cycles: GP and fixed counter agree");
	is_u64(FIXED(2), FIXED(1), "model: reference cycles are core cycles");
	is_u64(PMC(4), 6 * FIXED(1), "model: 6 slots in a cycle");
	if (pmu->fixed_counters & BIT(3))
		is_u64(PMC(4), FIXED(3), "slots: GP and fixed counter agree");
}

/* Parts of the slots; see patches/bochs-3.0/README.md. */
static void check_topdown(unsigned int n, unsigned int part, const char *what)
{
	u64 count, least;

	pmu_reset();
	setup_pmc(0, EV_SLOTS | SEL_OS);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(n, FIXED_OS));
	MEASURE(GLOBAL_ALL, "mov $100000, %%ecx; 1: nop; nop; loop 1b");
	count = FIXED(n);
	least = PMC(0) * part / 255;
	ok(count >= least && count <= least + 1, "model: %s (%lu)", what, count);
}

static void check_model_events(void)
{
	pmu_reset();
	setup_pmc(0, EV_LLC_REFS | ALL_MODES);
	setup_pmc(1, EV_LLC_MISSES | ALL_MODES);
	setup_pmc(2, EV_BR_MISSES | ALL_MODES);
	MEASURE(GLOBAL_ALL, ".rept 10; clflush (%%rbx); .endr");
	ok(PMC(0) >= 10 && PMC(0) <= 12, "LLC references: flushed lines (%lu)", PMC(0));
	ok(PMC(1) >= 10 && PMC(1) <= PMC(0), "LLC misses: flushed lines (%lu)", PMC(1));

	pmu_reset();
	setup_pmc(0, EV_LLC_REFS | ALL_MODES);
	setup_pmc(1, EV_LLC_MISSES | ALL_MODES);
	setup_pmc(2, EV_BR_MISSES | ALL_MODES);
	MEASURE(GLOBAL_ALL, "mov $100000, %%ecx; 1: nop; nop; dec %%ecx; jnz 1b");
	ok(PMC(0) > 100 && PMC(0) < 100000, "LLC references in a loop (%lu)", PMC(0));
	ok(PMC(1) > 10 && PMC(1) < PMC(0), "LLC misses in a loop (%lu)", PMC(1));
	ok(PMC(2) >= 1 && PMC(2) < 100, "mispredicted branches: a loop is learnt (%lu)", PMC(2));

	pmu_reset();
	setup_pmc(2, EV_BR_MISSES | ALL_MODES);
	MEASURE(GLOBAL_ALL,
		"mov $1000, %%ecx; mov $12345, %%eax;"
		"1: imul $1103515245, %%eax, %%eax; add $12345, %%eax;"
		"test $0x10000, %%eax; jz 2f; nop; 2: dec %%ecx; jnz 1b");
	ok(PMC(2) > 200 && PMC(2) < 1000,
	   "mispredicted branches: random ones are not (%lu)", PMC(2));
}

/* MEM_INST_RETIRED, the one event that is not architectural */
static void check_memory(void)
{
	pmu_reset();
	setup_pmc(0, EV_LOADS | SEL_OS);
	setup_pmc(1, EV_STORES | SEL_OS);
	setup_pmc(2, EV_MEM_ANY | SEL_OS);
	MEASURE(GLOBAL_ALL,
		".rept 10; mov (%%rbx), %%eax; .endr; .rept 5; mov %%eax, (%%rbx); .endr;"
		".rept 3; incl (%%rbx); .endr; nop; nop");
	is_u64(PMC(0), 13, "loads");
	is_u64(PMC(1), 8, "stores");
	is_u64(PMC(2), 18, "loads and stores");
	pmu_reset();
	setup_pmc(0, EV_LOADS | SEL_OS);
	setup_pmc(1, EV_STORES | SEL_OS);
	MEASURE(GLOBAL_ALL,
		"push %%rax; push %%rax; pop %%rax; call 1f; jmp 2f; 1: ret; 2: pop %%rax");
	is_u64(PMC(0), 3, "loads of POP and RET");
	is_u64(PMC(1), 3, "stores of PUSH and CALL");
}

static void check_slots(void)
{
	pmu_reset();
	setup_pmc(0, EV_SLOTS | SEL_OS | SEL_CMASK(6));
	setup_pmc(1, EV_SLOTS | SEL_OS | SEL_CMASK(7));
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr; mov $10, %%ecx; 1: loop 1b");
	is_u64(PMC(0), 61 + MEASURE_OVERHEAD, "CMASK 6: cycles with six slots");
	is_u64(PMC(1), 0, "CMASK 7: cycles with seven slots");
}

void test_intel_counting(void)
{
	check_switches();
	check_cycles();
	check_model_events();
	check_memory();
	check_slots();
	if (pmu->fixed_counters & BIT(4))
		check_topdown(4, 0x2b, "slots lost by bad speculation");
	if (pmu->fixed_counters & BIT(5))
		check_topdown(5, 0x2a, "slots lost by the frontend");
	if (pmu->fixed_counters & BIT(6))
		check_topdown(6, 0x2a, "slots that retire");
}
