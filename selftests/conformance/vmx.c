// SPDX-License-Identifier: GPL-2.0
/* Counting across VM-entries and VM-exits. */
#include "vmx.h"

static u8 vmxon_region[4096] __attribute__((aligned(4096)));
static u8 vmcs_region[4096] __attribute__((aligned(4096)));
static u8 msr_bitmap[4096] __attribute__((aligned(4096)));
static u8 virtual_apic[4096] __attribute__((aligned(4096)));
static u8 posted_desc[4096] __attribute__((aligned(4096)));
static u8 guest_stack[8192] __attribute__((aligned(16)));
extern u64 pml5[];
extern u64 gdt[];

u64 vmx_exit_ctrl;
u64 vmx_host_ctrl;
u8 vmx_launched;

u64 vmread(u64 field)
{
	u64 value;

	asm volatile("vmread %1, %0" : "=rm"(value) : "r"(field) : "cc");
	return value;
}

void vmwrite(u64 field, u64 value)
{
	asm volatile("vmwrite %1, %0" : : "r"(field), "rm"(value) : "cc");
}

/*
 * Everything between the WRMSR that enables and the one that disables is
 * written out here, as it counts: VMX_HOST_INSNS.
 */
u32 vmx_enter(void);
asm(".text\n"
    "vmx_enter:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov $" STR(VMCS_HOST_RSP) ", %eax\n"
    "	vmwrite %rsp, %rax\n"
    "	lea vmx_exited(%rip), %rdx\n"
    "	mov $" STR(VMCS_HOST_RIP) ", %eax\n"
    "	vmwrite %rdx, %rax\n"
    "	lea scratch(%rip), %rbx\n"
    "	mov vmx_host_ctrl(%rip), %eax\n"
    "	mov vmx_host_ctrl + 4(%rip), %edx\n"
    "	mov $" STR(IA32_PERF_GLOBAL_CTRL) ", %ecx\n"
    "	cmpb $0, vmx_launched(%rip)\n"
    "	jne 1f\n"
    "	wrmsr\n"
    "	vmlaunch\n"
    "	jmp vmx_failed\n"
    "1:	wrmsr\n"
    "	vmresume\n"
    "vmx_failed:\n"
    "	mov $1, %ebp\n"
    "	jmp 2f\n"
    ".globl vmx_exited\n"
    "vmx_exited:\n"
    "	mov $" STR(IA32_PERF_GLOBAL_CTRL) ", %ecx\n"
    "	rdmsr\n"
    "	mov %eax, vmx_exit_ctrl(%rip)\n"
    "	mov %edx, vmx_exit_ctrl + 4(%rip)\n"
    "	xor %eax, %eax\n"
    "	xor %edx, %edx\n"
    "	wrmsr\n"
    "	xor %ebp, %ebp\n"
    "2:	mov %ebp, %eax\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n");

/* Bits that must be 1, and those of the wish that may be. */
static u64 allowed(u32 msr, u64 wish)
{
	u64 capability = rdmsr(msr);

	return (wish | (u32)capability) & capability >> 32;
}

void vmx_controls(u64 pin, u64 cpu, u64 cpu2, u64 exit, u64 entry)
{
	vmwrite(VMCS_PIN_CONTROLS, allowed(0x48d, pin));
	vmwrite(VMCS_CPU_CONTROLS,
		allowed(0x48e, cpu | CPU_MSR_BITMAPS | (cpu2 ? CPU_SECONDARY : 0)));
	if (cpu2)
		vmwrite(VMCS_CPU_CONTROLS2, allowed(0x48b, cpu2));
	vmwrite(VMCS_EXIT_CONTROLS, allowed(0x48f, exit | EXIT_HOST_64));
	vmwrite(VMCS_ENTRY_CONTROLS, allowed(0x490, entry | ENTRY_GUEST_64));
}

