// SPDX-License-Identifier: GPL-2.0
/*
 * Registers of the PMU that somebody else has written.
 *
 * Firmware, a kernel before this one, S3, or root's tools leave what they like in
 * selectors, counters and controls; here the msr driver does, before a guest first
 * runs and in between. A guest counts what it asked for all the same, and itself
 * alone; the host gets no NMI for it, and perf isn't confused afterwards. What of the
 * status isn't a counter's is left as it is.
 *
 * The NMI watchdog's event is off where the host's NMIs are counted, and where a
 * register is looked at that the event is in.
 */
#include <asm/msr.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "host_event.h"
#include "host_msr.h"
#include "host_sysctl.h"
#include "kmsg.h"
#include "lend.h"
#include "payloads.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define LVTPC_NMI	0x400
#define HOST_ROUNDS	50000

/* IA32_PERF_GLOBAL_STATUS: Trace_ToPA_PMI, CTR_FRZ and OvfUncore. */
#define STATUS_TOPA_PMI	BIT_ULL(55)
#define STATUS_CTR_FRZ	BIT_ULL(59)
#define STATUS_UNCORE	BIT_ULL(61)

static uint64_t guest_all_counters(void)
{
	return guest_gp_mask() | guest_fixed_mask();
}

static uint64_t guest_fixed_counter(unsigned int i)
{
	return __rdpmc(INTEL_RDPMC_FIXED | i);
}

/* All of the counters from @first on are 0. */
static void guest_expect_nothing(unsigned int first)
{
	unsigned int i;

	for (i = first; i < guest_nr_gp(); i++)
		__GUEST_ASSERT(!__rdpmc(i), "Counter %u is %lu", i,
			       (uint64_t)__rdpmc(i));
	for (i = 0; i < guest_nr_fixed(); i++)
		__GUEST_ASSERT(!guest_fixed_counter(i), "Fixed counter %u is %lu", i,
			       guest_fixed_counter(i));
	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()), 0);
}

/* Each guest has the host write registers at each GUEST_SYNC(). */
#define NR_ROUNDS	3

/* No selector is on, no fixed counter. */
static void guest_counts_nothing(void)
{
	int i;

	guest_pmu_clear();
	for (i = 0; i < NR_ROUNDS; i++) {
		GUEST_SYNC(i);
		payload_nop.run(vpmu_msr_global_ctrl(), guest_all_counters(), 0);
		guest_expect_nothing(0);
	}
	GUEST_DONE();
}

static void guest_counts_instructions(void)
{
	int i;

	guest_pmu_clear();
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()));
	for (i = 0; i < NR_ROUNDS; i++) {
		wrmsr(vpmu_msr_counter(0), 0);
		GUEST_SYNC(i);
		payload_nop.run(vpmu_msr_global_ctrl(), guest_all_counters(), 0);
		GUEST_ASSERT_EQ(__rdpmc(0), payload_nop.insns);
		guest_expect_nothing(1);
	}
	GUEST_DONE();
}

static void guest_keeps_counters(void)
{
	int i;

	guest_pmu_clear();
	wrmsr(vpmu_msr_counter(0), 5);
	for (i = 0; i < NR_ROUNDS; i++) {
		GUEST_SYNC(i);
		GUEST_ASSERT_EQ(__rdpmc(0), 5);
		guest_expect_nothing(1);
	}
	GUEST_DONE();
}

struct left {
	uint32_t msr;
	uint64_t value;
};

/* The global control with all of what the processor has. */
#define ALL_ON	UINT64_MAX

static uint64_t all_on(int cpu)
{
	const unsigned int nr_gp = vpmu_config_host().nr_gp;
	uint64_t fixed;

	fixed = (BIT_ULL(vpmu_config_host().nr_fixed) - 1) |
		this_cpu_property(X86_PROPERTY_PMU_FIXED_COUNTERS_BITMASK);
	return (BIT_ULL(nr_gp) - 1) | fixed << 32 |
	       (host_msr_read(cpu, MSR_IA32_PERF_CAPABILITIES) & VPMU_CAP_METRICS) << 33;
}

