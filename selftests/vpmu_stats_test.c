// SPDX-License-Identifier: GPL-2.0
/*
 * What the vCPU's statistics and KVM's tracepoints say of a mediated PMU, held
 * against what was done to it: loads, counters that needed no write, PMIs, and
 * events that the filter denies.
 *
 * The kernel's Documentation/virt/kvm/x86/vpmu-backends.rst says what each means.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "apic.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define APIC_LVTPC	0x340
#define PMI_VECTOR	0x52

#define ROUNDS		10
#define NR_PMIS		5
#define NR_SELECTORS	64

DEFINE_PAYLOAD(long_loop,
	"mov $4000, %%ecx\n\t"
	"1: loop 1b\n\t",
	1 + 4000, 4000);

static void guest_pmi_handler(struct ex_regs *regs)
{
	wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	x2apic_write_reg(APIC_EOI, 0);
}

/* @nr counters hold something, and nothing counts. */
static void guest_hold(uint64_t nr)
{
	unsigned int i;

	guest_pmu_clear();
	for (i = 0; i < nr; i++)
		wrmsr(vpmu_msr_counter(i), 1000 + i);
	for (;;)
		GUEST_SYNC(0);
}

static void guest_overflow(uint32_t lvtpc)
{
	int i;

	x2apic_enable();
	guest_pmu_clear();
	x2apic_write_reg(APIC_LVTPC, lvtpc);
	wrmsr(vpmu_msr_selector(0),
	      VPMU_SEL_OS(vpmu_event_branches()) | ARCH_PERFMON_EVENTSEL_INT);
	GUEST_SYNC(0);
	sti();
	for (i = 0; i < NR_PMIS; i++) {
		wrmsr(vpmu_msr_full_counter(0), -2000ull & guest_counter_mask());
		payload_long_loop.run(vpmu_msr_global_ctrl(), BIT_ULL(0), 0);
		wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	}
	GUEST_SYNC(1);
}

/* Of these deny() has the first, and the first fixed counter where there is one. */
static void guest_select(void)
{
	guest_pmu_clear();
	for (;;) {
		GUEST_SYNC(0);
		wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
		wrmsr(vpmu_msr_selector(1), VPMU_SEL_OS(vpmu_event_branches()));
		/* Not enabled. */
		wrmsr(vpmu_msr_selector(2), vpmu_event_insns());
		guest_fixed_select(FIXED_PMC_CTRL(0, FIXED_PMC_KERNEL) |
				   FIXED_PMC_CTRL(1, FIXED_PMC_KERNEL));
	}
}

/* Selectors, while counter 0 counts instructions. */
static void guest_select_often(void)
{
	uint64_t i;

	guest_pmu_clear();
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
	wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0) | BIT_ULL(1));
	for (;;) {
		GUEST_SYNC(0);
		for (i = 0; i < NR_SELECTORS; i++)
			wrmsr(vpmu_msr_selector(1),
			      VPMU_SEL_OS(i % 2 ? vpmu_event_branches() : vpmu_event_cycles()));
	}
}

/**
 * struct figures - a vCPU's statistics
 * @loads: how often its PMU was loaded
 * @wakeups: how often it had been at rest before
 * @elided: counters that needed no write then
 * @pmis: PMIs that were delivered
 * @filtered: events that the filter denied
 */
struct figures {
	uint64_t loads;
	uint64_t wakeups;
	uint64_t elided;
	uint64_t pmis;
	uint64_t filtered;
};

static struct figures figures_of(struct kvm_vcpu *vcpu)
{
	return (struct figures) {
		.loads = vcpu_get_stat(vcpu, vpmu_loads),
		.wakeups = vcpu_get_stat(vcpu, vpmu_wakeups),
		.elided = vcpu_get_stat(vcpu, vpmu_writes_elided),
		.pmis = vcpu_get_stat(vcpu, vpmu_pmis),
		.filtered = vcpu_get_stat(vcpu, vpmu_filter_denials),
	};
}

static struct figures since(struct kvm_vcpu *vcpu, const struct figures *before)
{
	struct figures now = figures_of(vcpu);

