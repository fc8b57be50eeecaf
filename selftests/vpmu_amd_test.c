// SPDX-License-Identifier: GPL-2.0
/*
 * AMD's PMU registers: which ones a guest has, and what they take.
 *
 * APM Vol. 2, 13.2 "Performance Monitoring Counters", and KVM's ABI: a guest
 * has four counters at the legacy addresses, six with PerfCtrExtCore, which
 * adds addresses for all of them, and as many as CPUID leaf 8000_0022H says
 * with PerfMonV2, which adds the global registers. Writes of reserved bits, and
 * of what is read-only, do nothing. HostOnly and GuestOnly are the guest's to
 * write and to read; what hardware gets of them is vpmu_switch_test's.
 */
#include "payloads.h"
#include "vpmu.h"
#include "vpmu_harness.h"
#include "vpmu_model.h"

#define MAX_CORE	6
#define NR_LEGACY	4

/* Bits of a selector that are there with the module only. */
#define GUEST_ONLY		BIT_ULL(40)
#define HOST_ONLY		BIT_ULL(41)

#define NR_GLOBAL		4

/* Zen's, of which the selftests' headers have no names: interrupts are in them, too. */
#define EVENT_TAKEN_BRANCHES	0xc4
#define EVENT_FAR_BRANCHES	0xc6

/* vpmu_is_mediated(), and what the guest was given, for the guest. */
static bool is_mediated;
static struct vpmu_config guest_config;

static uint64_t guest_selector_writable(void)
{
	return VPMU_AMD_SELECTOR | (is_mediated ? GUEST_ONLY | HOST_ONLY : 0);
}

static void guest_expect_absent(uint32_t msr)
{
	uint64_t ignored;

	__GUEST_ASSERT(wrmsr_safe(msr, 0) == GP_VECTOR, "WRMSR(%x) does not fault", msr);
	__GUEST_ASSERT(rdmsr_safe(msr, &ignored) == GP_VECTOR, "RDMSR(%x) does not fault", msr);
}

static void guest_expect(uint32_t msr, uint64_t value)
{
	uint64_t got = rdmsr(msr);

	__GUEST_ASSERT(got == value, "RDMSR(%x): %lx, expected %lx", msr, got, value);
}

static void guest_expect_rdpmc_fault(uint32_t idx)
{
	uint64_t ignored;

	__GUEST_ASSERT(rdpmc_safe(idx, &ignored) == GP_VECTOR, "RDPMC(%x) does not fault", idx);
}

/* Each bit: nothing faults, and only those of @writable are there. */
static void guest_probe_bits(uint32_t msr, uint64_t writable)
{
	int bit;

	for (bit = 0; bit < 64; bit++) {
		wrmsr(msr, BIT_ULL(bit));
		guest_expect(msr, BIT_ULL(bit) & writable);
	}
	wrmsr(msr, ~0ull);
	guest_expect(msr, writable);
	wrmsr(msr, 0);
	guest_expect(msr, 0);
}

static void guest_expect_no_globals(void)
{
	unsigned int i;

	for (i = 0; i < NR_GLOBAL; i++)
		guest_expect_absent(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS + i);
}

/* What none of these guests has: RDPMC reads neither other kinds of counters nor other cores'. */
static void guest_expect_rdpmc_faults(unsigned int nr)
{
	unsigned int i;

	for (i = nr; i < 16; i++)
		guest_expect_rdpmc_fault(i);
	guest_expect_rdpmc_fault(INTEL_RDPMC_FIXED);
	guest_expect_rdpmc_fault(INTEL_RDPMC_FAST);
	guest_expect_rdpmc_fault(~0u);
}

static void guest_bits(void)
{
	const unsigned int last = guest_config.nr_gp - 1;

	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0);
	guest_probe_bits(MSR_F15H_PERF_CTL0, guest_selector_writable());
	guest_probe_bits(MSR_F15H_PERF_CTL0 + 2 * last, guest_selector_writable());
	guest_probe_bits(MSR_K7_EVNTSEL0, guest_selector_writable());
	guest_probe_bits(MSR_F15H_PERF_CTR0, guest_counter_mask());
	guest_probe_bits(MSR_F15H_PERF_CTR0 + 2 * last, guest_counter_mask());
	guest_probe_bits(MSR_K7_PERFCTR0, guest_counter_mask());
	guest_probe_bits(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, guest_gp_mask());
	GUEST_DONE();
}

