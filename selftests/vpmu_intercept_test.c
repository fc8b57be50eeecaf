// SPDX-License-Identifier: GPL-2.0
/*
 * Which PMU operations of a guest leave the guest, by KVM's own exit count.
 *
 * Data operations of a mediated PMU must not exit: counters are read and
 * written in hardware. What names all counters at once, RDPMC by index and the
 * global registers by bit, can be left to hardware only if the guest has every
 * counter of the host; a guest with fewer must not reach the others. Selectors
 * always exit, the host decides what is counted. So does RDPMC where it reads counters
 * that aren't the core's, of AMD's data fabric and L3 cache; so do writes of AMD's
 * read-only PerfCntrGlobalStatus, which are KVM's to ignore, and what sets
 * status bits, which are to tell of overflows.
 */
#include "vpmu.h"
#include "vpmu_harness.h"

#define NR_OPS		100

/* Exits that a machine may take for reasons of its own while NR_OPS run. */
#define SLACK_EXITS	(NR_OPS / 20)

enum op {
	RDPMC_GP,
	RDPMC_FIXED,
	WRITE_GLOBAL_CTRL,
	READ_GLOBAL_CTRL,
	READ_GLOBAL_STATUS,
	WRITE_GLOBAL_OVF_CTRL,
	WRITE_GLOBAL_STATUS,
	WRITE_GLOBAL_STATUS_SET,
	WRITE_GP,
	READ_GP,
	WRITE_GP_ELSEWHERE,
	READ_GP_ELSEWHERE,
	WRITE_FIXED,
	READ_FIXED,
	WRITE_SELECTOR,
	WRITE_FIXED_CTR_CTRL,
};

/* The counter's other address: for writes of the full width, or AMD's legacy one. */
static uint32_t counter_elsewhere(void)
{
	return host_cpu_is_amd ? MSR_K7_PERFCTR0 : MSR_IA32_PMC0;
}

/* What only one vendor's PMU has. */
static bool op_exists(enum op op)
{
	switch (op) {
	case RDPMC_FIXED:
	case WRITE_FIXED:
	case READ_FIXED:
	case WRITE_FIXED_CTR_CTRL:
		return host_cpu_is_intel;
	case WRITE_GLOBAL_STATUS:
	case WRITE_GLOBAL_STATUS_SET:
		return host_cpu_is_amd;
	default:
		return true;
	}
}

static void guest_op(enum op op, int i)
{
	switch (op) {
	case RDPMC_GP:
		_rdpmc(0);
		break;
	case RDPMC_FIXED:
		_rdpmc(INTEL_RDPMC_FIXED);
		break;
	case WRITE_GLOBAL_CTRL:
		wrmsr(vpmu_msr_global_ctrl(), i % 2);
		break;
	case READ_GLOBAL_CTRL:
		rdmsr(vpmu_msr_global_ctrl());
		break;
	case READ_GLOBAL_STATUS:
		rdmsr(vpmu_msr_global_status());
		break;
	case WRITE_GLOBAL_OVF_CTRL:
		wrmsr(vpmu_msr_status_clear(), 1);
		break;
	case WRITE_GLOBAL_STATUS:
		wrmsr(vpmu_msr_global_status(), 1);
		break;
	case WRITE_GLOBAL_STATUS_SET:
		wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET, 1);
		break;
	case WRITE_GP:
		wrmsr(vpmu_msr_counter(0), i);
		break;
	case READ_GP:
		rdmsr(vpmu_msr_counter(0));
		break;
	case WRITE_GP_ELSEWHERE:
		wrmsr(counter_elsewhere(), i);
		break;
	case READ_GP_ELSEWHERE:
		rdmsr(counter_elsewhere());
		break;
	case WRITE_FIXED:
		wrmsr(MSR_CORE_PERF_FIXED_CTR0, i);
		break;
	case READ_FIXED:
		rdmsr(MSR_CORE_PERF_FIXED_CTR0);
		break;
	case WRITE_SELECTOR:
		wrmsr(vpmu_msr_selector(0), i % 2 ? VPMU_SEL_OS(vpmu_event_insns()) : 0);
		break;
	case WRITE_FIXED_CTR_CTRL:
		wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, i % 2 ? FIXED_PMC_KERNEL : 0);
		break;
	}
}

/* Twice, so that the second round finds code and page tables in place. */
static void guest_ops(enum op op)
{
	int round, i;

	guest_pmu_clear();
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
	for (round = 0; round < 2; round++) {
		GUEST_SYNC(round);
		for (i = 0; i < NR_OPS; i++)
			guest_op(op, i);
	}
	GUEST_DONE();
}

