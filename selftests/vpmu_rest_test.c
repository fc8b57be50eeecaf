// SPDX-License-Identifier: GPL-2.0
/*
 * A mediated PMU of which nothing can count is at rest: not in hardware, so that the host
 * and its events don't notice it. Each way in which it wakes up, that it goes to rest
 * again, and that the guest can tell neither.
 */
#include "apic.h"
#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

/* More exits than any setting here has a PMU wait for. */
#define NR_EXITS	100
#define ROUNDS		5

DEFINE_LOOP_PAYLOAD(nop, "nop\n\t", 1, 0);

/* An event that the guest selects for counter 0, and the filter may deny. */
#define GUEST_SELECTOR	VPMU_SEL_OS(vpmu_event_insns())

static void guest_exits(void)
{
	uint32_t eax, ebx, ecx, edx;
	int i;

	for (i = 0; i < NR_EXITS; i++)
		__cpuid(0, 0, &eax, &ebx, &ecx, &edx);
}

/**
 * enum way - what the guest switches a counter on by
 * @BY_SELECTOR: the event selector; the global control has the counter enabled
 * @BY_FIXED_CTRL: IA32_FIXED_CTR_CTRL, the same
 * @BY_GLOBAL_CTRL: the global control; the selector is enabled
 */
enum way {
	BY_SELECTOR,
	BY_FIXED_CTRL,
	BY_GLOBAL_CTRL,
};

static uint64_t guest_measure(enum way way)
{
	wrmsr(vpmu_msr_counter(0), 0);
	switch (way) {
	case BY_SELECTOR:
		wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
		payload_nop.run(vpmu_msr_selector(0), GUEST_SELECTOR, 0);
		return _rdpmc(0);
	case BY_FIXED_CTRL:
		wrmsr(MSR_CORE_PERF_FIXED_CTR0, 0);
		wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(32));
		payload_nop.run(MSR_CORE_PERF_FIXED_CTR_CTRL, FIXED_PMC_KERNEL, 0);
		return rdmsr(MSR_CORE_PERF_FIXED_CTR0);
	case BY_GLOBAL_CTRL:
		wrmsr(vpmu_msr_global_ctrl(), 0);
		wrmsr(vpmu_msr_selector(0), GUEST_SELECTOR);
		payload_nop.run(vpmu_msr_global_ctrl(), BIT_ULL(0), 0);
		return _rdpmc(0);
	}
	return 0;
}

/* Measures once between two stops, and then does nothing of that kind. */
static void guest_wakes(enum way way)
{
	uint64_t count;

	guest_pmu_clear();
	for (;;) {
		GUEST_SYNC(0);
		count = guest_measure(way);
		__GUEST_ASSERT(count == payload_nop.insns, "counted %lu, retired %lu", count,
			       payload_nop.insns);
		GUEST_SYNC(0);
		guest_exits();
	}
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, void *guest_code, uint64_t arg)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest_code, &config);

	vcpu_args_set(*vcpu, 1, arg);
	return vm;
}

static void run(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
}

static uint64_t loads(struct kvm_vcpu *vcpu)
{
	return vcpu_get_stat(vcpu, vpmu_loads);
}

static uint64_t wakeups(struct kvm_vcpu *vcpu)
{
	return vcpu_get_stat(vcpu, vpmu_wakeups);
}

