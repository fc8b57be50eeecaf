// SPDX-License-Identifier: GPL-2.0
/* What counts, where, and exactly how often. */
#include "conf.h"

/* insns and branches are those of the body, handlers included. */
#define EXACT(insns, branches, what, body)				\
do {									\
	setup_exact(ALL_MODES);						\
	MEASURE(pmu->all_counters, body);				\
	check_exact((insns) + MEASURE_OVERHEAD, branches, what);	\
} while (0)

/* What interrupts and exceptions add to the branches. */
static u64 event_branches(u64 events)
{
	return pmu->events_are_branches ? events : 0;
}

static void check_straight(void)
{
	EXACT(0, 0, "nothing between WRMSRs", "");
	EXACT(1, 0, "1 NOP", "nop");
	EXACT(31, 0, "31 NOPs", ".rept 31; nop; .endr");
	EXACT(32, 0, "32 NOPs", ".rept 32; nop; .endr");
	EXACT(33, 0, "33 NOPs", ".rept 33; nop; .endr");
	EXACT(5000, 0, "5000 NOPs", ".rept 5000; nop; .endr");
	EXACT(6, 0, "loads and stores",
	      "mov (%%rbx), %%eax; mov %%eax, 8(%%rbx); lock incl 16(%%rbx);"
	      "push %%rax; pop %%rax; mfence");
	EXACT(2, 0, "CPUID", "xor %%eax, %%eax; cpuid");
}

static void check_near_branches(void)
{
	EXACT(1, 1, "JMP", "jmp 1f; 1:");
	EXACT(2, 1, "JCC taken", "xor %%eax, %%eax; jz 1f; nop; nop; 1:");
	EXACT(4, 1, "JCC not taken", "xor %%eax, %%eax; jnz 1f; nop; nop; 1:");
	EXACT(1 + 2 * 100, 100, "loop with JNZ", "mov $100, %%ecx; 1: dec %%ecx; jnz 1b");
	EXACT(1 + 100, 100, "LOOP", "mov $100, %%ecx; 1: loop 1b");
	EXACT(1 + 3 * 100000, 100000, "long LOOP", "mov $100000, %%ecx; 1: nop; nop; loop 1b");
	EXACT(1 + 50, 50, "LOOP with a 32-bit counter",
	      "movabs $0x100000032, %%rcx; 1: .byte 0x67, 0xe2, 0xfd");
	EXACT(2 + 10, 10, "LOOPE to its end", "xor %%eax, %%eax; mov $10, %%ecx; 1: loope 1b");
	EXACT(3, 1, "LOOPE that ends at once", "cmp %%rsp, %%rax; mov $10, %%ecx; 1: loope 1b");
	EXACT(2 + 10, 10, "LOOPNE to its end", "cmp %%rsp, %%rax; mov $10, %%ecx; 1: loopne 1b");
	EXACT(3, 1, "LOOPNE that ends at once", "xor %%eax, %%eax; mov $10, %%ecx; 1: loopne 1b");
	EXACT(2, 1, "JRCXZ taken", "xor %%ecx, %%ecx; jrcxz 1f; nop; 1:");
	EXACT(3, 3, "CALL and RET", "call 1f; jmp 2f; 1: ret; 2:");
	EXACT(2, 1, "indirect JMP", "lea 1f(%%rip), %%r8; jmp *%%r8; nop; 1:");
	EXACT(4, 3, "indirect CALL", "lea 1f(%%rip), %%r8; call *%%r8; jmp 2f; 1: ret; 2:");
	EXACT(2, 0, "CMOV and SETCC do not branch", "cmovz %%rax, %%rax; setz %%al");
}

