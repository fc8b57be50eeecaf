// SPDX-License-Identifier: GPL-2.0
/*
 * The module comes and goes, with guests in between.
 *
 * It affects VMs whose first vCPU is created while it is there; they keep it
 * from being unloaded, and do not notice the attempt. Without it KVM is what
 * it was.
 *
 * The module is loaded when the program starts and when it ends; no other VM
 * may be running meanwhile.
 */
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "host_event.h"
#include "payloads.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define NR_RELOADS	100

/* On AMD KVM's own vPMU counts each VMRUN as an instruction of the guest. */
static bool exact = true;

static void guest_count(void)
{
	const struct payload *p = &payload_cpuid;

	for (;;) {
		guest_pmu_clear();
		wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
		guest_fixed_select(FIXED_PMC_KERNEL);
		p->run(vpmu_msr_global_ctrl(),
		       BIT_ULL(0) | guest_fixed0_mask(), 0);
		if (exact)
			GUEST_ASSERT_EQ(_rdpmc(0), p->insns);
		GUEST_ASSERT(_rdpmc(0) >= p->insns);
		guest_fixed0_expect(p->insns);
		GUEST_SYNC(0);
	}
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu)
{
	struct vpmu_config config = vpmu_config_max();

	return vpmu_vm_create(vcpu, guest_count, &config);
}

static struct kvm_vm *create_emulated(struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = create(vcpu);
	bool is_exact = host_cpu_is_intel;

	write_guest_global(vm, exact, is_exact);
	return vm;
}

static void run_once(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
}

/* Does opening an event that includes guests fail, as it does beside a mediated VM? */
static bool mediated_vm_exists(void)
{
	struct perf_event_attr attr = host_event_attr();
	int fd;

	attr.exclude_guest = 0;
	fd = host_event_open(&attr, 0, -1);
	if (fd >= 0) {
		close(fd);
		return false;
	}
	TEST_ASSERT_EQ(fd, -EOPNOTSUPP);
	return true;
}

/*
 * The selftest library asks KVM for its CPUID but once per process, and that
 * changes with the module: each guest in a process of its own.
 */
static pid_t start_child(void (*fn)(void))
{
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		fn();
		_exit(0);
	}
	return pid;
}

static void end_child(pid_t pid)
{
	int status;

	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed");
	TEST_ASSERT(WIFEXITED(status) && !WEXITSTATUS(status), "A guest failed, status %x", status);
}

static void in_child(void (*fn)(void))
{
	end_child(start_child(fn));
}

static void mediated_guest(void)
{
	struct vpmu_config host = vpmu_config_host();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	TEST_ASSERT_EQ(vpmu_config_max().nr_gp, host.nr_gp);
	TEST_ASSERT_EQ(vpmu_config_max().nr_fixed, host.nr_fixed);
	vm = create(&vcpu);
	TEST_ASSERT(mediated_vm_exists(), "The VM is not mediated");
	run_once(vcpu);
	kvm_vm_free(vm);
	TEST_ASSERT(!mediated_vm_exists(), "The VM is gone, its hold on the PMU is not");
}

/* KVM's own vPMU has three fixed counters at most. */
static void stock_guest(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	TEST_ASSERT(vpmu_config_max().nr_fixed <= 3, "KVM offers %u fixed counters",
		    vpmu_config_max().nr_fixed);
	vm = create_emulated(&vcpu);
	TEST_ASSERT(!mediated_vm_exists(), "A VM is mediated without the module");
	run_once(vcpu);
	kvm_vm_free(vm);
}

/* A test that fails ends its process on the spot; who comes next wants the module. */
static void leave_loaded(void)
{
	if (!vpmu_module_is_loaded())
		vpmu_module_load("");
}

FIXTURE(reload) { };

FIXTURE_SETUP(reload)
{
	leave_loaded();
	TEST_ASSERT(vpmu_is_mediated(), "The module cannot be loaded");
}

FIXTURE_TEARDOWN(reload)
{
	leave_loaded();
}

TEST_F(reload, hundred_times)
{
	int i;

	for (i = 0; i < NR_RELOADS; i++) {
		TEST_ASSERT_EQ(vpmu_module_unload(), 0);
		TEST_ASSERT(!vpmu_module_is_loaded(), "Unloaded, but there");
		in_child(stock_guest);
		TEST_ASSERT_EQ(vpmu_module_load(""), 0);
		in_child(mediated_guest);
	}
}

/* A VM is enough to keep the module; it counts on, and then lets go. */
static void guest_in_use(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu);
	int i;

	/* Before its first run, too. */
	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(vpmu_module_unload(), -EWOULDBLOCK);
		TEST_ASSERT(vpmu_is_mediated(), "The module is gone");
		TEST_ASSERT(mediated_vm_exists(), "The VM lost its PMU");
		run_once(vcpu);
	}
	kvm_vm_free(vm);
}