FIXTURE(left) {
	struct lend lend;
	struct kmsg kmsg;
	bool nmi_watchdog;
	int disabled_event;
	int cpu;
};

/**
 * FIXTURE_VARIANT(left) - what is left, and the guest that is not to notice
 * @guest: the guest's code
 * @intel: registers of Intel's processors, and what is written there
 * @amd: the same of AMD's
 * @overflows: as soon as it is written, in the host, which gets an NMI without any guest. That
 *	       has nothing to say that it is for no counter if there is an event, wherever it is.
 * @masks_lvtpc: LVTPC is masked by then
 * @beside_watchdog: with the NMI watchdog on
 */
FIXTURE_VARIANT(left) {
	void (*guest)(void);
	struct left intel[3];
	struct left amd[3];
	bool overflows;
	bool masks_lvtpc;
	bool beside_watchdog;
};

#define MINUS(_n)	(BIT_ULL(48) - (_n))

#define LEFT(_name, ...)							\
FIXTURE_VARIANT_ADD(left, _name) { __VA_ARGS__ };				\
FIXTURE_VARIANT_ADD(left, _name##_beside_watchdog) { __VA_ARGS__, .beside_watchdog = true }

LEFT(fixed_ctrl, .guest = guest_counts_nothing,
     .intel = { { MSR_CORE_PERF_FIXED_CTR_CTRL, 0x33 } });
LEFT(selector, .guest = guest_counts_nothing,
     .intel = { { MSR_P6_EVNTSEL0 + 3, 0x4300c0 } },
     .amd = { { MSR_F15H_PERF_CTL0 + 6, 0x4300c0 } });
LEFT(global_ctrl, .guest = guest_counts_instructions,
     .intel = { { MSR_CORE_PERF_GLOBAL_CTRL, 0x3f } },
     .amd = { { MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0x3f } });
LEFT(counter, .guest = guest_keeps_counters,
     .intel = { { MSR_IA32_PMC0, 0x1234 } },
     .amd = { { MSR_F15H_PERF_CTR0, 0x1234 } });
LEFT(overflow, .guest = guest_counts_nothing,
     .intel = { { MSR_CORE_PERF_GLOBAL_CTRL, 0 }, { MSR_CORE_PERF_FIXED_CTR_CTRL, 0x3bb },
		{ MSR_CORE_PERF_FIXED_CTR0, MINUS(100) } },
     .amd = { { MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0 }, { MSR_F15H_PERF_CTL0, 0x5300c0 },
	      { MSR_F15H_PERF_CTR0, MINUS(100) } });
/* Of such an overflow perf's driver for AMD warns by itself, guests or not. */
LEFT(counting_to_overflow, .guest = guest_counts_nothing,
     .intel = { { MSR_CORE_PERF_FIXED_CTR_CTRL, 0x3bb }, { MSR_CORE_PERF_FIXED_CTR0, MINUS(100) },
		{ MSR_CORE_PERF_GLOBAL_CTRL, ALL_ON } },
     .overflows = true);
LEFT(masked, .guest = guest_counts_nothing,
     .intel = { { MSR_CORE_PERF_FIXED_CTR_CTRL, 0 } },
     .amd = { { MSR_F15H_PERF_CTL0, 0 } },
     .masks_lvtpc = true);
LEFT(overflowed, .guest = guest_counts_instructions,
     .intel = { { VPMU_MSR_GLOBAL_STATUS_SET, BIT_ULL(0) | BIT_ULL(33) } },
     .amd = { { MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET, BIT_ULL(0) | BIT_ULL(5) } });
LEFT(frozen, .guest = guest_counts_instructions,
     .intel = { { VPMU_MSR_GLOBAL_STATUS_SET, STATUS_CTR_FRZ } });
LEFT(everything, .guest = guest_counts_nothing,
     .intel = { { MSR_CORE_PERF_FIXED_CTR_CTRL, 0xbbb }, { MSR_P6_EVNTSEL0, 0x5300c0 },
		{ MSR_CORE_PERF_GLOBAL_CTRL, 0x7000000ff } },
     .amd = { { MSR_F15H_PERF_CTL0 + 10, 0x5300c2 }, { MSR_F15H_PERF_CTL0, 0x5300c0 },
	      { MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0x3f } });

static const struct left *left_of(const FIXTURE_VARIANT(left) *variant)
{
	return host_cpu_is_amd ? variant->amd : variant->intel;
}

FIXTURE_SETUP(left)
{
	struct perf_event_attr attr = host_event_attr();

	VPMU_REQUIRE_MEDIATED();
	LEND_REQUIRE();
	self->nmi_watchdog = nmi_watchdog_set(variant->beside_watchdog);
	self->lend = lend_open();
	self->cpu = pin_self_to_any_cpu();
	self->disabled_event = variant->overflows ? host_event_open_ok(&attr, 0, -1) : -1;
	kmsg_start(&self->kmsg);
}

FIXTURE_TEARDOWN(left)
{
	kmsg_stop(&self->kmsg);
	if (self->disabled_event >= 0)
		close(self->disabled_event);
	lend_close(&self->lend);
	nmi_watchdog_set(self->nmi_watchdog);
}

/* Returns how many NMIs the host got from that. */
static uint64_t leave(int cpu, const struct left *left)
{
	uint64_t nmis = host_interrupts("NMI", cpu);
	int i;

	for (i = 0; i < 3 && left[i].msr; i++)
		host_msr_write(cpu, left[i].msr,
			       left[i].value == ALL_ON ? all_on(cpu) : left[i].value);
	return host_interrupts("NMI", cpu) - nmis;
}

/*
 * A guest that was run before the registers were written has counted by then, too. Each write
 * is to overflow in the host, or none. Returns how many NMIs the host got from them.
 */
static uint64_t run_guest(int cpu, void (*guest)(void), const struct left *left, bool overflows)
{
	const struct vpmu_config config = vpmu_config_max();
	uint64_t nmis, sum = 0;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vpmu_vm_create(&vcpu, guest, &config);
	/* Of a PMU that is at rest nobody would look what is in the registers. */
	vpmu_stay_awake(vcpu, &config);
	do {
		nmis = leave(cpu, left);
		TEST_ASSERT(nmis || !overflows, "Nothing has overflown in the host");
		sum += nmis;
	} while (vpmu_run(vcpu) == VPMU_SYNC);
	kvm_vm_free(vm);
	return sum;
}

/* Fixed counters and others, each for itself. */
static void expect_perf_counts(void)
{
	static const uint64_t events[] = { PERF_COUNT_HW_INSTRUCTIONS, PERF_COUNT_HW_CPU_CYCLES,
					   PERF_COUNT_HW_BRANCH_INSTRUCTIONS };
	struct perf_event_attr attr = host_event_attr();
	uint64_t irqs_before = host_all_interrupts();
	struct host_count c;
	unsigned int i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(events); i++) {
		attr.config = events[i];
		fd = host_event_open_ok(&attr, 0, -1);
		host_event_enable(fd);
		host_loop(HOST_ROUNDS);
		host_event_disable(fd);
		c = host_event_read(fd);
		close(fd);
		TEST_ASSERT_EQ(c.enabled, c.running);
		TEST_ASSERT(c.value >= HOST_ROUNDS, "Event %lu counts %lu", events[i], c.value);
	}
	attr = host_event_attr();
	fd = host_event_open_ok(&attr, 0, -1);
	host_expect_count(host_loop_count(fd, HOST_ROUNDS) - host_loop_frame(fd),
			  HOST_ROUNDS * HOST_LOOP_INSNS, irqs_before);
	close(fd);
}