FIXTURE(wake) {
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

FIXTURE_VARIANT(wake) {
	enum way way;
};

FIXTURE_VARIANT_ADD(wake, by_selector) { .way = BY_SELECTOR };
FIXTURE_VARIANT_ADD(wake, by_fixed_ctrl) { .way = BY_FIXED_CTRL };
FIXTURE_VARIANT_ADD(wake, by_global_ctrl) { .way = BY_GLOBAL_CTRL };

FIXTURE_SETUP(wake)
{
	VPMU_REQUIRE_MEDIATED();
	if (variant->way == BY_FIXED_CTRL && host_cpu_is_amd)
		SKIP(return, "Intel only");
	self->vm = create(&self->vcpu, guest_wakes, variant->way);
}

FIXTURE_TEARDOWN(wake)
{
	kvm_vm_free(self->vm);
}

/* Each measurement wakes it once, and it rests before the next. */
TEST_F(wake, measures_exactly)
{
	uint64_t before;
	int i;

	run(self->vcpu);
	TEST_ASSERT_EQ(loads(self->vcpu), 0);
	for (i = 0; i < ROUNDS; i++) {
		before = wakeups(self->vcpu);
		run(self->vcpu);
		TEST_ASSERT_EQ(wakeups(self->vcpu), before + 1);
		run(self->vcpu);
		before = loads(self->vcpu);
		TEST_ASSERT(before <= (i + 1) * (NR_EXITS / 2), "%lu loads in %d rounds", before,
			    i + 1);
	}
}

/* As often as is said, and for VMs from then on. */
TEST(rest_after)
{
	static const unsigned int settings[] = { 1, 4, 0 };
	struct kvm_vcpu *vcpu;
	unsigned int i, was;
	uint64_t before;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		was = vpmu_rest_after(settings[i]);
		vm = create(&vcpu, guest_wakes, BY_SELECTOR);
		vpmu_rest_after(was);
		run(vcpu);
		TEST_ASSERT_EQ(loads(vcpu), 0);
		run(vcpu);
		before = loads(vcpu);
		TEST_ASSERT(before, "It never woke up");
		run(vcpu);
		if (settings[i])
			TEST_ASSERT(loads(vcpu) - before <= settings[i] + 1, "%lu loads",
				    loads(vcpu) - before);
		else
			TEST_ASSERT(loads(vcpu) - before >= NR_EXITS, "%lu loads",
				    loads(vcpu) - before);
		kvm_vm_free(vm);
	}
}

/* All registers hold something while nothing counts, at rest and before. */
static void guest_holds(void)
{
	const uint64_t mask = guest_gp_mask();
	unsigned int i;

	guest_pmu_clear();
	/* Overflow of counter 0, in hardware. */
	wrmsr(vpmu_msr_full_counter(0), -1ull & guest_counter_mask());
	wrmsr(vpmu_msr_global_ctrl(), 0);
	wrmsr(vpmu_msr_selector(0), GUEST_SELECTOR);
	payload_nop.run(vpmu_msr_global_ctrl(), BIT_ULL(0), 0);
	for (i = 1; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_counter(i), 1000 + i);
	for (;;) {
		guest_exits();
		GUEST_SYNC(0);
		GUEST_ASSERT_EQ(_rdpmc(0), payload_nop.insns - 1);
		for (i = 1; i < guest_nr_gp(); i++) {
			GUEST_ASSERT_EQ(_rdpmc(i), 1000 + i);
			GUEST_ASSERT_EQ(rdmsr(vpmu_msr_counter(i)), 1000 + i);
		}
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()) & mask, BIT_ULL(0));
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_ctrl()), 0);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_selector(0)), GUEST_SELECTOR);
		/* It goes on from where it was. */
		payload_nop.run(vpmu_msr_global_ctrl(), BIT_ULL(0), 0);
		GUEST_ASSERT_EQ(_rdpmc(0), 2 * payload_nop.insns - 1);
		wrmsr(vpmu_msr_counter(0), payload_nop.insns - 1);
	}
}

/* The guest's registers are its own while an event of the host's uses the same. */
TEST(keeps_registers_beside_the_host)
{
	struct perf_event_attr attr = host_event_attr();
	struct host_count count;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, fd, cpus[1];

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_holds, 0);
	TEST_ASSERT_EQ(host_cpus(cpus, 1), 1);
	pin_self_to_cpu(cpus[0]);
	attr.exclude_kernel = 0;
	attr.pinned = 1;
	fd = host_event_open_ok(&attr, -1, cpus[0]);
	host_event_enable(fd);
	for (i = 0; i < ROUNDS; i++)
		run(vcpu);
	count = host_event_read(fd);
	close(fd);
	TEST_ASSERT_EQ(count.running, count.enabled);
	TEST_ASSERT(wakeups(vcpu) >= ROUNDS, "%lu wakeups", wakeups(vcpu));
	kvm_vm_free(vm);
}

static void guest_only_exits(void)
{
	for (;;) {
		guest_exits();
		GUEST_SYNC(0);
	}
}