static void check_far_branches(void)
{
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

static void check_faults(void)
{
	set_gate(VEC_UD, quick_skip2);
	EXACT(2, 1 + event_branches(1), "#UD: UD2 does not retire", "ud2");
	EXACT(1 + 4 * 100, 200 + event_branches(100), "100 times #UD",
	      "mov $100, %%ecx; 1: ud2; nop; loop 1b");
	set_gate(VEC_UD, NULL);
	set_gate(VEC_GP, quick_skip3_err);
	EXACT(1 + 3, 1 + event_branches(1), "#GP: a non-canonical access does not retire",
	      "movabs $0x8000000000000000, %%r8; mov (%%r8), %%al");
	set_gate(VEC_GP, quick_skip2_err);
	EXACT(1 + 3, 1 + event_branches(1), "#GP: a bad WRMSR does not retire",
	      "mov $0xd1, %%ecx; wrmsr");
	set_gate(VEC_GP, NULL);
	set_gate(VEC_PF, quick_skip3_err);
	EXACT(1 + 3, 1 + event_branches(1), "#PF: the access does not retire",
	      "movabs $0x100000000, %%r8; mov (%%r8), %%al");
	set_gate(VEC_PF, quick_skip2_err);
	EXACT(2 + 3, 1 + event_branches(1), "#PF in the middle of REP STOSB: does not retire",
	      "mov $0xfffffff0, %%edi; mov $32, %%ecx; rep stosb");
	set_gate(VEC_PF, NULL);
}

static void check_rep(void)
{
	EXACT(2, 0, "REP STOSB of 1000 bytes is one instruction", "mov $1000, %%ecx; rep stosb");
	EXACT(2, 0, "REP STOSB of nothing is one instruction", "xor %%ecx, %%ecx; rep stosb");
	EXACT(2, 0, "REP MOVSQ is one instruction", "mov $100, %%ecx; rep movsq");
	EXACT(4, 0, "backward REP MOVSB is one instruction",
	      "mov $100, %%ecx; std; rep movsb; cld");
	EXACT(3, 0, "REPE CMPSB is one instruction",
	      "mov %%rsi, %%rdi; mov $100, %%ecx; repe cmpsb");
	EXACT(3, 0, "REPNE SCASB that ends early is one instruction",
	      "movb $0x5a, 50(%%rdi); mov $0x5a, %%eax; repne scasb");
}

void stop_timer(void)
{
	apic_write(APIC_LVTT, LVT_MASKED);
	set_gate(VEC_TIMER, quick_eoi);
	asm volatile("mov %0, %%r15; sti; .rept 8; nop; .endr; cli"
		     : : "r"(APIC_BASE) : "r15", "memory");
	set_gate(VEC_TIMER, NULL);
}

static void start_timer(void *entry)
{
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, VEC_TIMER);
	set_gate(VEC_TIMER, entry);
}

static void check_interrupts(void)
{
	set_gate(VEC_IPI, quick_eoi);
	EXACT(6 + 2, 1 + event_branches(1), "an interrupt and its handler",
	      "mov $0xfee00000, %%r15d; sti; movl $0x40041, 0x300(%%r15); nop; nop; cli");
	set_gate(VEC_IPI, NULL);

	start_timer(quick_eoi);
	EXACT(5 + 2, 1 + event_branches(1),
	      "HLT retires once, its wake-up adds the interrupt and its handler",
	      "mov $0xfee00000, %%r15d; movl $3000, 0x380(%%r15); sti; hlt; cli");
	is_u64(PMC(2), 7 + MEASURE_OVERHEAD, "a halted CPU has no cycles");
	if (pmu->fixed_counters)
		is_u64(FIXED(1), 7 + MEASURE_OVERHEAD, "a halted CPU has no cycles, fixed counter");
	stop_timer();
}

/* Run the body with timer interrupts, which are counted in scratch. */
#define TIMED_OVERHEAD	(6 + MEASURE_OVERHEAD)
#define MEASURE_TIMED(set_up, body)					\
do {									\
	setup_exact(ALL_MODES);						\
	MEASURE(pmu->all_counters,					\
		"mov $0xfee00000, %%r15d; mov %%rbx, %%r14; movl $0, (%%r14);" \
		set_up "; movl $" STR(TIMER_TICKS) ", 0x380(%%r15); sti;" \
		body "; cli");						\
} while (0)

static void check_timed(u64 insns, u64 branches, u32 at_least, const char *what)
{
	u64 interrupts = *(u32 *)scratch;

	ok(interrupts >= at_least, "%s: enough of them", what);
	/* The handler is quick_rearm(). */
	check_exact(insns + 4 * interrupts + TIMED_OVERHEAD,
		    branches + interrupts + event_branches(interrupts), what);
}

