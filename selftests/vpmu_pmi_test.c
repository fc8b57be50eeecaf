// SPDX-License-Identifier: GPL-2.0
/*
 * A counter that overflows interrupts the guest once, and at the right count.
 *
 * SDM Vol. 3B, 21.2 and Vol. 3A, 12.5.1 "Local Vector Table": a counter that
 * was set to -N overflows with its Nth event. That sets its bit in
 * IA32_PERF_GLOBAL_STATUS and, if its selector's INT bit is set, raises a PMI
 * as LVTPC says. Delivery sets LVTPC's mask bit; while that is set, PMIs are
 * lost, not held back. Counting goes on from zero.
 *
 * APM Vol. 2, 13.2 and 16.4: the same, but delivery leaves LVTPC as it is.
 */
#include "apic.h"
#include "payloads.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define APIC_LVTPC	0x340
#define PMI_VECTOR	0x52

/* How far a PMI may be off the event, in instructions: real hardware skids. */
#define MAX_SKID	1000

/* How many exits to user space of a payload find the guest moved to another vCPU. */
#define SAVED_IOS	3

DEFINE_LOOP_PAYLOAD(pio_user,
	"in $0x80, %%al\n\t",
	1, 0);

/* Long enough to see a PMI that comes too late. */
DEFINE_PAYLOAD(nop_long,
	"mov $20000, %%ecx\n\t"
	"1: nop\n\t"
	"loop 1b\n\t",
	1 + 20000 * 2, 20000);

/**
 * struct pmi - what the handler saw, in the guest's memory
 * @nmi: LVTPC is in NMI mode
 * @rdpmc_idx: the counter under test
 * @count: PMIs so far
 * @status: IA32_PERF_GLOBAL_STATUS at the last one
 * @lvtpc: LVTPC at the last one
 * @value: the counter at the last one
 */
static volatile struct {
	bool nmi;
	uint32_t rdpmc_idx;
	uint64_t count;
	uint64_t status;
	uint32_t lvtpc;
	uint64_t value;
} pmi;

/* vpmu_is_mediated(), for the guest. */
static bool is_mediated;

static void guest_pmi_handler(struct ex_regs *regs)
{
	pmi.value = _rdpmc(pmi.rdpmc_idx);
	pmi.count++;
	pmi.status = rdmsr(vpmu_msr_global_status());
	pmi.lvtpc = x2apic_read_reg(APIC_LVTPC);
	if (!pmi.nmi)
		x2apic_write_reg(APIC_EOI, 0);
}

static void guest_unmask_lvtpc(void)
{
	x2apic_write_reg(APIC_LVTPC, pmi.nmi ? APIC_DM_NMI : PMI_VECTOR);
}

static void guest_pmi_init(bool nmi)
{
	pmi.nmi = nmi;
	x2apic_enable();
	guest_unmask_lvtpc();
	guest_pmu_clear();
}

/* Time and exits enough for a PMI that should not come. */
static void guest_wait(void)
{
	uint32_t ignored;
	int i;

	sti_nop();
	for (i = 0; i < 4; i++)
		cpuid(0, &ignored, &ignored, &ignored, &ignored);
	cli();
}

/**
 * struct counter - a counter under test
 * @name: for messages
 * @msr: its register
 * @rdpmc_idx: its index for RDPMC
 * @bit: its bit in the global registers
 */
struct counter {
	const char *name;
	uint32_t msr;
	uint32_t rdpmc_idx;
	uint64_t bit;
};

static bool guest_has_full_width_writes(void)
{
	return host_cpu_is_amd || rdmsr(MSR_IA32_PERF_CAPABILITIES) & PMU_CAP_FW_WRITES;
}

static struct counter guest_gp_counter(unsigned int i)
{
	return (struct counter) {
		.name = "PMC",
		.msr = guest_has_full_width_writes() ? vpmu_msr_full_counter(i) :
							vpmu_msr_counter(i),
		.rdpmc_idx = i,
		.bit = BIT_ULL(i),
	};
}

