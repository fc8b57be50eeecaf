// SPDX-License-Identifier: GPL-2.0
/*
 * The PMU registers that a guest has, what they take, and that they can be
 * saved and restored.
 *
 * SDM Vol. 3B, 21.2 "Architectural Performance Monitoring": version 1 has
 * general-purpose counters and their selectors, version 2 adds fixed counters
 * and the global registers; what CPUID leaf 0AH does not tell of does not
 * exist, and reserved bits fault. AMD's registers have other rules, which are
 * vpmu_amd_test's; saving and restoring them is the same.
 */
#include "apic.h"
#include "payloads.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define APIC_LVTPC	0x340

#define MAX_GP		8
#define MAX_FIXED	4
#define MAX_MSRS	64

DEFINE_LOOP_PAYLOAD(pio_user,
	"out %%al, $0x80\n\t",
	1, 0);

#define GUEST_EXPECT_WRMSR(_msr, _val, _fault)					\
do {										\
	uint64_t __val = (_val);						\
	uint8_t __vector = wrmsr_safe(_msr, __val);				\
										\
	__GUEST_ASSERT(__vector == ((_fault) ? GP_VECTOR : 0),			\
		       "WRMSR(%x, %lx): vector %u, expected %u",		\
		       (uint32_t)(_msr), __val, __vector, (_fault) ? GP_VECTOR : 0); \
} while (0)

#define GUEST_EXPECT_RDMSR_FAULT(_msr)						\
do {										\
	uint64_t __ignored;							\
	uint8_t __vector = rdmsr_safe(_msr, &__ignored);			\
										\
	__GUEST_ASSERT(__vector == GP_VECTOR, "RDMSR(%x): vector %u, expected #GP", \
		       (uint32_t)(_msr), __vector);				\
} while (0)

#define GUEST_EXPECT_RDMSR(_msr, _val)						\
do {										\
	uint64_t __want = (_val), __got = rdmsr(_msr);				\
										\
	__GUEST_ASSERT(__got == __want, "RDMSR(%x): %lx, expected %lx",		\
		       (uint32_t)(_msr), __got, __want);			\
} while (0)

static void guest_expect_absent(uint32_t msr)
{
	GUEST_EXPECT_WRMSR(msr, 0, true);
	GUEST_EXPECT_RDMSR_FAULT(msr);
}

static void guest_expect_rdpmc_fault(uint32_t idx)
{
	uint64_t ignored;
	uint8_t vector = rdpmc_safe(idx, &ignored);

	__GUEST_ASSERT(vector == GP_VECTOR, "RDPMC(%x): vector %u, expected #GP", idx, vector);
}

/* Bits of @writable take, every other one faults; then the register is zero. */
static void guest_probe_bits(uint32_t msr, uint64_t writable)
{
	int bit;

	for (bit = 0; bit < 64; bit++) {
		GUEST_EXPECT_WRMSR(msr, BIT_ULL(bit), !(writable & BIT_ULL(bit)));
		if (writable & BIT_ULL(bit))
			GUEST_EXPECT_RDMSR(msr, BIT_ULL(bit));
	}
	wrmsr(msr, 0);
	/* A write that faults changes nothing. */
	GUEST_EXPECT_WRMSR(msr, writable, false);
	if (~writable)
		GUEST_EXPECT_WRMSR(msr, ~writable, true);
	GUEST_EXPECT_RDMSR(msr, writable);
	wrmsr(msr, 0);
}

/* Bits 31:0 but AnyThread, which goes by CPUID and which KVM does not offer. */
#define SELECTOR_WRITABLE	(GENMASK_ULL(31, 0) & ~ARCH_PERFMON_EVENTSEL_ANY)

static void guest_reset_values(void)
{
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++) {
		GUEST_EXPECT_RDMSR(vpmu_msr_counter(i), 0);
		GUEST_EXPECT_RDMSR(vpmu_msr_selector(i), 0);
	}
	for (i = 0; i < guest_nr_fixed(); i++)
		GUEST_EXPECT_RDMSR(MSR_CORE_PERF_FIXED_CTR0 + i, 0);
	if (guest_nr_fixed())
		GUEST_EXPECT_RDMSR(MSR_CORE_PERF_FIXED_CTR_CTRL, 0);
	GUEST_EXPECT_RDMSR(vpmu_msr_global_status(), 0);
	/* SDM Vol. 3A, table 11-1: all general-purpose counters enabled. */
	GUEST_EXPECT_RDMSR(vpmu_msr_global_ctrl(), guest_gp_mask());
	GUEST_DONE();
}

