// SPDX-License-Identifier: GPL-2.0
/*
 * AMD: what counts, where, and exactly how often. Unlike Intel's, AMD's event
 * of retired branches has interrupts and exceptions in it, and an instruction
 * that changes the privilege level counts at the level that it changes to.
 */
#include "amd.h"

#define ALL_MODES	(SEL_USR | SEL_OS)
#define COUNT_MASK	7

static void setup_exact(u64 modes)
{
	amd_reset();
	amd_setup(0, AMD_INSNS | modes);
	amd_setup(1, AMD_BRANCHES | modes);
	amd_setup(2, AMD_CYCLES | modes);
}

static void check_exact(u64 insns, u64 branches, const char *what)
{
	is_u64(CTR(0), insns, "%s: instructions", what);
	is_u64(CTR(1), branches, "%s: branches", what);
}

#define EXACT(insns, branches, what, body)				\
do {									\
	setup_exact(ALL_MODES);						\
	AMD_MEASURE(COUNT_MASK, body);					\
	check_exact((insns) + MEASURE_OVERHEAD, branches, what);	\
} while (0)

static void check_straight(void)
{
	EXACT(0, 0, "nothing between WRMSRs", "");
	EXACT(1, 0, "1 NOP", "nop");
	EXACT(32, 0, "32 NOPs", ".rept 32; nop; .endr");
	EXACT(5000, 0, "5000 NOPs", ".rept 5000; nop; .endr");
	EXACT(2, 0, "CPUID", "xor %%eax, %%eax; cpuid");
	EXACT(2, 0, "REP STOSB of 1000 bytes is one instruction", "mov $1000, %%ecx; rep stosb");
}

static void check_branches(void)
{
	EXACT(1, 1, "JMP", "jmp 1f; 1:");
	EXACT(2, 1, "JCC taken", "xor %%eax, %%eax; jz 1f; nop; nop; 1:");
	EXACT(4, 1, "JCC not taken", "xor %%eax, %%eax; jnz 1f; nop; nop; 1:");
	EXACT(1 + 3 * 100000, 100000, "long LOOP", "mov $100000, %%ecx; 1: nop; nop; loop 1b");
	EXACT(3, 3, "CALL and RET", "call 1f; jmp 2f; 1: ret; 2:");
	EXACT(4, 1, "far RET",
	      "pushq $" STR(SEL_CODE64) "; lea 1f(%%rip), %%r8; push %%r8; lretq; nop; 1:");
	EXACT(8, 1, "IRET",
	      "mov %%rsp, %%r8; pushq $0; push %%r8; pushq $2; pushq $" STR(SEL_CODE64)
	      "; lea 1f(%%rip), %%r9; push %%r9; iretq; nop; 1:");
	set_gate(VEC_INT, quick_iret);
	EXACT(2, 2, "INT n and IRET", "int $" STR(VEC_INT));
	set_gate(3, quick_iret);
	EXACT(2, 2, "INT3 and IRET", "int3");
	set_gate(3, NULL);
}

static void check_exceptions(void)
{
	set_gate(VEC_UD, quick_skip2);
	EXACT(2, 2, "#UD: UD2 does not retire, the exception is a branch", "ud2");
	EXACT(1 + 4 * 100, 300, "100 times #UD", "mov $100, %%ecx; 1: ud2; nop; loop 1b");
	set_gate(VEC_UD, NULL);
	set_gate(VEC_PF, quick_skip3_err);
	EXACT(1 + 3, 2, "#PF: the access does not retire",
	      "movabs $0x100000000, %%r8; mov (%%r8), %%al");
	set_gate(VEC_PF, NULL);
}

static void stop_timer(void)
{
	apic_write(APIC_LVTT, LVT_MASKED);
	set_gate(VEC_TIMER, quick_eoi);
	asm volatile("mov %0, %%r15; sti; .rept 8; nop; .endr; cli"
		     : : "r"(APIC_BASE) : "r15", "memory");
	set_gate(VEC_TIMER, NULL);
}

