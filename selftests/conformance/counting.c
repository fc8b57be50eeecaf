// SPDX-License-Identifier: GPL-2.0
/* What counts, where, and exactly how often. */
#include "conf.h"

#define ALL_MODES	(SEL_USR | SEL_OS)
#define COUNT_MASK	(BIT(0) | BIT(1) | GLOBAL_FIXED)

/* PMC0 counts instructions, PMC1 branches, the fixed counters theirs. */
static void setup_exact(u64 modes)
{
	u64 fixed = (modes & SEL_OS ? FIXED_OS : 0) | (modes & SEL_USR ? FIXED_USR : 0);

	pmu_reset();
	setup_gp(0, EV_INSNS | modes);
	setup_gp(1, EV_BRANCHES | modes);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(0, fixed) | FIXED_CTRL(1, fixed) |
	      FIXED_CTRL(2, fixed) | FIXED_CTRL(3, fixed));
}

static void check_exact(u64 insns, u64 branches, const char *what)
{
	is_u64(GP(0), insns, "%s: instructions", what);
	is_u64(GP(1), branches, "%s: branches", what);
	is_u64(FIXED(0), insns, "%s: instructions, fixed counter", what);
}

/* insns and branches are those of the body, handlers included. */
#define EXACT(insns, branches, what, body)				\
do {									\
	setup_exact(ALL_MODES);						\
	MEASURE(COUNT_MASK, body);					\
	check_exact((insns) + MEASURE_OVERHEAD, branches, what);	\
} while (0)