static struct counter guest_fixed_counter0(void)
{
	return (struct counter) {
		.name = "fixed counter",
		.msr = MSR_CORE_PERF_FIXED_CTR0,
		.rdpmc_idx = INTEL_RDPMC_FIXED,
		.bit = FIXED_PMC_GLOBAL_CTRL_ENABLE(0),
	};
}

static void guest_select_insns(const struct counter *c, bool interrupt)
{
	if (c->rdpmc_idx & INTEL_RDPMC_FIXED)
		wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, FIXED_PMC_KERNEL |
		      (interrupt ? FIXED_PMC_ENABLE_PMI : 0));
	else
		wrmsr(vpmu_msr_selector(c->rdpmc_idx),
		      VPMU_SEL_OS(vpmu_event_insns()) |
		      (interrupt ? ARCH_PERFMON_EVENTSEL_INT : 0));
	pmi.rdpmc_idx = c->rdpmc_idx;
}

/* The payload with the counter set to -@n; interrupts are off until its end. */
static void guest_overflow_after(const struct payload *p, uint64_t arg,
				 const struct counter *c, uint64_t n)
{
	wrmsr(c->msr, -n & guest_counter_mask());
	p->run(vpmu_msr_global_ctrl(), c->bit, arg);
}

static void guest_expect_overflow(const struct payload *p, const struct counter *c,
				  uint64_t n, bool expected, uint64_t pmis)
{
	uint64_t status = rdmsr(vpmu_msr_global_status());

	__GUEST_ASSERT(!!(status & c->bit) == expected,
		       "%s, %s %u, %lu of %lu: status %lx", p->name, c->name,
		       c->rdpmc_idx & 0xff, n, p->insns, status);
	__GUEST_ASSERT(!(status & (guest_gp_mask() | guest_fixed_mask()) & ~c->bit),
		       "%s, %s %u: status of another counter, %lx", p->name, c->name,
		       c->rdpmc_idx & 0xff, status);
	__GUEST_ASSERT(pmi.count == pmis, "%s, %s %u, %lu of %lu: %lu PMIs, expected %lu",
		       p->name, c->name, c->rdpmc_idx & 0xff, n, p->insns,
		       pmi.count, pmis);
}

/* One overflow with its @n'th instruction, its PMI, and back to the start. */
static void guest_one_pmi(const struct payload *p, uint64_t arg,
			  const struct counter *c, uint64_t n)
{
	const bool expected = n <= p->insns;
	uint64_t value;

	pmi.count = 0;
	guest_overflow_after(p, arg, c, n);
	value = _rdpmc(c->rdpmc_idx);
	guest_wait();
	guest_expect_overflow(p, c, n, expected, expected);

	/* An NMI handler's instructions are among those that count. */
	if (!pmi.nmi || !expected)
		__GUEST_ASSERT(value == ((p->insns - n) & guest_counter_mask()),
			       "%s, %s %u: %lx after %lu instructions from -%lu",
			       p->name, c->name, c->rdpmc_idx & 0xff, value, p->insns, n);

	if (!expected)
		return;

	GUEST_ASSERT(pmi.status & c->bit);
	__GUEST_ASSERT(!!(pmi.lvtpc & APIC_LVT_MASKED) == !host_cpu_is_amd,
		       "LVTPC %x after PMI", pmi.lvtpc);

	wrmsr(vpmu_msr_status_clear(), c->bit);
	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()) & c->bit, 0);
	guest_unmask_lvtpc();
	guest_wait();
	__GUEST_ASSERT(pmi.count == 1, "%s: PMI came again", p->name);
}

static void guest_exact_on(const struct payload *p, uint64_t arg, const struct counter *c)
{
	uint64_t n;

	guest_select_insns(c, true);
	/*
	 * KVM's emulated vPMU has not looked at the selector's INT bit yet when
	 * the very write that starts a counter makes it overflow.
	 */
	for (n = is_mediated ? 1 : 2; n <= 7; n++)
		guest_one_pmi(p, arg, c, n);
	for (n = p->insns - 2; n <= p->insns + 2; n++)
		guest_one_pmi(p, arg, c, n);
	guest_select_insns(c, false);
}