static void set_host_state(void)
{
	struct { u16 limit; u64 base; } __attribute__((packed)) gdtr, idtr;
	u64 tss_base;
	u16 tr;

	asm volatile("sgdt %0" : "=m"(gdtr));
	asm volatile("sidt %0" : "=m"(idtr));
	asm volatile("str %0" : "=r"(tr));
	tss_base = (gdt[tr / 8] >> 16 & 0xffffff) | (gdt[tr / 8] >> 56) << 24;

	vmwrite(VMCS_HOST_ES, 0);
	vmwrite(VMCS_HOST_ES + 2, SEL_CODE64);
	vmwrite(VMCS_HOST_ES + 4, SEL_DATA);
	vmwrite(VMCS_HOST_ES + 6, 0);
	vmwrite(VMCS_HOST_ES + 8, 0);
	vmwrite(VMCS_HOST_ES + 10, 0);
	vmwrite(VMCS_HOST_ES + 12, tr);
	vmwrite(VMCS_HOST_CR0, read_cr(0));
	vmwrite(VMCS_HOST_CR0 + 2, read_cr(3));
	vmwrite(VMCS_HOST_CR0 + 4, read_cr(4));
	vmwrite(VMCS_HOST_CR0 + 6, 0);		/* FS */
	vmwrite(VMCS_HOST_CR0 + 8, 0);		/* GS */
	vmwrite(VMCS_HOST_CR0 + 10, tss_base);
	vmwrite(VMCS_HOST_CR0 + 12, gdtr.base);
	vmwrite(VMCS_HOST_CR0 + 14, idtr.base);

	vmwrite(VMCS_GUEST_GDTR_BASE, gdtr.base);
	vmwrite(VMCS_GUEST_GDTR_BASE + 2, idtr.base);
	vmwrite(0x4810, gdtr.limit);
	vmwrite(0x4812, idtr.limit);
}

static void set_guest_segment(unsigned int n, u16 selector, u32 limit, u32 rights)
{
	vmwrite(VMCS_GUEST_ES + n * 2, selector);
	vmwrite(VMCS_GUEST_ES_LIMIT + n * 2, limit);
	vmwrite(VMCS_GUEST_ES_AR + n * 2, rights);
	vmwrite(VMCS_GUEST_ES_BASE + n * 2, 0);
}

static void set_guest_state(void)
{
	unsigned int n;

	for (n = 0; n < 6; n++)
		set_guest_segment(n, SEL_DATA, ~0u, 0xc093);
	set_guest_segment(1, SEL_CODE64, ~0u, 0xa09b);
	set_guest_segment(6, 0, 0, 0x10000);		/* LDTR: unusable */
	set_guest_segment(7, SEL_TSS, 0x67, 0x8b);
	vmwrite(VMCS_GUEST_CR0, read_cr(0));
	vmwrite(VMCS_GUEST_CR3, read_cr(3));
	vmwrite(VMCS_GUEST_CR4, read_cr(4));
	vmwrite(VMCS_GUEST_DR7, 0x400);
	vmwrite(VMCS_GUEST_RSP, (u64)guest_stack + sizeof(guest_stack));
	vmwrite(VMCS_GUEST_RFLAGS, 2);
	vmwrite(VMCS_LINK_POINTER, ~0ull);
	vmwrite(VMCS_MSR_BITMAP, (u64)msr_bitmap);
}

static bool vmx_succeeded(u64 rflags)
{
	return !(rflags & 0x41);
}

#define VMX_INSN(insn, operand)						\
({									\
	u64 flags_, operand_ = (operand);				\
									\
	asm volatile(insn " %1; pushf; pop %0" : "=r"(flags_) : "m"(operand_) : "cc", "memory"); \
	vmx_succeeded(flags_);						\
})

bool vmx_init(void)
{
	u32 revision = rdmsr(0x480);

	if (!(rdmsr(IA32_FEATURE_CONTROL) & 1))
		wrmsr(IA32_FEATURE_CONTROL, 5);
	write_cr(0, read_cr(0) | rdmsr(0x486));
	write_cr(4, read_cr(4) | rdmsr(0x488) | BIT(13));
	*(u32 *)vmxon_region = revision;
	*(u32 *)vmcs_region = revision;
	if (!VMX_INSN("vmxon", (u64)vmxon_region) ||
	    !VMX_INSN("vmclear", (u64)vmcs_region) ||
	    !VMX_INSN("vmptrld", (u64)vmcs_region))
		return false;
	vmx_launched = 0;
	set_host_state();
	set_guest_state();
	return true;
}

void vmx_exit(void)
{
	asm volatile("vmxoff" : : : "cc");
	write_cr(4, read_cr(4) & ~BIT(13));
}