static void check_interrupts(void)
{
	u32 *interrupts = (u32 *)scratch;

	set_gate(VEC_IPI, quick_eoi);
	EXACT(6 + 2, 2, "an interrupt is a branch",
	      "mov $0xfee00000, %%r15d; sti; movl $0x40041, 0x300(%%r15); nop; nop; cli");
	set_gate(VEC_IPI, NULL);

	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, VEC_TIMER);
	set_gate(VEC_TIMER, quick_eoi);
	EXACT(5 + 2, 2, "HLT retires once, its wake-up adds the interrupt and the handler",
	      "mov $0xfee00000, %%r15d; movl $3000, 0x380(%%r15); sti; hlt; cli");
	is_u64(CTR(2), 7 + MEASURE_OVERHEAD, "a halted CPU has no cycles");

	set_gate(VEC_TIMER, quick_rearm);
	setup_exact(ALL_MODES);
	AMD_MEASURE(COUNT_MASK,
		    "mov $0xfee00000, %%r15d; mov %%rbx, %%r14; movl $0, (%%r14);"
		    "mov $100000, %%ecx;"
		    "movl $" STR(TIMER_TICKS) ", 0x380(%%r15); sti; 1: nop; nop; loop 1b; cli");
	ok(*interrupts > 10, "timer interrupts in a loop: enough of them");
	check_exact(7 + 300000 + 4ull * *interrupts + MEASURE_OVERHEAD, 100000 + 2ull * *interrupts,
		    "timer interrupts in a loop");
	stop_timer();
}

/* Reads counter 0 into scratch, then 10 NOPs, 5 SYSCALLs, INT 81H */
static void __attribute__((naked)) user_code(void)
{
	asm("xor %ecx, %ecx; rdpmc; mov %eax, scratch(%rip);"
	    ".rept 10; nop; .endr; .rept 5; syscall; .endr; int $" STR(VEC_LEAVE_USER));
}

static void __attribute__((naked)) user_loop(void)
{
	asm("mov $0xfee00000, %r15d; lea scratch(%rip), %r14; mov $100000, %ecx;"
	    "1: nop; nop; loop 1b; int $" STR(VEC_LEAVE_USER));
}

static void run_user(void *entry, u64 modes)
{
	setup_exact(modes);
	wrmsr(PERF_GLOBAL_CTL, COUNT_MASK);
	enter_user(entry, user_stack + sizeof(user_stack));
	wrmsr(PERF_GLOBAL_CTL, 0);
}

static void check_modes(void)
{
	u32 *seen = (u32 *)scratch;
	u64 os_insns, os_branches, os_seen;

	setup_exact(SEL_OS);
	AMD_MEASURE(COUNT_MASK, "nop");
	check_exact(1 + MEASURE_OVERHEAD, 0, "OS only, in the kernel");
	setup_exact(SEL_USR);
	AMD_MEASURE(COUNT_MASK, "jmp 1f; 1:");
	check_exact(0, 0, "USR only, in the kernel");
	setup_exact(0);
	AMD_MEASURE(COUNT_MASK, "nop");
	check_exact(0, 0, "neither USR nor OS");

	wrmsr(IA32_STAR, (u64)SEL_CODE64 << 32 | (u64)(SEL_USER_CODE32 | 3) << 48);
	wrmsr(IA32_LSTAR, (u64)quick_syscall);
	wrmsr(IA32_FMASK, 0);
	set_gate(VEC_LEAVE_USER, leave_user);
	write_cr(4, read_cr(4) | BIT(8));	/* PCE */

	/* IRET and SYSRET count where they go to, SYSCALL and INT do not count here. */
	run_user(user_code, SEL_USR);
	is_u64(*seen, 1 + 1, "USR only: the IRET to user mode counts there");
	check_exact(1 + 3 + 10 + 5, 1 + 5, "USR only, 5 SYSCALLs");
	run_user(user_code, SEL_OS);
	os_insns = CTR(0);
	os_branches = CTR(1);
	os_seen = *seen;
	run_user(user_code, SEL_USR | SEL_OS);
	is_u64(*seen, os_seen + 1 + 1, "USR and OS add up on the way in");
	is_u64(CTR(0), os_insns + 1 + 3 + 10 + 5, "USR and OS add up: instructions");
	is_u64(CTR(1), os_branches + 1 + 5, "USR and OS add up: branches");
	write_cr(4, read_cr(4) & ~BIT(8));

	apic_write(APIC_LVTT, VEC_TIMER);
	set_gate(VEC_TIMER, quick_rearm);
	*seen = 0;
	user_rflags = 0x202;
	apic_write(APIC_TMICT, TIMER_TICKS);
	run_user(user_loop, SEL_USR);
	user_rflags = 2;
	stop_timer();
	ok(*seen > 10, "timer interrupts in user mode: enough of them");
	check_exact(1 + 3 + 300000 + *seen, 1 + 100000 + *seen,
		    "USR only, with timer interrupts: each adds its IRET");
}

