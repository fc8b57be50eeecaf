// SPDX-License-Identifier: GPL-2.0
/* AMD: counting across VMRUN and #VMEXIT, and what SVM does with RDPMC, MSRs and PMIs. */
#include "svm.h"

u8 vmcb[4096] __attribute__((aligned(4096), used));
static u8 host_save[4096] __attribute__((aligned(4096)));
static u8 msrpm[8192] __attribute__((aligned(4096)));
static u8 iopm[12288] __attribute__((aligned(4096)));
static u8 guest_stack[8192] __attribute__((aligned(16)));
static u64 host_ctl __attribute__((used));
u64 host_rflags __attribute__((used)) = 2;

/* Everything between the WRMSRs is written out here, as it counts: SVM_HOST_INSNS. */
void svm_enter(void);
asm(".text\n"
    "svm_enter:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	clgi\n"
    "	pushq host_rflags(%rip); popfq\n"
    "	lea scratch(%rip), %rbx\n"
    "	mov host_ctl(%rip), %eax\n"
    "	mov host_ctl + 4(%rip), %edx\n"
    "	mov $" STR(PERF_GLOBAL_CTL) ", %ecx\n"
    "	wrmsr\n"
    "	lea vmcb(%rip), %rax\n"
    "	vmrun\n"
    "	mov $" STR(PERF_GLOBAL_CTL) ", %ecx\n"
    "	xor %eax, %eax\n"
    "	xor %edx, %edx\n"
    "	wrmsr\n"
    "	stgi\n"
    ".globl svm_gif_set\n"
    "svm_gif_set:\n"
    "	nop; cli\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n");

static void set_segment(unsigned int offset, u16 selector, u16 attributes)
{
	VMCB16(offset) = selector;
	VMCB16(offset + 2) = attributes;
	VMCB32(offset + 4) = ~0u;
	VMCB64(offset + 8) = 0;
}

static void set_cpl(unsigned int cpl)
{
	VMCB8(VMCB_CPL) = cpl;
	set_segment(VMCB_CS, cpl ? SEL_USER_CODE64 | 3 : SEL_CODE64, cpl ? 0xafb : 0xa9b);
	set_segment(VMCB_SS, cpl ? SEL_USER_DATA | 3 : SEL_DATA, cpl ? 0xcf3 : 0xc93);
}

void init_vmcb(void)
{
	struct { u16 limit; u64 base; } __attribute__((packed)) gdtr, idtr;
	unsigned int n;

	for (n = 0; n < sizeof(vmcb); n++)
		vmcb[n] = 0;
	asm volatile("sgdt %0" : "=m"(gdtr));
	asm volatile("sidt %0" : "=m"(idtr));
	VMCB32(VMCB_MISC1) = MISC1_SHUTDOWN;
	VMCB32(VMCB_MISC2) = MISC2_VMRUN | MISC2_VMMCALL;
	VMCB64(VMCB_MSRPM) = (u64)msrpm;
	VMCB64(VMCB_IOPM) = (u64)iopm;
	VMCB32(VMCB_ASID) = 1;
	set_segment(VMCB_ES, SEL_DATA, 0xc93);
	set_segment(VMCB_DS, SEL_DATA, 0xc93);
	set_cpl(0);
	VMCB16(VMCB_GDTR + 4) = gdtr.limit;
	VMCB64(VMCB_GDTR + 8) = gdtr.base;
	VMCB16(VMCB_IDTR + 4) = idtr.limit;
	VMCB64(VMCB_IDTR + 8) = idtr.base;
	VMCB64(VMCB_EFER) = rdmsr(IA32_EFER);
	VMCB64(VMCB_CR0) = read_cr(0);
	VMCB64(VMCB_CR3) = read_cr(3);
	VMCB64(VMCB_CR4) = read_cr(4);
	VMCB64(VMCB_DR6) = 0xffff0ff0;
	VMCB64(VMCB_DR7) = 0x400;
	VMCB64(VMCB_RFLAGS) = 2;
	VMCB64(VMCB_RSP) = (u64)guest_stack + sizeof(guest_stack);
}

u64 svm_run(void *rip, u64 ctl)
{
	VMCB64(VMCB_RIP) = (u64)rip;
	host_ctl = ctl;
	svm_enter();
	return VMCB64(VMCB_EXITCODE);
}

