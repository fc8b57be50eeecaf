// SPDX-License-Identifier: GPL-2.0
/*
 * Counters tell user mode from kernel mode, and RDPMC obeys CR4.PCE.
 *
 * SDM Vol. 3B, 21.2.1.1: USR counts at CPL 3 (strictly, at 1 to 3), OS at
 * CPL 0. Which of the two the instructions that switch between them belong to
 * does not matter here: they are the same however often the piece of user code
 * between them repeats, so it is the difference of two lengths that is looked at.
 */
#include "vpmu.h"
#include "vpmu_harness.h"

/* The selftest library's descriptors end at 0x27. */
#define KERNEL_DS		0x10
#define USER_DS			0x2b
#define USER_CS			0x33
#define USER_DATA_DESC		0x00cff3000000ffffull
#define USER_CODE_DESC		0x00affb000000ffffull

#define USER_PTE		BIT_ULL(2)
#define BACK_VECTOR		0x80

#define CR4_PCE			BIT_ULL(8)

/* Rounds of the shorter and the longer run. */
#define SHORT_ROUNDS		7
#define LONG_ROUNDS		(SHORT_ROUNDS + 50)

/* 64-bit TSS: the stack pointer for entries to CPL 0. */
#define TSS_RSP0		4

/* GCC must not make a second copy of an asm that defines a label. */
#ifdef __clang__
#define __noclone
#else
#define __noclone	__attribute__((__noclone__))
#endif

static uint64_t guest_kernel_rsp;

/**
 * struct user_code - code that runs @rounds (in R9) times at CPL 3
 * @name: for messages
 * @run: WRMSR(@msr, @on) at CPL 0, the code, WRMSR(@msr, 0) at CPL 0
 * @insns: instructions of a round
 * @branches: branches of a round
 */
struct user_code {
	const char *name;
	uint64_t (*run)(uint32_t msr, uint64_t on, uint64_t rounds);
	uint64_t insns;
	uint64_t branches;
};

/*
 * To CPL 3 by IRETQ and back by INT through a gate to a label of this asm. The
 * body may use RAX, RBX, RCX, RDX and R11; R11 is what run() returns.
 */
#define DEFINE_USER_CODE(_name, _body, _insns, _branches)			\
extern char back_from_##_name[];						\
static noinline __noclone uint64_t						\
user_run_##_name(uint32_t msr, uint64_t on, uint64_t rounds)			\
{										\
	uint32_t eax = on, edx = on >> 32, ecx = msr;				\
	register uint64_t r8 asm("r8") = msr;					\
	register uint64_t r9 asm("r9") = rounds;				\
	register uint64_t r11 asm("r11") = 0;					\
										\
	asm volatile("push %%rbp\n\t"						\
		     "mov %%rsp, %[kernel_rsp]\n\t"				\
		     "wrmsr\n\t"						\
		     "lea 1f(%%rip), %%rax\n\t"					\
		     "mov %%rsp, %%rcx\n\t"					\
		     "push $" __stringify(USER_DS) "\n\t"			\
		     "push %%rcx\n\t"						\
		     "push $2\n\t"						\
		     "push $" __stringify(USER_CS) "\n\t"			\
		     "push %%rax\n\t"						\
		     "iretq\n\t"						\
		     "1:\n\t"							\
		     _body							\
		     "dec %%r9d\n\t"						\
		     "jnz 1b\n\t"						\
		     "int $" __stringify(BACK_VECTOR) "\n\t"			\
		     ".global back_from_" #_name "\n"				\
		     "back_from_" #_name ":\n\t"				\
		     "mov %%r8d, %%ecx\n\t"					\
		     "xor %%eax, %%eax\n\t"					\
		     "xor %%edx, %%edx\n\t"					\
		     "wrmsr\n\t"						\
		     "mov %[kernel_rsp], %%rsp\n\t"				\
		     "mov $" __stringify(KERNEL_DS) ", %%eax\n\t"		\
		     "mov %%eax, %%ss\n\t"					\
		     "mov %%eax, %%ds\n\t"					\
		     "mov %%eax, %%es\n\t"					\
		     "pop %%rbp\n\t"						\
		     : "+a"(eax), "+d"(edx), "+c"(ecx), "+r"(r9), "+r"(r11),	\
		       [kernel_rsp] "+m"(guest_kernel_rsp)			\
		     : "r"(r8)							\
		     : "rbx", "rsi", "rdi", "r10", "cc", "memory");		\
	return r11;								\
}										\
static const struct user_code user_##_name = {					\
	.name = #_name,								\
	.run = user_run_##_name,						\
	.insns = (_insns) + 2,							\
	.branches = (_branches) + 1,						\
}