	return (struct figures) {
		.loads = now.loads - before->loads,
		.wakeups = now.wakeups - before->wakeups,
		.elided = now.elided - before->elided,
		.pmis = now.pmis - before->pmis,
		.filtered = now.filtered - before->filtered,
	};
}

/* Its PMU is loaded whenever the guest is entered. */
static struct kvm_vm *create(struct kvm_vcpu **vcpu, void *guest_code, uint64_t arg)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest_code, &config);

	vpmu_stay_awake(*vcpu, &config);
	vm_install_exception_handler(vm, PMI_VECTOR, guest_pmi_handler);
	vcpu_args_set(*vcpu, 1, arg);
	return vm;
}

static void run(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
}

static unsigned int nr_counters(void)
{
	struct vpmu_config config = vpmu_config_max();

	return config.nr_gp + config.nr_fixed;
}

/*
 * Guests by turns on one CPU: the PMU must be loaded for each turn, and of its
 * counters those be written that the other one has had differently.
 */
static void test_turns(uint64_t nr_a, uint64_t nr_b, uint64_t written)
{
	struct kvm_vcpu *a, *b;
	struct kvm_vm *vm_a = create(&a, guest_hold, nr_a);
	struct kvm_vm *vm_b = create(&b, guest_hold, nr_b);
	struct figures before, after;
	/* On AMD its event is on a counter like any of the guest's, which that loses by it. */
	const bool nmi_watchdog = nmi_watchdog_set(false);
	int i;

	pin_self_to_any_cpu();
	run(a);
	run(b);
	before = figures_of(a);
	for (i = 0; i < ROUNDS; i++) {
		run(a);
		run(b);
	}
	after = since(a, &before);
	nmi_watchdog_set(nmi_watchdog);
	TEST_ASSERT(after.loads >= ROUNDS, "%lu loads in %d turns", after.loads, ROUNDS);
	TEST_ASSERT(after.loads * nr_counters() - after.elided == ROUNDS * written,
		    "%lu loads, %lu counters elided, expected %lu written in each of %d turns",
		    after.loads, after.elided, written, ROUNDS);
	TEST_ASSERT_EQ(after.pmis, 0);
	TEST_ASSERT_EQ(after.filtered, 0);
	kvm_vm_free(vm_a);
	kvm_vm_free(vm_b);
}

TEST(writes_elided)
{
	VPMU_REQUIRE_MEDIATED();
	test_turns(0, 0, 0);
	test_turns(3, 0, 3);
	test_turns(1, 5, 4);
	test_turns(5, 5, 0);
}

/*
 * Where VM-entry doesn't count, KVM's fastpath has them written. But for the host's
 * timer there is nothing to leave it for.
 */
TEST(selectors_in_fastpath)
{
	struct figures before, after;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	if (!host_cpu_is_intel)
		SKIP(return, "needs a processor whose VM-entry doesn't count");
	vm = create(&vcpu, guest_select_often, 0);
	run(vcpu);
	before = figures_of(vcpu);
	run(vcpu);
	after = since(vcpu, &before);
	TEST_ASSERT(after.loads < NR_SELECTORS / 4, "%lu loads for %d selectors", after.loads,
		    NR_SELECTORS);
	kvm_vm_free(vm);
}

/* A filter of userspace's comes before any path. */
TEST(selectors_of_msr_filter)
{
	uint8_t bitmap[1] = { 0 };
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = {
			.flags = KVM_MSR_FILTER_WRITE,
			.base = vpmu_msr_selector(1),
			.nmsrs = 1,
			.bitmap = bitmap,
		},
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_select_often, 0);
	run(vcpu);
	vm_enable_cap(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER);
	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);
	for (i = 0; i < ROUNDS; i++) {
		vcpu_run(vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_X86_WRMSR);
		TEST_ASSERT_EQ(vcpu->run->msr.index, vpmu_msr_selector(1));
		vcpu->run->msr.error = 0;
	}
	kvm_vm_free(vm);
}

static void test_pmis(uint32_t lvtpc, uint64_t expected)
{
	struct figures before, after;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_overflow, lvtpc);

	run(vcpu);
	before = figures_of(vcpu);
	run(vcpu);
	after = since(vcpu, &before);
	TEST_ASSERT(after.pmis == expected, "%lu PMIs of %d overflows, expected %lu", after.pmis,
		    NR_PMIS, expected);
	kvm_vm_free(vm);
}