/* ------------------------------------------------------------- the guest */

GUEST(amd_guest_100_nops, ".rept 100; nop; .endr");
GUEST(amd_guest_branches, "mov $50, %ecx; 1: loop 1b");
GUEST(amd_guest_cpuid, "nop; nop; cpuid; nop");
GUEST(amd_guest_rdpmc, "xor %ecx, %ecx; rdpmc; mov %eax, (%rbx)");
GUEST(amd_guest_rdpmc_none, "mov $64, %ecx; rdpmc");
GUEST(amd_guest_rdpmc_any, "mov 8(%rbx), %ecx; rdpmc; mov %eax, (%rbx)");
GUEST(amd_guest_50_flushes, ".rept 50; clflush (%rbx); .endr");
GUEST(amd_guest_spin, "1: jmp 1b");
GUEST(amd_guest_msr, "mov 8(%rbx), %ecx; rdmsr; mov %eax, (%rbx)");
GUEST(amd_guest_wrmsr, "mov 8(%rbx), %ecx; mov $0x1234, %eax; xor %edx, %edx; wrmsr");

/* Counter 0 counts instructions, 1 branches; where says HostOnly and GuestOnly. */
static void setup_counters(u64 where)
{
	pmu_reset();
	setup_pmc(0, AMD_INSNS | SEL_OS | where);
	setup_pmc(1, AMD_BRANCHES | SEL_OS | where);
}

static void check_guest_only(void)
{
	setup_counters(GUEST_ONLY);
	is_u64(svm_run(amd_guest_100_nops, CORE_ALL), VMEXIT_VMMCALL, "SVM: the guest runs");
	check_exact(1 + 100, 1, "GuestOnly: VMRUN and the guest, not the VMMCALL that exits");
	svm_run(amd_guest_branches, CORE_ALL);
	check_exact(101 + 1 + 51, 1 + 1 + 50, "GuestOnly: and once more");
	setup_counters(GUEST_ONLY);
	VMCB32(VMCB_MISC1) |= MISC1_CPUID;
	is_u64(svm_run(amd_guest_cpuid, CORE_ALL), VMEXIT_CPUID, "SVM: CPUID exits");
	check_exact(1 + 2, 1, "GuestOnly: not the CPUID that exits");
	VMCB32(VMCB_MISC1) &= ~MISC1_CPUID;
	setup_counters(GUEST_ONLY);
	MEASURE(CORE_ALL, ".rept 100; nop; .endr; jmp 1f; 1:");
	check_exact(0, 0, "GuestOnly: nothing outside of guests");
}

/* VMRUN is a far control transfer, and LOOP's last round is not taken. */
static void check_kinds_of_branches(void)
{
	pmu_reset();
	setup_pmc(0, AMD_TAKEN | SEL_OS | GUEST_ONLY);
	setup_pmc(1, AMD_FAR | SEL_OS | GUEST_ONLY);
	setup_pmc(2, AMD_TAKEN | SEL_OS | HOST_ONLY);
	setup_pmc(3, AMD_FAR | SEL_OS | HOST_ONLY);
	svm_run(amd_guest_branches, CORE_ALL);
	is_u64(PMC(0), 1 + 49, "GuestOnly: taken branches");
	is_u64(PMC(1), 1, "GuestOnly: far control transfers");
	is_u64(PMC(2), 1, "HostOnly: taken branches");
	is_u64(PMC(3), 1, "HostOnly: far control transfers");
}

static void check_host_only(void)
{
	setup_counters(HOST_ONLY);
	svm_run(amd_guest_100_nops, CORE_ALL);
	check_exact(SVM_HOST_INSNS, 1, "HostOnly: the host, #VMEXIT as an exception");
	setup_counters(HOST_ONLY);
	svm_run(amd_guest_branches, CORE_ALL);
	check_exact(SVM_HOST_INSNS, 1, "HostOnly: whatever the guest does");
	setup_counters(HOST_ONLY);
	MEASURE(CORE_ALL, ".rept 100; nop; .endr");
	check_exact(100 + MEASURE_OVERHEAD, 0, "HostOnly: outside of guests");
}

