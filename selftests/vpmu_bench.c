// SPDX-License-Identifier: GPL-2.0
/*
 * What a guest's use of its PMU costs the host, counted by the emulator.
 *
 *   vpmu_bench [-o OPERATION] WORD...    print a line for each operation, or that one:
 *
 *     @bench WORD... VCPUS HOST-EVENTS OPERATION OPERATIONS INSTRUCTIONS WRMSR RDMSR RDPMC EXITS
 *
 * The words are for whoever reads the lines. Figures are sums over that many
 * operations, of what CPUs do outside of the guest. Says nothing about right
 * and wrong; scripts/bench-report does.
 *
 * A measured round is a few operations in the guest, done by all of its vCPUs
 * at the same time, each on a CPU of its own, or in turns on one. What rounds of
 * different lengths have in common is no part of the figures, and of all rounds of
 * a length the cheapest is taken, so that the host's own interrupts don't show.
 */
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>

#include "apic.h"
#include "cost.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "vpmu.h"

#define APIC_LVTPC	0x340
/* Of the first vCPU; the next one's tell which vCPU it is that they interrupt. */
#define PMI_VECTOR	0x52

#define MAX_VCPUS	2
#define SHORT_ROUND	2
#define LONG_ROUND	6
#define ROUNDS		12

/* Events from one sample to the next. */
#define SAMPLE_PERIOD	5000

enum op {
	OP_CPUID,
	OP_INTERRUPT,
	OP_TURN,
	OP_RDPMC,
	OP_GLOBAL_CTRL,
	OP_WRITE_COUNTER,
	OP_WRITE_SELECTOR,
	OP_SAMPLE,
};

/*
 * What the guest has programmed meanwhile. It may have no PMU, since user space disabled that,
 * or by its CPUID alone, as a named processor of QEMU's has none.
 */
enum pmu_state {
	PMU_NONE,
	PMU_NOT_IN_CPUID,
	PMU_OFF,
	PMU_COUNTING,
	PMU_COUNTING_INSNS,
	PMU_COUNTING_CYCLES,
	PMU_SAMPLING,
};

static const struct row {
	const char *name;
	enum op op;
	enum pmu_state state;
} rows[] = {
	{ "cpuid-no-pmu", OP_CPUID, PMU_NONE },
	{ "cpuid-pmu-off", OP_CPUID, PMU_NOT_IN_CPUID },
	{ "cpuid-off", OP_CPUID, PMU_OFF },
	{ "cpuid-one", OP_CPUID, PMU_COUNTING_INSNS },
	{ "cpuid-counting", OP_CPUID, PMU_COUNTING },
	{ "interrupt-no-pmu", OP_INTERRUPT, PMU_NONE },
	{ "interrupt-off", OP_INTERRUPT, PMU_OFF },
	{ "interrupt-one", OP_INTERRUPT, PMU_COUNTING_INSNS },
	{ "interrupt-counting", OP_INTERRUPT, PMU_COUNTING },
	{ "turn-no-pmu", OP_TURN, PMU_NONE },
	{ "turn-off", OP_TURN, PMU_OFF },
	{ "turn-counting", OP_TURN, PMU_COUNTING },
	{ "rdpmc", OP_RDPMC, PMU_COUNTING },
	{ "global-ctrl", OP_GLOBAL_CTRL, PMU_COUNTING },
	{ "write-counter", OP_WRITE_COUNTER, PMU_COUNTING },
	{ "write-selector", OP_WRITE_SELECTOR, PMU_COUNTING },
	{ "write-selector-alone", OP_WRITE_SELECTOR, PMU_COUNTING_CYCLES },
	{ "sample", OP_SAMPLE, PMU_SAMPLING },
};

/* --- the guest */

/**
 * struct shared - what the vCPUs and the program tell each other
 * @nr_vcpus: vCPUs that take part in a round
 * @nr_ops: operations of each in the next round, 0 to end
 * @begun: vCPUs that have begun a round, all rounds added up
 * @ended: vCPUs that have ended a round, the same
 * @pmis: PMIs of each vCPU
 * @wanted: interrupts of the host that the guest has asked for
 * @came: those that have come
 */
static volatile struct shared {
	uint64_t nr_vcpus;
	uint64_t nr_ops;
	uint64_t begun;
	uint64_t ended;
	uint64_t pmis[MAX_VCPUS];
	uint64_t wanted;
	uint64_t came;
} shared;

/* Their bits in the global registers. CPUID tells, which exits. */
static uint64_t all_counters;

