// SPDX-License-Identifier: GPL-2.0
/* Setting up counters, whosever they are. */
#include "conf.h"

const struct pmu *pmu;

static u32 counter_msr(unsigned int n)
{
	return pmu->counter + n * pmu->msr_step;
}

void pmu_reset(void)
{
	unsigned int n;

	wrmsr(pmu->global_ctrl, 0);
	for (n = 0; n < pmu->nr_counters; n++) {
		wrmsr(selector_msr(n), 0);
		write_pmc(n, 0);
	}
	pmu->reset();
}

void setup_pmc(unsigned int n, u64 selector)
{
	wrmsr(selector_msr(n), 0);
	write_pmc(n, 0);
	wrmsr(selector_msr(n), selector | SEL_EN);
}

void write_pmc(unsigned int n, u64 value)
{
	wrmsr(counter_msr(n), value);
}

void preset_pmc(unsigned int n, u64 count)
{
	write_pmc(n, -count & WIDTH_MASK);
}

u64 read_pmc(unsigned int n)
{
	return rdmsr(counter_msr(n));
}

u64 fixed_all(u64 bits)
{
	unsigned int n;
	u64 ctrl = 0;

	for_each_fixed(n)
		ctrl |= FIXED_CTRL(n, bits);
	return ctrl;
}

void setup_exact(u64 modes)
{
	u64 fixed = (modes & SEL_OS ? FIXED_OS : 0) | (modes & SEL_USR ? FIXED_USR : 0);

	pmu_reset();
	setup_pmc(0, pmu->insns | modes);
	setup_pmc(1, pmu->branches | modes);
	setup_pmc(2, pmu->cycles | modes);
	if (pmu->fixed_counters)
		wrmsr(IA32_FIXED_CTR_CTRL, fixed_all(fixed));
}

void check_exact(u64 insns, u64 branches, const char *what)
{
	is_u64(PMC(0), insns, "%s: instructions", what);
	is_u64(PMC(1), branches, "%s: branches", what);
	if (pmu->fixed_counters)
		is_u64(FIXED(0), insns, "%s: instructions, fixed counter", what);
}