static void check_both(void)
{
	setup_counters(0);
	svm_run(amd_guest_100_nops, CORE_ALL);
	check_exact(SVM_HOST_INSNS + 1 + 100, 2, "neither bit: host and guest");
	setup_counters(HOST_ONLY | GUEST_ONLY);
	svm_run(amd_guest_100_nops, CORE_ALL);
	check_exact(SVM_HOST_INSNS + 1 + 100, 2, "both bits: host and guest");
	setup_counters(GUEST_ONLY);
	svm_run(amd_guest_100_nops, 0);
	check_exact(0, 0, "PerfCntrGlobalCtl is not switched: off is off");
}

/* VMRUN counts at the privilege level of the guest. */
static void check_level(unsigned int cpl, u64 os_branches, u64 usr_branches, u64 usr_insns)
{
	pmu_reset();
	setup_pmc(0, AMD_BRANCHES | SEL_OS | GUEST_ONLY);
	setup_pmc(1, AMD_BRANCHES | SEL_USR | GUEST_ONLY);
	setup_pmc(2, AMD_BRANCHES | SEL_USR | SEL_OS | GUEST_ONLY);
	setup_pmc(3, AMD_INSNS | SEL_USR | GUEST_ONLY);
	set_cpl(cpl);
	is_u64(svm_run(amd_guest_100_nops, CORE_ALL), VMEXIT_VMMCALL,
	       "SVM: a guest at CPL %u", cpl);
	is_u64(PMC(0), os_branches, "VMRUN to CPL %u: OS", cpl);
	is_u64(PMC(1), usr_branches, "VMRUN to CPL %u: USR", cpl);
	is_u64(PMC(2), 1, "VMRUN to CPL %u: USR and OS", cpl);
	is_u64(PMC(3), usr_insns, "VMRUN to CPL %u: instructions, USR", cpl);
}

static void check_levels(void)
{
	check_level(0, 1, 0, 0);
	check_level(3, 0, 1, 1 + 100);
	set_cpl(0);
	VMCB64(VMCB_RSP) = (u64)guest_stack + sizeof(guest_stack);
}

static void check_svme_off(void)
{
	u64 efer = rdmsr(IA32_EFER);
	u32 lo = efer, hi = efer >> 32, msr = IA32_EFER;

	wrmsr(IA32_EFER, efer & ~EFER_SVME);
	setup_counters(HOST_ONLY);
	MEASURE(CORE_ALL, ".rept 100; nop; .endr");
	check_exact(0, 0, "EFER.SVME 0: HostOnly does not count");
	setup_counters(HOST_ONLY | GUEST_ONLY);
	MEASURE(CORE_ALL, ".rept 100; nop; .endr");
	check_exact(0, 0, "EFER.SVME 0: HostOnly with GuestOnly does not count");
	setup_counters(0);
	MEASURE(CORE_ALL, ".rept 100; nop; .endr");
	check_exact(100 + MEASURE_OVERHEAD, 0, "EFER.SVME 0: without the bits all counts");
	/* WRMSR to EFER, then NOP and what disables again. */
	setup_counters(HOST_ONLY);
	wrmsr(PERF_GLOBAL_CTL, CORE_ALL);
	asm volatile("wrmsr; nop; mov $" STR(PERF_GLOBAL_CTL) ", %%ecx;"
		     "xor %%eax, %%eax; xor %%edx, %%edx; wrmsr"
		     : "+a"(lo), "+d"(hi), "+c"(msr) : : "memory", "cc");
	check_exact(1 + MEASURE_OVERHEAD, 0,
		     "EFER.SVME set: HostOnly counts from the next instruction");
}

/* The permission map has two bits for each MSR, the one for writes on top. */
static void set_msrpm(u32 msr, unsigned int bits)
{
	u32 base = msr >= 0xc0010000 ? 4096 : msr >= 0xc0000000 ? 2048 : 0;
	u32 bit = (msr & 0x1fff) * 2;

	msrpm[base + bit / 8] &= ~(3 << bit % 8);
	msrpm[base + bit / 8] |= bits << bit % 8;
}

static bool msr_exits(u32 msr, bool write)
{
	u64 code;

	((u32 *)scratch)[2] = msr;
	code = svm_run(write ? amd_guest_wrmsr : amd_guest_msr, 0);
	return code == VMEXIT_MSR && VMCB64(VMCB_EXITINFO1) == write;
}