TEST(pmis)
{
	VPMU_REQUIRE_MEDIATED();
	test_pmis(PMI_VECTOR, NR_PMIS);
	test_pmis(PMI_VECTOR | APIC_LVT_MASKED, 0);
}

/* The first instruction counters; of the fixed ones the first. */
static void deny(struct kvm_vm *vm)
{
	static struct {
		struct kvm_pmu_event_filter header;
		uint64_t events[1];
	} filter = {
		.header.action = KVM_PMU_EVENT_DENY,
		.header.nevents = 1,
		.header.fixed_counter_bitmap = BIT(0),
	};

	filter.events[0] = vpmu_event_insns();
	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter.header);
}

static unsigned int nr_denied(void)
{
	return vpmu_config_max().nr_fixed ? 2 : 1;
}

static void expect_filtered(struct kvm_vcpu *vcpu, uint64_t expected)
{
	struct figures before = figures_of(vcpu), after;

	run(vcpu);
	after = since(vcpu, &before);
	TEST_ASSERT(after.filtered == expected, "%lu events filtered, expected %lu",
		    after.filtered, expected);
}

TEST(events_filtered)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_select, 0);
	expect_filtered(vcpu, 0);
	expect_filtered(vcpu, 0);
	/* What is programmed already, and what is programmed anew. */
	deny(vm);
	expect_filtered(vcpu, nr_denied() + nr_denied());
	expect_filtered(vcpu, nr_denied());
	kvm_vm_free(vm);
}

/* KVM's own vPMU has nothing to do with these. */
TEST(nothing_of_emulated)
{
	static const char own[] = "vpmu_loads";
	struct kvm_stats_header header;
	struct kvm_stats_desc *descs;
	struct figures figures;
	struct kvm_vcpu *vcpu;
	bool found = false;
	struct kvm_vm *vm;
	int i;

	if (vpmu_is_mediated())
		SKIP(return, "needs the emulated vPMU");
	vm = create(&vcpu, guest_overflow, PMI_VECTOR);
	read_stats_header(vcpu->stats.fd, &header);
	descs = read_stats_descriptors(vcpu->stats.fd, &header);
	for (i = 0; i < header.num_desc; i++)
		found |= !strcmp(get_stats_descriptor(descs, i, &header)->name, own);
	free(descs);
	if (!found)
		SKIP(return, "needs a kernel with vPMU backends");
	run(vcpu);
	run(vcpu);
	figures = figures_of(vcpu);
	TEST_ASSERT(!figures.loads && !figures.wakeups && !figures.elided && !figures.pmis &&
		    !figures.filtered, "%lu loads, %lu wakeups, %lu elided, %lu PMIs, %lu filtered",
		    figures.loads, figures.wakeups, figures.elided, figures.pmis, figures.filtered);
	kvm_vm_free(vm);
}

/* A VM's directory in debugfs has the sum of its vCPUs'. */
TEST(debugfs)
{
	struct figures before, after;
	struct kvm_vcpu *vcpu;
	uint64_t value = 0;
	struct kvm_vm *vm;
	char path[128];
	FILE *file;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_hold, 0);
	run(vcpu);
	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/vpmu_loads", getpid(), vm->fd);
	before = figures_of(vcpu);
	file = fopen(path, "r");
	if (!file)
		SKIP(return, "needs debugfs at /sys/kernel/debug");
	TEST_ASSERT(fscanf(file, "%lu", &value) == 1, "%s is not a number", path);
	fclose(file);
	after = since(vcpu, &before);
	TEST_ASSERT(value && value == before.loads, "%lu loads, debugfs says %lu", before.loads,
		    value);
	TEST_ASSERT_EQ(after.loads, 0);
	kvm_vm_free(vm);
}

/* --- tracepoints, in an instance of their own */

#define TRACING		"/sys/kernel/tracing"
#define INSTANCE	TRACING "/instances/vpmu_stats"