static void check_switches(void)
{
	unsigned int n;
	u64 bad = 0;

	for (n = 0; n < NR_CORE; n++) {
		amd_reset();
		amd_setup(n, AMD_INSNS | SEL_OS);
		AMD_MEASURE(BIT(n), ".rept 100; nop; .endr");
		if (CTR(n) != 100 + MEASURE_OVERHEAD)
			bad |= BIT(n);
	}
	is_u64(bad, 0, "each counter counts");
	amd_reset();
	amd_setup(2, AMD_INSNS | SEL_OS);
	AMD_MEASURE(CORE_ALL & ~BIT(2), ".rept 100; nop; .endr");
	is_u64(CTR(2), 0, "not enabled in PerfCntrGlobalCtl");
	wrmsr(PERF_CTL(2), AMD_INSNS | SEL_OS);
	AMD_MEASURE(CORE_ALL, ".rept 100; nop; .endr");
	is_u64(CTR(2), 0, "not enabled in PERF_CTL");
	amd_reset();
	wrmsr(PERF_GLOBAL_CTL, CORE_ALL);
	MEASURE_MSR(0xc0010000, AMD_INSNS | SEL_OS | SEL_EN, ".rept 100; nop; .endr");
	is_u64(CTR(0), 100 + MEASURE_OVERHEAD, "enabled and disabled by a legacy PerfEvtSel");

	amd_reset();
	amd_setup(0, 0x0001 | SEL_OS);
	amd_setup(1, AMD_INSNS | BIT(32) | SEL_OS);	/* 1C0H */
	amd_setup(2, 0x00c4 | SEL_OS);			/* taken branches are not modelled */
	AMD_MEASURE(CORE_ALL, ".rept 100; nop; .endr; jmp 1f; 1:");
	is_u64(CTR(0) | CTR(1) | CTR(2), 0, "events that do not exist do not happen");
}

/* Dispatched loads, stores, and instructions that are both, by unit mask */
static void check_memory(void)
{
	amd_reset();
	amd_setup(0, AMD_LS_DISPATCH | 1 << 8 | SEL_OS);
	amd_setup(1, AMD_LS_DISPATCH | 2 << 8 | SEL_OS);
	amd_setup(2, AMD_LS_DISPATCH | 4 << 8 | SEL_OS);
	amd_setup(3, AMD_LS_DISPATCH | 7 << 8 | SEL_OS);
	amd_setup(4, AMD_LS_DISPATCH | SEL_OS);
	AMD_MEASURE(CORE_ALL,
		    ".rept 10; mov (%%rbx), %%eax; .endr; .rept 5; mov %%eax, (%%rbx); .endr;"
		    ".rept 3; incl (%%rbx); .endr; nop; nop");
	is_u64(CTR(0), 10, "loads");
	is_u64(CTR(1), 5, "stores");
	is_u64(CTR(2), 3, "loads with stores");
	is_u64(CTR(3), 18, "all of them");
	is_u64(CTR(4), 0, "none of them");
}

static void check_models(void)
{
	amd_reset();
	amd_setup(0, AMD_CYCLES | SEL_OS);
	amd_setup(1, AMD_REF_CYCLES | SEL_OS);
	amd_setup(2, AMD_BR_MISSES | SEL_OS);
	amd_setup(3, AMD_L2_REFS | SEL_OS);
	amd_setup(4, AMD_L2_MISSES | SEL_OS);
	amd_setup(5, AMD_INSNS | SEL_OS);
	AMD_MEASURE(CORE_ALL, "mov $100000, %%ecx; 1: nop; nop; dec %%ecx; jnz 1b");
	is_u64(CTR(0), CTR(5), "model: a cycle for each instruction");
	is_u64(CTR(1), CTR(0), "model: reference cycles are core cycles");
	ok(CTR(2) >= 1 && CTR(2) < 100,
	   "model: mispredicted branches: a loop is learnt (%lu)", CTR(2));
	ok(CTR(3) > 100 && CTR(3) < 100000, "model: L2 requests in a loop (%lu)", CTR(3));
	ok(CTR(4) > 10 && CTR(4) < CTR(3), "model: L2 misses in a loop (%lu)", CTR(4));

	amd_reset();
	amd_setup(0, AMD_INSNS | SEL_OS | SEL_CMASK(1));
	amd_setup(1, AMD_INSNS | SEL_OS | SEL_CMASK(2));
	amd_setup(2, AMD_INSNS | SEL_OS | SEL_INV | SEL_CMASK(16));
	amd_setup(3, AMD_BRANCHES | SEL_OS | SEL_EDGE);
	AMD_MEASURE(CORE_ALL, "mov $10, %%ecx; 1: nop; loop 1b");
	is_u64(CTR(0), 21 + MEASURE_OVERHEAD, "CntMask 1: cycles with an instruction");
	is_u64(CTR(1), 0, "CntMask 2: cycles with two instructions");
	is_u64(CTR(2), 21 + MEASURE_OVERHEAD, "CntMask 16, Inv: every cycle");
	is_u64(CTR(3), 10, "Edge: branches with something between");
}

void test_amd_counting(void)
{
	check_straight();
	check_branches();
	check_exceptions();
	check_interrupts();
	check_modes();
	check_switches();
	check_memory();
	check_models();
}