static void guest_selectors(void)
{
	unsigned int i;

	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, 0);
	/* The first and the last do for all, here and below: each bit is an exit. */
	for (i = 0; i < guest_nr_gp(); i += guest_nr_gp() - 1)
		guest_probe_bits(MSR_P6_EVNTSEL0 + i, SELECTOR_WRITABLE);
	GUEST_DONE();
}

static void guest_fixed_ctrl(void)
{
	uint64_t writable = 0;
	unsigned int i;

	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, 0);
	for (i = 0; i < guest_nr_fixed(); i++)
		writable |= FIXED_PMC_CTRL(i, FIXED_PMC_KERNEL | FIXED_PMC_USER |
					      FIXED_PMC_ENABLE_PMI);
	guest_probe_bits(MSR_CORE_PERF_FIXED_CTR_CTRL, writable);
	GUEST_DONE();
}

static void guest_global(void)
{
	const uint64_t counters = guest_gp_mask() | guest_fixed_mask() | guest_metrics_mask();
	int bit;

	guest_probe_bits(MSR_CORE_PERF_GLOBAL_CTRL, counters);

	/* Read-only; version 4 has a register to set its bits. */
	GUEST_EXPECT_RDMSR(MSR_CORE_PERF_GLOBAL_STATUS, 0);
	GUEST_EXPECT_WRMSR(MSR_CORE_PERF_GLOBAL_STATUS, 0, true);
	GUEST_EXPECT_WRMSR(MSR_CORE_PERF_GLOBAL_STATUS, 1, true);

	/* Clears, does not set. */
	for (bit = 0; bit < 64; bit++) {
		if (counters & BIT_ULL(bit))
			GUEST_EXPECT_WRMSR(MSR_CORE_PERF_GLOBAL_OVF_CTRL, BIT_ULL(bit), false);
	}
	GUEST_EXPECT_RDMSR(MSR_CORE_PERF_GLOBAL_STATUS, 0);
	GUEST_DONE();
}

/* Bits for counters that the guest has not got. */
static void guest_global_reserved(void)
{
	const uint64_t counters = guest_gp_mask() | guest_fixed_mask();
	int bit;

	for (bit = 0; bit < 48; bit++) {
		if (!(counters & BIT_ULL(bit)))
			GUEST_EXPECT_WRMSR(MSR_CORE_PERF_GLOBAL_OVF_CTRL, BIT_ULL(bit), true);
	}
	GUEST_DONE();
}

static void guest_counters(void)
{
	const uint64_t mask = guest_counter_mask();
	const uint64_t values[] = { 0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0x12345678 };
	unsigned int i, v;
	int bit;

	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, 0);
	for (i = 0; i < guest_nr_gp(); i += guest_nr_gp() - 1) {
		/* The old way: EDX does not matter, bit 31 goes on to the top. */
		for (v = 0; v < ARRAY_SIZE(values); v++) {
			const uint64_t sext = (int64_t)(int32_t)values[v];

			GUEST_EXPECT_WRMSR(MSR_IA32_PERFCTR0 + i,
					   values[v] | 0xdeadbeefull << 32, false);
			GUEST_EXPECT_RDMSR(MSR_IA32_PERFCTR0 + i, sext & mask);
			GUEST_EXPECT_RDMSR(MSR_IA32_PMC0 + i, sext & mask);
			GUEST_ASSERT_EQ(_rdpmc(i), sext & mask);
		}
		/* The new way: all bits of the counter, and no other. */
		for (bit = 0; bit < 64; bit++) {
			GUEST_EXPECT_WRMSR(MSR_IA32_PMC0 + i, BIT_ULL(bit),
					   !(mask & BIT_ULL(bit)));
			if (mask & BIT_ULL(bit))
				GUEST_EXPECT_RDMSR(MSR_IA32_PERFCTR0 + i, BIT_ULL(bit));
		}
		wrmsr(MSR_IA32_PMC0 + i, mask);
		GUEST_ASSERT_EQ(_rdpmc(i), mask);
		wrmsr(MSR_IA32_PMC0 + i, 0);
	}
	for (i = 0; i < guest_nr_fixed(); i++) {
		for (bit = 0; bit < 64; bit++) {
			if (!(mask & BIT_ULL(bit)))
				continue;
			wrmsr(MSR_CORE_PERF_FIXED_CTR0 + i, BIT_ULL(bit));
			GUEST_EXPECT_RDMSR(MSR_CORE_PERF_FIXED_CTR0 + i, BIT_ULL(bit));
			GUEST_ASSERT_EQ(_rdpmc(INTEL_RDPMC_FIXED | i), BIT_ULL(bit));
		}
		wrmsr(MSR_CORE_PERF_FIXED_CTR0 + i, 0);
	}
	GUEST_DONE();
}

