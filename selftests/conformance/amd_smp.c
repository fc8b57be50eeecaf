// SPDX-License-Identifier: GPL-2.0
/* AMD: each processor has a PMU of its own. */
#include "amd.h"

static volatile u64 ap_insns, ap_branches, ap_ctl_at_reset, ap_status;
static volatile u32 ap_core;

static void ap_count(void)
{
	u32 a, b, c, d;

	ap_ctl_at_reset = rdmsr(PERF_GLOBAL_CTL);
	cpuid(0x8000001e, 0, &a, &b, &c, &d);
	ap_core = a;
	amd_reset();
	amd_setup(0, AMD_INSNS | SEL_OS);
	amd_setup(1, AMD_BRANCHES | SEL_OS);
	AMD_MEASURE(CORE_ALL, "mov $100000, %%ecx; 1: nop; nop; loop 1b");
	ap_insns = CTR(0);
	ap_branches = CTR(1);

	pmi_count = 0;
	apic_write(APIC_LVTPC, LVT_NMI);
	amd_setup(0, AMD_INSNS | SEL_OS | SEL_INT);
	amd_preset(0, 50);
	AMD_MEASURE(CORE_ALL, ".rept 100; nop; .endr");
	apic_write(APIC_LVTPC, LVT_MASKED);
	ap_status = rdmsr(PERF_GLOBAL_STATUS);
	amd_reset();
}

static void check_cpu(unsigned int cpu)
{
	amd_reset();
	wrmsr(PERF_CTR(0), 0x4242);
	run_on(cpu, ap_count);
	is_u64(ap_ctl_at_reset, CORE_ALL, "CPU %u: PerfCntrGlobalCtl after start-up", cpu);
	is_u64(ap_core, cpu, "CPU %u: extended APIC ID", cpu);
	is_u64(ap_insns, 1 + 300000 + MEASURE_OVERHEAD, "CPU %u: instructions", cpu);
	is_u64(ap_branches, 100000, "CPU %u: branches", cpu);
	is_u64(CTR(0), 0x4242, "CPU %u: does not touch the counters of CPU 0", cpu);
	is_u64(pmi_count, 1, "CPU %u: PMI", cpu);
	is_u64(ap_status, BIT(0), "CPU %u: its PerfCntrGlobalStatus", cpu);
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0, "CPU %u: not that of CPU 0", cpu);
}

void test_amd_smp(void)
{
	unsigned int cpu;

	for (cpu = 1; cpu < nr_cpus; cpu++)
		check_cpu(cpu);
}
