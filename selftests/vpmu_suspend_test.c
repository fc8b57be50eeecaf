// SPDX-License-Identifier: GPL-2.0
/*
 * The machine is suspended beside guests and host events: user space is frozen,
 * all processors but one go offline, the last one leaves VMX operation, or SVM. All
 * counts are exact when it comes back, although processors that slept have lost
 * their counters.
 *
 * As far down as it comes back from by itself, that is; with
 * VPMU_SUSPEND_DEEP=1, for machines that somebody or something wakes, it sleeps.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "disturb.h"
#include "host_event.h"
#include "host_msr.h"
#include "host_sysctl.h"
#include "lend.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define ALLOW_WRITES	"/sys/module/msr/parameters/allow_writes"

#define MAX_CPUS	8
#define GUEST_ROUNDS	20000
#define HOST_ROUNDS	20000
#define LOST		0x5555

DEFINE_PAYLOAD(guest_loop,
	"mov $" __stringify(GUEST_ROUNDS) ", %%ecx\n\t"
	"1: loop 1b\n\t",
	1 + GUEST_ROUNDS, GUEST_ROUNDS);

/* Each round ends with counts in all counters, which are there yet as the next begins. */
static void guest_keep_counts(void)
{
	uint64_t on;
	int i;

	for (;;) {
		on = guest_select_all();
		payload_guest_loop.run(vpmu_msr_global_ctrl(), on, 0);
		GUEST_SYNC(0);
		for (i = 0; i < guest_nr_gp(); i++)
			GUEST_ASSERT_EQ(_rdpmc(i), i % 2 ? payload_guest_loop.branches :
							   payload_guest_loop.insns);
		guest_fixed0_expect(payload_guest_loop.insns);
	}
}

/**
 * struct runner - a guest on a CPU of its own
 * @vm: the guest
 * @vcpu: its only vCPU
 * @cpu: the CPU
 * @rounds: that the guest has made
 * @stop: to end it
 * @thread: that runs it
 */
struct runner {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int cpu;
	atomic_int rounds;
	atomic_bool stop;
	pthread_t thread;
};

FIXTURE(suspend) {
	struct runner runners[MAX_CPUS];
	int nr;
};

FIXTURE_VARIANT(suspend) {
	const char *pm_test;
};

FIXTURE_VARIANT_ADD(suspend, core) {
	.pm_test = "core",
};

FIXTURE_VARIANT_ADD(suspend, deep) {
	.pm_test = "none",
};

static bool sleeps(const FIXTURE_VARIANT(suspend) *variant)
{
	return !strcmp(variant->pm_test, "none");
}

FIXTURE_SETUP(suspend)
{
	struct vpmu_config config = vpmu_config_max();
	int cpus[MAX_CPUS], i;

	VPMU_REQUIRE_MEDIATED();
	if (!host_suspend_prepare(variant->pm_test))
		SKIP(return, "needs CONFIG_PM_DEBUG");
	if (sleeps(variant) && !getenv("VPMU_SUSPEND_DEEP"))
		SKIP(return, "needs VPMU_SUSPEND_DEEP=1");
	self->nr = host_cpus(cpus, MAX_CPUS);
	for (i = 0; i < self->nr; i++) {
		self->runners[i].cpu = cpus[i];
		self->runners[i].vm = vpmu_vm_create(&self->runners[i].vcpu, guest_keep_counts,
						     &config);
	}
}

FIXTURE_TEARDOWN(suspend)
{
	int i;

	for (i = 0; i < self->nr; i++)
		kvm_vm_free(self->runners[i].vm);
	host_suspend_restore();
}

static void suspend(void)
{
	int r = host_suspend();

	TEST_ASSERT(!r, "The machine cannot be suspended: %s", strerror(-r));
}

/* A CPU that hasn't slept comes back as it was, so do what was left out. */
static void lose_counters(int cpu)
{
	const struct vpmu_config host = vpmu_config_host();
	int i;

	for (i = 0; i < host.nr_gp; i++)
		host_msr_write(cpu, vpmu_msr_counter(i), LOST);
	for (i = 0; i < host.nr_fixed; i++)
		host_msr_write(cpu, MSR_CORE_PERF_FIXED_CTR0 + i, LOST);
}

static void run_each(FIXTURE_DATA(suspend) *self)
{
	int i;

	for (i = 0; i < self->nr; i++) {
		move_to(0, self->runners[i].cpu);
		TEST_ASSERT_EQ(vpmu_run(self->runners[i].vcpu), VPMU_SYNC);
	}
}

/* What guests have counted isn't in the processors only. */
TEST_F(suspend, counters_are_lost)
{
	int i;

	run_each(self);
	run_each(self);
	suspend();
	host_sysfs_write(ALLOW_WRITES, "on");
	for (i = 0; i < self->nr && !sleeps(variant); i++)
		lose_counters(self->runners[i].cpu);
	host_sysfs_write(ALLOW_WRITES, "default");
	run_each(self);
	run_each(self);
}

static void *runner_thread(void *arg)
{
	struct runner *r = arg;

	while (!r->stop) {
		/* Its CPU goes and comes. */
		move_to(0, r->cpu);
		TEST_ASSERT_EQ(vpmu_run(r->vcpu), VPMU_SYNC);
		r->rounds++;
	}
	return NULL;
}

static void wait_for_rounds(FIXTURE_DATA(suspend) *self, int nr)
{
	int i, until;

	for (i = 0; i < self->nr; i++) {
		until = self->runners[i].rounds + nr;
		while (self->runners[i].rounds < until)
			usleep(1000);
	}
}

static void start_runners(FIXTURE_DATA(suspend) *self)
{
	int i;

	for (i = 0; i < self->nr; i++)
		TEST_ASSERT(!pthread_create(&self->runners[i].thread, NULL, runner_thread,
					    &self->runners[i]), "pthread_create() failed");
}

static void stop_runners(FIXTURE_DATA(suspend) *self)
{
	int i;

	for (i = 0; i < self->nr; i++) {
		self->runners[i].stop = true;
		pthread_join(self->runners[i].thread, NULL);
	}
}

/* Guests run on all CPUs, and host events count, one of them on the CPU that stays. */
TEST_F(suspend, while_running)
{
	struct perf_event_attr attr = host_event_attr();
	uint64_t frame, before, irqs;
	int task, cpu, i;

	attr.pinned = 1;
	task = host_event_open_ok(&attr, 0, -1);
	frame = host_loop_frame(task);
	attr.disabled = 0;
	cpu = host_event_open_ok(&attr, -1, self->runners[0].cpu);
	start_runners(self);
	for (i = 0; i < 2; i++) {
		wait_for_rounds(self, 3);
		suspend();
		wait_for_rounds(self, 3);
		irqs = host_all_interrupts();
		host_expect_count(host_loop_count(task, HOST_ROUNDS),
				  frame + HOST_ROUNDS * HOST_LOOP_INSNS, irqs);
	}
	stop_runners(self);
	move_to(0, self->runners[0].cpu);
	before = host_event_read(cpu).value;
	host_loop(HOST_ROUNDS);
	TEST_ASSERT(host_event_read(cpu).value - before >= HOST_ROUNDS * HOST_LOOP_INSNS,
		    "CPU %d doesn't count any more", self->runners[0].cpu);
	close(cpu);
	close(task);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