static void guest_count_everywhere(void)
{
	uint64_t fixed_ctrl = 0;
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_selector(i), VPMU_SEL_OS(vpmu_event_insns()));
	for (i = 0; i < guest_nr_fixed(); i++)
		fixed_ctrl |= (uint64_t)FIXED_PMC_KERNEL << 4 * i;
	if (fixed_ctrl)
		wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, fixed_ctrl);
	all_counters = guest_gp_mask() | guest_fixed_mask();
	wrmsr(vpmu_msr_global_ctrl(), all_counters);
}

/* With one counter, and the others off. */
static void guest_count(uint64_t event)
{
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(event));
	all_counters = BIT_ULL(0);
	wrmsr(vpmu_msr_global_ctrl(), all_counters);
}

static void guest_arm(void)
{
	wrmsr(vpmu_msr_full_counter(0), -SAMPLE_PERIOD & (BIT_ULL(48) - 1));
}

/* As a profiler does it; the one counter is counter 0. */
static void guest_pmi_handler(struct ex_regs *regs)
{
	wrmsr(vpmu_msr_global_ctrl(), 0);
	wrmsr(vpmu_msr_status_clear(), rdmsr(vpmu_msr_global_status()));
	guest_arm();
	/* Intel's has been masked by the interrupt. */
	if (host_cpu_is_intel)
		x2apic_write_reg(APIC_LVTPC, regs->vector);
	shared.pmis[regs->vector - PMI_VECTOR]++;
	x2apic_write_reg(APIC_EOI, 0);
}

static void guest_sample_init(unsigned int id)
{
	x2apic_enable();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR + id);
	wrmsr(vpmu_msr_global_ctrl(), 0);
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()) | ARCH_PERFMON_EVENTSEL_INT);
	guest_arm();
}

static void guest_sample(unsigned int id)
{
	const uint64_t before = shared.pmis[id];

	sti();
	wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
	while (shared.pmis[id] == before)
		;
	cli();
}

static void guest_wait_for_interrupt(void)
{
	const uint64_t wanted = ++shared.wanted;

	while (shared.came != wanted)
		;
}

/* What counts instructions only where others count them anyway. */
static uint64_t event_to_write(enum pmu_state state, uint64_t i)
{
	if (state == PMU_COUNTING)
		return i % 2 ? vpmu_event_branches() : vpmu_event_insns();
	return i % 2 ? vpmu_event_mispredicted_branches() : vpmu_event_cycles();
}

static void guest_op(enum op op, enum pmu_state state, unsigned int id, uint64_t i)
{
	uint32_t ignored;

	switch (op) {
	case OP_CPUID:
		cpuid(0, &ignored, &ignored, &ignored, &ignored);
		break;
	case OP_INTERRUPT:
		guest_wait_for_interrupt();
		break;
	case OP_TURN:
		GUEST_SYNC(i);
		break;
	case OP_RDPMC:
		_rdpmc(0);
		break;
	case OP_GLOBAL_CTRL:
		wrmsr(vpmu_msr_global_ctrl(), 0);
		wrmsr(vpmu_msr_global_ctrl(), all_counters);
		break;
	case OP_WRITE_COUNTER:
		wrmsr(vpmu_msr_full_counter(0), i);
		break;
	case OP_WRITE_SELECTOR:
		wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(event_to_write(state, i)));
		break;
	case OP_SAMPLE:
		guest_sample(id);
		break;
	}
}

/* All vCPUs come by, @round times by now. No PAUSE: it might exit. */
static void guest_wait_for_others(volatile uint64_t *passed, uint64_t round)
{
	__atomic_fetch_add(passed, 1, __ATOMIC_SEQ_CST);
	while (*passed < round * shared.nr_vcpus)
		;
}

static void guest_code(enum op op, enum pmu_state state, unsigned int id)
{
	uint64_t i, round;

	if (state == PMU_COUNTING)
		guest_count_everywhere();
	if (state == PMU_COUNTING_INSNS)
		guest_count(vpmu_event_insns());
	if (state == PMU_COUNTING_CYCLES)
		guest_count(vpmu_event_cycles());
	if (state == PMU_SAMPLING)
		guest_sample_init(id);
	for (round = 1; ; round++) {
		/* Only the first is measured from without. */
		if (!id)
			GUEST_SYNC(round);
		guest_wait_for_others(&shared.begun, round);
		if (!shared.nr_ops)
			break;
		for (i = 0; i < shared.nr_ops; i++)
			guest_op(op, state, id, i);
		guest_wait_for_others(&shared.ended, round);
	}
	GUEST_DONE();
}

/* --- the host */

/* The library makes VMs with a full irqchip, and can't be told otherwise. */
void __wrap_vm_create_irqchip(struct kvm_vm *vm);
void __wrap_vm_create_irqchip(struct kvm_vm *vm)
{
	vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, 24);
	vm->has_irqchip = true;
}

static volatile struct shared *shared_of(struct kvm_vm *vm)
{
	return addr_gva2hva(vm, (uint64_t)&shared);
}