u64 vmx_run(void *rip, u64 host_ctrl)
{
	vmwrite(VMCS_GUEST_RIP, (u64)rip);
	vmx_host_ctrl = host_ctrl;
	if (vmx_enter()) {
		wrmsr(IA32_PERF_GLOBAL_CTRL, 0);
		return EXIT_REASON_VMFAIL;
	}
	if (!(vmread(VMCS_EXIT_REASON) & BIT(31)))
		vmx_launched = 1;
	return vmread(VMCS_EXIT_REASON);
}

/* ------------------------------------------------------------- the guest */

#define GUEST(name, body)						\
	void name(void);						\
	asm(".text\n.globl " #name "\n.balign 64\n" #name ":\n" body "\nvmcall\njmp .\n")

GUEST(guest_100_nops, ".rept 100; nop; .endr");
GUEST(guest_5000_nops, ".rept 5000; nop; .endr");
GUEST(guest_branches, "mov $50, %ecx; 1: loop 1b");
GUEST(guest_cpuid, "nop; nop; cpuid; nop");
GUEST(guest_set_ctrl,
      "mov $" STR(IA32_PERF_GLOBAL_CTRL) ", %ecx; mov $3, %eax; xor %edx, %edx; wrmsr");
GUEST(guest_read_debugctl, "mov $" STR(IA32_DEBUGCTL) ", %ecx; rdmsr; mov %eax, (%rbx)");
GUEST(guest_rdpmc, "xor %ecx, %ecx; rdpmc; mov %eax, (%rbx)");
GUEST(guest_read_counters, "mov $" STR(IA32_PMC0) ", %ecx; rdmsr; mov %eax, (%rbx)");
GUEST(guest_spin, "1: jmp 1b");

/* Of vmx_controls(), the last two */
#define ALL_SWITCHES	EXIT_LOAD_PERF_GLOBAL_CTRL | EXIT_SAVE_PERF_GLOBAL_CTRL, \
			ENTRY_LOAD_PERF_GLOBAL_CTRL

static void setup_counters(void)
{
	pmu_reset();
	setup_pmc(0, EV_INSNS | SEL_OS);
	setup_pmc(1, EV_BRANCHES | SEL_OS);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(0, FIXED_OS) | FIXED_CTRL(1, FIXED_OS));
}

static void check_capabilities(void)
{
	ok(rdmsr(0x490) >> 32 & ENTRY_LOAD_PERF_GLOBAL_CTRL, "VMX: entry may load GLOBAL_CTRL");
	ok(rdmsr(0x48f) >> 32 & EXIT_LOAD_PERF_GLOBAL_CTRL, "VMX: exit may load GLOBAL_CTRL");
	ok(rdmsr(0x48f) >> 32 & EXIT_SAVE_PERF_GLOBAL_CTRL, "VMX: exit may save GLOBAL_CTRL");
	ok(rdmsr(0x48e) >> 32 & CPU_RDPMC_EXITING, "VMX: RDPMC may exit");
}

static void check_guest_only(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, ALL_SWITCHES);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, 0);
	setup_counters();
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMCALL, "VMX: the guest runs");
	is_u64(PMC(0), 100,
	       "guest counts: its instructions, not VMLAUNCH and not the VMCALL that exits");
	is_u64(FIXED(0), 100, "guest counts: fixed counter");
	is_u64(FIXED(1), 100, "guest counts: cycles");
	is_u64(PMC(1), 0, "guest counts: no branches");
	is_u64(vmx_exit_ctrl, 0, "VM-exit loads GLOBAL_CTRL");
	is_u64(vmread(VMCS_GUEST_PERF_GLOBAL_CTRL), GLOBAL_ALL, "VM-exit saves GLOBAL_CTRL");
	vmx_run(guest_5000_nops, 0);
	is_u64(PMC(0), 5100, "guest counts: go on after VMRESUME");
	setup_counters();
	vmx_run(guest_branches, 0);
	is_u64(PMC(0), 51, "guest counts: a loop");
	is_u64(PMC(1), 50, "guest counts: its branches");
	setup_counters();
	is_u64(vmx_run(guest_cpuid, 0), EXIT_REASON_CPUID, "VMX: CPUID exits");
	is_u64(PMC(0), 2, "guest counts: not the CPUID that exits");
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, BIT(1));
	setup_counters();
	vmx_run(guest_100_nops, 0);
	is_u64(PMC(0) | FIXED(0), 0, "VM-entry loads GLOBAL_CTRL: what is off does not count");
	setup_counters();
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	wrmsr(IA32_A_PMC0, 0x1234);
	vmx_run(guest_read_counters, 0);
	is_u64(*(u32 *)scratch, 0x1235, "guest reads the counter");
}

