// SPDX-License-Identifier: GPL-2.0
/*
 * A guest (L1) that runs a guest (L2): both use one PMU, L1's.
 *
 * SDM Vol. 3C, 25.6 to 28.5: L2 accesses the PMU without an exit to L1 where
 * L1's MSR bitmap and RDPMC exiting let it, IA32_PERF_GLOBAL_CTRL changes at
 * VM-entry and VM-exit just if L1's controls say so, VMLAUNCH and VMRESUME
 * retire in L1, and the instruction that exits retires nowhere. An overflow in
 * L2 interrupts it as any external interrupt or NMI does.
 *
 * Functions named guest_*() run in L1, those named l2_*() in L2.
 */
#include "apic.h"
#include "nested.h"
#include "vpmu_harness.h"

#include "vmx.h"

/* How far a PMI may be off the event, in instructions: real hardware skids. */
#define MAX_SKID		1000

#define EXIT_REASON_NMI		EXIT_REASON_EXCEPTION_NMI
#define RFLAGS_IF		BIT_ULL(9)
/* VM-instruction errors. */
#define VMERR_BAD_CONTROLS	7
#define VMERR_BAD_HOST_STATE	8

/* --- L2 */

#define L2_NOPS		2000

DEFINE_L2(nops, "vmcall",
	  ".fill " __stringify(L2_NOPS) ", 1, 0x90\n\t",
	  L2_NOPS, 0, EXIT_REASON_VMCALL);
DEFINE_L2(loop, "vmcall",
	  "mov $50, %ecx\n\t1: loop 1b\n\t",
	  51, 50, EXIT_REASON_VMCALL);
/* L1 has to intercept it, and does not find it counted. */
DEFINE_L2(cpuid, "vmcall",
	  "nop\n\tnop\n\tcpuid\n\t",
	  2, 0, EXIT_REASON_CPUID);
/* L0 intercepts and completes it, L1 does not notice. */
DEFINE_L2(emulated, "vmcall",
	  "mov $" __stringify(MSR_P6_EVNTSEL0) ", %ecx\n\trdmsr\n\tnop\n\trdmsr\n\t",
	  4, 0, EXIT_REASON_VMCALL);
DEFINE_L2(rdpmc, "vmcall",
	  "xor %ecx, %ecx\n\trdpmc\n\trdpmc\n\t",
	  3, 0, EXIT_REASON_VMCALL);
DEFINE_L2(user_space, "vmcall",
	  "nop\n\tin $" __stringify(VPMU_USER_PORT) ", %al\n\tnop\n\t",
	  3, 0, EXIT_REASON_VMCALL);

static const struct l2_code * const l2_codes[] = {
	&l2_code_nops, &l2_code_loop, &l2_code_cpuid, &l2_code_emulated, &l2_code_rdpmc,
	&l2_code_user_space,
};

/* --- L1 */

/*
 * Into L2 and back, in a frame that counts. What VMCALL or another exit leaves
 * in the registers that the frame needs is what was in them before.
 */
#define ENTER_L2(_insn)							\
	"mov %%rsp, %%rdx\n\t"						\
	"mov $0x6c14, %%eax\n\t"	/* HOST_RSP */			\
	"vmwrite %%rdx, %%rax\n\t"					\
	"lea 88f(%%rip), %%rdx\n\t"					\
	"mov $0x6c16, %%eax\n\t"	/* HOST_RIP */			\
	"vmwrite %%rdx, %%rax\n\t"					\
	_insn "\n\t"							\
	"88:\n\t"
#define ENTER_L2_INSNS		7

DEFINE_PAYLOAD(launch, ENTER_L2("vmlaunch"), ENTER_L2_INSNS, 0);
DEFINE_PAYLOAD(resume, ENTER_L2("vmresume"), ENTER_L2_INSNS, 0);

/* With this L1 asks for nothing but to be asked for nothing. */
static void guest_new_vmcs(struct vmx_pages *vmx)
{
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, NULL, (void *)L2_STACK_TOP);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS);
}

static void guest_vmx_init(struct vmx_pages *vmx)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	guest_new_vmcs(vmx);
}

static void guest_set_control(uint64_t field, uint32_t bits, bool on)
{
	uint64_t controls = vmreadz(field);

	GUEST_ASSERT(!vmwrite(field, on ? controls | bits : controls & ~bits));
}

