// SPDX-License-Identifier: GPL-2.0
/*
 * The hand-over of the PMU between host and guest.
 *
 * While a guest has it, nothing of the host is in the registers, and nothing
 * of the guest is after that; an overflow goes to whom it belongs to; an NMI
 * in the middle finds nothing to do; events of PMUs that cannot be lent notice
 * nothing at all, and cost nothing.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#include "apic.h"
#include "cost.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "lend.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define PMI_VECTOR	0xf5
/* For perf_load_guest_context(), beside LVTPC: none of the guest's counters interrupts. */
#define NO_PMI		0x80000000u
#define LVTPC_NMI	0x400
#define LEND_NSECS	200000
#define HOST_ROUNDS	50000

FIXTURE(lend) {
	struct lend lend;
	int cpu;
	bool nmi_watchdog;
};

FIXTURE_SETUP(lend)
{
	const struct lend_run unused = {};

	LEND_REQUIRE();
	/* It has an event of its own, which is not to be among those counted here. */
	self->nmi_watchdog = nmi_watchdog_set(false);
	self->lend = lend_open();
	TEST_ASSERT_EQ(lend_create(&self->lend), 0);
	self->cpu = pin_self_to_any_cpu();
	/* Until perf first uses it a PMU is as RESET leaves it, globally enabled. */
	lend_run(&self->lend, &unused, NULL);
}

FIXTURE_TEARDOWN(lend)
{
	lend_close(&self->lend);
	nmi_watchdog_set(self->nmi_watchdog);
}

/* What an enabled selector says, 0 for one that isn't. */
static uint64_t enabled_sel(const struct lend_regs *regs, int i)
{
	return regs->sels[i] & ARCH_PERFMON_EVENTSEL_ENABLE ? regs->sels[i] : 0;
}

static void expect_lent(const struct lend_regs *regs, uint32_t lvtpc)
{
	int i;

	TEST_ASSERT_EQ(regs->global_ctrl, 0);
	TEST_ASSERT_EQ(regs->global_status & 0xfffffffffffull, 0);
	TEST_ASSERT_EQ(regs->fixed_ctrl, 0);
	for (i = 0; i < LEND_NR_SELS; i++)
		TEST_ASSERT(!enabled_sel(regs, i), "Selector %d is 0x%llx", i, regs->sels[i]);
	TEST_ASSERT_EQ(regs->lvtpc, lvtpc);
}

/* How many counters count for the host. */
static int nr_enabled(const struct lend_regs *regs)
{
	int i, nr = 0;

	if (!regs->global_ctrl)
		return 0;
	for (i = 0; i < LEND_NR_SELS; i++)
		nr += !!enabled_sel(regs, i);
	for (i = 0; i < 4; i++)
		nr += !!(regs->fixed_ctrl >> (4 * i) & 3);
	return nr;
}

/* Which counter has which event may change, but for the whole to be the same. */
static uint64_t all_enabled(const struct lend_regs *regs)
{
	uint64_t sum = 0;
	int i;

	for (i = 0; i < LEND_NR_SELS; i++)
		sum += enabled_sel(regs, i);
	return sum;
}

static void expect_returned(const struct lend_run *run)
{
	TEST_ASSERT_EQ(nr_enabled(&run->after), nr_enabled(&run->before));
	TEST_ASSERT_EQ(all_enabled(&run->after), all_enabled(&run->before));
	/* Without events there is nothing to switch it on for. */
	if (nr_enabled(&run->before) || run->after.global_ctrl)
		TEST_ASSERT_EQ(run->after.global_ctrl, run->before.global_ctrl);
	/* A PMU that is disabled may still have some of the last event. */
	if (run->before.global_ctrl)
		TEST_ASSERT_EQ(run->after.fixed_ctrl, run->before.fixed_ctrl);
	else
		TEST_ASSERT_EQ(run->after.fixed_ctrl, 0);
	TEST_ASSERT_EQ(run->after.lvtpc, LVTPC_NMI);
}

static void test_registers(struct lend *lend, int nr_host_events)
{
	struct lend_run how = { .nsecs = LEND_NSECS }, run;

	run = lend_run(lend, &how, NULL);
	TEST_ASSERT_EQ(nr_enabled(&run.before), nr_host_events);
	expect_lent(&run.loaded, PMI_VECTOR);
	expect_returned(&run);

	how.lvtpc = APIC_LVT_MASKED | APIC_DM_NMI;
	run = lend_run(lend, &how, NULL);
	expect_lent(&run.loaded, PMI_VECTOR | APIC_LVT_MASKED);
	expect_returned(&run);

	how.lvtpc = NO_PMI;
	run = lend_run(lend, &how, NULL);
	expect_lent(&run.loaded, LVTPC_NMI);
	expect_lent(&run.leaving, LVTPC_NMI);
	expect_returned(&run);
}