static void check_host_only(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, ALL_SWITCHES);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, 0);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	setup_counters();
	vmx_run(guest_100_nops, GLOBAL_ALL);
	is_u64(PMC(0), VMX_HOST_INSNS, "host counts: its instructions and VMRESUME");
	is_u64(vmx_exit_ctrl, GLOBAL_ALL, "VM-exit loads the host's GLOBAL_CTRL");
	setup_counters();
	vmx_run(guest_5000_nops, GLOBAL_ALL);
	is_u64(PMC(0), VMX_HOST_INSNS, "host counts: whatever the guest does");
	is_u64(FIXED(0), VMX_HOST_INSNS, "host counts: fixed counter");
	setup_counters();
	vmx_run(guest_branches, GLOBAL_ALL);
	is_u64(PMC(1), 0, "host counts: no branches of the guest");
}

static void check_no_switch(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, 0);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, 0);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, 0);
	setup_counters();
	vmx_run(guest_100_nops, GLOBAL_ALL);
	is_u64(PMC(0), 100 + VMX_HOST_INSNS, "without the controls everything counts");
	is_u64(vmx_exit_ctrl, GLOBAL_ALL, "without the controls GLOBAL_CTRL stays");
	is_u64(vmread(VMCS_GUEST_PERF_GLOBAL_CTRL), 0, "without the controls nothing is saved");
	/* A host that clears and a guest that keeps: only the entry differs. */
	vmx_controls(PIN_NMI_EXITING, 0, 0, EXIT_LOAD_PERF_GLOBAL_CTRL, 0);
	setup_counters();
	vmx_run(guest_100_nops, GLOBAL_ALL);
	is_u64(PMC(0), 101, "VM-exit load only: VMRESUME and the guest count");
}

static void check_save(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, ALL_SWITCHES);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, BIT(7));
	setup_counters();
	vmx_run(guest_set_ctrl, 0);
	is_u64(vmread(VMCS_GUEST_PERF_GLOBAL_CTRL), 3, "VM-exit saves what the guest wrote");
	is_u64(vmx_exit_ctrl, BIT(7), "VM-exit loads the host's value");
	vmx_controls(PIN_NMI_EXITING, 0, 0, EXIT_LOAD_PERF_GLOBAL_CTRL,
		     ENTRY_LOAD_PERF_GLOBAL_CTRL);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	vmx_run(guest_set_ctrl, 0);
	is_u64(vmread(VMCS_GUEST_PERF_GLOBAL_CTRL), GLOBAL_ALL,
	       "without the save control the field stays");
}

/* The first bit of GLOBAL_CTRL from 32 on that is no fixed counter's */
static u64 absent_fixed_bit(void)
{
	unsigned int n = 32;

	while (GLOBAL_ALL & BIT(n))
		n++;
	return BIT(n);
}

static void check_consistency(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, ALL_SWITCHES);
	setup_counters();
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, BIT(2));
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, BIT(NR_GP));
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_BAD_GUEST,
	       "entry fails: reserved bit in the guest's GLOBAL_CTRL");
	is_u64(vmx_exit_ctrl, BIT(2), "a failed entry loads the host's GLOBAL_CTRL");
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, absent_fixed_bit());
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_BAD_GUEST,
	       "entry fails: a fixed counter that there is not in the guest's GLOBAL_CTRL");
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, BIT(49));
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_BAD_GUEST,
	       "entry fails: the bit after PERF_METRICS in the guest's GLOBAL_CTRL");
	is_u64(PMC(0), 0, "a failed entry counts nothing");
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, 0);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, absent_fixed_bit());
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMFAIL,
	       "VMfail: reserved bit in the host's GLOBAL_CTRL");
	is_u64(vmread(VMCS_INSTRUCTION_ERROR), VMERR_BAD_HOST_STATE, "VMfail: host-state field");
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, 0);

	/* Without the controls the fields do not matter. */
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, 0);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, ~0ull);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, ~0ull);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMCALL,
	       "fields of controls that are off are not checked");
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, 0);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, 0);
}