/* Version 2 or later has no registers of version 4, whatever CPUID says. */
static void guest_absent(void)
{
	unsigned int i;

	guest_expect_absent(VPMU_MSR_GLOBAL_STATUS_SET);
	guest_expect_absent(VPMU_MSR_GLOBAL_INUSE);
	for (i = max_t(int, guest_nr_gp(), 2); i < MAX_GP; i++) {
		guest_expect_absent(MSR_IA32_PERFCTR0 + i);
		guest_expect_absent(MSR_IA32_PMC0 + i);
		guest_expect_absent(MSR_P6_EVNTSEL0 + i);
		guest_expect_rdpmc_fault(i);
	}
	for (i = guest_nr_fixed(); i < MAX_FIXED; i++) {
		guest_expect_absent(MSR_CORE_PERF_FIXED_CTR0 + i);
		guest_expect_rdpmc_fault(INTEL_RDPMC_FIXED | i);
	}
	/* No such kinds of counters: maybe metrics, fast reads. */
	if (!guest_metrics_mask())
		guest_expect_rdpmc_fault(INTEL_RDPMC_METRICS);
	guest_expect_rdpmc_fault(INTEL_RDPMC_FAST);
	guest_expect_rdpmc_fault(INTEL_RDPMC_FIXED | INTEL_RDPMC_FAST);
	GUEST_DONE();
}

/* Without full-width writes in PERF_CAPABILITIES their registers are not there. */
static void guest_no_full_width(void)
{
	unsigned int i;

	GUEST_EXPECT_RDMSR(MSR_IA32_PERF_CAPABILITIES, 0);
	for (i = 0; i < guest_nr_gp(); i++) {
		guest_expect_absent(MSR_IA32_PMC0 + i);
		wrmsr(MSR_IA32_PERFCTR0 + i, 0xfffffffe);
		GUEST_ASSERT_EQ(_rdpmc(i), -2ull & guest_counter_mask());
		wrmsr(MSR_IA32_PERFCTR0 + i, 0);
	}
	GUEST_DONE();
}

/* Version 1: no global switch, so a selector alone lets its counter count. */
static void guest_version1(void)
{
	const struct payload *p = &payload_nop;
	unsigned int i;

	guest_expect_absent(MSR_CORE_PERF_GLOBAL_CTRL);
	guest_expect_absent(MSR_CORE_PERF_GLOBAL_STATUS);
	guest_expect_absent(MSR_CORE_PERF_GLOBAL_OVF_CTRL);
	guest_expect_absent(MSR_CORE_PERF_FIXED_CTR_CTRL);
	for (i = 0; i < MAX_FIXED; i++) {
		guest_expect_absent(MSR_CORE_PERF_FIXED_CTR0 + i);
		guest_expect_rdpmc_fault(INTEL_RDPMC_FIXED | i);
	}
	guest_probe_bits(MSR_P6_EVNTSEL0 + guest_nr_gp() - 1, SELECTOR_WRITABLE);
	for (i = 0; i < guest_nr_gp(); i++) {
		wrmsr(MSR_IA32_PERFCTR0 + i, 0);
		p->run(MSR_P6_EVNTSEL0 + i, VPMU_SEL_OS(INTEL_ARCH_INSTRUCTIONS_RETIRED), 0);
		__GUEST_ASSERT(_rdpmc(i) == p->insns, "PMC %u: counted %lu, retired %lu",
			       i, (uint64_t)_rdpmc(i), p->insns);
	}
	GUEST_DONE();
}