static void check_msrs(void)
{
	static const u32 msrs[] = {
		PERF_CTL(0), PERF_CTR(0), PERF_CTL(5), PERF_CTR(5), LEGACY_PERF_CTL0,
		LEGACY_PERF_CTR0 + 3,
		PERF_GLOBAL_CTL, PERF_GLOBAL_STATUS_CLR, PERF_GLOBAL_STATUS_SET,
		DF_CTL(0), DF_CTR(15), L3_CTL(0), L3_CTR(5),
	};
	unsigned int n, nr = ARRAY_SIZE(msrs) - (has_df && has_l3 ? 0 : 4);
	u64 bad = 0;

	VMCB32(VMCB_MISC1) |= MISC1_MSR;
	for (n = 0; n < nr; n++) {
		set_msrpm(msrs[n], 1);
		if (!msr_exits(msrs[n], false) || msr_exits(msrs[n], true))
			bad |= BIT(n);
		set_msrpm(msrs[n], 2);
		if (msr_exits(msrs[n], false) || !msr_exits(msrs[n], true))
			bad |= BIT(n);
		set_msrpm(msrs[n], 0);
		if (msr_exits(msrs[n], false) || msr_exits(msrs[n], true))
			bad |= BIT(n);
	}
	is_u64(bad, 0, "MSR permission map: read and write of each PMU register");
	VMCB32(VMCB_MISC1) &= ~MISC1_MSR;
	pmu_reset();
	wrmsr(PERF_CTR(3), 0x5678);
	((u32 *)scratch)[2] = PERF_CTR(3);
	svm_run(amd_guest_msr, 0);
	is_u64(*(u32 *)scratch, 0x5678, "without interception the guest reads the counter");
	svm_run(amd_guest_wrmsr, 0);
	is_u64(PMC(3), 0x1234, "without interception the guest writes the counter");
	pmu_reset();
}

static void check_rdpmc(void)
{
	pmu_reset();
	wrmsr(PERF_CTR(0), 0x777);
	VMCB32(VMCB_MISC1) |= MISC1_RDPMC;
	is_u64(svm_run(amd_guest_rdpmc, 0), VMEXIT_RDPMC, "RDPMC exits");
	is_u64(VMCB64(VMCB_NRIP), VMCB64(VMCB_RIP) + 2, "RDPMC exits: nRIP");
	VMCB32(VMCB_EXCEPTIONS) = BIT(VEC_GP);
	set_cpl(3);
	is_u64(svm_run(amd_guest_rdpmc, 0), VMEXIT_EXCP(VEC_GP),
	       "RDPMC: #GP at CPL 3 comes before the intercept");
	set_cpl(0);
	is_u64(svm_run(amd_guest_rdpmc_none, 0), VMEXIT_EXCP(VEC_GP),
	       "RDPMC: #GP for a counter that there is not comes before the intercept");
	VMCB32(VMCB_EXCEPTIONS) = 0;
	VMCB32(VMCB_MISC1) &= ~MISC1_RDPMC;
	*(u32 *)scratch = 0;
	is_u64(svm_run(amd_guest_rdpmc, 0), VMEXIT_VMMCALL, "RDPMC does not exit");
	is_u64(*(u32 *)scratch, 0x777, "RDPMC reads");
	pmu_reset();
}

/* RDPMC(index) exits, or reads what is there. */
static bool rdpmc_exits(u32 index)
{
	((u32 *)scratch)[0] = 0;
	((u32 *)scratch)[2] = index;
	return svm_run(amd_guest_rdpmc_any, 0) == VMEXIT_RDPMC;
}

/* The counters that are no core's count in guests, and guests may be kept from them. */
static void check_uncore(u32 ctl, u64 event, u32 index, const char *what)
{
	u64 value;

	wrmsr(ctl, 0);
	wrmsr(ctl + 1, 0);
	wrmsr(ctl, event | SEL_EN);
	svm_run(amd_guest_50_flushes, 0);
	wrmsr(ctl, 0);
	value = rdmsr(ctl + 1);
	ok(value >= 50 && value < 60, "%s: counts the guest, too (%lu)", what, value);
	VMCB32(VMCB_MISC1) |= MISC1_RDPMC;
	ok(rdpmc_exits(index), "%s: RDPMC exits", what);
	VMCB32(VMCB_MISC1) &= ~MISC1_RDPMC;
	ok(!rdpmc_exits(index) && *(u32 *)scratch == value, "%s: RDPMC reads", what);
	wrmsr(ctl + 1, 0);
}