/* VM-entry is to load @l2, and VM-exit @l1, into GLOBAL_CTRL. */
static void guest_switch_global_ctrl(uint64_t l2, uint64_t l1)
{
	guest_set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL, true);
	guest_set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL, true);
	vmwrite(GUEST_IA32_PERF_GLOBAL_CTRL, l2);
	vmwrite(HOST_IA32_PERF_GLOBAL_CTRL, l1);
}

/* Runs L2 from @rip on to its next exit, with @on in L1's GLOBAL_CTRL. */
static uint32_t guest_enter_l2(void *rip, uint64_t on)
{
	static bool launched;
	const struct payload *p = launched ? &payload_resume : &payload_launch;

	vmwrite(GUEST_RIP, (uint64_t)rip);
	vmwrite(GUEST_RSP, L2_STACK_TOP);
	p->run(MSR_CORE_PERF_GLOBAL_CTRL, on, 0);
	launched = true;
	return vmreadz(VM_EXIT_REASON);
}

static void guest_expect_counts(const struct l2_code *c, const char *what,
				uint64_t insns, uint64_t branches)
{
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++) {
		/* Whether VMRESUME is a branch is not for this test to say. */
		if (i % 2 && !branches)
			continue;
		__GUEST_ASSERT(_rdpmc(i) == (i % 2 ? branches : insns),
			       "%s, %s, PMC %u: %lu, expected %lu", what, c->name, i,
			       (uint64_t)_rdpmc(i), i % 2 ? branches : insns);
	}
	__GUEST_ASSERT(_rdpmc(INTEL_RDPMC_FIXED) == insns, "%s, %s, fixed: %lu, expected %lu",
		       what, c->name, (uint64_t)_rdpmc(INTEL_RDPMC_FIXED), insns);
}

static void guest_expect_exit(const struct l2_code *c, uint32_t reason)
{
	__GUEST_ASSERT(reason == c->exit, "%s: exit reason %x, expected %x", c->name,
		       reason, c->exit);
}

/* L1 counts L2 and nothing of its own. */
static void guest_counts_l2(struct vmx_pages *vmx)
{
	const struct l2_code *c;
	unsigned int i;

	guest_vmx_init(vmx);
	for (i = 0; i < ARRAY_SIZE(l2_codes); i++) {
		c = l2_codes[i];
		guest_switch_global_ctrl(guest_select_all(), 0);
		guest_expect_exit(c, guest_enter_l2(c->run, 0));
		guest_expect_counts(c, "L2 alone", c->insns, c->branches);
	}
	GUEST_DONE();
}

/* L1 counts all of its own, and nothing of L2. */
static void guest_counts_l1(struct vmx_pages *vmx)
{
	const struct l2_code *c;
	unsigned int i;
	uint64_t on;

	guest_vmx_init(vmx);
	for (i = 0; i < ARRAY_SIZE(l2_codes); i++) {
		c = l2_codes[i];
		on = guest_select_all();
		guest_switch_global_ctrl(0, on);
		guest_expect_exit(c, guest_enter_l2(c->run, on));
		guest_expect_counts(c, "L1 alone", payload_resume.insns, 0);
	}
	GUEST_DONE();
}

/* Without a switch of GLOBAL_CTRL both count, the exiting instruction doesn't. */
static void guest_counts_both(struct vmx_pages *vmx)
{
	const struct l2_code *c;
	unsigned int i;

	guest_vmx_init(vmx);
	for (i = 0; i < ARRAY_SIZE(l2_codes); i++) {
		c = l2_codes[i];
		guest_expect_exit(c, guest_enter_l2(c->run, guest_select_all()));
		guest_expect_counts(c, "L1 and L2", payload_resume.insns + c->insns, 0);
	}
	GUEST_DONE();
}

/* --- GLOBAL_CTRL by L1's controls */

#define CTRL_L1			BIT_ULL(0)
#define CTRL_ENTRY		BIT_ULL(1)
#define CTRL_EXIT		BIT_ULL(32)
#define CTRL_L2			(BIT_ULL(0) | BIT_ULL(1))

static uint64_t l2_found_ctrl;