/* The legacy addresses are those of the first four counters. */
static void guest_aliases(void)
{
	unsigned int i;

	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0);
	for (i = 0; i < min_t(int, NR_LEGACY, guest_config.nr_gp); i++) {
		wrmsr(MSR_K7_EVNTSEL0 + i, 0xc0 + i);
		guest_expect(MSR_F15H_PERF_CTL0 + 2 * i, 0xc0 + i);
		wrmsr(MSR_F15H_PERF_CTL0 + 2 * i, 0x76 + i);
		guest_expect(MSR_K7_EVNTSEL0 + i, 0x76 + i);
		wrmsr(MSR_K7_PERFCTR0 + i, 0x123456789ab + i);
		guest_expect(MSR_F15H_PERF_CTR0 + 2 * i, 0x123456789ab + i);
		wrmsr(MSR_F15H_PERF_CTR0 + 2 * i, 7 + i);
		guest_expect(MSR_K7_PERFCTR0 + i, 7 + i);
		GUEST_ASSERT_EQ(_rdpmc(i), 7 + i);
	}
	GUEST_DONE();
}

/* The status: written bit by bit through the other two, and not by itself. */
static void guest_status(void)
{
	const uint32_t status = MSR_AMD64_PERF_CNTR_GLOBAL_STATUS;
	const uint64_t all = guest_gp_mask();

	guest_expect(status, 0);
	wrmsr(status, all);
	guest_expect(status, 0);
	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET, ~0ull);
	guest_expect(status, all);
	guest_expect(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET, 0);
	wrmsr(status, 0);
	guest_expect(status, all);
	GUEST_SYNC(0);
	guest_expect(status, all);
	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR, BIT_ULL(0));
	guest_expect(status, all & ~BIT_ULL(0));
	guest_expect(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR, 0);
	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR, ~0ull);
	guest_expect(status, 0);
	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET, BIT_ULL(1));
	guest_expect(status, BIT_ULL(1));
	GUEST_DONE();
}

/* Counters that CPUID does not tell of. */
static void guest_absent(void)
{
	unsigned int i;

	for (i = guest_config.nr_gp; i < MAX_CORE + 2; i++) {
		guest_expect_absent(MSR_F15H_PERF_CTL0 + 2 * i);
		guest_expect_absent(MSR_F15H_PERF_CTR0 + 2 * i);
	}
	for (i = guest_config.nr_gp; i < NR_LEGACY; i++) {
		guest_expect_absent(MSR_K7_EVNTSEL0 + i);
		guest_expect_absent(MSR_K7_PERFCTR0 + i);
	}
	guest_expect_rdpmc_faults(guest_config.nr_gp);
	GUEST_DONE();
}

static void guest_expect_count(const struct payload *p, unsigned int i, uint32_t selector)
{
	p->run(selector, VPMU_SEL_OS(AMD_ZEN_INSTRUCTIONS_RETIRED), 0);
	__GUEST_ASSERT(_rdpmc(i) == p->insns, "%s, counter %u: %lu, retired %lu", p->name, i,
		       (uint64_t)_rdpmc(i), p->insns);
}

/* Version 1: a selector alone lets its counter count. */
static void guest_version1(void)
{
	const bool core = guest_config.nr_gp > NR_LEGACY;
	unsigned int i;

	guest_expect_no_globals();
	guest_expect_rdpmc_faults(guest_config.nr_gp);
	for (i = 0; !core && i < MAX_CORE; i++) {
		guest_expect_absent(MSR_F15H_PERF_CTL0 + 2 * i);
		guest_expect_absent(MSR_F15H_PERF_CTR0 + 2 * i);
	}
	for (i = 0; is_mediated && i < guest_config.nr_gp; i++) {
		const uint32_t counter = core ? MSR_F15H_PERF_CTR0 + 2 * i : MSR_K7_PERFCTR0 + i;
		const uint32_t selector = core ? MSR_F15H_PERF_CTL0 + 2 * i : MSR_K7_EVNTSEL0 + i;

		wrmsr(counter, 0);
		guest_expect_count(&payload_nop, i, selector);
		wrmsr(counter, 0);
		guest_expect_count(&payload_cpuid, i, selector);
	}
	GUEST_DONE();
}