static void check_timer_interrupts(void)
{
	start_timer(quick_rearm);
	MEASURE_TIMED("mov $100000, %%ecx", "1: nop; nop; loop 1b");
	check_timed(1 + 300000, 100000, 11, "timer interrupts in a loop");
	MEASURE_TIMED("mov $0x1000000, %%esi; mov $0x1400000, %%edi; mov $200000, %%ecx",
		      "rep movsb");
	check_timed(3 + 1, 0, 1, "timer interrupts in REP MOVSB");
	MEASURE_TIMED("mov $0x1000000, %%edi; mov $200000, %%ecx; mov $0x5a, %%eax",
		      "repne scasb");
	check_timed(3 + 1, 0, 1, "timer interrupts in REPNE SCASB");
	stop_timer();
}

static void check_kernel_mode(void)
{
	unsigned int n;
	u64 fixed = 0;

	setup_exact(SEL_OS);
	MEASURE(pmu->all_counters, "nop");
	check_exact(1 + MEASURE_OVERHEAD, 0, "OS only, in the kernel");
	setup_exact(SEL_USR);
	MEASURE(pmu->all_counters, "jmp 1f; 1:");
	check_exact(0, 0, "USR only, in the kernel");
	is_u64(PMC(2), 0, "USR only, in the kernel: no cycles");
	for_each_fixed(n)
		fixed |= FIXED(n);
	is_u64(fixed, 0, "USR only, in the kernel: no cycles, no slots");
	setup_exact(0);
	MEASURE(pmu->all_counters, "nop");
	check_exact(0, 0, "neither USR nor OS");
}

/* Read counter 0 into scratch, 10 NOPs, the given number of SYSCALLs, INT 81H. */
#define USER_CODE_INSNS	(3 + 10)
#define USER_CODE(name, nr_syscalls)					\
	static void __attribute__((naked)) name(void)			\
	{								\
		asm("xor %ecx, %ecx; rdpmc; mov %eax, scratch(%rip);"	\
		    ".rept 10; nop; .endr; .rept " #nr_syscalls		\
		    "; syscall; .endr; int $" STR(VEC_LEAVE_USER));	\
	}
USER_CODE(user_5_syscalls, 5)
USER_CODE(user_15_syscalls, 15)

static void __attribute__((naked)) user_loop(void)
{
	asm("mov $0xfee00000, %r15d; lea scratch(%rip), %r14; mov $100000, %ecx;"
	    "1: nop; nop; loop 1b; int $" STR(VEC_LEAVE_USER));
}

static void run_user(void *entry, u64 modes)
{
	setup_exact(modes);
	wrmsr(pmu->global_ctrl, pmu->all_counters);
	enter_user(entry, user_stack + sizeof(user_stack));
	wrmsr(pmu->global_ctrl, 0);
}

void set_up_user_mode(void)
{
	wrmsr(IA32_STAR, (u64)SEL_CODE64 << 32 | (u64)(SEL_USER_CODE32 | 3) << 48);
	wrmsr(IA32_LSTAR, (u64)quick_syscall);
	wrmsr(IA32_FMASK, 0);
	set_gate(VEC_LEAVE_USER, leave_user);
}

/*
 * Where an instruction counts where it goes to, user mode has the IRET that
 * enters it and each SYSRET; else it has each SYSCALL and the INT that leaves it.
 * These are as many.
 */
static void check_user_mode(void)
{
	u64 entering = pmu->counts_where_it_goes, os_insns, os_branches;
	u32 *seen = (u32 *)scratch, os_seen;

	write_cr(4, read_cr(4) | CR4_PCE);
	run_user(user_5_syscalls, SEL_USR);
	is_u64(*seen, 1 + entering, "USR only: the IRET to user mode %s there",
	       entering ? "counts" : "does not count");
	check_exact(USER_CODE_INSNS + 5 + 1, 5 + 1, "USR only, 5 SYSCALLs");
	run_user(user_15_syscalls, SEL_USR);
	check_exact(USER_CODE_INSNS + 15 + 1, 15 + 1, "USR only, 15 SYSCALLs");

	run_user(user_5_syscalls, SEL_OS);
	os_insns = PMC(0);
	os_branches = PMC(1);
	run_user(user_15_syscalls, SEL_OS);
	is_u64(PMC(0) - os_insns, 10, "OS only: SYSCALL or SYSRET");
	is_u64(PMC(1) - os_branches, 10, "OS only: SYSCALL or SYSRET is a branch");
	os_insns = PMC(0);
	os_branches = PMC(1);
	os_seen = *seen;
	run_user(user_15_syscalls, SEL_USR | SEL_OS);
	is_u64(*seen - os_seen, 1 + entering, "USR and OS add up on the way in");
	is_u64(PMC(0) - os_insns, USER_CODE_INSNS + 15 + 1, "USR and OS add up: instructions");
	is_u64(PMC(1) - os_branches, 15 + 1, "USR and OS add up: branches");
	write_cr(4, read_cr(4) & ~CR4_PCE);
}

