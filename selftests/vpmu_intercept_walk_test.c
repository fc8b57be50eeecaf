// SPDX-License-Identifier: GPL-2.0
/*
 * Every register of the PMU, read and written, on every PMU that a guest can
 * have: what exits, and what does not.
 *
 * The table that the exits are held against is the one that the module states
 * (src/intel/intercepts.rs, src/amd/mod.rs), written down here a second time. A list of operations
 * that must not exit is run at a stretch, and so is one of those that must:
 * none of the one may exit, each of the other has to. Only where the sum is
 * wrong are they run one by one, to tell which it was.
 */
#include "vpmu.h"
#include "vpmu_harness.h"

#define MAX_OPS		192

/* An exit of the machine's own may come in between, but not each time. */
#define NR_TRIES	3

/* Counters that AMD's processors have at their legacy addresses. */
#define AMD_NR_LEGACY	4
#define AMD_NR_GLOBAL	4

/* The host's own, of the data fabric and of the L3 cache: pairs of selector and counter. */
#define AMD_MSR_DF_CTL0		0xc0010240
#define AMD_NR_DF		16
#define AMD_MSR_L3_CTL0		0xc0010230
#define AMD_NR_L3		6

/* Counters that a processor may have and no guest can. */
#define INTEL_NR_GP		10
#define INTEL_NR_FIXED		7

enum kind {
	RDPMC,
	RDMSR,
	WRMSR,
};

static const char * const kind_names[] = { "RDPMC", "RDMSR", "WRMSR" };

/**
 * struct op - an operation of the guest
 * @kind: the instruction
 * @index: what it has in ECX
 */
struct op {
	enum kind kind;
	uint32_t index;
};

/**
 * struct ops - what the guest does from one sync to the next
 * @nr: how many operations
 * @ops: these
 */
struct ops {
	uint32_t nr;
	struct op ops[MAX_OPS];
};

static struct ops guest_ops;

/* Zero is a value that each register takes, if it takes any. */
static void guest_op(const struct op *op)
{
	uint64_t ignored;

	if (op->kind == RDPMC)
		rdpmc_safe(op->index, &ignored);
	else if (op->kind == RDMSR)
		rdmsr_safe(op->index, &ignored);
	else
		wrmsr_safe(op->index, 0);
}

static void guest_walk(void)
{
	uint32_t i;

	for (;;) {
		for (i = 0; i < guest_ops.nr; i++)
			guest_op(&guest_ops.ops[i]);
		GUEST_SYNC(0);
	}
}

static uint64_t exits_once(struct kvm_vcpu *vcpu)
{
	uint64_t before = vpmu_exits(vcpu);

	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	/* GUEST_SYNC() is one. */
	return vpmu_exits(vcpu) - before - 1;
}

/* The exits of @ops, tried again where they are not @expected. */
static uint64_t exits_of(struct kvm_vcpu *vcpu, const struct ops *ops, uint64_t expected)
{
	uint64_t exits;
	int try;

	memcpy(addr_gva2hva(vcpu->vm, (uint64_t)&guest_ops), ops, sizeof(*ops));
	/* The first time finds code and page tables not in place yet. */
	exits_once(vcpu);
	for (try = 0; try < NR_TRIES; try++) {
		exits = exits_once(vcpu);
		if (exits == expected)
			break;
	}
	return exits;
}

/**
 * struct pmu - a guest's PMU, and what of it is the hardware itself
 * @config: what the guest has
 * @whole: it is all that the host has
 * @gp: its general-purpose counters are as wide as the host's
 * @fixed: its fixed counters are as wide as the host's
 * @metrics: it has IA32_PERF_METRICS
 */
struct pmu {
	struct vpmu_config config;
	bool whole;
	bool gp;
	bool fixed;
	bool metrics;
};

static struct pmu pmu_of(const struct vpmu_config *config)
{
	const struct vpmu_config host = vpmu_config_host();
	const bool host_metrics = vpmu_capabilities_max() & VPMU_CAP_METRICS;
	struct pmu pmu = {
		.config = *config,
		.gp = !config->gp_width ||
		      config->gp_width >= this_cpu_property(X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH),
		.fixed = !config->fixed_width || config->fixed_width >=
			 this_cpu_property(X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH),
	};