static void l2_change_ctrl(void)
{
	l2_found_ctrl = rdmsr(MSR_CORE_PERF_GLOBAL_CTRL);
	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, CTRL_L2);
	vmcall();
}

static void guest_expect_global_ctrl(bool entry, bool exit)
{
	guest_set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL, entry);
	guest_set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL, exit);
	vmwrite(GUEST_IA32_PERF_GLOBAL_CTRL, CTRL_ENTRY);
	vmwrite(HOST_IA32_PERF_GLOBAL_CTRL, CTRL_EXIT);
	vmwrite(GUEST_RIP, (uint64_t)l2_change_ctrl);
	vmwrite(GUEST_RSP, L2_STACK_TOP);
	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, CTRL_L1);

	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	__GUEST_ASSERT(l2_found_ctrl == (entry ? CTRL_ENTRY : CTRL_L1),
		       "L2 finds %lx, entry %u, exit %u", l2_found_ctrl, entry, exit);
	__GUEST_ASSERT(rdmsr(MSR_CORE_PERF_GLOBAL_CTRL) == (exit ? CTRL_EXIT : CTRL_L2),
		       "L1 finds %lx, entry %u, exit %u",
		       rdmsr(MSR_CORE_PERF_GLOBAL_CTRL), entry, exit);
	/* There is no control that saves it. */
	GUEST_ASSERT_EQ(vmreadz(GUEST_IA32_PERF_GLOBAL_CTRL), CTRL_ENTRY);
}

static void guest_global_ctrl(struct vmx_pages *vmx)
{
	int i;

	guest_vmx_init(vmx);
	guest_pmu_clear();
	for (i = 0; i < 4; i++) {
		guest_expect_global_ctrl(i & 1, i & 2);
		guest_new_vmcs(vmx);
	}
	GUEST_DONE();
}

/* --- who gets to see L2's accesses */

static const uint32_t access_exits[] = {
	EXIT_REASON_VMCALL, EXIT_REASON_RDPMC, EXIT_REASON_MSR_READ, EXIT_REASON_MSR_WRITE,
};

static struct vmx_pages *guest_vmx;

static void l2_do_op(void)
{
	guest_do_op();
	vmcall();
}

/* In the bitmap the bytes of writes follow those of reads of low and high MSRs. */
static void guest_intercept_msr(uint32_t msr, bool write, bool set)
{
	uint8_t *byte = (uint8_t *)guest_vmx->msr + (write ? 2048 : 0) + msr / 8;

	GUEST_ASSERT(msr < 0x2000);
	if (set)
		*byte |= BIT(msr % 8);
	else
		*byte &= ~BIT(msr % 8);
}

static void guest_set_intercept(bool set)
{
	if (op.access == RDPMC)
		guest_set_control(CPU_BASED_VM_EXEC_CONTROL, CPU_BASED_RDPMC_EXITING, set);
	else if (op.access != NO_ACCESS)
		guest_intercept_msr(op.index, op.access == WRMSR, set);
}

/* L2 comes back by its VMCALL, or by what L1 has asked to see. */
static void guest_have_l2_do_op(void)
{
	static bool launched;
	uint32_t reason;

	vmwrite(GUEST_RIP, (uint64_t)l2_do_op);
	vmwrite(GUEST_RSP, L2_STACK_TOP);
	GUEST_ASSERT(!(launched ? vmresume() : vmlaunch()));
	launched = true;

	reason = vmreadz(VM_EXIT_REASON);
	__GUEST_ASSERT(reason == access_exits[op.l1_intercepts ? op.access : NO_ACCESS],
		       "%s %x, which L1 %s: exit reason %x", access_names[op.access],
		       op.index, op.l1_intercepts ? "intercepts" : "passes", reason);
	op.seen += op.l1_intercepts;
}

static void guest_intercepts(struct vmx_pages *vmx)
{
	const struct l1 l1 = {
		.set_intercept = guest_set_intercept,
		.have_l2_do_op = guest_have_l2_do_op,
	};

	guest_vmx = vmx;
	guest_vmx_init(vmx);
	guest_pmu_clear();
	guest_walk(&l1);
}

/* --- overflows in L2 */

