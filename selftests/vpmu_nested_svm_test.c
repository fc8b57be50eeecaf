// SPDX-License-Identifier: GPL-2.0
/*
 * A guest (L1) that runs a guest (L2) on an AMD processor: both use one PMU, L1's.
 *
 * APM Vol. 2, 13.2.1 and 15: L2 accesses the PMU without an exit to L1 where L1's
 * MSR permission map and its RDPMC intercept let it. A selector of L1's counts
 * everywhere, or in L1 with HostOnly and in L2 with GuestOnly, if EFER.SVME is
 * set. VMRUN is the first instruction and the first branch of L2, #VMEXIT an
 * exception, i.e. a branch, of L1.
 *
 * Functions named guest_*() run in L1, those named l2_*() in L2.
 */
#include "apic.h"
#include "nested.h"
#include "payloads.h"
#include "vpmu_harness.h"

#include "svm_util.h"

#define GUEST_ONLY		BIT_ULL(40)
#define HOST_ONLY		BIT_ULL(41)
#define RFLAGS_IF		BIT_ULL(9)

/* The permission map has two bits for each MSR of three ranges. */
#define MSRPM_PAGES		2
#define MSRPM_RANGE		2048

/* --- L2 */

#define L2_NOPS		2000

DEFINE_L2(nops, "vmmcall",
	  ".fill " __stringify(L2_NOPS) ", 1, 0x90\n\t",
	  L2_NOPS, 0, SVM_EXIT_VMMCALL);
DEFINE_L2(loop, "vmmcall",
	  "mov $50, %ecx\n\t1: loop 1b\n\t",
	  51, 50, SVM_EXIT_VMMCALL);
/* L0 intercepts and completes it, L1 does not notice. */
DEFINE_L2(emulated, "vmmcall",
	  "mov $" __stringify(MSR_F15H_PERF_CTL0) ", %ecx\n\trdmsr\n\tnop\n\trdmsr\n\t",
	  4, 0, SVM_EXIT_VMMCALL);
DEFINE_L2(rdpmc, "vmmcall",
	  "xor %ecx, %ecx\n\trdpmc\n\trdpmc\n\t",
	  3, 0, SVM_EXIT_VMMCALL);
DEFINE_L2(user_space, "vmmcall",
	  "nop\n\tin $" __stringify(VPMU_USER_PORT) ", %al\n\tnop\n\t",
	  3, 0, SVM_EXIT_VMMCALL);
/* L1 intercepts it, and does not find it counted. */
DEFINE_L2(hlt, "vmmcall",
	  "nop\n\tnop\n\thlt\n\t",
	  2, 0, SVM_EXIT_HLT);

/* The same with an SMI at the I/O: RSM counts where it goes to. */
DEFINE_L2(smi, "vmmcall",
	  "nop\n\tin $" __stringify(VPMU_USER_PORT) ", %al\n\tnop\n\t",
	  4, 0, SVM_EXIT_VMMCALL);

static const struct l2_code * const l2_codes[] = {
	&l2_code_nops, &l2_code_loop, &l2_code_emulated, &l2_code_rdpmc, &l2_code_user_space,
	&l2_code_hlt,
};

/* --- L1 */

/* Into L2 and back; RAX is L1's again afterwards. VMRUN counts as L2's. */
DEFINE_PAYLOAD(vmrun,
	"mov %%r10, %%rax\n\t"
	"vmrun %%rax\n\t",
	1, 0);

static struct svm_test_data *guest_svm;
static uint8_t *guest_msrpm;

/* L0 denies instructions, for the guest to know. */
static bool insns_denied;

/* With this L1 asks for nothing but to be asked for nothing, and for HLT. */
static void guest_svm_init(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	struct vmcb_control_area *ctrl = &svm->vmcb->control;

	guest_svm = svm;
	guest_msrpm = msrpm;
	memset(msrpm, 0, MSRPM_PAGES * PAGE_SIZE);
	generic_svm_setup(svm, NULL, (void *)L2_STACK_TOP);
	ctrl->intercept |= BIT_ULL(INTERCEPT_MSR_PROT) | BIT_ULL(INTERCEPT_HLT);
	ctrl->msrpm_base_pa = msrpm_gpa;
}

static void guest_set_l2(void *rip)
{
	struct vmcb_save_area *save = &guest_svm->vmcb->save;

	save->rip = (uint64_t)rip;
	save->rsp = L2_STACK_TOP;
	save->rflags = 2;
}