static void check_straight(void)
{
	EXACT(0, 0, "nothing between WRMSRs", "");
	EXACT(1, 0, "1 NOP", "nop");
	EXACT(31, 0, "31 NOPs", ".rept 31; nop; .endr");
	EXACT(32, 0, "32 NOPs", ".rept 32; nop; .endr");
	EXACT(33, 0, "33 NOPs", ".rept 33; nop; .endr");
	EXACT(5000, 0, "5000 NOPs", ".rept 5000; nop; .endr");
	EXACT(6, 0, "loads and stores",
	      "mov (%%rbx), %%eax; mov %%eax, 8(%%rbx); lock incl 16(%%rbx); push %%rax; pop %%rax; mfence");
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
	EXACT(2, 1, "#UD: UD2 does not retire", "ud2");
	EXACT(1 + 4 * 100, 200, "100 times #UD", "mov $100, %%ecx; 1: ud2; nop; loop 1b");
	set_gate(VEC_UD, NULL);
	set_gate(VEC_GP, quick_skip3_err);
	EXACT(1 + 3, 1, "#GP: a non-canonical access does not retire",
	      "movabs $0x8000000000000000, %%r8; mov (%%r8), %%al");
	set_gate(VEC_GP, quick_skip2_err);
	EXACT(1 + 3, 1, "#GP: a bad WRMSR does not retire", "mov $0xc9, %%ecx; wrmsr");
	set_gate(VEC_GP, NULL);
	set_gate(VEC_PF, quick_skip3_err);
	EXACT(1 + 3, 1, "#PF: the access does not retire",
	      "movabs $0x100000000, %%r8; mov (%%r8), %%al");
	set_gate(VEC_PF, quick_skip2_err);
	EXACT(2 + 3, 1, "#PF in the middle of REP STOSB: does not retire",
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

/* Stop the timer and take what it may have left pending. */
static void stop_timer(void)
{
	apic_write(APIC_LVTT, LVT_MASKED);
	set_gate(VEC_TIMER, quick_eoi);
	asm volatile("mov %0, %%r15; sti; .rept 8; nop; .endr; cli" : : "r"(APIC_BASE) : "r15", "memory");
	set_gate(VEC_TIMER, NULL);
}

static void check_interrupts(void)
{
	u32 *interrupts = (u32 *)scratch;

	set_gate(VEC_IPI, quick_eoi);
	EXACT(6 + 2, 1, "an interrupt adds its handler only",
	      "mov $0xfee00000, %%r15d; sti; movl $0x40041, 0x300(%%r15); nop; nop; cli");
	set_gate(VEC_IPI, NULL);

	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, VEC_TIMER);
	set_gate(VEC_TIMER, quick_eoi);
	EXACT(5 + 2, 1, "HLT retires once, its wake-up adds the handler only",
	      "mov $0xfee00000, %%r15d; movl $3000, 0x380(%%r15); sti; hlt; cli");
	is_u64(FIXED(1), 7 + MEASURE_OVERHEAD, "a halted CPU has no cycles");

	set_gate(VEC_TIMER, quick_rearm);
	setup_exact(ALL_MODES);
	MEASURE(COUNT_MASK,
		"mov $0xfee00000, %%r15d; mov %%rbx, %%r14; movl $0, (%%r14); mov $100000, %%ecx;"
		"movl $" STR(TIMER_TICKS) ", 0x380(%%r15); sti; 1: nop; nop; loop 1b; cli");
	ok(*interrupts > 10, "timer interrupts in a loop: enough of them");
	check_exact(7 + 300000 + 4ull * *interrupts + MEASURE_OVERHEAD, 100000 + *interrupts,
		    "timer interrupts in a loop");

	setup_exact(ALL_MODES);
	MEASURE(COUNT_MASK,
		"mov $0xfee00000, %%r15d; mov %%rbx, %%r14; movl $0, (%%r14); mov $0x1000000, %%esi; mov $0x1400000, %%edi;"
		"mov $200000, %%ecx; movl $" STR(TIMER_TICKS) ", 0x380(%%r15); sti; rep movsb; cli");
	ok(*interrupts > 0, "timer interrupts in REP MOVSB: there are some");
	check_exact(10 + 4ull * *interrupts + MEASURE_OVERHEAD, *interrupts,
		    "timer interrupts in REP MOVSB");

	setup_exact(ALL_MODES);
	MEASURE(COUNT_MASK,
		"mov $0xfee00000, %%r15d; mov %%rbx, %%r14; movl $0, (%%r14); mov $0x1000000, %%edi; mov $200000, %%ecx;"
		"mov $0x5a, %%eax; movl $" STR(TIMER_TICKS) ", 0x380(%%r15); sti; repne scasb; cli");
	ok(*interrupts > 0, "timer interrupts in REPNE SCASB: there are some");
	check_exact(10 + 4ull * *interrupts + MEASURE_OVERHEAD, *interrupts,
		    "timer interrupts in REPNE SCASB");
	stop_timer();
}

/* 10 NOPs, the given number of SYSCALLs, INT 81H */
#define USER_CODE(name, nr_syscalls)					\
	static void __attribute__((naked)) name(void)			\
	{								\
		asm(".rept 10; nop; .endr; .rept " #nr_syscalls		\
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
	wrmsr(IA32_PERF_GLOBAL_CTRL, COUNT_MASK);
	enter_user(entry, user_stack + sizeof(user_stack));
	wrmsr(IA32_PERF_GLOBAL_CTRL, 0);
}

static void check_modes(void)
{
	u64 os_insns, os_branches, all;
	u32 *interrupts = (u32 *)scratch;

	setup_exact(SEL_OS);
	MEASURE(COUNT_MASK, "nop");
	check_exact(1 + MEASURE_OVERHEAD, 0, "OS only, in the kernel");
	setup_exact(SEL_USR);
	MEASURE(COUNT_MASK, "jmp 1f; 1:");
	check_exact(0, 0, "USR only, in the kernel");
	is_u64(FIXED(1) | FIXED(2) | FIXED(3), 0, "USR only, in the kernel: no cycles, no slots");
	setup_exact(0);
	MEASURE(COUNT_MASK, "nop");
	check_exact(0, 0, "neither USR nor OS");

	wrmsr(IA32_STAR, (u64)SEL_CODE64 << 32 | (u64)(SEL_USER_CODE32 | 3) << 48);
	wrmsr(IA32_LSTAR, (u64)quick_syscall);
	wrmsr(IA32_FMASK, 0);
	set_gate(VEC_LEAVE_USER, leave_user);

	/* SYSCALL and INT count where they start. */
	run_user(user_5_syscalls, SEL_USR);
	check_exact(10 + 5 + 1, 5 + 1, "USR only, 5 SYSCALLs");
	run_user(user_15_syscalls, SEL_USR);
	check_exact(10 + 15 + 1, 15 + 1, "USR only, 15 SYSCALLs");
	run_user(user_5_syscalls, SEL_OS);
	os_insns = GP(0);
	os_branches = GP(1);
	run_user(user_15_syscalls, SEL_OS);
	is_u64(GP(0) - os_insns, 10, "OS only: a SYSRET for each SYSCALL");
	is_u64(GP(1) - os_branches, 10, "OS only: a SYSRET for each SYSCALL is a branch");
	os_insns = GP(0);
	run_user(user_15_syscalls, SEL_USR | SEL_OS);
	all = GP(0);
	is_u64(all - os_insns, 10 + 15 + 1, "USR and OS add up");

	apic_write(APIC_LVTT, VEC_TIMER);
	set_gate(VEC_TIMER, quick_rearm);
	*interrupts = 0;
	user_rflags = 0x202;
	apic_write(APIC_TMICT, TIMER_TICKS);
	run_user(user_loop, SEL_USR);
	user_rflags = 2;
	stop_timer();
	ok(*interrupts > 10, "timer interrupts in user mode: enough of them");
	check_exact(3 + 300000 + 1, 100000 + 1, "USR only, with timer interrupts");
}

static void check_switches(void)
{
	unsigned int n;
	u64 bad = 0;

	for (n = 0; n < NR_GP; n++) {
		pmu_reset();
		setup_gp(n, EV_INSNS | SEL_OS);
		MEASURE(BIT(n), ".rept 100; nop; .endr");
		if (GP(n) != 100 + MEASURE_OVERHEAD)
			bad |= BIT(n);
	}
	is_u64(bad, 0, "each GP counter counts");

	pmu_reset();
	setup_gp(2, EV_INSNS | SEL_OS);
	MEASURE(GLOBAL_ALL & ~BIT(2), ".rept 100; nop; .endr");
	is_u64(GP(2), 0, "not enabled in GLOBAL_CTRL");
	wrmsr(IA32_PERFEVTSEL0 + 2, EV_INSNS | SEL_OS);
	MEASURE(GLOBAL_ALL, ".rept 100; nop; .endr");
	is_u64(GP(2), 0, "not enabled in PERFEVTSEL");

	pmu_reset();
	wrmsr(IA32_PERF_GLOBAL_CTRL, GLOBAL_ALL);
	MEASURE_MSR(IA32_PERFEVTSEL0, EV_INSNS | SEL_OS | SEL_EN, ".rept 100; nop; .endr");
	is_u64(GP(0), 100 + MEASURE_OVERHEAD, "enabled and disabled by PERFEVTSEL");
	MEASURE_MSR(IA32_FIXED_CTR_CTRL, FIXED_CTRL(0, FIXED_OS), ".rept 100; nop; .endr");
	is_u64(FIXED(0), 100 + MEASURE_OVERHEAD, "enabled and disabled by FIXED_CTR_CTRL");

	pmu_reset();
	setup_gp(0, 0x0001 | SEL_OS);
	setup_gp(1, 0x00ff | SEL_OS);
	setup_gp(2, 0x01c0 | SEL_OS);
	MEASURE(GLOBAL_ALL, ".rept 100; nop; .endr");
	is_u64(GP(0) | GP(1) | GP(2), 0, "events that do not exist do not happen");
}

static void check_running(void)
{
	u64 *seen = (u64 *)scratch;

	setup_exact(ALL_MODES);
	MEASURE(COUNT_MASK,
		"xor %%ecx, %%ecx; nop; rdpmc; mov %%eax, (%%rbx); rdpmc; mov %%eax, 8(%%rbx)");
	is_u64((u32)seen[0], 2, "RDPMC reads what retired before it");
	is_u64((u32)seen[1], 4, "RDPMC retires");
	setup_exact(ALL_MODES);
	MEASURE(COUNT_MASK, "nop; mov $" STR(IA32_PMC0) ", %%ecx; rdmsr; mov %%eax, (%%rbx)");
	is_u64((u32)seen[0], 2, "RDMSR reads what retired before it");
	setup_exact(ALL_MODES);
	MEASURE(COUNT_MASK,
		"mov $" STR(IA32_A_PMC0) ", %%ecx; mov $100, %%eax; xor %%edx, %%edx; wrmsr;"
		"xor %%ecx, %%ecx; rdpmc; mov %%eax, (%%rbx)");
	is_u64((u32)seen[0], 102, "a WRMSR to a running counter retires after it wrote");
}

static void check_cycles(void)
{
	setup_exact(ALL_MODES);
	setup_gp(2, EV_CYCLES | ALL_MODES);
	setup_gp(3, EV_REF | ALL_MODES);
	setup_gp(4, EV_SLOTS | ALL_MODES);
	MEASURE(GLOBAL_ALL,
		"mov $10000, %%ecx; 1: nop; nop; nop; loop 1b; mov $4000, %%ecx; rep stosb");
	ok(FIXED(1) >= FIXED(0), "there are at least as many cycles as instructions");
	is_u64(GP(2), FIXED(1), "core cycles: GP and fixed counter agree");
	is_u64(GP(3), FIXED(2), "reference cycles: GP and fixed counter agree");
	is_u64(GP(4), FIXED(3), "slots: GP and fixed counter agree");
	is_u64(FIXED(2), FIXED(1), "model: reference cycles are core cycles");
	is_u64(FIXED(3), 6 * FIXED(1), "model: 6 slots in a cycle");
}

static void check_model_events(void)
{
	pmu_reset();
	setup_gp(0, EV_LLC_REFS | ALL_MODES);
	setup_gp(1, EV_LLC_MISSES | ALL_MODES);
	setup_gp(2, EV_BR_MISSES | ALL_MODES);
	MEASURE(GLOBAL_ALL, ".rept 10; clflush (%%rbx); .endr");
	ok(GP(0) >= 10 && GP(0) <= 12, "LLC references: flushed lines (%lu)", GP(0));
	ok(GP(1) >= 10 && GP(1) <= GP(0), "LLC misses: flushed lines (%lu)", GP(1));

	pmu_reset();
	setup_gp(0, EV_LLC_REFS | ALL_MODES);
	setup_gp(1, EV_LLC_MISSES | ALL_MODES);
	setup_gp(2, EV_BR_MISSES | ALL_MODES);
	MEASURE(GLOBAL_ALL, "mov $100000, %%ecx; 1: nop; nop; dec %%ecx; jnz 1b");
	ok(GP(0) > 100 && GP(0) < 100000, "LLC references in a loop (%lu)", GP(0));
	ok(GP(1) > 10 && GP(1) < GP(0), "LLC misses in a loop (%lu)", GP(1));
	ok(GP(2) >= 1 && GP(2) < 100, "mispredicted branches: a loop is learnt (%lu)", GP(2));

	pmu_reset();
	setup_gp(2, EV_BR_MISSES | ALL_MODES);
	MEASURE(GLOBAL_ALL,
		"mov $1000, %%ecx; mov $12345, %%eax; 1: imul $1103515245, %%eax, %%eax; add $12345, %%eax;"
		"test $0x10000, %%eax; jz 2f; nop; 2: dec %%ecx; jnz 1b");
	ok(GP(2) > 200 && GP(2) < 1000, "mispredicted branches: random ones are not (%lu)", GP(2));
}

/* MEM_INST_RETIRED, the one event that is not architectural */
static void check_memory(void)
{
	pmu_reset();
	setup_gp(0, EV_LOADS | SEL_OS);
	setup_gp(1, EV_STORES | SEL_OS);
	setup_gp(2, EV_MEM_ANY | SEL_OS);
	MEASURE(GLOBAL_ALL, ".rept 10; mov (%%rbx), %%eax; .endr; .rept 5; mov %%eax, (%%rbx); .endr;"
		".rept 3; incl (%%rbx); .endr; nop; nop");
	is_u64(GP(0), 13, "loads");
	is_u64(GP(1), 8, "stores");
	is_u64(GP(2), 18, "loads and stores");
	pmu_reset();
	setup_gp(0, EV_LOADS | SEL_OS);
	setup_gp(1, EV_STORES | SEL_OS);
	MEASURE(GLOBAL_ALL, "push %%rax; push %%rax; pop %%rax; call 1f; jmp 2f; 1: ret; 2: pop %%rax");
	is_u64(GP(0), 3, "loads of POP and RET");
	is_u64(GP(1), 3, "stores of PUSH and CALL");
}

static void check_qualifiers(void)
{
	pmu_reset();
	setup_gp(0, EV_INSNS | SEL_OS | SEL_CMASK(1));
	setup_gp(1, EV_INSNS | SEL_OS | SEL_CMASK(2));
	setup_gp(2, EV_INSNS | SEL_OS | SEL_INV | SEL_CMASK(1));
	setup_gp(3, EV_INSNS | SEL_OS | SEL_INV | SEL_CMASK(16));
	setup_gp(4, EV_CYCLES | SEL_OS | SEL_EDGE);
	setup_gp(5, EV_BRANCHES | SEL_OS | SEL_EDGE);
	setup_gp(6, EV_SLOTS | SEL_OS | SEL_CMASK(6));
	setup_gp(7, EV_SLOTS | SEL_OS | SEL_CMASK(7));
	MEASURE(GLOBAL_ALL, ".rept 50; nop; .endr; mov $10, %%ecx; 1: loop 1b");
	is_u64(GP(0), 61 + MEASURE_OVERHEAD, "CMASK 1: cycles with an instruction");
	is_u64(GP(1), 0, "CMASK 2: cycles with two instructions");
	is_u64(GP(2), 0, "CMASK 1, INV: cycles without an instruction");
	is_u64(GP(3), 61 + MEASURE_OVERHEAD, "CMASK 16, INV: every cycle");
	is_u64(GP(4), 1, "EDGE: cycles begin once");
	is_u64(GP(5), 1, "EDGE: successive branches are one");
	is_u64(GP(6), 61 + MEASURE_OVERHEAD, "CMASK 6: cycles with six slots");
	is_u64(GP(7), 0, "CMASK 7: cycles with seven slots");

	pmu_reset();
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INV);
	setup_gp(1, EV_BRANCHES | SEL_OS | SEL_EDGE);
	setup_gp(2, EV_BRANCHES | SEL_OS | SEL_EDGE | SEL_CMASK(1));
	setup_gp(3, EV_BRANCHES | SEL_OS | SEL_INV | SEL_CMASK(1));
	setup_gp(4, EV_BRANCHES | SEL_OS | SEL_INV | SEL_CMASK(1) | SEL_EDGE);
	MEASURE(GLOBAL_ALL, "mov $10, %%ecx; 1: nop; loop 1b");
	is_u64(GP(0), 21 + MEASURE_OVERHEAD, "INV is ignored if CMASK is 0");
	is_u64(GP(1), 10, "EDGE: branches with something between");
	is_u64(GP(2), 10, "EDGE, CMASK 1: the same");
	is_u64(GP(3), 11 + MEASURE_OVERHEAD, "CMASK 1, INV: cycles without a branch");
	is_u64(GP(4), 11, "CMASK 1, INV, EDGE: how often it stops branching");

	pmu_reset();
	setup_gp(0, EV_INSNS | SEL_OS | SEL_INV | SEL_CMASK(1));
	setup_gp(1, EV_INSNS | SEL_OS | SEL_EDGE);
	setup_gp(2, EV_INSNS | SEL_OS);
	set_gate(VEC_UD, quick_skip2);
	MEASURE(GLOBAL_ALL, "mov $10, %%ecx; 1: ud2; loop 1b");
	set_gate(VEC_UD, NULL);
	is_u64(GP(0), 10, "CMASK 1, INV: a fault takes a cycle without an instruction");
	is_u64(GP(1), 11, "EDGE: and interrupts the flow of instructions");
	is_u64(GP(2), 31 + MEASURE_OVERHEAD, "a plain counter beside them");
}

void test_counting(void)
{
	check_straight();
	check_near_branches();
	check_far_branches();
	check_faults();
	check_rep();
	check_interrupts();
	check_modes();
	check_switches();
	check_running();
	check_cycles();
	check_model_events();
	check_memory();
	check_qualifiers();
}
