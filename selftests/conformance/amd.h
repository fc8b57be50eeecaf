/* SPDX-License-Identifier: GPL-2.0 */
/* AMD's core performance counters with PerfMonV2, by the names in the APM. */
#ifndef AMD_H
#define AMD_H

#include "conf.h"

#define IA32_SYSENTER_ESP	0x175
#define PERF_GLOBAL_STATUS	0xc0000300
#define PERF_GLOBAL_CTL		0xc0000301
#define PERF_GLOBAL_STATUS_CLR	0xc0000302
#define PERF_GLOBAL_STATUS_SET	0xc0000303
#define LEGACY_PERF_CTL0	0xc0010000
#define LEGACY_PERF_CTR0	0xc0010004
#define PERF_CTL(n)		(0xc0010200 + 2 * (n))
#define PERF_CTR(n)		(0xc0010201 + 2 * (n))
#define L3_CTL(n)		(0xc0010230 + 2 * (n))	/* ChL3_PERF_CTLn */
#define L3_CTR(n)		(0xc0010231 + 2 * (n))
#define DF_CTL(n)		(0xc0010240 + 2 * (n))	/* DF_PERF_CTLn */
#define DF_CTR(n)		(0xc0010241 + 2 * (n))
#define VM_HSAVE_PA		0xc0010117

#define NR_CORE		6
#define NR_LEGACY	4
#define NR_DF		16
#define NR_L3		6
#define CORE_ALL	(BIT(NR_CORE) - 1)
#define RDPMC_DF(n)	((n) < 4 ? 6 + (n) : 12 + (n))
#define RDPMC_L3(n)	(10 + (n))
#define PERF_CTL_VALID	0x30fffd7ffffull

#define GUEST_ONLY	BIT(40)
#define HOST_ONLY	BIT(41)

#define AMD_LS_DISPATCH	0x029
#define AMD_CYCLES	0x076
#define AMD_INSNS	0x0c0
#define AMD_BRANCHES	0x0c2	/* with interrupts and exceptions */
#define AMD_BR_MISSES	0x0c3
#define AMD_TAKEN	0x0c4	/* branches that are taken, and interrupts and exceptions */
#define AMD_FAR		0x0c6	/* far control transfers, and interrupts and exceptions */
#define AMD_NEAR_RETURNS	0x0c8
#define AMD_INDIRECT	0x0cc	/* near ones, returns not included */
#define AMD_CONDITIONAL	0x0d1
#define AMD_REF_CYCLES	(0x20 | 0x01 << 8 | BIT(32))
#define AMD_L2_REFS	0xff60
#define AMD_L2_MISSES	0x0964

/* Those of the L3 cache and the data fabric, with the fields that say whose */
#define L3_LOOKUPS	0xff04
#define L3_HITS		0xfe04
#define L3_MISSES	0x0104
#define L3_CORE(n)	((u64)(n) << 42)
#define L3_ALL_SLICES	BIT(46)
#define L3_ALL_CORES	BIT(47)
#define L3_SLICE(n)	((u64)(n) << 48)
#define L3_THREAD(n)	BIT(56 + (n))
#define L3_ALL		(L3_ALL_SLICES | L3_ALL_CORES | L3_THREAD(0) | L3_THREAD(1))
#define L3_CTL_VALID	0x307dc000040ffffull
#define DF_LOCAL_READS	0x700fe1f		/* event 01FH, unit mask 7FEH */
#define DF_CTL_VALID	0x3f0f40ffffull

#define VEC_DB		1

/* Assembly, an interrupt that comes at the next NOP with IF 1. Leaves APIC_BASE in R15 for quick_eoi. */
#define SEND_SELF_IPI	"mov $0xfee00000, %%r15d;"				\
			"movl $0x40000 | " STR(VEC_IPI) ", " STR(APIC_ICR_LO) "(%%r15)"

#define EFER_SVME	BIT(12)

/* There are counters of the data fabric, and of the L3 cache. */
extern bool has_df, has_l3;
void find_uncore(void);
/* How many of the data fabric CPUID knows of */
unsigned int nr_df(void);

/* Write each bit alone: those that exist stick, none faults. */
void check_bits(u32 msr, u64 valid, const char *name);
void check_amd_cpuid(unsigned int cpu);

void test_amd_registers(void);
void test_amd_counting(void);
void test_amd_overflow(void);
void test_amd_uncore(void);
void test_amd_shared(void);
void test_amd_late_guests(void);
void test_amd_raise_guests(void);
void test_svm(void);

#endif