/* L2 is at an instruction after the one that overflowed, and its counter says so. */
static void guest_expect_rip(uint64_t n)
{
	uint64_t done = vmreadz(GUEST_RIP) - (uint64_t)l2_nops;

	__GUEST_ASSERT(done >= n && done - n < MAX_SKID, "PMI after %lu instructions, expected %lu",
		       done, n);
	__GUEST_ASSERT(_rdpmc(0) == done - n, "counter reads %lu after %lu instructions from -%lu",
		       (uint64_t)_rdpmc(0), done, n);
}

static void guest_pmi_exits(uint64_t n, uint32_t reason)
{
	if (pmi.nmi) {
		GUEST_ASSERT_EQ(reason, EXIT_REASON_NMI);
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_INTR_INFO), 0x80000202);
		guest_expect_rip(n);
		return;
	}
	GUEST_ASSERT_EQ(reason, EXIT_REASON_EXTERNAL_INTERRUPT);
	guest_expect_rip(n);
	GUEST_ASSERT_EQ(pmi.count, 0);
	sti_nop_cli();
	GUEST_ASSERT_EQ(pmi.count, 1);
}

/* An overflow with L2's @n'th instruction. */
static void guest_one_pmi(uint64_t n)
{
	uint32_t reason;

	guest_arm_pmi(n);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	reason = guest_enter_l2(l2_nops, 0);

	if (pmi.exiting) {
		guest_pmi_exits(n, reason);
	} else {
		GUEST_ASSERT_EQ(reason, EXIT_REASON_VMCALL);
		GUEST_ASSERT_EQ(pmi.count, 1);
	}
	GUEST_ASSERT_EQ(rdmsr(MSR_CORE_PERF_GLOBAL_STATUS) & BIT_ULL(0), 1);
	wrmsr(MSR_CORE_PERF_GLOBAL_OVF_CTRL, BIT_ULL(0));
}

static void guest_pmi(struct vmx_pages *vmx)
{
	const uint64_t counts[] = { 1, 2, 500 };
	unsigned int i;

	guest_vmx_init(vmx);
	x2apic_enable();
	guest_pmu_clear();
	wrmsr(MSR_P6_EVNTSEL0, VPMU_SEL_OS(INTEL_ARCH_INSTRUCTIONS_RETIRED) |
			       ARCH_PERFMON_EVENTSEL_INT);
	guest_switch_global_ctrl(BIT_ULL(0), 0);
	guest_set_control(PIN_BASED_VM_EXEC_CONTROL,
			  pmi.nmi ? PIN_BASED_NMI_EXITING : PIN_BASED_EXT_INTR_MASK, pmi.exiting);
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		guest_one_pmi(counts[i]);
		/* An NMI that exits blocks the next ones until an IRET. */
		if (pmi.nmi && pmi.exiting)
			break;
	}
	GUEST_DONE();
}

/* --- save and restore while L2 is active */

DEFINE_LOOP_PAYLOAD(pio_user,
	"in $0x80, %%al\n\t",
	1, 0);

/* What L2 would ask CPUID for, which exits to L1. */
static struct {
	uint64_t on;
	uint32_t nr_gp;
} l2_pmu;

/* L2 counts itself through exits to user space, then reads counters often. */
static void l2_counting(void)
{
	const struct payload *p = &payload_pio_user;
	unsigned int i;

	p->run(MSR_CORE_PERF_GLOBAL_CTRL, l2_pmu.on, 0);
	for (i = 0; i < l2_pmu.nr_gp; i++)
		__GUEST_ASSERT(_rdpmc(i) == (i % 2 ? p->branches : p->insns),
			       "PMC %u: %lu after save and restore", i, (uint64_t)_rdpmc(i));
	GUEST_ASSERT_EQ(_rdpmc(INTEL_RDPMC_FIXED), p->insns);
	l2_read_often();
	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, CTRL_L2);
	vmcall();
}

/* L1's controls load GLOBAL_CTRL. They did, and L2 has changed it since. */
static void guest_save_restore(struct vmx_pages *vmx)
{
	guest_vmx_init(vmx);
	l2_pmu.on = guest_select_all();
	l2_pmu.nr_gp = guest_nr_gp();
	guest_switch_global_ctrl(0, CTRL_EXIT);
	vmwrite(GUEST_RIP, (uint64_t)l2_counting);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	GUEST_ASSERT_EQ(rdmsr(MSR_CORE_PERF_GLOBAL_CTRL), CTRL_EXIT);
	GUEST_DONE();
}

