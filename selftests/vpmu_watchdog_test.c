// SPDX-License-Identifier: GPL-2.0
/*
 * The NMI watchdog and guests with a mediated PMU live together.
 *
 * It makes no difference who was there first. The watchdog's event, which
 * counts cycles, on fixed counter 1 where there is one, stands still while a
 * guest has the PMU, so that neither notices the other; host code that locks up
 * is reported as ever.
 */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "disturb.h"
#include "host_event.h"
#include "host_msr.h"
#include "host_sysctl.h"
#include "lend.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define NR_TOGGLES	6
#define SHORT_ROUNDS	20000
#define LONG_ROUNDS	10000000
#define MAX_CPUS	8
/*
 * Twice the threshold of a second, and as much again: the emulated processor's
 * cycles are not that regular.
 */
#define LOCKUP_NSECS	4000000000ull

#define FIXED_BIT	32
#define GLOBAL_FIXED1	BIT_ULL(FIXED_BIT + 1)
#define FIXED1_FIELD	GENMASK_ULL(7, 4)

/* The counter that the guest counts with, and what it has in all others. */
#define GUEST_COUNTER	1
#define MARK		0x123456789aull

DEFINE_PAYLOAD(loop,
	"1: dec %%r10\n\t"
	"jnz 1b\n\t",
	2 * SHORT_ROUNDS, SHORT_ROUNDS);

/* All counters but one are for cycles, which they don't count, and hold a mark. */
static void guest_leave_marks(void)
{
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++) {
		wrmsr(vpmu_msr_selector(i), VPMU_SEL_OS(vpmu_event_cycles()));
		wrmsr(vpmu_msr_full_counter(i), MARK);
	}
	for (i = 0; i < guest_nr_fixed(); i++)
		wrmsr(MSR_CORE_PERF_FIXED_CTR0 + i, MARK);
	guest_fixed_select(FIXED_PMC_CTRL(1, FIXED_PMC_KERNEL));
}

static void guest_expect_marks(void)
{
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++) {
		if (i != GUEST_COUNTER)
			GUEST_ASSERT_EQ(_rdpmc(i), MARK);
	}
	for (i = 0; i < guest_nr_fixed(); i++)
		GUEST_ASSERT_EQ(_rdpmc(INTEL_RDPMC_FIXED | i), MARK);
}

/* The guest counts instructions, and finds its cycles as it left them. */
static void guest_count(uint64_t rounds)
{
	uint64_t insns = payload_loop.insns + 2 * (rounds - SHORT_ROUNDS);

	for (;;) {
		guest_pmu_clear();
		guest_leave_marks();
		wrmsr(vpmu_msr_selector(GUEST_COUNTER), VPMU_SEL_OS(vpmu_event_insns()));
		wrmsr(vpmu_msr_counter(GUEST_COUNTER), 0);
		payload_loop.run(vpmu_msr_global_ctrl(), BIT_ULL(GUEST_COUNTER), rounds);
		GUEST_ASSERT_EQ(_rdpmc(GUEST_COUNTER), insns);
		GUEST_SYNC(0);
		GUEST_ASSERT_EQ(_rdpmc(GUEST_COUNTER), insns);
		guest_expect_marks();
	}
}

static struct kvm_vm *create_guest(struct kvm_vcpu **vcpu, uint64_t rounds)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest_count, &config);

	vcpu_args_set(*vcpu, 1, rounds);
	return vm;
}

FIXTURE(watchdog) {
	struct lend lend;
	int cpus[MAX_CPUS];
	int nr_cpus;
	bool was_on;
	bool soft_was_on;
	int thresh;
};

FIXTURE_SETUP(watchdog)
{
	VPMU_REQUIRE_MEDIATED();
	LEND_REQUIRE();
	if (!nmi_watchdog_is_available())
		SKIP(return, "needs the NMI watchdog");
	self->lend = lend_open();
	self->nr_cpus = host_cpus(self->cpus, MAX_CPUS);
	self->was_on = nmi_watchdog_set(false);
	/* It would have something to say, too. */
	self->soft_was_on = host_sysctl_set("kernel/soft_watchdog", 0);
	self->thresh = host_sysctl_set("kernel/watchdog_thresh", 10);
}

FIXTURE_TEARDOWN(watchdog)
{
	lend_close(&self->lend);
	nmi_watchdog_set(self->was_on);
	host_sysctl_set("kernel/watchdog_thresh", self->thresh);
	host_sysctl_set("kernel/soft_watchdog", self->soft_was_on);
}