static void check_debugctl(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, EXIT_SAVE_DEBUG_CONTROLS, ENTRY_LOAD_DEBUG_CONTROLS);
	vmwrite(VMCS_GUEST_DEBUGCTL, DEBUGCTL_FREEZE_PERFMON_ON_PMI);
	setup_counters();
	vmx_run(guest_read_debugctl, 0);
	is_u64(*(u32 *)scratch, DEBUGCTL_FREEZE_PERFMON_ON_PMI, "VM-entry loads DEBUGCTL");
	is_u64(vmread(VMCS_GUEST_DEBUGCTL), DEBUGCTL_FREEZE_PERFMON_ON_PMI,
	       "VM-exit saves DEBUGCTL");
	is_u64(rdmsr(IA32_DEBUGCTL), 0, "VM-exit clears DEBUGCTL");
	vmwrite(VMCS_GUEST_DEBUGCTL, BIT(5));
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_BAD_GUEST,
	       "entry fails: reserved bit in the guest's DEBUGCTL");
	vmwrite(VMCS_GUEST_DEBUGCTL, 0);
}

static void check_rdpmc_exiting(void)
{
	vmx_controls(PIN_NMI_EXITING, CPU_RDPMC_EXITING, 0, ALL_SWITCHES);
	setup_counters();
	wrmsr(IA32_A_PMC0, 0x777);
	is_u64(vmx_run(guest_rdpmc, 0), EXIT_REASON_RDPMC, "RDPMC exits");
	is_u64(vmread(VMCS_EXIT_INSN_LENGTH), 2, "RDPMC exits: length");
	vmx_controls(PIN_NMI_EXITING, 0, 0, ALL_SWITCHES);
	is_u64(vmx_run(guest_rdpmc, 0), EXIT_REASON_VMCALL, "RDPMC does not exit");
	is_u64(*(u32 *)scratch, 0x777, "RDPMC reads");
}

/* Run a guest of 100 NOPs, the last of count of which makes counter 0 overflow. */
static u64 run_to_pmi(u32 lvtpc, u64 count)
{
	setup_counters();
	setup_pmc(0, EV_INSNS | SEL_OS | SEL_INT);
	preset_pmc(0, count);
	pmi_count = 0;
	apic_write(APIC_LVTPC, lvtpc);
	return vmx_run(guest_100_nops, 0);
}

void unblock_nmis(void)
{
	asm volatile("mov %%rsp, %%rax; pushq $" STR(SEL_DATA) "; push %%rax; pushf;"
		     "pushq $" STR(SEL_CODE64) "; lea 1f(%%rip), %%rax; push %%rax; iretq; 1:"
		     : : : "rax", "memory", "cc");
}

static void check_guest_nmi(void)
{
	u64 bad = 0, count;

	for (count = 1; count < 100; count++) {
		if (run_to_pmi(LVT_NMI, count) != EXIT_REASON_NMI ||
		    vmread(VMCS_EXIT_INTR_INFO) != 0x80000202 ||
		    vmread(VMCS_GUEST_RIP) != (u64)guest_100_nops + count || PMC(0))
			bad++;
		unblock_nmis();
	}
	ok(!bad,
	   "guest PMI: NMI exits right after the instruction that overflows (%lu wrong)", bad);
}

static void check_guest_pmi(void)
{
	vmx_controls(PIN_NMI_EXITING | PIN_EXT_INTR_EXITING, 0, 0,
		     ALL_SWITCHES | ENTRY_LOAD_DEBUG_CONTROLS);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	check_guest_nmi();

	is_u64(run_to_pmi(VEC_PMI, 50), EXIT_REASON_EXT_INTR, "guest PMI: fixed vector exits");
	is_u64(vmread(VMCS_GUEST_RIP), (u64)guest_100_nops + 50,
	       "guest PMI: at the right instruction");
	asm volatile("sti; nop; nop; cli");
	is_u64(pmi_count, 1, "guest PMI: the host takes it");

	/* A counter that overflows in an endless loop ends it. */
	setup_counters();
	setup_pmc(1, EV_BRANCHES | SEL_OS | SEL_INT);
	preset_pmc(1, 100000);
	apic_write(APIC_LVTPC, VEC_PMI);
	is_u64(vmx_run(guest_spin, 0), EXIT_REASON_EXT_INTR, "guest PMI: ends a loop");
	is_u64(PMC(0), 100000, "guest PMI: after exactly so many branches");
	asm volatile("sti; nop; nop; cli");
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}

