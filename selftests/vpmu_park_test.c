// SPDX-License-Identifier: GPL-2.0
/*
 * While the host has no event on a processor, the state of a guest's PMU stays in its
 * hardware when the guest is left. Nobody can tell but by what it costs: neither the
 * guest, nor whoever else comes to need the hardware, in the middle of anything.
 */
#include "apic.h"
#include "cost.h"
#include "host_event.h"
#include "host_msr.h"
#include "host_sysctl.h"
#include "kmsg.h"
#include "payload.h"
#include "runner.h"
#include "vpmu.h"
#include "vpmu_harness.h"

/* Exits of a round: each payload runs so many loops. */
#define NR_PAYLOADS	20
#define APIC_LVTPC	0x340
#define PMI_VECTOR	0x52
/* Of somebody else who comes to the PMU. */
#define NR_VISITS	300

DEFINE_LOOP_PAYLOAD(cpuid,
	"xor %%eax, %%eax\n\t"
	"cpuid\n\t",
	2, 0);

static volatile unsigned int nr_pmis;

static void guest_pmi(struct ex_regs *regs)
{
	nr_pmis++;
	wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	x2apic_write_reg(APIC_EOI, 0);
}

/* Counter 0 counts instructions, and if it @interrupts each payload has it overflow once. */
static void guest_counts_exits(bool interrupts)
{
	const uint64_t selector = VPMU_SEL_OS(vpmu_event_insns());
	uint64_t start = interrupts ? BIT_ULL(48) - 100 : 0;
	unsigned int i, nr = 0;

	x2apic_enable();
	guest_pmu_clear();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	wrmsr(vpmu_msr_selector(0), selector | (interrupts ? ARCH_PERFMON_EVENTSEL_INT : 0));
	if (interrupts)
		sti();
	for (;;) {
		for (i = 0; i < NR_PAYLOADS; i++) {
			wrmsr(vpmu_msr_counter(0), start);
			payload_cpuid.run(vpmu_msr_global_ctrl(), BIT_ULL(0), 0);
			/* The handler is counted as well. */
			if (!interrupts)
				GUEST_ASSERT_EQ(_rdpmc(0), payload_cpuid.insns);
			else
				GUEST_ASSERT_EQ(nr_pmis, ++nr);
			GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()) & 1, 0);
		}
		GUEST_SYNC(0);
	}
}

FIXTURE(park) {
	struct runner runner;
	struct kmsg kmsg;
	struct kvm_vm *vm;
	bool nmi_watchdog;
	int other_cpu;
};

FIXTURE_VARIANT(park) {
	bool interrupts;
};

FIXTURE_VARIANT_ADD(park, counting) { };
FIXTURE_VARIANT_ADD(park, sampling) { .interrupts = true };

FIXTURE_SETUP(park)
{
	const struct vpmu_config config = vpmu_config_max();
	int cpus[2];

	VPMU_REQUIRE_MEDIATED();
	if (host_cpus(cpus, 2) < 2)
		SKIP(return, "needs two processors");
	self->nmi_watchdog = nmi_watchdog_set(false);
	self->runner.cpu = cpus[0];
	self->other_cpu = cpus[1];
	pin_self_to_cpu(self->other_cpu);
	self->vm = vpmu_vm_create(&self->runner.vcpu, guest_counts_exits, &config);
	vcpu_args_set(self->runner.vcpu, 1, (uint64_t)variant->interrupts);
	vm_install_exception_handler(self->vm, PMI_VECTOR, guest_pmi);
	kmsg_start(&self->kmsg);
	runner_start(&self->runner);
}

FIXTURE_TEARDOWN(park)
{
	/* A round that nobody disturbs. */
	runner_wait(&self->runner, 1);
	runner_stop(&self->runner);
	kvm_vm_free(self->vm);
	TEST_ASSERT(!kmsg_count(&self->kmsg, "unknown reason"), "An NMI that nobody claims");
	kmsg_stop(&self->kmsg);
	nmi_watchdog_set(self->nmi_watchdog);
}

/* An exit that completes an instruction adds it, and that's all. On AMD the entry does. */
TEST_F(park, costs_what_is_completed)
{
	/* On Intel two are KVM's own, and one adds the instruction. */
	const unsigned long nr_wrmsr = host_cpu_is_amd ? 0 : 3, nr_rdpmc = host_cpu_is_amd ? 0 : 1;
	struct cost before, after, cost;
	int rounds = 3;

	if (!cost_is_available())
		SKIP(return, "needs the emulator's cost counters");
	if (variant->interrupts || host_has_agent())
		SKIP(return, "needs a host without events, and a guest without interrupts");
	before = cost_now(2);
	runner_wait(&self->runner, rounds);
	after = cost_now(2);
	cost = cost_between(&before, &after);
	/* The first one had begun already. */
	TEST_ASSERT(cost.exits >= (rounds - 1) * NR_PAYLOADS * PAYLOAD_LOOPS, "%lu exits", cost.exits);
	/* Now and then the guest is left for longer. */
	TEST_ASSERT(cost.rdpmc < (nr_rdpmc + 1) * cost.exits, "%lu RDPMCs, %lu exits",
		    cost.rdpmc, cost.exits);
	TEST_ASSERT(cost.wrmsr < (nr_wrmsr + 1) * cost.exits, "%lu WRMSRs, %lu exits",
		    cost.wrmsr, cost.exits);
}

/* Events of the host come and go, by a call from another processor. */
TEST_F(park, events_come_and_go)
{
	struct perf_event_attr attr = host_event_attr();
	int i, fd;

	attr.exclude_kernel = 0;
	attr.pinned = host_has_agent();
	for (i = 0; i < NR_VISITS; i++) {
		fd = host_event_open_ok(&attr, -1, self->runner.cpu);
		host_event_enable(fd);
		TEST_ASSERT(host_event_read(fd).value > 0, "An event that counts nothing");
		close(fd);
	}
}

/* A task's event comes and goes with the task. */
TEST_F(park, a_task_comes_and_goes)
{
	struct perf_event_attr attr = host_event_attr();
	int i, fd;

	attr.pinned = host_has_agent();
	fd = host_event_open_ok(&attr, 0, -1);
	host_event_enable(fd);
	for (i = 0; i < 20; i++) {
		pin_self_to_cpu(self->runner.cpu);
		host_loop(1000);
		pin_self_to_cpu(self->other_cpu);
	}
	TEST_ASSERT(host_event_read(fd).value >= 20 * 1000 * HOST_LOOP_INSNS, "lost counts");
	close(fd);
}

/* Somebody writes registers that the guest uses, which has its own. */
TEST_F(park, registers_are_written)
{
	const int cpu = self->runner.cpu;
	int i;

	if (!host_msr_is_available(cpu))
		SKIP(return, "needs the msr driver");
	for (i = 0; i < NR_VISITS; i++) {
		host_msr_write(cpu, vpmu_msr_counter(0), 0x1234);
		host_msr_write(cpu, vpmu_msr_selector(0), 0);
		host_msr_write(cpu, vpmu_msr_global_ctrl(), BIT_ULL(0));
		host_msr_write(cpu, vpmu_msr_global_ctrl(), 0);
	}
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
