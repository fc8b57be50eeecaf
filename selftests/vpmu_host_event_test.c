// SPDX-License-Identifier: GPL-2.0
/*
 * Host and guest count at the same time, both of them exactly.
 *
 * An event of the host that excludes guests (perf_event_open(2),
 * exclude_guest) counts what its task retires outside the guest, to the
 * instruction, though the guest takes the counters away again and again; and
 * the guest's counters know nothing of the host.
 */
#include "disturb.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "runner.h"
#include "vpmu.h"
#include "vpmu_harness.h"

/* Long enough for the scheduler to switch in the middle of each. */
#define HOST_ROUNDS	1000000ull
#define GUEST_ROUNDS	500000
#define NR_MEASURES	8

DEFINE_PAYLOAD(long_loop,
	"mov $" __stringify(GUEST_ROUNDS) ", %%ecx\n\t"
	"1: nop\n\t"
	"loop 1b\n\t",
	1 + GUEST_ROUNDS * 2, GUEST_ROUNDS);

DEFINE_LOOP_PAYLOAD(short_loop,
	"nop\n\t",
	1, 0);

/* Some on general-purpose counters, one on a fixed one: all exact, round after round. */
static void guest_count_forever(const struct payload *p)
{
	const uint64_t on = BIT_ULL(0) | BIT_ULL(1) | BIT_ULL(guest_nr_gp() - 1) |
			    guest_fixed0_mask();

	for (;;) {
		guest_pmu_clear();
		wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
		wrmsr(vpmu_msr_selector(1), VPMU_SEL_OS(vpmu_event_branches()));
		wrmsr(vpmu_msr_selector(guest_nr_gp() - 1),
		      VPMU_SEL_USR(vpmu_event_insns()));
		guest_fixed_select(FIXED_PMC_KERNEL);

		p->run(vpmu_msr_global_ctrl(), on, 0);

		GUEST_ASSERT_EQ(_rdpmc(0), p->insns);
		GUEST_ASSERT_EQ(_rdpmc(1), p->branches);
		GUEST_ASSERT_EQ(_rdpmc(guest_nr_gp() - 1), 0);
		guest_fixed0_expect(p->insns);
		GUEST_SYNC(0);
	}
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, const struct payload *p)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest_count_forever, &config);

	vcpu_args_set(*vcpu, 1, p);
	return vm;
}

/**
 * struct exactness - what the host's events count without any guest
 * @fixed: instructions around the loop
 * @exact: every time the same, as on a processor whose count interrupts leave alone
 */
struct exactness {
	uint64_t fixed;
	bool exact;
};

static struct exactness calibrate(int fd)
{
	struct exactness e = { .exact = true };
	int i;

	e.fixed = host_loop_frame(fd);
	for (i = 0; i < NR_MEASURES; i++) {
		if (host_loop_count(fd, HOST_ROUNDS) != e.fixed + HOST_ROUNDS * HOST_LOOP_INSNS)
			e.exact = false;
	}
	return e;
}

/*
 * Some processors count one instruction more per interrupt. Those that showed
 * it without a guest may show it with one; all others have no excuse.
 */
static void expect_exact(int fd, const struct exactness *e)
{
	uint64_t irqs = host_all_interrupts();
	uint64_t count = host_loop_count(fd, HOST_ROUNDS);
	uint64_t expected = e->fixed + HOST_ROUNDS * HOST_LOOP_INSNS;
	uint64_t excess = e->exact ? 0 : host_all_interrupts() - irqs;

	TEST_ASSERT(count >= expected && count <= expected + excess,
		    "The host counted %lu instructions, its task retired %lu (excess allowed: %lu)",
		    count, expected, excess);
}

