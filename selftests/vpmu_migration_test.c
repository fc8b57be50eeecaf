// SPDX-License-Identifier: GPL-2.0
/*
 * A guest's counters follow it from CPU to CPU, and nothing stays behind for
 * the next guest.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "apic.h"
#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define APIC_LVTPC	0x340
#define PMI_VECTOR	0x52

#define MAX_CPUS	4
#define LONG_ROUNDS	2000000

/* Moves that a test wants to have seen, and when it no longer waits for them. */
#define MIN_MOVES	16
#define MAX_ROUNDS	64

DEFINE_PAYLOAD(long_loop,
	"mov $" __stringify(LONG_ROUNDS) ", %%ecx\n\t"
	"1: nop\n\t"
	"loop 1b\n\t",
	1 + LONG_ROUNDS * 2, LONG_ROUNDS);

DEFINE_LOOP_PAYLOAD(pio_user,
	"in $0x80, %%al\n\t"
	"out %%al, $0x80\n\t",
	2, 0);

static volatile uint64_t guest_pmis;

static void guest_pmi_handler(struct ex_regs *regs)
{
	guest_pmis++;
	x2apic_write_reg(APIC_EOI, 0);
}

static void guest_expect_all(const struct payload *p)
{
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++)
		GUEST_ASSERT_EQ(_rdpmc(i), i % 2 ? p->branches : p->insns);
	guest_fixed0_expect(p->insns);
	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()), 0);
}

/* Round after round, for as long as the program wants. */
static void guest_count(const struct payload *p)
{
	for (;;) {
		p->run(vpmu_msr_global_ctrl(), guest_select_all(), 0);
		guest_expect_all(p);
		GUEST_SYNC(0);
	}
}

/* The overflow comes near the end, so that a move is likely before it. */
static void guest_overflow_once(const struct payload *p)
{
	const uint64_t n = p->insns - p->insns / 16;

	guest_pmis = 0;
	guest_pmu_clear();
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()) |
			       ARCH_PERFMON_EVENTSEL_INT);
	wrmsr(vpmu_msr_full_counter(0), -n & guest_counter_mask());

	/* Interrupts are off, so the handler's instructions are not counted. */
	p->run(vpmu_msr_global_ctrl(), BIT_ULL(0), 0);
	GUEST_ASSERT_EQ(_rdpmc(0), p->insns - n);
	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()), BIT_ULL(0));
	sti_nop_cli();
	GUEST_ASSERT_EQ(guest_pmis, 1);
	wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	sti_nop_cli();
	GUEST_ASSERT_EQ(guest_pmis, 1);
}

static void guest_overflow(const struct payload *p)
{
	x2apic_enable();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	for (;;) {
		guest_overflow_once(p);
		GUEST_SYNC(0);
	}
}

/* All registers hold what only this guest wrote, @id, from one sync to the next. */
static void guest_hold(uint64_t id)
{
	const uint64_t selector = VPMU_SEL_OS(vpmu_event_insns()) |
				  (id << 24);
	unsigned int i;

	guest_pmu_clear();
	for (i = 0; i < guest_nr_gp(); i++) {
		wrmsr(vpmu_msr_selector(i), id ? selector : 0);
		wrmsr(vpmu_msr_counter(i), id * (i + 1));
	}
	if (guest_nr_fixed())
		wrmsr(MSR_CORE_PERF_FIXED_CTR0, id * 100);
	for (;;) {
		GUEST_SYNC(0);
		for (i = 0; i < guest_nr_gp(); i++) {
			GUEST_ASSERT_EQ(_rdpmc(i), id * (i + 1));
			GUEST_ASSERT_EQ(rdmsr(vpmu_msr_selector(i)), id ? selector : 0);
		}
		guest_fixed0_expect(id * 100);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_ctrl()), 0);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()), 0);
	}
}

/**
 * struct mover - a thread that sends another one from CPU to CPU
 * @tid: whom
 * @cpus: where to, in turn
 * @nr_cpus: how many of them
 * @moves: moves so far
 * @stop: to end it
 */
struct mover {
	pid_t tid;
	int cpus[MAX_CPUS];
	int nr_cpus;
	atomic_int moves;
	atomic_bool stop;
	pthread_t thread;
};

