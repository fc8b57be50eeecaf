// SPDX-License-Identifier: GPL-2.0
/*
 * Guests with a mediated PMU and perf events that include guests exclude one
 * another.
 *
 * While such an event exists KVM_SET_CPUID2 that gives a vCPU a PMU fails with
 * EBUSY; while a VM with a mediated PMU exists perf_event_open() of such an event
 * fails with EOPNOTSUPP. Neither leaves anything behind. What does not ask for the
 * core PMU's counters in guests is never in the way, nor is a VM without a PMU.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "host_cgroup.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "lend.h"
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
	bool enable_on_exec;
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
	self->attr.enable_on_exec = variant->enable_on_exec;
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
VARIANT(task_enabled_on_exec, .enable_on_exec = true);
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

/* The same with a PMU, which it has to get; the file descriptor doesn't last. */
static int create_vcpu_with_pmu(struct kvm_vm *vm, uint32_t id)
{
	int fd = create_vcpu(vm, id), r;

	if (fd < 0)
		return fd;
	r = vpmu_fd_set_cpuid(fd, true);
	close(fd);
	return r;
}

static void expect_create_vcpu(struct kvm_vm *vm, uint32_t id, int expected)
{
	int r = create_vcpu_with_pmu(vm, id);

	TEST_ASSERT(r == expected, "A vCPU with a PMU: %s, expected %s", strerror(-r),
		    strerror(-expected));
}

static void expect_set_cpuid(int fd, bool pmu, int expected)
{
	int r = vpmu_fd_set_cpuid(fd, pmu);

	TEST_ASSERT(r == expected, "KVM_SET_CPUID2 with%s PMU: %s, expected %s",
		    pmu ? " a" : "out", strerror(-r), strerror(-expected));
}

static int create_vcpu_ok(struct kvm_vm *vm, uint32_t id)
{
	int fd = create_vcpu(vm, id);

	TEST_ASSERT(fd >= 0, "KVM_CREATE_VCPU: %s", strerror(-fd));
	return fd;
}

/* The event is first. */
TEST_F(event, refuses_pmu)
{
	struct kvm_vm *vm = vm_create(2);
	int event, fd;

	VPMU_REQUIRE_MEDIATED();
	event = host_event_open_ok(&self->attr, self->pid, self->cpu);
	/* It isn't known yet whether the vCPU is to have one. */
	fd = create_vcpu_ok(vm, 0);
	expect_set_cpuid(fd, true, -EBUSY);
	expect_set_cpuid(fd, true, -EBUSY);
	expect_set_cpuid(fd, false, 0);
	close(event);

	/* The same vCPU, once nothing is in the way, and the VM's other ones. */
	expect_set_cpuid(fd, true, 0);
	expect_create_vcpu(vm, 1, 0);
	close(fd);
	kvm_vm_free(vm);
	expect_open(&self->attr, self->pid, self->cpu, 0);
}

/* The VM is first. */
TEST_F(event, is_refused)
{
	struct kvm_vm *vm, *other;
	int fd;

	VPMU_REQUIRE_MEDIATED();
	vm = vm_create(1);
	/* It is the first vCPU that takes the PMU, before it is known to need it. */
	expect_open(&self->attr, self->pid, self->cpu, 0);
	fd = create_vcpu_ok(vm, 0);
	expect_open(&self->attr, self->pid, self->cpu, -EOPNOTSUPP);
	expect_set_cpuid(fd, true, 0);
	close(fd);
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

static void guest_runs(void)
{
	GUEST_SYNC(0);
	GUEST_DONE();
}

/* A VM without a PMU runs beside the event, whoever is first. */
TEST_F(event, is_no_matter_without_pmu)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int event;

	VPMU_REQUIRE_MEDIATED();
	event = host_event_open_ok(&self->attr, self->pid, self->cpu);
	vm = vpmu_vm_create_without_pmu(&vcpu, guest_runs);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	close(event);
	kvm_vm_free(vm);

	/* It has claimed the PMU when it was created, and doesn't once it runs. */
	vm = vpmu_vm_create_without_pmu(&vcpu, guest_runs);
	expect_open(&self->attr, self->pid, self->cpu, -EOPNOTSUPP);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	event = host_event_open_ok(&self->attr, self->pid, self->cpu);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	close(event);
	kvm_vm_free(vm);
}

