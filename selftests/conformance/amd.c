// SPDX-License-Identifier: GPL-2.0
/* AMD's PMU, and its tests. */
#include "amd.h"

static void reset(void)
{
	wrmsr(PERF_GLOBAL_STATUS_CLR, CORE_ALL);
}

static void test(void)
{
	test_amd_registers();
	test_rdpmc();
	test_counting();
	test_amd_counting();
	test_overflow();
	test_amd_overflow();
	test_svm();
	test_smp();
}

static const u32 invalid_rdpmc[] = {
	NR_CORE, 0xa, 0x10, 0x40000000, 0x80000000, 0xffffffff, 0
};

/*
 * Unlike Intel's, AMD's event of retired branches has interrupts and exceptions
 * in it, and an instruction that changes the privilege level counts at the level
 * that it changes to.
 */
const struct pmu amd_pmu = {
	.global_ctrl = PERF_GLOBAL_CTL,
	.global_ctrl_name = "PerfCntrGlobalCtl",
	.global_status = PERF_GLOBAL_STATUS,
	.global_status_name = "PerfCntrGlobalStatus",
	.global_status_set = PERF_GLOBAL_STATUS_SET,
	.selector = PERF_CTL(0),
	.selector_name = "PERF_CTL",
	.counter = PERF_CTR(0),
	.msr_step = PERF_CTR(1) - PERF_CTR(0),
	.nr_counters = NR_CORE,
	.all_counters = CORE_ALL,
	.insns = AMD_INSNS,
	.branches = AMD_BRANCHES,
	.cycles = AMD_CYCLES,
	.events_are_branches = true,
	.counts_where_it_goes = true,
	.invalid_rdpmc = invalid_rdpmc,
	.reset = reset,
	.check_cpuid = check_amd_cpuid,
	.test = test,
};