/* A host task and a guest that share a CPU. */
TEST(task_beside_guest)
{
	struct perf_event_attr attr = host_event_attr();
	struct exactness exactness;
	struct runner runner = {};
	struct kvm_vm *vm;
	uint64_t before;
	int fd, i;

	runner.cpu = pin_self_to_any_cpu();
	attr.pinned = host_has_agent();
	fd = host_event_open_ok(&attr, 0, -1);
	exactness = calibrate(fd);
	vm = create(&runner.vcpu, &payload_long_loop);
	runner_start(&runner);

	before = preemptions();
	for (i = 0; i < NR_MEASURES; i++)
		expect_exact(fd, &exactness);
	runner_stop(&runner);
	TEST_ASSERT(preemptions() > before, "The guest never had the CPU in between");
	kvm_vm_free(vm);
	close(fd);
}

/* More events than counters: each has its turn, and the guest has all of its own. */
#define NR_EVENTS	16
#define MAX_ROUNDS	300

static int events_that_counted(const int *fds)
{
	struct host_count count;
	int i, nr = 0;

	for (i = 0; i < NR_EVENTS; i++) {
		count = host_event_read(fds[i]);
		nr += count.value && count.running;
	}
	return nr;
}

TEST(many_events_beside_guest)
{
	struct perf_event_attr attr = host_event_attr();
	struct runner runner = {};
	int fds[NR_EVENTS], i, nr;
	struct kvm_vm *vm;

	runner.cpu = pin_self_to_any_cpu();
	attr.disabled = 0;
	for (i = 0; i < NR_EVENTS; i++)
		fds[i] = host_event_open_ok(&attr, 0, -1);
	vm = create(&runner.vcpu, &payload_long_loop);
	runner_start(&runner);
	do {
		host_loop(HOST_ROUNDS);
		nr = events_that_counted(fds);
	} while (runner.rounds < NR_MEASURES || (nr < NR_EVENTS && runner.rounds < MAX_ROUNDS));
	runner_stop(&runner);
	TEST_ASSERT(nr == NR_EVENTS, "Only %d of %d events ever counted", nr, NR_EVENTS);
	for (i = 0; i < NR_EVENTS; i++)
		close(fds[i]);
	kvm_vm_free(vm);
}

/* All that the host can pin, beside a guest that uses all that it has. */
static int open_pinned(struct perf_event_attr *attr, pid_t pid, int cpu, int *fds)
{
	struct host_count count;
	int nr;

	attr->pinned = 1;
	attr->disabled = 0;
	for (nr = 0; nr < NR_EVENTS; nr++) {
		fds[nr] = host_event_open_ok(attr, pid, cpu);
		/* One that doesn't fit is at its end at once. */
		if (read(fds[nr], &count, sizeof(count)) != sizeof(count))
			break;
	}
	/* All that there are for instructions, but for what the NMI watchdog and others have. */
	TEST_ASSERT(nr < NR_EVENTS && nr >= (host_has_agent() ? 1 : vpmu_config_host().nr_gp - 1),
		    "%d events pinned", nr);
	close(fds[nr]);
	return nr;
}

/* Not inlined: from an event's read to its next one it retires the same for each event. */
static noinline void read_all(const int *fds, int nr, struct host_count *counts)
{
	int i;

	for (i = 0; i < nr; i++)
		counts[i] = host_event_read(fds[i]);
}

static void test_pinned(bool of_cpu, uint64_t insns[NR_EVENTS], int *nr)
{
	const struct vpmu_config config = vpmu_config_max();
	struct perf_event_attr attr = host_event_attr();
	struct runner runner = {};
	struct host_count before[NR_EVENTS], after[NR_EVENTS];
	int fds[NR_EVENTS], i;
	struct kvm_vm *vm;

	runner.cpu = pin_self_to_any_cpu();
	vm = counting_vm_create(&runner.vcpu, &config, GUEST_ROUNDS);
	*nr = open_pinned(&attr, of_cpu ? -1 : 0, of_cpu ? runner.cpu : -1, fds);
	printf("# %d pinned events\n", *nr);
	runner_start(&runner);
	read_all(fds, *nr, before);
	host_loop(HOST_ROUNDS * NR_MEASURES);
	read_all(fds, *nr, after);
	runner_wait(&runner, 1);
	runner_stop(&runner);
	for (i = 0; i < *nr; i++) {
		insns[i] = after[i].value - before[i].value;
		TEST_ASSERT_EQ(after[i].running, after[i].enabled);
		close(fds[i]);
	}
	kvm_vm_free(vm);
}