static int open_enabled(struct perf_event_attr *attr, int pid, int cpu)
{
	attr->disabled = 0;
	return host_event_open_ok(attr, pid, cpu);
}

TEST_F(lend, registers_without_host_events)
{
	test_registers(&self->lend, 0);
}

/* Events of a task and of a CPU, pinned and not, on fixed and other counters. */
TEST_F(lend, registers_with_host_events)
{
	struct perf_event_attr attr = host_event_attr();
	int fds[6], i;

	fds[0] = open_enabled(&attr, 0, -1);
	attr.pinned = 1;
	fds[1] = open_enabled(&attr, -1, self->cpu);
	attr.config = PERF_COUNT_HW_BRANCH_INSTRUCTIONS;
	fds[2] = open_enabled(&attr, -1, self->cpu);
	attr.pinned = 0;
	fds[3] = open_enabled(&attr, -1, self->cpu);
	attr.sample_period = 1000000007;
	fds[4] = open_enabled(&attr, 0, -1);
	attr.config = PERF_COUNT_HW_CPU_CYCLES;
	fds[5] = open_enabled(&attr, 0, -1);
	test_registers(&self->lend, 6);
	for (i = 0; i < 6; i++)
		close(fds[i]);
	test_registers(&self->lend, 0);
}

static void test_overflow(FIXTURE_DATA(lend) *self, uint32_t flags, uint32_t lvtpc)
{
	const bool masked = lvtpc & APIC_LVT_MASKED;
	struct lend_run how = { .flags = LEND_OVERFLOW | flags, .lvtpc = lvtpc }, run;
	uint64_t gpm, nmi;
	int i;

	for (i = 0; i < 5; i++) {
		gpm = host_interrupts("GPM", self->cpu);
		nmi = host_interrupts("NMI", self->cpu);
		run = lend_run(&self->lend, &how, NULL);
		/* The status is as the guest's counter left it, whoever looked at it. */
		TEST_ASSERT_EQ(run.leaving.global_status, LEND_OVERFLOW_BIT(host_cpu_is_amd));
		TEST_ASSERT_EQ(run.leaving.global_ctrl, 0);
		/* AMD's LVTPC does not mask itself. */
		TEST_ASSERT_EQ(run.leaving.lvtpc, PMI_VECTOR |
			       (masked || host_cpu_is_intel ? APIC_LVT_MASKED : 0));
		TEST_ASSERT_EQ(run.nr_nmis, flags & LEND_NMI ? 1 : 0);
		expect_returned(&run);
		/* It comes as soon as the processor takes interrupts again, as what it is. */
		TEST_ASSERT_EQ(host_interrupts("GPM", self->cpu) - gpm, !masked);
		TEST_ASSERT_EQ(host_interrupts("NMI", self->cpu) - nmi, run.nr_nmis);
	}
}

TEST_F(lend, guest_overflow)
{
	test_overflow(self, 0, 0);
}

TEST_F(lend, guest_overflow_masked)
{
	test_overflow(self, 0, APIC_LVT_MASKED);
}

/* An NMI of somebody else comes while the overflow is pending. */
TEST_F(lend, guest_overflow_and_nmi)
{
	struct perf_event_attr attr = host_event_attr();
	int fd;

	test_overflow(self, LEND_NMI, 0);
	/* With an event of the host perf's handler is awake. */
	attr.sample_period = 1000000007;
	fd = open_enabled(&attr, 0, -1);
	test_overflow(self, LEND_NMI, 0);
	test_overflow(self, LEND_NMI, APIC_LVT_MASKED);
	close(fd);
}

/* Without any guest the interrupt is counted, and that is all. */
TEST_F(lend, spurious_pmi)
{
	uint64_t gpm, nmi, sum;
	int i;

	gpm = host_interrupts("GPM", self->cpu);
	nmi = host_interrupts("NMI", self->cpu);
	sum = host_all_interrupts();
	for (i = 0; i < 1000; i++)
		TEST_ASSERT(!ioctl(self->lend.fd, LEND_SPURIOUS_PMI), "LEND_SPURIOUS_PMI failed");
	sum = host_all_interrupts() - sum;
	TEST_ASSERT_EQ(host_interrupts("GPM", self->cpu) - gpm, 1000);
	TEST_ASSERT_EQ(host_interrupts("NMI", self->cpu) - nmi, 0);
	TEST_ASSERT(sum >= 1000, "/proc/stat knows of %lu interrupts", sum);
}

