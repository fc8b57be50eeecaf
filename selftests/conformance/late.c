// SPDX-License-Identifier: GPL-2.0
/* Interrupts that come late, as bochsrc asks for: pmi: delay=N, seed=S. */
#define EMUCOST_NO_LIBC
#include "emucost.h"
#include "late.h"

u64 pmi_delay, pmi_seed;

void find_pmi_delay(void)
{
	if (!emucost_unlock())
		return;
	pmi_delay = emucost_read(0, EMUCOST_PMI_DELAY);
	pmi_seed = emucost_read(0, EMUCOST_PMI_SEED);
	emucost_lock();
}

/* Each processor's own sequence; see patches/bochs-3.0/README.md. */
static u64 sequence[MAX_CPUS];

u64 next_delay(void)
{
	unsigned int cpu = apic_read(APIC_ID) >> 24;
	u64 *random = &sequence[cpu];

	if (!pmi_seed)
		return pmi_delay;
	if (!*random)
		*random = pmi_seed * 0x9e3779b97f4a7c15 * (2 * cpu + 1);
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return (*random >> 16) % (pmi_delay + 1);
}

/* More than the longest delay, and where the first of them is. */
#define NOTE_START	"lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); 1: "
#define SLED_START	(*(u64 *)scratch)

void run_sled(void)
{
	MEASURE(pmu->all_counters, NOTE_START ".rept 700; nop; .endr");
}

u64 delay_of_at_least(u64 least)
{
	u64 delay;

	if (pmi_delay < least)
		return 0;
	for (;;) {
		delay = next_delay();
		if (delay >= least)
			return delay;
		/* Not this one. */
		prepare_overflow(VEC_PMI | LVT_MASKED, pmu->insns, 5);
		run_sled();
	}
}

static void late_fixed(struct regs *regs)
{
	note_pmi(regs);
	apic_write(APIC_EOI, 0);
}

static void check_arrival(u32 lvtpc, const char *what)
{
	u64 count, delay, bad = 0, bad_status = 0, bad_at = 0;

	for (count = 3; count < 60; count++) {
		prepare_overflow(lvtpc, pmu->insns, count);
		delay = next_delay();
		asm volatile("sti");
		run_sled();
		asm volatile("cli");
		/* Two instructions stand before the sled. */
		if (pmi_count != 1 || pmi_rip[0] != SLED_START + count - 2 + delay) {
			bad++;
			bad_at = count;
		}
		if (seen_in_pmi.status != BIT(0))
			bad_status++;
	}
	ok(!bad, "%s: arrives so many instructions late (%lu wrong, last %lu)", what, bad, bad_at);
	is_u64(bad_status, 0, "%s: the handler sees the status bit", what);
}

/* Two instructions and the RDMSR, before it arrives */
static void check_status_at_once(void)
{
	if (!delay_of_at_least(10))
		return;
	prepare_overflow(LVT_NMI, pmu->insns, 3);
	*(u64 *)(scratch + 16) = pmu->global_status;
	MEASURE(pmu->all_counters,
		"mov 16(%%rbx), %%ecx; nop; nop; rdmsr; mov %%eax, 24(%%rbx);"
		"mov pmi_count(%%rip), %%r8; mov %%r8, 32(%%rbx); .rept 700; nop; .endr");
	is_u64(*(u32 *)(scratch + 24), BIT(0), "late: the status bit is set at once");
	is_u64(*(u64 *)(scratch + 32), 0, "late: before the interrupt arrives");
	is_u64(pmi_count, 1, "late: which it does");
}

/* Overflow, write value to an MSR, wait. */
#define OVERFLOW_AND_WRITE(msr, value)						\
do {										\
	*(u32 *)(scratch + 16) = (msr);						\
	*(u32 *)(scratch + 24) = (value);					\
	MEASURE(pmu->all_counters,						\
		"mov 16(%%rbx), %%ecx; mov 24(%%rbx), %%eax; xor %%edx, %%edx; wrmsr;" \
		".rept 700; nop; .endr");					\
} while (0)

