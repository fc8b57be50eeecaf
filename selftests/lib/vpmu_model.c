// SPDX-License-Identifier: GPL-2.0
/*
 * What a guest's PMU consists of.
 */
#include "vpmu_model.h"

static uint64_t low_bits(unsigned int nr)
{
	return nr < 64 ? BIT_ULL(nr) - 1 : -1ull;
}

static bool is_nth(uint32_t msr, uint32_t base, uint32_t nr)
{
	return msr - base < nr;
}

/* Both of them: user space and the guest. */
static void set_valid(struct vpmu_register *reg, uint64_t valid)
{
	reg->host.valid = valid;
	reg->guest.valid = valid;
}

static unsigned int property(const struct kvm_cpuid_entry2 *leaf,
			     struct kvm_x86_cpu_property property)
{
	const uint32_t regs[] = { leaf->eax, leaf->ebx, leaf->ecx, leaf->edx };

	return (regs[property.reg] >> property.lo_bit) &
	       GENMASK_ULL(property.hi_bit - property.lo_bit, 0);
}

/* --- Intel */

/* IA32_PERFEVTSELx: all of bits 31:0 but AnyThread, which KVM does not offer. */
#define SELECTOR_VALID		(GENMASK_ULL(31, 0) & ~ARCH_PERFMON_EVENTSEL_ANY)
/* IN_TX and IN_TXCP, of processors with transactions. */
#define SELECTOR_TRANSACTIONS	GENMASK_ULL(33, 32)

/* Bits of the global registers beside those of counters. */
#define GLOBAL_PERF_METRICS	BIT_ULL(48)
#define GLOBAL_COUNTERS		GENMASK_ULL(47, 0)
#define STATUS_ALWAYS		GENMASK_ULL(63, 62)

/* What CPUID says, or what KVM offers if that is less. */
static unsigned int offered(const struct kvm_cpuid_entry2 *leaf,
			    struct kvm_x86_cpu_property p)
{
	return min_t(unsigned int, property(leaf, p), kvm_cpu_property(p));
}

static struct vpmu_model intel_model_of(struct kvm_vcpu *vcpu, uint64_t capabilities)
{
	const struct kvm_cpuid_entry2 *leaf = vcpu_get_cpuid_entry(vcpu, 0xa);
	struct vpmu_model m = { .version = offered(leaf, X86_PROPERTY_PMU_VERSION) };

	if (!m.version)
		return m;
	if (!vcpu_cpuid_has(vcpu, X86_FEATURE_PDCM))
		capabilities = 0;
	m.full_width = capabilities & PMU_CAP_FW_WRITES;
	m.selector_mask = SELECTOR_VALID;
	m.nr_gp = offered(leaf, X86_PROPERTY_PMU_NR_GP_COUNTERS);
	m.gp_mask = low_bits(offered(leaf, X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH));
	if (m.version < 2)
		return m;
	m.nr_fixed = offered(leaf, X86_PROPERTY_PMU_NR_FIXED_COUNTERS);
	m.fixed_mask = low_bits(offered(leaf, X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH));
	/* It divides up what fixed counter 3 counts. */
	m.metrics = capabilities & VPMU_CAP_METRICS && m.nr_fixed > 3;
	m.hidden_metrics = !m.metrics && vpmu_capabilities_max() & VPMU_CAP_METRICS;
	return m;
}

static uint64_t fixed_ctrl_bits(const struct vpmu_model *m)
{
	uint64_t bits = 0;
	unsigned int i;

	for (i = 0; i < m->nr_fixed; i++)
		bits |= FIXED_PMC_CTRL(i, FIXED_PMC_KERNEL | FIXED_PMC_USER | FIXED_PMC_ENABLE_PMI);
	return bits;
}

static bool intel_global_register(const struct vpmu_model *m, uint32_t msr,
				  struct vpmu_register *reg)
{
	uint64_t counters = low_bits(m->nr_gp) | low_bits(m->nr_fixed) << 32;

