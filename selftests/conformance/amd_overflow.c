// SPDX-License-Identifier: GPL-2.0
/* AMD: overflow, its status bits, and the interrupts that it causes. */
#include "amd.h"

volatile u64 amd_lvtpc_in_pmi, amd_status_in_pmi;

static void note_pmi(struct regs *regs)
{
	if (pmi_count < ARRAY_SIZE(pmi_rip))
		pmi_rip[pmi_count] = regs->rip;
	pmi_count++;
	amd_status_in_pmi = rdmsr(PERF_GLOBAL_STATUS);
	amd_lvtpc_in_pmi = apic_read(APIC_LVTPC);
}

static void pmi_fixed(struct regs *regs)
{
	note_pmi(regs);
	apic_write(APIC_EOI, 0);
}

static void prepare_pmi(u32 lvtpc)
{
	amd_reset();
	pmi_count = 0;
	apic_write(APIC_LVTPC, lvtpc);
}

static void check_status_bits(void)
{
	unsigned int n;
	u64 bad = 0, bad_value = 0;

	prepare_pmi(VEC_PMI);
	for (n = 0; n < NR_CORE; n++) {
		amd_reset();
		amd_setup(n, AMD_INSNS | SEL_OS);
		amd_preset(n, 10);
		AMD_MEASURE(CORE_ALL, ".rept 16; nop; .endr");
		if (rdmsr(PERF_GLOBAL_STATUS) != BIT(n))
			bad |= BIT(n);
		if (CTR(n) != 16 + MEASURE_OVERHEAD - 10)
			bad_value |= BIT(n);
	}
	is_u64(bad, 0, "overflow sets the counter's bit in PerfCntrGlobalStatus");
	is_u64(bad_value, 0, "a counter goes on from 0");
	is_u64(pmi_count, 0, "no PMI without Int");

	amd_reset();
	amd_setup(0, AMD_INSNS | SEL_OS);
	amd_preset(0, 16 + MEASURE_OVERHEAD + 1);
	AMD_MEASURE(CORE_ALL, ".rept 16; nop; .endr");
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0, "no overflow one event before");
	is_u64(CTR(0), WIDTH_MASK, "the counter is all ones then");
	amd_preset(0, 16 + MEASURE_OVERHEAD);
	AMD_MEASURE(CORE_ALL, ".rept 16; nop; .endr");
	is_u64(rdmsr(PERF_GLOBAL_STATUS), BIT(0), "overflow with the last event");
}

/* The PMI arrives right after the instruction that overflows. */
static void check_exact_pmi(u32 lvtpc, const char *what)
{
	u64 bad = 0, count;

	for (count = 1; count <= 200; count++) {
		prepare_pmi(lvtpc);
		amd_setup(0, AMD_INSNS | SEL_OS | SEL_INT);
		amd_preset(0, count);
		asm volatile("sti");
		AMD_MEASURE(CORE_ALL,
			    "lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); 1: .rept 300; nop; .endr");
		asm volatile("cli");
		/* Two instructions stand before the sled. */
		if (pmi_count != 1 || (count > 2 && pmi_rip[0] != *(u64 *)scratch + count - 2))
			bad++;
	}
	ok(!bad, "%s: arrives right after the instruction that overflows (%lu wrong)", what, bad);
}

static void check_exact_branch_pmi(void)
{
	u64 bad = 0, count;

	for (count = 1; count <= 100; count++) {
		prepare_pmi(LVT_NMI);
		amd_setup(0, AMD_BRANCHES | SEL_OS | SEL_INT);
		amd_preset(0, count);
		/* Each JMP and the NOP behind it are three bytes. */
		AMD_MEASURE(CORE_ALL,
			    "lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); 1: .rept 150; .byte 0xeb, 0x00, 0x90; .endr");
		if (pmi_count != 1 || pmi_rip[0] != *(u64 *)scratch + count * 3 - 1)
			bad++;
	}
	ok(!bad, "branches, NMI: arrives right behind the branch (%lu wrong)", bad);
}

static void check_masking(void)
{
	prepare_pmi(LVT_NMI);
	amd_setup(0, AMD_INSNS | SEL_OS | SEL_INT);
	amd_preset(0, 5);
	AMD_MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 1, "NMI: delivered");
	is_u64(amd_status_in_pmi, BIT(0), "NMI: the handler sees the status bit");
	is_u64(amd_lvtpc_in_pmi, LVT_NMI, "NMI: the LVT entry does not mask itself");
	amd_preset(0, 5);
	AMD_MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 2, "NMI: the next overflow is delivered at once, status bit or not");

	prepare_pmi(VEC_PMI | LVT_MASKED);
	amd_setup(0, AMD_INSNS | SEL_OS | SEL_INT);
	amd_preset(0, 5);
	asm volatile("sti");
	AMD_MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	asm volatile("cli");
	is_u64(pmi_count, 0, "masked: dropped");
	is_u64(rdmsr(PERF_GLOBAL_STATUS), BIT(0), "masked: the status bit is set");

	prepare_pmi(VEC_PMI);
	amd_setup(0, AMD_INSNS | SEL_OS | SEL_INT);
	amd_preset(0, 5);
	AMD_MEASURE(CORE_ALL, ".rept 20; nop; .endr");
	is_u64(pmi_count, 0, "fixed vector with IF 0: waits");
	is_u64(apic_read(APIC_LVTPC), VEC_PMI, "fixed vector: not masked");
	asm volatile("sti; nop; nop; cli");
	is_u64(pmi_count, 1, "fixed vector: comes with IF 1");

	prepare_pmi(LVT_NMI);
	wrmsr(PERF_GLOBAL_STATUS_SET, BIT(0));
	asm volatile(".rept 10; nop; .endr");
	is_u64(pmi_count, 0, "PerfCntrGlobalStatusSet causes no PMI");
}

void test_amd_overflow(void)
{
	set_trap_handler(VEC_PMI, pmi_fixed);
	set_trap_handler(VEC_NMI, note_pmi);
	check_status_bits();
	check_exact_pmi(VEC_PMI, "instructions, fixed vector");
	check_exact_pmi(LVT_NMI, "instructions, NMI");
	check_exact_branch_pmi();
	check_masking();
	apic_write(APIC_LVTPC, LVT_MASKED);
	amd_reset();
}