static struct kvm_vm *create_vm(const struct row *row, int nr_vcpus, struct kvm_vcpu **vcpus)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm = vm_create(nr_vcpus);
	int i;

	if (row->state == PMU_NONE)
		vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	for (i = 0; i < nr_vcpus; i++) {
		vcpus[i] = vm_vcpu_add(vm, i, guest_code);
		if (row->state == PMU_NOT_IN_CPUID)
			TEST_ASSERT_EQ(vpmu_fd_set_cpuid(vcpus[i]->fd, false), 0);
		else if (row->state != PMU_NONE)
			vpmu_vcpu_init(vcpus[i], &config);
		vcpu_args_set(vcpus[i], 3, (uint64_t)row->op, (uint64_t)row->state, (uint64_t)i);
	}
	for (i = 0; i < nr_vcpus; i++)
		vm_install_exception_handler(vm, PMI_VECTOR + i, guest_pmi_handler);
	shared_of(vm)->nr_vcpus = nr_vcpus;
	return vm;
}

/* What a vCPU but the first does: it stays in the guest to the end. */
static void *run_vcpu(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	pin_self_to_cpu(vcpu->id);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	return NULL;
}

/* One round of the guest on as many CPUs as it has vCPUs. */
static struct cost cost_of_round(struct kvm_vcpu **vcpus, int nr_vcpus, uint64_t nr_ops)
{
	struct cost before, after;

	shared_of(vcpus[0]->vm)->nr_ops = nr_ops;
	before = cost_now(nr_vcpus);
	TEST_ASSERT_EQ(vpmu_run(vcpus[0]), VPMU_SYNC);
	after = cost_now(nr_vcpus);
	return cost_between(&before, &after);
}

/* The vCPUs take turns on one CPU, each leaves it for user space. */
static struct cost cost_of_turns(struct kvm_vcpu **vcpus, int nr_vcpus, uint64_t nr_turns)
{
	struct cost before = cost_now(1), after;
	uint64_t turn;
	int i;

	for (turn = 0; turn < nr_turns; turn++) {
		for (i = 0; i < nr_vcpus; i++)
			TEST_ASSERT_EQ(vpmu_run(vcpus[i]), VPMU_SYNC);
	}
	after = cost_now(1);
	return cost_between(&before, &after);
}

typedef struct cost (*cost_func_t)(struct kvm_vcpu **vcpus, int nr_vcpus, uint64_t nr_ops);

static struct cost cheapest(cost_func_t cost_of, struct kvm_vcpu **vcpus, int nr_vcpus,
			    uint64_t nr_ops)
{
	struct cost cost, best = { .insns = UINT64_MAX };
	int i;

	for (i = 0; i < ROUNDS; i++) {
		cost = cost_of(vcpus, nr_vcpus, nr_ops);
		if (cost.insns < best.insns)
			best = cost;
	}
	return best;
}

/* What one round costs more than the other. */
static struct cost cost_of_ops(cost_func_t cost_of, struct kvm_vcpu **vcpus, int nr_vcpus)
{
	struct cost of_short, of_long;

	/* The first rounds find code and page tables not yet in place. */
	cheapest(cost_of, vcpus, nr_vcpus, SHORT_ROUND);
	of_short = cheapest(cost_of, vcpus, nr_vcpus, SHORT_ROUND);
	of_long = cheapest(cost_of, vcpus, nr_vcpus, LONG_ROUND);
	return cost_between(&of_short, &of_long);
}

/* From another CPU, by a call that interrupts those which run a task of this program. */
static void *interrupt_vcpu(void *arg)
{
	volatile struct shared *shared = arg;

	pin_self_to_cpu(1);
	while (shared->nr_ops) {
		if (shared->came == shared->wanted)
			continue;
		TEST_ASSERT(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0),
			    "membarrier() failed");
		shared->came = shared->wanted;
	}
	return NULL;
}

static void end_guest(struct kvm_vcpu **vcpus, int nr_vcpus, pthread_t *threads)
{
	int i;

	shared_of(vcpus[0]->vm)->nr_ops = 0;
	TEST_ASSERT_EQ(vpmu_run(vcpus[0]), VPMU_DONE);
	for (i = 1; i < nr_vcpus; i++)
		pthread_join(threads[i], NULL);
}

static struct cost measure_at_once(const struct row *row, int nr_vcpus)
{
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct kvm_vm *vm = create_vm(row, nr_vcpus, vcpus);
	pthread_t threads[MAX_VCPUS], interrupter;
	struct cost cost;
	int i;

