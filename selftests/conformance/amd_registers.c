// SPDX-License-Identifier: GPL-2.0
/* AMD: which registers exist, and what they hold. */
#include "amd.h"
#include "intel.h"

static void check_reset_values(void)
{
	unsigned int n;
	u64 sum = 0;

	for (n = 0; n < NR_CORE; n++)
		sum |= rdmsr(PERF_CTL(n)) | rdmsr(PERF_CTR(n));
	is_u64(sum, 0, "reset: selectors and counters are 0");
	is_u64(rdmsr(PERF_GLOBAL_CTL), CORE_ALL, "reset: PerfCntrGlobalCtl enables all counters");
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0, "reset: PerfCntrGlobalStatus is 0");
}

static void check_cpuid(void)
{
	u32 a, b, c, d;

	cpuid(0x80000000, 0, &a, &b, &c, &d);
	ok(a >= 0x80000022, "CPUID: leaf 8000_0022H exists");
	cpuid(0x80000022, 0, &a, &b, &c, &d);
	is_u64(a, 1, "CPUID.8000_0022H: PerfMonV2, no LBR stack, no freezing");
	is_u64(b & 0xf, NR_CORE, "CPUID.8000_0022H: core counters");
	is_u64(b >> 4 & 0x3f, 0, "CPUID.8000_0022H: no LBRs");
	is_u64(nr_df(), has_df ? NR_DF : 0, "CPUID.8000_0022H: data fabric counters");
	is_u64(b >> 16, 0, "CPUID.8000_0022H: no memory controller counters");
	is_u64(c | d, 0, "CPUID.8000_0022H: none of them is active");
	cpuid(0x80000001, 0, &a, &b, &c, &d);
	is_u64(c >> 23 & 1, 1, "CPUID.8000_0001H: PerfCtrExtCore");
	cpuid(0xa, 0, &a, &b, &c, &d);
	is_u64(a | b | c | d, 0, "CPUID.0AH: nothing");
}

void check_bits(u32 msr, u64 valid, const char *name)
{
	unsigned int bit;
	u64 faults = 0, wrong = 0;

	for (bit = 0; bit < 64; bit++) {
		if (wrmsr_safe(msr, BIT(bit)))
			faults |= BIT(bit);
		if (rdmsr(msr) != (valid & BIT(bit)))
			wrong |= BIT(bit);
	}
	wrmsr(msr, 0);
	is_u64(faults, 0, "%s: no bit faults", name);
	is_u64(wrong, 0, "%s: bits that exist are stored, others are not", name);
}

static void check_status(void)
{
	u64 value;

	is_u64(wrmsr_safe(PERF_GLOBAL_STATUS, 0), VEC_GP, "PerfCntrGlobalStatus: read only");
	wrmsr(PERF_GLOBAL_STATUS_SET, 0x15);
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0x15, "PerfCntrGlobalStatusSet sets");
	wrmsr(PERF_GLOBAL_STATUS_SET, 0x2);
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0x17, "PerfCntrGlobalStatusSet clears nothing");
	wrmsr(PERF_GLOBAL_STATUS_CLR, 0x5);
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0x12, "PerfCntrGlobalStatusClr clears");
	is_u64(rdmsr(PERF_GLOBAL_STATUS_SET), 0, "PerfCntrGlobalStatusSet reads as 0");
	is_u64(rdmsr(PERF_GLOBAL_STATUS_CLR), 0, "PerfCntrGlobalStatusClr reads as 0");
	wrmsr(PERF_GLOBAL_STATUS_CLR, ~0ull);
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0, "PerfCntrGlobalStatusClr: bits that do not exist");
	wrmsr(PERF_GLOBAL_STATUS_SET, ~0ull);
	is_u64(rdmsr(PERF_GLOBAL_STATUS), CORE_ALL,
	       "PerfCntrGlobalStatusSet: bits that do not exist");
	wrmsr(PERF_GLOBAL_STATUS_CLR, CORE_ALL);
	is_u64(rdmsr_safe(PERF_GLOBAL_STATUS_SET + 1, &value), VEC_GP,
	       "nothing behind PerfCntrGlobalStatusSet");
}

