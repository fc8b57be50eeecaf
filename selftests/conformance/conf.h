/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of the emulated PMU share. */
#ifndef CONF_H
#define CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "bare.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define BIT(n)		(1ull << (n))
#define STR_(x)		#x
#define STR(x)		STR_(x)

/* MSRs, by their names in the SDM */
#define IA32_MPERF			0x0e7
#define IA32_APERF			0x0e8
#define IA32_FIXED_CTR0			0x309
#define IA32_FIXED_CTR_CTRL		0x38d
#define IA32_STAR			0xc0000081
#define IA32_LSTAR			0xc0000082
#define IA32_FMASK			0xc0000084
#define IA32_EFER			0xc0000080

#define WIDTH_MASK	(BIT(48) - 1)
#define CR4_PCE		BIT(8)

/* Selectors: IA32_PERFEVTSELx, PERF_CTLx */
#define SEL_USR		BIT(16)
#define SEL_OS		BIT(17)
#define ALL_MODES	(SEL_USR | SEL_OS)
#define SEL_EDGE	BIT(18)
#define SEL_INT		BIT(20)
#define SEL_EN		BIT(22)
#define SEL_INV		BIT(23)
#define SEL_CMASK(n)	((u64)(n) << 24)

/* Intel's fixed counters, where there are any: IA32_FIXED_CTR_CTRL */
#define MAX_FIXED	7
#define FIXED_OS	1ull
#define FIXED_USR	2ull
#define FIXED_PMI	8ull
#define FIXED_CTRL(n, bits)	((u64)(bits) << ((n) * 4))
#define RDPMC_FIXED	BIT(30)

/* The local APIC */
#define APIC_BASE	0xfee00000ul
#define APIC_ID		0x20
#define APIC_EOI	0xb0
#define APIC_SVR	0xf0
#define APIC_ICR_LO	0x300
#define APIC_LVTT	0x320
#define APIC_LVTPC	0x340
#define APIC_TMICT	0x380
#define APIC_TDCR	0x3e0
#define LVT_MASKED	BIT(16)
#define LVT_NMI		(4u << 8)

#define VEC_UD		6
#define VEC_GP		13
#define VEC_PF		14
#define VEC_NMI		2
#define VEC_PMI		0x40
#define VEC_IPI		0x41
#define VEC_TIMER	0x42
#define VEC_INT		0x80
#define VEC_LEAVE_USER	0x81

/* What trap_common pushes. */
struct regs {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	u64 vector, error;
	u64 rip, cs, rflags, rsp, ss;
};

