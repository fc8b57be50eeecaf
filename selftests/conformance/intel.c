// SPDX-License-Identifier: GPL-2.0
/* Intel's PMU, and its tests. */
#include "intel.h"

bool has_metrics;

static void reset(void)
{
	unsigned int n;

	wrmsr(IA32_FIXED_CTR_CTRL, 0);
	for_each_fixed(n)
		wrmsr(IA32_FIXED_CTR0 + n, 0);
	wrmsr(IA32_DEBUGCTL, 0);
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, STATUS_ALL);
}

static u32 invalid_rdpmc[8 + MAX_FIXED] = {
	0, 0xff, 0x10000, 0x20000001, 0x80000000, 0xffffffff, RDPMC_FIXED | 0x10000,
};

static void find_counters(void)
{
	u32 a, b, c, d, n, *absent = invalid_rdpmc + 7;

	cpuid(0xa, 0, &a, &b, &c, &d);
	intel_pmu.nr_counters = a >> 8 & 0xff;
	intel_pmu.fixed_counters = c;
	intel_pmu.all_counters = GLOBAL_ALL;
	invalid_rdpmc[0] = NR_GP;
	for (n = 0; n <= MAX_FIXED; n++)
		if (!(c & BIT(n)))
			*absent++ = RDPMC_FIXED | n;
}

static void find(void)
{
	find_counters();
	has_metrics = rdmsr(IA32_PERF_CAPABILITIES) & PERF_CAP_METRICS;
	intel_pmu.status_bits = STATUS_BITS;
	note("%u GP counters, fixed counters %x%s, PMIs late by %lu, seed %lu", NR_GP,
	     pmu->fixed_counters, has_metrics ? ", PERF_METRICS" : "", pmi_delay, pmi_seed);
}

static void test(void)
{
	test_intel_registers();
	test_rdpmc();
	/* What follows takes as many counters as it likes. */
	if (NR_GP < 8) {
		test_metrics();
		start_cpus();
		return;
	}
	test_processor();
	test_counting();
	test_branches();
	test_intel_counting();
	test_overflow();
	test_intel_overflow();
	test_vmx();
	test_metrics();
	test_cost();
	test_raise();
	test_smp();
	test_raise_others();
	test_mwait();
}

/* BR_INST_RETIRED, by unit mask */
static const struct branch_event branch_events[] = {
	{ "COND_TAKEN", 0x01c4, COND_TAKEN },
	{ "COND_NTAKEN", 0x10c4, COND_NOT_TAKEN },
	{ "COND", 0x11c4, COND_TAKEN | COND_NOT_TAKEN },
	{ "NEAR_CALL", 0x02c4, CALLS | INDIRECT_CALLS },
	{ "NEAR_RETURN", 0x08c4, RETURNS },
	{ "NEAR_TAKEN", 0x20c4, NEAR_TAKEN },
	{ "FAR_BRANCH", 0x40c4, FAR },
	{ "INDIRECT", 0x80c4, INDIRECT_JUMPS | INDIRECT_CALLS },
	{ }
};

struct pmu intel_pmu = {
	.global_ctrl = IA32_PERF_GLOBAL_CTRL,
	.global_ctrl_name = "GLOBAL_CTRL",
	.global_status = IA32_PERF_GLOBAL_STATUS,
	.global_status_name = "GLOBAL_STATUS",
	.global_status_set = IA32_PERF_GLOBAL_STATUS_SET,
	.global_status_clear = IA32_PERF_GLOBAL_STATUS_RESET,
	.selector = IA32_PERFEVTSEL0,
	.selector_name = "PERFEVTSEL",
	.counter = IA32_A_PMC0,
	.msr_step = 1,
	.insns = EV_INSNS,
	.branches = EV_BRANCHES,
	.cycles = EV_CYCLES,
	.branch_events = branch_events,
	.pmi_masks_lvtpc = true,
	.invalid_rdpmc = invalid_rdpmc,
	.reset = reset,
	.check_cpuid = check_intel_cpuid,
	.find = find,
	.test = test,
	.test_late_guests = test_intel_late_guests,
	.test_raise_guests = test_intel_raise_guests,
};