/* Run a guest of 100 NOPs after whose VMRUN and count - 1 instructions a PMI is due. */
static u64 run_to_pmi(u64 count)
{
	setup_counters(GUEST_ONLY);
	setup_pmc(0, AMD_INSNS | SEL_OS | SEL_INT | GUEST_ONLY);
	preset_pmc(0, count);
	pmi_count = 0;
	return svm_run(amd_guest_100_nops, CORE_ALL);
}

static void check_guest_nmi(void)
{
	u64 bad = 0, count;

	VMCB32(VMCB_MISC1) |= MISC1_NMI;
	apic_write(APIC_LVTPC, LVT_NMI);
	for (count = 2; count < 100; count++) {
		if (run_to_pmi(count) != VMEXIT_NMI ||
		    VMCB64(VMCB_RIP) != (u64)amd_guest_100_nops + count - 1 || PMC(0) ||
		    pmi_count != 1 || VMCB64(VMCB_NRIP))
			bad++;
	}
	ok(!bad,
	   "guest PMI: NMI exits right after the instruction that overflows (%lu wrong)", bad);
	is_u64(apic_read(APIC_LVTPC), LVT_NMI, "guest PMI: the LVT entry is not masked");

	is_u64(run_to_pmi(1), VMEXIT_NMI, "guest PMI: by VMRUN itself");
	is_u64(VMCB64(VMCB_RIP), (u64)amd_guest_100_nops,
	       "guest PMI: before the guest's first instruction");
	VMCB32(VMCB_MISC1) &= ~MISC1_NMI;
}

static void check_guest_pmi(void)
{
	VMCB32(VMCB_MISC1) |= MISC1_INTR;
	VMCB64(VMCB_RFLAGS) = 0x202;
	apic_write(APIC_LVTPC, VEC_PMI);
	is_u64(run_to_pmi(51), VMEXIT_INTR, "guest PMI: fixed vector exits");
	is_u64(VMCB64(VMCB_RIP), (u64)amd_guest_100_nops + 50,
	       "guest PMI: at the right instruction");
	asm volatile("sti; nop; nop; cli");
	is_u64(pmi_count, 1, "guest PMI: the host takes it");

	setup_counters(GUEST_ONLY);
	setup_pmc(1, AMD_BRANCHES | SEL_OS | SEL_INT | GUEST_ONLY);
	preset_pmc(1, 100001);
	is_u64(svm_run(amd_guest_spin, CORE_ALL), VMEXIT_INTR, "guest PMI: ends a loop");
	is_u64(PMC(0), 100001, "guest PMI: after exactly so many branches");
	asm volatile("sti; nop; nop; cli");
	VMCB64(VMCB_RFLAGS) = 2;
	apic_write(APIC_LVTPC, LVT_MASKED);
	VMCB32(VMCB_MISC1) &= ~MISC1_INTR;
	pmu_reset();
}

/* Have VMRUN inject an event; where it is a software event, nrip says what it returns to. */
static u64 inject(u64 event, unsigned int nrip)
{
	VMCB64(VMCB_EVENTINJ) = event;
	VMCB64(VMCB_NRIP) = (u64)amd_guest_100_nops + nrip;
	return svm_run(amd_guest_100_nops, CORE_ALL);
}