/* --- what userspace does to a vCPU in L2 */

static void l2_at_userspace(void)
{
	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, CTRL_L2);
	GUEST_SYNC(0);
	vmcall();
}

static void guest_at_userspace(struct vmx_pages *vmx)
{
	guest_vmx_init(vmx);
	guest_pmu_clear();
	guest_switch_global_ctrl(0, CTRL_ENTRY);
	vmwrite(GUEST_RIP, (uint64_t)l2_at_userspace);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	GUEST_DONE();
}

/* --- SMM */

/*
 * An SMI is no VM-exit, RSM no VM-entry (SDM Vol. 3C, 32.14): GLOBAL_CTRL stays as it
 * is. What runs in SMM is of the guest, and counts if anything does.
 */
static void guest_smi(struct vmx_pages *vmx)
{
	const struct l2_code *c = &l2_code_user_space;
	const uint64_t smm_insns = SMM_NOPS + 1;
	uint64_t on;

	guest_vmx_init(vmx);
	guest_expect_exit(c, guest_enter_l2(c->run, guest_select_all()));
	guest_expect_counts(c, "L1, L2 and SMM",
			    payload_resume.insns + c->insns + smm_insns, 0);

	on = guest_select_all();
	guest_switch_global_ctrl(on, 0);
	guest_expect_exit(c, guest_enter_l2(c->run, 0));
	guest_expect_counts(c, "L2 and SMM", c->insns + smm_insns, 0);

	on = guest_select_all();
	guest_switch_global_ctrl(0, on);
	guest_expect_exit(c, guest_enter_l2(c->run, on));
	guest_expect_counts(c, "L1 and no SMM", payload_resume.insns, 0);
	GUEST_DONE();
}

/* --- the event filter */

static void guest_filtered(struct vmx_pages *vmx)
{
	const struct l2_code *c = &l2_code_emulated;

	guest_vmx_init(vmx);
	guest_switch_global_ctrl(guest_select_all(), 0);
	guest_expect_exit(c, guest_enter_l2(c->run, 0));
	GUEST_ASSERT_EQ(_rdpmc(0), 0);
	GUEST_ASSERT_EQ(_rdpmc(INTEL_RDPMC_FIXED), c->insns);
	GUEST_DONE();
}

/* --- what L1 must not ask for */

static void guest_expect_vmfail(uint64_t error, uint64_t insns)
{
	uint64_t on = guest_select_all();

	payload_launch.run(MSR_CORE_PERF_GLOBAL_CTRL, on, 0);
	GUEST_ASSERT_EQ(vmreadz(VM_INSTRUCTION_ERROR), error);
	__GUEST_ASSERT(_rdpmc(INTEL_RDPMC_FIXED) == insns, "VMfail: %lu instructions, expected %lu",
		       (uint64_t)_rdpmc(INTEL_RDPMC_FIXED), insns);
}

static void guest_bad_global_ctrl(struct vmx_pages *vmx)
{
	const uint64_t bad = BIT_ULL(guest_nr_gp());

	guest_vmx_init(vmx);
	vmwrite(GUEST_RIP, (uint64_t)l2_nops);

	/* A host value: VMfail, and the instruction retires. */
	guest_switch_global_ctrl(0, bad);
	guest_expect_vmfail(VMERR_BAD_HOST_STATE, payload_launch.insns);

	/* A guest value: a VM-exit, which loads the host's value. */
	guest_switch_global_ctrl(bad, CTRL_EXIT);
	wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, CTRL_L1);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON),
			EXIT_REASON_FAILED_VMENTRY | EXIT_REASON_INVALID_STATE);
	GUEST_ASSERT_EQ(rdmsr(MSR_CORE_PERF_GLOBAL_CTRL), CTRL_EXIT);

	/* Without the controls nobody looks. */
	guest_set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL, false);
	guest_set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL, false);
	vmwrite(HOST_IA32_PERF_GLOBAL_CTRL, ~0ull);
	vmwrite(GUEST_IA32_PERF_GLOBAL_CTRL, ~0ull);
	guest_expect_exit(&l2_code_nops, guest_enter_l2(l2_nops, 0));
	GUEST_DONE();
}

