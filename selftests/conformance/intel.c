// SPDX-License-Identifier: GPL-2.0
/* Intel's PMU, and its tests. */
#include "intel.h"

bool has_metrics;

static void reset(void)
{
	unsigned int n;

	wrmsr(IA32_FIXED_CTR_CTRL, 0);
	for (n = 0; n < NR_FIXED; n++)
		wrmsr(IA32_FIXED_CTR0 + n, 0);
	wrmsr(IA32_DEBUGCTL, 0);
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, STATUS_ALL);
}

static void test(void)
{
	has_metrics = rdmsr(IA32_PERF_CAPABILITIES) & PERF_CAP_METRICS;
	note("%s PERF_METRICS", has_metrics ? "with" : "without");
	test_intel_registers();
	test_processor();
	test_counting();
	test_intel_counting();
	test_overflow();
	test_intel_overflow();
	test_rdpmc();
	test_vmx();
	test_metrics();
	test_cost();
	test_smp();
	test_mwait();
}

static const u32 invalid_rdpmc[] = {
	NR_GP, 0xff, 0x10000, 0x20000001, 0x80000000, 0xffffffff,
	RDPMC_FIXED | NR_FIXED, RDPMC_FIXED | 0x10000, RDPMC_FIXED | 0x80000000, 0
};

const struct pmu intel_pmu = {
	.global_ctrl = IA32_PERF_GLOBAL_CTRL,
	.global_ctrl_name = "GLOBAL_CTRL",
	.global_status = IA32_PERF_GLOBAL_STATUS,
	.global_status_name = "GLOBAL_STATUS",
	.global_status_set = IA32_PERF_GLOBAL_STATUS_SET,
	.selector = IA32_PERFEVTSEL0,
	.selector_name = "PERFEVTSEL",
	.counter = IA32_A_PMC0,
	.msr_step = 1,
	.nr_counters = NR_GP,
	.all_counters = GLOBAL_ALL,
	.has_fixed = true,
	.insns = EV_INSNS,
	.branches = EV_BRANCHES,
	.cycles = EV_CYCLES,
	.pmi_masks_lvtpc = true,
	.invalid_rdpmc = invalid_rdpmc,
	.reset = reset,
	.check_cpuid = check_intel_cpuid,
	.test = test,
};