	if (host_cpu_is_amd) {
		pmu.whole = config->version >= 2 && config->nr_gp == host.nr_gp;
		return pmu;
	}
	if (config->version < 2)
		pmu.config.nr_fixed = 0;
	if (!config->version)
		pmu.config.nr_gp = 0;
	/* It divides up what fixed counter 3 counts. */
	pmu.metrics = host_metrics && !config->no_capabilities && !config->no_metrics &&
		      pmu.config.nr_fixed > 3;
	pmu.whole = config->version >= 2 && pmu.gp && pmu.fixed &&
		    config->nr_gp == host.nr_gp && config->nr_fixed == host.nr_fixed &&
		    !vpmu_host_has_more();
	return pmu;
}

static bool is_nth(uint32_t msr, uint32_t base, uint32_t nr)
{
	return msr - base < nr;
}

static bool msr_is_free(const struct pmu *pmu, uint32_t msr)
{
	const struct vpmu_config *c = &pmu->config;

	if (msr == MSR_CORE_PERF_GLOBAL_CTRL || msr == MSR_CORE_PERF_GLOBAL_STATUS ||
	    msr == MSR_CORE_PERF_GLOBAL_OVF_CTRL)
		return pmu->whole;
	if (msr == VPMU_MSR_PERF_METRICS)
		return pmu->metrics;
	if (is_nth(msr, MSR_IA32_PERFCTR0, c->nr_gp))
		return pmu->gp;
	if (is_nth(msr, MSR_IA32_PMC0, c->nr_gp))
		return pmu->gp && !c->no_capabilities;
	if (is_nth(msr, MSR_CORE_PERF_FIXED_CTR0, c->nr_fixed))
		return pmu->fixed;
	return false;
}

/*
 * On AMD RDPMC of a counter that the processor has not got faults before it
 * exits, and reads what there is beyond the core's counters only with an exit.
 */
static bool amd_rdpmc_is_free(const struct pmu *pmu, uint32_t index)
{
	if (vpmu_rdpmc_must_exit())
		return false;
	return pmu->config.nr_gp == vpmu_config_host().nr_gp ||
	       index >= vpmu_config_host().nr_gp;
}

static bool amd_msr_is_free(const struct pmu *pmu, const struct op *op)
{
	const struct vpmu_config *c = &pmu->config;
	const bool core = c->version >= 2 || c->nr_gp > AMD_NR_LEGACY;

	switch (op->index) {
	case MSR_AMD64_PERF_CNTR_GLOBAL_STATUS:
		return pmu->whole && op->kind == RDMSR;
	case MSR_AMD64_PERF_CNTR_GLOBAL_CTL:
	case MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR:
		return pmu->whole;
	case MSR_K7_PERFCTR0 ... MSR_K7_PERFCTR0 + AMD_NR_LEGACY - 1:
		return op->index - MSR_K7_PERFCTR0 < c->nr_gp;
	case MSR_F15H_PERF_CTL0 ... MSR_F15H_PERF_CTR5:
		/* Odd ones are counters. */
		return core && op->index % 2 && (op->index - MSR_F15H_PERF_CTL0) / 2 < c->nr_gp;
	default:
		return false;
	}
}

static bool is_free(const struct pmu *pmu, const struct op *op)
{
	if (host_cpu_is_amd)
		return op->kind == RDPMC ? amd_rdpmc_is_free(pmu, op->index) :
					   amd_msr_is_free(pmu, op);
	return op->kind == RDPMC ? pmu->whole : msr_is_free(pmu, op->index);
}

static void add(struct ops *ops, enum kind kind, uint32_t index)
{
	TEST_ASSERT(ops->nr < MAX_OPS, "MAX_OPS is too small");
	ops->ops[ops->nr++] = (struct op) { .kind = kind, .index = index };
}

