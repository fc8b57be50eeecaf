// SPDX-License-Identifier: GPL-2.0
/* Overflow, its status bits, and the interrupts that it causes. */
#include "conf.h"

static volatile u64 counter_in_pmi, status_in_pmi, lvtpc_in_pmi;
static volatile bool nmi_unmask;

static void note_pmi(struct regs *regs)
{
	if (pmi_count < ARRAY_SIZE(pmi_rip))
		pmi_rip[pmi_count] = regs->rip;
	pmi_count++;
	counter_in_pmi = GP(0);
	status_in_pmi = rdmsr(IA32_PERF_GLOBAL_STATUS);
	lvtpc_in_pmi = apic_read(APIC_LVTPC);
}

static void pmi_fixed(struct regs *regs)
{
	note_pmi(regs);
	apic_write(APIC_EOI, 0);
}

static void pmi_nmi(struct regs *regs)
{
	note_pmi(regs);
	if (nmi_unmask)
		apic_write(APIC_LVTPC, LVT_NMI);
}

static void prepare_pmi(u32 lvtpc)
{
	pmu_reset();
	pmi_count = 0;
	apic_write(APIC_LVTPC, lvtpc);
}

/* Let counter n overflow after count events. */
static void preset_gp(unsigned int n, u64 count)
{
	wrmsr(IA32_A_PMC0 + n, -count & WIDTH_MASK);
}

static void check_status_bits(void)
{
	static const u32 fixed_bits = FIXED_CTRL(0, FIXED_OS) | FIXED_CTRL(1, FIXED_OS) |
				      FIXED_CTRL(2, FIXED_OS) | FIXED_CTRL(3, FIXED_OS);
	unsigned int n;
	u64 bad = 0, bad_value = 0;

	prepare_pmi(VEC_PMI);
	for (n = 0; n < NR_GP; n++) {
		pmu_reset();
		setup_gp(n, EV_INSNS | SEL_OS);
		preset_gp(n, 10);
		MEASURE(GLOBAL_ALL, ".rept 16; nop; .endr");
		if (rdmsr(IA32_PERF_GLOBAL_STATUS) != BIT(n))
			bad |= BIT(n);
		if (GP(n) != 16 + MEASURE_OVERHEAD - 10)
			bad_value |= BIT(n);
	}
	for (n = 0; n < NR_FIXED; n++) {
		pmu_reset();
		wrmsr(IA32_FIXED_CTR_CTRL, fixed_bits);
		wrmsr(IA32_FIXED_CTR0 + n, -10ull & WIDTH_MASK);
		MEASURE(BIT(32 + n), ".rept 16; nop; .endr");
		if (rdmsr(IA32_PERF_GLOBAL_STATUS) != BIT(32 + n))
			bad |= BIT(32 + n);
	}
	is_u64(bad, 0, "overflow sets the counter's bit in GLOBAL_STATUS");
	is_u64(bad_value, 0, "a counter goes on from 0");
	is_u64(pmi_count, 0, "no PMI without INT");

	pmu_reset();
	setup_gp(0, EV_INSNS | SEL_OS);
	preset_gp(0, 16 + MEASURE_OVERHEAD + 1);
	MEASURE(GLOBAL_ALL, ".rept 16; nop; .endr");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "no overflow one event before");
	is_u64(GP(0), WIDTH_MASK, "the counter is all ones then");
	preset_gp(0, 16 + MEASURE_OVERHEAD);
	MEASURE(GLOBAL_ALL, ".rept 16; nop; .endr");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(0), "overflow with the last event");
}

/* The PMI arrives right after the instruction that overflows. */
static void check_exact_pmi(u32 lvtpc, const char *what)
{
	u64 bad = 0, bad_at = 0, count;

	for (count = 1; count <= 200; count++) {
		prepare_pmi(lvtpc);
		setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
		preset_gp(0, count);
		asm volatile("sti");
		MEASURE(GLOBAL_ALL,
			"lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); 1: .rept 300; nop; .endr");
		asm volatile("cli");
		/* Two instructions stand before the sled. */
		if (pmi_count != 1 || (count > 2 && pmi_rip[0] != *(u64 *)scratch + count - 2)) {
			bad++;
			bad_at = count;
		}
	}
	ok(!bad,
	   "%s: arrives right after the instruction that overflows (%lu wrong, last %lu)", what, bad, bad_at);
}

static void check_exact_branch_pmi(void)
{
	u64 bad = 0, count;

	for (count = 1; count <= 100; count++) {
		prepare_pmi(LVT_NMI);
		setup_gp(0, EV_BRANCHES | SEL_OS | SEL_INT);
		preset_gp(0, count);
		/* Each JMP and the NOP behind it are three bytes. */
		MEASURE(GLOBAL_ALL, "lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); 1: .rept 150; .byte 0xeb, 0x00, 0x90; .endr");
		if (pmi_count != 1 || pmi_rip[0] != *(u64 *)scratch + count * 3 - 1)
			bad++;
	}
	ok(!bad, "branches, NMI: arrives right behind the branch (%lu wrong)", bad);

	prepare_pmi(LVT_NMI);
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
	preset_gp(0, 2 + 3 * 50000);
	MEASURE(GLOBAL_ALL,
		"mov $100000, %%ecx; 1: lea 1b(%%rip), %%r8; mov %%r8, (%%rbx); loop 1b");
	is_u64(pmi_rip[0], *(u64 *)scratch + 7, "instructions, NMI: in the middle of a long loop");
	is_u64(pmi_count, 1, "only once");
}

