// SPDX-License-Identifier: GPL-2.0
/*
 * What a guest's PMU consists of.
 */
#include "vpmu_model.h"

/* IA32_PERFEVTSELx: all of bits 31:0 but AnyThread, which KVM does not offer. */
#define SELECTOR_VALID		(GENMASK_ULL(31, 0) & ~ARCH_PERFMON_EVENTSEL_ANY)
/* IN_TX and IN_TXCP, of processors with transactions. */
#define SELECTOR_TRANSACTIONS	GENMASK_ULL(33, 32)

/* Bits of the global registers beside those of counters. */
#define GLOBAL_PERF_METRICS	BIT_ULL(48)
#define STATUS_ALWAYS		GENMASK_ULL(63, 62)

static uint64_t low_bits(unsigned int nr)
{
	return nr < 64 ? BIT_ULL(nr) - 1 : -1ull;
}

static unsigned int property(const struct kvm_cpuid_entry2 *leaf,
			     struct kvm_x86_cpu_property property)
{
	const uint32_t regs[] = { leaf->eax, leaf->ebx, leaf->ecx, leaf->edx };

	return (regs[property.reg] >> property.lo_bit) &
	       GENMASK_ULL(property.hi_bit - property.lo_bit, 0);
}

/* What CPUID says, or what KVM offers if that is less. */
static unsigned int offered(const struct kvm_cpuid_entry2 *leaf,
			    struct kvm_x86_cpu_property p)
{
	return min_t(unsigned int, property(leaf, p), kvm_cpu_property(p));
}

struct vpmu_model vpmu_model_of(struct kvm_vcpu *vcpu, uint64_t capabilities)
{
	const struct kvm_cpuid_entry2 *leaf = vcpu_get_cpuid_entry(vcpu, 0xa);
	struct vpmu_model m = { .version = offered(leaf, X86_PROPERTY_PMU_VERSION) };

	if (!m.version)
		return m;
	if (!vcpu_cpuid_has(vcpu, X86_FEATURE_PDCM))
		capabilities = 0;
	m.full_width = capabilities & PMU_CAP_FW_WRITES;
	m.nr_gp = offered(leaf, X86_PROPERTY_PMU_NR_GP_COUNTERS);
	m.gp_mask = low_bits(offered(leaf, X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH));
	if (m.version < 2)
		return m;
	m.nr_fixed = offered(leaf, X86_PROPERTY_PMU_NR_FIXED_COUNTERS);
	m.fixed_mask = low_bits(offered(leaf, X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH));
	/* It divides up what fixed counter 3 counts. */
	m.metrics = capabilities & VPMU_CAP_METRICS && m.nr_fixed > 3;
	return m;
}

static bool is_nth(uint32_t msr, uint32_t base, uint32_t nr)
{
	return msr - base < nr;
}

static uint64_t fixed_ctrl_bits(const struct vpmu_model *m)
{
	uint64_t bits = 0;
	unsigned int i;

	for (i = 0; i < m->nr_fixed; i++)
		bits |= FIXED_PMC_CTRL(i, FIXED_PMC_KERNEL | FIXED_PMC_USER | FIXED_PMC_ENABLE_PMI);
	return bits;
}

static bool global_register(const struct vpmu_model *m, uint32_t msr, struct vpmu_register *reg)
{
	uint64_t counters = low_bits(m->nr_gp) | low_bits(m->nr_fixed) << 32;

	if (m->metrics)
		counters |= GLOBAL_PERF_METRICS;
	switch (msr) {
	case MSR_CORE_PERF_FIXED_CTR_CTRL:
		reg->valid = reg->kept = fixed_ctrl_bits(m);
		return true;
	case MSR_CORE_PERF_GLOBAL_CTRL:
		reg->valid = reg->kept = counters;
		reg->reset = low_bits(m->nr_gp);
		return true;
	case MSR_CORE_PERF_GLOBAL_STATUS:
		reg->valid = reg->kept = counters | STATUS_ALWAYS;
		return true;
	case MSR_CORE_PERF_GLOBAL_OVF_CTRL:
		reg->valid = counters | STATUS_ALWAYS;
		return true;
	default:
		return false;
	}
}

bool vpmu_model_register(const struct vpmu_model *m, uint32_t msr, struct vpmu_register *reg)
{
	*reg = (struct vpmu_register) { .valid = -1ull };
	if (is_nth(msr, MSR_IA32_PERFCTR0, m->nr_gp)) {
		reg->kept = m->gp_mask;
	} else if (is_nth(msr, MSR_IA32_PMC0, m->nr_gp) && m->full_width) {
		reg->valid = reg->kept = m->gp_mask;
	} else if (is_nth(msr, MSR_P6_EVNTSEL0, m->nr_gp)) {
		reg->valid = SELECTOR_VALID;
		if (this_cpu_has(X86_FEATURE_HLE) || this_cpu_has(X86_FEATURE_RTM))
			reg->open = SELECTOR_TRANSACTIONS;
		reg->kept = reg->valid | reg->open;
	} else if (is_nth(msr, MSR_CORE_PERF_FIXED_CTR0, m->nr_fixed)) {
		reg->kept = m->fixed_mask;
	} else if (msr == VPMU_MSR_PERF_METRICS && m->metrics) {
		reg->kept = -1ull;
	} else {
		return m->version > 1 && global_register(m, msr, reg);
	}
	return true;
}

uint32_t vpmu_msr_alias(uint32_t msr)
{
	if (is_nth(msr, MSR_IA32_PMC0, VPMU_MAX_GP))
		return MSR_IA32_PERFCTR0 + (msr - MSR_IA32_PMC0);
	return msr;
}

bool vpmu_msr_is_p6(uint32_t msr)
{
	return is_nth(msr, MSR_IA32_PERFCTR0, 2) || is_nth(msr, MSR_P6_EVNTSEL0, 2);
}

bool vpmu_model_has_rdpmc(const struct vpmu_model *m, uint32_t ecx)
{
	return is_nth(ecx, 0, m->nr_gp) || is_nth(ecx, INTEL_RDPMC_FIXED, m->nr_fixed) ||
	       (ecx == INTEL_RDPMC_METRICS && m->metrics);
}
