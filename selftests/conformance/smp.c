// SPDX-License-Identifier: GPL-2.0
/* Each processor has a PMU of its own. */
#include "conf.h"

static volatile u64 ap_insns, ap_branches, ap_cycles, ap_ctrl_at_reset, ap_status, ap_version;
static volatile u32 ap_apic_id;

static void ap_first(void)
{
	u32 a, b, c, d;

	ap_ctrl_at_reset = rdmsr(IA32_PERF_GLOBAL_CTRL);
	cpuid(0xa, 0, &a, &b, &c, &d);
	ap_version = a & 0xff;
	ap_apic_id = apic_read(APIC_ID) >> 24;
	pmu_reset();
}

static void ap_count(void)
{
	pmu_reset();
	setup_gp(0, EV_INSNS | SEL_OS);
	setup_gp(1, EV_BRANCHES | SEL_OS);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(1, FIXED_OS));
	MEASURE(GLOBAL_ALL, "mov $100000, %%ecx; 1: nop; nop; loop 1b");
	ap_insns = GP(0);
	ap_branches = GP(1);
	ap_cycles = FIXED(1);
}

static void ap_pmi(void)
{
	pmi_count = 0;
	pmu_reset();
	apic_write(APIC_LVTPC, LVT_NMI);
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INT);
	wrmsr(IA32_A_PMC0, -50ull & WIDTH_MASK);
	MEASURE(GLOBAL_ALL, ".rept 100; nop; .endr");
	apic_write(APIC_LVTPC, LVT_MASKED);
	ap_status = rdmsr(IA32_PERF_GLOBAL_STATUS);
	pmu_reset();
}

static void check_cpu(unsigned int cpu)
{
	u64 bsp_pmc;

	run_on(cpu, ap_first);
	is_u64(ap_version, 5, "CPU %u: PerfMon version", cpu);
	is_u64(ap_ctrl_at_reset, GLOBAL_GP, "CPU %u: GLOBAL_CTRL after start-up", cpu);
	ok(ap_apic_id != apic_read(APIC_ID) >> 24, "CPU %u: is another CPU", cpu);

	pmu_reset();
	wrmsr(IA32_A_PMC0, 0x4242);
	run_on(cpu, ap_count);
	is_u64(ap_insns, 1 + 300000 + MEASURE_OVERHEAD, "CPU %u: instructions", cpu);
	is_u64(ap_branches, 100000, "CPU %u: branches", cpu);
	is_u64(ap_cycles, 1 + 300000 + MEASURE_OVERHEAD, "CPU %u: cycles", cpu);
	bsp_pmc = GP(0);
	is_u64(bsp_pmc, 0x4242, "CPU %u: does not touch the counters of CPU 0", cpu);

	run_on(cpu, ap_pmi);
	is_u64(pmi_count, 1, "CPU %u: PMI", cpu);
	is_u64(ap_status, BIT(0), "CPU %u: its GLOBAL_STATUS", cpu);
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "CPU %u: not that of CPU 0", cpu);
}

void test_smp(void)
{
	unsigned int cpu;

	for (cpu = 1; cpu < nr_cpus; cpu++)
		check_cpu(cpu);

	/* The others spin in ap_main(): CPU 0 counts its own instructions only. */
	if (nr_cpus > 1) {
		pmu_reset();
		setup_gp(0, EV_INSNS | SEL_OS);
		MEASURE(GLOBAL_ALL, "mov $100000, %%ecx; 1: nop; nop; loop 1b");
		is_u64(GP(0), 1 + 300000 + MEASURE_OVERHEAD, "CPU 0: counts beside other CPUs");
	}
}
