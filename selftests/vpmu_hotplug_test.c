// SPDX-License-Identifier: GPL-2.0
/*
 * Processors come and go while guests run and host events count: all counts
 * stay exact, and a processor that comes back has a PMU in order.
 */
#include <sys/ioctl.h>

#include "host_cpu.h"
#include "host_event.h"
#include "lend.h"
#include "runner.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define NR_CYCLES	3
#define GUEST_LOOPS	100000

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
	runner_wait(r, 3);
	TEST_ASSERT(host_cpu_set_online(cpu, false), "CPU %d doesn't go: %s", cpu, strerror(errno));
	runner_wait(r, 3);
	TEST_ASSERT(host_cpu_set_online(cpu, true), "CPU %d doesn't come: %s", cpu, strerror(errno));
	runner_wait(r, 3);
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
	r.cpu = host_cpu_removable();
	if (r.cpu < 0)
		SKIP(return, "needs a processor that can be removed");
	vm = counting_vm_create(&r.vcpu, &config, GUEST_LOOPS);
	runner_start(&r);
	for (i = 0; i < NR_CYCLES; i++)
		test_cycle(&r, r.cpu);
	runner_stop(&r);
	kvm_vm_free(vm);
}

/* RESET enables counters globally, and no event of the host disables them. */
TEST(enabled_by_reset)
{
	struct lend_run how = {}, run;
	struct lend lend;
	int cpu;

	LEND_REQUIRE();
	cpu = host_cpu_removable();
	if (cpu < 0)
		SKIP(return, "needs a processor that can be removed");
	lend = lend_open();
	TEST_ASSERT_EQ(lend_create(&lend), 0);
	/* Not by the msr driver, which tells perf: hardware does it behind the kernel's back. */
	pin_self_to_cpu(cpu);
	TEST_ASSERT(!ioctl(lend.fd, LEND_ENABLE), "LEND_ENABLE failed");
	TEST_ASSERT(host_cpu_set_online(cpu, false), "CPU %d doesn't go: %s", cpu, strerror(errno));
	TEST_ASSERT(host_cpu_set_online(cpu, true), "CPU %d doesn't come: %s", cpu, strerror(errno));
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
