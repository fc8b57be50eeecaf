// SPDX-License-Identifier: GPL-2.0
/*
 * Two guests and a task of the host share processors, preempt each other and are
 * moved about: each counts exactly what it did itself, and in counters that it
 * does not use finds what it left there.
 *
 * The guests' loops are of different lengths, so that a count that went to the
 * wrong one shows; every register that is not counting holds a value of that
 * guest and no other.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

#include "disturb.h"
#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

/* Guests: the first with one vCPU, the second with two. */
#define NR_VCPUS	3
#define HOST_ROUNDS	200000ull

/* When a test has seen enough, and when it no longer waits for that. */
#define MIN_ROUNDS	12
#define MIN_MEASURES	12
#define MIN_MOVES	24
#define MIN_PREEMPTIONS	8
#define MAX_SECONDS	60

/* Long enough for the scheduler to switch in the middle of some. */
#define GUEST_ROUNDS(id)	(300000ull + (id) * 70001)

DEFINE_PAYLOAD(own_loop,
	"mov %%r10, %%rcx\n\t"
	"1: loop 1b\n\t",
	1, 0);

static uint64_t guest_mark(uint64_t id, unsigned int i)
{
	return ((id + 1) * 0x0101010101ull * (i + 1)) & guest_counter_mask();
}

/* The last general-purpose counter, and fixed counters but the first, stand still. */
static void guest_leave_marks(uint64_t id)
{
	const unsigned int last = guest_nr_gp() - 1;
	unsigned int i;

	wrmsr(vpmu_msr_selector(last), id + 1);
	wrmsr(vpmu_msr_full_counter(last), guest_mark(id, last));
	for (i = 1; i < guest_nr_fixed(); i++)
		wrmsr(MSR_CORE_PERF_FIXED_CTR0 + i, guest_mark(id, i));
}

static void guest_expect_marks(uint64_t id)
{
	const unsigned int last = guest_nr_gp() - 1;
	unsigned int i;

	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_selector(last)), id + 1);
	GUEST_ASSERT_EQ(_rdpmc(last), guest_mark(id, last));
	for (i = 1; i < guest_nr_fixed(); i++)
		GUEST_ASSERT_EQ(_rdpmc(INTEL_RDPMC_FIXED | i), guest_mark(id, i));
	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()), 0);
}

static void guest_share(uint64_t id)
{
	const struct payload *p = &payload_own_loop;
	const uint64_t rounds = GUEST_ROUNDS(id);
	unsigned int i;
	uint64_t on;

	for (;;) {
		on = guest_select_all();
		guest_leave_marks(id);
		p->run(vpmu_msr_global_ctrl(), on, rounds);
		for (i = 0; i < guest_nr_gp() - 1; i++)
			GUEST_ASSERT_EQ(_rdpmc(i), i % 2 ? rounds : p->insns + rounds);
		guest_fixed0_expect(p->insns + rounds);
		guest_expect_marks(id);
		GUEST_SYNC(0);
	}
}

/**
 * struct runner - a thread that runs a vCPU
 * @vcpu: the vCPU
 * @tid: the thread's
 * @cpu: where it is to start
 * @rounds: how often the guest found its counts right
 * @preempted: how often that happened to it
 * @stop: to end it
 */
struct runner {
	struct kvm_vcpu *vcpu;
	atomic_int tid;
	int cpu;
	atomic_int rounds;
	atomic_ulong preempted;
	atomic_bool stop;
	pthread_t thread;
};

static void *runner_thread(void *arg)
{
	struct runner *r = arg;

	move_to(0, r->cpu);
	r->tid = syscall(SYS_gettid);
	while (!r->stop) {
		TEST_ASSERT_EQ(vpmu_run(r->vcpu), VPMU_SYNC);
		r->rounds++;
		r->preempted = preemptions();
	}
	return NULL;
}

FIXTURE(share) {
	struct kvm_vm *vms[2];
	struct runner runners[NR_VCPUS];
	struct mover mover;
};

/* All on one CPU, or moved from one to the other; guests with some or all counters. */
FIXTURE_VARIANT(share) {
	bool moving;
	bool fewer;
};

