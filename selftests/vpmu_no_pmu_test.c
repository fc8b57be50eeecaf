// SPDX-License-Identifier: GPL-2.0
/*
 * A vCPU whose CPUID has no PMU, as by QEMU's default for named processors.
 *
 * The backend has nothing to do with it: its PMU is never loaded, and the host's events
 * run on through it, those that count guests, too. IA32_PERF_CAPABILITIES is taken from
 * whoever sets it to what KVM offers, whether or not the vCPU has a use for it.
 */
#include <sys/ioctl.h>

#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define NR_EXITS	2000
#define GUEST_ROUNDS	1000000

static void guest_exits(void)
{
	uint32_t eax, ebx, ecx, edx;
	int i;

	for (;;) {
		for (i = 0; i < NR_EXITS; i++)
			__cpuid(0, 0, &eax, &ebx, &ecx, &edx);
		GUEST_SYNC(0);
	}
}

static void guest_spins(void)
{
	for (;;) {
		host_loop(GUEST_ROUNDS);
		GUEST_SYNC(0);
	}
}

FIXTURE(vcpu) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
};

/**
 * FIXTURE_VARIANT(vcpu) - why it has no PMU
 * @never: its CPUID never had one
 * @not_any_more: the last KVM_SET_CPUID2 before it runs takes it away
 * @disabled: by KVM_CAP_PMU_CAPABILITY
 */
FIXTURE_VARIANT(vcpu) {
	bool never;
	bool not_any_more;
	bool disabled;
};

FIXTURE_VARIANT_ADD(vcpu, never) { .never = true };
FIXTURE_VARIANT_ADD(vcpu, not_any_more) { .not_any_more = true };
FIXTURE_VARIANT_ADD(vcpu, disabled) { .disabled = true };

static struct kvm_vm *create_disabled(struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = vm_create(1);

	vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	*vcpu = vm_vcpu_add(vm, 0, guest_exits);
	return vm;
}

FIXTURE_SETUP(vcpu)
{
	VPMU_REQUIRE_MEDIATED();
	if (variant->disabled) {
		self->vm = create_disabled(&self->vcpu);
	} else if (variant->never) {
		self->vm = vpmu_vm_create_without_pmu(&self->vcpu, guest_exits);
	} else {
		self->vm = vm_create_with_one_vcpu(&self->vcpu, guest_exits);
		TEST_ASSERT_EQ(vpmu_fd_set_cpuid(self->vcpu->fd, false), 0);
	}
}

FIXTURE_TEARDOWN(vcpu)
{
	kvm_vm_free(self->vm);
}

TEST_F(vcpu, is_never_loaded)
{
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);
	TEST_ASSERT(vpmu_exits(self->vcpu) >= NR_EXITS, "%lu exits only", vpmu_exits(self->vcpu));
	TEST_ASSERT_EQ(vcpu_get_stat(self->vcpu, vpmu_loads), 0);
}

/* What the guest executes is an event's that counts guests. */
TEST_F(vcpu, is_counted_by_the_host)
{
	struct perf_event_attr attr = host_event_attr();
	struct host_count count;
	int fd;

	vcpu_arch_set_entry_point(self->vcpu, guest_spins);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);
	attr.exclude_guest = 0;
	attr.exclude_host = 1;
	attr.exclude_kernel = 0;
	attr.pinned = host_has_agent();
	fd = host_event_open_ok(&attr, 0, -1);
	host_event_enable(fd);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);
	host_event_disable(fd);
	count = host_event_read(fd);
	close(fd);
	TEST_ASSERT_EQ(count.running, count.enabled);
	TEST_ASSERT(count.value >= GUEST_ROUNDS * HOST_LOOP_INSNS &&
		    count.value < GUEST_ROUNDS * HOST_LOOP_INSNS * 5 / 4,
		    "The host counts %lu instructions of the guest's", count.value);
}

/*
 * AMD's four counters of old need no CPUID. Such a guest has them from KVM, which
 * emulates them, as it does without the module.
 */
