// SPDX-License-Identifier: GPL-2.0
/*
 * IA32_PERF_METRICS, which tells where the slots went that fixed counter 3 counts, and
 * what else comes with that counter.
 *
 * A guest need not have the register, and by QEMU's default it hasn't. It runs on a
 * processor that has, and is let read all counters and write IA32_PERF_GLOBAL_CTRL without
 * an exit: by which it can have the register move, and read it. It is 0 whenever the guest
 * is entered, and what it tells is the guest's own.
 */
#include <sys/syscall.h>

#include "apic.h"
#include "cost.h"
#include "host_event.h"
#include "host_msr.h"
#include "kmsg.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define METRICS_ENABLE	BIT_ULL(48)
#define SLOTS_ENABLE	BIT_ULL(35)
#define SLOTS_BIT	3
#define SLOTS_OS	FIXED_PMC_CTRL(SLOTS_BIT, FIXED_PMC_KERNEL)
#define OTHERS		0x1122334455667788ull
#define ROUNDS		20000
#define APIC_LVTPC	0x340

/* In the guest's memory. */
static bool expect_slots;
static volatile unsigned int nr_nmis;

static uint64_t guest_metrics(void)
{
	return _rdpmc(INTEL_RDPMC_METRICS);
}

static uint64_t guest_count_slots(uint64_t enable)
{
	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, enable);
	host_loop(ROUNDS);
	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, 0);
	return guest_metrics();
}

static void guest_hidden(void)
{
	int i;

	guest_pmu_clear();
	for (i = 0; i < 3; i++) {
		/* The host writes it here. */
		GUEST_SYNC(0);
		GUEST_ASSERT_EQ(guest_metrics(), 0);
	}
	wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, SLOTS_OS);
	for (i = 0; i < 3; i++) {
		GUEST_ASSERT_EQ(guest_count_slots(SLOTS_ENABLE), 0);
		guest_count_slots(SLOTS_ENABLE | METRICS_ENABLE);
		GUEST_SYNC(0);
		GUEST_ASSERT_EQ(guest_metrics(), 0);
	}
	GUEST_DONE();
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, void (*guest)(void), bool hidden)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm;

	config.no_metrics = hidden;
	vm = vpmu_vm_create(vcpu, guest, &config);
	/* At rest nothing of the host's reaches the guest, and nothing is hidden. */
	vpmu_stay_awake(*vcpu, &config);
	return vm;
}

/* The host's own events of slots, which move the register. */
static void open_slots(int *fds)
{
	struct perf_event_attr attr = host_event_attr();

	attr.type = PERF_TYPE_RAW;
	attr.config = 0x400;
	fds[0] = host_event_open_ok(&attr, 0, -1);
	attr.config = 0x8000;
	attr.disabled = 0;
	fds[1] = syscall(SYS_perf_event_open, &attr, 0, -1, fds[0], 0);
	TEST_ASSERT(fds[1] >= 0, "The host has no event of PERF_METRICS: %s", strerror(errno));
}

TEST(hidden_beside_events_of_host)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fds[2];

	pin_self_to_any_cpu();
	vm = create(&vcpu, guest_hidden, true);
	open_slots(fds);
	host_event_enable(fds[0]);
	do {
		host_loop(ROUNDS);
	} while (vpmu_run(vcpu) == VPMU_SYNC);
	TEST_ASSERT(host_event_read(fds[1]).value, "The host has counted nothing");
	close(fds[1]);
	close(fds[0]);
	kvm_vm_free(vm);
}

/* What the host's tools write. */
TEST(hidden_is_zero_at_each_entry)
{
	int cpu = pin_self_to_any_cpu();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create(&vcpu, guest_hidden, true);
	do {
		host_msr_write(cpu, VPMU_MSR_PERF_METRICS, OTHERS);
	} while (vpmu_run(vcpu) == VPMU_SYNC);
	kvm_vm_free(vm);
}

static void guest_own(void)
{
	guest_pmu_clear();
	wrmsr(VPMU_MSR_PERF_METRICS, OTHERS);
	for (;;) {
		GUEST_ASSERT_EQ(guest_metrics(), OTHERS);
		GUEST_SYNC(0);
	}
}

TEST(hidden_beside_one_that_has_it)
{
	struct kvm_vcpu *own, *hidden;
	struct kvm_vm *vm, *other;

	pin_self_to_any_cpu();
	vm = create(&own, guest_own, false);
	other = create(&hidden, guest_hidden, true);
	do {
		TEST_ASSERT_EQ(vpmu_run(own), VPMU_SYNC);
	} while (vpmu_run(hidden) == VPMU_SYNC);
	kvm_vm_free(vm);
	kvm_vm_free(other);
}

