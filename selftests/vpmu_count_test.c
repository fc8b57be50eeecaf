// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions and branches that a guest retires are counted exactly, to the
 * last one, whatever leaves the guest in between.
 *
 * SDM Vol. 3B, 21.2.1.2 "Pre-defined Architectural Performance Events": an
 * instruction counts once, when it retires; a REP string instruction counts
 * once; an instruction that faults has not retired. Where an instruction
 * leaves the guest and KVM completes it, it must count as if it had run.
 *
 * On AMD (PPR, EX_RET_INSTR and EX_RET_BRN) it is the same; in addition entering
 * a guest is an instruction and a branch of that guest, which it is not to see.
 */
#include "apic.h"
#include "payloads.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define GUEST_BUF_SIZE	256
#define GUEST_IRQ	0x51

/* An MSR that does not exist, anywhere. */
#define BOGUS_MSR_STR	"0x12345678"

static uint8_t guest_buf[GUEST_BUF_SIZE];

/* vpmu_is_mediated(), for the guest. */
static bool is_mediated;

/* Nothing that leaves the guest. */
DEFINE_LOOP_PAYLOAD(loop_insn,
	"mov $4, %%ecx\n\t"
	"1: loop 1b\n\t",
	1 + 4, 4);

/* JNE is not taken, JMP, CALL and RET are. */
DEFINE_LOOP_PAYLOAD(branches,
	"cmp %%r9d, %%r9d\n\t"
	"jne 2f\n\t"
	"jmp 1f\n\t"
	"nop\n\t"
	"1: call 3f\n\t"
	"2: jmp 4f\n\t"
	"3: ret\n\t"
	"4:\n\t",
	6, 5);

DEFINE_LOOP_PAYLOAD(rep,
	"mov $64, %%ecx\n\t"
	"mov %%r10, %%rdi\n\t"
	"rep stosb\n\t",
	3, 0);

DEFINE_LOOP_PAYLOAD(rdpmc,
	"xor %%ecx, %%ecx\n\t"
	"rdpmc\n\t",
	2, 0);

/* Exits that the kernel handles. */
DEFINE_LOOP_PAYLOAD(rdmsr,
	"mov $0x1a0, %%ecx\n\t"		/* IA32_MISC_ENABLE */
	"rdmsr\n\t",
	2, 0);

DEFINE_LOOP_PAYLOAD(selector_write,
	"mov %%r10d, %%ecx\n\t"		/* the first selector, unchanged */
	"rdmsr\n\t"
	"wrmsr\n\t",
	3, 0);

DEFINE_LOOP_PAYLOAD(pio_kernel,
	"in $0x21, %%al\n\t",
	1, 0);

DEFINE_LOOP_PAYLOAD(mmio_kernel,
	"mov 0x30(%%r10), %%eax\n\t"	/* APIC version */
	"mov %%eax, 0x380(%%r10)\n\t",	/* APIC timer's initial count */
	2, 0);

/* Exits that KVM handles before interrupts are on again, if it can. */
DEFINE_LOOP_PAYLOAD(fastpath_icr,
	"mov $0x830, %%ecx\n\t"
	"mov $" __stringify(GUEST_IRQ) ", %%eax\n\t"
	"xor %%edx, %%edx\n\t"
	"wrmsr\n\t",
	4, 0);

DEFINE_LOOP_PAYLOAD(fastpath_tsc_deadline,
	"mov $0x6e0, %%ecx\n\t"
	"mov $-1, %%eax\n\t"
	"mov $0x7fffffff, %%edx\n\t"
	"wrmsr\n\t",
	4, 0);

DEFINE_LOOP_PAYLOAD(fastpath_invd,
	"invd\n\t",
	1, 0);

/* Exits to user space, some of which come back to the same instruction. */
DEFINE_LOOP_PAYLOAD(pio_user,
	"in $0x80, %%al\n\t"
	"out %%al, $0x80\n\t",
	2, 0);

DEFINE_LOOP_PAYLOAD(mmio_user_read,
	"mov (%%r10), %%eax\n\t",
	1, 0);

DEFINE_LOOP_PAYLOAD(mmio_user_write,
	"mov %%eax, (%%r10)\n\t",
	1, 0);

