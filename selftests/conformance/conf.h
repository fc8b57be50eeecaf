/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of the emulated PMU share. */
#ifndef CONF_H
#define CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "layout.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define BIT(n)		(1ull << (n))
#define STR_(x)		#x
#define STR(x)		STR_(x)

/* MSRs, by their names in the SDM */
#define IA32_APIC_BASE			0x1b
#define IA32_FEATURE_CONTROL		0x3a
#define IA32_PMC0			0xc1
#define IA32_PERFEVTSEL0		0x186
#define IA32_MISC_ENABLE		0x1a0
#define IA32_DEBUGCTL			0x1d9
#define IA32_FIXED_CTR0			0x309
#define IA32_PERF_METRICS		0x329
#define IA32_PERF_CAPABILITIES		0x345
#define IA32_FIXED_CTR_CTRL		0x38d
#define IA32_PERF_GLOBAL_STATUS		0x38e
#define IA32_PERF_GLOBAL_CTRL		0x38f
#define IA32_PERF_GLOBAL_STATUS_RESET	0x390
#define IA32_PERF_GLOBAL_STATUS_SET	0x391
#define IA32_PERF_GLOBAL_INUSE		0x392
#define IA32_A_PMC0			0x4c1
#define IA32_STAR			0xc0000081
#define IA32_LSTAR			0xc0000082
#define IA32_FMASK			0xc0000084
#define IA32_EFER			0xc0000080

#define NR_GP		8
#define NR_FIXED	4
#define WIDTH_MASK	(BIT(48) - 1)
#define GLOBAL_GP	(BIT(NR_GP) - 1)
#define GLOBAL_FIXED	((BIT(NR_FIXED) - 1) << 32)
#define GLOBAL_ALL	(GLOBAL_GP | GLOBAL_FIXED)
#define PERF_CAP_FW_WRITES	BIT(13)
#define PERF_CAP_METRICS	BIT(15)
#define GLOBAL_METRICS	BIT(48)
#define STATUS_LBR_FRZ	BIT(58)
#define STATUS_CTR_FRZ	BIT(59)
#define STATUS_ALL	(GLOBAL_ALL | (has_metrics ? GLOBAL_METRICS : 0) | STATUS_LBR_FRZ | STATUS_CTR_FRZ | BIT(61) | BIT(62) | BIT(63))

/* IA32_PERFEVTSELx */
#define SEL_USR		BIT(16)
#define SEL_OS		BIT(17)
#define SEL_EDGE	BIT(18)
#define SEL_INT		BIT(20)
#define SEL_EN		BIT(22)
#define SEL_INV		BIT(23)
#define SEL_CMASK(n)	((u64)(n) << 24)

#define EV_CYCLES	0x003c
#define EV_INSNS	0x00c0
#define EV_REF		0x013c
#define EV_LLC_REFS	0x4f2e
#define EV_LLC_MISSES	0x412e
#define EV_BRANCHES	0x00c4
#define EV_BR_MISSES	0x00c5
#define EV_SLOTS	0x01a4
#define EV_LOADS	0x81d0
#define EV_STORES	0x82d0
#define EV_MEM_ANY	0x83d0

/* IA32_FIXED_CTR_CTRL */
#define FIXED_OS	1ull
#define FIXED_USR	2ull
#define FIXED_PMI	8ull
#define FIXED_CTRL(n, bits)	((u64)(bits) << ((n) * 4))

#define DEBUGCTL_FREEZE_PERFMON_ON_PMI	BIT(12)

/* The local APIC */
#define APIC_BASE	0xfee00000ul
#define APIC_ID		0x20
#define APIC_EOI	0xb0
#define APIC_SVR	0xf0
#define APIC_ICR_LO	0x300
#define APIC_ICR_HI	0x310
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
/* Let a vector enter code of a known length; NULL brings trap() back. */
void set_gate(unsigned int vector, void *entry);
extern volatile u64 last_fault_vector, last_fault_error;
extern volatile u64 pmi_count, pmi_rip[64], pmi_status;

extern char quick_iret[], quick_skip2[], quick_skip3_err[], quick_eoi[], quick_eoi_count[];
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

static inline void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 inb(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
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
	asm volatile("1: rdmsr\n2:" EX_TABLE : "=a"(lo), "=d"(hi) : "c"(msr), "a"(0), "d"(0) : "memory");
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
	asm volatile("1: rdpmc\n2:" EX_TABLE : "=a"(lo), "=d"(hi) : "c"(index), "a"(0), "d"(0) : "memory");
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

/* PERF_METRICS is there. */
extern bool has_metrics;

/* Stop all counters, clear everything. */
void pmu_reset(void);
/* GP counter n counts event with bits. */
void setup_gp(unsigned int n, u64 evtsel);

/*
 * Execute a piece of assembly between a write of value to an MSR, which enables
 * counting, and a write of 0, which disables it. Of the frame around the body
 * MEASURE_OVERHEAD instructions count: those that set up the second WRMSR, and
 * that WRMSR itself. The first does not, it takes effect when it retired.
 *
 * The body finds scratch in RBX and RSI, scratch + 4096 in RDI.
 */
#define MEASURE_OVERHEAD	4
#define MEASURE_MSR(msr, value, body)					\
do {									\
	u64 value_ = (value), a_ = (u32)value_, d_ = value_ >> 32, c_ = (msr); \
	u64 b_ = (u64)scratch, si_ = (u64)scratch, di_ = (u64)scratch + 4096; \
									\
	asm volatile("wrmsr\n\t"					\
		     body "\n\t"					\
		     "mov $" STR(msr) ", %%ecx\n\t"			\
		     "xor %%eax, %%eax\n\t"				\
		     "xor %%edx, %%edx\n\t"				\
		     "wrmsr\n\t"					\
		     : "+a"(a_), "+d"(d_), "+c"(c_), "+b"(b_), "+S"(si_), "+D"(di_) \
		     : : "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory"); \
} while (0)
#define MEASURE(mask, body)	MEASURE_MSR(IA32_PERF_GLOBAL_CTRL, mask, body)
extern u8 scratch[16384];

#define GP(n)		rdmsr(IA32_PMC0 + (n))
#define FIXED(n)	rdmsr(IA32_FIXED_CTR0 + (n))

/* Run fn on another CPU and wait for it, or do these one by one. */
extern volatile u32 nr_cpus;
void run_on(unsigned int cpu, void (*fn)(void));
void start_on(unsigned int cpu, void (*fn)(void));
void wait_for(unsigned int cpu);
void delay(u64 ticks);

void test_registers(void);
void test_processor(void);
void test_mwait(void);
void test_counting(void);
void test_overflow(void);
void test_rdpmc(void);
void test_vmx(void);
void test_metrics(void);
void test_cost(void);
void test_smp(void);

#endif