TEST_F(left, is_nobodys)
{
	const struct left *left = left_of(variant);
	const struct lend_run how = {};
	struct lend_run run;
	uint64_t nmis;

	if (!left->msr)
		SKIP(return, "no such register");
	if (variant->beside_watchdog && !nmi_watchdog_is_on())
		SKIP(return, "no NMI watchdog");
	if (variant->masks_lvtpc)
		lend_mask_lvtpc(&self->lend);
	nmis = host_interrupts("NMI", self->cpu);
	nmis += run_guest(self->cpu, variant->guest, left, variant->overflows);
	if (!variant->beside_watchdog)
		TEST_ASSERT_EQ(host_interrupts("NMI", self->cpu), nmis);
	TEST_ASSERT(!kmsg_count(&self->kmsg, "unknown reason"), "An NMI that nobody claims");
	/* An event that is added would unmask it. */
	TEST_ASSERT_EQ(lend_create(&self->lend), 0);
	run = lend_run(&self->lend, &how, NULL);
	TEST_ASSERT_EQ(run.before.lvtpc, LVTPC_NMI);
	lend_release(&self->lend);
	expect_perf_counts();
}

/* The same by the other way to write a register. */
static void write_by_ioctl(int cpu, uint32_t msr, uint64_t value)
{
	uint32_t regs[8] = { [0] = value, [1] = msr, [2] = value >> 32 };
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
	fd = open(path, O_RDWR);
	TEST_ASSERT(fd >= 0, "Cannot open %s", path);
	TEST_ASSERT(!ioctl(fd, X86_IOC_WRMSR_REGS, regs), "Cannot write MSR %x", msr);
	close(fd);
}