/* The exits of NR_OPS operations, the ucall that ends them not counted. */
static uint64_t exits_of_ops(const struct vpmu_config *config, enum op op)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_ops, config);
	uint64_t before, exits;

	vpmu_stay_awake(vcpu, config);
	vcpu_args_set(vcpu, 1, (uint64_t)op);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	before = vpmu_exits(vcpu);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	exits = vpmu_exits(vcpu) - before - 1;
	kvm_vm_free(vm);
	return exits;
}

static void expect_exits(const struct vpmu_config *config, enum op op, bool exits_expected)
{
	uint64_t exits = exits_of_ops(config, op);

	if (exits_expected)
		TEST_ASSERT(exits >= NR_OPS, "%lu exits, expected one for each of %d operations",
			    exits, NR_OPS);
	else
		TEST_ASSERT(exits <= SLACK_EXITS, "%lu exits, expected none for %d operations",
			    exits, NR_OPS);
}

FIXTURE(intercept) { };
FIXTURE_SETUP(intercept) { }
FIXTURE_TEARDOWN(intercept) { }

/* Must the operation exit if the guest has all, or not all, of the host's counters? */
FIXTURE_VARIANT(intercept) {
	enum op op;
	bool exits_with_all;
	bool exits_with_fewer;
};

#define VARIANT(_name, _op, _all, _fewer)					\
FIXTURE_VARIANT_ADD(intercept, _name) {						\
	.op = _op, .exits_with_all = _all, .exits_with_fewer = _fewer,		\
}

VARIANT(rdpmc_gp,		RDPMC_GP,		false, true);
VARIANT(rdpmc_fixed,		RDPMC_FIXED,		false, true);
VARIANT(write_global_ctrl,	WRITE_GLOBAL_CTRL,	false, true);
VARIANT(read_global_ctrl,	READ_GLOBAL_CTRL,	false, true);
VARIANT(read_global_status,	READ_GLOBAL_STATUS,	false, true);
VARIANT(write_global_ovf_ctrl,	WRITE_GLOBAL_OVF_CTRL,	false, true);
VARIANT(write_global_status,	WRITE_GLOBAL_STATUS,	true, true);
VARIANT(write_global_status_set, WRITE_GLOBAL_STATUS_SET, true, true);
VARIANT(write_gp,		WRITE_GP,		false, false);
VARIANT(read_gp,		READ_GP,		false, false);
VARIANT(write_gp_elsewhere,	WRITE_GP_ELSEWHERE,	false, false);
VARIANT(read_gp_elsewhere,	READ_GP_ELSEWHERE,	false, false);
VARIANT(write_fixed,		WRITE_FIXED,		false, false);
VARIANT(read_fixed,		READ_FIXED,		false, false);
VARIANT(write_selector,		WRITE_SELECTOR,		true, true);
VARIANT(write_fixed_ctr_ctrl,	WRITE_FIXED_CTR_CTRL,	true, true);

/* KVM must offer every counter of the host, or nothing here could be free. */
TEST(offers_all_counters)
{
	struct vpmu_config host = vpmu_config_host();
	struct vpmu_config max = vpmu_config_max();

	VPMU_REQUIRE_MEDIATED();
	TEST_ASSERT_EQ(max.nr_gp, min_t(unsigned int, host.nr_gp, VPMU_MAX_GP));
	TEST_ASSERT_EQ(max.nr_fixed, min_t(unsigned int, host.nr_fixed, VPMU_MAX_FIXED));
}

#define REQUIRE_OP()								\
do {										\
	if (!op_exists(variant->op))						\
		SKIP(return, "no such register on this vendor's processors");	\
} while (0)

static bool exits_with_all(const FIXTURE_VARIANT(intercept) *variant)
{
	/* Then no guest has all. */
	if (vpmu_host_has_more())
		return variant->exits_with_fewer;
	return variant->exits_with_all || (variant->op == RDPMC_GP && vpmu_rdpmc_must_exit());
}

TEST_F(intercept, all_counters)
{
	struct vpmu_config config = vpmu_config_max();

	REQUIRE_OP();
	VPMU_REQUIRE_MEDIATED();
	expect_exits(&config, variant->op, exits_with_all(variant));
}

/* As QEMU has it by default: all counters, but not what is made of one. */
TEST_F(intercept, without_metrics)
{
	struct vpmu_config config = vpmu_config_max();

	REQUIRE_OP();
	VPMU_REQUIRE_MEDIATED();
	if (!(vpmu_capabilities_max() & VPMU_CAP_METRICS))
		SKIP(return, "needs PERF_METRICS");
	config.no_metrics = true;
	expect_exits(&config, variant->op, exits_with_all(variant));
}

TEST_F(intercept, one_gp_fewer)
{
	struct vpmu_config config = vpmu_config_max();

	REQUIRE_OP();
	VPMU_REQUIRE_MEDIATED();
	config.nr_gp--;
	expect_exits(&config, variant->op, variant->exits_with_fewer);
}