static void check_legacy(void)
{
	unsigned int n;
	u64 bad = 0;

	for (n = 0; n < NR_LEGACY; n++) {
		wrmsr(LEGACY_PERF_CTL0 + n, 0x1000 + n);
		wrmsr(LEGACY_PERF_CTR0 + n, 0x123456789000 + n);
		if (rdmsr(PERF_CTL(n)) != 0x1000 + n || rdmsr(PERF_CTR(n)) != 0x123456789000 + n)
			bad |= BIT(n);
		wrmsr(PERF_CTL(n), 0x2000 + n);
		wrmsr(PERF_CTR(n), 0x987654321000 + n);
		if (rdmsr(LEGACY_PERF_CTL0 + n) != 0x2000 + n ||
		    rdmsr(LEGACY_PERF_CTR0 + n) != 0x987654321000 + n)
			bad |= BIT(n);
	}
	is_u64(bad, 0, "the legacy registers are the first four counters'");
	pmu_reset();
}

static void check_absent(void)
{
	static const u32 absent[] = {
		PERF_CTL(NR_CORE), PERF_CTR(NR_CORE), LEGACY_PERF_CTR0 + NR_LEGACY, IA32_PMC0,
		IA32_PERFEVTSEL0, IA32_PERF_GLOBAL_CTRL, IA32_PERF_CAPABILITIES,
		IA32_FIXED_CTR_CTRL,
	};
	unsigned int n;
	u64 value;

	for (n = 0; n < ARRAY_SIZE(absent); n++)
		ok(rdmsr_safe(absent[n], &value) == VEC_GP, "no MSR %x", absent[n]);
}

/* Not of the PMU, but what differs from Intel: the upper half is not written. */
static void check_sysenter(void)
{
	wrmsr(IA32_SYSENTER_ESP, 0x123456789000);
	is_u64(rdmsr(IA32_SYSENTER_ESP), 0x56789000, "SYSENTER_ESP has 32 bits");
	is_u64(wrmsr_safe(IA32_SYSENTER_ESP + 1, BIT(63) | 0x1234), 0,
	       "SYSENTER_EIP takes what is not canonical");
	is_u64(rdmsr(IA32_SYSENTER_ESP + 1), 0x1234, "SYSENTER_EIP has 32 bits");
	wrmsr(IA32_SYSENTER_ESP, 0);
	wrmsr(IA32_SYSENTER_ESP + 1, 0);
}

static volatile u32 ap_core;

static void ap_read_core(void)
{
	u32 b, c, d;

	cpuid(0x8000001e, 0, (u32 *)&ap_core, &b, &c, &d);
}

void check_amd_cpuid(unsigned int cpu)
{
	run_on(cpu, ap_read_core);
	is_u64(ap_core, cpu, "CPU %u: extended APIC ID", cpu);
}

void test_amd_registers(void)
{
	check_reset_values();
	check_cpuid();
	wrmsr(PERF_GLOBAL_CTL, 0);
	check_bits(PERF_CTL(0), PERF_CTL_VALID, "PERF_CTL0");
	check_bits(PERF_CTL(5), PERF_CTL_VALID, "PERF_CTL5");
	check_bits(LEGACY_PERF_CTL0 + 3, PERF_CTL_VALID, "PerfEvtSel3");
	check_bits(PERF_CTR(0), WIDTH_MASK, "PERF_CTR0");
	check_bits(PERF_CTR(5), WIDTH_MASK, "PERF_CTR5");
	check_bits(PERF_GLOBAL_CTL, CORE_ALL, "PerfCntrGlobalCtl");
	check_status();
	check_legacy();
	check_absent();
	check_sysenter();
}
