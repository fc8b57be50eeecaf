// SPDX-License-Identifier: GPL-2.0
/* Branches by their kind: what each event counts of each instruction. */
#include "conf.h"

/* How many there are of each kind */
struct branches {
	u8 taken, not_taken;		/* conditional ones: Jcc, JRCXZ and LOOP */
	u8 jumps, indirect_jumps;
	u8 calls, indirect_calls;
	u8 returns, far;
	u8 events;			/* interrupts and exceptions */
};

static u64 expected(u32 kinds, const struct branches *n)
{
	return (kinds & COND_TAKEN ? n->taken : 0) + (kinds & COND_NOT_TAKEN ? n->not_taken : 0) +
	       (kinds & JUMPS ? n->jumps : 0) + (kinds & INDIRECT_JUMPS ? n->indirect_jumps : 0) +
	       (kinds & CALLS ? n->calls : 0) + (kinds & INDIRECT_CALLS ? n->indirect_calls : 0) +
	       (kinds & RETURNS ? n->returns : 0) + (kinds & FAR ? n->far : 0) +
	       (kinds & EVENTS ? n->events : 0);
}

static void start(void)
{
	unsigned int n;

	pmu_reset();
	for (n = 0; pmu->branch_events[n].name; n++)
		setup_pmc(n, pmu->branch_events[n].event | ALL_MODES);
}

static void check(const struct branches *branches, const char *what)
{
	const struct branch_event *event;
	unsigned int n;

	for (n = 0; pmu->branch_events[n].name; n++) {
		event = &pmu->branch_events[n];
		is_u64(PMC(n), expected(event->kinds, branches), "%s: %s", what, event->name);
	}
}

/* The rest says how many branches of which kind the body has. */
#define BRANCHES(what, body, ...)					\
do {									\
	start();							\
	MEASURE(pmu->all_counters, body);				\
	check(&(struct branches) { __VA_ARGS__ }, what);		\
} while (0)

static void check_conditional(void)
{
	BRANCHES("Jcc, taken", "xor %%eax, %%eax; jz 1f; nop; 1:", .taken = 1);
	BRANCHES("Jcc, not taken", "xor %%eax, %%eax; jnz 1f; nop; 1:", .not_taken = 1);
	BRANCHES("Jcc with 32 bits, taken", "xor %%eax, %%eax; .byte 0x0f, 0x84; .long 1; nop",
		 .taken = 1);
	BRANCHES("Jcc with 32 bits, not taken", "xor %%eax, %%eax; .byte 0x0f, 0x85; .long 1; nop",
		 .not_taken = 1);
	BRANCHES("Jcc of a loop", "mov $10, %%ecx; 1: dec %%ecx; jnz 1b", .taken = 9, .not_taken = 1);
	BRANCHES("LOOP", "mov $10, %%ecx; 1: loop 1b", .taken = 9, .not_taken = 1);
	BRANCHES("LOOPE that ends at once", "cmp %%rsp, %%rax; mov $10, %%ecx; 1: loope 1b",
		 .not_taken = 1);
	BRANCHES("LOOPNE", "cmp %%rsp, %%rax; mov $10, %%ecx; 1: loopne 1b",
		 .taken = 9, .not_taken = 1);
	BRANCHES("JRCXZ, taken", "xor %%ecx, %%ecx; jrcxz 1f; nop; 1:", .taken = 1);
	BRANCHES("JRCXZ, not taken", "mov $1, %%ecx; jrcxz 1f; nop; 1:", .not_taken = 1);
	BRANCHES("JECXZ, taken", "xor %%ecx, %%ecx; jecxz 1f; nop; 1:", .taken = 1);
	BRANCHES("CMOV and SETCC", "cmovz %%rax, %%rax; setz %%al");
}

static void check_near(void)
{
	BRANCHES("JMP", "jmp 1f; nop; 1:", .jumps = 1);
	BRANCHES("JMP with 32 bits", ".byte 0xe9; .long 1; nop", .jumps = 1);
	BRANCHES("JMP to what a register says", "lea 1f(%%rip), %%r8; jmp *%%r8; nop; 1:",
		 .indirect_jumps = 1);
	BRANCHES("JMP to what memory says",
		 "lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); jmp *(%%rbx); nop; 1:",
		 .indirect_jumps = 1);
	BRANCHES("CALL", "call 1f; 1: add $8, %%rsp", .calls = 1);
	BRANCHES("CALL of what a register says",
		 "lea 1f(%%rip), %%r8; call *%%r8; 1: add $8, %%rsp", .indirect_calls = 1);
	BRANCHES("CALL of what memory says",
		 "lea 1f(%%rip), %%r8; mov %%r8, (%%rbx); call *(%%rbx); 1: add $8, %%rsp",
		 .indirect_calls = 1);
	BRANCHES("RET", "lea 1f(%%rip), %%r8; push %%r8; ret; nop; 1:", .returns = 1);
	BRANCHES("RET that pops", "push %%rax; lea 1f(%%rip), %%r8; push %%r8; ret $8; nop; 1:",
		 .returns = 1);
}

#define PUSH_FAR_POINTER	"pushq $" STR(SEL_CODE64) "; lea 1f(%%rip), %%r8; push %%r8;"
#define STORE_FAR_POINTER	"lea 1f(%%rip), %%r8; mov %%r8d, (%%rbx);"		\
				"movw $" STR(SEL_CODE64) ", 4(%%rbx);"