/* TAP */
bool ok(bool passed, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool is_u64(u64 got, u64 expected, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Traps */
typedef void (*trap_handler_t)(struct regs *regs);
void set_trap_handler(unsigned int vector, trap_handler_t handler);
extern volatile u64 last_fault_vector, last_fault_error;
extern volatile u64 pmi_count, pmi_rip[64];

extern char quick_iret[], quick_skip2[], quick_skip3_err[], quick_eoi[];
extern char quick_skip2_err[], quick_rearm[], quick_syscall[], leave_user[];
void enter_user(void *rip, void *rsp);
extern u64 user_rflags;
extern u8 user_stack[16384];

static inline u32 apic_read(u32 reg)
{
	return *(volatile u32 *)(APIC_BASE + reg);
}

static inline void apic_write(u32 reg, u32 value)
{
	*(volatile u32 *)(APIC_BASE + reg) = value;
}

/* A faulting instruction between 1: and 2: leaves its vector in %0. */
#define EX_TABLE							\
	"\n\t.pushsection .ex_table, \"a\"\n\t"				\
	".quad 1b, 2b\n\t.popsection\n\t"

static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
	return lo | (u64)hi << 32;
}

static inline void wrmsr(u32 msr, u64 value)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* These return the vector of the fault, or 0. */
static inline u64 rdmsr_safe(u32 msr, u64 *value)
{
	u32 lo, hi;

	last_fault_vector = 0;
	asm volatile("1: rdmsr\n2:" EX_TABLE
		     : "=a"(lo), "=d"(hi) : "c"(msr), "a"(0), "d"(0) : "memory");
	*value = lo | (u64)hi << 32;
	return last_fault_vector;
}

static inline u64 wrmsr_safe(u32 msr, u64 value)
{
	last_fault_vector = 0;
	asm volatile("1: wrmsr\n2:" EX_TABLE
		     : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
	return last_fault_vector;
}

static inline u64 rdpmc_safe(u32 index, u64 *value)
{
	u32 lo, hi;

	last_fault_vector = 0;
	asm volatile("1: rdpmc\n2:" EX_TABLE
		     : "=a"(lo), "=d"(hi) : "c"(index), "a"(0), "d"(0) : "memory");
	*value = lo | (u64)hi << 32;
	return last_fault_vector;
}

static inline u64 rdpmc(u32 index)
{
	u32 lo, hi;

	asm volatile("rdpmc" : "=a"(lo), "=d"(hi) : "c"(index) : "memory");
	return lo | (u64)hi << 32;
}

static inline void cpuid(u32 leaf, u32 subleaf, u32 *a, u32 *b, u32 *c, u32 *d)
{
	asm volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(subleaf));
}

#define read_cr(n)							\
({									\
	u64 value_;							\
									\
	asm volatile("mov %%cr" #n ", %0" : "=r"(value_) : : "memory");	\
	value_;								\
})
#define write_cr(n, value)	asm volatile("mov %0, %%cr" #n : : "r"((u64)(value)) : "memory")

/* Kinds of branches: conditional ones, near ones that are not, far ones; and interrupts and exceptions */
#define COND_TAKEN	BIT(0)
#define COND_NOT_TAKEN	BIT(1)
#define JUMPS		BIT(2)
#define INDIRECT_JUMPS	BIT(3)
#define CALLS		BIT(4)
#define INDIRECT_CALLS	BIT(5)
#define RETURNS		BIT(6)
#define FAR		BIT(7)
#define EVENTS		BIT(8)
#define NEAR_TAKEN	(COND_TAKEN | JUMPS | INDIRECT_JUMPS | CALLS | INDIRECT_CALLS | RETURNS)

/* An event, and the branches that it counts */
struct branch_event {
	const char *name;
	u64 event;
	u32 kinds;
};

/* What the tests that both vendors share need to know of a PMU. */
struct pmu {
	/* MSRs; the selector and the counter are the first of nr_counters, msr_step apart. */
	u32 global_ctrl, global_status, global_status_set, global_status_clear;
	u32 selector, counter, msr_step;
	const char *global_ctrl_name, *global_status_name, *selector_name;
	unsigned int nr_counters;
	u64 all_counters;		/* in GLOBAL_CTRL */
	u64 status_bits;		/* those of the status that can be set */
	u32 fixed_counters;		/* a bit for each */

	u64 insns, branches, cycles;	/* events */
	const struct branch_event *branch_events;	/* as many as counters at most; no name ends them */
	bool events_are_branches;	/* interrupts and exceptions count as branches */
	bool counts_where_it_goes;	/* what changes the privilege level: at the new one */
	bool pmi_masks_lvtpc;
	const u32 *invalid_rdpmc;	/* 0 ends these indices */

	void (*reset)(void);		/* what there is besides selectors and counters */
	void (*check_cpuid)(unsigned int cpu);	/* of another CPU than the first */
	void (*find)(void);		/* what there is, and say it */
	void (*test)(void);
	void (*test_late_guests)(void);	/* where interrupts come late */
	void (*test_raise_guests)(void);
};
extern const struct pmu *pmu;
extern struct pmu intel_pmu;
extern const struct pmu amd_pmu;

#define for_each_fixed(n)	\
	for ((n) = 0; (n) < MAX_FIXED; (n)++) if (pmu->fixed_counters & BIT(n))

static inline u32 selector_msr(unsigned int n)
{
	return pmu->selector + n * pmu->msr_step;
}

/* Stop all counters, clear everything. */
void pmu_reset(void);
/* Counter n counts what selector says. */
void setup_pmc(unsigned int n, u64 selector);
void write_pmc(unsigned int n, u64 value);
/* Let counter n overflow after count events. */
void preset_pmc(unsigned int n, u64 count);
u64 read_pmc(unsigned int n);
#define PMC(n)		read_pmc(n)
#define FIXED(n)	rdmsr(IA32_FIXED_CTR0 + (n))
/* IA32_FIXED_CTR_CTRL with these bits for all of them */
u64 fixed_all(u64 bits);

/*
 * Execute a piece of assembly between a write of value to an MSR, which enables
 * counting, and a write of 0, which disables it. Of the frame around the body
 * MEASURE_OVERHEAD instructions count: those that set up the second WRMSR, and
 * that WRMSR itself. The first does not, it takes effect when it retired.
 *
 * The body finds scratch in RBX and RSI, scratch + 4096 in RDI; it must leave
 * R12 alone, which holds the MSR's number.
 */
#define MEASURE_OVERHEAD	4
#define MEASURE_MSR(msr, value, body)					\
do {									\
	u64 value_ = (value), a_ = (u32)value_, d_ = value_ >> 32, c_ = (msr); \
	u64 b_ = (u64)scratch, si_ = (u64)scratch, di_ = (u64)scratch + 4096; \
	register u64 msr_ asm("r12") = c_;				\
									\
	asm volatile("wrmsr\n\t"					\
		     body "\n\t"					\
		     "mov %%r12d, %%ecx\n\t"				\
		     "xor %%eax, %%eax\n\t"				\
		     "xor %%edx, %%edx\n\t"				\
		     "wrmsr\n\t"					\
		     : "+a"(a_), "+d"(d_), "+c"(c_), "+b"(b_), "+S"(si_), "+D"(di_) \
		     : "r"(msr_)						\
		     : "r8", "r9", "r10", "r11", "r13", "r14", "r15", "cc", "memory"); \
} while (0)
#define MEASURE(mask, body)	MEASURE_MSR(pmu->global_ctrl, mask, body)
extern u8 scratch[16384];

/* Run fn on another CPU and wait for it, or do these one by one. */
extern volatile u32 nr_cpus;
void run_on(unsigned int cpu, void (*fn)(void));
void start_on(unsigned int cpu, void (*fn)(void));
void wait_for(unsigned int cpu);
void delay(u64 ticks);
void start_cpus(void);

/* Instructions, branches and cycles in counters 0 to 2, and all that is fixed. */
void setup_exact(u64 modes);
void check_exact(u64 insns, u64 branches, const char *what);

/* Stop the timer and take what it may have left pending. */
void stop_timer(void);

/* What the handlers of PMIs saw. */
struct seen {
	u64 counter, status;
	u32 lvtpc;
};
extern volatile struct seen seen_in_pmi;
void note_pmi(struct regs *regs);
/* Forget the PMIs that there were, start with all counters clear. */
void prepare_pmi(u32 lvtpc);
/* Let counter 0 cause a PMI after count events of the kernel's. */
void prepare_overflow(u32 lvtpc, u64 event, u64 count);

/* How many instructions PMIs are late at most, and by which random numbers, if any */
extern u64 pmi_delay, pmi_seed;
void find_pmi_delay(void);

/* SYSCALL and INT 81H work. */
void set_up_user_mode(void);

/* Those of both vendors */
void test_counting(void);
void test_branches(void);
void test_overflow(void);
void test_rdpmc(void);
void test_smp(void);
void test_raise(void);
/* When the other CPUs are there */
void test_raise_others(void);
/* Where interrupts come late, instead of all others */
void test_late(void);

#endif
