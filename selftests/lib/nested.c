// SPDX-License-Identifier: GPL-2.0
/*
 * What the tests of nested guests share.
 */
#include "apic.h"
#include "nested.h"

/* Accesses of a kind in a row, and how often they are tried anew. */
#define NR_OPS		3
#define NR_TRIES	3

/* Reads of a counter in a row, more than there are other exits. */
#define NR_READS	100

#define APIC_LVTPC	0x340

/* SMRAM, in the address space of SMM: the handler, and above it the saved state. */
#define SMRAM_GPA	0x1000000
#define SMRAM_SLOT	(BIT(16) | 1)
#define SMRAM_PAGES	16
#define SMRAM_ENTRY	0x8000

uint8_t l2_stack[4 * PAGE_SIZE] __aligned(PAGE_SIZE);

struct op op;
struct l2_pmi pmi;

const char * const access_names[] = { "nothing", "RDPMC", "RDMSR", "WRMSR" };

/* Zero is a value that each register takes, if it takes any. */
void guest_do_op(void)
{
	uint64_t ignored;

	if (op.access == RDPMC)
		rdpmc_safe(op.index, &ignored);
	else if (op.access == RDMSR)
		rdmsr_safe(op.index, &ignored);
	else if (op.access == WRMSR)
		wrmsr_safe(op.index, 0);
}

void guest_walk(const struct l1 *l1)
{
	uint32_t i;

	for (;;) {
		GUEST_SYNC(0);
		if (op.l1_intercepts)
			l1->set_intercept(true);
		for (i = 0; i < op.times; i++) {
			if (op.in_l2)
				l1->have_l2_do_op();
			else
				guest_do_op();
		}
		if (op.l1_intercepts)
			l1->set_intercept(false);
	}
}

/* VM-exits of the vCPU while its guest does @wanted. */
static uint64_t exits_once(struct kvm_vcpu *vcpu, const struct op *wanted)
{
	uint64_t before = vpmu_exits(vcpu);

	op = *wanted;
	sync_global_to_guest(vcpu->vm, op);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	sync_global_from_guest(vcpu->vm, op);
	return vpmu_exits(vcpu) - before;
}

/*
 * How many of NR_OPS accesses exit: none or all, unless an exit of the machine's
 * own comes in between. What exits around them does so without them, too.
 */
static uint64_t exits_of(struct kvm_vcpu *vcpu, enum access access, uint32_t index, bool in_l2)
{
	const struct op wanted = {
		.access = access, .index = index, .times = NR_OPS, .in_l2 = in_l2,
	};
	const struct op nothing = { .times = NR_OPS, .in_l2 = in_l2 };
	uint64_t exits;
	int try;

	for (try = 0; try < NR_TRIES; try++) {
		exits = exits_once(vcpu, &wanted) - exits_once(vcpu, &nothing);
		if (exits == 0 || exits == NR_OPS)
			break;
	}
	return exits;
}

unsigned int walk_op(struct kvm_vcpu *vcpu, enum access access, uint32_t index)
{
	const struct op seen_by_l1 = {
		.access = access, .index = index, .times = NR_OPS,
		.in_l2 = true, .l1_intercepts = true,
	};
	uint64_t of_l1 = exits_of(vcpu, access, index, false);
	uint64_t of_l2 = exits_of(vcpu, access, index, true);

	TEST_ASSERT(of_l1 == of_l2, "%s %x: of %u, %lu exit in L1 and %lu in L2",
		    access_names[access], index, NR_OPS, of_l1, of_l2);
	exits_once(vcpu, &seen_by_l1);
	TEST_ASSERT(op.seen == NR_OPS, "%s %x: L1 intercepts it and sees it %u times",
		    access_names[access], index, op.seen);
	return !of_l2;
}

unsigned int walk_msrs(struct kvm_vcpu *vcpu, uint32_t first, uint32_t nr)
{
	unsigned int free = 0;
	uint32_t i;

	for (i = 0; i < nr; i++) {
		free += walk_op(vcpu, RDMSR, first + i);
		free += walk_op(vcpu, WRMSR, first + i);
	}
	return free;
}