/*
 * Only the processor finds that the virtual-APIC page is no memory: for KVM
 * L2 had been entered by then.
 */
static void guest_late_vmfail(struct vmx_pages *vmx)
{
	guest_vmx_init(vmx);
	vmwrite(GUEST_RIP, (uint64_t)l2_nops);
	guest_set_control(CPU_BASED_VM_EXEC_CONTROL, CPU_BASED_TPR_SHADOW, true);
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, BIT_ULL(36));
	/* Whether the instruction counts, and once, is not for L2's value to say. */
	guest_switch_global_ctrl(0, 0);
	guest_expect_vmfail(VMERR_BAD_CONTROLS, payload_launch.insns);
	guest_switch_global_ctrl(guest_gp_mask() | guest_fixed_mask(), 0);
	guest_expect_vmfail(VMERR_BAD_CONTROLS, payload_launch.insns);
	GUEST_DONE();
}

#define NR_RANDOM	300

/* Any controls, any GLOBAL_CTRL: L1 gets an answer, and keeps a PMU that counts. */
static void guest_random_controls(struct vmx_pages *vmx)
{
	static const uint64_t fields[] = {
		PIN_BASED_VM_EXEC_CONTROL, CPU_BASED_VM_EXEC_CONTROL, VM_EXIT_CONTROLS,
		VM_ENTRY_CONTROLS, GUEST_IA32_PERF_GLOBAL_CTRL, HOST_IA32_PERF_GLOBAL_CTRL,
	};
	const uint64_t ctrls = guest_gp_mask() | guest_fixed_mask();
	unsigned int round, i;
	uint64_t value, on;

	guest_vmx_init(vmx);
	for (round = 0; round < NR_RANDOM; round++) {
		guest_new_vmcs(vmx);
		vmwrite(GUEST_RIP, (uint64_t)l2_nops);
		for (i = 0; i < ARRAY_SIZE(fields); i++) {
			value = guest_random() & guest_random();
			if (i < 4)
				value = vmreadz(fields[i]) ^ (1ull << value % 32);
			else if (round % 2)
				value &= ctrls;
			if (guest_random() % 2)
				vmwrite(fields[i], value);
		}
		guest_select_all();
		wrmsr(MSR_CORE_PERF_GLOBAL_CTRL, ctrls);
		vmlaunch();
	}

	/* None of it has left a trace. */
	guest_new_vmcs(vmx);
	on = guest_select_all();
	guest_switch_global_ctrl(on, 0);
	guest_expect_exit(&l2_code_nops, guest_enter_l2(l2_nops, 0));
	guest_expect_counts(&l2_code_nops, "after random controls", l2_code_nops.insns, 0);
	GUEST_DONE();
}

/* --- the test program */

FIXTURE(nested) {
	struct vpmu_config config;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	vm_vaddr_t vmx;
};

FIXTURE_VARIANT(nested) {
	bool fewer;
};

FIXTURE_VARIANT_ADD(nested, all_counters) { };
FIXTURE_VARIANT_ADD(nested, fewer_counters) { .fewer = true };

FIXTURE_SETUP(nested)
{
	self->config = vpmu_config_max();
	if (variant->fewer) {
		self->config.nr_gp = 2;
		self->config.nr_fixed = 1;
	}
	self->vm = vpmu_vm_create(&self->vcpu, NULL, &self->config);
	vcpu_alloc_vmx(self->vm, &self->vmx);
	vcpu_args_set(self->vcpu, 1, self->vmx);
}

FIXTURE_TEARDOWN(nested)
{
	kvm_vm_free(self->vm);
}

static void run_to_end(FIXTURE_DATA(nested) *self, void *guest_code)
{
	vcpu_arch_set_entry_point(self->vcpu, guest_code);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_DONE);
}

TEST_F(nested, counts_l2)
{
	run_to_end(self, guest_counts_l2);
}

TEST_F(nested, counts_l1)
{
	run_to_end(self, guest_counts_l1);
}

TEST_F(nested, counts_both)
{
	run_to_end(self, guest_counts_both);
}

TEST_F(nested, global_ctrl)
{
	run_to_end(self, guest_global_ctrl);
}