/* What they push, and that they are branches. */
static void check_injection(void)
{
	set_gate(VEC_NMI, quick_iret);
	setup_counters(GUEST_ONLY);
	/* An error code is there, too, but is not to be pushed. */
	is_u64(inject(EVENT_NMI | 5ull << 32, 0), VMEXIT_VMMCALL, "inject an NMI");
	is_u64(VMCB64(VMCB_EVENTINJ), 0, "inject an NMI: #VMEXIT clears EVENTINJ");
	check_exact(1 + 1 + 100, 1 + 1 + 1, "inject an NMI");

	/* VMRUN, the event and IRET come one after the other. */
	pmu_reset();
	setup_pmc(0, AMD_BRANCHES | SEL_OS | GUEST_ONLY | SEL_CMASK(1));
	setup_pmc(1, AMD_BRANCHES | SEL_OS | GUEST_ONLY | SEL_CMASK(2));
	inject(EVENT_NMI, 0);
	is_u64(PMC(0), 3, "inject an NMI: cycles with a branch");
	is_u64(PMC(1), 0, "inject an NMI: cycles with two branches");
	set_gate(VEC_NMI, NULL);

	set_gate(VEC_INT, quick_iret);
	setup_counters(GUEST_ONLY);
	is_u64(inject(EVENT_SOFT_INT(VEC_INT), 10), VMEXIT_VMMCALL, "inject a software interrupt");
	check_exact(1 + 1 + 90, 1 + 1 + 1, "inject a software interrupt: returns to nRIP");
	set_gate(VEC_INT, NULL);

	set_gate(3, quick_iret);
	setup_counters(GUEST_ONLY);
	inject(EVENT_EXCEPTION(3), 20);
	check_exact(1 + 1 + 80, 1 + 1 + 1, "inject #BP: returns to nRIP");
	set_gate(3, NULL);

	set_gate(VEC_UD, quick_skip2);
	setup_counters(GUEST_ONLY);
	inject(EVENT_EXCEPTION(VEC_UD), 20);
	check_exact(1 + 2 + 98, 1 + 1 + 1, "inject #UD: a fault, nRIP is not used");
	set_gate(VEC_UD, NULL);
}

/* Beyond the IDT's limit: #GP, which exits. VMRUN has retired nevertheless. */
static void check_failing_injection(void)
{
	VMCB32(VMCB_EXCEPTIONS) = BIT(VEC_GP);
	VMCB16(VMCB_IDTR + 4) = 16 * 32 - 1;
	setup_counters(GUEST_ONLY);
	is_u64(inject(EVENT_SOFT_INT(VEC_INT), 10), VMEXIT_EXCP(VEC_GP),
	       "inject what cannot be delivered");
	check_exact(1, 1, "inject what cannot be delivered");
	is_u64(VMCB32(VMCB_EXITINTINFO), EVENT_SOFT_INT(VEC_INT),
	       "inject what cannot be delivered: EXITINTINFO");
	is_u64(VMCB64(VMCB_RIP), (u64)amd_guest_100_nops, "inject what cannot be delivered: RIP");
	VMCB32(VMCB_EXCEPTIONS) = 0;
	init_vmcb();
	pmu_reset();
}

/* What VMRUN injects cannot be delivered, the #GP exits: with this error code. */
static u64 undeliverable(u64 event)
{
	VMCB32(VMCB_EXCEPTIONS) = BIT(VEC_GP);
	VMCB16(VMCB_IDTR + 4) = 0;
	VMCB64(VMCB_EVENTINJ) = event;
	if (svm_run(amd_guest_100_nops, 0) != VMEXIT_EXCP(VEC_GP))
		return ~0ull;
	return VMCB64(VMCB_EXITINFO1);
}

static void check_error_codes(void)
{
	is_u64(undeliverable(EVENT_EXCEPTION(VEC_UD)), VEC_UD * 8 | 2,
	       "error code: an exception is no external event");
	is_u64(undeliverable(EVENT_SOFT_INT(VEC_INT)), VEC_INT * 8 | 2,
	       "error code: a software interrupt is no external event");
	is_u64(undeliverable(EVENT_NMI), VEC_NMI * 8 | 3,
	       "error code: an NMI is an external event");
	is_u64(undeliverable(BIT(31) | VEC_PMI), VEC_PMI * 8 | 3,
	       "error code: an interrupt is an external event");
	VMCB32(VMCB_EXCEPTIONS) = 0;
	init_vmcb();
}