/* No PMU at all. KVM has always let P6's two counters be written. */
static void guest_version0(void)
{
	unsigned int i;

	guest_expect_absent(MSR_CORE_PERF_GLOBAL_CTRL);
	guest_expect_absent(MSR_CORE_PERF_GLOBAL_STATUS);
	guest_expect_absent(MSR_CORE_PERF_FIXED_CTR_CTRL);
	for (i = 2; i < MAX_GP; i++) {
		guest_expect_absent(MSR_IA32_PERFCTR0 + i);
		guest_expect_absent(MSR_P6_EVNTSEL0 + i);
	}
	for (i = 0; i < MAX_FIXED; i++)
		guest_expect_absent(MSR_CORE_PERF_FIXED_CTR0 + i);
	for (i = 0; i < MAX_GP; i++)
		guest_expect_rdpmc_fault(i);
	guest_expect_rdpmc_fault(INTEL_RDPMC_FIXED);
	GUEST_DONE();
}

static void test_guest(void *guest_code, const struct vpmu_config *config)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_code, config);

	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

/* Each guest for all counters, and for so few that the registers are KVM's to emulate. */
FIXTURE(msr) {
	struct vpmu_config config;
};

FIXTURE_VARIANT(msr) {
	bool fewer;
};

FIXTURE_VARIANT_ADD(msr, all_counters) { };
FIXTURE_VARIANT_ADD(msr, fewer_counters) { .fewer = true };

FIXTURE_SETUP(msr)
{
	self->config = vpmu_config_max();
	if (variant->fewer) {
		self->config.nr_gp = 3;
		self->config.nr_fixed = host_cpu_is_intel ? 2 : 0;
	}
}

FIXTURE_TEARDOWN(msr) { }

#define REQUIRE_INTEL()								\
do {										\
	if (!host_cpu_is_intel)							\
		SKIP(return, "Intel's rules; vpmu_amd_test has AMD's");		\
} while (0)

TEST_F(msr, reset_values)
{
	test_guest(guest_reset_values, &self->config);
}

TEST_F(msr, selectors)
{
	REQUIRE_INTEL();
	test_guest(guest_selectors, &self->config);
}

TEST_F(msr, fixed_ctr_ctrl)
{
	REQUIRE_INTEL();
	test_guest(guest_fixed_ctrl, &self->config);
}

TEST_F(msr, global)
{
	REQUIRE_INTEL();
	test_guest(guest_global, &self->config);
}

TEST_F(msr, global_reserved)
{
	REQUIRE_INTEL();
	test_guest(guest_global_reserved, &self->config);
}

TEST_F(msr, counters)
{
	REQUIRE_INTEL();
	test_guest(guest_counters, &self->config);
}

TEST_F(msr, absent)
{
	REQUIRE_INTEL();
	test_guest(guest_absent, &self->config);
}

TEST_F(msr, absent_in_version_5)
{
	REQUIRE_INTEL();
	self->config.version = 5;
	test_guest(guest_absent, &self->config);
}

TEST_F(msr, version_1)
{
	REQUIRE_INTEL();
	self->config.version = 1;
	test_guest(guest_version1, &self->config);
}

TEST_F(msr, version_0)
{
	REQUIRE_INTEL();
	self->config.version = 0;
	test_guest(guest_version0, &self->config);
}

TEST_F(msr, no_full_width)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	REQUIRE_INTEL();
	vm = vpmu_vm_create(&vcpu, guest_no_full_width, &self->config);
	vcpu_set_msr(vcpu, MSR_IA32_PERF_CAPABILITIES, 0);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

/* What is reserved for the guest is reserved for who restores it. */
TEST_F(msr, host_reserved)
{
	const bool metrics = self->config.nr_fixed > 3 &&
			     vpmu_capabilities_max() & VPMU_CAP_METRICS;
	const uint64_t counters = (BIT_ULL(self->config.nr_gp) - 1) |
				  (BIT_ULL(self->config.nr_fixed) - 1) << 32 |
				  (metrics ? BIT_ULL(48) : 0);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int bit;

	REQUIRE_INTEL();
	vm = vpmu_vm_create(&vcpu, guest_reset_values, &self->config);
	for (bit = 0; bit < 64; bit++) {
		TEST_ASSERT((_vcpu_set_msr(vcpu, MSR_CORE_PERF_GLOBAL_CTRL, BIT_ULL(bit)) == 1) ==
			    !!(counters & BIT_ULL(bit)), "GLOBAL_CTRL bit %d", bit);
		TEST_ASSERT((_vcpu_set_msr(vcpu, MSR_P6_EVNTSEL0, BIT_ULL(bit)) == 1) ==
			    !!(SELECTOR_WRITABLE & BIT_ULL(bit)), "PERFEVTSEL0 bit %d", bit);
	}
	TEST_ASSERT(_vcpu_set_msr(vcpu, MSR_CORE_PERF_FIXED_CTR_CTRL, -1ull) != 1,
		    "FIXED_CTR_CTRL took all ones");

	/* Status is read-only for guests alone. */
	vcpu_set_msr(vcpu, MSR_CORE_PERF_GLOBAL_STATUS, counters);
	vcpu_set_msr(vcpu, MSR_CORE_PERF_GLOBAL_STATUS, 0);
	kvm_vm_free(vm);
}