TEST(written_by_ioctl)
{
	const struct vpmu_config config = vpmu_config_max();
	int cpu = pin_self_to_any_cpu();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	vm = vpmu_vm_create(&vcpu, guest_counts_nothing, &config);
	vpmu_stay_awake(vcpu, &config);
	do {
		write_by_ioctl(cpu, vpmu_msr_selector(3), 0x4300c0);
	} while (vpmu_run(vcpu) == VPMU_SYNC);
	kvm_vm_free(vm);
}

/* Bits of the status that aren't a counter's: they stay, and no guest sees them. */
TEST(others_status)
{
	const uint64_t others = STATUS_TOPA_PMI | STATUS_UNCORE;
	const struct left left[3] = { { VPMU_MSR_GLOBAL_STATUS_SET, others } };
	int cpu = pin_self_to_any_cpu();
	bool nmi_watchdog;
	uint64_t status;

	vpmu_require_intel();
	VPMU_REQUIRE_MEDIATED();
	/* Its handler would acknowledge them, as perf does all that it finds. */
	nmi_watchdog = nmi_watchdog_set(false);
	run_guest(cpu, guest_counts_instructions, left, false);
	status = host_msr_read(cpu, MSR_CORE_PERF_GLOBAL_STATUS);
	host_msr_write(cpu, MSR_CORE_PERF_GLOBAL_OVF_CTRL, others);
	nmi_watchdog_set(nmi_watchdog);
	TEST_ASSERT_EQ(status, others);
}

/* Without any guest: the last event of a CPU leaves nothing behind. */
TEST(events_leave_nothing)
{
	struct perf_event_attr attr = host_event_attr();
	int cpu = pin_self_to_any_cpu(), fd;
	bool nmi_watchdog;
	uint64_t ctrl;

	vpmu_require_intel();
	/* One event less in the register that is looked at. */
	nmi_watchdog = nmi_watchdog_set(false);
	attr.config = PERF_COUNT_HW_CPU_CYCLES;
	fd = host_event_open_ok(&attr, -1, cpu);
	host_event_enable(fd);
	host_loop(HOST_ROUNDS);
	close(fd);
	ctrl = host_msr_read(cpu, MSR_CORE_PERF_FIXED_CTR_CTRL);
	nmi_watchdog_set(nmi_watchdog);
	TEST_ASSERT_EQ(ctrl, 0);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	TEST_REQUIRE(host_msr_is_available(0));
	return test_harness_run(argc, argv);
}
