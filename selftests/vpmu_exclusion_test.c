// SPDX-License-Identifier: GPL-2.0
/*
 * Guests with a mediated PMU and perf events that include guests exclude one
 * another.
 *
 * While such an event exists KVM_CREATE_VCPU fails with EBUSY; while a VM with
 * a mediated PMU exists perf_event_open() of such an event fails with
 * EOPNOTSUPP. Neither leaves anything behind. What does not ask for the core
 * PMU's counters in guests is never in the way.
 */
#include <sys/ioctl.h>

#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

/* An event that a guest's work counts for, too. */
static struct perf_event_attr including_attr(void)
{
	struct perf_event_attr attr = host_event_attr();

	attr.exclude_guest = 0;
	return attr;
}

/* All the ways to ask for one. */
FIXTURE(event) {
	struct perf_event_attr attr;
	pid_t pid;
	int cpu;
};

FIXTURE_VARIANT(event) {
	uint32_t type;
	uint64_t config;
	uint64_t sample_period;
	bool per_cpu;
	bool pinned;
	bool inherit;
	bool exclude_host;
	bool enabled;
};

FIXTURE_SETUP(event)
{
	self->attr = including_attr();
	self->attr.type = variant->type;
	self->attr.config = variant->config;
	self->attr.sample_period = variant->sample_period;
	self->attr.pinned = variant->pinned;
	self->attr.inherit = variant->inherit;
	self->attr.exclude_host = variant->exclude_host;
	self->attr.disabled = !variant->enabled;
	self->pid = variant->per_cpu ? -1 : 0;
	self->cpu = variant->per_cpu ? pin_self_to_any_cpu() : -1;
}

FIXTURE_TEARDOWN(event) { }

#define VARIANT(_name, ...)							\
FIXTURE_VARIANT_ADD(event, _name) {						\
	.type = PERF_TYPE_HARDWARE, .config = PERF_COUNT_HW_INSTRUCTIONS,	\
	##__VA_ARGS__								\
}

VARIANT(task);
VARIANT(task_enabled, .enabled = true);
VARIANT(task_pinned, .pinned = true, .enabled = true);
VARIANT(task_inherited, .inherit = true);
VARIANT(task_sampling, .sample_period = 1000000);
VARIANT(cpu, .per_cpu = true);
VARIANT(cpu_enabled, .per_cpu = true, .enabled = true);
VARIANT(cpu_guest_only, .per_cpu = true, .exclude_host = true);

FIXTURE_VARIANT_ADD(event, task_raw)
{
	.type = PERF_TYPE_RAW,
	.config = INTEL_ARCH_BRANCHES_RETIRED,
};

FIXTURE_VARIANT_ADD(event, cpu_cycles)
{
	.type = PERF_TYPE_HARDWARE,
	.config = PERF_COUNT_HW_CPU_CYCLES,
	.per_cpu = true,
};

/* KVM_CREATE_VCPU alone; a file descriptor or -errno. */
static int create_vcpu(struct kvm_vm *vm, uint32_t id)
{
	int fd = __vm_ioctl(vm, KVM_CREATE_VCPU, (void *)(unsigned long)id);

	return fd < 0 ? -errno : fd;
}

static void expect_open(struct perf_event_attr *attr, pid_t pid, int cpu, int expected)
{
	int fd = host_event_open(attr, pid, cpu);

	if (fd >= 0)
		close(fd);
	TEST_ASSERT((fd < 0 ? fd : 0) == expected, "perf_event_open(): %s, expected %s",
		    strerror(fd < 0 ? -fd : 0), strerror(-expected));
}

static void expect_create_vcpu(struct kvm_vm *vm, uint32_t id, int expected)
{
	int fd = create_vcpu(vm, id);

	if (fd >= 0)
		close(fd);
	TEST_ASSERT((fd < 0 ? fd : 0) == expected, "KVM_CREATE_VCPU: %s, expected %s",
		    strerror(fd < 0 ? -fd : 0), strerror(-expected));
}

/* The event is first. */
TEST_F(event, refuses_vcpu)
{
	struct kvm_vm *vm = vm_create(2);
	int event;

	VPMU_REQUIRE_MEDIATED();
	event = host_event_open_ok(&self->attr, self->pid, self->cpu);
	expect_create_vcpu(vm, 0, -EBUSY);
	expect_create_vcpu(vm, 0, -EBUSY);
	close(event);

	/* The same VM, once nothing is in the way, and its other vCPUs. */
	expect_create_vcpu(vm, 0, 0);
	expect_create_vcpu(vm, 1, 0);
	kvm_vm_free(vm);
	expect_open(&self->attr, self->pid, self->cpu, 0);
}