static void check_interrupted_user_mode(void)
{
	u32 *interrupts = (u32 *)scratch;
	u64 returns;

	start_timer(quick_rearm);
	*interrupts = 0;
	user_rflags = 0x202;
	apic_write(APIC_TMICT, TIMER_TICKS);
	run_user(user_loop, SEL_USR);
	user_rflags = 2;
	stop_timer();
	ok(*interrupts > 10, "timer interrupts in user mode: enough of them");
	returns = pmu->counts_where_it_goes ? *interrupts : 0;
	check_exact(3 + 300000 + 1 + returns, 100000 + 1 + returns,
		    "USR only, with timer interrupts");
}

static void check_switches(void)
{
	unsigned int n;
	u64 bad = 0;

	for (n = 0; n < pmu->nr_counters; n++) {
		pmu_reset();
		setup_pmc(n, pmu->insns | SEL_OS);
		MEASURE(BIT(n), ".rept 100; nop; .endr");
		if (PMC(n) != 100 + MEASURE_OVERHEAD)
			bad |= BIT(n);
	}
	is_u64(bad, 0, "each counter counts");

	pmu_reset();
	setup_pmc(2, pmu->insns | SEL_OS);
	MEASURE(pmu->all_counters & ~BIT(2), ".rept 100; nop; .endr");
	is_u64(PMC(2), 0, "not enabled in %s", pmu->global_ctrl_name);
	wrmsr(selector_msr(2), pmu->insns | SEL_OS);
	MEASURE(pmu->all_counters, ".rept 100; nop; .endr");
	is_u64(PMC(2), 0, "not enabled in %s", pmu->selector_name);

	pmu_reset();
	wrmsr(pmu->global_ctrl, pmu->all_counters);
	MEASURE_MSR(selector_msr(0), pmu->insns | SEL_OS | SEL_EN, ".rept 100; nop; .endr");
	is_u64(PMC(0), 100 + MEASURE_OVERHEAD, "enabled and disabled by %s", pmu->selector_name);
}

static void check_running(void)
{
	u64 *seen = (u64 *)scratch;

	setup_exact(ALL_MODES);
	MEASURE(pmu->all_counters,
		"xor %%ecx, %%ecx; nop; rdpmc; mov %%eax, (%%rbx); rdpmc; mov %%eax, 8(%%rbx)");
	is_u64((u32)seen[0], 2, "RDPMC reads what retired before it");
	is_u64((u32)seen[1], 4, "RDPMC retires");
	seen[2] = pmu->counter;
	setup_exact(ALL_MODES);
	MEASURE(pmu->all_counters, "nop; mov 16(%%rbx), %%ecx; rdmsr; mov %%eax, (%%rbx)");
	is_u64((u32)seen[0], 2, "RDMSR reads what retired before it");
	setup_exact(ALL_MODES);
	MEASURE(pmu->all_counters,
		"mov 16(%%rbx), %%ecx; mov $100, %%eax; xor %%edx, %%edx; wrmsr;"
		"xor %%ecx, %%ecx; rdpmc; mov %%eax, (%%rbx)");
	is_u64((u32)seen[0], 102, "a WRMSR to a running counter retires after it wrote");
}

