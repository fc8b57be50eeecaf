// SPDX-License-Identifier: GPL-2.0
/* Each processor has a PMU of its own. */
#include "conf.h"

static volatile u64 ap_insns, ap_branches, ap_cycles, ap_fixed_cycles, ap_ctrl_at_reset, ap_status;
static volatile u32 ap_apic_id;

static void ap_first(void)
{
	ap_ctrl_at_reset = rdmsr(pmu->global_ctrl);
	ap_apic_id = apic_read(APIC_ID) >> 24;
	pmu_reset();
}

static void ap_count(void)
{
	setup_exact(SEL_OS);
	MEASURE(pmu->all_counters, "mov $100000, %%ecx; 1: nop; nop; loop 1b");
	ap_insns = PMC(0);
	ap_branches = PMC(1);
	ap_cycles = PMC(2);
	if (pmu->fixed_counters)
		ap_fixed_cycles = FIXED(1);
}

static void ap_pmi(void)
{
	prepare_overflow(LVT_NMI, pmu->insns, 50);
	MEASURE(pmu->all_counters, ".rept 100; nop; .endr");
	apic_write(APIC_LVTPC, LVT_MASKED);
	ap_status = rdmsr(pmu->global_status);
	pmu_reset();
}

static void check_cpu(unsigned int cpu)
{
	run_on(cpu, ap_first);
	is_u64(ap_ctrl_at_reset, BIT(pmu->nr_counters) - 1, "CPU %u: %s after start-up", cpu,
	       pmu->global_ctrl_name);
	ok(ap_apic_id != apic_read(APIC_ID) >> 24, "CPU %u: is another CPU", cpu);
	pmu->check_cpuid(cpu);

	pmu_reset();
	write_pmc(0, 0x4242);
	run_on(cpu, ap_count);
	is_u64(ap_insns, 1 + 300000 + MEASURE_OVERHEAD, "CPU %u: instructions", cpu);
	is_u64(ap_branches, 100000, "CPU %u: branches", cpu);
	is_u64(ap_cycles, 1 + 300000 + MEASURE_OVERHEAD, "CPU %u: cycles", cpu);
	if (pmu->fixed_counters)
		is_u64(ap_fixed_cycles, ap_cycles, "CPU %u: cycles, fixed counter", cpu);
	is_u64(PMC(0), 0x4242, "CPU %u: does not touch the counters of CPU 0", cpu);

	run_on(cpu, ap_pmi);
	is_u64(pmi_count, 1, "CPU %u: PMI", cpu);
	is_u64(ap_status, BIT(0), "CPU %u: its %s", cpu, pmu->global_status_name);
	is_u64(rdmsr(pmu->global_status), 0, "CPU %u: not that of CPU 0", cpu);
}

static void halt_until_ipi(void)
{
	/* quick_eoi finds the APIC in R15. */
	asm volatile("mov %0, %%r15; sti; hlt; cli" : : "r"(APIC_BASE) : "r15", "memory");
}

/* The TSC and cycles are one clock here, however long or short what CPU 0 executes between branches is. */
static void check_clock(const char *others)
{
	u64 tsc, cycles, diff;

	setup_exact(SEL_OS);
	tsc = __builtin_ia32_rdtsc();
	MEASURE(pmu->all_counters,
		"mov $100000, %%ecx; 1: loop 1b; mov $10000, %%ecx; 1: .rept 24; nop; .endr; loop 1b");
	tsc = __builtin_ia32_rdtsc() - tsc;
	cycles = PMC(2);
	diff = tsc > cycles ? tsc - cycles : cycles - tsc;
	if (!ok(diff < cycles / 100, "CPU 0: the TSC and cycles go together while others %s", others))
		note("TSC %lu, cycles %lu", tsc, cycles);
}

static void test_clock(void)
{
	unsigned int cpu;

	check_clock("execute");
	set_gate(VEC_IPI, quick_eoi);
	for (cpu = 1; cpu < nr_cpus; cpu++)
		start_on(cpu, halt_until_ipi);
	delay(100000);
	check_clock("are halted");
	apic_write(APIC_ICR_LO, 0xc4000 | VEC_IPI);	/* to all but self */
	for (cpu = 1; cpu < nr_cpus; cpu++)
		wait_for(cpu);
	set_gate(VEC_IPI, NULL);
}

static volatile u32 lock __attribute__((used)), lock_taken __attribute__((used));

static void take_lock(void)
{
	asm volatile("1: pause; lock btsl $0, lock(%%rip); jc 1b\n"
		     "movl $1, lock_taken(%%rip); movl $0, lock(%%rip)" : : : "memory", "cc");
}

/* CPU 0 lets go of a lock for no longer than a PAUSE, as firmware does that waits for the others. */
static void check_pause(void)
{
	u32 rounds = 100000;

	lock = 1;
	start_on(1, take_lock);
	asm volatile("1: movl $0, lock(%%rip)\n"
		     "2: pause; lock btsl $0, lock(%%rip); jc 2b\n"
		     "cmpl $0, lock_taken(%%rip); jne 3f; dec %0; jnz 1b\n"
		     "3: movl $0, lock(%%rip)" : "+r"(rounds) : : "memory", "cc");
	ok(rounds, "CPU 1: gets a lock that CPU 0 lets go of for a PAUSE");
	wait_for(1);
}

void test_smp(void)
{
	unsigned int cpu;

	start_cpus();
	for (cpu = 1; cpu < nr_cpus; cpu++)
		check_cpu(cpu);

	/* The others spin in ap_main(): CPU 0 counts its own instructions only. */
	if (nr_cpus > 1) {
		setup_exact(SEL_OS);
		MEASURE(pmu->all_counters, "mov $100000, %%ecx; 1: nop; nop; loop 1b");
		is_u64(PMC(0), 1 + 300000 + MEASURE_OVERHEAD, "CPU 0: counts beside other CPUs");
		test_clock();
		check_pause();
	}
}