static void check_far(void)
{
	BRANCHES("far RET", PUSH_FAR_POINTER "lretq; nop; 1:", .far = 1);
	BRANCHES("far RET that pops", "push %%rax;" PUSH_FAR_POINTER "lretq $8; nop; 1:", .far = 1);
	BRANCHES("far JMP", STORE_FAR_POINTER "ljmpl *(%%rbx); nop; 1:", .far = 1);
	BRANCHES("far CALL", STORE_FAR_POINTER "lcalll *(%%rbx); nop; 1: add $8, %%rsp", .far = 1);
	BRANCHES("IRET", "mov %%rsp, %%r8; pushq $0; push %%r8; pushq $2; pushq $" STR(SEL_CODE64)
		 "; lea 1f(%%rip), %%r9; push %%r9; iretq; nop; 1:", .far = 1);
	set_gate(VEC_INT, quick_iret);
	BRANCHES("INT n and IRET", "int $" STR(VEC_INT), .far = 2);
	set_gate(3, quick_iret);
	BRANCHES("INT3 and IRET", "int3", .far = 2);
	set_gate(3, NULL);
	set_gate(VEC_UD, quick_skip2);
	BRANCHES("an exception and IRET", "ud2", .far = 1, .events = 1);
	set_gate(VEC_UD, NULL);
	set_gate(VEC_IPI, quick_eoi);
	BRANCHES("an interrupt and IRET",
		 "mov $0xfee00000, %%r15d; sti; movl $0x40041, 0x300(%%r15); nop; nop; cli",
		 .far = 1, .events = 1);
	set_gate(VEC_IPI, NULL);
}

/* There are other instructions of the same name, with paths of their own in the emulator. */
#define IN_32_BITS(body)						\
	STORE_FAR_POINTER "movw $" STR(SEL_CODE32) ", 4(%%rbx);"	\
	"mov %%rsp, %%r9; mov %%ss, %%r10d; mov $" STR(SEL_DATA) ", %%eax;" \
	"mov %%eax, %%ss; ljmpl *(%%rbx); .code32; 1:" body		\
	"; ljmpl $" STR(SEL_CODE64) ", $9f; .code64; 9: mov %%r10d, %%ss; mov %%r9, %%rsp"

static void check_32_bits(void)
{
	BRANCHES("32-bit code: nothing", IN_32_BITS(""), .far = 2);
	BRANCHES("32-bit code: Jcc",
		 IN_32_BITS("xor %%eax, %%eax; jz 2f; 2: jnz 2f; 2:"),
		 .far = 2, .taken = 1, .not_taken = 1);
	BRANCHES("32-bit code: LOOP", IN_32_BITS("mov $10, %%ecx; 2: loop 2b"),
		 .far = 2, .taken = 9, .not_taken = 1);
	BRANCHES("32-bit code: JECXZ", IN_32_BITS("xor %%ecx, %%ecx; jecxz 2f; 2:"),
		 .far = 2, .taken = 1);
	BRANCHES("32-bit code: JMP", IN_32_BITS("jmp 2f; 2:"), .far = 2, .jumps = 1);
	BRANCHES("32-bit code: indirect JMP", IN_32_BITS("mov $2f, %%eax; jmp *%%eax; 2:"),
		 .far = 2, .indirect_jumps = 1);
	BRANCHES("32-bit code: CALL and RET", IN_32_BITS("call 2f; jmp 3f; 2: ret; 3:"),
		 .far = 2, .calls = 1, .jumps = 1, .returns = 1);
	BRANCHES("32-bit code: indirect CALL and RET",
		 IN_32_BITS("mov $2f, %%eax; call *%%eax; jmp 3f; 2: ret; 3:"),
		 .far = 2, .indirect_calls = 1, .jumps = 1, .returns = 1);
	BRANCHES("32-bit code: far CALL and RET",
		 IN_32_BITS("lcall $" STR(SEL_CODE32) ", $2f; jmp 3f; 2: lretl; 3:"),
		 .far = 4, .jumps = 1);
}

/* So many SYSCALLs with their SYSRETs, and what enters user mode and leaves it */
#define USER_CODE(name, nr_syscalls)					\
	static void __attribute__((naked)) name(void)			\
	{								\
		asm(".rept " #nr_syscalls "; syscall; .endr; int $" STR(VEC_LEAVE_USER)); \
	}
USER_CODE(user_5_syscalls, 5)
USER_CODE(user_15_syscalls, 15)

static void run_user(void *entry)
{
	start();
	wrmsr(pmu->global_ctrl, pmu->all_counters);
	enter_user(entry, user_stack + sizeof(user_stack));
	wrmsr(pmu->global_ctrl, 0);
}

static void check_syscall(void)
{
	const struct branches branches = { .far = 20 };
	const struct branch_event *event;
	unsigned int n;
	u64 fewer[8];

	set_up_user_mode();
	run_user(user_5_syscalls);
	for (n = 0; pmu->branch_events[n].name; n++)
		fewer[n] = PMC(n);
	run_user(user_15_syscalls);
	for (n = 0; pmu->branch_events[n].name; n++) {
		event = &pmu->branch_events[n];
		is_u64(PMC(n) - fewer[n], expected(event->kinds, &branches),
		       "10 times SYSCALL and SYSRET: %s", event->name);
	}
}

void test_branches(void)
{
	check_conditional();
	check_near();
	check_far();
	check_32_bits();
	check_syscall();
	pmu_reset();
}