static void guest_exact(const struct payload *p, uint64_t arg, bool nmi)
{
	struct counter fixed = guest_fixed_counter0();
	struct counter gp;

	guest_pmi_init(nmi);
	gp = guest_gp_counter(guest_nr_gp() - 1);
	guest_exact_on(p, arg, &gp);
	if (guest_nr_fixed())
		guest_exact_on(p, arg, &fixed);
	GUEST_DONE();
}

/* The handler runs right after the event, not at some later exit. */
static void guest_prompt(bool nmi)
{
	struct counter c = guest_gp_counter(0);
	uint64_t n;

	guest_pmi_init(nmi);
	guest_select_insns(&c, true);
	sti_nop();
	for (n = 100; n < 30000; n += 4999) {
		pmi.count = 0;
		guest_overflow_after(&payload_nop_long, 0, &c, n);
		GUEST_ASSERT_EQ(pmi.count, 1);
		__GUEST_ASSERT(pmi.value < MAX_SKID, "PMI %lu instructions after overflow",
			       pmi.value);
		wrmsr(vpmu_msr_status_clear(), c.bit);
		guest_unmask_lvtpc();
	}
	GUEST_DONE();
}

/* Masked, the PMI is lost: the status tells, and unmasking brings nothing. */
static void guest_masked(bool nmi)
{
	struct counter c = guest_gp_counter(0);
	const struct payload *p = &payload_cpuid;

	guest_pmi_init(nmi);
	guest_select_insns(&c, true);
	x2apic_write_reg(APIC_LVTPC, (nmi ? APIC_DM_NMI : PMI_VECTOR) | APIC_LVT_MASKED);
	guest_overflow_after(p, 0, &c, p->insns / 2);
	guest_wait();
	guest_expect_overflow(p, &c, p->insns / 2, true, 0);

	guest_unmask_lvtpc();
	guest_wait();
	guest_expect_overflow(p, &c, p->insns / 2, true, 0);

	wrmsr(vpmu_msr_status_clear(), c.bit);
	guest_one_pmi(p, 0, &c, p->insns / 2);
	GUEST_DONE();
}

static const uint64_t lvtpc_values[] = {
	PMI_VECTOR,
	APIC_DM_NMI,
	APIC_LVT_MASKED | PMI_VECTOR,
	0xffffffff,
	BIT_ULL(32) | PMI_VECTOR,
	0,
};

/* What LVTPC has become by each write, and whether that has faulted. */
static void guest_write_lvtpc(uint64_t *results)
{
	unsigned int i;
	uint8_t fault;

	for (i = 0; i < ARRAY_SIZE(lvtpc_values); i++) {
		fault = x2apic_write_reg_safe(APIC_LVTPC, lvtpc_values[i]);
		results[i] = x2apic_read_reg(APIC_LVTPC) | (uint64_t)fault << 32;
	}
}

/* LVTPC is the same register whether or not the PMU is in hardware when it's written. */
static void guest_lvtpc(bool nmi)
{
	uint64_t results[2][2][ARRAY_SIZE(lvtpc_values)];
	const struct counter c = guest_gp_counter(0);
	unsigned int on, sw_enabled, i;

	guest_pmi_init(nmi);
	for (on = 0; on < 2; on++) {
		wrmsr(vpmu_msr_global_ctrl(), on * c.bit);
		for (sw_enabled = 0; sw_enabled < 2; sw_enabled++) {
			x2apic_write_reg(APIC_SPIV, 0xff | sw_enabled * APIC_SPIV_APIC_ENABLED);
			guest_write_lvtpc(results[on][sw_enabled]);
		}
		guest_select_insns(&c, true);
	}
	for (sw_enabled = 0; sw_enabled < 2; sw_enabled++) {
		for (i = 0; i < ARRAY_SIZE(lvtpc_values); i++)
			GUEST_ASSERT_EQ(results[1][sw_enabled][i], results[0][sw_enabled][i]);
		/* Of 64 bits the upper half is reserved. */
		GUEST_ASSERT_EQ(results[1][sw_enabled][4] >> 32, GP_VECTOR);
	}
	GUEST_ASSERT_EQ(results[1][0][0], APIC_LVT_MASKED | PMI_VECTOR);
	GUEST_ASSERT_EQ(results[1][1][0], PMI_VECTOR);
	GUEST_DONE();
}