static void add_msrs(struct ops *ops, uint32_t base, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++) {
		add(ops, RDMSR, base + i);
		add(ops, WRMSR, base + i);
	}
}

static void add_rdpmcs(struct ops *ops, uint32_t base, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		add(ops, RDPMC, base + i);
}

static struct ops all_amd_ops(void)
{
	struct ops ops = {};

	add_rdpmcs(&ops, 0, VPMU_MAX_GP);
	add_msrs(&ops, MSR_K7_EVNTSEL0, 2 * AMD_NR_LEGACY);
	add_msrs(&ops, MSR_F15H_PERF_CTL0, 2 * 6);
	add_msrs(&ops, AMD_MSR_L3_CTL0, 2 * AMD_NR_L3);
	add_msrs(&ops, AMD_MSR_DF_CTL0, 2 * AMD_NR_DF);
	add_msrs(&ops, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS, AMD_NR_GLOBAL);
	return ops;
}

/* All there is, whether the guest has it or not. */
static struct ops all_ops(void)
{
	struct ops ops = {};

	if (host_cpu_is_amd)
		return all_amd_ops();

	add_rdpmcs(&ops, 0, INTEL_NR_GP);
	add_rdpmcs(&ops, INTEL_RDPMC_FIXED, INTEL_NR_FIXED);
	add_msrs(&ops, MSR_IA32_PERFCTR0, INTEL_NR_GP);
	add_msrs(&ops, MSR_IA32_PMC0, INTEL_NR_GP);
	add_msrs(&ops, MSR_P6_EVNTSEL0, INTEL_NR_GP);
	add_msrs(&ops, MSR_CORE_PERF_FIXED_CTR0, INTEL_NR_FIXED);
	add_msrs(&ops, MSR_CORE_PERF_FIXED_CTR_CTRL, 1);
	add_msrs(&ops, MSR_CORE_PERF_GLOBAL_STATUS, 1);
	add_msrs(&ops, MSR_CORE_PERF_GLOBAL_CTRL, 1);
	add_msrs(&ops, MSR_CORE_PERF_GLOBAL_OVF_CTRL, 1);
	add_msrs(&ops, VPMU_MSR_PERF_METRICS, 1);
	add_msrs(&ops, VPMU_MSR_GLOBAL_STATUS_SET, 1);
	add_msrs(&ops, VPMU_MSR_GLOBAL_INUSE, 1);
	return ops;
}

/* Ends the test with the name of an operation that is not as it should be. */
static void blame(struct kvm_vcpu *vcpu, const struct pmu *pmu, const struct ops *ops, bool free)
{
	const struct vpmu_config *c = &pmu->config;
	struct ops one = { .nr = 1 };
	uint64_t exits;
	uint32_t i;

	for (i = 0; i < ops->nr; i++) {
		one.ops[0] = ops->ops[i];
		exits = exits_of(vcpu, &one, !free);
		TEST_ASSERT(exits == !free,
			    "version %u, %u+%u counters of %u and %u bits%s: %s %x exits %lu times",
			    c->version, c->nr_gp, c->nr_fixed, c->gp_width, c->fixed_width,
			    c->no_capabilities ? ", no capabilities" : "",
			    kind_names[one.ops[0].kind], one.ops[0].index, exits);
	}
	TEST_FAIL("Exits differ, but not one by one");
}

static void walk(struct kvm_vcpu *vcpu, const struct vpmu_config *config)
{
	const struct pmu pmu = pmu_of(config);
	const struct ops all = all_ops();
	struct ops free = {}, trapped = {};
	uint32_t i;

	for (i = 0; i < all.nr; i++)
		add(is_free(&pmu, &all.ops[i]) ? &free : &trapped,
		    all.ops[i].kind, all.ops[i].index);
	if (free.nr && exits_of(vcpu, &free, 0))
		blame(vcpu, &pmu, &free, true);
	if (exits_of(vcpu, &trapped, trapped.nr) != trapped.nr)
		blame(vcpu, &pmu, &trapped, false);
}