/* The guest's own HostOnly and GuestOnly stay with it, through exits and entries. */
static void guest_world(void)
{
	unsigned int i;

	for (i = 0; i < guest_config.nr_gp; i++)
		wrmsr(MSR_F15H_PERF_CTL0 + 2 * i, (i & 3) * GUEST_ONLY |
		      VPMU_SEL_OS(AMD_ZEN_INSTRUCTIONS_RETIRED));
	GUEST_SYNC(0);
	for (i = 0; i < guest_config.nr_gp; i++)
		guest_expect(MSR_F15H_PERF_CTL0 + 2 * i, (i & 3) * GUEST_ONLY |
			     VPMU_SEL_OS(AMD_ZEN_INSTRUCTIONS_RETIRED));
	GUEST_DONE();
}

/*
 * Without SVM there is nothing for these two bits to tell apart: they are dropped, and the
 * counter counts.
 */
static void guest_without_svm(void)
{
	unsigned int i;

	GUEST_ASSERT(!this_cpu_has(X86_FEATURE_SVM));
	for (i = 0; i < guest_config.nr_gp; i++) {
		const uint64_t selector = VPMU_SEL_OS(AMD_ZEN_INSTRUCTIONS_RETIRED);

		wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0);
		wrmsr(MSR_F15H_PERF_CTR0 + 2 * i, 0);
		wrmsr(MSR_F15H_PERF_CTL0 + 2 * i, selector | (i & 3) * GUEST_ONLY);
		guest_expect(MSR_F15H_PERF_CTL0 + 2 * i, selector);
		payload_cpuid.run(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, BIT_ULL(i), 0);
		GUEST_ASSERT_EQ(_rdpmc(i), payload_cpuid.insns);
	}
	GUEST_DONE();
}

/* Counter 1 gets no more of @event than the @count of payload_cpuid's own. */
static void guest_expect_event(uint64_t event, uint64_t count)
{
	const uint64_t mask = guest_counter_mask();
	const uint64_t starts[] = { 0, 1, mask };
	unsigned int i;

	wrmsr(MSR_F15H_PERF_CTL0 + 2, VPMU_SEL_OS(event));
	for (i = 0; i < ARRAY_SIZE(starts); i++) {
		const uint64_t end = starts[i] + count;

		wrmsr(MSR_F15H_PERF_CTR0 + 2, starts[i]);
		payload_cpuid.run(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, BIT_ULL(1), 0);
		__GUEST_ASSERT(_rdpmc(1) == (end & mask), "event %lx from %lx: %lx, expected %lx",
			       event, starts[i], (uint64_t)_rdpmc(1), end & mask);
		guest_expect(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS, end > mask ? BIT_ULL(1) : 0);
		wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR, ~0ull);
	}
}

/*
 * Entering the guest is an instruction of it, and a far branch, which it must
 * not see: not in a counter that is 0 when it is entered, nor in one that was set
 * to overflow with the first event of its own.
 */
static void guest_entries(void)
{
	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0);
	guest_expect_event(AMD_ZEN_INSTRUCTIONS_RETIRED, payload_cpuid.insns);
	/* The last JNZ of the loop is not taken. */
	guest_expect_event(EVENT_TAKEN_BRANCHES, payload_cpuid.branches - 1);
	guest_expect_event(EVENT_FAR_BRANCHES, 0);
	guest_expect_event(AMD_ZEN_BRANCHES_RETIRED, payload_cpuid.branches);

	/* Written while it counts and is 0: nothing of the entry is in what comes after. */
	wrmsr(MSR_F15H_PERF_CTR0 + 2, 0);
	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, BIT_ULL(1));
	asm volatile("cpuid" : : "a"(0), "c"(0) : "rbx", "rdx", "memory");
	wrmsr(MSR_F15H_PERF_CTR0 + 2, 1000);
	asm volatile("cpuid" : : "a"(0), "c"(0) : "rbx", "rdx", "memory");
	wrmsr(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0);
	GUEST_ASSERT(_rdpmc(1) >= 1000 && _rdpmc(1) < 1020);
	GUEST_DONE();
}