/* V_INTR_MASKING: the host's IF is for physical interrupts, the guest's for virtual ones. */
static void check_interrupt_masking(void)
{
	VMCB32(VMCB_MISC1) |= MISC1_INTR;
	VMCB8(VMCB_V_INTR_MASKING) = 1;
	pmi_count = 0;
	host_rflags = 0x202;
	VMCB64(VMCB_RFLAGS) = 2;
	asm volatile("clgi");
	apic_write(APIC_ICR_LO, 0x40000 | VEC_PMI);
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_INTR,
	       "V_INTR_MASKING: host IF 1, guest IF 0: exits");
	is_u64(VMCB64(VMCB_RIP), (u64)amd_guest_100_nops, "V_INTR_MASKING: at once");
	is_u64(pmi_count, 1, "V_INTR_MASKING: the host takes it");
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_VMMCALL, "V_INTR_MASKING: nothing pending");
	is_u64(VMCB64(VMCB_RFLAGS) & 0x202, 2, "V_INTR_MASKING: the guest's IF stays");

	host_rflags = 2;
	VMCB64(VMCB_RFLAGS) = 0x202;
	apic_write(APIC_ICR_LO, 0x40000 | VEC_PMI);
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_VMMCALL,
	       "V_INTR_MASKING: host IF 0, guest IF 1: waits");
	asm volatile("sti; nop; nop; cli");
	is_u64(pmi_count, 2, "V_INTR_MASKING: and comes later");

	VMCB8(VMCB_V_INTR_MASKING) = 0;
	apic_write(APIC_ICR_LO, 0x40000 | VEC_PMI);
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_INTR,
	       "no V_INTR_MASKING: the guest's IF counts");
	asm volatile("sti; nop; nop; cli");
	init_vmcb();
}

/* A virtual interrupt is delivered, or exits, as soon as the guest can take it. */
static void check_virtual_interrupt(void)
{
	set_gate(VEC_IPI, quick_iret);
	VMCB8(VMCB_V_INTR_MASKING) = 1;
	VMCB8(VMCB_V_VECTOR) = VEC_IPI;
	VMCB8(VMCB_V_PRIO) = 4;
	VMCB8(VMCB_V_TPR) = 3;
	VMCB8(VMCB_V_IRQ) = 1;
	VMCB64(VMCB_RFLAGS) = 0x202;
	setup_counters(GUEST_ONLY);
	is_u64(svm_run(amd_guest_100_nops, CORE_ALL), VMEXIT_VMMCALL, "V_IRQ: the guest runs");
	check_exact(1 + 1 + 100, 1 + 1 + 1, "V_IRQ: the guest takes it");
	is_u64(VMCB8(VMCB_V_IRQ) & 1, 0, "V_IRQ: and it is gone");

	VMCB8(VMCB_V_IRQ) = 1;
	VMCB8(VMCB_V_TPR) = 4;
	setup_counters(GUEST_ONLY);
	svm_run(amd_guest_100_nops, CORE_ALL);
	check_exact(1 + 100, 1, "V_IRQ: not above V_TPR");
	is_u64(VMCB8(VMCB_V_IRQ) & 1, 1, "V_IRQ: remains");

	VMCB8(VMCB_V_PRIO) = 0x14;
	VMCB32(VMCB_MISC1) |= MISC1_VINTR;
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_VINTR,
	       "V_IRQ: VINTR exits, V_TPR is ignored");
	is_u64(VMCB64(VMCB_RIP), (u64)amd_guest_100_nops, "V_IRQ: VINTR exits at once");
	VMCB64(VMCB_RFLAGS) = 2;
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_VMMCALL, "V_IRQ: VINTR waits for IF");
	set_gate(VEC_IPI, NULL);
	init_vmcb();
	pmu_reset();
}

static volatile u64 host_traps;

static void count_host_trap(struct regs *regs)
{
	(void)regs;
	host_traps++;
}