/* A VM with a vCPU for each configuration, as if they were processors of a kind. */
static void walk_all(const struct vpmu_config *configs, unsigned int nr)
{
	struct kvm_vm *vm = vm_create(nr);
	struct kvm_vcpu *vcpu;
	unsigned int i;

	TEST_ASSERT(nr, "Nothing to walk");
	for (i = 0; i < nr; i++) {
		vcpu = vm_vcpu_add(vm, i, guest_walk);
		vpmu_vcpu_init(vcpu, &configs[i]);
		vpmu_stay_awake(vcpu, &configs[i]);
		walk(vcpu, &configs[i]);
	}
	kvm_vm_free(vm);
}

/* All numbers of counters, with and without full-width writes. */
TEST(version_2)
{
	struct vpmu_config configs[(VPMU_MAX_GP + 1) * (VPMU_MAX_FIXED + 1) * 2];
	const struct vpmu_config max = vpmu_config_max();
	struct vpmu_config c = { .version = 2 };
	unsigned int nr = 0;

	for (c.nr_gp = 1; c.nr_gp <= max.nr_gp; c.nr_gp++) {
		for (c.nr_fixed = 0; c.nr_fixed <= max.nr_fixed; c.nr_fixed++) {
			c.no_capabilities = (c.nr_gp + c.nr_fixed) % 2;
			configs[nr++] = c;
			/* Both ways where there is more to tell. */
			if (c.nr_gp != max.nr_gp && c.nr_fixed != max.nr_fixed)
				continue;
			if (host_cpu_is_amd)
				continue;
			c.no_capabilities = !c.no_capabilities;
			configs[nr++] = c;
		}
	}
	walk_all(configs, nr);
}

/* Its guests have no fixed counters, whatever CPUID says. */
TEST(version_1)
{
	struct vpmu_config configs[VPMU_MAX_GP + 1];
	const struct vpmu_config max = vpmu_config_max();
	unsigned int nr;

	if (host_cpu_is_amd) {
		/* With the legacy counters alone a guest has no mediated PMU. */
		configs[0] = (struct vpmu_config) { .version = 1, .nr_gp = 6 };
		walk_all(configs, 1);
		return;
	}
	for (nr = 0; nr < max.nr_gp; nr++)
		configs[nr] = (struct vpmu_config) {
			.version = 1,
			.nr_gp = nr + 1,
			.nr_fixed = nr % 2 ? max.nr_fixed : 0,
			.no_capabilities = nr % 4 >= 2,
		};
	walk_all(configs, nr);
}

/* AMD's CPUID leaf has neither a version nor a width. */
#define REQUIRE_LEAF_0A()							\
do {										\
	if (!host_cpu_is_intel)							\
		SKIP(return, "needs CPUID leaf 0AH");				\
} while (0)

/* A version that KVM does not offer is as the one that it does. */
TEST(other_versions)
{
	struct vpmu_config configs[8];
	unsigned int i;

	REQUIRE_LEAF_0A();
	for (i = 0; i < ARRAY_SIZE(configs); i++) {
		configs[i] = vpmu_config_max();
		configs[i].version = (uint8_t []) { 0, 3, 4, 5 }[i / 2];
		configs[i].nr_gp -= i % 2;
	}
	walk_all(configs, ARRAY_SIZE(configs));
}

TEST(narrow_counters)
{
	const uint8_t widths[][2] = { { 32, 0 }, { 0, 32 }, { 40, 40 }, { 47, 48 }, { 48, 47 },
				      { 64, 64 } };
	struct vpmu_config configs[ARRAY_SIZE(widths)];
	unsigned int i;

	REQUIRE_LEAF_0A();
	for (i = 0; i < ARRAY_SIZE(widths); i++) {
		configs[i] = vpmu_config_max();
		configs[i].gp_width = widths[i][0];
		configs[i].fixed_width = widths[i][1];
	}
	walk_all(configs, ARRAY_SIZE(configs));
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	__TEST_REQUIRE(vpmu_is_mediated(), "needs " VPMU_MODULE_NAME);
	return test_harness_run(argc, argv);
}