/*
 * Between two reads of the same event are the loop, and the code that reads the others: the
 * same for each, whichever counter it has.
 */
TEST(pinned_task_events)
{
	uint64_t insns[NR_EVENTS], irqs = host_all_interrupts();
	int i, nr;

	VPMU_REQUIRE_MEDIATED();
	test_pinned(false, insns, &nr);
	for (i = 0; i < nr; i++) {
		host_expect_count(insns[i], insns[0], irqs);
		TEST_ASSERT(insns[i] - HOST_ROUNDS * NR_MEASURES * HOST_LOOP_INSNS < 10000,
			    "Event %d counted %lu", i, insns[i]);
	}
}

/* With what else runs there, which has the CPU between two reads, too: the guest's thread. */
TEST(pinned_cpu_events)
{
	uint64_t insns[NR_EVENTS];
	int i, nr;

	VPMU_REQUIRE_MEDIATED();
	test_pinned(true, insns, &nr);
	for (i = 0; i < nr; i++)
		TEST_ASSERT(insns[i] >= HOST_ROUNDS * NR_MEASURES * HOST_LOOP_INSNS &&
			    insns[i] < HOST_ROUNDS * NR_MEASURES * HOST_LOOP_INSNS * 21 / 20,
			    "Event %d counted %lu", i, insns[i]);
}

/*
 * An event that samples too often is throttled until the next tick, though each exit of a
 * guest schedules it anew.
 */
#define MAX_SAMPLE_RATE	1000

static void guest_exits(void)
{
	uint32_t eax, ebx, ecx, edx;
	unsigned int i;

	guest_pmu_clear();
	/* What is in the others is near an overflow, and no count of the host's. */
	for (i = 1; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_counter(i), host_cpu_is_amd ? GENMASK_ULL(47, 8) : 0xffffff00);
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
	wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
	for (;;) {
		for (i = 0; i < 1000; i++)
			__cpuid(0, 0, &eax, &ebx, &ecx, &edx);
		GUEST_SYNC(0);
	}
}

TEST(throttled)
{
	const struct vpmu_config config = vpmu_config_max();
	struct perf_event_attr attr = host_event_attr();
	struct perf_event_mmap_page *page;
	uint64_t ticks, samples, count, all;
	int fd, plain, i, cpu, rate;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	cpu = pin_self_to_any_cpu();
	rate = host_sysctl_set("kernel/perf_event_max_sample_rate", MAX_SAMPLE_RATE);
	vm = vpmu_vm_create(&vcpu, guest_exits, &config);
	attr.exclude_kernel = 0;
	plain = host_event_open_ok(&attr, 0, -1);
	attr.sample_period = 100;
	attr.sample_type = PERF_SAMPLE_IP;
	fd = host_event_open_ok(&attr, 0, -1);
	page = host_records_map(fd);
	ticks = host_interrupts("LOC", cpu);
	host_event_enable(plain);
	host_event_enable(fd);
	for (i = 0; i < 5; i++) {
		TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
		/* It is started by a tick, and interrupts. */
		host_loop(HOST_ROUNDS);
	}
	host_event_disable(fd);
	host_event_disable(plain);
	ticks = host_interrupts("LOC", cpu) - ticks;
	count = host_event_read(fd).value;
	all = host_event_read(plain).value;
	samples = host_records(page, PERF_RECORD_SAMPLE);
	printf("# %lu samples in %lu ticks\n", samples, ticks);
	host_sysctl_set("kernel/perf_event_max_sample_rate", rate);
	TEST_ASSERT(host_records(page, PERF_RECORD_THROTTLE), "The event was never throttled");
	/* No kernel has a longer tick than the one that this tells. */
	TEST_ASSERT(samples <= (ticks + 1) * DIV_ROUND_UP(MAX_SAMPLE_RATE, sysconf(_SC_CLK_TCK)),
		    "%lu samples in %lu ticks", samples, ticks);
	TEST_ASSERT(count <= all, "%lu instructions counted of %lu", count, all);
	host_records_unmap(page);
	close(fd);
	close(plain);
	kvm_vm_free(vm);
}