static void check_masking(void)
{
	prepare_pmi(LVT_NMI);
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
	preset_gp(0, 5);
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 1, "NMI: delivered");
	is_u64(status_in_pmi, BIT(0), "NMI: the handler sees the status bit");
	is_u64(lvtpc_in_pmi, LVT_NMI | LVT_MASKED, "NMI: the LVT entry masked itself");

	/* Still masked: the next overflow is dropped. */
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, GLOBAL_ALL);
	preset_gp(0, 5);
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 1, "masked: dropped");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(0), "masked: the status bit is set");
	apic_write(APIC_LVTPC, LVT_NMI);
	asm volatile(".rept 10; nop; .endr");
	is_u64(pmi_count, 1, "unmasked: what was dropped does not come back");

	prepare_pmi(VEC_PMI | LVT_MASKED);
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
	preset_gp(0, 5);
	asm volatile("sti");
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	asm volatile("cli");
	is_u64(pmi_count, 0, "fixed vector, masked: dropped");

	prepare_pmi(VEC_PMI);
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
	preset_gp(0, 5);
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 0, "fixed vector with IF 0: waits");
	is_u64(apic_read(APIC_LVTPC), VEC_PMI | LVT_MASKED, "fixed vector: masked itself");
	asm volatile("sti; nop; nop; cli");
	is_u64(pmi_count, 1, "fixed vector: comes with IF 1");

	prepare_pmi(LVT_NMI);
	wrmsr(IA32_PERF_GLOBAL_STATUS_SET, BIT(0));
	asm volatile(".rept 10; nop; .endr");
	is_u64(pmi_count, 0, "STATUS_SET causes no PMI");

	prepare_pmi(LVT_NMI);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(0, FIXED_OS | FIXED_PMI));
	wrmsr(IA32_FIXED_CTR0, -5ull & WIDTH_MASK);
	MEASURE(GLOBAL_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 1, "fixed counter: PMI");
	is_u64(status_in_pmi, BIT(32), "fixed counter: status bit");
}

/* An NMI handler that unmasks LVTPC gets one PMI for each overflow. */
static void check_sampling(void)
{
	nmi_unmask = true;
	prepare_pmi(LVT_NMI);
	setup_gp(1, EV_INSNS | SEL_OS);
	setup_gp(0, EV_BRANCHES | SEL_OS | SEL_INT);
	wrmsr(IA32_A_PMC0, WIDTH_MASK);
	MEASURE(GLOBAL_ALL, "jmp 1f; 1: nop");
	is_u64(pmi_count, 1, "one overflow, one PMI");
	nmi_unmask = false;
}

static void check_freeze(void)
{
	u64 frozen;

	prepare_pmi(LVT_NMI);
	wrmsr(IA32_DEBUGCTL, DEBUGCTL_FREEZE_PERFMON_ON_PMI);
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
	setup_gp(1, EV_INSNS | SEL_OS);
	preset_gp(0, 10);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(pmi_count, 1, "freeze on PMI: PMI");
	is_u64(status_in_pmi, BIT(0) | STATUS_CTR_FRZ, "freeze on PMI: CTR_FRZ in the status");
	is_u64(counter_in_pmi, 0, "freeze on PMI: the counter stopped at 0");
	is_u64(GP(1), 10, "freeze on PMI: another counter stopped at the same instruction");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(0) | STATUS_CTR_FRZ, "freeze on PMI: stays");
	is_u64(rdmsr(IA32_PERF_GLOBAL_CTRL), 0, "freeze on PMI: GLOBAL_CTRL is the software's");
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(GP(1), 10, "frozen: nothing counts");
	wrmsr(IA32_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	frozen = GP(1);
	MEASURE_MSR(IA32_PERF_GLOBAL_STATUS_RESET, GLOBAL_ALL | STATUS_CTR_FRZ,
		    ".rept 50; nop; .endr");
	ok(GP(1) >= frozen + 50, "frozen: clearing CTR_FRZ thaws");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "frozen: status is clear");

	prepare_pmi(LVT_NMI);
	wrmsr(IA32_DEBUGCTL, DEBUGCTL_FREEZE_PERFMON_ON_PMI);
	setup_gp(0, EV_INSNS | SEL_OS);
	preset_gp(0, 10);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(0),
	       "freeze on PMI: not by an overflow without INT");
	is_u64(GP(0), 50 + MEASURE_OVERHEAD - 10, "freeze on PMI: and counting goes on");

	pmu_reset();
	setup_gp(0, EV_INSNS | SEL_OS);
	wrmsr(IA32_PERF_GLOBAL_STATUS_SET, STATUS_CTR_FRZ);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	is_u64(GP(0), 0, "CTR_FRZ set by software freezes too");

	prepare_pmi(LVT_NMI);
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
	setup_gp(1, EV_INSNS | SEL_OS);
	preset_gp(0, 10);
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr");
	ok(GP(1) > 50 + MEASURE_OVERHEAD, "no freeze: the handler counts");
	pmu_reset();
}

void test_overflow(void)
{
	set_trap_handler(VEC_PMI, pmi_fixed);
	set_trap_handler(VEC_NMI, pmi_nmi);
	check_status_bits();
	check_exact_pmi(VEC_PMI, "instructions, fixed vector");
	check_exact_pmi(LVT_NMI, "instructions, NMI");
	check_exact_branch_pmi();
	check_masking();
	check_sampling();
	check_freeze();
	apic_write(APIC_LVTPC, LVT_MASKED);
}