DEFINE_LOOP_PAYLOAD(mmio_user_modify,
	"addl $1, (%%r10)\n\t",
	1, 0);

DEFINE_LOOP_PAYLOAD(halt,
	"hlt\n\t",
	1, 0);

/* String instructions that KVM completes piece by piece. */
DEFINE_LOOP_PAYLOAD(rep_pio_user,
	"mov $8, %%ecx\n\t"
	"mov $0x80, %%edx\n\t"
	"mov %%r10, %%rsi\n\t"
	"rep outsb\n\t",
	4, 0);

DEFINE_LOOP_PAYLOAD(rep_mmio_user,
	"mov $8, %%ecx\n\t"
	"mov %%r10, %%rdi\n\t"
	"rep stosb\n\t",
	3, 0);

/* KVM's own prefix: it emulates the instruction that follows. */
DEFINE_LOOP_PAYLOAD(forced_emulation,
	KVM_FEP "nop\n\t"
	KVM_FEP "jmp 1f\n\t"
	"1: " KVM_FEP "add $0, %%eax\n\t",
	3, 1);

/* KVM injects #GP: RDMSR does not count, the handler's instructions do. */
#define GP_HANDLER_INSNS	3
#define GP_HANDLER_BRANCHES	1
void gp_handler(void);
asm(".pushsection .text\n\t"
	".global gp_handler\n"
	"gp_handler:\n\t"
	"lea 8(%rsp), %rsp\n\t"	/* the error code */
	"addq $2, (%rsp)\n\t"		/* the length of RDMSR */
	"iretq\n\t"
	".popsection\n");

DEFINE_LOOP_PAYLOAD(fault,
	"mov $" BOGUS_MSR_STR ", %%ecx\n\t"
	"rdmsr\n\t",
	1 + GP_HANDLER_INSNS, GP_HANDLER_BRANCHES);

/* AMD's event has interrupts and exceptions in it. */
static uint64_t guest_branches(const struct payload *p)
{
	return p->branches + (host_cpu_is_amd && p == &payload_fault ? PAYLOAD_LOOPS : 0);
}

/* Counts that a payload must yield on one counter, however it is enabled. */
static void guest_expect(const struct payload *p, const char *counter,
			 uint32_t idx, uint64_t count, uint64_t expected)
{
	__GUEST_ASSERT(count == expected, "%s, %s %u: counted %lu, retired %lu",
		       p->name, counter, idx, count, expected);
}

static uint64_t guest_count_gp(const struct payload *p, uint64_t arg,
			       uint32_t idx, uint64_t selector)
{
	uint64_t count;

	wrmsr(vpmu_msr_counter(idx), 0);
	wrmsr(vpmu_msr_selector(idx), selector);
	p->run(vpmu_msr_global_ctrl(), BIT_ULL(idx), arg);
	count = _rdpmc(idx);
	wrmsr(vpmu_msr_selector(idx), 0);
	return count;
}

/* The first and the last counter, by IA32_PERF_GLOBAL_CTRL. */
static void guest_some_gp(const struct payload *p, uint64_t arg)
{
	const uint64_t insns = VPMU_SEL_OS(vpmu_event_insns());
	const uint64_t branches = VPMU_SEL_OS(vpmu_event_branches());
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i += guest_nr_gp() - 1) {
		guest_expect(p, "instructions on PMC", i,
			     guest_count_gp(p, arg, i, insns), p->insns);
		guest_expect(p, "branches on PMC", i,
			     guest_count_gp(p, arg, i, branches), guest_branches(p));
	}
}

/* By IA32_PERFEVTSEL0, a register that always exits. */
static void guest_by_selector(const struct payload *p, uint64_t arg)
{
	wrmsr(vpmu_msr_counter(0), 0);
	wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
	p->run(vpmu_msr_selector(0), VPMU_SEL_OS(vpmu_event_insns()), arg);
	guest_expect(p, "instructions by selector on PMC", 0, _rdpmc(0), p->insns);
	wrmsr(vpmu_msr_global_ctrl(), 0);
}