static void guest_nmi(struct ex_regs *regs)
{
	nr_nmis++;
	wrmsr(MSR_CORE_PERF_GLOBAL_OVF_CTRL, guest_gp_mask() | guest_fixed_mask());
	x2apic_write_reg(APIC_LVTPC, APIC_DM_NMI);
}

static void guest_interrupted(void)
{
	x2apic_enable();
	guest_pmu_clear();
	x2apic_write_reg(APIC_LVTPC, APIC_DM_NMI);
	wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, SLOTS_OS);
	GUEST_SYNC(0);
	guest_count_slots(SLOTS_ENABLE | METRICS_ENABLE);
	GUEST_ASSERT_EQ(nr_nmis, 1);
	GUEST_DONE();
}

/* Should it ever overflow, that is no business of the host's. */
TEST(hidden_interrupts_the_guest)
{
	int cpu = pin_self_to_any_cpu();
	struct kvm_vcpu *vcpu;
	uint64_t nmis, raised;
	struct kvm_vm *vm;
	struct kmsg kmsg;

	if (!cost_is_available())
		SKIP(return, "needs the emulator");
	kmsg_start(&kmsg);
	vm = create(&vcpu, guest_interrupted, true);
	vm_install_exception_handler(vm, NMI_VECTOR, guest_nmi);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	raised = cost_raised();
	nmis = host_interrupts("NMI", cpu);
	cost_raise_in_guests(cpu, ROUNDS, METRICS_ENABLE);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	TEST_ASSERT_EQ(cost_raised() - raised, 1);
	TEST_ASSERT(host_interrupts("NMI", cpu) <= nmis + 1, "NMIs of the host's");
	TEST_ASSERT(!kmsg_count(&kmsg, "unknown reason"), "An NMI that nobody claims");
	TEST_ASSERT_EQ(host_msr_read(cpu, MSR_CORE_PERF_GLOBAL_STATUS) & METRICS_ENABLE, 0);
	kmsg_stop(&kmsg);
	kvm_vm_free(vm);
}

/* Slots count, and are divided up, or neither. */
static void guest_filtered(void)
{
	uint64_t metrics;

	guest_pmu_clear();
	wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, SLOTS_OS);
	metrics = guest_count_slots(SLOTS_ENABLE | METRICS_ENABLE);
	GUEST_ASSERT_EQ(!!_rdpmc(INTEL_RDPMC_FIXED | SLOTS_BIT), expect_slots);
	GUEST_ASSERT_EQ(!!metrics, expect_slots);
	GUEST_DONE();
}

/**
 * FIXTURE_VARIANT(filter) - an event filter, and whether it lets slots be counted
 * @action: allow or deny
 * @bitmap: the fixed counters to which that applies
 * @slots: they are counted
 * @hidden: the guest has not got PERF_METRICS
 */
FIXTURE(filter) { };
FIXTURE_SETUP(filter) { }
FIXTURE_TEARDOWN(filter) { }

FIXTURE_VARIANT(filter) {
	uint32_t action;
	uint32_t bitmap;
	bool slots;
	bool hidden;
};

#define FILTER(_name, _action, _bitmap, _slots)					\
FIXTURE_VARIANT_ADD(filter, _name) {						\
	.action = KVM_PMU_EVENT_##_action, .bitmap = _bitmap, .slots = _slots,	\
};										\
FIXTURE_VARIANT_ADD(filter, _name##_hidden) {					\
	.action = KVM_PMU_EVENT_##_action, .bitmap = _bitmap, .slots = _slots,	\
	.hidden = true,								\
}

FILTER(denies_slots, DENY, 0x8, false);
FILTER(denies_others, DENY, 0x7, true);
FILTER(allows_slots, ALLOW, 0x8, true);
FILTER(allows_others, ALLOW, 0x7, false);

TEST_F(filter, holds_for_metrics)
{
	struct kvm_pmu_event_filter filter = {
		.action = variant->action,
		.fixed_counter_bitmap = variant->bitmap,
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create(&vcpu, guest_filtered, variant->hidden);
	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter);
	write_guest_global(vm, expect_slots, variant->slots);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_intel();
	TEST_REQUIRE(vpmu_is_mediated());
	TEST_REQUIRE(vpmu_capabilities_max() & VPMU_CAP_METRICS);
	TEST_REQUIRE(host_msr_is_available(0));
	return test_harness_run(argc, argv);
}