/* Samples of the host: one per period, though the PMU is lent all the time. */
#define SAMPLE_PERIOD	10007

TEST_F(lend, host_overflow)
{
	struct perf_event_attr attr = host_event_attr();
	struct perf_event_mmap_page *page;
	struct host_count count;
	uint64_t gpm, samples;
	int fd, i;

	attr.sample_period = SAMPLE_PERIOD;
	attr.sample_type = PERF_SAMPLE_IP;
	fd = host_event_open_ok(&attr, 0, -1);
	page = host_records_map(fd);
	gpm = host_interrupts("GPM", self->cpu);
	host_event_enable(fd);
	for (i = 0; i < 300; i++) {
		/* Not in step with the period, so that the switch comes near the overflow. */
		host_loop(SAMPLE_PERIOD / 6 + i);
		lend_for(&self->lend, 0, NULL);
	}
	host_event_disable(fd);
	count = host_event_read(fd);
	samples = host_records(page, PERF_RECORD_SAMPLE);
	TEST_ASSERT_EQ(host_records(page, PERF_RECORD_MAX), samples);
	TEST_ASSERT(samples > 50, "%lu samples only", samples);
	TEST_ASSERT(samples == count.value / SAMPLE_PERIOD, "%lu samples of %lu instructions",
		    samples, count.value);
	TEST_ASSERT_EQ(host_interrupts("GPM", self->cpu) - gpm, 0);
	host_records_unmap(page);
	close(fd);
}

/* Has an NMI that comes while the PMU is lent been claimed by perf? */
static bool late_nmi_is_claimed(struct lend *lend)
{
	const struct lend_run how = { .flags = LEND_LATE_NMI };
	struct lend_run run = lend_run(lend, &how, NULL);

	expect_returned(&run);
	TEST_ASSERT(run.nr_unknown_nmis <= 1, "%u unknown NMIs", run.nr_unknown_nmis);
	return !run.nr_unknown_nmis;
}

/*
 * Of two overflows in a row the second's NMI may come on AMD when the first one's
 * handler has dealt with both. Perf reckons with that for a while, that is shorter
 * than half a second. On Intel there is no such thing.
 */
TEST_F(lend, late_nmi)
{
	struct perf_event_attr attr = host_event_attr();
	int fd;

	attr.sample_period = SAMPLE_PERIOD;
	fd = open_enabled(&attr, 0, -1);
	host_loop(SAMPLE_PERIOD);
	/* For a tenth of a millisecond one may be that of the last guest. */
	usleep(1000);
	TEST_ASSERT_EQ(late_nmi_is_claimed(&self->lend), host_cpu_is_amd);
	host_event_disable(fd);
	usleep(500000);
	TEST_ASSERT(!late_nmi_is_claimed(&self->lend), "Whatever comes is claimed");
	close(fd);
}

/* PMUs that cannot be lent go on: their time is that of the clock. */
static uint64_t file_number(const char *path, const char *format)
{
	FILE *file = fopen(path, "r");
	uint64_t nr;

	TEST_ASSERT(file, "No %s", path);
	TEST_ASSERT(fscanf(file, format, &nr) == 1, "No number in %s", path);
	fclose(file);
	return nr;
}

#define NR_BYSTANDERS	4
enum { CPU_CLOCK, TASK_CLOCK, WAKING, TSC };

static void open_bystanders(int *fds, int cpu)
{
	struct perf_event_attr attr = host_event_attr();

	attr.exclude_guest = 0;
	attr.exclude_kernel = 0;
	attr.exclude_hv = 0;
	attr.type = PERF_TYPE_SOFTWARE;
	attr.config = PERF_COUNT_SW_CPU_CLOCK;
	fds[CPU_CLOCK] = open_enabled(&attr, -1, cpu);
	attr.config = PERF_COUNT_SW_TASK_CLOCK;
	fds[TASK_CLOCK] = open_enabled(&attr, 0, -1);
	attr.type = PERF_TYPE_TRACEPOINT;
	attr.config = file_number("/sys/kernel/tracing/events/sched/sched_waking/id", "%lu");
	fds[WAKING] = open_enabled(&attr, 0, -1);
	attr.type = file_number("/sys/bus/event_source/devices/msr/type", "%lu");
	attr.config = file_number("/sys/bus/event_source/devices/msr/events/tsc", "event=%lx");
	fds[TSC] = open_enabled(&attr, -1, cpu);
}