/* The fixed counter, by both of its switches. */
static void guest_fixed(const struct payload *p, uint64_t arg)
{
	const uint64_t ctrl = FIXED_PMC_CTRL(0, FIXED_PMC_KERNEL);

	if (!guest_nr_fixed())
		return;

	wrmsr(MSR_CORE_PERF_FIXED_CTR0, 0);
	wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, ctrl);
	p->run(vpmu_msr_global_ctrl(), FIXED_PMC_GLOBAL_CTRL_ENABLE(0), arg);
	guest_expect(p, "instructions on fixed counter", 0,
		     _rdpmc(INTEL_RDPMC_FIXED), p->insns);

	wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, 0);
	wrmsr(MSR_CORE_PERF_FIXED_CTR0, 0);
	wrmsr(vpmu_msr_global_ctrl(), FIXED_PMC_GLOBAL_CTRL_ENABLE(0));
	p->run(MSR_CORE_PERF_FIXED_CTR_CTRL, ctrl, arg);
	guest_expect(p, "instructions by FIXED_CTR_CTRL on fixed counter", 0,
		     _rdpmc(INTEL_RDPMC_FIXED), p->insns);
	wrmsr(vpmu_msr_global_ctrl(), 0);
}

/* All counters at once: even ones count instructions, odd ones branches. */
static void guest_all(const struct payload *p, uint64_t arg)
{
	uint64_t fixed_ctrl = 0;
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_counter(i), 0);
	for (i = 0; i < guest_nr_fixed(); i++)
		wrmsr(MSR_CORE_PERF_FIXED_CTR0 + i, 0);
	for (i = 0; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_selector(i),
		      VPMU_SEL_OS(i % 2 ? vpmu_event_branches() :
					  vpmu_event_insns()));
	for (i = 0; i < guest_nr_fixed(); i++)
		fixed_ctrl |= FIXED_PMC_CTRL(i, FIXED_PMC_KERNEL);
	guest_fixed_select(fixed_ctrl);

	p->run(vpmu_msr_global_ctrl(), guest_gp_mask() | guest_fixed_mask(), arg);

	for (i = 0; i < guest_nr_gp(); i++)
		guest_expect(p, "all at once on PMC", i, _rdpmc(i),
			     i % 2 ? guest_branches(p) : p->insns);
	if (guest_nr_fixed())
		guest_expect(p, "all at once on fixed counter", 0,
			     _rdpmc(INTEL_RDPMC_FIXED), p->insns);
	/*
	 * Cycles, reference cycles, slots: no exact figure, but not nothing. An
	 * emulated vPMU may find the host's counters taken, by the NMI watchdog
	 * for one.
	 */
	for (i = 1; is_mediated && i < guest_nr_fixed(); i++)
		__GUEST_ASSERT(_rdpmc(INTEL_RDPMC_FIXED | i),
			       "%s: fixed counter %u did not count", p->name, i);
}

/* What is not to count does not: other privilege levels, stopped counters. */
static void guest_nothing(const struct payload *p, uint64_t arg)
{
	const uint64_t user = VPMU_SEL_USR(vpmu_event_insns());
	const uint64_t insns = VPMU_SEL_OS(vpmu_event_insns());

	guest_expect(p, "user instructions on PMC", 0,
		     guest_count_gp(p, arg, 0, user), 0);
	guest_expect(p, "disabled selector on PMC", 0,
		     guest_count_gp(p, arg, 0, insns & ~ARCH_PERFMON_EVENTSEL_ENABLE), 0);

	/* Enabled by its selector, but globally it is PMC1 that runs. */
	wrmsr(vpmu_msr_counter(0), 0);
	wrmsr(vpmu_msr_selector(0), insns);
	p->run(vpmu_msr_global_ctrl(), BIT_ULL(1), arg);
	guest_expect(p, "globally disabled PMC", 0, _rdpmc(0), 0);

	wrmsr(vpmu_msr_selector(0), 0);

	/* Stopped, the count stays. */
	guest_count_gp(p, arg, 0, insns);
	p->run(vpmu_msr_global_ctrl(), 0, arg);
	guest_expect(p, "stopped PMC", 0, _rdpmc(0), p->insns);
}

