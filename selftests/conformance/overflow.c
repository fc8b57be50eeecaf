// SPDX-License-Identifier: GPL-2.0
/* Overflow, its status bits, and the interrupts that it causes. */
#include "conf.h"

volatile struct seen seen_in_pmi;

void note_pmi(struct regs *regs)
{
	if (pmi_count < ARRAY_SIZE(pmi_rip))
		pmi_rip[pmi_count] = regs->rip;
	pmi_count++;
	seen_in_pmi.counter = PMC(0);
	seen_in_pmi.status = rdmsr(pmu->global_status);
	seen_in_pmi.lvtpc = apic_read(APIC_LVTPC);
}

static void pmi_fixed(struct regs *regs)
{
	note_pmi(regs);
	apic_write(APIC_EOI, 0);
}

void prepare_pmi(u32 lvtpc)
{
	pmu_reset();
	pmi_count = 0;
	apic_write(APIC_LVTPC, lvtpc);
}

void prepare_overflow(u32 lvtpc, u64 event, u64 count)
{
	prepare_pmi(lvtpc);
	setup_pmc(0, event | SEL_OS | SEL_INT);
	preset_pmc(0, count);
}

static void check_status_bits(void)
{
	unsigned int n;
	u64 bad = 0, bad_value = 0;

	prepare_pmi(VEC_PMI);
	for (n = 0; n < pmu->nr_counters; n++) {
		pmu_reset();
		setup_pmc(n, pmu->insns | SEL_OS);
		preset_pmc(n, 10);
		MEASURE(pmu->all_counters, ".rept 16; nop; .endr");
		if (rdmsr(pmu->global_status) != BIT(n))
			bad |= BIT(n);
		if (PMC(n) != 16 + MEASURE_OVERHEAD - 10)
			bad_value |= BIT(n);
	}
	is_u64(bad, 0, "overflow sets the counter's bit in %s", pmu->global_status_name);
	is_u64(bad_value, 0, "a counter goes on from 0");
	is_u64(pmi_count, 0, "no PMI without INT");
}

static void check_last_event(void)
{
	pmu_reset();
	setup_pmc(0, pmu->insns | SEL_OS);
	preset_pmc(0, 16 + MEASURE_OVERHEAD + 1);
	MEASURE(pmu->all_counters, ".rept 16; nop; .endr");
	is_u64(rdmsr(pmu->global_status), 0, "no overflow one event before");
	is_u64(PMC(0), WIDTH_MASK, "the counter is all ones then");
	preset_pmc(0, 16 + MEASURE_OVERHEAD);
	MEASURE(pmu->all_counters, ".rept 16; nop; .endr");
	is_u64(rdmsr(pmu->global_status), BIT(0), "overflow with the last event");
}

/* Two instructions that leave in scratch where the next ones start. */
#define NOTE_START	"lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); 1: "

/* The PMI arrives right after the instruction that overflows. */
static void check_exact_pmi(u32 lvtpc, const char *what)
{
	u64 bad = 0, bad_at = 0, count;

	for (count = 1; count <= 200; count++) {
		prepare_overflow(lvtpc, pmu->insns, count);
		asm volatile("sti");
		MEASURE(pmu->all_counters, NOTE_START ".rept 300; nop; .endr");
		asm volatile("cli");
		/* Two instructions stand before the sled. */
		if (pmi_count != 1 || (count > 2 && pmi_rip[0] != *(u64 *)scratch + count - 2)) {
			bad++;
			bad_at = count;
		}
	}
	ok(!bad,
	   "%s: arrives right after the instruction that overflows (%lu wrong, last %lu)",
	   what, bad, bad_at);
}

static void check_exact_branch_pmi(void)
{
	u64 bad = 0, count;

	for (count = 1; count <= 100; count++) {
		prepare_overflow(LVT_NMI, pmu->branches, count);
		/* Each JMP and the NOP behind it are three bytes. */
		MEASURE(pmu->all_counters, NOTE_START ".rept 150; .byte 0xeb, 0x00, 0x90; .endr");
		if (pmi_count != 1 || pmi_rip[0] != *(u64 *)scratch + count * 3 - 1)
			bad++;
	}
	ok(!bad, "branches, NMI: arrives right behind the branch (%lu wrong)", bad);
}

static void check_pmi_in_loop(void)
{
	prepare_overflow(LVT_NMI, pmu->insns, 2 + 3 * 50000);
	MEASURE(pmu->all_counters,
		"mov $100000, %%ecx; 1: lea 1b(%%rip), %%r8; mov %%r8, (%%rbx); loop 1b");
	is_u64(pmi_rip[0], *(u64 *)scratch + 7, "instructions, NMI: in the middle of a long loop");
	is_u64(pmi_count, 1, "only once");
}

static void check_masking(void)
{
	u32 self_masked = pmu->pmi_masks_lvtpc ? LVT_MASKED : 0;

	prepare_overflow(LVT_NMI, pmu->insns, 5);
	MEASURE(pmu->all_counters, ".rept 20; nop; .endr");
	is_u64(pmi_count, 1, "NMI: delivered");
	is_u64(seen_in_pmi.status, BIT(0), "NMI: the handler sees the status bit");
	is_u64(seen_in_pmi.lvtpc, LVT_NMI | self_masked, "NMI: the LVT entry %s itself",
	       self_masked ? "masked" : "did not mask");

	prepare_overflow(VEC_PMI | LVT_MASKED, pmu->insns, 5);
	asm volatile("sti");
	MEASURE(pmu->all_counters, ".rept 20; nop; .endr");
	asm volatile("cli");
	is_u64(pmi_count, 0, "fixed vector, masked: dropped");
	is_u64(rdmsr(pmu->global_status), BIT(0), "fixed vector, masked: the status bit is set");

	prepare_overflow(VEC_PMI, pmu->insns, 5);
	MEASURE(pmu->all_counters, ".rept 20; nop; .endr");
	is_u64(pmi_count, 0, "fixed vector with IF 0: waits");
	is_u64(apic_read(APIC_LVTPC), VEC_PMI | self_masked, "fixed vector: %s itself",
	       self_masked ? "masked" : "did not mask");
	asm volatile("sti; nop; nop; cli");
	is_u64(pmi_count, 1, "fixed vector: comes with IF 1");

	prepare_pmi(LVT_NMI);
	wrmsr(pmu->global_status_set, BIT(0));
	asm volatile(".rept 10; nop; .endr");
	is_u64(pmi_count, 0, "a status bit that is written causes no PMI");
}

void test_overflow(void)
{
	set_trap_handler(VEC_PMI, pmi_fixed);
	set_trap_handler(VEC_NMI, note_pmi);
	check_status_bits();
	check_last_event();
	check_exact_pmi(VEC_PMI, "instructions, fixed vector");
	check_exact_pmi(LVT_NMI, "instructions, NMI");
	check_exact_branch_pmi();
	check_pmi_in_loop();
	check_masking();
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}