/**
 * struct pmu_state - all PMU registers of a vCPU
 * @msrs: in the layout of KVM_GET_MSRS
 */
struct pmu_state {
	struct kvm_msrs header;
	struct kvm_msr_entry msrs[MAX_MSRS];
};

static void add_msr(struct pmu_state *state, uint32_t index)
{
	TEST_ASSERT(state->header.nmsrs < MAX_MSRS, "MAX_MSRS is too small");
	state->msrs[state->header.nmsrs++].index = index;
}

/* In an order that a restore may use: nothing counts before all is in place. */
static void list_msrs(struct pmu_state *state, const struct vpmu_config *config)
{
	unsigned int i;

	memset(state, 0, sizeof(*state));
	for (i = 0; i < config->nr_gp; i++) {
		add_msr(state, vpmu_msr_counter(i));
		add_msr(state, vpmu_msr_selector(i));
	}
	for (i = 0; i < config->nr_fixed; i++)
		add_msr(state, MSR_CORE_PERF_FIXED_CTR0 + i);
	if (config->nr_fixed)
		add_msr(state, MSR_CORE_PERF_FIXED_CTR_CTRL);
	add_msr(state, vpmu_msr_global_status());
	add_msr(state, vpmu_msr_global_ctrl());
}

static void save(struct kvm_vcpu *vcpu, struct pmu_state *state,
		 const struct vpmu_config *config)
{
	list_msrs(state, config);
	vcpu_msrs_get(vcpu, &state->header);
}

static void expect_same(const struct pmu_state *a, const struct pmu_state *b)
{
	unsigned int i;

	TEST_ASSERT_EQ(a->header.nmsrs, b->header.nmsrs);
	for (i = 0; i < a->header.nmsrs; i++)
		TEST_ASSERT(a->msrs[i].index == b->msrs[i].index &&
			    a->msrs[i].data == b->msrs[i].data,
			    "MSR %x: saved %llx, restored %llx", a->msrs[i].index,
			    a->msrs[i].data, b->msrs[i].data);
}

/* The same guest on a new VM and a new vCPU, the PMU by its registers only. */
static struct kvm_vcpu *restore(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
				const struct vpmu_config *config)
{
	struct kvm_x86_state *rest;
	struct pmu_state saved, restored;

	save(vcpu, &saved, config);
	rest = vcpu_save_state(vcpu);
	kvm_vm_release(vm);

	vcpu = vm_recreate_with_one_vcpu(vm);
	vpmu_set_config(vcpu, config);
	vcpu_load_state(vcpu, rest);
	vcpu_msrs_set(vcpu, &saved.header);
	kvm_x86_state_cleanup(rest);

	save(vcpu, &restored, config);
	expect_same(&saved, &restored);
	return vcpu;
}

static uint64_t guest_gp_value(unsigned int i)
{
	return (0x123456789aull * (i + 1)) & guest_counter_mask();
}

static uint64_t guest_selector_value(unsigned int i)
{
	/* AMD has no such bit. */
	const uint64_t pin_control = host_cpu_is_amd ? ARCH_PERFMON_EVENTSEL_PIN_CONTROL : 0;

	/* Of all sorts, disabled, so that nothing counts between the looks. */
	return (BIT_ULL(16 + i) | (i << 24) | RAW_EVENT((0xc0 + i), i)) &
	       SELECTOR_WRITABLE & ~ARCH_PERFMON_EVENTSEL_ENABLE & ~pin_control;
}