/* What used to be wrong in the emulator's VMX. */
static void check_posted_descriptor(void)
{
	vmx_controls(PIN_NMI_EXITING | PIN_EXT_INTR_EXITING | PIN_POSTED_INTERRUPTS, CPU_TPR_SHADOW,
		     CPU2_VIRT_INTR_DELIVERY, EXIT_ACK_INTERRUPT, 0);
	vmwrite(VMCS_VIRTUAL_APIC, (u64)virtual_apic);
	vmwrite(VMCS_POSTED_INTR_VECTOR, 0xf2);
	vmwrite(VMCS_GUEST_INTR_STATUS, 0);
	vmwrite(VMCS_POSTED_INTR_DESC, (u64)posted_desc + 64);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMCALL,
	       "posted-interrupt descriptor: 64 byte aligned");
	vmwrite(VMCS_POSTED_INTR_DESC, (u64)posted_desc + 32);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMFAIL,
	       "posted-interrupt descriptor: 32 byte aligned");
	is_u64(vmread(VMCS_INSTRUCTION_ERROR), VMERR_BAD_CONTROLS,
	       "posted-interrupt descriptor: control field");
}

/* A guest with IF 0 takes no interrupt, but one for the host makes it exit. */
static void check_interrupt_with_if_0(void)
{
	vmx_controls(PIN_NMI_EXITING | PIN_EXT_INTR_EXITING, CPU_TPR_SHADOW,
		     CPU2_VIRT_INTR_DELIVERY, 0, 0);
	vmwrite(VMCS_GUEST_INTR_STATUS, 0x50);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMCALL, "IF 0: a virtual interrupt waits");
	apic_write(APIC_ICR_LO, 0x40000 | VEC_PMI);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_EXT_INTR,
	       "IF 0: an external interrupt exits");
	is_u64(vmread(VMCS_GUEST_RIP), (u64)guest_100_nops,
	       "IF 0: the virtual one is not delivered instead");
	vmwrite(VMCS_GUEST_INTR_STATUS, 0);
	asm volatile("sti; nop; nop; cli");
}

static void check_la57(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, 0);
	vmwrite(VMCS_GUEST_CR3, (u64)pml5);
	vmwrite(VMCS_GUEST_CR4, read_cr(4) | BIT(12));
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMCALL,
	       "a guest with 5-level paging under a host with 4 levels");
	is_u64(read_cr(4) & BIT(12), 0, "the host has 4 levels again");
	vmwrite(VMCS_GUEST_CR3, read_cr(3));
	vmwrite(VMCS_GUEST_CR4, read_cr(4));
}

GUEST(guest_ud, "ud2");
GUEST(guest_exits_at_once, "cpuid");

/* The guest shares the host's IDT. */
static void check_exit_after_exception(void)
{
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, 0);
	set_gate(VEC_UD, guest_exits_at_once);
	is_u64(vmx_run(guest_ud, 0), EXIT_REASON_CPUID, "the handler of an exception exits");
	is_u64(vmread(VMCS_GUEST_RIP), (u64)guest_exits_at_once,
	       "the handler of an exception exits: its RIP");
	is_u64(vmread(VMCS_GUEST_RSP), (u64)guest_stack + sizeof(guest_stack) - 40,
	       "the handler of an exception exits: its RSP");
	set_gate(VEC_UD, NULL);
	vmwrite(VMCS_GUEST_RSP, (u64)guest_stack + sizeof(guest_stack));
}

void test_vmx(void)
{
	check_capabilities();
	if (!ok(vmx_init(), "VMX: enabled"))
		return;
	check_guest_only();
	check_host_only();
	check_no_switch();
	check_save();
	check_consistency();
	check_debugctl();
	check_rdpmc_exiting();
	check_guest_pmi();
	check_posted_descriptor();
	check_interrupt_with_if_0();
	check_exit_after_exception();
	check_la57();
	vmx_exit();
}