	if (m->metrics)
		counters |= GLOBAL_PERF_METRICS;
	switch (msr) {
	case MSR_CORE_PERF_FIXED_CTR_CTRL:
		reg->kept = fixed_ctrl_bits(m);
		set_valid(reg, reg->kept);
		return true;
	case MSR_CORE_PERF_GLOBAL_CTRL:
		reg->kept = counters;
		reg->reset = low_bits(m->nr_gp);
		set_valid(reg, reg->kept);
		if (m->hidden_metrics)
			reg->guest.open = GLOBAL_PERF_METRICS;
		return true;
	case MSR_CORE_PERF_GLOBAL_STATUS:
		reg->kept = counters | STATUS_ALWAYS;
		reg->read_only = true;
		set_valid(reg, reg->kept);
		return true;
	case MSR_CORE_PERF_GLOBAL_OVF_CTRL:
		reg->write_only = true;
		set_valid(reg, counters | STATUS_ALWAYS);
		/* Of what isn't a counter's, hardware decides. */
		reg->guest.open = ~reg->guest.valid & ~GLOBAL_COUNTERS;
		return true;
	default:
		return false;
	}
}

static bool intel_register(const struct vpmu_model *m, uint32_t msr, struct vpmu_register *reg)
{
	if (is_nth(msr, MSR_IA32_PERFCTR0, m->nr_gp)) {
		reg->kept = m->gp_mask;
	} else if (is_nth(msr, MSR_IA32_PMC0, m->nr_gp) && m->full_width) {
		reg->kept = m->gp_mask;
		set_valid(reg, reg->kept);
	} else if (is_nth(msr, MSR_P6_EVNTSEL0, m->nr_gp)) {
		set_valid(reg, m->selector_mask);
		if (this_cpu_has(X86_FEATURE_HLE) || this_cpu_has(X86_FEATURE_RTM))
			reg->host.open = reg->guest.open = SELECTOR_TRANSACTIONS;
		reg->kept = reg->host.valid | reg->host.open;
	} else if (is_nth(msr, MSR_CORE_PERF_FIXED_CTR0, m->nr_fixed)) {
		reg->kept = m->fixed_mask;
		reg->guest.open = ~m->fixed_mask;
	} else if (msr == VPMU_MSR_PERF_METRICS && m->metrics) {
		reg->kept = -1ull;
		reg->guest.open = -1ull;
	} else {
		return m->version > 1 && intel_global_register(m, msr, reg);
	}
	return true;
}

static uint32_t intel_alias(uint32_t msr)
{
	if (is_nth(msr, MSR_IA32_PMC0, VPMU_MAX_GP))
		return MSR_IA32_PERFCTR0 + (msr - MSR_IA32_PMC0);
	return msr;
}

/* P6's two counters and selectors. */
static bool intel_is_ancient(const struct vpmu_model *m, uint32_t msr)
{
	return is_nth(msr, MSR_IA32_PERFCTR0, 2) || is_nth(msr, MSR_P6_EVNTSEL0, 2);
}

static bool intel_has_rdpmc(const struct vpmu_model *m, uint32_t ecx)
{
	return is_nth(ecx, 0, m->nr_gp) || is_nth(ecx, INTEL_RDPMC_FIXED, m->nr_fixed) ||
	       (ecx == INTEL_RDPMC_METRICS && m->metrics);
}

/* --- AMD */

#define AMD_NR_CORE	6
#define AMD_NR_LEGACY	4
/* HostOnly and GuestOnly, which KVM keeps with the module only, for a guest with SVM. */
#define AMD_SELECTOR_WORLD	GENMASK_ULL(41, 40)

static struct vpmu_model amd_model_of(struct kvm_vcpu *vcpu, uint64_t capabilities)
{
	struct vpmu_model m = {
		.version = vcpu_cpuid_has(vcpu, X86_FEATURE_PERFMON_V2) ? 2 : 1,
		.full_width = vcpu_cpuid_has(vcpu, X86_FEATURE_PERFCTR_CORE),
		.gp_mask = low_bits(VPMU_AMD_WIDTH),
		.selector_mask = VPMU_AMD_SELECTOR,
	};
	const struct kvm_cpuid_entry2 *leaf;