/* One vCPU of two has a PMU, and that is the one that runs later. */
TEST_F(event, is_refused_for_one_vcpu)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int event, fd;

	VPMU_REQUIRE_MEDIATED();
	vm = vpmu_vm_create_without_pmu(&vcpu, guest_runs);
	fd = create_vcpu_ok(vm, 1);
	expect_set_cpuid(fd, true, 0);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	expect_open(&self->attr, self->pid, self->cpu, -EOPNOTSUPP);

	/* Without it the claim goes, and has to be got anew. */
	expect_set_cpuid(fd, false, 0);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	close(fd);
	kvm_vm_free(vm);
	event = host_event_open_ok(&self->attr, self->pid, self->cpu);
	vm = vpmu_vm_create_without_pmu(&vcpu, guest_runs);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	fd = create_vcpu_ok(vm, 1);
	expect_set_cpuid(fd, true, -EBUSY);
	close(event);
	expect_set_cpuid(fd, true, 0);
	expect_open(&self->attr, self->pid, self->cpu, -EOPNOTSUPP);
	close(fd);
	kvm_vm_free(vm);
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

/* Events of a cgroup. */
TEST(cgroup)
{
	struct perf_event_attr attr = including_attr();
	int cpu = pin_self_to_any_cpu(), cgroup, fd;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	cgroup = cgroup_enter();
	fd = cgroup_event_open(&attr, cgroup, cpu);
	TEST_ASSERT(fd >= 0, "perf_event_open() failed: %s", strerror(-fd));
	vm = vm_create(2);
	expect_create_vcpu(vm, 0, -EBUSY);
	close(fd);
	expect_create_vcpu(vm, 1, 0);
	fd = cgroup_event_open(&attr, cgroup, cpu);
	TEST_ASSERT_EQ(fd, -EOPNOTSUPP);
	kvm_vm_free(vm);
	cgroup_leave(cgroup);
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

/*
 * What follows reserves the PMU as KVM does, but by vpmu_lend.ko, so that it
 * can be done often, and with or without kvm_mediated_pmu.ko.
 */
FIXTURE(lend) {
	struct lend lend;
	bool has_lsm;
};

FIXTURE_SETUP(lend)
{
	LEND_REQUIRE();
	self->lend = lend_open();
	self->has_lsm = lend_lsm_start(&self->lend);
}

FIXTURE_TEARDOWN(lend)
{
	lend_close(&self->lend);
}

static void expect_create(struct lend *lend, int expected)
{
	int r = lend_create(lend);

	if (!r)
		lend_release(lend);
	TEST_ASSERT(r == expected, "perf_create_mediated_pmu(): %s, expected %s", strerror(-r),
		    strerror(-expected));
}

/* Neither side has left anything behind, and no event is open. */
static void expect_balanced(FIXTURE_DATA(lend) *self)
{
	struct perf_event_attr attr = including_attr();
	struct lend_lsm lsm;

	expect_create(&self->lend, 0);
	expect_open(&attr, 0, -1, 0);
	expect_create(&self->lend, 0);
	if (!self->has_lsm)
		return;
	lsm = lend_lsm_read(&self->lend);
	TEST_ASSERT(lsm.attached == lsm.freed,
		    "A security module was shown %llu events, and has to free %llu",
		    lsm.attached, lsm.freed);
}

static void test_kernel_counter(FIXTURE_DATA(lend) *self, int cpu)
{
	struct lend *lend = &self->lend;

	TEST_ASSERT_EQ(lend_event_open(lend, cpu, false), 0);
	expect_create(lend, -EBUSY);
	lend_event_close(lend);
	TEST_ASSERT_EQ(lend_create(lend), 0);
	TEST_ASSERT_EQ(lend_event_open(lend, cpu, false), -EOPNOTSUPP);
	TEST_ASSERT_EQ(lend_event_open(lend, cpu, true), 0);
	lend_event_close(lend);
	lend_release(lend);
	expect_balanced(self);
}

/* Events of the kernel's own are no exception. */
TEST_F(lend, kernel_counter)
{
	test_kernel_counter(self, -1);
	test_kernel_counter(self, pin_self_to_any_cpu());
}

/* Each of many users counts, and so does each of many events. */
TEST_F(lend, many)
{
	struct perf_event_attr attr = including_attr();
	struct lend lends[5];
	int i, fds[5];

	for (i = 0; i < 5; i++) {
		lends[i] = lend_open();
		TEST_ASSERT_EQ(lend_create(&lends[i]), 0);
	}
	for (i = 0; i < 5; i++) {
		expect_open(&attr, 0, -1, -EOPNOTSUPP);
		lend_close(&lends[i]);
	}
	for (i = 0; i < 5; i++)
		fds[i] = host_event_open_ok(&attr, 0, -1);
	for (i = 0; i < 5; i++) {
		expect_create(&self->lend, -EBUSY);
		close(fds[i]);
	}
	expect_balanced(self);
}

/* A child that waits, with the events that it has inherited. */
struct child {
	pid_t pid;
	int pipe[2];
};

static struct child child_start(void)
{
	struct child c;
	char byte;

	TEST_ASSERT(!pipe(c.pipe), "pipe() failed");
	c.pid = fork();
	TEST_ASSERT(c.pid >= 0, "fork() failed: %s", strerror(errno));
	if (!c.pid) {
		/* A test that fails doesn't leave it behind. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(read(c.pipe[0], &byte, 1) != 1);
	}
	return c;
}

static void child_end(struct child *c)
{
	char byte = 0;
	int status;

	/* Not by an end of file: children have the pipes of others, too. */
	TEST_ASSERT_EQ(write(c->pipe[1], &byte, 1), 1);
	TEST_ASSERT_EQ(waitpid(c->pid, &status, 0), c->pid);
	TEST_ASSERT_EQ(status, 0);
	close(c->pipe[0]);
	close(c->pipe[1]);
}

/* Inherited copies are part of their event, whoever goes first. */
TEST_F(lend, inherited_on_fork)
{
	struct perf_event_attr attr = including_attr();
	struct child a, b;
	int fd;

	attr.inherit = 1;
	fd = host_event_open_ok(&attr, 0, -1);
	a = child_start();
	b = child_start();
	expect_create(&self->lend, -EBUSY);
	child_end(&a);
	expect_create(&self->lend, -EBUSY);
	child_end(&b);
	expect_create(&self->lend, -EBUSY);
	close(fd);
	expect_balanced(self);
}

/* The file is what keeps an event; a child that has it keeps it. */
TEST_F(lend, file_shared_by_fork)
{
	struct perf_event_attr attr = including_attr();
	struct child c;
	int fd;

	fd = host_event_open_ok(&attr, 0, -1);
	c = child_start();
	close(fd);
	expect_create(&self->lend, -EBUSY);
	child_end(&c);
	expect_balanced(self);
}

/* An event that excludes guests can be inherited any time. */
TEST_F(lend, fork_while_lent)
{
	struct perf_event_attr attr = host_event_attr();
	struct child c;
	int fd;

	attr.inherit = 1;
	attr.disabled = 0;
	fd = host_event_open_ok(&attr, 0, -1);
	TEST_ASSERT_EQ(lend_create(&self->lend), 0);
	c = child_start();
	child_end(&c);
	lend_release(&self->lend);
	close(fd);
	expect_balanced(self);
}

/* Not even an event that comes to nothing is in the way afterwards. */
TEST_F(lend, refused_for_other_reasons)
{
	struct perf_event_attr attr = including_attr();
	struct perf_event_attr bad;
	int i;

	for (i = 0; i < 100; i++) {
		bad = attr;
		bad.config = PERF_COUNT_HW_MAX;
		TEST_ASSERT(host_event_open(&bad, 0, -1) < 0, "No error");
		bad = attr;
		bad.precise_ip = 3;
		bad.exclude_guest = 0;
		bad.sample_period = 0;
		bad.aux_output = 1;
		TEST_ASSERT(host_event_open(&bad, 0, -1) < 0, "No error");
		TEST_ASSERT(host_event_open(&attr, 0x7ffffff0, -1) < 0, "No error");
		TEST_ASSERT(host_event_open(&attr, -1, 4095) < 0, "No error");
		/* A group with itself, in another context. */
		TEST_ASSERT(syscall(SYS_perf_event_open, &attr, 0, -1, 0, 0) < 0, "No error");
	}
	expect_balanced(self);
}

/* An event whose creation has many steps that can fail. */
static struct perf_event_attr sampling_attr(void)
{
	struct perf_event_attr attr = including_attr();

	attr.sample_period = 1000000007;
	attr.sample_type = PERF_SAMPLE_CALLCHAIN;
	return attr;
}

/* On all error paths: the functions on the way to an event fail, one by one. */
static const char *const steps[] = {
	"perf_try_init_event", "get_callchain_buffers", "find_get_context",
	"find_get_pmu_context", "anon_inode_getfile",
};

static void fail_to_open(FIXTURE_DATA(lend) *self, const char *step)
{
	struct perf_event_attr attr = sampling_attr();
	unsigned int hits;
	int fd;

	lend_fail_start(&self->lend, step, -ENOMEM);
	fd = host_event_open(&attr, 0, -1);
	hits = lend_fail_stop(&self->lend);
	TEST_ASSERT(hits && fd < 0, "%s() failed %u times, perf_event_open(): %d", step, hits, fd);
}

TEST_F(lend, failing_open)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		fail_to_open(self, steps[i]);
		expect_balanced(self);
	}
}