TEST_F(lend, other_pmus_go_on)
{
	const struct lend_run how = { .nsecs = 10000000, .flags = LEND_WAKE };
	struct host_count before[NR_BYSTANDERS], c;
	int fds[NR_BYSTANDERS], i;
	struct lent lent = {};

	open_bystanders(fds, self->cpu);
	for (i = 0; i < NR_BYSTANDERS; i++)
		before[i] = host_event_read(fds[i]);
	lend_run(&self->lend, &how, &lent);
	for (i = 0; i < NR_BYSTANDERS; i++) {
		c = host_event_read(fds[i]);
		TEST_ASSERT_EQ(c.enabled, c.running);
		TEST_ASSERT(c.enabled - before[i].enabled >= lent.shortest,
			    "Event %d was enabled for %lu ns only", i,
			    c.enabled - before[i].enabled);
		before[i].value = c.value - before[i].value;
		close(fds[i]);
	}
	TEST_ASSERT(before[CPU_CLOCK].value >= lent.shortest &&
		    before[TASK_CLOCK].value >= lent.shortest,
		    "The clocks stood still for part of %lu ns: %lu, %lu", lent.shortest,
		    before[CPU_CLOCK].value, before[TASK_CLOCK].value);
	/* An interrupt before or after may have woken somebody, too. */
	TEST_ASSERT(before[WAKING].value >= LEND_NR_WAKES &&
		    before[WAKING].value < 2 * LEND_NR_WAKES,
		    "Of %d wake-ups %lu were counted", LEND_NR_WAKES, before[WAKING].value);
	/* More than 10 MHz, whatever it is. */
	TEST_ASSERT(before[TSC].value > lent.shortest / 100, "The TSC is at %lu after %lu ns",
		    before[TSC].value, lent.shortest);
}

static void call_lend(void *arg)
{
	struct lend_run run = {};
	struct lend *lend = arg;

	TEST_ASSERT(!ioctl(lend->fd, LEND_RUN, &run), "LEND_RUN failed");
}

static uint64_t cost_of_lending(FIXTURE_DATA(lend) *self)
{
	return cost_host_insns(self->cpu, 20, call_lend, &self->lend);
}

#define NR_UNRELATED	200

/*
 * The guest's switch doesn't look at events of other PMUs, however many. Where
 * it has an event to schedule it looks for it in the tree where all of them
 * are, in a few steps more: far from one per event.
 */
TEST_F(lend, unrelated_events_cost_nothing)
{
	struct perf_event_attr core = host_event_attr(), attr = host_event_attr();
	uint64_t without, with, with_core, with_both;
	int fds[NR_UNRELATED], core_fd, few_steps, i;

	if (!cost_is_available())
		SKIP(return, "needs the emulator's cost counters");
	without = cost_of_lending(self);
	core_fd = open_enabled(&core, 0, -1);
	with_core = cost_of_lending(self);

	attr.type = PERF_TYPE_SOFTWARE;
	attr.config = PERF_COUNT_SW_DUMMY;
	for (i = 0; i < NR_UNRELATED; i++)
		fds[i] = open_enabled(&attr, i % 2 ? -1 : 0, i % 2 ? self->cpu : -1);
	with_both = cost_of_lending(self);
	close(core_fd);
	with = cost_of_lending(self);
	for (i = 0; i < NR_UNRELATED; i++)
		close(fds[i]);

	printf("# instructions to lend the PMU: %lu, %lu beside %d other events; with a core event %lu, %lu\n",
	       without, with, NR_UNRELATED, with_core, with_both);
	TEST_ASSERT_EQ(with, without);
	/* A debug kernel takes ten times as long over all, these steps among them. */
	few_steps = max(NR_UNRELATED, (int)(with_core / 50));
	TEST_ASSERT(with_both < with_core + few_steps,
		    "%lu instructions beside %d other events, %lu without", with_both,
		    NR_UNRELATED, with_core);
	TEST_ASSERT(with_core > without, "A core event costs nothing: this measures nothing");
}

/* The real thing: KVM is watched while it lends the PMU. */
static uint64_t guest_event(void)	/* mispredicted branches; the host counts others */
{
	return host_cpu_is_amd ? AMD_ZEN_BRANCHES_MISPREDICTED : INTEL_ARCH_BRANCHES_MISPREDICTED;
}