/* The VM is first. */
TEST_F(event, is_refused)
{
	struct kvm_vm *vm, *other;

	VPMU_REQUIRE_MEDIATED();
	vm = vm_create(1);
	/* It is the first vCPU that takes the PMU. */
	expect_open(&self->attr, self->pid, self->cpu, 0);
	expect_create_vcpu(vm, 0, 0);
	expect_open(&self->attr, self->pid, self->cpu, -EOPNOTSUPP);
	expect_open(&self->attr, self->pid, self->cpu, -EOPNOTSUPP);

	/* The last VM to go gives it back. */
	other = vm_create(1);
	expect_create_vcpu(other, 0, 0);
	kvm_vm_free(vm);
	expect_open(&self->attr, self->pid, self->cpu, -EOPNOTSUPP);
	kvm_vm_free(other);
	expect_open(&self->attr, self->pid, self->cpu, 0);
}

/* With the emulated vPMU there is no such rule. */
TEST_F(event, coexists_with_emulated)
{
	struct kvm_vm *vm;
	int event;

	if (vpmu_is_mediated())
		SKIP(return, "needs the emulated vPMU");
	vm = vm_create(2);
	event = host_event_open_ok(&self->attr, self->pid, self->cpu);
	expect_create_vcpu(vm, 0, 0);
	close(event);
	expect_open(&self->attr, self->pid, self->cpu, 0);
	kvm_vm_free(vm);
}

/* A vCPU that cannot be created for another reason leaves the VM as it was. */
TEST(failed_vcpu)
{
	struct perf_event_attr attr = including_attr();
	struct kvm_vm *vm = vm_create(1);

	vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 1);
	expect_create_vcpu(vm, 5, -EINVAL);
	kvm_vm_free(vm);
	expect_open(&attr, 0, -1, 0);

	vm = vm_create(1);
	vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 1);
	expect_create_vcpu(vm, 5, -EINVAL);
	expect_create_vcpu(vm, 0, 0);
	expect_open(&attr, 0, -1, vpmu_is_mediated() ? -EOPNOTSUPP : 0);
	kvm_vm_free(vm);
	expect_open(&attr, 0, -1, 0);
}

/* Events that exclude guests, or have no counter, are welcome in any order. */
static void test_harmless(struct perf_event_attr *attr, pid_t pid, int cpu)
{
	struct kvm_vm *vm = vm_create(2);
	int event = host_event_open_ok(attr, pid, cpu);

	expect_create_vcpu(vm, 0, 0);
	expect_open(attr, pid, cpu, 0);
	close(event);
	expect_open(attr, pid, cpu, 0);
	kvm_vm_free(vm);
}

TEST(excluding_event_is_harmless)
{
	struct perf_event_attr attr = host_event_attr();
	int cpu = pin_self_to_any_cpu();

	test_harmless(&attr, 0, -1);
	test_harmless(&attr, -1, cpu);
}

TEST(software_event_is_harmless)
{
	struct perf_event_attr attr = including_attr();

	attr.type = PERF_TYPE_SOFTWARE;
	attr.config = PERF_COUNT_SW_CONTEXT_SWITCHES;
	test_harmless(&attr, 0, -1);
	attr.config = PERF_COUNT_SW_CPU_CLOCK;
	test_harmless(&attr, 0, -1);
}

/* VMs that get no mediated PMU. */
TEST(vm_without_lapic)
{
	struct perf_event_attr attr = including_attr();
	struct kvm_vm *vm = vm_create_barebones();
	int event = host_event_open_ok(&attr, 0, -1);

	expect_create_vcpu(vm, 0, 0);
	expect_open(&attr, 0, -1, 0);
	close(event);
	kvm_vm_free(vm);
}

TEST(vm_with_pmu_disabled)
{
	struct perf_event_attr attr = including_attr();
	struct kvm_vm *vm = vm_create(1);
	int event = host_event_open_ok(&attr, 0, -1);

	vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	expect_create_vcpu(vm, 0, 0);
	expect_open(&attr, 0, -1, 0);
	close(event);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_intel();
	return test_harness_run(argc, argv);
}