TEST_F(reload, refused_while_in_use)
{
	in_child(guest_in_use);
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	in_child(stock_guest);
}

/* A VM without vCPUs has not taken a PMU yet. */
TEST_F(reload, vm_without_vcpu)
{
	int kvm = open_kvm_dev_path_or_exit();
	int vm = ioctl(kvm, KVM_CREATE_VM, 0ul);

	TEST_ASSERT(vm >= 0, "KVM_CREATE_VM failed");
	TEST_ASSERT(!ioctl(vm, KVM_CREATE_IRQCHIP, 0ul), "KVM_CREATE_IRQCHIP failed");
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	in_child(stock_guest);
	close(vm);
	close(kvm);
}

/*
 * A VM of before the module keeps KVM's own vPMU, and does not hold the
 * module.
 */
static void older_guest(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_emulated(&vcpu);

	run_once(vcpu);
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	TEST_ASSERT(!mediated_vm_exists(), "The module took over a VM that was there before");
	run_once(vcpu);
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	run_once(vcpu);
	kvm_vm_free(vm);
}

/* What a VMM gives a vCPU that it adds is what KVM offers by then. */
static void older_guest_adds_vcpu(void)
{
	struct kvm_vcpu *vcpu, *added;
	struct kvm_vm *vm;

	vm = vm_create(2);
	vcpu = vm_vcpu_add(vm, 0, guest_count);
	exact = host_cpu_is_intel;
	sync_global_to_guest(vm, exact);
	run_once(vcpu);
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	added = vm_vcpu_add(vm, 1, guest_count);
	if (kvm_cpu_has(X86_FEATURE_PDCM))
		TEST_ASSERT_EQ(_vcpu_set_msr(added, MSR_IA32_PERF_CAPABILITIES,
					     kvm_get_feature_msr(MSR_IA32_PERF_CAPABILITIES)), 1);
	TEST_ASSERT(!mediated_vm_exists(), "The module took over a VM that was there before");
	run_once(added);
	run_once(vcpu);
	TEST_ASSERT_EQ(vcpu_get_stat(added, vpmu_loads), 0);
	kvm_vm_free(vm);
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
}

TEST_F(reload, older_vm)
{
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	in_child(older_guest);
}

TEST_F(reload, older_vm_adds_vcpu)
{
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	in_child(older_guest_adds_vcpu);
}

/* Between the processes of two guests that take turns: 0 is the older one's end. */
static int turns[2];

static void turns_take_end(int end)
{
	/* Should the other one fail, no end is open any more that could be awaited. */
	close(turns[!end]);
}

static void turn_give(int end)
{
	TEST_ASSERT(write(turns[end], "", 1) == 1, "The other guest's process is gone");
}

static void turn_await(int end)
{
	char byte;

	TEST_ASSERT(read(turns[end], &byte, 1) == 1, "The other guest's process is gone");
}

static void older_of_two(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	turns_take_end(0);
	vm = create_emulated(&vcpu);
	run_once(vcpu);
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	turn_give(0);
	turn_await(0);
	run_once(vcpu);
	turn_give(0);
	kvm_vm_free(vm);
}

static void younger_of_two(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	turns_take_end(1);
	turn_await(1);
	vm = create(&vcpu);
	TEST_ASSERT(mediated_vm_exists(), "The VM is not mediated");
	run_once(vcpu);
	turn_give(1);
	turn_await(1);
	run_once(vcpu);
	kvm_vm_free(vm);
}

/*
 * The perf events that are an older VM's counters include guests, but neither
 * do they keep a younger one from being mediated, nor do they suffer from it.
 */
TEST_F(reload, older_vm_and_younger)
{
	pid_t older, younger;

	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_STREAM, 0, turns), "socketpair() failed");
	older = start_child(older_of_two);
	younger = start_child(younger_of_two);
	close(turns[0]);
	close(turns[1]);
	end_child(older);
	end_child(younger);
}

/* Twice is once too often. */
TEST_F(reload, loaded_twice)
{
	TEST_ASSERT_EQ(vpmu_module_load(""), -EEXIST);
	in_child(mediated_guest);
}

int main(int argc, char *argv[])
{
	/* Not vpmu_require_exact(): see in_child(). */
	vpmu_require_vendor();
	__TEST_REQUIRE(vpmu_is_mediated(), "needs " VPMU_MODULE_NAME);
	__TEST_REQUIRE(vpmu_module_path(), "needs the file of " VPMU_MODULE_NAME);
	atexit(leave_loaded);
	return test_harness_run(argc, argv);
}