/* Without the selector's INT bit an overflow is the status's alone. */
static void guest_no_interrupt(bool nmi)
{
	struct counter gp = guest_gp_counter(0), fixed = guest_fixed_counter0();
	const struct counter *counters[] = { &gp, &fixed };
	const struct payload *p = &payload_cpuid;
	int i;

	guest_pmi_init(nmi);
	for (i = 0; i < (guest_nr_fixed() ? 2 : 1); i++) {
		guest_select_insns(counters[i], false);
		guest_overflow_after(p, 0, counters[i], p->insns / 2);
		guest_wait();
		guest_expect_overflow(p, counters[i], p->insns / 2, true, 0);
		wrmsr(vpmu_msr_status_clear(), counters[i]->bit);
	}
	GUEST_DONE();
}

/* All counters overflow at once: one PMI, all of the status. */
static void guest_all_at_once(bool nmi)
{
	const uint64_t all = guest_gp_mask() | guest_fixed0_mask();
	const struct payload *p = &payload_nop;
	struct counter c;
	unsigned int i;

	guest_pmi_init(nmi);
	for (i = 0; i < guest_nr_gp(); i++) {
		c = guest_gp_counter(i);
		guest_select_insns(&c, true);
		wrmsr(c.msr, -(p->insns / 2) & guest_counter_mask());
	}
	if (guest_nr_fixed()) {
		c = guest_fixed_counter0();
		guest_select_insns(&c, true);
		wrmsr(c.msr, -(p->insns / 2) & guest_counter_mask());
	}

	p->run(vpmu_msr_global_ctrl(), all, 0);
	guest_wait();
	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()) & all, all);
	GUEST_ASSERT_EQ(pmi.count, 1);

	/* One by one the bits go, and only they. */
	for (i = 0; i < guest_nr_gp(); i++) {
		wrmsr(vpmu_msr_status_clear(), BIT_ULL(i));
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()) & all,
				all & ~(BIT_ULL(i + 1) - 1));
	}
	guest_unmask_lvtpc();
	guest_wait();
	GUEST_ASSERT_EQ(pmi.count, 1);
	GUEST_DONE();
}

/* Kinds of counters, of which one each is tested: general-purpose and fixed. */
static int nr_kinds(unsigned int nr_fixed)
{
	return nr_fixed ? 2 : 1;
}

/* Of the first instructions of a payload some are completed by user space. */
static void guest_saved(bool nmi)
{
	struct counter gp = guest_gp_counter(0), fixed = guest_fixed_counter0();
	const struct counter *counters[] = { &gp, &fixed };
	uint64_t n;
	int i;

	guest_pmi_init(nmi);
	for (i = 0; i < nr_kinds(guest_nr_fixed()); i++) {
		guest_select_insns(counters[i], true);
		for (n = 1; n <= 3 * SAVED_IOS; n++)
			guest_one_pmi(&payload_pio_user, 0, counters[i], n);
		guest_select_insns(counters[i], false);
	}
	GUEST_DONE();
}

FIXTURE(pmi) { };
FIXTURE_SETUP(pmi) { }
FIXTURE_TEARDOWN(pmi) { }

FIXTURE_VARIANT(pmi) {
	bool nmi;
	bool fewer;
};