/* Counters that are to count cycles, by their bits in GLOBAL_CTRL. */
static uint64_t cycle_counters(const struct lend_regs *regs)
{
	uint64_t counters = regs->fixed_ctrl & FIXED1_FIELD ? GLOBAL_FIXED1 : 0;
	unsigned int i;

	for (i = 0; i < LEND_NR_SELS; i++) {
		if (regs->sels[i] & ARCH_PERFMON_EVENTSEL_ENABLE &&
		    (regs->sels[i] & vpmu_event_mask()) == vpmu_event_cycles())
			counters |= BIT_ULL(i);
	}
	return counters;
}

static bool counts_cycles(const struct lend_regs *regs)
{
	return regs->global_ctrl & cycle_counters(regs);
}

/* What its event does on this CPU: in the host, in a guest, and in the host again. */
static void expect_event(struct lend *lend, bool there)
{
	const struct lend_run how = {};
	struct lend_run run = lend_run(lend, &how, NULL);

	TEST_ASSERT(counts_cycles(&run.before) == there, "Before the guest %s counts cycles",
		    there ? "nobody" : "somebody");
	TEST_ASSERT_EQ(run.loaded.global_ctrl, 0);
	TEST_ASSERT_EQ(run.loaded.fixed_ctrl, 0);
	TEST_ASSERT_EQ(cycle_counters(&run.loaded), 0);
	TEST_ASSERT(counts_cycles(&run.after) == there, "After the guest %s counts cycles",
		    there ? "nobody" : "somebody");
}

static void expect_events(FIXTURE_DATA(watchdog) *self, bool there)
{
	int i;

	TEST_ASSERT_EQ(lend_create(&self->lend), 0);
	for (i = 0; i < self->nr_cpus; i++) {
		move_to(0, self->cpus[i]);
		expect_event(&self->lend, there);
	}
	lend_release(&self->lend);
}

/* On each CPU, with a look at the registers at each entry and exit. */
static void expect_guest_undisturbed(FIXTURE_DATA(watchdog) *self, struct kvm_vcpu *vcpu)
{
	const struct lend_watch what = { .tgid = getpid(), .guest_event = vpmu_event_insns() };
	struct lend_watch watch;
	int i;

	lend_watch_start(&self->lend, &what);
	for (i = 0; i < 4 * self->nr_cpus; i++) {
		move_to(0, self->cpus[i % self->nr_cpus]);
		TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	}
	watch = lend_watch_stop(&self->lend);
	TEST_ASSERT(watch.loads, "The guest never had the PMU");
	TEST_ASSERT(!watch.bad_loads && !watch.bad_leaves && !watch.bad_puts,
		    "%llu bad loads, %llu bad leaves, %llu bad puts of %llu", watch.bad_loads,
		    watch.bad_leaves, watch.bad_puts, watch.loads);
}

TEST_F(watchdog, is_first)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	nmi_watchdog_set(true);
	expect_events(self, true);
	vm = create_guest(&vcpu, SHORT_ROUNDS);
	expect_guest_undisturbed(self, vcpu);
	expect_events(self, true);
	kvm_vm_free(vm);
	expect_events(self, true);
}

TEST_F(watchdog, is_second)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create_guest(&vcpu, SHORT_ROUNDS);
	expect_guest_undisturbed(self, vcpu);
	expect_events(self, false);
	nmi_watchdog_set(true);
	expect_events(self, true);
	expect_guest_undisturbed(self, vcpu);
	kvm_vm_free(vm);
	expect_events(self, true);
}

/**
 * struct runner - a thread that runs a guest
 * @vcpu: whose
 * @rounds: that the guest has made
 * @stop: to end it
 * @thread: itself
 */
struct runner {
	struct kvm_vcpu *vcpu;
	atomic_int rounds;
	atomic_bool stop;
	pthread_t thread;
};

static void *runner_thread(void *arg)
{
	struct runner *r = arg;

	while (!r->stop) {
		TEST_ASSERT_EQ(vpmu_run(r->vcpu), VPMU_SYNC);
		r->rounds++;
	}
	return NULL;
}

static void wait_for_rounds(struct runner *r, int nr)
{
	int until = r->rounds + nr;

	while (r->rounds < until)
		usleep(1000);
}

/* Under a guest that runs. */
TEST_F(watchdog, toggled)
{
	struct runner r = {};
	struct kvm_vm *vm;
	int i;

	vm = create_guest(&r.vcpu, SHORT_ROUNDS);
	TEST_ASSERT(!pthread_create(&r.thread, NULL, runner_thread, &r),
		    "pthread_create() failed");
	for (i = 0; i < NR_TOGGLES; i++) {
		nmi_watchdog_set(i % 2 == 0);
		wait_for_rounds(&r, 3);
		expect_events(self, i % 2 == 0);
	}
	r.stop = true;
	pthread_join(r.thread, NULL);
	kvm_vm_free(vm);
	expect_events(self, false);
}

