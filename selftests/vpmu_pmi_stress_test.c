// SPDX-License-Identifier: GPL-2.0
/*
 * Each overflow interrupts the guest once, whatever happens to it meanwhile.
 *
 * A guest arms counters, one to three at a time, that overflow one after the
 * other, and counts its PMIs: as many as overflows, none without one. All the
 * while its vCPU is interrupted, preempted or moved. Every way to deliver a PMI
 * is tried: by vector and by NMI; to a local APIC in xAPIC and in x2APIC mode;
 * with APICv and without.
 */
#include <sched.h>
#include <sys/syscall.h>

#include "apic.h"
#include "disturb.h"
#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define APIC_LVTPC	0x340
#define PMI_VECTOR	0x52

#define ROUNDS_PER_SYNC	20
#define NR_SYNCS	4

/* How far a PMI may be off the event, in instructions: real hardware skids. */
#define MAX_SKID	1000
/* Overflows of a round are further apart than that, and than a handler is long. */
#define PERIOD		3000
#define MAX_ARMED	3

DEFINE_PAYLOAD(nops,
	"mov $7000, %%ecx\n\t"
	"1: nop\n\t"
	"loop 1b\n\t",
	1 + 7000 * 2, 7000);

/* Exits to the kernel and to user space in between. */
DEFINE_PAYLOAD(exits,
	"mov $13, %%r9d\n\t"
	"2: mov $500, %%ecx\n\t"
	"1: nop\n\t"
	"loop 1b\n\t"
	"xor %%eax, %%eax\n\t"
	"cpuid\n\t"
	"in $0x80, %%al\n\t"
	"dec %%r9d\n\t"
	"jnz 2b\n\t",
	1 + 13 * (1 + 500 * 2 + 5), 13 * 501);

/**
 * struct way - how a guest gets its PMIs
 * @nmi: as an NMI
 * @xapic: by a local APIC in xAPIC mode
 * @exits: with exits in between
 * @early: LVTPC is unmasked before the overflow is cleared
 */
struct way {
	bool nmi;
	bool xapic;
	bool exits;
	bool early;
};

static struct way way;

/**
 * struct seen - what the handler saw, in the guest's memory
 * @armed: counters that have yet to overflow
 * @pmis: PMIs
 * @strange: what no PMI should find: no overflow, or that of a counter not armed
 * @late: counters that went on for too long after their overflow
 */
static volatile struct {
	uint64_t armed;
	uint64_t pmis;
	uint64_t strange;
	uint64_t late;
} seen;

static void guest_write_lvtpc(void)
{
	const uint32_t lvtpc = way.nmi ? APIC_DM_NMI : PMI_VECTOR;

	if (way.xapic)
		xapic_write_reg(APIC_LVTPC, lvtpc);
	else
		x2apic_write_reg(APIC_LVTPC, lvtpc);
}

static void guest_eoi(void)
{
	if (way.nmi)
		return;
	if (way.xapic)
		xapic_write_reg(APIC_EOI, 0);
	else
		x2apic_write_reg(APIC_EOI, 0);
}

/* An overflow is one PMI, no matter how long its bit stays. */
static void guest_unmask_early(void)
{
	uint32_t ignored;

	guest_write_lvtpc();
	cpuid(0, &ignored, &ignored, &ignored, &ignored);
}

/* Bits of the global registers are RDPMC's indices. */
static uint32_t guest_rdpmc_index(unsigned int bit)
{
	return bit < 32 ? bit : INTEL_RDPMC_FIXED | (bit - 32);
}

static void guest_pmi_handler(struct ex_regs *regs)
{
	uint64_t status, bits;
	unsigned int bit;

	wrmsr(vpmu_msr_global_ctrl(), 0);
	seen.pmis++;
	status = rdmsr(vpmu_msr_global_status());
	if (!status || status & ~seen.armed)
		seen.strange++;
	for (bits = status & seen.armed; bits; bits &= bits - 1) {
		bit = __builtin_ctzll(bits);
		if (_rdpmc(guest_rdpmc_index(bit)) > MAX_SKID)
			seen.late++;
	}
	seen.armed &= ~status;
	if (way.early)
		guest_unmask_early();
	wrmsr(vpmu_msr_status_clear(), status);
	if (!way.early)
		guest_write_lvtpc();
	guest_eoi();
	wrmsr(vpmu_msr_global_ctrl(), seen.armed);
}

static uint32_t guest_random(void)
{
	static uint64_t state = 1;

	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return state >> 33;
}

static void guest_arm(unsigned int i, uint64_t after)
{
	const uint64_t value = -after & guest_counter_mask();

	/* The one after the general-purpose counters is fixed counter 0. */
	if (i == guest_nr_gp()) {
		wrmsr(MSR_CORE_PERF_FIXED_CTR0, value);
		seen.armed |= FIXED_PMC_GLOBAL_CTRL_ENABLE(0);
	} else {
		wrmsr(vpmu_msr_full_counter(i), value);
		seen.armed |= BIT_ULL(i);
	}
}

static void guest_round(const struct payload *p)
{
	const unsigned int nr_counters = guest_nr_gp() + !!guest_nr_fixed();
	const unsigned int nr = 1 + guest_random() % MAX_ARMED;
	unsigned int i, first = guest_random();

	seen.armed = 0;
	seen.pmis = 0;
	for (i = 0; i < nr; i++)
		guest_arm((first + i) % nr_counters,
			  (i + 1) * PERIOD + guest_random() % (PERIOD / 3));

	sti_nop();
	p->run(vpmu_msr_global_ctrl(), seen.armed, 0);
	cli();

	__GUEST_ASSERT(!seen.armed, "%lx did not interrupt", seen.armed);
	__GUEST_ASSERT(seen.pmis == nr, "%lu PMIs of %u overflows", seen.pmis, nr);
	__GUEST_ASSERT(!seen.strange, "%lu PMIs without a cause", seen.strange);
	__GUEST_ASSERT(!seen.late, "%lu PMIs came late", seen.late);
}