/* No PMU, though CPUID tells of PerfCtrExtCore. The legacy registers KVM has always let be. */
static void guest_no_pmu(void)
{
	unsigned int i;

	GUEST_ASSERT(this_cpu_has(X86_FEATURE_PERFCTR_CORE));
	for (i = 0; i < MAX_CORE; i++) {
		guest_expect_absent(MSR_F15H_PERF_CTL0 + 2 * i);
		guest_expect_absent(MSR_F15H_PERF_CTR0 + 2 * i);
	}
	guest_expect_no_globals();
	guest_expect_rdpmc_faults(0);
	GUEST_DONE();
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, void *guest_code,
			     const struct vpmu_config *config)
{
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest_code, config);

	is_mediated = vpmu_is_mediated();
	guest_config = *config;
	sync_global_to_guest(vm, is_mediated);
	sync_global_to_guest(vm, guest_config);
	return vm;
}

static void run_to_end(struct kvm_vcpu *vcpu)
{
	while (vpmu_run(vcpu) == VPMU_SYNC)
		;
}

static void test_guest(void *guest_code, const struct vpmu_config *config)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_code, config);

	run_to_end(vcpu);
	kvm_vm_free(vm);
}

FIXTURE(amd) {
	struct vpmu_config config;
};

/* With all counters of the host most registers are hardware's, with fewer they are KVM's. */
FIXTURE_VARIANT(amd) {
	int nr_gp;
};

FIXTURE_VARIANT_ADD(amd, all_counters) { };
FIXTURE_VARIANT_ADD(amd, five_counters) { .nr_gp = 5 };
FIXTURE_VARIANT_ADD(amd, two_counters) { .nr_gp = 2 };

FIXTURE_SETUP(amd)
{
	self->config = vpmu_config_max();
	if (variant->nr_gp)
		self->config.nr_gp = variant->nr_gp;
}

FIXTURE_TEARDOWN(amd) { }

TEST_F(amd, bits)
{
	test_guest(guest_bits, &self->config);
}

TEST_F(amd, aliases)
{
	test_guest(guest_aliases, &self->config);
}

TEST_F(amd, status)
{
	test_guest(guest_status, &self->config);
}

TEST_F(amd, absent)
{
	test_guest(guest_absent, &self->config);
}

TEST_F(amd, world)
{
	VPMU_REQUIRE_MEDIATED();
	test_guest(guest_world, &self->config);
}

TEST_F(amd, without_svm)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_without_svm, &self->config);
	vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_SVM);
	run_to_end(vcpu);
	kvm_vm_free(vm);
}

TEST_F(amd, entries)
{
	VPMU_REQUIRE_MEDIATED();
	test_guest(guest_entries, &self->config);
}

TEST(version_1)
{
	struct vpmu_config config = { .version = 1, .nr_gp = MAX_CORE };

	test_guest(guest_version1, &config);
}

/* With the module it is KVM's own vPMU that serves it, without it anyway. */
TEST(legacy)
{
	struct vpmu_config config = { .version = 1, .nr_gp = NR_LEGACY };
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_version1, &config);

	is_mediated = false;
	sync_global_to_guest(vm, is_mediated);
	run_to_end(vcpu);
	if (vpmu_is_mediated())
		TEST_ASSERT_EQ(vcpu_get_stat(vcpu, vpmu_loads), 0);
	kvm_vm_free(vm);
}

/* What is reserved for the guest user space may write, but for a status of no counter. */
TEST(host_reserved)
{
	struct vpmu_config config = vpmu_config_max();
	const uint64_t counters = BIT_ULL(config.nr_gp) - 1;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_bits, &config);

	vcpu_set_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS, counters);
	TEST_ASSERT(_vcpu_set_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS, counters + 1) != 1,
		    "A status of a counter that is not there was taken");
	/* What a restore writes back is no guest's write. */
	_vcpu_set_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR, 1);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS), counters);
	vcpu_set_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS, 0);
	_vcpu_set_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET, 1);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS), 0);
	kvm_vm_free(vm);
}

TEST(no_pmu)
{
	struct kvm_vm *vm = vm_create(1);
	struct kvm_vcpu *vcpu;

	vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	vcpu = vm_vcpu_add(vm, 0, guest_no_pmu);
	vcpu_set_cpuid_feature(vcpu, X86_FEATURE_PERFCTR_CORE);
	/* What KVM lists user space may read, and write back what it read. */
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_F15H_PERF_CTL0), 0);
	vcpu_set_msr(vcpu, MSR_F15H_PERF_CTL0, 0);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(host_cpu_is_amd);
	TEST_REQUIRE(kvm_is_pmu_enabled());
	TEST_REQUIRE(vpmu_config_max().version >= 2);
	return test_harness_run(argc, argv);
}