/* Every register has a value of its own; saved and restored, each still has. */
static void guest_identity(void)
{
	const uint64_t ovf_gp = BIT_ULL(1), ovf_fixed = guest_fixed0_mask();
	uint64_t global_ctrl = guest_gp_mask() & ~BIT_ULL(0);
	unsigned int i;

	guest_pmu_clear();

	/* Two overflows, for GLOBAL_STATUS. */
	wrmsr(vpmu_msr_selector(1), VPMU_SEL_OS(vpmu_event_insns()));
	guest_fixed_select(FIXED_PMC_KERNEL);
	wrmsr(vpmu_msr_full_counter(1), guest_counter_mask());
	if (guest_nr_fixed())
		wrmsr(MSR_CORE_PERF_FIXED_CTR0, guest_counter_mask());
	payload_nop.run(vpmu_msr_global_ctrl(), ovf_gp | ovf_fixed, 0);

	for (i = 0; i < guest_nr_gp(); i++) {
		wrmsr(vpmu_msr_selector(i), guest_selector_value(i));
		wrmsr(vpmu_msr_full_counter(i), guest_gp_value(i));
	}
	for (i = 0; i < guest_nr_fixed(); i++)
		wrmsr(MSR_CORE_PERF_FIXED_CTR0 + i, guest_gp_value(i) + 1);
	guest_fixed_select(FIXED_PMC_USER | FIXED_PMC_ENABLE_PMI);
	wrmsr(vpmu_msr_global_ctrl(), global_ctrl);

	for (;;) {
		GUEST_SYNC(0);
		for (i = 0; i < guest_nr_gp(); i++) {
			GUEST_EXPECT_RDMSR(vpmu_msr_selector(i), guest_selector_value(i));
			GUEST_ASSERT_EQ(_rdpmc(i), guest_gp_value(i));
		}
		for (i = 0; i < guest_nr_fixed(); i++)
			GUEST_EXPECT_RDMSR(MSR_CORE_PERF_FIXED_CTR0 + i, guest_gp_value(i) + 1);
		if (guest_nr_fixed())
			GUEST_EXPECT_RDMSR(MSR_CORE_PERF_FIXED_CTR_CTRL,
					   FIXED_PMC_USER | FIXED_PMC_ENABLE_PMI);
		GUEST_EXPECT_RDMSR(vpmu_msr_global_ctrl(), global_ctrl);
		GUEST_EXPECT_RDMSR(vpmu_msr_global_status(), ovf_gp | ovf_fixed);
	}
}

TEST_F(msr, save_restore)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_identity, &self->config);
	int i;

	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
		vcpu = restore(vm, vcpu, &self->config);
	}
	kvm_vm_free(vm);
}

/* Saved and restored while it counts, the guest does not notice. */
static void guest_counting(void)
{
	const struct payload *p = &payload_pio_user;
	uint64_t on = guest_select_all();
	unsigned int i;

	p->run(vpmu_msr_global_ctrl(), on, 0);
	for (i = 0; i < guest_nr_gp(); i++)
		__GUEST_ASSERT(_rdpmc(i) == (i % 2 ? p->branches : p->insns),
			       "PMC %u: %lu after save and restore", i, (uint64_t)_rdpmc(i));
	guest_fixed0_expect(p->insns);
	GUEST_DONE();
}

TEST_F(msr, save_restore_while_counting)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_counting, &self->config);
	int ios = 0;

	while (vpmu_run_to_io(vcpu) == VPMU_IO) {
		/* The OUT retires with the next KVM_RUN. */
		vcpu_run_complete_io(vcpu);
		if (ios++ % 8 == 0)
			vcpu = restore(vm, vcpu, &self->config);
	}
	TEST_ASSERT_EQ(ios, PAYLOAD_LOOPS);
	kvm_vm_free(vm);
}

/* All registers with values that the guest could have left there. */
static void fill(struct kvm_vcpu *vcpu, struct pmu_state *state,
		 const struct vpmu_config *config)
{
	unsigned int i;

	list_msrs(state, config);
	for (i = 0; i < state->header.nmsrs; i++)
		state->msrs[i].data = 1;
	vcpu_msrs_set(vcpu, &state->header);
}

static void expect_reset_values(struct kvm_vcpu *vcpu, const struct vpmu_config *config)
{
	struct pmu_state now;
	uint64_t expected;
	unsigned int i;

	save(vcpu, &now, config);
	for (i = 0; i < now.header.nmsrs; i++) {
		expected = 0;
		if (now.msrs[i].index == vpmu_msr_global_ctrl())
			expected = BIT_ULL(config->nr_gp) - 1;
		TEST_ASSERT(now.msrs[i].data == expected, "MSR %x is %llx, expected %lx",
			    now.msrs[i].index, now.msrs[i].data, expected);
	}
}

