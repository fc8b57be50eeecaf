// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts of the PMU go to whom they belong, however late they come.
 *
 * A counter's overflow raises its interrupt instructions later, on some processors
 * microseconds. By then the guest may have been left, or entered. Each overflow of a
 * guest's is one PMI of the guest, each of the host's an NMI of the host; none is an NMI
 * that nobody claims, none leaves LVTPC masked. So it is for Intel PT, which shares LVTPC.
 *
 * On an emulated processor "pmi: delay=" says how late they come.
 */

#include "apic.h"
#include "cost.h"
#include "host_event.h"
#include "host_msr.h"
#include "host_sysctl.h"
#include "kmsg.h"
#include "lend.h"
#include "runner.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define APIC_LVTPC	0x340
#define LVTPC_NMI	0x400
#define STATUS_TOPA_PMI	BIT_ULL(55)

/* Longer than any interrupt takes, in rounds of a loop. */
#define PATIENCE	20000
/* Overflows that lie so many instructions from where they are armed, less than the code has. */
#define MAX_DISTANCE	60

/* In the guest's memory. */
static volatile unsigned int nr_nmis;
static bool clears_status;

static void guest_unmask(void)
{
	x2apic_write_reg(APIC_LVTPC, APIC_DM_NMI);
}

static void guest_nmi(struct ex_regs *regs)
{
	nr_nmis++;
	if (clears_status)
		wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	guest_unmask();
}

#define NOPS_8	"nop\n\t nop\n\t nop\n\t nop\n\t nop\n\t nop\n\t nop\n\t nop\n\t"

/* Counts 40 instructions, an exit to the kernel or to user space in the middle, and 40 more. */
static void guest_run_counting(bool to_user)
{
	const uint32_t msr = vpmu_msr_global_ctrl();

	wrmsr(msr, BIT_ULL(0));
	if (to_user)
		asm volatile(NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8
			     "in $" __stringify(VPMU_USER_PORT) ", %%al\n\t"
			     NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8 ::: "eax");
	else
		asm volatile(NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8
			     "xor %%eax, %%eax\n\t cpuid\n\t"
			     NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8 ::: "eax", "ebx", "ecx", "edx");
	wrmsr(msr, 0);
}

static void guest_wait_for(unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < PATIENCE && nr_nmis < nr; i++)
		cpu_relax();
	/* No other one follows. */
	for (i = 0; i < PATIENCE / 10; i++)
		cpu_relax();
	GUEST_ASSERT_EQ(nr_nmis, nr);
}

static void guest_arm(unsigned int distance)
{
	wrmsr(vpmu_msr_counter(0), -(uint64_t)distance & GENMASK_ULL(47, 0));
}

static void guest_begin(void)
{
	x2apic_enable();
	guest_pmu_clear();
	guest_unmask();
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()) | ARCH_PERFMON_EVENTSEL_INT);
}

/* The overflow comes right before an exit, with it, and right behind it. */
static void guest_overflows(void)
{
	unsigned int distance, nr = 0;

	guest_begin();
	for (distance = 5; distance < MAX_DISTANCE; distance++) {
		guest_arm(distance);
		guest_run_counting(distance % 2);
		guest_wait_for(++nr);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()) & 1, !clears_status);
		if (!clears_status)
			wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	}
	GUEST_DONE();
}

/*
 * The status has the bit of an earlier overflow when the guest is entered, who clears it
 * then: so what is there when it is left tells nothing.
 */
static void guest_clears_late(void)
{
	unsigned int distance, nr = 0;

	guest_begin();
	for (distance = 5; distance < MAX_DISTANCE; distance++) {
		guest_arm(5);
		guest_run_counting(false);
		guest_wait_for(++nr);
		/* Into user space and back. */
		GUEST_SYNC(0);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()) & 1, 1);
		wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
		guest_arm(distance);
		guest_run_counting(distance % 2);
		guest_wait_for(++nr);
		wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	}
	GUEST_DONE();
}

/*
 * The guest clears the status right after the overflow, and is left then. On some processors
 * the interrupt hasn't come by that time; clearing the status doesn't take it back.
 */
static void guest_run_clearing(bool to_user)
{
	const uint32_t msr = vpmu_msr_global_ctrl(), clear = vpmu_msr_status_clear();

	wrmsr(msr, BIT_ULL(0));
	asm volatile(NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8 NOPS_8);
	wrmsr(clear, BIT_ULL(0));
	if (to_user)
		asm volatile("in $" __stringify(VPMU_USER_PORT) ", %%al" ::: "eax");
	else
		asm volatile("xor %%eax, %%eax\n\t cpuid" ::: "eax", "ebx", "ecx", "edx");
	wrmsr(msr, 0);
}