/* The counter that the watchdog's event has on this CPU. */
static uint32_t watchdog_msr(struct lend *lend)
{
	const struct lend_run how = {};
	struct lend_run run;
	int bit;

	TEST_ASSERT_EQ(lend_create(lend), 0);
	run = lend_run(lend, &how, NULL);
	lend_release(lend);
	bit = __builtin_ffsll(run.before.global_ctrl & cycle_counters(&run.before)) - 1;
	TEST_ASSERT(bit >= 0, "Nobody counts cycles");
	return bit < FIXED_BIT ? vpmu_msr_counter(bit) :
				 MSR_CORE_PERF_FIXED_CTR0 + bit - FIXED_BIT;
}

/* What it counts of a guest's loop is nothing, and of the host's all. */
TEST_F(watchdog, yields)
{
	int cpu = pin_self_to_any_cpu();
	uint64_t start, guest, host;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	uint32_t msr;

	vm = create_guest(&vcpu, LONG_ROUNDS);
	/* Once without, for what only a first run takes; then from the start of a period. */
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	nmi_watchdog_set(true);
	msr = watchdog_msr(&self->lend);
	start = host_msr_read(cpu, msr);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	guest = host_msr_read(cpu, msr) - start;
	start = host_msr_read(cpu, msr);
	host_loop(LONG_ROUNDS);
	host = host_msr_read(cpu, msr) - start;
	printf("# cycles of the host beside the guest's loop: %lu, in its own: %lu\n", guest, host);
	TEST_ASSERT(guest && guest < host / 4, "The watchdog doesn't yield");
	kvm_vm_free(vm);
}

/* Lockups that the kernel has counted; it reports a CPU's only once. */
static unsigned long nr_lockups(void)
{
	FILE *file = fopen("/sys/kernel/hardlockup_count", "r");
	unsigned long nr;

	TEST_ASSERT(file && fscanf(file, "%lu", &nr) == 1,
		    "Cannot read /sys/kernel/hardlockup_count");
	fclose(file);
	return nr;
}

/* Has the CPU of this process lock up, and tells whether the watchdog has noticed. */
static bool lockup_is_noticed(struct lend *lend, uint64_t nsecs)
{
	unsigned long before = nr_lockups();
	int level;

	/* The console is for what nobody has asked for. */
	level = host_sysctl_set("kernel/printk", 1);
	lend_lockup(lend, nsecs);
	host_sysctl_set("kernel/printk", level);
	return nr_lockups() > before;
}

/* Cycles that there really are in a second, whatever the processor's clock is said to be. */
static uint64_t cycles_per_second(void)
{
	struct perf_event_attr attr = host_event_attr();
	struct host_count count;
	int fd;

	attr.config = PERF_COUNT_HW_CPU_CYCLES;
	attr.pinned = 1;
	fd = host_event_open_ok(&attr, 0, -1);
	host_event_enable(fd);
	host_loop(LONG_ROUNDS);
	host_event_disable(fd);
	count = host_event_read(fd);
	close(fd);
	return count.value * NSEC_PER_SEC / count.running;
}

/* Has the watchdog check each second, by cycles of this CPU. */
static void watch_closely(struct lend *lend)
{
	uint64_t cycles = cycles_per_second();

	/* More don't fit where the answer goes, and need no correction. */
	if (cycles <= INT_MAX)
		lend_override_start(lend, "hw_nmi_get_sample_period", cycles);
	host_sysctl_set("kernel/watchdog_thresh", 1);
	nmi_watchdog_set(true);
	if (cycles <= INT_MAX)
		TEST_ASSERT(lend_fail_stop(lend), "The watchdog has asked for no period");
	printf("# a second has %lu cycles\n", cycles);
}

/* By the second overflow at the latest. */
TEST_F(watchdog, detects_lockup)
{
	int cpu = pin_self_to_any_cpu();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	bool noticed;

	vm = create_guest(&vcpu, SHORT_ROUNDS);
	watch_closely(&self->lend);
	expect_guest_undisturbed(self, vcpu);
	pin_self_to_cpu(cpu);
	noticed = lockup_is_noticed(&self->lend, LOCKUP_NSECS / 10);
	TEST_ASSERT(!noticed, "A short while counts as a lockup");
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	noticed = lockup_is_noticed(&self->lend, LOCKUP_NSECS);
	TEST_ASSERT(noticed, "A lockup of the host goes unnoticed");
	expect_guest_undisturbed(self, vcpu);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
