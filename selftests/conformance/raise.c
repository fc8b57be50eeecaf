// SPDX-License-Identifier: GPL-2.0
/* Interrupts on request: emucost_raise(). */
#include "raise.h"

void prepare_raise(u32 lvtpc)
{
	emucost_raise(0, EMUCOST_IN_HOST, EMUCOST_NEVER, 0);
	emucost_raise(0, EMUCOST_IN_GUESTS, EMUCOST_NEVER, 0);
	prepare_pmi(lvtpc);
}

#define NOTE_START	"lea 1f(%%rip), %%r8; mov %%r8, (%%rbx)"
#define SLED_START	(*(u64 *)scratch)

/* All of emucost_raise() but the last OUT, then that and a sled right behind it */
static void raise_here(u64 insns, u64 status)
{
	emucost_cmd(EMUCOST_CMD_CPU | apic_read(APIC_ID) >> 24);
	emucost_parameter(insns);
	emucost_parameter(status);
	MEASURE(pmu->all_counters,
		NOTE_START "; mov $" STR(EMUCOST_PORT_CMD) ", %%edx;"
		"mov $0x90000000, %%eax; outl %%eax, %%dx; 1: .rept 700; nop; .endr");
}

static u64 raised(void)
{
	emucost_latch();
	return emucost_read(apic_read(APIC_ID) >> 24, EMUCOST_RAISED);
}

static void check_arrival(void)
{
	u64 insns, before, bad = 0, bad_at = 0, bad_count = 0;

	for (insns = 0; insns < 200; insns += insns < 40 ? 1 : 13) {
		prepare_raise(LVT_NMI);
		before = raised();
		raise_here(insns, BIT(1));
		bad_count += raised() != before + 1;
		if (pmi_count != 1 || pmi_rip[0] != SLED_START + insns ||
		    seen_in_pmi.status != BIT(1)) {
			bad++;
			bad_at = insns;
		}
	}
	ok(!bad, "raise: an NMI after so many instructions (%lu wrong, last %lu)", bad, bad_at);
	is_u64(bad_count, 0, "raise: and it is counted");
}

static void check_lvtpc(void)
{
	prepare_raise(VEC_PMI | LVT_MASKED);
	raise_here(10, BIT(0));
	is_u64(pmi_count, 0, "raise: LVTPC masks it");
	is_u64(rdmsr(pmu->global_status), BIT(0), "raise: the status bit is set");

	prepare_raise(VEC_PMI);
	raise_here(10, BIT(0));
	is_u64(pmi_count, 0, "raise: with IF 0 it waits");
	is_u64(apic_read(APIC_LVTPC) & LVT_MASKED, pmu->pmi_masks_lvtpc ? LVT_MASKED : 0,
	       "raise: LVTPC masks itself, or not");
	asm volatile("sti; nop; nop; cli");
	is_u64(pmi_count, 1, "raise: and comes with IF 1");
}

static void check_requests(void)
{
	u64 before;

	prepare_raise(LVT_NMI);
	before = raised();
	emucost_raise(0, EMUCOST_IN_HOST, 10000, BIT(0));
	emucost_raise(0, EMUCOST_IN_HOST, EMUCOST_NEVER, 0);
	delay(50000);
	is_u64(pmi_count, 0, "raise: taken back");
	emucost_raise(0, EMUCOST_IN_HOST, 10000, BIT(0));
	raise_here(5, BIT(2));
	delay(50000);
	is_u64(pmi_count, 1, "raise: a request takes the place of the last one");
	is_u64(rdmsr(pmu->global_status), BIT(2), "raise: with its status bit");
	is_u64(raised(), before + 1, "raise: only this one was raised");
	emucost_raise(MAX_CPUS, EMUCOST_IN_HOST, 0, BIT(0));
	is_u64(pmi_count, 1, "raise: not on a CPU that there is not");

	prepare_raise(LVT_NMI);
	raise_here(5, ~pmu->status_bits);
	is_u64(pmi_count, 1, "raise: without a bit that there is");
	is_u64(rdmsr(pmu->global_status), 0, "raise: sets none then");
}

/* Each bit, and that it can be cleared */
static void check_status(void)
{
	unsigned int bit;
	u64 bad_set = 0, bad_clear = 0;

	for (bit = 0; bit < 64; bit++) {
		prepare_raise(VEC_PMI | LVT_MASKED);
		raise_here(0, BIT(bit));
		if (rdmsr(pmu->global_status) != (pmu->status_bits & BIT(bit)))
			bad_set |= BIT(bit);
		if (pmu->status_bits & BIT(bit))
			wrmsr(pmu->global_status_clear, BIT(bit));
		if (rdmsr(pmu->global_status))
			bad_clear |= BIT(bit);
	}
	is_u64(bad_set, 0, "raise: sets each bit of the status that there is");
	is_u64(bad_clear, 0, "raise: which can be cleared");
}

static volatile u64 ap_seen;

static void ap_wait_for_pmi(void)
{
	u32 rounds = 100000;

	prepare_pmi(LVT_NMI);
	ap_seen = 1;
	while (!pmi_count && rounds--)
		asm volatile("pause");
	ap_seen = rdmsr(pmu->global_status);
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}

void test_raise_others(void)
{
	unsigned int cpu;

	ok(emucost_unlock(), "raise: unlocked");
	for (cpu = 1; cpu < nr_cpus; cpu++) {
		ap_seen = 0;
		start_on(cpu, ap_wait_for_pmi);
		while (!ap_seen)
			asm volatile("pause");
		emucost_raise(cpu, EMUCOST_IN_HOST, 1000, BIT(3));
		wait_for(cpu);
		is_u64(pmi_count, 1, "raise: an interrupt on CPU %u", cpu);
		is_u64(ap_seen, BIT(3), "raise: the status bit of CPU %u", cpu);
		is_u64(rdmsr(pmu->global_status), 0, "raise: not that of CPU 0");
	}
	emucost_lock();
}

static void raise_fixed(struct regs *regs)
{
	note_pmi(regs);
	apic_write(APIC_EOI, 0);
}

void test_raise(void)
{
	set_trap_handler(VEC_PMI, raise_fixed);
	set_trap_handler(VEC_NMI, note_pmi);
	ok(emucost_unlock(), "raise: unlocked");
	check_arrival();
	check_lvtpc();
	check_requests();
	check_status();
	pmu->test_raise_guests();
	prepare_raise(LVT_MASKED);
	emucost_lock();
	emucost_raise(0, EMUCOST_IN_HOST, 0, BIT(0));
	asm volatile(".rept 10; nop; .endr");
	is_u64(rdmsr(pmu->global_status), 0, "raise: locked, nothing happens");
}