static void guest_enter_l2(const struct l2_code *c, uint64_t on)
{
	guest_set_l2(c->run);
	payload_vmrun.run(vpmu_msr_global_ctrl(), on, guest_svm->vmcb_gpa);
	__GUEST_ASSERT(guest_svm->vmcb->control.exit_code == c->exit,
		       "%s: exit code %x, expected %x", c->name,
		       guest_svm->vmcb->control.exit_code, c->exit);
}

/* Pairs of counters, of instructions and of branches, with the same world bits. */
static const uint64_t worlds[] = { 0, GUEST_ONLY, HOST_ONLY, GUEST_ONLY | HOST_ONLY };

/* Returns the value of the global control that sets them going. */
static uint64_t guest_select_worlds(const uint64_t pairs[3])
{
	unsigned int i;

	guest_pmu_clear();
	for (i = 0; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_selector(i), pairs[i / 2] |
		      VPMU_SEL_OS(i % 2 ? vpmu_event_branches() : vpmu_event_insns()));
	return guest_gp_mask();
}

/* Beside what enters L2 and L2 itself, @smm_insns have retired in SMM. */
static void guest_expect_counts_beside(const struct l2_code *c, const uint64_t pairs[3],
				       uint64_t smm_insns)
{
	uint64_t insns, branches;
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++) {
		const bool l1 = !pairs[i / 2] || pairs[i / 2] & HOST_ONLY;
		const bool l2 = !pairs[i / 2] || pairs[i / 2] & GUEST_ONLY;

		/* VMRUN is the one that L2 has more, #VMEXIT that of L1. */
		insns = l1 * payload_vmrun.insns + l2 * (1 + c->insns) +
			!pairs[i / 2] * smm_insns;
		insns *= !insns_denied;
		branches = l1 * (payload_vmrun.branches + 1) + l2 * (1 + c->branches);
		__GUEST_ASSERT(_rdpmc(i) == (i % 2 ? branches : insns),
			       "%s, counter %u, world bits %lx: %lu, expected %lu", c->name, i,
			       pairs[i / 2] >> 40, (uint64_t)_rdpmc(i), i % 2 ? branches : insns);
		GUEST_ASSERT_EQ(rdmsr(vpmu_msr_selector(i)), pairs[i / 2] |
				VPMU_SEL_OS(i % 2 ? vpmu_event_branches() : vpmu_event_insns()));
	}
}

static void guest_expect_counts(const struct l2_code *c, const uint64_t pairs[3])
{
	guest_expect_counts_beside(c, pairs, 0);
}

static void guest_counts(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	unsigned int i, w;

	guest_svm_init(svm, msrpm, msrpm_gpa);
	for (i = 0; i < ARRAY_SIZE(l2_codes); i++) {
		for (w = 0; w < 2; w++) {
			guest_enter_l2(l2_codes[i], guest_select_worlds(worlds + w));
			guest_expect_counts(l2_codes[i], worlds + w);
		}
	}
	GUEST_DONE();
}

static void guest_expect_svme(const uint64_t pairs[3], bool svme)
{
	const struct payload *p = &payload_cpuid;
	uint64_t on = guest_select_worlds(pairs);
	unsigned int i;
	bool counts;

	p->run(vpmu_msr_global_ctrl(), on, 0);
	for (i = 0; i < guest_nr_gp(); i++) {
		counts = !pairs[i / 2] || (svme && pairs[i / 2] & HOST_ONLY);
		__GUEST_ASSERT(_rdpmc(i) == counts * (i % 2 ? p->branches : p->insns),
			       "SVME %u, counter %u, world bits %lx: %lu", svme, i,
			       pairs[i / 2] >> 40, (uint64_t)_rdpmc(i));
	}
}

/* In L1 alone HostOnly is as good as nothing, with EFER.SVME; else both count nothing. */
static void guest_svme(void)
{
	const uint64_t efer = rdmsr(MSR_EFER);
	int i;

	for (i = 0; i < 4; i++) {
		wrmsr(MSR_EFER, i % 2 ? efer | EFER_SVME : efer & ~EFER_SVME);
		guest_expect_svme(worlds, i % 2);
		guest_expect_svme(worlds + 1, i % 2);
	}
	GUEST_DONE();
}

/* --- who gets to see L2's accesses */

static const uint32_t access_exits[] = {
	SVM_EXIT_VMMCALL, SVM_EXIT_RDPMC, SVM_EXIT_MSR, SVM_EXIT_MSR,
};