DEFINE_USER_CODE(nop,
	"nop\n\t",
	1, 0);

DEFINE_USER_CODE(branch,
	"jmp 2f\n\t"
	"2:\n\t",
	1, 1);

/* KVM retires it for user mode. */
DEFINE_USER_CODE(cpuid,
	"xor %%eax, %%eax\n\t"
	"cpuid\n\t",
	2, 0);

/* R11 is the number of faults, by gp_handler. */
DEFINE_USER_CODE(rdpmc,
	"xor %%ecx, %%ecx\n\t"
	"rdpmc\n\t",
	2, 0);

extern char gp_handler[];
asm(".pushsection .text\n\t"
	".global gp_handler\n"
	"gp_handler:\n\t"
	"inc %r11\n\t"
	"lea 8(%rsp), %rsp\n\t"		/* the error code */
	"addq $2, (%rsp)\n\t"		/* the length of RDPMC */
	"iretq\n\t"
	".popsection\n");

/**
 * struct counts - what a run yields, by privilege level
 */
struct counts {
	uint64_t user_insns;
	uint64_t kernel_insns;
	uint64_t all_insns;
	uint64_t user_branches;
	uint64_t fixed_user;
};

static struct counts guest_counts(const struct user_code *code, uint64_t rounds)
{
	const uint64_t insns = vpmu_event_insns();

	guest_pmu_clear();
	wrmsr(vpmu_msr_selector(0), VPMU_SEL_USR(insns));
	wrmsr(vpmu_msr_selector(1), VPMU_SEL_OS(insns));
	wrmsr(vpmu_msr_selector(2), VPMU_SEL_OS(insns) | VPMU_SEL_USR(insns));
	wrmsr(vpmu_msr_selector(3), VPMU_SEL_USR(vpmu_event_branches()));
	guest_fixed_select(FIXED_PMC_USER);
	code->run(vpmu_msr_global_ctrl(), 0xf | guest_fixed0_mask(), rounds);

	return (struct counts) {
		.user_insns = _rdpmc(0),
		.kernel_insns = _rdpmc(1),
		.all_insns = _rdpmc(2),
		.user_branches = _rdpmc(3),
		.fixed_user = guest_nr_fixed() ? _rdpmc(INTEL_RDPMC_FIXED) : 0,
	};
}

static void guest_modes(const struct user_code *code)
{
	const uint64_t rounds = LONG_ROUNDS - SHORT_ROUNDS;
	struct counts a, b;

	/*
	 * Once for nothing: INT that finds its stack not mapped by the host yet
	 * is delivered by VM-entry the second time, and does not retire then.
	 */
	guest_counts(code, SHORT_ROUNDS);
	a = guest_counts(code, SHORT_ROUNDS);
	b = guest_counts(code, LONG_ROUNDS);

	GUEST_ASSERT_EQ(b.user_insns - a.user_insns, rounds * code->insns);
	GUEST_ASSERT_EQ(b.user_branches - a.user_branches, rounds * code->branches);
	if (guest_nr_fixed())
		GUEST_ASSERT_EQ(b.fixed_user - a.fixed_user, rounds * code->insns);
	GUEST_ASSERT_EQ(b.kernel_insns, a.kernel_insns);
	GUEST_ASSERT_EQ(a.user_insns + a.kernel_insns, a.all_insns);
	GUEST_ASSERT_EQ(b.user_insns + b.kernel_insns, b.all_insns);
	/* Not all in one of the two: the switches are few. */
	GUEST_ASSERT(a.kernel_insns && a.kernel_insns < 30);
	GUEST_ASSERT(a.user_insns >= SHORT_ROUNDS * code->insns);
	GUEST_DONE();
}