TEST_F(nested, intercepts)
{
	const struct vpmu_config *c = &self->config;
	unsigned int i, rdpmc = 0, counters, global;

	vpmu_stay_awake(self->vcpu, &self->config);
	vcpu_arch_set_entry_point(self->vcpu, guest_intercepts);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);

	for (i = 0; i < VPMU_MAX_GP; i++)
		rdpmc += walk_op(self->vcpu, RDPMC, i);
	for (i = 0; i < VPMU_MAX_FIXED; i++)
		rdpmc += walk_op(self->vcpu, RDPMC, INTEL_RDPMC_FIXED | i);
	counters = walk_msrs(self->vcpu, MSR_IA32_PERFCTR0, VPMU_MAX_GP) +
		   walk_msrs(self->vcpu, MSR_IA32_PMC0, VPMU_MAX_GP) +
		   walk_msrs(self->vcpu, MSR_CORE_PERF_FIXED_CTR0, VPMU_MAX_FIXED);
	global = walk_msrs(self->vcpu, MSR_CORE_PERF_GLOBAL_STATUS, 3);
	TEST_ASSERT_EQ(walk_msrs(self->vcpu, MSR_P6_EVNTSEL0, VPMU_MAX_GP), 0);
	TEST_ASSERT_EQ(walk_msrs(self->vcpu, MSR_CORE_PERF_FIXED_CTR_CTRL, 1), 0);
	TEST_ASSERT_EQ(walk_msrs(self->vcpu, VPMU_MSR_GLOBAL_STATUS_SET, 2), 0);
	walk_msrs(self->vcpu, VPMU_MSR_PERF_METRICS, 1);

	/* In case nothing was free, not even for L1. */
	TEST_ASSERT_EQ(counters, 2 * (2 * c->nr_gp + c->nr_fixed));
	if (variant->fewer)
		TEST_ASSERT_EQ(rdpmc + global, 0);
}

static void test_pmi(FIXTURE_DATA(nested) *self, bool nmi, bool exiting)
{
	expect_pmi(self->vm, nmi, exiting);
	run_to_end(self, guest_pmi);
}

TEST_F(nested, interrupt_exits)
{
	test_pmi(self, false, true);
}

TEST_F(nested, interrupt_of_l2)
{
	test_pmi(self, false, false);
}

TEST_F(nested, nmi_exits)
{
	test_pmi(self, true, true);
}

TEST_F(nested, nmi_of_l2)
{
	test_pmi(self, true, false);
}

TEST_F(nested, save_restore)
{
	vcpu_arch_set_entry_point(self->vcpu, guest_save_restore);
	run_and_restore(self->vcpu, &self->config, !variant->fewer);
}

/* A VM-exit that L1 doesn't see doesn't load L1's GLOBAL_CTRL. */
TEST_F(nested, forced_out)
{
	struct kvm_nested_state state = {
		.size = sizeof(state),
		.format = KVM_STATE_NESTED_FORMAT_VMX,
		.hdr.vmx = { .vmxon_pa = -1ull, .vmcs12_pa = -1ull },
	};

	vcpu_arch_set_entry_point(self->vcpu, guest_at_userspace);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);
	vcpu_nested_state_set(self->vcpu, &state);
	TEST_ASSERT_EQ(vcpu_get_msr(self->vcpu, MSR_CORE_PERF_GLOBAL_CTRL), CTRL_L2);
}

TEST_F(nested, smi)
{
	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "needs KVM_CAP_X86_SMM");
	prepare_smm(self->vcpu);
	vcpu_arch_set_entry_point(self->vcpu, guest_smi);
	TEST_ASSERT_EQ(run_with_smis(self->vcpu), 3);
}

/* L0 denies instructions on general-purpose counters. */
TEST_F(nested, filter)
{
	deny_instructions(self->vm);
	run_to_end(self, guest_filtered);
}

TEST_F(nested, bad_global_ctrl)
{
	run_to_end(self, guest_bad_global_ctrl);
}

TEST_F(nested, late_vmfail)
{
	run_to_end(self, guest_late_vmfail);
}

TEST_F(nested, random_controls)
{
	run_to_end(self, guest_random_controls);
}

int main(int argc, char *argv[])
{
	vpmu_require_intel();
	__TEST_REQUIRE(vpmu_is_mediated(), "needs " VPMU_MODULE_NAME);
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	return test_harness_run(argc, argv);
}