static void guest_stress(void)
{
	const struct payload *p = way.exits ? &payload_exits : &payload_nops;
	unsigned int i;

	if (way.xapic)
		xapic_enable();
	else
		x2apic_enable();
	guest_pmu_clear();
	for (i = 0; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_selector(i), VPMU_SEL_OS(vpmu_event_insns()) |
					   ARCH_PERFMON_EVENTSEL_INT);
	guest_fixed_select(FIXED_PMC_KERNEL | FIXED_PMC_ENABLE_PMI);
	guest_write_lvtpc();
	for (;;) {
		for (i = 0; i < ROUNDS_PER_SYNC; i++)
			guest_round(p);
		GUEST_SYNC(0);
	}
}

/* What else may happen to the vCPU. */
enum trouble {
	NONE,
	SIGNALS,
	PREEMPTION,
	MIGRATION,
};

FIXTURE(pmi_stress) {
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct mover mover;
	struct rival rival;
};

FIXTURE_VARIANT(pmi_stress) {
	struct way way;
	bool no_apicv;
	bool fewer;
};

#define VARIANT(_name, ...)	FIXTURE_VARIANT_ADD(pmi_stress, _name) { __VA_ARGS__ }

VARIANT(x2apic,			);
VARIANT(x2apic_exits,		.way.exits = true);
VARIANT(x2apic_fewer,		.fewer = true);
VARIANT(x2apic_nmi,		.way.nmi = true);
VARIANT(x2apic_nmi_exits,	.way.nmi = true, .way.exits = true);
VARIANT(x2apic_early,		.way.early = true);
VARIANT(x2apic_nmi_early,	.way.nmi = true, .way.early = true);
VARIANT(x2apic_no_apicv,	.no_apicv = true);
VARIANT(x2apic_no_apicv_exits,	.no_apicv = true, .way.exits = true);
VARIANT(x2apic_no_apicv_nmi,	.no_apicv = true, .way.nmi = true);
VARIANT(xapic,			.way.xapic = true);
VARIANT(xapic_exits,		.way.xapic = true, .way.exits = true);
VARIANT(xapic_nmi,		.way.xapic = true, .way.nmi = true);

static struct kvm_vm *create(struct kvm_vcpu **vcpu, const FIXTURE_VARIANT(pmi_stress) *variant)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm;

	if (variant->fewer) {
		config.nr_gp = 5;
		config.nr_fixed = 1;
	}
	vm = vpmu_vm_create(vcpu, guest_stress, &config);
	write_guest_global(vm, way, variant->way);
	if (variant->way.xapic)
		virt_map(vm, APIC_DEFAULT_GPA, APIC_DEFAULT_GPA, 1);
	if (variant->no_apicv)
		vpmu_inhibit_apicv(*vcpu);
	vm_install_exception_handler(vm, variant->way.nmi ? NMI_VECTOR : PMI_VECTOR,
				     guest_pmi_handler);
	return vm;
}

FIXTURE_SETUP(pmi_stress)
{
	self->vm = create(&self->vcpu, variant);
	self->mover.tids[0] = syscall(SYS_gettid);
	self->mover.nr_tids = 1;
	self->mover.nr_cpus = host_cpus(self->mover.cpus, DISTURB_MAX_CPUS);
}

FIXTURE_TEARDOWN(pmi_stress)
{
	kvm_vm_free(self->vm);
}

static void run(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < NR_SYNCS; i++)
		TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
}

TEST_F(pmi_stress, undisturbed)
{
	run(self->vcpu);
}

TEST_F(pmi_stress, signals)
{
	vpmu_signals_start(200);
	run(self->vcpu);
	vpmu_signals_stop();
}

TEST_F(pmi_stress, preemption)
{
	self->rival.cpu = self->mover.cpus[0];
	move_to(0, self->rival.cpu);
	rival_start(&self->rival);
	run(self->vcpu);
	rival_stop(&self->rival);
}

TEST_F(pmi_stress, migration)
{
	if (self->mover.nr_cpus < 2)
		SKIP(return, "needs two CPUs");
	mover_start(&self->mover);
	run(self->vcpu);
	mover_stop(&self->mover);
}

/* Was it without APICv that it was without APICv? */
static uint64_t exits_of(const FIXTURE_VARIANT(pmi_stress) *variant)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, variant);
	uint64_t before;

	run(vcpu);
	before = vpmu_exits(vcpu);
	run(vcpu);
	before = vpmu_exits(vcpu) - before;
	kvm_vm_free(vm);
	return before;
}

TEST(apicv_saves_exits)
{
	const FIXTURE_VARIANT(pmi_stress) with = {}, without = { .no_apicv = true };
	uint64_t exits_with, exits_without;

	if (!get_kvm_intel_param_bool("enable_apicv"))
		SKIP(return, "needs kvm_intel.enable_apicv=1");
	exits_with = exits_of(&with);
	exits_without = exits_of(&without);
	TEST_ASSERT(exits_with < exits_without, "%lu exits with APICv, %lu without",
		    exits_with, exits_without);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	__TEST_REQUIRE(vpmu_is_mediated(), "needs " VPMU_MODULE_NAME);
	return test_harness_run(argc, argv);
}