static void guest_clears_at_once(void)
{
	unsigned int distance, nr = 0;

	guest_begin();
	for (distance = 5; distance < MAX_DISTANCE; distance++) {
		guest_arm(distance);
		guest_run_clearing(distance % 2);
		guest_wait_for(++nr);
	}
	GUEST_DONE();
}

/* Behind the mask nothing comes, then or later, though LVTPC isn't masked for the host. */
static void guest_overflows_masked(void)
{
	unsigned int distance;

	guest_begin();
	for (distance = 5; distance < MAX_DISTANCE; distance++) {
		x2apic_write_reg(APIC_LVTPC, APIC_DM_NMI | APIC_LVT_MASKED);
		guest_arm(distance);
		guest_run_counting(distance % 2);
		guest_wait_for(0);
		guest_unmask();
		guest_wait_for(0);
		wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	}
	GUEST_DONE();
}

FIXTURE(late) {
	struct lend lend;
	struct kmsg kmsg;
	bool nmi_watchdog;
	int cpu;
};

/* With the NMI watchdog and without: perf's handler is awake, or asleep. */
FIXTURE_VARIANT(late) {
	bool beside_watchdog;
};

FIXTURE_VARIANT_ADD(late, alone) { };
FIXTURE_VARIANT_ADD(late, beside_watchdog) { .beside_watchdog = true };

FIXTURE_SETUP(late)
{
	VPMU_REQUIRE_MEDIATED();
	LEND_REQUIRE();
	self->nmi_watchdog = nmi_watchdog_set(variant->beside_watchdog);
	if (variant->beside_watchdog && !nmi_watchdog_is_on())
		SKIP(return, "no NMI watchdog");
	self->lend = lend_open();
	self->cpu = pin_self_to_any_cpu();
	kmsg_start(&self->kmsg);
}

FIXTURE_TEARDOWN(late)
{
	kmsg_stop(&self->kmsg);
	lend_close(&self->lend);
	nmi_watchdog_set(self->nmi_watchdog);
}

/* The host's LVTPC is as it has to be, and all NMIs were somebody's. */
static void expect_host_unharmed(FIXTURE_DATA(late) *self)
{
	const struct lend_run how = {};
	struct lend_run run;

	TEST_ASSERT(!kmsg_count(&self->kmsg, "unknown reason"), "An NMI that nobody claims");
	TEST_ASSERT_EQ(lend_create(&self->lend), 0);
	run = lend_run(&self->lend, &how, NULL);
	lend_release(&self->lend);
	TEST_ASSERT_EQ(run.before.lvtpc, LVTPC_NMI);
	TEST_ASSERT_EQ(run.before.global_status & GENMASK_ULL(47, 0), 0);
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, void (*guest)(void), bool clears)
{
	const struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest, &config);

	vm_install_exception_handler(vm, NMI_VECTOR, guest_nmi);
	write_guest_global(vm, clears_status, clears);
	return vm;
}

static void test_overflows(FIXTURE_DATA(late) *self, void (*guest)(void), bool clears)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create(&vcpu, guest, clears);
	while (vpmu_run(vcpu) == VPMU_SYNC)
		;
	kvm_vm_free(vm);
	expect_host_unharmed(self);
}

TEST_F(late, overflow_of_guest)
{
	test_overflows(self, guest_overflows, true);
}

TEST_F(late, overflow_with_status_left)
{
	test_overflows(self, guest_overflows, false);
}

TEST_F(late, overflow_with_status_cleared)
{
	test_overflows(self, guest_clears_late, false);
}

TEST_F(late, overflow_cleared_at_once)
{
	test_overflows(self, guest_clears_at_once, true);
}

TEST_F(late, overflow_masked)
{
	test_overflows(self, guest_overflows_masked, true);
}

/* Of the host: each period is a sample, though the guest is entered all the time. */
#define SAMPLE_PERIOD	10007
/* Of somebody else's. */
#define NR_OTHER_NMIS	500

static void guest_enters_and_leaves(void)
{
	uint32_t eax, ebx, ecx, edx;
	int i;

	guest_begin();
	for (;;) {
		guest_arm(1 << 30);
		wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
		for (i = 0; i < 200; i++)
			__cpuid(0, 0, &eax, &ebx, &ecx, &edx);
		wrmsr(vpmu_msr_global_ctrl(), 0);
		GUEST_ASSERT_EQ(nr_nmis, 0);
		GUEST_SYNC(0);
	}
}

