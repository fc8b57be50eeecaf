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

/* Between two reads of what is pinned. */
#define LOOPS		(HOST_ROUNDS * NR_MEASURES)
#define LOOPS_INSNS	(LOOPS * HOST_LOOP_INSNS)

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

/* Of this thread: by other tasks, and, where one adds to the count, by interrupts. */
static uint64_t disturbances(void)
{
	return preemptions() + (host_cpu_is_amd ? host_all_interrupts() : 0);
}

/*
 * Not inlined: from an event's read to its next one it retires the same for each event. Was it
 * in one piece, with nothing between the reads that only some of the events count?
 */
static noinline bool read_all(const int *fds, int nr, struct host_count *counts)
{
	uint64_t before = disturbances();
	int i;

	for (i = 0; i < nr; i++)
		counts[i] = host_event_read(fds[i]);
	return disturbances() == before;
}

/*
 * What each of them counts of the loop, and of the guest's thread if it is a CPU's. There the
 * last one has made way for an event of this thread and that one, wherever they are.
 */
struct pinned {
	uint64_t insns[NR_EVENTS];
	int nr;
	bool undisturbed;
};

static struct pinned try_pinned(bool of_cpu)
{
	const struct vpmu_config config = vpmu_config_max();
	struct perf_event_attr attr = host_event_attr();
	struct host_count before[NR_EVENTS], after[NR_EVENTS];
	struct runner runner = {};
	struct pinned p = {};
	int fds[NR_EVENTS], i;
	struct kvm_vm *vm;

	runner.cpu = pin_self_to_any_cpu();
	vm = counting_vm_create(&runner.vcpu, &config, GUEST_ROUNDS);
	p.nr = open_pinned(&attr, of_cpu ? -1 : 0, of_cpu ? runner.cpu : -1, fds);
	if (of_cpu) {
		close(fds[p.nr - 1]);
		attr.inherit = 1;
		fds[p.nr - 1] = host_event_open_ok(&attr, 0, -1);
	}
	printf("# %d pinned events\n", p.nr);
	runner_start(&runner);
	p.undisturbed = read_all(fds, p.nr, before);
	host_loop(LOOPS);
	p.undisturbed &= read_all(fds, p.nr, after);
	runner_wait(&runner, 1);
	runner_stop(&runner);
	for (i = 0; i < p.nr; i++) {
		p.insns[i] = after[i].value - before[i].value;
		TEST_ASSERT_EQ(after[i].running, after[i].enabled);
		close(fds[i]);
	}
	kvm_vm_free(vm);
	return p;
}

#define NR_TRIES	10

static struct pinned test_pinned(bool of_cpu)
{
	struct pinned p = {};
	int i;

	for (i = 0; i < NR_TRIES && !p.undisturbed; i++)
		p = try_pinned(of_cpu);
	TEST_ASSERT(p.undisturbed, "The events were never read in one piece");
	return p;
}

/*
 * Between two reads of the same event are the loop, and the code that reads the others: the
 * same for each, whichever counter it has.
 */
TEST(pinned_task_events)
{
	struct pinned p;
	int i;

	VPMU_REQUIRE_MEDIATED();
	p = test_pinned(false);
	/* The reads are short. */
	TEST_ASSERT(p.insns[0] >= LOOPS_INSNS && p.insns[0] < LOOPS_INSNS + LOOPS_INSNS / 100,
		    "The task counted %lu", p.insns[0]);
	for (i = 1; i < p.nr; i++)
		TEST_ASSERT_EQ(p.insns[i], p.insns[0]);
}

/*
 * What the CPU retires in user mode its tasks do, each instruction: this thread and the guest's,
 * as their own event has it. Others wake seldom, and are the CPU's only: not in each try.
 */
TEST(pinned_cpu_events)
{
	uint64_t tasks, others = 1;
	struct pinned p;
	int i, n;

	VPMU_REQUIRE_MEDIATED();
	for (n = 0; n < NR_TRIES && others; n++) {
		p = test_pinned(true);
		TEST_ASSERT(p.nr > 1, "No event of the CPU");
		tasks = p.insns[p.nr - 1];
		TEST_ASSERT(tasks >= LOOPS_INSNS, "The tasks counted %lu", tasks);
		for (i = 1; i < p.nr - 1; i++)
			TEST_ASSERT_EQ(p.insns[i], p.insns[0]);
		TEST_ASSERT(p.insns[0] >= tasks, "The CPU counted %lu, its tasks %lu",
			    p.insns[0], tasks);
		others = p.insns[0] - tasks;
		printf("# %lu, of which %lu of other tasks\n", p.insns[0], others);
	}
	TEST_ASSERT(!others, "The CPU always counts more than its tasks");
}