TEST_F(intercept, one_fixed_fewer)
{
	struct vpmu_config config = vpmu_config_max();

	REQUIRE_OP();
	if (!config.nr_fixed)
		SKIP(return, "there are no fixed counters");
	VPMU_REQUIRE_MEDIATED();
	config.nr_fixed--;
	expect_exits(&config, variant->op, variant->exits_with_fewer);
}

/* The emulated vPMU is never in hardware: this is also the test of the measure. */
TEST_F(intercept, emulated)
{
	struct vpmu_config config = vpmu_config_max();

	REQUIRE_OP();
	if (vpmu_is_mediated())
		SKIP(return, "needs the emulated vPMU");
	expect_exits(&config, variant->op, true);
}

/* The last KVM_SET_CPUID2 before the vCPU runs decides. */
TEST(cpuid_change)
{
	struct vpmu_config all = vpmu_config_max();
	struct vpmu_config fewer = all;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	uint64_t before;

	VPMU_REQUIRE_MEDIATED();
	if (vpmu_host_has_more())
		SKIP(return, "no guest can have all counters");
	fewer.nr_gp--;
	vm = vpmu_vm_create(&vcpu, guest_ops, &fewer);
	vpmu_set_config(vcpu, &all);
	vpmu_stay_awake(vcpu, &fewer);
	vcpu_args_set(vcpu, 1, (uint64_t)READ_GLOBAL_CTRL);
	vpmu_run(vcpu);
	before = vpmu_exits(vcpu);
	vpmu_run(vcpu);
	TEST_ASSERT(vpmu_exits(vcpu) - before >= NR_OPS,
		    "GLOBAL_CTRL does not exit after counters were taken away");
	kvm_vm_free(vm);

	vm = vpmu_vm_create(&vcpu, guest_ops, &fewer);
	vpmu_stay_awake(vcpu, &all);
	vcpu_args_set(vcpu, 1, (uint64_t)READ_GLOBAL_CTRL);
	vpmu_run(vcpu);
	vpmu_run(vcpu);
	before = vpmu_exits(vcpu);
	vpmu_run(vcpu);
	TEST_ASSERT(vpmu_exits(vcpu) - before <= 1 + SLACK_EXITS,
		    "GLOBAL_CTRL exits although the guest was given all counters");
	kvm_vm_free(vm);
}

/* User space has the last word on every MSR, by KVM_X86_SET_MSR_FILTER. */
static uint32_t fixed_counter(void)
{
	return host_cpu_is_intel ? MSR_CORE_PERF_FIXED_CTR0 : 0;
}

static uint32_t first_selector(void)
{
	return vpmu_msr_selector(0);
}

static uint32_t first_counter(void)
{
	return vpmu_msr_counter(0);
}

static void guest_filtered(uint32_t msr)
{
	wrmsr(msr, 0);
	GUEST_SYNC(0);
	GUEST_ASSERT_EQ(wrmsr_safe(msr, 0), GP_VECTOR);
	GUEST_SYNC(1);
	wrmsr(msr, 0);
	GUEST_DONE();
}

static void deny_writes(struct kvm_vm *vm, uint32_t msr, bool deny)
{
	uint8_t bitmap = 0;
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = {
			.flags = KVM_MSR_FILTER_WRITE,
			.nmsrs = 1,
			.base = msr,
			.bitmap = &bitmap,
		},
	};

	if (!deny)
		memset(&filter.ranges[0], 0, sizeof(filter.ranges[0]));
	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);
}

FIXTURE(user_filter) { };
FIXTURE_SETUP(user_filter) { }
FIXTURE_TEARDOWN(user_filter) { }

FIXTURE_VARIANT(user_filter) {
	uint32_t (*msr)(void);
};

FIXTURE_VARIANT_ADD(user_filter, global_ctrl) { .msr = vpmu_msr_global_ctrl };
FIXTURE_VARIANT_ADD(user_filter, gp) { .msr = first_counter };
FIXTURE_VARIANT_ADD(user_filter, gp_elsewhere) { .msr = counter_elsewhere };
FIXTURE_VARIANT_ADD(user_filter, fixed) { .msr = fixed_counter };
FIXTURE_VARIANT_ADD(user_filter, selector) { .msr = first_selector };

TEST_F(user_filter, denies_writes)
{
	struct vpmu_config config = vpmu_config_max();
	const uint32_t msr = variant->msr();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	if (!msr)
		SKIP(return, "no such register on this vendor's processors");
	vm = vpmu_vm_create(&vcpu, guest_filtered, &config);
	vcpu_args_set(vcpu, 1, (uint64_t)msr);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	deny_writes(vm, msr, true);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	deny_writes(vm, msr, false);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