static void l2_do_op(void)
{
	guest_do_op();
	vmmcall();
}

static void guest_intercept_msr(uint32_t msr, bool write, bool set)
{
	const uint32_t range = msr < 0x2000 ? 0 : msr < 0xc0010000 ? 1 : 2;
	const uint32_t bit = 2 * (msr & 0x1fff) + write;

	if (set)
		guest_msrpm[range * MSRPM_RANGE + bit / 8] |= BIT(bit % 8);
	else
		guest_msrpm[range * MSRPM_RANGE + bit / 8] &= ~BIT(bit % 8);
}

static void guest_set_intercept(bool set)
{
	struct vmcb_control_area *ctrl = &guest_svm->vmcb->control;

	if (op.access != RDPMC)
		guest_intercept_msr(op.index, op.access == WRMSR, set);
	else if (set)
		ctrl->intercept |= BIT_ULL(INTERCEPT_RDPMC);
	else
		ctrl->intercept &= ~BIT_ULL(INTERCEPT_RDPMC);
}

/* L2 comes back by its VMMCALL, or by what L1 has asked to see. */
static void guest_have_l2_do_op(void)
{
	struct vmcb *vmcb = guest_svm->vmcb;
	uint32_t expected = access_exits[op.l1_intercepts ? op.access : NO_ACCESS];

	guest_set_l2(l2_do_op);
	run_guest(vmcb, guest_svm->vmcb_gpa);
	__GUEST_ASSERT(vmcb->control.exit_code == expected,
		       "%s %x, which L1 %s: exit code %x", access_names[op.access], op.index,
		       op.l1_intercepts ? "intercepts" : "passes", vmcb->control.exit_code);
	op.seen += op.l1_intercepts;
}

static void guest_intercepts(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	const struct l1 l1 = {
		.set_intercept = guest_set_intercept,
		.have_l2_do_op = guest_have_l2_do_op,
	};

	guest_svm_init(svm, msrpm, msrpm_gpa);
	guest_pmu_clear();
	guest_walk(&l1);
}

/* --- overflows in L2 */

/* L1 counts L2 only, of whose instructions VMRUN is the first. */
static void guest_one_pmi(uint64_t n)
{
	struct vmcb *vmcb = guest_svm->vmcb;
	uint64_t done;

	guest_arm_pmi(n);
	guest_set_l2(l2_nops);
	vmcb->save.rflags |= RFLAGS_IF;
	payload_vmrun.run(vpmu_msr_global_ctrl(), BIT_ULL(0), guest_svm->vmcb_gpa);

	if (!pmi.exiting) {
		GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
		GUEST_ASSERT_EQ(pmi.count, 1);
		return;
	}
	GUEST_ASSERT_EQ(vmcb->control.exit_code, pmi.nmi ? SVM_EXIT_NMI : SVM_EXIT_INTR);
	GUEST_ASSERT_EQ(pmi.count, 0);
	done = vmcb->save.rip - (uint64_t)l2_nops;
	__GUEST_ASSERT(done + 1 >= n && _rdpmc(0) == done + 1 - n,
		       "PMI after %lu instructions from -%lu, counter reads %lu", done, n,
		       (uint64_t)_rdpmc(0));
	/* It is held pending while GIF is 0. */
	asm volatile("stgi");
	sti_nop_cli();
	GUEST_ASSERT_EQ(pmi.count, 1);
}

static void guest_pmi(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	const uint64_t counts[] = { 2, 3, 500 };
	unsigned int i;

	guest_svm_init(svm, msrpm, msrpm_gpa);
	if (pmi.exiting)
		svm->vmcb->control.intercept |= BIT_ULL(pmi.nmi ? INTERCEPT_NMI : INTERCEPT_INTR);
	x2apic_enable();
	guest_pmu_clear();
	wrmsr(vpmu_msr_selector(0),
	      VPMU_SEL_OS(vpmu_event_insns()) | ARCH_PERFMON_EVENTSEL_INT | GUEST_ONLY);
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		guest_one_pmi(counts[i]);
		wrmsr(vpmu_msr_status_clear(), BIT_ULL(0));
	}
	GUEST_DONE();
}

/* --- save and restore while L2 is active */

DEFINE_LOOP_PAYLOAD(pio_user,
	"in $0x80, %%al\n\t",
	1, 0);