/* SDM Vol. 3A, table 11-1: INIT leaves the registers of performance monitoring unchanged. */
TEST_F(msr, init_keeps)
{
	struct kvm_vcpu_events events = {
		.flags = KVM_VCPUEVENT_VALID_SMM,
		.smi.latched_init = 1,
	};
	struct pmu_state filled, kept;
	struct kvm_mp_state mp_state;
	struct kvm_vcpu *vcpu;
	struct kvm_sregs sregs;
	struct kvm_vm *vm;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "needs KVM_CAP_X86_SMM to latch an INIT");
	vm = vpmu_vm_create(&vcpu, guest_identity, &self->config);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	fill(vcpu, &filled, &self->config);
	vcpu_events_set(vcpu, &events);
	/* Takes the INIT. */
	vcpu_mp_state_get(vcpu, &mp_state);

	/* There was one. */
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT(!(sregs.cr0 & X86_CR0_PE), "CR0 is %llx after INIT", sregs.cr0);
	save(vcpu, &kept, &self->config);
	expect_same(&filled, &kept);
	kvm_vm_free(vm);
}

/* Before the vCPU runs, CPUID gives it another PMU, as it is after RESET. */
TEST_F(msr, cpuid_before_run)
{
	struct vpmu_config other = self->config;
	struct pmu_state state;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_reset_values, &self->config);

	fill(vcpu, &state, &self->config);
	other.nr_gp--;
	vpmu_set_config(vcpu, &other);
	expect_reset_values(vcpu, &other);
	vpmu_set_config(vcpu, &self->config);
	expect_reset_values(vcpu, &self->config);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

/* Afterwards KVM takes no other CPUID, and the same one changes nothing. */
TEST_F(msr, cpuid_after_run)
{
	struct pmu_state filled, kept;
	struct kvm_cpuid_entry2 *leaf;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_identity, &self->config);

	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	fill(vcpu, &filled, &self->config);
	leaf = vcpu_get_cpuid_entry(vcpu, 0xa);
	leaf->eax ^= BIT(8);
	TEST_ASSERT(__vcpu_ioctl(vcpu, KVM_SET_CPUID2, vcpu->cpuid) < 0 && errno == EINVAL,
		    "Another PMU was not refused with EINVAL");
	vcpu_get_cpuid(vcpu);
	vcpu_ioctl(vcpu, KVM_SET_CPUID2, vcpu->cpuid);
	TEST_ASSERT(_vcpu_set_msr(vcpu, MSR_IA32_PERF_CAPABILITIES, 0) ==
		    !vpmu_capabilities_max(), "Other capabilities were not refused");
	save(vcpu, &kept, &self->config);
	expect_same(&filled, &kept);
	kvm_vm_free(vm);
}

/* A vCPU that comes later starts from RESET, whatever those before it did. */
TEST_F(msr, hotplugged_vcpu)
{
	struct kvm_vcpu *vcpus[2];
	struct kvm_vm *vm = vm_create(2);
	struct pmu_state filled, kept;

	vcpus[0] = vm_vcpu_add(vm, 0, guest_identity);
	vpmu_vcpu_init(vcpus[0], &self->config);
	TEST_ASSERT_EQ(vpmu_run(vcpus[0]), VPMU_SYNC);
	fill(vcpus[0], &filled, &self->config);

	vcpus[1] = vm_vcpu_add(vm, 1, guest_reset_values);
	vpmu_vcpu_init(vcpus[1], &self->config);
	expect_reset_values(vcpus[1], &self->config);
	TEST_ASSERT_EQ(vpmu_run(vcpus[1]), VPMU_DONE);
	save(vcpus[0], &kept, &self->config);
	expect_same(&filled, &kept);
	kvm_vm_free(vm);
}

/* Who saves by KVM_GET_MSR_INDEX_LIST alone must get every register. */
TEST_F(msr, index_list)
{
	struct pmu_state state;
	unsigned int i;

	list_msrs(&state, &self->config);
	for (i = 0; i < state.header.nmsrs; i++)
		TEST_ASSERT(kvm_msr_is_in_save_restore_list(state.msrs[i].index),
			    "MSR %x is missing", state.msrs[i].index);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