/* Of AMD's HostOnly and GuestOnly, whatever there is to be had. */
static uint64_t guest_world(unsigned int i)
{
	return host_cpu_is_amd ? (i & 3) * BIT_ULL(40) : 0;
}

static void guest_count_forever(uint64_t interrupt)
{
	uint64_t on;
	int i;

	for (;;) {
		on = guest_select_all();
		for (i = 0; i < guest_nr_gp(); i++)
			wrmsr(vpmu_msr_selector(i), VPMU_SEL_OS(guest_event()) | guest_world(i) |
			      interrupt);
		wrmsr(vpmu_msr_global_ctrl(), on);
		/* A long stay, and exits with all of that on. */
		for (i = 0; i < 20000; i++)
			asm volatile("pause");
		for (i = 0; i < 20; i++)
			cpuid(0, &(uint32_t){0}, &(uint32_t){0}, &(uint32_t){0}, &(uint32_t){0});
		GUEST_SYNC(0);
	}
}

static void expect_clean(const struct lend_watch *watch)
{
	const struct lend_regs *r = &watch->first_bad;

	TEST_ASSERT(watch->loads > 10, "The PMU was lent %llu times only", watch->loads);
	TEST_ASSERT(host_cpu_is_intel || watch->entries > 10,
		    "Only %llu VMRUNs with something to count", watch->entries);
	TEST_ASSERT(!watch->bad_loads && !watch->bad_leaves && !watch->bad_puts &&
		    !watch->bad_entries,
		    "Of %llu: %llu bad loads, %llu bad entries, %llu bad leaves, %llu bad puts; the first with GLOBAL_CTRL %llx, FIXED_CTR_CTRL %llx, PERFEVTSEL0..1 %llx %llx, LVTPC %x",
		    watch->loads, watch->bad_loads, watch->bad_entries, watch->bad_leaves,
		    watch->bad_puts,
		    r->global_ctrl, r->fixed_ctrl, r->sels[0], r->sels[1], r->lvtpc);
}

/* LVTPC is left alone, which spares two writes, if and only if no counter can interrupt. */
static void expect_lvtpc_alone(const struct lend_watch *watch, bool interrupt)
{
	if (interrupt)
		/* But for the time in which the guest sets its counters up. */
		TEST_ASSERT(watch->loads - watch->no_pmis > 10,
			    "%llu of %llu loads for counters that interrupt",
			    watch->loads - watch->no_pmis, watch->loads);
	else
		TEST_ASSERT_EQ(watch->no_pmis, watch->loads);
}

static void test_kvm(FIXTURE_DATA(lend) *self, uint64_t guest_fixed, uint64_t interrupt)
{
	const struct lend_watch what = {
		.tgid = getpid(),
		.guest_event = guest_event(),
		.guest_fixed = guest_fixed,
	};
	struct vpmu_config config = vpmu_config_max();
	struct lend_watch watch;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	vm = vpmu_vm_create(&vcpu, guest_count_forever, &config);
	vcpu_args_set(vcpu, 1, interrupt);
	vpmu_run(vcpu);
	lend_watch_start(&self->lend, &what);
	for (i = 0; i < 10; i++)
		vpmu_run(vcpu);
	watch = lend_watch_stop(&self->lend);
	expect_clean(&watch);
	expect_lvtpc_alone(&watch, interrupt);
	kvm_vm_free(vm);
}

TEST_F(lend, kvm_without_host_events)
{
	VPMU_REQUIRE_MEDIATED();
	test_kvm(self, ~0ull, 0);
}

TEST_F(lend, kvm_with_counters_that_interrupt)
{
	VPMU_REQUIRE_MEDIATED();
	test_kvm(self, ~0ull, ARCH_PERFMON_EVENTSEL_INT);
}

TEST_F(lend, kvm_with_host_events)
{
	struct perf_event_attr attr = host_event_attr();
	int fds[3];

	VPMU_REQUIRE_MEDIATED();
	fds[0] = open_enabled(&attr, 0, -1);
	fds[1] = open_enabled(&attr, -1, self->cpu);
	attr.config = PERF_COUNT_HW_BRANCH_INSTRUCTIONS;
	fds[2] = open_enabled(&attr, 0, -1);
	/* The guest's fixed counter counts in kernel mode, the host's in user mode. */
	test_kvm(self, 1, 0);
	test_kvm(self, 1, ARCH_PERFMON_EVENTSEL_INT);
	close(fds[0]);
	close(fds[1]);
	close(fds[2]);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