static void move_to(pid_t tid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(tid, sizeof(set), &set), "sched_setaffinity() failed");
}

static void *mover_thread(void *arg)
{
	struct mover *m = arg;

	while (!m->stop) {
		/* Back only after the other thread has really moved. */
		move_to(m->tid, m->cpus[m->moves % m->nr_cpus]);
		m->moves++;
		usleep(500);
	}
	return NULL;
}

FIXTURE(migration) {
	struct mover mover;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
};

FIXTURE_SETUP(migration)
{
	self->mover.tid = syscall(SYS_gettid);
	self->mover.nr_cpus = host_cpus(self->mover.cpus, MAX_CPUS);
	if (self->mover.nr_cpus < 2)
		SKIP(return, "needs two CPUs");
}

FIXTURE_TEARDOWN(migration) { }

FIXTURE_VARIANT(migration) {
	bool fewer;
};

FIXTURE_VARIANT_ADD(migration, all_counters) { };
FIXTURE_VARIANT_ADD(migration, fewer_counters) { .fewer = true };

static struct kvm_vm *create(struct kvm_vcpu **vcpu, void *guest_code, bool fewer)
{
	struct vpmu_config config = vpmu_config_max();

	if (fewer)
		config.nr_gp = 4;
	return vpmu_vm_create(vcpu, guest_code, &config);
}

/* To another CPU at each exit to user space. */
TEST_F(migration, between_runs)
{
	struct mover *m = &self->mover;
	int moves = 0;

	self->vm = create(&self->vcpu, guest_count, variant->fewer);
	vcpu_args_set(self->vcpu, 1, &payload_pio_user);
	/* Back at the first GUEST_SYNC(). */
	while (vpmu_run_to_io(self->vcpu) == VPMU_IO)
		move_to(0, m->cpus[moves++ % m->nr_cpus]);
	TEST_ASSERT_EQ(moves, PAYLOAD_LOOPS * 2);
	kvm_vm_free(self->vm);
}

/* Out of the guest by force, again and again. */
static void test_during_run(struct mover *m, struct kvm_vcpu *vcpu)
{
	int before, round;

	TEST_ASSERT(!pthread_create(&m->thread, NULL, mover_thread, m),
		    "pthread_create() failed");
	while (!m->moves)
		sched_yield();
	before = m->moves;
	for (round = 0; round < MAX_ROUNDS && m->moves - before < MIN_MOVES; round++)
		TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	TEST_ASSERT(m->moves - before >= MIN_MOVES, "Only %d moves in %d rounds",
		    m->moves - before, round);
	m->stop = true;
	pthread_join(m->thread, NULL);
}

TEST_F(migration, during_run)
{
	self->vm = create(&self->vcpu, guest_count, variant->fewer);
	vcpu_args_set(self->vcpu, 1, &payload_long_loop);
	test_during_run(&self->mover, self->vcpu);
	kvm_vm_free(self->vm);
}

TEST_F(migration, overflow_during_run)
{
	self->vm = create(&self->vcpu, guest_overflow, variant->fewer);
	vm_install_exception_handler(self->vm, PMI_VECTOR, guest_pmi_handler);
	vcpu_args_set(self->vcpu, 1, &payload_long_loop);
	test_during_run(&self->mover, self->vcpu);
	kvm_vm_free(self->vm);
}

/* Guests in turn on the same CPUs: each finds its own registers, and only its own. */
TEST_F(migration, guests_in_turn)
{
	struct kvm_vcpu *vcpus[3];
	struct kvm_vm *vms[3];
	struct mover *m = &self->mover;
	int i, round;

	for (i = 0; i < 3; i++) {
		vms[i] = create(&vcpus[i], guest_hold, variant->fewer);
		vcpu_args_set(vcpus[i], 1, (uint64_t)i);
	}
	for (round = 0; round < 12; round++) {
		for (i = 0; i < 3; i++) {
			move_to(0, m->cpus[(i + round / 3) % m->nr_cpus]);
			TEST_ASSERT_EQ(vpmu_run(vcpus[i]), VPMU_SYNC);
		}
	}
	for (i = 0; i < 3; i++)
		kvm_vm_free(vms[i]);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