	m.nr_gp = m.full_width ? AMD_NR_CORE : AMD_NR_LEGACY;
	/* A guest that CPUID tells of no counters has KVM's own four, with the module, too. */
	if (m.version < 2 && !m.full_width)
		return m;
	if (vpmu_is_mediated() && vcpu_cpuid_has(vcpu, X86_FEATURE_SVM))
		m.selector_mask |= AMD_SELECTOR_WORLD;
	if (m.version < 2)
		return m;
	leaf = vcpu_get_cpuid_entry(vcpu, X86_PROPERTY_NR_PERFCTR_CORE.function);
	m.nr_gp = offered(leaf, X86_PROPERTY_NR_PERFCTR_CORE);
	return m;
}

static bool amd_is_legacy(uint32_t msr)
{
	return is_nth(msr, MSR_K7_EVNTSEL0, 2 * AMD_NR_LEGACY);
}

static bool amd_is_core(uint32_t msr)
{
	return is_nth(msr, MSR_F15H_PERF_CTL0, 2 * AMD_NR_CORE);
}

/* Selectors and counters alternate, or come one after the other. */
static bool amd_is_selector(uint32_t msr)
{
	if (amd_is_core(msr))
		return msr % 2 == MSR_F15H_PERF_CTL0 % 2;
	return is_nth(msr, MSR_K7_EVNTSEL0, AMD_NR_LEGACY);
}

/* The number of the counter that such a register belongs to. */
static unsigned int amd_counter_of(uint32_t msr)
{
	if (amd_is_core(msr))
		return (msr - MSR_F15H_PERF_CTL0) / 2;
	return (msr - MSR_K7_EVNTSEL0) % AMD_NR_LEGACY;
}

static bool amd_global_register(const struct vpmu_model *m, uint32_t msr,
				struct vpmu_register *reg)
{
	const uint64_t counters = low_bits(m->nr_gp);

	switch (msr) {
	case MSR_AMD64_PERF_CNTR_GLOBAL_STATUS:
		/* The guest writes it to no effect. */
		reg->host.valid = counters;
		reg->kept = counters;
		return true;
	case MSR_AMD64_PERF_CNTR_GLOBAL_CTL:
		reg->kept = counters;
		reg->reset = counters;
		return true;
	case MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR:
	case MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET:
		return true;
	default:
		return false;
	}
}

/* Bits that don't exist may be written, which does nothing. */
static bool amd_register(const struct vpmu_model *m, uint32_t msr, struct vpmu_register *reg)
{
	const bool there = amd_is_core(msr) ? m->full_width : amd_is_legacy(msr);

	if (!there)
		return m->version > 1 && amd_global_register(m, msr, reg);
	reg->kept = amd_is_selector(msr) ? m->selector_mask : m->gp_mask;
	return amd_counter_of(msr) < m->nr_gp;
}

/* The first four selectors and counters, where there is no PMU. */
static bool amd_is_ancient(const struct vpmu_model *m, uint32_t msr)
{
	return amd_is_legacy(msr) && !m->version;
}

static uint32_t amd_alias(uint32_t msr)
{
	const unsigned int nr = amd_counter_of(msr);

	if (!amd_is_core(msr) || nr >= AMD_NR_LEGACY)
		return msr;
	return nr + (amd_is_selector(msr) ? MSR_K7_EVNTSEL0 : MSR_K7_PERFCTR0);
}

static bool amd_has_rdpmc(const struct vpmu_model *m, uint32_t ecx)
{
	return ecx < m->nr_gp;
}

/* --- either */

struct msr_range {
	uint32_t base;
	unsigned int nr;
};

