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
#define VM_HSAVE_PA		0xc0010117

#define NR_CORE		6
#define NR_LEGACY	4
#define CORE_ALL	(BIT(NR_CORE) - 1)
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
#define AMD_REF_CYCLES	(0x20 | 0x01 << 8 | BIT(32))
#define AMD_L2_REFS	0xff60
#define AMD_L2_MISSES	0x0964

#define VEC_DB		1

/* Assembly, an interrupt that comes at the next NOP with IF 1. Leaves APIC_BASE in R15 for quick_eoi. */
#define SEND_SELF_IPI	"mov $0xfee00000, %%r15d;"				\
			"movl $0x40000 | " STR(VEC_IPI) ", " STR(APIC_ICR_LO) "(%%r15)"

#define EFER_SVME	BIT(12)

void check_amd_cpuid(unsigned int cpu);

void test_amd_registers(void);
void test_amd_counting(void);
void test_amd_overflow(void);
void test_svm(void);

#endif
