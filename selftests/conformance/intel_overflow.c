// SPDX-License-Identifier: GPL-2.0
/* Intel: fixed counters that overflow, LVTPC that masks itself, freezing on PMIs. */
#include "intel.h"

static void check_fixed(void)
{
	unsigned int n;
	u64 bad = 0;

	for_each_fixed(n) {
		pmu_reset();
		wrmsr(IA32_FIXED_CTR_CTRL, fixed_all(FIXED_OS));
		wrmsr(IA32_FIXED_CTR0 + n, -10ull & WIDTH_MASK);
		MEASURE(BIT(32 + n), ".rept 16; nop; .endr");
		if (rdmsr(IA32_PERF_GLOBAL_STATUS) != BIT(32 + n))
			bad |= BIT(32 + n);
	}
	is_u64(bad, 0, "fixed counters: overflow sets the counter's bit in GLOBAL_STATUS");

	prepare_pmi(LVT_NMI);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(0, FIXED_OS | FIXED_PMI));
	wrmsr(IA32_FIXED_CTR0, -5ull & WIDTH_MASK);
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 1, "fixed counter: PMI");
	is_u64(seen_in_pmi.status, BIT(32), "fixed counter: status bit");
}

static void check_self_masking(void)
{
	prepare_overflow(LVT_NMI, EV_INSNS, 5);
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	/* Masked now: the next overflow is dropped. */
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, GLOBAL_ALL);
	preset_pmc(0, 5);
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 1, "masked: dropped");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(0), "masked: the status bit is set");
	apic_write(APIC_LVTPC, LVT_NMI);
	asm volatile(".rept 10; nop; .endr");
	is_u64(pmi_count, 1, "unmasked: what was dropped does not come back");
}

static void note_pmi_and_unmask(struct regs *regs)
{
	note_pmi(regs);
	apic_write(APIC_LVTPC, LVT_NMI);
}

/* A handler that unmasks LVTPC gets one PMI for each overflow. */
static void check_unmasking(void)
{
	set_trap_handler(VEC_NMI, note_pmi_and_unmask);
	prepare_overflow(LVT_NMI, EV_BRANCHES, 1);
	setup_pmc(1, EV_INSNS | SEL_OS);
	MEASURE(GLOBAL_ALL, "jmp 1f; 1: nop");
	is_u64(pmi_count, 1, "one overflow, one PMI");
	set_trap_handler(VEC_NMI, note_pmi);
}

static void prepare_freeze(u64 selector)
{
	prepare_pmi(LVT_NMI);
	wrmsr(IA32_DEBUGCTL, DEBUGCTL_FREEZE_PERFMON_ON_PMI);
	setup_pmc(0, selector);
	setup_pmc(1, EV_INSNS | SEL_OS);
	preset_pmc(0, 10);
}

static void check_freeze(void)
{
	u64 frozen;

	prepare_freeze(EV_INSNS | SEL_OS | SEL_INT);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(pmi_count, 1, "freeze on PMI: PMI");
	is_u64(seen_in_pmi.status, BIT(0) | STATUS_CTR_FRZ, "freeze on PMI: CTR_FRZ in the status");
	is_u64(seen_in_pmi.counter, 0, "freeze on PMI: the counter stopped at 0");
	is_u64(PMC(1), 10, "freeze on PMI: another counter stopped at the same instruction");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(0) | STATUS_CTR_FRZ, "freeze on PMI: stays");
	is_u64(rdmsr(IA32_PERF_GLOBAL_CTRL), 0, "freeze on PMI: GLOBAL_CTRL is the software's");
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(PMC(1), 10, "frozen: nothing counts");
	wrmsr(IA32_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	frozen = PMC(1);
	MEASURE_MSR(IA32_PERF_GLOBAL_STATUS_RESET, GLOBAL_ALL | STATUS_CTR_FRZ,
		    ".rept 50; nop; .endr");
	ok(PMC(1) >= frozen + 50, "frozen: clearing CTR_FRZ thaws");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "frozen: status is clear");
}

static void check_freeze_causes(void)
{
	prepare_freeze(EV_INSNS | SEL_OS);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(0),
	       "freeze on PMI: not by an overflow without INT");
	is_u64(PMC(0), 50 + MEASURE_OVERHEAD - 10, "freeze on PMI: and counting goes on");

	pmu_reset();
	setup_pmc(0, EV_INSNS | SEL_OS);
	wrmsr(IA32_PERF_GLOBAL_STATUS_SET, STATUS_CTR_FRZ);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(PMC(0), 0, "CTR_FRZ set by software freezes too");

	prepare_freeze(EV_INSNS | SEL_OS | SEL_INT);
	wrmsr(IA32_DEBUGCTL, 0);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	ok(PMC(1) > 50 + MEASURE_OVERHEAD, "no freeze: the handler counts");
}

void test_intel_overflow(void)
{
	check_fixed();
	check_self_masking();
	check_unmasking();
	check_freeze();
	check_freeze_causes();
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}