/* ... and the state that a security module has of an event goes with the event. */
TEST_F(lend, security_state)
{
	struct perf_event_attr attr = sampling_attr();
	struct lend_lsm lsm;
	unsigned int i;
	int fd;

	if (!self->has_lsm)
		SKIP(return, "needs CONFIG_SECURITY");
	fd = host_event_open_ok(&attr, 0, -1);
	lsm = lend_lsm_read(&self->lend);
	TEST_ASSERT(lsm.attached == 1 && !lsm.freed, "Shown %llu events, has to free %llu",
		    lsm.attached, lsm.freed);
	close(fd);
	for (i = 0; i < ARRAY_SIZE(steps); i++)
		fail_to_open(self, steps[i]);
	/* The module itself may refuse. */
	fail_to_open(self, "security_perf_event_alloc");
	lsm = lend_lsm_read(&self->lend);
	TEST_ASSERT(lsm.attached > 1, "Shown no event that failed later");
	expect_balanced(self);
}

/*
 * Each allocation of memory on the way fails, one by one, by whichever of the
 * allocator's functions.
 */
static const char *const allocators[] = {
	"kmem_cache_alloc_noprof", "kmem_cache_alloc_node_noprof", "kmem_cache_alloc_lru_noprof",
	"__kmalloc_noprof", "__kmalloc_node_noprof", "__kmalloc_cache_noprof",
	"__kmalloc_cache_node_noprof", "__kvmalloc_node_noprof",
	/* Rust's. */
	"krealloc_node_align_noprof",
};