/* The vCPU's own thread: what it runs in the guest is not its host's. */
static uint64_t count_of_vcpu_run(int fd, struct kvm_vcpu *vcpu)
{
	uint64_t before = host_event_read(fd).value;

	host_event_enable(fd);
	TEST_ASSERT(!__vcpu_run(vcpu), "KVM_RUN failed");
	host_event_disable(fd);
	TEST_ASSERT_EQ(vcpu->run->exit_reason, KVM_EXIT_IO);
	return host_event_read(fd).value - before;
}

TEST(thread_of_vcpu)
{
	struct perf_event_attr attr = host_event_attr();
	struct kvm_vcpu *vcpu;
	uint64_t counts[2];
	struct kvm_vm *vm;
	int fd, i, long_guest;
	struct exactness e;

	pin_self_to_any_cpu();
	fd = host_event_open_ok(&attr, 0, -1);
	e = calibrate(fd);
	for (long_guest = 0; long_guest < 2; long_guest++) {
		vm = create(&vcpu, long_guest ? &payload_long_loop : &payload_short_loop);
		for (i = 0; i < NR_MEASURES; i++)
			counts[long_guest] = count_of_vcpu_run(fd, vcpu);
		kvm_vm_free(vm);
	}
	close(fd);
	if (e.exact)
		TEST_ASSERT(counts[0] == counts[1],
			    "The host's count depends on the guest's length: %lu, %lu",
			    counts[0], counts[1]);
	else
		TEST_ASSERT(counts[1] < counts[0] + 1000,
			    "The host's count depends on the guest's length: %lu, %lu",
			    counts[0], counts[1]);
}

/* What an event that is opened so counts while the calling thread runs a guest. */
static struct host_count count_beside_guest(struct perf_event_attr *attr, pid_t pid, int cpu,
					    const struct payload *guest)
{
	struct host_count count;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fd, i;

	vm = create(&vcpu, guest);
	vpmu_run(vcpu);
	fd = host_event_open_ok(attr, pid, cpu);
	host_event_enable(fd);
	for (i = 0; i < NR_MEASURES; i++)
		vpmu_run(vcpu);
	host_event_disable(fd);
	count = host_event_read(fd);
	close(fd);
	kvm_vm_free(vm);
	return count;
}

/*
 * Kernel and all, of a task or of a CPU: a guest's instructions stay out. What
 * the host does itself for a guest is counted, and is much on a kernel that
 * checks itself, but it does not grow with what the guest retires.
 */
static void test_excludes_guest(pid_t pid, int cpu)
{
	const uint64_t guest_insns = payload_long_loop.insns * NR_MEASURES;
	struct perf_event_attr attr = host_event_attr();
	struct host_count idle, busy;

	attr.exclude_kernel = 0;
	idle = count_beside_guest(&attr, pid, cpu, &payload_short_loop);
	busy = count_beside_guest(&attr, pid, cpu, &payload_long_loop);
	TEST_ASSERT(idle.value, "The event did not count at all");
	TEST_ASSERT(busy.value < idle.value + guest_insns / 2,
		    "The host counted %lu instructions, %lu beside a short guest; the guest retired %lu",
		    busy.value, idle.value, guest_insns);
}

TEST(task_excludes_guest)
{
	test_excludes_guest(0, -1);
}

TEST(cpu_excludes_guest)
{
	test_excludes_guest(-1, pin_self_to_any_cpu());
}

/* While the guest has the counters, it is no time in which a host event misses anything. */
TEST(runs_all_of_its_time)
{
	struct perf_event_attr attr = host_event_attr();
	struct host_count count;

	VPMU_REQUIRE_MEDIATED();
	attr.pinned = host_has_agent();
	count = count_beside_guest(&attr, 0, -1, &payload_long_loop);
	TEST_ASSERT(count.running, "The event never ran");
	TEST_ASSERT_EQ(count.running, count.enabled);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