static void check_cleared(void)
{
	if (!delay_of_at_least(10))
		return;
	prepare_overflow(LVT_NMI, pmu->insns, 2);
	OVERFLOW_AND_WRITE(pmu->global_status_clear, 1);
	is_u64(pmi_count, 1, "late: clearing the status takes nothing back");
	is_u64(seen_in_pmi.status, 0, "late: and the handler finds it clear");

	if (!delay_of_at_least(10))
		return;
	prepare_overflow(LVT_NMI, pmu->insns, 2);
	OVERFLOW_AND_WRITE(pmu->selector, 0);
	is_u64(pmi_count, 1, "late: disabling the counter takes nothing back");
}

/* Overflow with one value of LVTPC, have another one when the interrupt arrives. */
static void overflow_and_set(u32 first, u32 then)
{
	prepare_overflow(first, pmu->insns, 2);
	*(u32 *)(scratch + 24) = then;
	asm volatile("sti");
	MEASURE(pmu->all_counters,
		"mov $0xfee00000, %%r15d; mov 24(%%rbx), %%eax; mov %%eax, " STR(APIC_LVTPC) "(%%r15);"
		".rept 700; nop; .endr");
	asm volatile("cli");
}

static void check_lvtpc(void)
{
	if (!delay_of_at_least(10))
		return;
	overflow_and_set(VEC_PMI | LVT_MASKED, VEC_PMI);
	is_u64(pmi_count, 1, "late: unmasked in time");
	delay_of_at_least(10);
	overflow_and_set(VEC_PMI, VEC_PMI | LVT_MASKED);
	is_u64(pmi_count, 0, "late: masked in time");
	delay_of_at_least(10);
	overflow_and_set(VEC_IPI, LVT_NMI);
	is_u64(pmi_count, 1, "late: the mode is that of its arrival");
}

/* What waits for an interrupt gets it; if not, this never ends. */
static void check_halt(void)
{
	if (!delay_of_at_least(10))
		return;
	prepare_overflow(VEC_PMI, pmu->insns, 1);
	MEASURE(pmu->all_counters, "lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); sti; hlt; 1: cli");
	is_u64(pmi_count, 1, "late: HLT has it arrive");
	is_u64(pmi_rip[0], SLED_START, "late: behind the HLT");

	next_delay();
	prepare_overflow(LVT_NMI, pmu->insns, 3);
	MEASURE(pmu->all_counters, "lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); hlt; 1: nop");
	is_u64(pmi_count, 1, "late: HLT overflows itself");
	is_u64(pmi_rip[0], SLED_START, "late: and is over then");
}

static void check_mwait(void)
{
	u32 a, b, c, d;

	cpuid(1, 0, &a, &b, &c, &d);
	if (!(c & BIT(3)) || !delay_of_at_least(20))
		return;
	prepare_overflow(LVT_NMI, pmu->insns, 1);
	MEASURE(pmu->all_counters,
		"lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); lea 2048(%%rbx), %%rax;"
		"xor %%ecx, %%ecx; xor %%edx, %%edx; monitor; xor %%eax, %%eax; mwait; 1: nop");
	is_u64(pmi_count, 1, "late: MWAIT has it arrive");
	is_u64(pmi_rip[0], SLED_START, "late: behind the MWAIT");
}

static void note_pmi_and_unmask(struct regs *regs)
{
	note_pmi(regs);
	apic_write(APIC_LVTPC, LVT_NMI);
}