/*
 * What is tried while the @nth call of @allocator fails; true if it succeeded.
 * Tells whether there was such a call.
 */
typedef bool (*attempt_t)(struct lend *lend, const char *allocator, unsigned int nth, bool *hit);

/* Returns how many attempts have failed. */
static int fail_allocations(FIXTURE_DATA(lend) *self, const char *allocator, attempt_t attempt)
{
	unsigned int nth = 0;
	int failures = 0;
	bool done, hit;

	do {
		done = attempt(&self->lend, allocator, ++nth, &hit);
		TEST_ASSERT(done || hit, "Failed although all %u calls of %s() succeeded", nth - 1,
			    allocator);
		failures += !done;
		expect_balanced(self);
	} while (hit);
	return failures;
}

static void fail_all_allocations(FIXTURE_DATA(lend) *self, attempt_t attempt)
{
	/* Not on the console, please. */
	int level = host_sysctl_set("kernel/printk", 1);
	int failures = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(allocators); i++)
		failures += fail_allocations(self, allocators[i], attempt);
	host_sysctl_set("kernel/printk", level);
	printf("# %d attempts failed for want of memory\n", failures);
	TEST_ASSERT(failures > 3, "Allocations don't fail");
}

static bool open_event(struct lend *lend, const char *allocator, unsigned int nth, bool *hit)
{
	struct perf_event_attr attr = sampling_attr();
	int fd;

	lend_fail_start_nth(lend, allocator, 0, nth);
	fd = host_event_open(&attr, 0, -1);
	*hit = lend_fail_stop(lend);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

TEST_F(lend, open_without_memory)
{
	fail_all_allocations(self, open_event);
}

TEST_F(lend, failing_vcpu)
{
	const char *const symbols[] = {
		"kvm_mmu_create", "kvm_create_lapic",
		host_cpu_is_amd ? "svm_vcpu_create" : "vmx_vcpu_create", "anon_inode_getfd",
	};
	unsigned int i, hits;
	struct kvm_vm *vm;
	int fd;

	for (i = 0; i < ARRAY_SIZE(symbols); i++) {
		vm = vm_create(1);
		lend_fail_start(&self->lend, symbols[i], -ENOMEM);
		fd = create_vcpu(vm, 0);
		hits = lend_fail_stop(&self->lend);
		TEST_ASSERT(hits && fd == -ENOMEM, "%s() failed %u times, KVM_CREATE_VCPU: %d",
			    symbols[i], hits, fd);
		/* The VM can have its vCPU yet. */
		expect_create_vcpu(vm, 0, 0);
		kvm_vm_free(vm);
		expect_balanced(self);

		/* ... or go without ever having had one. */
		vm = vm_create(1);
		lend_fail_start(&self->lend, symbols[i], -ENOMEM);
		fd = create_vcpu(vm, 0);
		lend_fail_stop(&self->lend);
		kvm_vm_free(vm);
		expect_balanced(self);
	}
}

static bool create_first_vcpu(struct lend *lend, const char *allocator, unsigned int nth,
			      bool *hit)
{
	struct kvm_vm *vm = vm_create(1);
	int fd;

	lend_fail_start_nth(lend, allocator, 0, nth);
	fd = create_vcpu(vm, 0);
	*hit = lend_fail_stop(lend);
	/* Not to be tried again: KVM may keep one of two memory slots, and trip over it. */
	if (fd >= 0)
		close(fd);
	kvm_vm_free(vm);
	return fd >= 0;
}

TEST_F(lend, vcpu_without_memory)
{
	fail_all_allocations(self, create_first_vcpu);
}

/* Openers against creators: never are both in at once. */
#define RACE_USECS	300000

struct race {
	atomic_int nr_events;
	atomic_int nr_users;
	atomic_int both;
	atomic_int surprises;
	atomic_ulong opened;
	atomic_ulong created;
	atomic_bool stop;
};

static void racers_rest(unsigned int *seed)
{
	struct timespec t = { .tv_nsec = rand_r(seed) % 50000 };

	nanosleep(&t, NULL);
}

static void *opener_thread(void *arg)
{
	struct perf_event_attr attr = including_attr();
	unsigned int seed = gettid();
	struct race *race = arg;
	int fd;

	while (!race->stop) {
		fd = host_event_open(&attr, 0, -1);
		if (fd >= 0) {
			race->nr_events++;
			race->both += !!race->nr_users;
			race->opened++;
			race->nr_events--;
			close(fd);
		} else {
			race->surprises += fd != -EOPNOTSUPP;
		}
		racers_rest(&seed);
	}
	return NULL;
}

static void *creator_thread(void *arg)
{
	struct lend lend = lend_open();
	unsigned int seed = gettid();
	struct race *race = arg;
	int r;

	while (!race->stop) {
		r = lend_create(&lend);
		if (!r) {
			race->nr_users++;
			race->both += !!race->nr_events;
			race->created++;
			race->nr_users--;
			lend_release(&lend);
		} else {
			race->surprises += r != -EBUSY;
		}
		racers_rest(&seed);
	}
	lend_close(&lend);
	return NULL;
}

TEST_F(lend, race)
{
	pthread_t threads[4];
	struct race race = {};
	int i;

	for (i = 0; i < 4; i++)
		TEST_ASSERT(!pthread_create(&threads[i], NULL,
					    i % 2 ? opener_thread : creator_thread, &race),
			    "pthread_create() failed");
	usleep(RACE_USECS);
	race.stop = true;
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	printf("# %lu events opened, the PMU reserved %lu times\n", race.opened, race.created);
	TEST_ASSERT(race.opened > 50 && race.created > 50, "This was no race");
	TEST_ASSERT(!race.both, "%d times both were in", race.both);
	TEST_ASSERT(!race.surprises, "%d unexpected errors", race.surprises);
	expect_balanced(self);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