static void check_qualifiers(void)
{
	pmu_reset();
	setup_pmc(0, pmu->insns | SEL_OS | SEL_CMASK(1));
	setup_pmc(1, pmu->insns | SEL_OS | SEL_CMASK(2));
	setup_pmc(2, pmu->insns | SEL_OS | SEL_INV | SEL_CMASK(1));
	setup_pmc(3, pmu->insns | SEL_OS | SEL_INV | SEL_CMASK(16));
	setup_pmc(4, pmu->cycles | SEL_OS | SEL_EDGE);
	setup_pmc(5, pmu->branches | SEL_OS | SEL_EDGE);
	MEASURE(pmu->all_counters, ".rept 50; nop; .endr; mov $10, %%ecx; 1: loop 1b");
	is_u64(PMC(0), 61 + MEASURE_OVERHEAD, "CMASK 1: cycles with an instruction");
	is_u64(PMC(1), 0, "CMASK 2: cycles with two instructions");
	is_u64(PMC(2), 0, "CMASK 1, INV: cycles without an instruction");
	is_u64(PMC(3), 61 + MEASURE_OVERHEAD, "CMASK 16, INV: every cycle");
	is_u64(PMC(4), 1, "EDGE: cycles begin once");
	is_u64(PMC(5), 1, "EDGE: successive branches are one");
}

static void check_combined_qualifiers(void)
{
	pmu_reset();
	setup_pmc(0, pmu->insns | SEL_OS | SEL_INV);
	setup_pmc(1, pmu->branches | SEL_OS | SEL_EDGE);
	setup_pmc(2, pmu->branches | SEL_OS | SEL_EDGE | SEL_CMASK(1));
	setup_pmc(3, pmu->branches | SEL_OS | SEL_INV | SEL_CMASK(1));
	setup_pmc(4, pmu->branches | SEL_OS | SEL_INV | SEL_CMASK(1) | SEL_EDGE);
	MEASURE(pmu->all_counters, "mov $10, %%ecx; 1: nop; loop 1b");
	is_u64(PMC(0), 21 + MEASURE_OVERHEAD, "INV is ignored if CMASK is 0");
	is_u64(PMC(1), 10, "EDGE: branches with something between");
	is_u64(PMC(2), 10, "EDGE, CMASK 1: the same");
	is_u64(PMC(3), 11 + MEASURE_OVERHEAD, "CMASK 1, INV: cycles without a branch");
	is_u64(PMC(4), 11, "CMASK 1, INV, EDGE: how often it stops branching");
}

static void check_cycle_of_fault(void)
{
	pmu_reset();
	setup_pmc(0, pmu->insns | SEL_OS | SEL_INV | SEL_CMASK(1));
	setup_pmc(1, pmu->insns | SEL_OS | SEL_EDGE);
	setup_pmc(2, pmu->insns | SEL_OS);
	set_gate(VEC_UD, quick_skip2);
	MEASURE(pmu->all_counters, "mov $10, %%ecx; 1: ud2; loop 1b");
	set_gate(VEC_UD, NULL);
	is_u64(PMC(0), 10, "CMASK 1, INV: a fault takes a cycle without an instruction");
	is_u64(PMC(1), 11, "EDGE: and interrupts the flow of instructions");
	is_u64(PMC(2), 31 + MEASURE_OVERHEAD, "a plain counter beside them");
}

/* From one RDMSR to the next are 1000 NOPs and what shuffles their results. */
static void check_frequency_clock(u32 msr, const char *name)
{
	u64 start, cycles;

	wrmsr(msr, 5000);
	start = rdmsr(msr);
	asm volatile(".rept 1000; nop; .endr");
	cycles = rdmsr(msr) - start;
	ok(start >= 5000 && start < 5010, "%s: goes on from what is written (%lu)", name, start);
	ok(cycles >= 1000 && cycles < 1010, "%s: counts cycles (%lu)", name, cycles);
}

void test_counting(void)
{
	check_straight();
	check_near_branches();
	check_far_branches();
	check_faults();
	check_rep();
	check_interrupts();
	check_timer_interrupts();
	check_kernel_mode();
	set_up_user_mode();
	check_user_mode();
	check_interrupted_user_mode();
	check_switches();
	check_running();
	check_qualifiers();
	check_combined_qualifiers();
	check_cycle_of_fault();
	check_frequency_clock(IA32_MPERF, "MPERF");
	check_frequency_clock(IA32_APERF, "APERF");
}