FIXTURE_VARIANT_ADD(pmi, vector) { };
FIXTURE_VARIANT_ADD(pmi, nmi) { .nmi = true };
FIXTURE_VARIANT_ADD(pmi, vector_fewer_counters) { .fewer = true };
FIXTURE_VARIANT_ADD(pmi, nmi_fewer_counters) { .nmi = true, .fewer = true };

static struct vpmu_config config_of(const FIXTURE_VARIANT(pmi) *variant)
{
	struct vpmu_config config = vpmu_config_max();

	if (variant->fewer) {
		config.nr_gp = 2;
		config.nr_fixed = nr_kinds(config.nr_fixed) - 1;
	}
	return config;
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, void *guest_code,
			     const FIXTURE_VARIANT(pmi) *variant)
{
	struct vpmu_config config = config_of(variant);
	struct kvm_vm *vm;

	vm = vpmu_vm_create(vcpu, guest_code, &config);
	is_mediated = vpmu_is_mediated();
	sync_global_to_guest(vm, is_mediated);
	vm_install_exception_handler(vm, variant->nmi ? NMI_VECTOR : PMI_VECTOR,
				     guest_pmi_handler);
	return vm;
}

static void test_exact(const FIXTURE_VARIANT(pmi) *variant,
		       const struct payload *p, uint64_t arg)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_exact, variant);

	vcpu_args_set(vcpu, 3, p, arg, (uint64_t)variant->nmi);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

static void test_simple(const FIXTURE_VARIANT(pmi) *variant, void *guest_code)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_code, variant);

	vcpu_args_set(vcpu, 1, (uint64_t)variant->nmi);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

TEST_F(pmi, exact_in_guest)
{
	test_exact(variant, &payload_nop, 0);
}

/* Of each round's instructions KVM completes one, which overflows as well. */
TEST_F(pmi, exact_through_exits)
{
	test_exact(variant, &payload_cpuid, 0);
}

/*
 * The emulated vPMU loses overflows of very small counts on the way to user
 * space and back: perf has no periods that short.
 */
TEST_F(pmi, exact_through_user_space)
{
	VPMU_REQUIRE_MEDIATED();
	test_exact(variant, &payload_pio_user, 0);
}

TEST_F(pmi, prompt)
{
	test_simple(variant, guest_prompt);
}

TEST_F(pmi, masked)
{
	test_simple(variant, guest_masked);
}

TEST_F(pmi, lvtpc)
{
	test_simple(variant, guest_lvtpc);
}

TEST_F(pmi, no_interrupt)
{
	test_simple(variant, guest_no_interrupt);
}

TEST_F(pmi, all_at_once)
{
	test_simple(variant, guest_all_at_once);
}

/* A new vCPU in a new VM, with all that can be saved of the old one. */
static struct kvm_vcpu *move_guest(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
				   const struct vpmu_config *config)
{
	/* Completes the I/O first, without entering the guest. */
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	struct kvm_lapic_state lapic;

	vcpu_ioctl(vcpu, KVM_GET_LAPIC, &lapic);
	kvm_vm_release(vm);

	vcpu = vm_recreate_with_one_vcpu(vm);
	vpmu_set_config(vcpu, config);
	vcpu_load_state(vcpu, state);
	vcpu_ioctl(vcpu, KVM_SET_LAPIC, &lapic);
	kvm_x86_state_cleanup(state);
	return vcpu;
}

/* A PMI that is owed when the guest is saved comes once to who is restored from that. */
TEST_F(pmi, saved_while_owed)
{
	const struct vpmu_config config = config_of(variant);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int ios = 0;

	VPMU_REQUIRE_MEDIATED();
	vm = create(&vcpu, guest_saved, variant);
	vcpu_args_set(vcpu, 1, (uint64_t)variant->nmi);
	while (vpmu_run_to_io(vcpu) == VPMU_IO) {
		if (ios++ % PAYLOAD_LOOPS < SAVED_IOS)
			vcpu = move_guest(vm, vcpu, &config);
	}
	TEST_ASSERT_EQ(ios, nr_kinds(config.nr_fixed) * 3 * SAVED_IOS * PAYLOAD_LOOPS);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
