// SPDX-License-Identifier: GPL-2.0
/*
 * Processors come and go while guests run and host events count: all counts
 * stay exact, and a processor that comes back has a PMU in order.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "host_event.h"
#include "host_msr.h"
#include "lend.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define NR_CYCLES	3
#define GUEST_ROUNDS	100000

DEFINE_PAYLOAD(guest_loop,
	"mov $" __stringify(GUEST_ROUNDS) ", %%ecx\n\t"
	"1: loop 1b\n\t",
	1 + GUEST_ROUNDS, GUEST_ROUNDS);

static void guest_count_forever(void)
{
	uint64_t on;

	for (;;) {
		on = guest_select_all();
		payload_guest_loop.run(vpmu_msr_global_ctrl(), on, 0);
		GUEST_ASSERT_EQ(_rdpmc(0), payload_guest_loop.insns);
		GUEST_ASSERT_EQ(_rdpmc(1), payload_guest_loop.branches);
		guest_fixed0_expect(payload_guest_loop.insns);
		GUEST_SYNC(0);
	}
}

static bool set_online(int cpu, bool online)
{
	char path[64];
	bool done;
	int fd;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return false;
	done = write(fd, online ? "1" : "0", 1) == 1;
	close(fd);
	return done;
}

/* The last one that can go. */
static int removable_cpu(void)
{
	int cpus[64], nr = host_cpus(cpus, 64);

	if (nr < 2 || !set_online(cpus[nr - 1], true))
		return -1;
	return cpus[nr - 1];
}

struct runner {
	struct kvm_vcpu *vcpu;
	int cpu;
	atomic_int rounds;
	atomic_bool stop;
	pthread_t thread;
};

/* Where it is taken from, it goes back to as soon as it can. */
static void prefer_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *runner_thread(void *arg)
{
	struct runner *r = arg;

	while (!r->stop) {
		prefer_cpu(r->cpu);
		TEST_ASSERT_EQ(vpmu_run(r->vcpu), VPMU_SYNC);
		r->rounds++;
	}
	return NULL;
}

static void wait_for_rounds(struct runner *r, int nr)
{
	int rounds = r->rounds + nr;

	while (r->rounds < rounds)
		usleep(1000);
}

/* On the processor that was away, with nothing of what was there before. */
static void expect_in_order(int cpu)
{
	struct perf_event_attr attr = host_event_attr();
	struct lend lend = lend_open();
	struct lend_run how = {}, run;
	uint64_t frame, irqs;
	int fd;

	pin_self_to_cpu(cpu);
	TEST_ASSERT_EQ(lend_create(&lend), 0);
	attr.pinned = 1;
	fd = host_event_open_ok(&attr, 0, -1);
	frame = host_loop_frame(fd);
	irqs = host_all_interrupts();
	host_expect_count(host_loop_count(fd, 10000), frame + 10000 * HOST_LOOP_INSNS, irqs);
	run = lend_run(&lend, &how, NULL);
	TEST_ASSERT_EQ(run.loaded.global_ctrl, 0);
	TEST_ASSERT_EQ(run.loaded.fixed_ctrl, 0);
	TEST_ASSERT_EQ(run.after.lvtpc, 0x400);
	close(fd);
	lend_close(&lend);
}

static void test_cycle(struct runner *r, int cpu)
{
	struct perf_event_attr attr = host_event_attr();
	int fd;

	/* An event of the processor itself goes down with it. */
	attr.disabled = 0;
	fd = host_event_open_ok(&attr, -1, cpu);
	wait_for_rounds(r, 3);
	TEST_ASSERT(set_online(cpu, false), "CPU %d doesn't go: %s", cpu, strerror(errno));
	wait_for_rounds(r, 3);
	TEST_ASSERT(set_online(cpu, true), "CPU %d doesn't come: %s", cpu, strerror(errno));
	wait_for_rounds(r, 3);
	close(fd);
	expect_in_order(cpu);
}

TEST(guest_on_removed_cpu)
{
	struct vpmu_config config = vpmu_config_max();
	struct runner r = {};
	struct kvm_vm *vm;
	int i;

	VPMU_REQUIRE_MEDIATED();
	LEND_REQUIRE();
	r.cpu = removable_cpu();
	if (r.cpu < 0)
		SKIP(return, "needs a processor that can be removed");
	vm = vpmu_vm_create(&r.vcpu, guest_count_forever, &config);
	TEST_ASSERT(!pthread_create(&r.thread, NULL, runner_thread, &r),
		    "pthread_create() failed");
	for (i = 0; i < NR_CYCLES; i++)
		test_cycle(&r, r.cpu);
	r.stop = true;
	pthread_join(r.thread, NULL);
	kvm_vm_free(vm);
}

/* RESET enables counters globally, and no event of the host disables them. */
TEST(enabled_by_reset)
{
	struct lend_run how = {}, run;
	struct lend lend;
	int cpu;

	LEND_REQUIRE();
	cpu = removable_cpu();
	if (cpu < 0)
		SKIP(return, "needs a processor that can be removed");
	lend = lend_open();
	TEST_ASSERT_EQ(lend_create(&lend), 0);
	host_msr_write(cpu, MSR_CORE_PERF_GLOBAL_CTRL, 0xff);
	TEST_ASSERT(set_online(cpu, false), "CPU %d doesn't go: %s", cpu, strerror(errno));
	TEST_ASSERT(set_online(cpu, true), "CPU %d doesn't come: %s", cpu, strerror(errno));
	pin_self_to_cpu(cpu);
	run = lend_run(&lend, &how, NULL);
	TEST_ASSERT_EQ(run.loaded.global_ctrl, 0);
	lend_close(&lend);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