FIXTURE_VARIANT_ADD(share, one_cpu) { };
FIXTURE_VARIANT_ADD(share, one_cpu_fewer) { .fewer = true };
FIXTURE_VARIANT_ADD(share, moving) { .moving = true };
FIXTURE_VARIANT_ADD(share, moving_fewer) { .moving = true, .fewer = true };

static struct kvm_vcpu *add_vcpu(struct kvm_vm *vm, uint32_t number, uint64_t id, bool fewer)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vcpu *vcpu = vm_vcpu_add(vm, number, guest_share);

	/* The second guest's vCPUs have PMUs that differ. */
	if (fewer)
		config.nr_gp = 3 + id;
	vpmu_vcpu_init(vcpu, &config);
	vcpu_args_set(vcpu, 1, id);
	return vcpu;
}

FIXTURE_SETUP(share)
{
	int i;

	self->mover.nr_cpus = host_cpus(self->mover.cpus, DISTURB_MAX_CPUS);
	self->vms[0] = vm_create(1);
	self->vms[1] = vm_create(2);
	for (i = 0; i < NR_VCPUS; i++) {
		self->runners[i].vcpu = add_vcpu(self->vms[!!i], i / 2, i, variant->fewer);
		self->runners[i].cpu = self->mover.cpus[0];
	}
}

FIXTURE_TEARDOWN(share)
{
	kvm_vm_free(self->vms[0]);
	kvm_vm_free(self->vms[1]);
}

static void start_runners(FIXTURE_DATA(share) *self)
{
	struct mover *m = &self->mover;
	struct runner *r;

	for (r = self->runners; r < &self->runners[NR_VCPUS]; r++) {
		TEST_ASSERT(!pthread_create(&r->thread, NULL, runner_thread, r),
			    "pthread_create() failed");
		while (!r->tid)
			usleep(100);
		m->tids[m->nr_tids++] = r->tid;
	}
	m->tids[m->nr_tids++] = syscall(SYS_gettid);
}

static void stop_runners(FIXTURE_DATA(share) *self)
{
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		self->runners[i].stop = true;
	for (i = 0; i < NR_VCPUS; i++)
		pthread_join(self->runners[i].thread, NULL);
}

/* Has every guest had its turns, in the middle of counting? */
static bool seen_enough(FIXTURE_DATA(share) *self, const FIXTURE_VARIANT(share) *variant)
{
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		if (self->runners[i].rounds < MIN_ROUNDS)
			return false;
		if (self->runners[i].preempted < MIN_PREEMPTIONS)
			return false;
	}
	return !variant->moving || self->mover.moves >= MIN_MOVES;
}

static void expect_exact(int fd, uint64_t frame)
{
	uint64_t irqs = host_all_interrupts();
	uint64_t count = host_loop_count(fd, HOST_ROUNDS);

	host_expect_count(count, frame + HOST_ROUNDS * HOST_LOOP_INSNS, irqs);
}

TEST_F(share, all_are_exact)
{
	struct perf_event_attr attr = host_event_attr();
	time_t start = time(NULL);
	uint64_t frame;
	int fd, n, i;

	if (!vpmu_is_mediated())
		SKIP(return, "needs " VPMU_MODULE_NAME);
	if (variant->moving && self->mover.nr_cpus < 2)
		SKIP(return, "needs two CPUs");
	move_to(0, self->mover.cpus[0]);
	/* A pinned event always has its counter. */
	attr.pinned = 1;
	fd = host_event_open_ok(&attr, 0, -1);
	frame = host_loop_frame(fd);

	start_runners(self);
	if (variant->moving)
		mover_start(&self->mover);
	for (n = 0; n < MIN_MEASURES || !seen_enough(self, variant); n++) {
		expect_exact(fd, frame);
		TEST_ASSERT(time(NULL) - start < MAX_SECONDS, "Nothing gets on");
	}
	if (variant->moving)
		mover_stop(&self->mover);
	stop_runners(self);
	close(fd);

	printf("# %d measures, %d moves;", n, self->mover.moves);
	for (i = 0; i < NR_VCPUS; i++)
		printf(" vCPU %d: %d rounds, preempted %lu times;", i, self->runners[i].rounds,
		       self->runners[i].preempted);
	printf("\n");
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