	for (i = 1; i < nr_vcpus; i++)
		TEST_ASSERT(!pthread_create(&threads[i], NULL, run_vcpu, vcpus[i]),
			    "pthread_create() failed");
	shared_of(vm)->nr_ops = SHORT_ROUND;
	if (row->op == OP_INTERRUPT)
		TEST_ASSERT(!pthread_create(&interrupter, NULL, interrupt_vcpu,
					    (void *)shared_of(vm)), "pthread_create() failed");
	TEST_ASSERT_EQ(vpmu_run(vcpus[0]), VPMU_SYNC);
	cost = cost_of_ops(cost_of_round, vcpus, nr_vcpus);
	end_guest(vcpus, nr_vcpus, threads);
	if (row->op == OP_INTERRUPT)
		pthread_join(interrupter, NULL);
	kvm_vm_free(vm);
	return cost;
}

static struct cost measure_turns(const struct row *row)
{
	struct kvm_vcpu *vcpus[2];
	struct kvm_vm *vm = create_vm(row, ARRAY_SIZE(vcpus), vcpus);
	struct cost cost;

	/* Of rounds that never end. */
	shared_of(vm)->nr_vcpus = 0;
	shared_of(vm)->nr_ops = UINT64_MAX;
	cost = cost_of_ops(cost_of_turns, vcpus, ARRAY_SIZE(vcpus));
	kvm_vm_free(vm);
	return cost;
}

/**
 * struct wanted - what is asked for
 * @op: the name of the only operation that is to be measured, NULL for all
 * @words: what each line begins with
 */
struct wanted {
	const char *op;
	char **words;
};

static void print_row(const struct wanted *wanted, int nr_vcpus, const char *setting,
		      const struct row *row)
{
	struct cost cost;
	int nr_ops = nr_vcpus * (LONG_ROUND - SHORT_ROUND);
	char **word;

	if (row->op == OP_TURN) {
		cost = measure_turns(row);
		nr_ops = 2 * (LONG_ROUND - SHORT_ROUND);
	} else {
		cost = measure_at_once(row, nr_vcpus);
	}

	printf("@bench");
	for (word = wanted->words; *word; word++)
		printf(" %s", *word);
	printf(" %d %s %s %d %lu %lu %lu %lu %lu\n", nr_vcpus, setting, row->name, nr_ops,
	       cost.insns, cost.wrmsr, cost.rdmsr, cost.rdpmc, cost.exits);
	fflush(stdout);
}

static void print_rows(const struct wanted *wanted, int nr_vcpus, const char *setting)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		/* These take one CPU, and another one to interrupt it. */
		if (nr_vcpus > 1 && (rows[i].op == OP_INTERRUPT || rows[i].op == OP_TURN))
			continue;
		if (!wanted->op || !strcmp(wanted->op, rows[i].name))
			print_row(wanted, nr_vcpus, setting, &rows[i]);
	}
}

/* With an event of the host on each CPU, as perf stat -a has them. */
static void print_rows_beside_events(const struct wanted *wanted, int nr_vcpus)
{
	struct perf_event_attr attr = host_event_attr();
	int fds[MAX_VCPUS], cpu;

	attr.disabled = 0;
	attr.exclude_kernel = 0;
	for (cpu = 0; cpu < nr_vcpus; cpu++)
		fds[cpu] = host_event_open_ok(&attr, -1, cpu);
	print_rows(wanted, nr_vcpus, "host-events");
	for (cpu = 0; cpu < nr_vcpus; cpu++)
		close(fds[cpu]);
}

int main(int argc, char *argv[])
{
	int cpus[MAX_VCPUS], nr_cpus = host_cpus(cpus, MAX_VCPUS), nr_vcpus;
	struct wanted wanted = { .words = argv + 1 };
	bool watchdog;

	if (argc > 2 && !strcmp(argv[1], "-o")) {
		wanted.op = argv[2];
		wanted.words = argv + 3;
	}
	if (!cost_is_available()) {
		fprintf(stderr, "vpmu_bench: no cost counters; run it in the emulator, with \"costs: enabled=1\"\n");
		return KSFT_SKIP;
	}
	TEST_REQUIRE(kvm_is_pmu_enabled());
	TEST_ASSERT(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0),
		    "membarrier() failed");
	pin_self_to_cpu(0);
	watchdog = nmi_watchdog_is_on();
	for (nr_vcpus = 1; nr_vcpus <= nr_cpus; nr_vcpus++) {
		/* As the kernel has it by default: with an event on each CPU. */
		if (nmi_watchdog_is_available()) {
			nmi_watchdog_set(true);
			print_rows(&wanted, nr_vcpus, "watchdog");
		}
		nmi_watchdog_set(false);
		print_rows(&wanted, nr_vcpus, "no-host-events");
		print_rows_beside_events(&wanted, nr_vcpus);
	}
	nmi_watchdog_set(watchdog);
	return KSFT_PASS;
}