static void guest_rdpmc(void)
{
	guest_pmu_clear();
	set_cr4(get_cr4() & ~CR4_PCE);
	GUEST_ASSERT_EQ(user_rdpmc.run(vpmu_msr_global_ctrl(), 0, 5), 5);
	set_cr4(get_cr4() | CR4_PCE);
	GUEST_ASSERT_EQ(user_rdpmc.run(vpmu_msr_global_ctrl(), 0, 5), 0);
	set_cr4(get_cr4() & ~CR4_PCE);
	GUEST_ASSERT_EQ(user_rdpmc.run(vpmu_msr_global_ctrl(), 0, 5), 5);
	GUEST_DONE();
}

/* Every page of the guest for user mode, too. */
static void open_page_table(struct kvm_vm *vm, uint64_t table_gpa, int level)
{
	uint64_t *table = addr_gpa2hva(vm, table_gpa);
	int i;

	for (i = 0; i < 512; i++) {
		if (!(table[i] & BIT_ULL(0)))
			continue;
		table[i] |= USER_PTE;
		if (level > 1)
			open_page_table(vm, table[i] & GENMASK_ULL(51, 12), level - 1);
	}
}

static void set_up_user_mode(struct kvm_vm *vm, void *back)
{
	uint64_t *gdt = addr_gva2hva(vm, vm->arch.gdt);
	struct idt_entry *idt = addr_gva2hva(vm, vm->arch.idt);
	vm_vaddr_t stack = vm_vaddr_alloc_page(vm);

	gdt[USER_DS / 8] = USER_DATA_DESC;
	gdt[USER_CS / 8] = USER_CODE_DESC;
	*(uint64_t *)(addr_gva2hva(vm, vm->arch.tss) + TSS_RSP0) = stack + PAGE_SIZE;
	vpmu_install_naked_handler(vm, BACK_VECTOR, back);
	idt[BACK_VECTOR].dpl = 3;
	open_page_table(vm, vm->pgd, vm->pgtable_levels);
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, void *guest_code, void *back, bool fewer)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm;

	if (fewer && host_cpu_is_amd)
		config.nr_gp = 4;
	else if (fewer)
		config.nr_fixed = 1;
	vm = vpmu_vm_create(vcpu, guest_code, &config);
	set_up_user_mode(vm, back);
	return vm;
}

FIXTURE(user_mode) { };
FIXTURE_SETUP(user_mode) { }
FIXTURE_TEARDOWN(user_mode) { }

FIXTURE_VARIANT(user_mode) {
	bool fewer;
};

FIXTURE_VARIANT_ADD(user_mode, all_counters) { };
FIXTURE_VARIANT_ADD(user_mode, fewer_counters) { .fewer = true };

static void test_modes(const struct user_code *code, void *back, bool fewer)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_modes, back, fewer);

	vcpu_args_set(vcpu, 1, code);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

TEST_F(user_mode, nop)
{
	test_modes(&user_nop, back_from_nop, variant->fewer);
}

TEST_F(user_mode, branch)
{
	test_modes(&user_branch, back_from_branch, variant->fewer);
}

TEST_F(user_mode, cpuid)
{
	test_modes(&user_cpuid, back_from_cpuid, variant->fewer);
}

TEST_F(user_mode, rdpmc)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, guest_rdpmc, back_from_rdpmc, variant->fewer);

	vpmu_install_naked_handler(vm, GP_VECTOR, gp_handler);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