static void guest_pmi_handler(struct ex_regs *regs)
{
	pmi.count++;
	wrmsr(vpmu_msr_global_ctrl(), 0);
	if (!pmi.nmi)
		x2apic_write_reg(APIC_EOI, 0);
}

void expect_pmi(struct kvm_vm *vm, bool nmi, bool exiting)
{
	vm_install_exception_handler(vm, nmi ? NMI_VECTOR : PMI_VECTOR, guest_pmi_handler);
	pmi.nmi = nmi;
	pmi.exiting = exiting;
	sync_global_to_guest(vm, pmi);
}

void guest_arm_pmi(uint64_t n)
{
	pmi.count = 0;
	wrmsr(vpmu_msr_full_counter(0), -n & guest_counter_mask());
	x2apic_write_reg(APIC_LVTPC, pmi.nmi ? APIC_DM_NMI : PMI_VECTOR);
}

void deny_instructions(struct kvm_vm *vm)
{
	struct {
		struct kvm_pmu_event_filter head;
		uint64_t event;
	} filter = {
		.head = { .action = KVM_PMU_EVENT_DENY, .nevents = 1 },
		.event = vpmu_event_insns(),
	};

	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter.head);
}

uint64_t guest_random(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

struct kvm_vcpu *restore_nested(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
				const struct vpmu_config *config)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);
	vpmu_vcpu_init(vcpu, config);
	vcpu_load_state(vcpu, state);
	kvm_x86_state_cleanup(state);
	return vcpu;
}

void l2_read_often(void)
{
	unsigned int i;

	/* Something may count, so that the PMU isn't at rest. */
	wrmsr(vpmu_msr_global_ctrl(), BIT_ULL(0));
	GUEST_SYNC(0);
	for (i = 0; i < NR_READS; i++) {
		/* On AMD RDPMC may have to exit, see vpmu_rdpmc_must_exit(). */
		if (host_cpu_is_amd)
			rdmsr(vpmu_msr_full_counter(1));
		else
			_rdpmc(0);
		rdmsr(vpmu_msr_full_counter(0));
	}
	wrmsr(vpmu_msr_global_ctrl(), 0);
	GUEST_SYNC(1);
}

void run_and_restore(struct kvm_vcpu *vcpu, const struct vpmu_config *config, bool free)
{
	uint64_t exits;
	int ios = 0;

	while (vpmu_run_to_io(vcpu) == VPMU_IO) {
		if (ios++ % 8 == 0)
			vcpu = restore_nested(vcpu->vm, vcpu, config);
	}
	TEST_ASSERT_EQ(ios, PAYLOAD_LOOPS);

	/* L2 is as free as before, from the start. */
	vcpu = restore_nested(vcpu->vm, vcpu, config);
	exits = vpmu_exits(vcpu);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	exits = vpmu_exits(vcpu) - exits;
	TEST_ASSERT(!free || exits < NR_READS, "restored, L2's reads exit %lu times", exits);
	vcpu = restore_nested(vcpu->vm, vcpu, config);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
}

void prepare_smm(struct kvm_vcpu *vcpu)
{
	static const uint8_t handler[SMM_NOPS + 2] = {
		[0 ... SMM_NOPS - 1] = 0x90, 0x0f, 0xaa,
	};
	struct kvm_vm *vm = vcpu->vm;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA, SMRAM_SLOT,
				    SMRAM_PAGES, 0);
	memcpy(addr_gpa2hva(vm, SMRAM_GPA + SMRAM_ENTRY), handler, sizeof(handler));
	vcpu_set_msr(vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
}

int run_with_smis(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;
	int smis = 0;

	while (vpmu_run_to_io(vcpu) == VPMU_IO) {
		vcpu_events_get(vcpu, &events);
		events.smi.pending = 1;
		events.flags |= KVM_VCPUEVENT_VALID_SMM;
		vcpu_events_set(vcpu, &events);
		smis++;
	}
	return smis;
}