/* GuestOnly counters of instructions and branches, and HostOnly ones beside them. */
static void l2_counting(void)
{
	const struct payload *p = &payload_pio_user;
	unsigned int i;
	bool here;

	p->run(vpmu_msr_global_ctrl(), guest_gp_mask(), 0);
	for (i = 0; i < guest_nr_gp(); i++) {
		here = worlds[1 + i / 2] & GUEST_ONLY;
		GUEST_ASSERT_EQ(_rdpmc(i), here * (i % 2 ? p->branches : p->insns));
	}
	l2_read_often();
	vmmcall();
}

static void guest_save_restore(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	guest_svm_init(svm, msrpm, msrpm_gpa);
	guest_select_worlds(worlds + 1);
	guest_set_l2(l2_counting);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

/* --- SMM */

/* SMM is neither host nor guest: EFER is 0 there, and so is EFER.SVME. */
static void guest_smi(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	unsigned int w;

	guest_svm_init(svm, msrpm, msrpm_gpa);
	for (w = 0; w < 2; w++) {
		guest_enter_l2(&l2_code_smi, guest_select_worlds(worlds + w));
		guest_expect_counts_beside(&l2_code_smi, worlds + w, SMM_NOPS);
	}
	GUEST_DONE();
}

/* --- what L1 must not ask for */

static void guest_bad_vmcb(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	unsigned int i;
	uint64_t on;
	bool l1;

	guest_svm_init(svm, msrpm, msrpm_gpa);
	svm->vmcb->control.msrpm_base_pa = -1ull & ~(PAGE_SIZE - 1);
	on = guest_select_worlds(worlds);
	guest_set_l2(l2_nops);
	payload_vmrun.run(vpmu_msr_global_ctrl(), on, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_ERR);
	/* L1 has not left, and VMRUN is no instruction of its. */
	for (i = 0; i < guest_nr_gp(); i += 2) {
		l1 = !worlds[i / 2] || worlds[i / 2] & HOST_ONLY;
		GUEST_ASSERT_EQ(_rdpmc(i), l1 * payload_vmrun.insns);
	}

	svm->vmcb->control.msrpm_base_pa = msrpm_gpa;
	guest_enter_l2(&l2_code_nops, guest_select_worlds(worlds));
	guest_expect_counts(&l2_code_nops, worlds);
	GUEST_DONE();
}

#define NR_RANDOM	200

static uint64_t guest_noise(void)
{
	return guest_random() & guest_random();
}

/*
 * Whatever happens exits, to L1: all exceptions do, and an event that is injected
 * finds no gate in the IDT. Where the code and its pages are found stays as it is.
 */
static void guest_randomize(struct vmcb *vmcb)
{
	struct vmcb_control_area *ctrl = &vmcb->control;

	ctrl->intercept_cr = guest_noise();
	ctrl->intercept_dr = guest_noise();
	ctrl->intercept_exceptions = -1u;
	ctrl->intercept |= guest_noise() | BIT_ULL(INTERCEPT_SHUTDOWN);
	memset(guest_msrpm, guest_noise(), MSRPM_PAGES * PAGE_SIZE);
	vmcb->save.idtr.limit = 0;

	ctrl->int_ctl = guest_noise();
	ctrl->int_vector = guest_noise();
	ctrl->int_state = guest_noise();
	ctrl->virt_ext = guest_noise();
	ctrl->clean = guest_noise();
	ctrl->tsc_offset = guest_random();
	ctrl->nested_cr3 = guest_noise();
	if (guest_random() % 4 == 0)
		ctrl->event_inj = SVM_EVTINJ_VALID | guest_random();
}

/* Of these few values are good. */
static void guest_randomize_rarely(struct vmcb *vmcb)
{
	if (guest_random() % 8 == 0)
		vmcb->control.msrpm_base_pa = guest_noise();
	if (guest_random() % 8 == 0)
		vmcb->control.nested_ctl = guest_noise();
	if (guest_random() % 8 == 0)
		vmcb->control.asid = guest_random() % 2;
	if (guest_random() % 8 == 0)
		vmcb->save.efer ^= guest_random() % 2 ? EFER_SVME : guest_noise() << 16;
	if (guest_random() % 8 == 0)
		vmcb->save.cr0 ^= guest_noise() & (X86_CR0_WP | X86_CR0_NW | X86_CR0_CD);
}

/*
 * How far L2 came in @c is for the pair of counters to say that counts L2 alone. What
 * L1 did is known, and what counts both has the sum.
 */
static void guest_expect_sums(const struct l2_code *c, const uint64_t pairs[3],
			      unsigned int l2_pair)
{
	uint64_t l1, l2, expected;
	unsigned int i;

	for (i = 0; i < guest_nr_gp(); i++) {
		l1 = i % 2 ? payload_vmrun.branches + 1 : payload_vmrun.insns;
		l2 = _rdpmc(2 * l2_pair + i % 2);
		GUEST_ASSERT(l2 <= 1 + (i & 1 ? c->branches : c->insns));

		expected = (pairs[i / 2] != GUEST_ONLY) * l1 + (pairs[i / 2] != HOST_ONLY) * l2;
		__GUEST_ASSERT(_rdpmc(i) == expected,
			       "%s, exit code %x, counter %u, world bits %lx: %lu, expected %lu",
			       c->name, guest_svm->vmcb->control.exit_code, i, pairs[i / 2] >> 40,
			       (uint64_t)_rdpmc(i), expected);
	}
}

static void guest_random_vmcb(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	const struct l2_code *c;
	unsigned int round, entered = 0;
	uint64_t on;

	for (round = 0; round < NR_RANDOM; round++) {
		c = l2_codes[round / 2 % ARRAY_SIZE(l2_codes)];
		guest_svm_init(svm, msrpm, msrpm_gpa);
		on = guest_select_worlds(worlds + round % 2);
		guest_set_l2(c->run);
		guest_randomize(svm->vmcb);
		guest_randomize_rarely(svm->vmcb);
		payload_vmrun.run(vpmu_msr_global_ctrl(), on, svm->vmcb_gpa);
		guest_expect_sums(c, worlds + round % 2, 1 - round % 2);
		entered += svm->vmcb->control.exit_code != SVM_EXIT_ERR;
	}
	/* They are bad, but not all of them. */
	GUEST_ASSERT(entered > NR_RANDOM / 4 && entered < NR_RANDOM);

	/* None of it has left a trace. */
	guest_counts(svm, msrpm, msrpm_gpa);
}

/* --- forced out of L2 by user space */

/*
 * L1 by itself. It has to run before L2 does, too: having been forced out of that, it
 * does not find pages that it did not touch before (6.18's svm_leave_nested() leaves it
 * with the wrong root of page tables), for which reason user space looks at the counters.
 */
static void guest_l1(void)
{
	payload_cpuid.run(vpmu_msr_global_ctrl(), guest_gp_mask(), 0);
	GUEST_SYNC(0);
}

static void expect_l1_counts(struct kvm_vcpu *vcpu, unsigned int nr_gp)
{
	const struct payload *p = &payload_cpuid;
	unsigned int i;
	bool here;

	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	for (i = 0; i < nr_gp; i++) {
		here = worlds[1 + i / 2] & HOST_ONLY;
		TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_F15H_PERF_CTR0 + 2 * i),
			       here * (i % 2 ? p->branches : p->insns));
	}
}