/* #DB: what is intercepted, and that the host sees nothing of the guest's. */
static void check_debug(void)
{
	VMCB32(VMCB_EXCEPTIONS) = BIT(VEC_DB);
	VMCB64(VMCB_RFLAGS) = 0x102;
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_EXCP(VEC_DB), "single step: #DB exits");
	is_u64(VMCB64(VMCB_RIP), (u64)amd_guest_100_nops + 1, "single step: after one instruction");
	is_u64(VMCB64(VMCB_DR6), 0xffff4ff0, "single step: BS in DR6");
	is_u64(VMCB64(VMCB_NRIP), 0, "single step: no nRIP");

	host_traps = 0;
	set_trap_handler(VEC_DB, count_host_trap);
	VMCB32(VMCB_MISC1) |= MISC1_CPUID;
	VMCB64(VMCB_DR6) = 0xffff0ff0;
	VMCB64(VMCB_RFLAGS) = 0x102;
	is_u64(svm_run(amd_guest_cpuid + 2, 0), VMEXIT_CPUID, "single step: CPUID exits first");
	is_u64(VMCB64(VMCB_NRIP), (u64)amd_guest_cpuid + 4, "single step: nRIP of the CPUID");
	asm volatile("nop; nop");
	is_u64(host_traps, 0, "single step: the host is not stepped");
	set_trap_handler(VEC_DB, NULL);
	VMCB32(VMCB_MISC1) &= ~MISC1_CPUID;

	asm volatile("mov %0, %%dr2" : : "r"((u64)amd_guest_100_nops + 7));
	VMCB64(VMCB_DR6) = 0xffff0ff0;
	VMCB64(VMCB_DR7) = 0x400 | BIT(4);
	VMCB64(VMCB_RFLAGS) = 2;
	is_u64(svm_run(amd_guest_100_nops, 0), VMEXIT_EXCP(VEC_DB), "breakpoint: #DB exits");
	is_u64(VMCB64(VMCB_RIP), (u64)amd_guest_100_nops + 7, "breakpoint: before the instruction");
	is_u64(VMCB64(VMCB_DR6), 0xffff0ff4, "breakpoint: B2 in DR6");
	asm volatile("mov %0, %%dr2" : : "r"(0ull));
	init_vmcb();
}

/* PE, and PG with it: what enters long mode if EFER.LME is set. */
#define CR0_PG			BIT(31)
#define EFER_LMA		BIT(10)
#define BUSY_TSS_16		0x083

static u8 host_tr[4096] __attribute__((aligned(4096)));

GUEST(amd_guest_enter_long_mode,
      ".code32; mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0; vmmcall; .code64");

/* VMRUN leaves TR to VMLOAD. */
static void vmload(u8 *from)
{
	asm volatile("vmload" : : "a"(from) : "memory");
}

/* Nothing in the APM wants a 32-bit TSS for it, as the SDM does; after INIT there is a 16-bit one. */
static void check_long_mode_entry(void)
{
	asm volatile("vmsave" : : "a"(host_tr) : "memory");
	asm volatile("vmsave" : : "a"(vmcb) : "memory");
	set_segment(VMCB_TR, 0, BUSY_TSS_16);
	set_segment(VMCB_CS, SEL_CODE32, 0xc9b);
	VMCB64(VMCB_CR0) &= ~CR0_PG;
	VMCB64(VMCB_EFER) &= ~EFER_LMA;
	vmload(vmcb);
	is_u64(svm_run(amd_guest_enter_long_mode, 0), VMEXIT_VMMCALL,
	       "long mode is entered with a 16-bit TSS in TR");
	is_u64(VMCB64(VMCB_EFER) & EFER_LMA, EFER_LMA, "long mode is active then");
	vmload(host_tr);
	init_vmcb();
}

bool svm_init(void)
{
	u32 a, b, c, d;

	cpuid(0x80000001, 0, &a, &b, &c, &d);
	if (!(c & BIT(2)))
		return false;
	wrmsr(IA32_EFER, rdmsr(IA32_EFER) | EFER_SVME);
	wrmsr(VM_HSAVE_PA, (u64)host_save);
	init_vmcb();
	return true;
}

void svm_exit(void)
{
	wrmsr(IA32_EFER, rdmsr(IA32_EFER) & ~EFER_SVME);
}

void test_svm(void)
{
	if (!ok(svm_init(), "SVM: there is"))
		return;
	check_guest_only();
	check_kinds_of_branches();
	check_host_only();
	check_both();
	check_levels();
	check_svme_off();
	check_msrs();
	check_rdpmc();
	if (has_df)
		check_uncore(DF_CTL(4), DF_LOCAL_READS, RDPMC_DF(4), "data fabric");
	if (has_l3)
		check_uncore(L3_CTL(5), L3_MISSES | L3_ALL, RDPMC_L3(5), "L3");
	check_guest_nmi();
	check_guest_pmi();
	check_injection();
	check_failing_injection();
	check_error_codes();
	check_debug();
	check_long_mode_entry();
	check_interrupt_masking();
	check_virtual_interrupt();
	svm_exit();
}
