/* SPDX-License-Identifier: GPL-2.0 */
/* Intel's architectural performance monitoring, by the names in the SDM. */
#ifndef INTEL_H
#define INTEL_H

#include "conf.h"

#define IA32_FEATURE_CONTROL		0x3a
#define IA32_PMC0			0xc1
#define IA32_PERFEVTSEL0		0x186
#define IA32_MISC_ENABLE		0x1a0
#define IA32_DEBUGCTL			0x1d9
#define IA32_PERF_METRICS		0x329
#define IA32_PERF_CAPABILITIES		0x345
#define IA32_PERF_GLOBAL_STATUS		0x38e
#define IA32_PERF_GLOBAL_CTRL		0x38f
#define IA32_PERF_GLOBAL_STATUS_RESET	0x390
#define IA32_PERF_GLOBAL_STATUS_SET	0x391
#define IA32_PERF_GLOBAL_INUSE		0x392
#define IA32_A_PMC0			0x4c1

#define NR_GP		(pmu->nr_counters)
#define GLOBAL_GP	(BIT(NR_GP) - 1)
#define GLOBAL_FIXED	((u64)pmu->fixed_counters << 32)
#define GLOBAL_ALL	(GLOBAL_GP | GLOBAL_FIXED)
#define PERF_CAP_FW_WRITES	BIT(13)
#define PERF_CAP_METRICS	BIT(15)
#define GLOBAL_METRICS	BIT(48)
#define STATUS_TOPA_PMI	BIT(55)
#define STATUS_LBR_FRZ	BIT(58)
#define STATUS_CTR_FRZ	BIT(59)
#define STATUS_BITS	(GLOBAL_ALL | (has_metrics ? GLOBAL_METRICS : 0) | STATUS_TOPA_PMI | \
			 STATUS_LBR_FRZ | STATUS_CTR_FRZ | BIT(61) | BIT(62))
#define STATUS_ALL	(STATUS_BITS | BIT(63))

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

#define DEBUGCTL_FREEZE_PERFMON_ON_PMI	BIT(12)

/* PERF_METRICS is there. */
extern bool has_metrics;

void check_intel_cpuid(unsigned int cpu);

void test_intel_registers(void);
void test_processor(void);
void test_intel_counting(void);
void test_intel_overflow(void);
void test_vmx(void);
void test_metrics(void);
void test_cost(void);
void test_mwait(void);
void test_intel_late_guests(void);
void test_intel_raise_guests(void);

#endif