/* Two counters overflow. The first interrupt is the first one's, whatever delays they have. */
static void check_order(void)
{
	unsigned int round;
	u64 first, second, bad = 0, overtaking = 0;

	set_trap_handler(VEC_NMI, note_pmi_and_unmask);
	for (round = 0; round < 40; round++) {
		prepare_overflow(LVT_NMI, pmu->insns, 10);
		setup_pmc(1, pmu->insns | SEL_OS | SEL_INT);
		preset_pmc(1, 11);
		first = next_delay();
		second = next_delay();
		run_sled();
		overtaking += second + 1 < first;
		if (pmi_rip[0] != SLED_START + 10 - 2 + first || pmi_count > 2)
			bad++;
	}
	is_u64(bad, 0, "late: none overtakes another one");
	ok(!pmi_seed || overtaking, "late: some of them could have (%lu)", overtaking);

	/*
	 * So far from each other that the first one's handler is over; where that
	 * can be, both are on their way at once.
	 */
	prepare_overflow(LVT_NMI, pmu->insns, 10);
	setup_pmc(1, pmu->insns | SEL_OS | SEL_INT);
	preset_pmc(1, pmi_seed || pmi_delay < 300 ? 600 : 260);
	next_delay();
	next_delay();
	run_sled();
	run_sled();
	is_u64(pmi_count, 2, "late: an interrupt for each overflow");
	set_trap_handler(VEC_NMI, note_pmi);
}

/* More than may be on their way: the last one stands for them. */
static void check_many(void)
{
	unsigned int n;

	prepare_pmi(VEC_PMI | LVT_MASKED);
	for (n = 0; n < 6; n++)
		setup_pmc(n, pmu->insns | SEL_OS | SEL_INT);
	for (n = 0; n < 24; n++) {
		preset_pmc(n % 6, 10);
		next_delay();
		if (n % 6 == 5)
			MEASURE(pmu->all_counters, ".rept 10; nop; .endr");
	}
	is_u64(rdmsr(pmu->global_status), BIT(6) - 1, "late: six overflow at once, four times");
	run_sled();
	check_arrival(LVT_NMI, "NMI, after many");
}

/* What is raised on request is late, too. */
static void check_raised(void)
{
	u64 late;

	if (!emucost_unlock())
		return;
	prepare_pmi(LVT_NMI);
	late = next_delay();
	emucost_cmd(EMUCOST_CMD_CPU | 0);
	emucost_parameter(20);
	emucost_parameter(BIT(0));
	MEASURE(pmu->all_counters,
		NOTE_START "mov $" STR(EMUCOST_PORT_CMD) ", %%edx; mov $0x90000000, %%eax;"
		"outl %%eax, %%dx; .rept 700; nop; .endr");
	emucost_lock();
	is_u64(pmi_count, 1, "late: on request");
	/* Behind the label are two instructions of 10 bytes, and OUT. */
	is_u64(pmi_rip[0], SLED_START + 10 + 1 + 20 + late, "late: on request, by the delay");
}

static volatile u64 ap_bad, ap_late;

static void ap_arrival(void)
{
	u64 count, delay;

	ap_bad = ap_late = 0;
	for (count = 3; count < 20; count++) {
		prepare_overflow(LVT_NMI, pmu->insns, count);
		delay = next_delay();
		ap_late += delay;
		run_sled();
		if (pmi_count != 1 || pmi_rip[0] != SLED_START + count - 2 + delay)
			ap_bad++;
	}
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}

static void check_other_cpus(void)
{
	unsigned int cpu;

	start_cpus();
	for (cpu = 1; cpu < nr_cpus; cpu++) {
		run_on(cpu, ap_arrival);
		is_u64(ap_bad, 0, "CPU %u: late by its own numbers", cpu);
		ok(ap_late, "CPU %u: some of them are late", cpu);
	}
}

void test_late(void)
{
	set_trap_handler(VEC_PMI, late_fixed);
	set_trap_handler(VEC_NMI, note_pmi);
	check_arrival(VEC_PMI, "fixed vector");
	check_arrival(LVT_NMI, "NMI");
	check_status_at_once();
	check_cleared();
	check_lvtpc();
	check_halt();
	check_mwait();
	check_order();
	check_many();
	check_raised();
	pmu->test_late_guests();
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
	check_other_cpus();
}