static void l2_at_userspace(void)
{
	GUEST_SYNC(0);
	__GUEST_ASSERT(false, "L2 goes on");
}

static void guest_at_userspace(struct svm_test_data *svm, void *msrpm, uint64_t msrpm_gpa)
{
	guest_svm_init(svm, msrpm, msrpm_gpa);
	guest_select_worlds(worlds + 1);
	guest_l1();

	guest_select_worlds(worlds + 1);
	guest_set_l2(l2_at_userspace);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	__GUEST_ASSERT(false, "L2 exits");
}

/* --- the test program */

FIXTURE(nested_svm) {
	struct vpmu_config config;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(nested_svm) {
	bool fewer;
};

FIXTURE_VARIANT_ADD(nested_svm, all_counters) { };
FIXTURE_VARIANT_ADD(nested_svm, fewer_counters) { .fewer = true };

FIXTURE_SETUP(nested_svm)
{
	vm_vaddr_t svm, msrpm;

	self->config = vpmu_config_max();
	if (variant->fewer)
		self->config.nr_gp = 4;
	self->vm = vpmu_vm_create(&self->vcpu, NULL, &self->config);
	vcpu_alloc_svm(self->vm, &svm);
	msrpm = vm_vaddr_alloc(self->vm, MSRPM_PAGES * PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	vcpu_args_set(self->vcpu, 3, svm, msrpm, addr_gva2gpa(self->vm, msrpm));
}

FIXTURE_TEARDOWN(nested_svm)
{
	kvm_vm_free(self->vm);
}

static void run_to_end(FIXTURE_DATA(nested_svm) *self, void *guest_code)
{
	vcpu_arch_set_entry_point(self->vcpu, guest_code);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_DONE);
}

TEST_F(nested_svm, counts)
{
	run_to_end(self, guest_counts);
}

TEST_F(nested_svm, svme)
{
	run_to_end(self, guest_svme);
}

TEST_F(nested_svm, intercepts)
{
	const unsigned int nr_gp = self->config.nr_gp, max_gp = vpmu_config_max().nr_gp;
	unsigned int i, rdpmc = 0, counters, global;

	vpmu_stay_awake(self->vcpu, &self->config);
	vcpu_arch_set_entry_point(self->vcpu, guest_intercepts);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);

	for (i = 0; i < max_gp; i++)
		rdpmc += walk_op(self->vcpu, RDPMC, i);
	TEST_ASSERT_EQ(rdpmc, variant->fewer || vpmu_rdpmc_must_exit() ? 0 : nr_gp);

	/* Selectors are intercepted, and counters that L1 has not got: each read and written. */
	counters = walk_msrs(self->vcpu, MSR_F15H_PERF_CTL0, 2 * max_gp);
	TEST_ASSERT_EQ(counters, 2 * nr_gp);
	TEST_ASSERT_EQ(walk_msrs(self->vcpu, MSR_K7_EVNTSEL0, 4), 0);
	TEST_ASSERT_EQ(walk_msrs(self->vcpu, MSR_K7_PERFCTR0, 4), 2 * 4);
	global = walk_msrs(self->vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS, 4);
	TEST_ASSERT(!global == variant->fewer, "%u accesses of global registers are free", global);
}