/* A guest that never measures isn't one that perf hears of. */
TEST(a_guest_that_never_measures)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_only_exits, 0);
	for (i = 0; i < ROUNDS; i++)
		run(vcpu);
	TEST_ASSERT_EQ(loads(vcpu), 0);
	TEST_ASSERT_EQ(wakeups(vcpu), 0);
	kvm_vm_free(vm);
}

/* The selector is there, and what it does is for others to say. */
static void guest_waits(void)
{
	uint64_t before;

	guest_pmu_clear();
	wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
	wrmsr(vpmu_msr_selector(0), GUEST_SELECTOR);
	for (;;) {
		before = _rdpmc(0);
		guest_exits();
		GUEST_SYNC(_rdpmc(0) - before);
	}
}

/* What the guest counted of its own exits. */
static uint64_t counted(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	return uc.args[1];
}

static void filter_insns(struct kvm_vm *vm, bool deny)
{
	struct {
		struct kvm_pmu_event_filter header;
		uint64_t events[1];
	} filter = {
		.header.action = KVM_PMU_EVENT_DENY,
		.header.nevents = deny,
		.events[0] = vpmu_event_insns(),
	};

	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter.header);
}

TEST(the_filter_has_its_say)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_waits, 0);
	filter_insns(vm, true);
	for (i = 1; i <= ROUNDS; i++) {
		TEST_ASSERT_EQ(counted(vcpu), 0);
		TEST_ASSERT_EQ(wakeups(vcpu), i - 1);
		filter_insns(vm, false);
		TEST_ASSERT(counted(vcpu) >= NR_EXITS, "It does not count");
		TEST_ASSERT_EQ(wakeups(vcpu), i);
		filter_insns(vm, true);
	}
	kvm_vm_free(vm);
}

/* User space, which restores a guest. */
TEST(set_msrs)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_waits, 0);
	TEST_ASSERT(counted(vcpu) >= NR_EXITS, "It does not count");
	for (i = 1; i <= ROUNDS; i++) {
		TEST_ASSERT_EQ(wakeups(vcpu), i);
		vcpu_set_msr(vcpu, vpmu_msr_selector(0), 0);
		counted(vcpu);
		TEST_ASSERT_EQ(counted(vcpu), 0);
		vcpu_set_msr(vcpu, vpmu_msr_selector(0), GUEST_SELECTOR);
		TEST_ASSERT_EQ(vcpu_get_msr(vcpu, vpmu_msr_selector(0)), GUEST_SELECTOR);
		counted(vcpu);
		TEST_ASSERT(counted(vcpu) >= NR_EXITS, "It does not count");
	}
	kvm_vm_free(vm);
}

#define APIC_LVTPC	0x340

/* Each write but that of LVTPC is one that KVM completes without leaving its inner loop. */
static void guest_masks(void)
{
	uint64_t round;

	x2apic_enable();
	guest_pmu_clear();
	wrmsr(vpmu_msr_global_ctrl(), 0);
	for (round = 1;; round++) {
		wrmsr(vpmu_msr_selector(0), GUEST_SELECTOR);
		payload_nop.run(vpmu_msr_global_ctrl(), BIT_ULL(0), 0);
		wrmsr(vpmu_msr_counter(1), 1000 + round);
		/* Counter 0 has counted before the first of these. */
		x2apic_write_reg(APIC_LVTPC, APIC_LVT_MASKED);
		x2apic_write_reg(APIC_LVTPC, APIC_LVT_MASKED);
		wrmsr(MSR_IA32_TSC_DEADLINE, 0);
		wrmsr(MSR_IA32_TSC_DEADLINE, 0);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_counter(1)), 1000 + round);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_counter(0)), round * payload_nop.insns);
		GUEST_SYNC(0);
	}
}

/* By LVTPC, at which the PMU is put: KVM does not go on as if it were loaded. */
TEST(rests_by_lvtpc)
{
	struct kvm_vcpu *vcpu;
	unsigned int was;
	struct kvm_vm *vm;
	int i;

	VPMU_REQUIRE_MEDIATED();
	was = vpmu_rest_after(1);
	vm = create(&vcpu, guest_masks, 0);
	vpmu_rest_after(was);
	for (i = 0; i < ROUNDS; i++)
		run(vcpu);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