/**
 * struct rules - of a vendor
 * @model_of: vpmu_model_of()
 * @find: vpmu_model_register(), into a register without reserved bits
 * @is_ancient: vpmu_model_is_ancient()
 * @has_rdpmc: vpmu_model_has_rdpmc()
 * @alias: vpmu_msr_alias()
 * @ranges: what vpmu_list_msrs() lists
 */
static const struct rules {
	struct vpmu_model (*model_of)(struct kvm_vcpu *vcpu, uint64_t capabilities);
	bool (*find)(const struct vpmu_model *m, uint32_t msr, struct vpmu_register *reg);
	bool (*is_ancient)(const struct vpmu_model *m, uint32_t msr);
	bool (*has_rdpmc)(const struct vpmu_model *m, uint32_t ecx);
	uint32_t (*alias)(uint32_t msr);
	struct msr_range ranges[12];
} intel_rules = {
	.model_of = intel_model_of,
	.find = intel_register,
	.is_ancient = intel_is_ancient,
	.has_rdpmc = intel_has_rdpmc,
	.alias = intel_alias,
	.ranges = {
		{ MSR_IA32_PERFCTR0, VPMU_MAX_GP },
		{ MSR_P6_EVNTSEL0, VPMU_MAX_GP },
		{ MSR_IA32_PMC0, VPMU_MAX_GP },
		{ MSR_CORE_PERF_FIXED_CTR0, VPMU_MAX_FIXED },
		{ VPMU_MSR_PERF_METRICS, 1 },
		{ MSR_CORE_PERF_FIXED_CTR_CTRL, 1 },
		{ MSR_CORE_PERF_GLOBAL_STATUS, 1 },
		{ MSR_CORE_PERF_GLOBAL_CTRL, 1 },
		{ MSR_CORE_PERF_GLOBAL_OVF_CTRL, 1 },
		{ VPMU_MSR_GLOBAL_STATUS_SET, 1 },
		{ VPMU_MSR_GLOBAL_INUSE, 1 },
	},
}, amd_rules = {
	.model_of = amd_model_of,
	.find = amd_register,
	.is_ancient = amd_is_ancient,
	.has_rdpmc = amd_has_rdpmc,
	.alias = amd_alias,
	.ranges = {
		{ MSR_K7_EVNTSEL0, 2 * AMD_NR_LEGACY },
		{ MSR_F15H_PERF_CTL0, 2 * AMD_NR_CORE },
		{ MSR_AMD64_PERF_CNTR_GLOBAL_STATUS, 4 },
	},
};

static const struct rules *rules(void)
{
	return host_cpu_is_amd ? &amd_rules : &intel_rules;
}

struct vpmu_model vpmu_model_of(struct kvm_vcpu *vcpu, uint64_t capabilities)
{
	return rules()->model_of(vcpu, capabilities);
}

bool vpmu_model_register(const struct vpmu_model *m, uint32_t msr, struct vpmu_register *reg)
{
	*reg = (struct vpmu_register) {};
	set_valid(reg, -1ull);
	return rules()->find(m, msr, reg);
}

bool vpmu_model_is_ancient(const struct vpmu_model *m, uint32_t msr)
{
	return rules()->is_ancient(m, msr);
}

bool vpmu_model_has_rdpmc(const struct vpmu_model *m, uint32_t ecx)
{
	return rules()->has_rdpmc(m, ecx);
}

uint32_t vpmu_msr_alias(uint32_t msr)
{
	return rules()->alias(msr);
}

unsigned int vpmu_list_msrs(uint32_t msrs[VPMU_MAX_MSRS])
{
	const struct msr_range *range;
	unsigned int i, nr = 0;

	for (range = rules()->ranges; range->nr; range++) {
		for (i = 0; i < range->nr; i++)
			msrs[nr++] = range->base + i;
	}
	return nr;
}

bool vpmu_model_is_open_rdpmc(const struct vpmu_model *m, uint32_t ecx)
{
	return m->hidden_metrics && ecx == INTEL_RDPMC_METRICS;
}
