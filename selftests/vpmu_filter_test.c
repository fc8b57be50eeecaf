// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_SET_PMU_EVENT_FILTER: what the filter denies never counts, not for a
 * single instruction, in hardware or emulated; the guest reads back what it
 * wrote and cannot tell; what the filter allows stays exact.
 */
#include "payloads.h"
#include "vpmu.h"
#include "vpmu_harness.h"

/* Stops half way for user space, in the middle of an instruction. */
#define HALF_NOPS	100
#define HALF_NOPS_ASM	".fill " __stringify(HALF_NOPS) ", 1, 0x90\n\t"
DEFINE_PAYLOAD(two_halves,
	HALF_NOPS_ASM
	"out %%al, $0x80\n\t"
	HALF_NOPS_ASM,
	2 * HALF_NOPS + 1, 0);

/**
 * struct expectation - which counters count, told to the guest
 * @insns: instructions on general-purpose counters
 * @branches: branches
 * @fixed: instructions on fixed counter 0
 */
struct expectation {
	bool insns;
	bool branches;
	bool fixed;
};

static struct expectation expect;

static void guest_expect_readback(void)
{
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++)
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_selector(i)),
				VPMU_SEL_OS(i % 2 ? vpmu_event_branches() :
						    vpmu_event_insns()));
	if (guest_nr_fixed())
		GUEST_ASSERT_EQ(rdmsr(MSR_CORE_PERF_FIXED_CTR_CTRL), FIXED_PMC_KERNEL);
}

static void guest_expect_counts(const struct payload *p)
{
	unsigned int i;
	uint64_t want;

	for (i = 0; i < guest_nr_gp(); i++) {
		want = i % 2 ? p->branches * expect.branches : p->insns * expect.insns;
		__GUEST_ASSERT(_rdpmc(i) == want, "%s, PMC %u: %lu, expected %lu",
			       p->name, i, (uint64_t)_rdpmc(i), want);
	}
	guest_fixed0_expect(p->insns * expect.fixed);
}

static void guest_run(const struct payload *p)
{
	uint64_t on = guest_select_all();

	guest_expect_readback();
	p->run(vpmu_msr_global_ctrl(), on, 0);
	guest_expect_readback();
	guest_expect_counts(p);
}

static void guest_filtered(void)
{
	for (;;) {
		guest_run(&payload_nop);
		guest_run(&payload_cpuid);
		GUEST_SYNC(0);
	}
}

/* Denied after the first half, allowed after the second run's first half. */
static void guest_changes(void)
{
	const struct payload *p = &payload_two_halves;
	const uint64_t half = p->insns / 2;
	uint64_t on = guest_select_all();
	uint64_t count;

	p->run(vpmu_msr_global_ctrl(), on, 0);
	count = _rdpmc(0);
	/* OUT retires before or after the filter is set; the frame is on both sides. */
	__GUEST_ASSERT(count >= HALF_NOPS && count <= HALF_NOPS + PAYLOAD_FRAME_INSNS,
		       "Denied half way: %lu of %lu", count, p->insns);
	guest_fixed0_expect(p->insns);

	wrmsr(vpmu_msr_full_counter(0), 0);
	p->run(vpmu_msr_global_ctrl(), on, 0);
	count = _rdpmc(0);
	__GUEST_ASSERT(count >= HALF_NOPS && count <= half + PAYLOAD_FRAME_INSNS,
		       "Allowed half way: %lu of %lu", count, p->insns);
	guest_expect_readback();
	GUEST_DONE();
}

/**
 * struct filter - an event filter with room for its events
 */
struct filter {
	struct kvm_pmu_event_filter header;
	uint64_t events[4];
};

static void set_filter(struct kvm_vm *vm, uint32_t action, uint32_t fixed_bitmap,
		       int nr_events, const uint64_t *events)
{
	struct filter filter = {
		.header.action = action,
		.header.nevents = nr_events,
		.header.fixed_counter_bitmap = fixed_bitmap,
	};
	int i;

	for (i = 0; i < nr_events; i++)
		filter.events[i] = events[i];
	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter.header);
}

static void allow_all(struct kvm_vm *vm)
{
	set_filter(vm, KVM_PMU_EVENT_DENY, 0, 0, NULL);
}

FIXTURE(filter) {
	struct vpmu_config config;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

FIXTURE_VARIANT(filter) {
	bool fewer;
};

FIXTURE_VARIANT_ADD(filter, all_counters) { };
FIXTURE_VARIANT_ADD(filter, fewer_counters) { .fewer = true };

FIXTURE_SETUP(filter)
{
	self->config = vpmu_config_max();
	if (variant->fewer)
		self->config.nr_gp = 4;
	self->vm = vpmu_vm_create(&self->vcpu, guest_filtered, &self->config);
}

FIXTURE_TEARDOWN(filter)
{
	kvm_vm_free(self->vm);
}

static void run_expecting(FIXTURE_DATA(filter) *self, bool insns, bool branches, bool fixed)
{
	struct expectation e = { .insns = insns, .branches = branches, .fixed = fixed };

	write_guest_global(self->vm, expect, e);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);
}

TEST_F(filter, deny)
{
	const uint64_t insns = vpmu_event_insns();
	const uint64_t branches = vpmu_event_branches();

	run_expecting(self, true, true, true);
	set_filter(self->vm, KVM_PMU_EVENT_DENY, 0, 1, &insns);
	run_expecting(self, false, true, true);
	set_filter(self->vm, KVM_PMU_EVENT_DENY, 0, 1, &branches);
	run_expecting(self, true, false, true);
	allow_all(self->vm);
	run_expecting(self, true, true, true);
}

TEST_F(filter, allow)
{
	const uint64_t events[] = {
		vpmu_event_insns(), vpmu_event_branches(),
	};

	set_filter(self->vm, KVM_PMU_EVENT_ALLOW, BIT(0), 1, events);
	run_expecting(self, true, false, true);
	set_filter(self->vm, KVM_PMU_EVENT_ALLOW, BIT(0), 2, events);
	run_expecting(self, true, true, true);
	set_filter(self->vm, KVM_PMU_EVENT_ALLOW, BIT(0), 0, NULL);
	run_expecting(self, false, false, true);
	set_filter(self->vm, KVM_PMU_EVENT_ALLOW, 0, 0, NULL);
	run_expecting(self, false, false, false);
	allow_all(self->vm);
	run_expecting(self, true, true, true);
}

TEST_F(filter, fixed)
{
	set_filter(self->vm, KVM_PMU_EVENT_DENY, BIT(0), 0, NULL);
	run_expecting(self, true, true, false);
	set_filter(self->vm, KVM_PMU_EVENT_DENY, BIT(1), 0, NULL);
	run_expecting(self, true, true, true);
}

/* A filter that is there before the vCPU ever ran. */
TEST_F(filter, before_first_run)
{
	const uint64_t insns = vpmu_event_insns();

	set_filter(self->vm, KVM_PMU_EVENT_DENY, BIT(0), 1, &insns);
	run_expecting(self, false, true, false);
}

/* The filter changes while counters run. */
TEST_F(filter, while_counting)
{
	const uint64_t insns = vpmu_event_insns();

	vcpu_arch_set_entry_point(self->vcpu, guest_changes);
	TEST_ASSERT_EQ(vpmu_run_to_io(self->vcpu), VPMU_IO);
	set_filter(self->vm, KVM_PMU_EVENT_DENY, 0, 1, &insns);
	TEST_ASSERT_EQ(vpmu_run_to_io(self->vcpu), VPMU_IO);
	allow_all(self->vm);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_DONE);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