static void guest_count(const struct payload *p, uint64_t arg, bool x2apic)
{
	if (x2apic) {
		x2apic_enable();
		x2apic_write_reg(APIC_LVTT, APIC_LVT_MASKED | APIC_LVT_TIMER_TSCDEADLINE);
	} else {
		xapic_enable();
	}

	guest_pmu_clear();
	guest_some_gp(p, arg);
	guest_by_selector(p, arg);
	guest_fixed(p, arg);
	guest_nothing(p, arg);
	guest_all(p, arg);
	GUEST_DONE();
}

FIXTURE(count) { };
FIXTURE_SETUP(count) { }
FIXTURE_TEARDOWN(count) { }

FIXTURE_VARIANT(count) {
	const struct payload *payload;
	uint64_t arg;
	bool x2apic;
	bool halts;
	bool fep;
	bool rep_emulated;
	bool selector_arg;
};

#define VARIANT(_name, ...)							\
FIXTURE_VARIANT_ADD(count, _name) {						\
	.payload = &payload_##_name, ##__VA_ARGS__				\
}

VARIANT(nop);
VARIANT(loop_insn);
VARIANT(branches);
VARIANT(rep, .arg = (uint64_t)guest_buf);
VARIANT(rdpmc);
VARIANT(cpuid);
VARIANT(rdmsr);
VARIANT(selector_write, .selector_arg = true);
VARIANT(pio_kernel);
VARIANT(mmio_kernel, .arg = APIC_DEFAULT_GPA);
VARIANT(fastpath_icr, .x2apic = true);
VARIANT(fastpath_tsc_deadline, .x2apic = true);
VARIANT(fastpath_invd);
VARIANT(pio_user);
VARIANT(mmio_user_read, .arg = VPMU_USER_GPA);
VARIANT(mmio_user_write, .arg = VPMU_USER_GPA);
VARIANT(mmio_user_modify, .arg = VPMU_USER_GPA);
VARIANT(halt, .halts = true);
VARIANT(rep_pio_user, .arg = (uint64_t)guest_buf, .rep_emulated = true);
VARIANT(rep_mmio_user, .arg = VPMU_USER_GPA, .rep_emulated = true);
VARIANT(forced_emulation, .fep = true);
VARIANT(fault);

static void test_count(const FIXTURE_VARIANT(count) *variant,
		       const struct vpmu_config *config)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_count, config);

	is_mediated = vpmu_is_mediated();
	sync_global_to_guest(vm, is_mediated);
	virt_map(vm, APIC_DEFAULT_GPA, APIC_DEFAULT_GPA, 1);
	if (variant->payload == &payload_fault)
		vpmu_install_naked_handler(vm, GP_VECTOR, gp_handler);
	vcpu_args_set(vcpu, 3, variant->payload,
		      variant->selector_arg ? (uint64_t)vpmu_msr_selector(0) : variant->arg,
		      (uint64_t)variant->x2apic);

	if (variant->halts)
		vpmu_signals_start(1000);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	if (variant->halts)
		vpmu_signals_stop();
	kvm_vm_free(vm);
}

#define REQUIRE_VARIANT()							\
do {										\
	if (variant->fep && !kvm_is_forced_emulation_enabled())			\
		SKIP(return, "needs kvm.force_emulation_prefix=1");		\
	if (variant->payload == &payload_fault && kvm_is_ignore_msrs())		\
		SKIP(return, "needs kvm.ignore_msrs=0");			\
	/* The emulated vPMU counts a string instruction once per exit. */	\
	if (variant->rep_emulated)						\
		VPMU_REQUIRE_MEDIATED();					\
} while (0)

/* The guest has all that KVM offers: mediated, global control does not exit. */
TEST_F(count, all_counters)
{
	struct vpmu_config config = vpmu_config_max();

	REQUIRE_VARIANT();
	test_count(variant, &config);
}

/* The guest has fewer: mediated, global control is KVM's to emulate. */
TEST_F(count, fewer_counters)
{
	struct vpmu_config config = vpmu_config_max();

	REQUIRE_VARIANT();
	config.nr_gp = 4;
	config.nr_fixed = 1;
	test_count(variant, &config);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