static void test_pmi(FIXTURE_DATA(nested_svm) *self, bool nmi, bool exiting)
{
	expect_pmi(self->vm, nmi, exiting);
	run_to_end(self, guest_pmi);
}

TEST_F(nested_svm, interrupt_exits)
{
	test_pmi(self, false, true);
}

TEST_F(nested_svm, interrupt_of_l2)
{
	test_pmi(self, false, false);
}

TEST_F(nested_svm, nmi_exits)
{
	test_pmi(self, true, true);
}

TEST_F(nested_svm, nmi_of_l2)
{
	test_pmi(self, true, false);
}

TEST_F(nested_svm, save_restore)
{
	vcpu_arch_set_entry_point(self->vcpu, guest_save_restore);
	run_and_restore(self->vcpu, &self->config, !variant->fewer);
}

/* Of L2 nothing is left then but the general-purpose registers. */
TEST_F(nested_svm, forced_out)
{
	struct kvm_nested_state state = {
		.size = sizeof(state),
		.format = KVM_STATE_NESTED_FORMAT_SVM,
		.flags = KVM_STATE_NESTED_GIF_SET,
	};
	struct kvm_regs regs;

	vcpu_regs_get(self->vcpu, &regs);
	regs.rip = (uint64_t)guest_l1;
	vcpu_arch_set_entry_point(self->vcpu, guest_at_userspace);
	expect_l1_counts(self->vcpu, self->config.nr_gp);
	TEST_ASSERT_EQ(vpmu_run(self->vcpu), VPMU_SYNC);
	vcpu_nested_state_set(self->vcpu, &state);
	vcpu_regs_set(self->vcpu, &regs);
	expect_l1_counts(self->vcpu, self->config.nr_gp);
}

/* L0 denies instructions, in L1 and in L2. */
TEST_F(nested_svm, filter)
{
	deny_instructions(self->vm);
	insns_denied = true;
	sync_global_to_guest(self->vm, insns_denied);
	run_to_end(self, guest_counts);
}

TEST_F(nested_svm, smi)
{
	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "needs KVM_CAP_X86_SMM");
	prepare_smm(self->vcpu);
	vcpu_arch_set_entry_point(self->vcpu, guest_smi);
	TEST_ASSERT_EQ(run_with_smis(self->vcpu), 2);
}

TEST_F(nested_svm, bad_vmcb)
{
	run_to_end(self, guest_bad_vmcb);
}

TEST_F(nested_svm, random_vmcb)
{
	run_to_end(self, guest_random_vmcb);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(host_cpu_is_amd);
	vpmu_require_exact();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	return test_harness_run(argc, argv);
}