static void guest_counts_legacy(void)
{
	wrmsr(MSR_K7_EVNTSEL0, VPMU_SEL_OS(AMD_ZEN_INSTRUCTIONS_RETIRED));
	host_loop(GUEST_ROUNDS);
	wrmsr(MSR_K7_EVNTSEL0, 0);
	GUEST_ASSERT(rdmsr(MSR_K7_PERFCTR0) >= GUEST_ROUNDS * HOST_LOOP_INSNS);
	GUEST_ASSERT(_rdpmc(0) == rdmsr(MSR_K7_PERFCTR0));
	GUEST_SYNC(0);
}

TEST(legacy_counters)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	if (!host_cpu_is_amd)
		SKIP(return, "AMD only");
	vm = vpmu_vm_create_without_pmu(&vcpu, guest_counts_legacy);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	TEST_ASSERT_EQ(vcpu_get_stat(vcpu, vpmu_loads), 0);
	kvm_vm_free(vm);
}

/* KVM_SET_MSRS of one MSR: was it taken? */
static bool takes_msr(int vcpu_fd, uint32_t msr, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msrs = { .header.nmsrs = 1, .entry = { .index = msr, .data = value } };

	return ioctl(vcpu_fd, KVM_SET_MSRS, &msrs) == 1;
}

static void test_capabilities(struct kvm_vm *vm, bool pmu)
{
	int fd = __vm_ioctl(vm, KVM_CREATE_VCPU, (void *)0ul);

	TEST_ASSERT(fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_VCPU, fd));
	TEST_ASSERT_EQ(vpmu_fd_set_cpuid(fd, pmu), 0);
	TEST_ASSERT(takes_msr(fd, MSR_IA32_PERF_CAPABILITIES,
			      kvm_get_feature_msr(MSR_IA32_PERF_CAPABILITIES)),
		    "IA32_PERF_CAPABILITIES refused");
	close(fd);
	kvm_vm_free(vm);
}

/* QEMU gives all vCPUs what it has read from /dev/kvm, and aborts if that is refused. */
TEST(takes_capabilities_without_lapic)
{
	if (!kvm_cpu_has(X86_FEATURE_PDCM))
		SKIP(return, "needs IA32_PERF_CAPABILITIES");
	test_capabilities(vm_create_barebones(), true);
	test_capabilities(vm_create_barebones(), false);
}

/* Nor does it care whether there is what CPUID tells of, when it resets the vCPU. */
TEST(takes_reset_without_lapic)
{
	static const uint32_t intel[] = {
		MSR_CORE_PERF_FIXED_CTR_CTRL, MSR_CORE_PERF_GLOBAL_CTRL,
		MSR_CORE_PERF_GLOBAL_STATUS, MSR_CORE_PERF_GLOBAL_OVF_CTRL,
		MSR_CORE_PERF_FIXED_CTR0, MSR_IA32_PERFCTR0, MSR_P6_EVNTSEL0,
	}, amd[] = {
		MSR_AMD64_PERF_CNTR_GLOBAL_CTL, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS,
		MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR, MSR_F15H_PERF_CTL0, MSR_F15H_PERF_CTR0,
	};
	const uint32_t *msrs = host_cpu_is_amd ? amd : intel;
	unsigned int nr = host_cpu_is_amd ? ARRAY_SIZE(amd) : ARRAY_SIZE(intel), i;
	struct kvm_vm *vm = vm_create_barebones();
	int fd = __vm_ioctl(vm, KVM_CREATE_VCPU, (void *)0ul);

	TEST_ASSERT(fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_VCPU, fd));
	TEST_ASSERT_EQ(vpmu_fd_set_cpuid(fd, true), 0);
	for (i = 0; i < nr; i++)
		TEST_ASSERT(takes_msr(fd, msrs[i], 0), "MSR %x refused", msrs[i]);
	close(fd);
	kvm_vm_free(vm);
}

TEST(takes_capabilities_without_pmu)
{
	struct kvm_vm *vm;

	if (!kvm_cpu_has(X86_FEATURE_PDCM))
		SKIP(return, "needs IA32_PERF_CAPABILITIES");
	test_capabilities(vm_create(1), false);
	vm = vm_create(1);
	vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	test_capabilities(vm, true);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