TEST_F(late, overflow_of_host)
{
	struct perf_event_attr attr = host_event_attr();
	struct perf_event_mmap_page *page;
	uint64_t samples, gpm;
	struct host_count c;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fd, i;

	vm = create(&vcpu, guest_enters_and_leaves, true);
	attr.exclude_kernel = 0;
	attr.sample_period = SAMPLE_PERIOD;
	attr.sample_type = PERF_SAMPLE_IP;
	attr.pinned = host_has_agent();
	/* Of the CPU: where an event goes along with a task, a late interrupt may find it gone. */
	fd = host_event_open_ok(&attr, -1, self->cpu);
	page = host_records_map(fd);
	gpm = host_interrupts("GPM", self->cpu);
	host_event_enable(fd);
	for (i = 0; i < 10; i++)
		TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	host_event_disable(fd);
	c = host_event_read(fd);
	samples = host_records(page, PERF_RECORD_SAMPLE);
	TEST_ASSERT(samples >= 100, "%lu samples only", samples);
	TEST_ASSERT(samples + 1 >= c.value / SAMPLE_PERIOD && samples <= c.value / SAMPLE_PERIOD + 1,
		    "%lu samples of %lu instructions", samples, c.value);
	TEST_ASSERT_EQ(host_interrupts("GPM", self->cpu), gpm);
	host_records_unmap(page);
	close(fd);
	kvm_vm_free(vm);
	expect_host_unharmed(self);
}

/*
 * A guest whose counter could interrupt is entered and left all the time, but the counter
 * doesn't overflow: an NMI that comes meanwhile is none of the guest's.
 */
TEST_F(late, other_nmis)
{
	struct runner runner = { .cpu = self->cpu };
	unsigned int unknown;
	struct kvm_vm *vm;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two processors");
	if (!host_cpu_is_intel)
		SKIP(return, "LVTPC doesn't tell");
	vm = create(&runner.vcpu, guest_enters_and_leaves, true);
	pin_self_to_cpu(!self->cpu);
	runner_start(&runner);
	unknown = lend_nmis(&self->lend, self->cpu, NR_OTHER_NMIS);
	runner_stop(&runner);
	TEST_ASSERT_EQ(unknown, NR_OTHER_NMIS);
	kvm_vm_free(vm);
	pin_self_to_cpu(self->cpu);
	expect_host_unharmed(self);
}

/* A guest with an interrupting counter, or none; its LVTPC is masked, or not. */
static void guest_spins(bool interrupts, bool masked)
{
	guest_begin();
	if (!interrupts)
		wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
	if (masked)
		x2apic_write_reg(APIC_LVTPC, APIC_DM_NMI | APIC_LVT_MASKED);
	wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
	GUEST_SYNC(0);
	host_loop(PATIENCE);
	GUEST_ASSERT_EQ(nr_nmis, 0);
	GUEST_DONE();
}

static void test_pt(FIXTURE_DATA(late) *self, bool interrupts, bool masked, bool dangling)
{
	struct perf_event_attr attr = host_event_attr();
	uint64_t nmis, raised;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fd = -1;

	/* Intel PT isn't there. But as with an event of its own, perf's handler is awake. */
	if (!dangling)
		fd = host_event_open_ok(&attr, 0, -1);
	vm = create(&vcpu, (void (*)(void))guest_spins, true);
	vcpu_args_set(vcpu, 2, (uint64_t)interrupts, (uint64_t)masked);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	nmis = host_interrupts("NMI", self->cpu);
	raised = cost_raised();
	cost_raise_in_guests(self->cpu, PATIENCE, STATUS_TOPA_PMI);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	TEST_ASSERT_EQ(cost_raised() - raised, 1);
	TEST_ASSERT(host_interrupts("NMI", self->cpu) > nmis, "The host has no NMI");
	/* Its handler has seen to it. */
	TEST_ASSERT_EQ(host_msr_read(self->cpu, MSR_CORE_PERF_GLOBAL_STATUS), 0);
	kvm_vm_free(vm);
	expect_host_unharmed(self);
	if (!dangling)
		close(fd);
}

#define REQUIRE_RAISE()								\
do {										\
	if (!host_cpu_is_intel || !cost_is_available() ||			\
	    !host_msr_is_available(self->cpu))					\
		SKIP(return, "needs an emulated Intel processor");		\
} while (0)

TEST_F(late, pt_beside_interrupting_guest)
{
	REQUIRE_RAISE();
	test_pt(self, true, false, false);
}

TEST_F(late, pt_beside_other_guest)
{
	REQUIRE_RAISE();
	test_pt(self, false, false, false);
}

TEST_F(late, pt_beside_masked_guest)
{
	REQUIRE_RAISE();
	test_pt(self, true, true, false);
}

/* The bit may be set when tracing has ended; its interrupt is nobody's, and no harm. */
TEST_F(late, pt_dangling)
{
	REQUIRE_RAISE();
	test_pt(self, true, false, true);
	test_pt(self, true, true, true);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	/* The machine is what it was to be. */
	TEST_ASSERT(!getenv("VPMU_PMI_DELAY") || (cost_is_available() &&
		    cost_pmi_delay() == atoll(getenv("VPMU_PMI_DELAY"))), "PMIs aren't late");
	if (cost_is_available())
		printf("# PMIs are up to %lu instructions late\n", cost_pmi_delay());
	return test_harness_run(argc, argv);
}
