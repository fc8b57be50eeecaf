// SPDX-License-Identifier: GPL-2.0
/* AMD's PMU, and its tests. */
#include "amd.h"

static void reset(void)
{
	wrmsr(PERF_GLOBAL_STATUS_CLR, CORE_ALL);
}

static void find(void)
{
	find_uncore();
	note("%u core counters%s%s, PMIs late by %lu, seed %lu", NR_CORE,
	     has_df ? ", data fabric" : "", has_l3 ? ", L3" : "", pmi_delay, pmi_seed);
}

static void test(void)
{
	test_amd_registers();
	test_rdpmc();
	test_counting();
	test_branches();
	test_amd_counting();
	test_overflow();
	test_amd_overflow();
	test_amd_uncore();
	test_svm();
	test_raise();
	test_smp();
	test_raise_others();
	test_amd_shared();
}

static const u32 invalid_rdpmc[] = {
	RDPMC_DF(NR_DF), 0x40, 0x10000, 0x40000000, 0x80000000, 0xffffffff, 0
};

/* All take interrupts and exceptions for branches that can: far ones. */
static const struct branch_event branch_events[] = {
	{ "branches", AMD_BRANCHES, COND_NOT_TAKEN | NEAR_TAKEN | FAR | EVENTS },
	{ "taken branches", AMD_TAKEN, NEAR_TAKEN | FAR | EVENTS },
	{ "far control transfers", AMD_FAR, FAR | EVENTS },
	{ "near returns", AMD_NEAR_RETURNS, RETURNS },
	{ "indirect branches", AMD_INDIRECT, INDIRECT_JUMPS | INDIRECT_CALLS },
	{ "conditional branches", AMD_CONDITIONAL, COND_TAKEN | COND_NOT_TAKEN },
	{ }
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
	.global_status_clear = PERF_GLOBAL_STATUS_CLR,
	.selector = PERF_CTL(0),
	.selector_name = "PERF_CTL",
	.counter = PERF_CTR(0),
	.msr_step = PERF_CTR(1) - PERF_CTR(0),
	.nr_counters = NR_CORE,
	.all_counters = CORE_ALL,
	.status_bits = CORE_ALL,
	.insns = AMD_INSNS,
	.branches = AMD_BRANCHES,
	.cycles = AMD_CYCLES,
	.branch_events = branch_events,
	.events_are_branches = true,
	.counts_where_it_goes = true,
	.invalid_rdpmc = invalid_rdpmc,
	.reset = reset,
	.check_cpuid = check_amd_cpuid,
	.find = find,
	.test = test,
	.test_late_guests = test_amd_late_guests,
	.test_raise_guests = test_amd_raise_guests,
};