static const char * const tracepoints[] = {
	"kvm_vpmu_load", "kvm_vpmu_put", "kvm_vpmu_pmi", "kvm_vpmu_deliver_pmi",
	"kvm_vpmu_recalc_intercepts",
};

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	TEST_ASSERT(fd >= 0, "open(%s) failed: %s", path, strerror(errno));
	TEST_ASSERT(write(fd, text, strlen(text)) == strlen(text), "Writing %s failed: %s", path,
		    strerror(errno));
	close(fd);
}

static void trace(bool on)
{
	char path[128];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(tracepoints); i++) {
		snprintf(path, sizeof(path), INSTANCE "/events/kvm/%s/enable", tracepoints[i]);
		write_file(path, on ? "1" : "0");
	}
}

/**
 * struct traced - what the tracepoints saw of a vCPU
 * @hits: how often each was hit, in the order of tracepoints[]
 * @elided: the sum that kvm_vpmu_load tells
 * @lvtpc: what the last kvm_vpmu_deliver_pmi told
 */
struct traced {
	uint64_t hits[ARRAY_SIZE(tracepoints)];
	uint64_t elided;
	uint32_t lvtpc;
};

static void take_line(struct traced *t, const char *line)
{
	unsigned int i, elided;
	const char *found;
	char name[64];

	for (i = 0; i < ARRAY_SIZE(tracepoints); i++) {
		snprintf(name, sizeof(name), " %s: vcpu 0", tracepoints[i]);
		found = strstr(line, name);
		if (!found)
			continue;
		t->hits[i]++;
		if (sscanf(found + strlen(name), " elided %u", &elided) == 1)
			t->elided += elided;
		sscanf(found + strlen(name), " lvtpc %x", &t->lvtpc);
	}
}

static struct traced read_trace(void)
{
	FILE *file = fopen(INSTANCE "/trace", "r");
	struct traced t = {};
	char line[512];

	TEST_ASSERT(file, "No " INSTANCE "/trace");
	while (fgets(line, sizeof(line), file))
		take_line(&t, line);
	fclose(file);
	return t;
}

FIXTURE(trace) { };

FIXTURE_SETUP(trace)
{
	if (!vpmu_is_mediated())
		SKIP(return, "needs " VPMU_MODULE_NAME);
	if (mkdir(INSTANCE, 0700) && errno != EEXIST)
		SKIP(return, "needs tracefs at " TRACING);
	write_file(INSTANCE "/trace", "");
}

FIXTURE_TEARDOWN(trace)
{
	trace(false);
	rmdir(INSTANCE);
}

/* The tracepoints tell what the statistics do. */
TEST_F(trace, as_statistics)
{
	struct figures before, after;
	struct kvm_vcpu *vcpu;
	struct traced traced;
	struct kvm_vm *vm = create(&vcpu, guest_overflow, PMI_VECTOR);

	run(vcpu);
	before = figures_of(vcpu);
	trace(true);
	run(vcpu);
	trace(false);
	after = since(vcpu, &before);
	traced = read_trace();
	TEST_ASSERT_EQ(traced.hits[0], after.loads);
	TEST_ASSERT_EQ(traced.elided, after.elided);
	TEST_ASSERT(traced.hits[1] && traced.hits[1] <= traced.hits[0], "%lu puts of %lu loads",
		    traced.hits[1], traced.hits[0]);
	/* Each overflow raised the vector, on top of what was found at an exit. */
	TEST_ASSERT_EQ(traced.hits[2], NR_PMIS);
	TEST_ASSERT_EQ(traced.hits[3], NR_PMIS);
	TEST_ASSERT_EQ(traced.lvtpc, PMI_VECTOR);
	kvm_vm_free(vm);
}

/* What user space filters has the intercepts set anew, once. */
TEST_F(trace, recalc_intercepts)
{
	struct kvm_msr_filter filter = {};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_hold, 0);

	run(vcpu);
	trace(true);
	run(vcpu);
	TEST_ASSERT_EQ(read_trace().hits[4], 0);
	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);
	run(vcpu);
	run(vcpu);
	trace(false);
	TEST_ASSERT_EQ(read_trace().hits[4], 1);
	kvm_vm_free(vm);
}

/* Off, they see nothing. */
TEST_F(trace, off)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_overflow, PMI_VECTOR);

	trace(true);
	trace(false);
	run(vcpu);
	run(vcpu);
	TEST_ASSERT_EQ(read_trace().hits[0], 0);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