/*
 * By turns a guest does nothing but end its turn, has exits that the kernel handles, and loops.
 * All of its counters count. To the host's events of the CPU such turns are the same, whichever
 * counter they have: to the instruction in user mode, where the guest and the kernel add nothing,
 * however often they take the counters from each other; and with the kernel's instructions
 * for the loop that doesn't exit. Of some turns the least is one that nothing came between.
 */
enum turn {
	TURN_ENDS,
	TURN_LOOPS,
	TURN_EXITS,
	NR_TURNS,
};

#define TURN_NR_EXITS	100
#define TURN_NR_LOOPS	50000

static void guest_takes_turns(void)
{
	const uint64_t on = guest_select_all();
	uint32_t eax, ebx, ecx, edx;
	unsigned int turn, i;

	wrmsr(vpmu_msr_global_ctrl(), on);
	for (turn = 0;; turn = (turn + 1) % NR_TURNS) {
		for (i = 0; turn == TURN_EXITS && i < TURN_NR_EXITS; i++)
			__cpuid(0, 0, &eax, &ebx, &ecx, &edx);
		if (turn == TURN_LOOPS)
			host_loop(TURN_NR_LOOPS);
		GUEST_SYNC(0);
	}
}

static void count_turn(const int *fds, int nr, struct kvm_vcpu *vcpu, uint64_t *least)
{
	struct host_count before[NR_EVENTS], after[NR_EVENTS];
	uint64_t count;
	int i;

	read_all(fds, nr, before);
	TEST_ASSERT(!__vcpu_run(vcpu), "KVM_RUN failed");
	read_all(fds, nr, after);
	TEST_ASSERT_EQ(vcpu->run->exit_reason, KVM_EXIT_IO);
	for (i = 0; i < nr; i++) {
		count = after[i].value - before[i].value;
		if (count < least[i])
			least[i] = count;
	}
}

static void test_turns(bool exclude_kernel)
{
	const struct vpmu_config config = vpmu_config_max();
	struct perf_event_attr attr = host_event_attr();
	int cpu = pin_self_to_any_cpu(), fds[NR_EVENTS], i, n, nr;
	uint64_t least[NR_TURNS][NR_EVENTS];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vpmu_vm_create(&vcpu, guest_takes_turns, &config);
	attr.exclude_kernel = exclude_kernel;
	nr = open_pinned(&attr, -1, cpu, fds);
	memset(least, 0xff, sizeof(least));
	for (n = 0; n < NR_MEASURES * NR_TURNS; n++)
		count_turn(fds, nr, vcpu, least[n % NR_TURNS]);
	for (i = 0; i < nr; i++) {
		printf("# Event %d: %lu, looping %lu, exiting %lu\n", i, least[TURN_ENDS][i],
		       least[TURN_LOOPS][i], least[TURN_EXITS][i]);
		TEST_ASSERT_EQ(least[TURN_ENDS][i], least[TURN_ENDS][0]);
		TEST_ASSERT_EQ(least[TURN_LOOPS][i], least[TURN_LOOPS][0]);
		/* KVM_RUN takes some instructions more or less, but none of them are the guest's. */
		TEST_ASSERT(llabs((int64_t)(least[TURN_LOOPS][i] - least[TURN_ENDS][i])) <=
			    (exclude_kernel ? 0 : TURN_NR_LOOPS / 100),
			    "%lu with a loop in the guest, %lu without", least[TURN_LOOPS][i],
			    least[TURN_ENDS][i]);
		TEST_ASSERT_EQ(least[TURN_EXITS][i],
			       least[exclude_kernel ? TURN_ENDS : TURN_EXITS][0]);
		close(fds[i]);
	}
	kvm_vm_free(vm);
}

TEST(pinned_through_exits)
{
	VPMU_REQUIRE_MEDIATED();
	test_turns(true);
}

TEST(pinned_through_guest)
{
	VPMU_REQUIRE_MEDIATED();
	test_turns(false);
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
