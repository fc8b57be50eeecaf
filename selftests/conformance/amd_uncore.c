// SPDX-License-Identifier: GPL-2.0
/* AMD: the counters of the data fabric and of the L3 cache, which all processors share. */
#include "amd.h"

bool has_df, has_l3;

/* What the emulator's model makes of instructions; see patches/bochs-3.0/README.md. */
#define INSNS_PER_LOOKUP	1024
#define INSNS_PER_MISS		8192

void find_uncore(void)
{
	u32 a, b, c, d;

	cpuid(0x80000001, 0, &a, &b, &c, &d);
	has_df = c >> 24 & 1;
	has_l3 = c >> 28 & 1;
}

unsigned int nr_df(void)
{
	u32 a, b, c, d;

	cpuid(0x80000022, 0, &a, &b, &c, &d);
	return b >> 10 & 0x3f;
}

/* Registers that alternate, of n counters: none is another one, and all are 0 first. */
static void check_registers(u32 ctl, unsigned int n, const char *what)
{
	unsigned int i;
	u64 sum = 0, bad = 0;

	for (i = 0; i < 2 * n; i++)
		sum |= rdmsr(ctl + i);
	is_u64(sum, 0, "%s: all registers are 0 after reset", what);
	for (i = 0; i < n; i++) {
		wrmsr(ctl + 2 * i, 0x80 + i);
		wrmsr(ctl + 2 * i + 1, 0x123456789000 + i);
	}
	for (i = 0; i < n; i++) {
		if (rdmsr(ctl + 2 * i) != 0x80 + i || rdmsr(ctl + 2 * i + 1) != 0x123456789000 + i)
			bad |= BIT(i);
		wrmsr(ctl + 2 * i, 0);
	}
	is_u64(bad, 0, "%s: each counter has its own registers", what);
}

static void check_absent(u32 msr, const char *what)
{
	u64 value;

	ok(rdmsr_safe(msr, &value) == VEC_GP && wrmsr_safe(msr, 0) == VEC_GP, "%s: no MSR %x",
	   what, msr);
}

/* The counters hold what check_registers() left there. */
static void check_rdpmc(void)
{
	unsigned int n;
	u64 value, bad = 0;

	for (n = 0; has_df && n < NR_DF; n++)
		if (rdpmc_safe(RDPMC_DF(n), &value) || value != 0x123456789000 + n)
			bad |= BIT(n);
	for (n = 0; has_l3 && n < NR_L3; n++)
		if (rdpmc_safe(RDPMC_L3(n), &value) || value != 0x123456789000 + n)
			bad |= BIT(NR_DF + n);
	is_u64(bad, 0, "RDPMC reads the counters that are no core's");
	for (n = 0; n < NR_DF; n++)
		if (!has_df && rdpmc_safe(RDPMC_DF(n), &value) != VEC_GP)
			bad |= BIT(n);
	for (n = 0; n < NR_L3; n++)
		if (!has_l3 && rdpmc_safe(RDPMC_L3(n), &value) != VEC_GP)
			bad |= BIT(NR_DF + n);
	is_u64(bad, 0, "RDPMC: #GP for those of them that there are not");
}

static void start_l3(unsigned int n, u64 ctl)
{
	wrmsr(L3_CTL(n), 0);
	wrmsr(L3_CTR(n), 0);
	wrmsr(L3_CTL(n), ctl);
}

static void start_df(unsigned int n, u64 ctl)
{
	wrmsr(DF_CTL(n), 0);
	wrmsr(DF_CTR(n), 0);
	wrmsr(DF_CTL(n), ctl);
}

static void flush_100(void)
{
	asm volatile(".rept 100; clflush (%0); .endr" : : "r"(scratch) : "memory");
}

static void execute_a_million(void)
{
	asm volatile("mov $250000, %%ecx; 1: nop; nop; dec %%ecx; jnz 1b" : : : "ecx", "cc");
}

/* Printing would count, too. */
static void stop(u32 ctl, unsigned int n)
{
	while (n--)
		wrmsr(ctl + 2 * n, rdmsr(ctl + 2 * n) & ~SEL_EN);
}

static bool about(u64 got, u64 expected)
{
	return got >= expected && got <= expected + 3;
}

static void check_l3_events(void)
{
	start_l3(0, L3_LOOKUPS | L3_ALL | SEL_EN);
	start_l3(1, L3_HITS | L3_ALL | SEL_EN);
	start_l3(2, L3_MISSES | L3_ALL | SEL_EN);
	start_l3(3, 0xff05 | L3_ALL | SEL_EN);
	start_l3(4, L3_LOOKUPS | L3_ALL);
	start_l3(5, 0x0004 | L3_ALL | SEL_EN);
	flush_100();
	execute_a_million();
	stop(L3_CTL(0), NR_L3);
	ok(about(rdmsr(L3_CTR(0)), 100 + 1000000 / INSNS_PER_LOOKUP),
	   "L3: lookups of flushed lines and of a million instructions (%lu)", rdmsr(L3_CTR(0)));
	ok(about(rdmsr(L3_CTR(2)), 100 + 1000000 / INSNS_PER_MISS),
	   "L3: misses of flushed lines and of a million instructions (%lu)", rdmsr(L3_CTR(2)));
	/* They start and stop one after the other. */
	ok(about(rdmsr(L3_CTR(1)) + rdmsr(L3_CTR(2)) + 1, rdmsr(L3_CTR(0))),
	   "L3: the rest are hits (%lu)", rdmsr(L3_CTR(1)));
	is_u64(rdmsr(L3_CTR(3)), 0, "L3: other events don't happen");
	is_u64(rdmsr(L3_CTR(4)), 0, "L3: what is not enabled doesn't count");
	is_u64(rdmsr(L3_CTR(5)), 0, "L3: neither does what has no unit mask");
}

/* This is core 0, thread 0, and all lines are in slice 0. */
static void check_l3_filters(void)
{
	start_l3(0, L3_MISSES | L3_ALL_SLICES | L3_THREAD(0) | SEL_EN);
	start_l3(1, L3_MISSES | L3_ALL_SLICES | L3_THREAD(0) | L3_CORE(7) | SEL_EN);
	start_l3(2, L3_MISSES | L3_ALL_SLICES | L3_ALL_CORES | L3_THREAD(1) | SEL_EN);
	start_l3(3, L3_MISSES | L3_ALL_SLICES | L3_ALL_CORES | SEL_EN);
	start_l3(4, L3_MISSES | L3_ALL_CORES | L3_THREAD(0) | SEL_EN);
	start_l3(5, L3_MISSES | L3_ALL_CORES | L3_THREAD(0) | L3_SLICE(1) | SEL_EN);
	flush_100();
	stop(L3_CTL(0), NR_L3);
	ok(about(rdmsr(L3_CTR(0)), 100), "L3: of core 0 (%lu)", rdmsr(L3_CTR(0)));
	is_u64(rdmsr(L3_CTR(1)), 0, "L3: none of a core that there is not");
	is_u64(rdmsr(L3_CTR(2)), 0, "L3: none of the other threads");
	is_u64(rdmsr(L3_CTR(3)), 0, "L3: none of no thread");
	ok(about(rdmsr(L3_CTR(4)), 100), "L3: of slice 0 (%lu)", rdmsr(L3_CTR(4)));
	is_u64(rdmsr(L3_CTR(5)), 0, "L3: none of another slice");
}

static void check_df_events(void)
{
	start_df(0, DF_LOCAL_READS | SEL_EN);
	start_df(15, DF_LOCAL_READS | SEL_EN);
	start_df(1, DF_LOCAL_READS);
	start_df(2, 0x701fe5f | SEL_EN);	/* from another coherent station */
	start_df(3, 0x700ff1f | SEL_EN);	/* writes */
	start_df(4, 0x00fe1f | SEL_EN);
	flush_100();
	execute_a_million();
	stop(DF_CTL(0), NR_DF);
	ok(about(rdmsr(DF_CTR(0)), 100 + 1000000 / INSNS_PER_MISS),
	   "data fabric: reads from memory (%lu)", rdmsr(DF_CTR(0)));
	is_u64(rdmsr(DF_CTR(15)), rdmsr(DF_CTR(0)), "data fabric: the last counter counts, too");
	is_u64(rdmsr(DF_CTR(1)), 0, "data fabric: what is not enabled doesn't count");
	is_u64(rdmsr(DF_CTR(2)) | rdmsr(DF_CTR(3)) | rdmsr(DF_CTR(4)), 0,
	       "data fabric: other events don't happen");
	wrmsr(DF_CTR(0), 5);
	flush_100();
	is_u64(rdmsr(DF_CTR(0)), 5, "data fabric: a counter that is disabled stands still");
}

/* Of a counter that wraps around the core's global registers and LVTPC know nothing. */
static void check_overflow(u32 ctl, u64 event, const char *what)
{
	prepare_pmi(LVT_NMI);
	wrmsr(ctl + 1, -90ull & WIDTH_MASK);
	wrmsr(ctl, event | SEL_INT | SEL_EN);
	flush_100();
	wrmsr(ctl, 0);
	ok(about(rdmsr(ctl + 1), 10), "%s: counts with PerfCntrGlobalCtl 0, and goes on from 0", what);
	is_u64(rdmsr(PERF_GLOBAL_STATUS), 0, "%s: no status bit", what);
	is_u64(pmi_count, 0, "%s: no PMI", what);
	apic_write(APIC_LVTPC, LVT_MASKED);
}

static volatile u64 ap_values[2];

static void ap_write(void)
{
	ap_values[0] = has_df ? rdmsr(DF_CTR(7)) : 0x7777;
	ap_values[1] = has_l3 ? rdmsr(L3_CTR(3)) : 0x3333;
	if (has_df)
		wrmsr(DF_CTR(7), 0x8888);
	if (has_l3)
		wrmsr(L3_CTR(3), 0x4444);
}

static void check_shared(unsigned int cpu)
{
	wrmsr(L3_CTL(3), 0);
	wrmsr(DF_CTL(7), 0);
	wrmsr(DF_CTR(7), 0x7777);
	wrmsr(L3_CTR(3), 0x3333);
	run_on(cpu, ap_write);
	ok(ap_values[0] == 0x7777 && ap_values[1] == 0x3333, "CPU %u: reads what CPU 0 wrote", cpu);
	ok(rdmsr(DF_CTR(7)) == 0x8888 && rdmsr(L3_CTR(3)) == 0x4444,
	   "CPU %u: writes what CPU 0 reads", cpu);

	start_df(0, DF_LOCAL_READS | SEL_EN);
	start_l3(0, L3_MISSES | L3_ALL_SLICES | L3_THREAD(0) | L3_CORE(cpu) | SEL_EN);
	start_l3(1, L3_MISSES | L3_ALL_SLICES | L3_THREAD(0) | L3_CORE(0) | SEL_EN);
	run_on(cpu, flush_100);
	ok(rdmsr(DF_CTR(0)) >= 100, "CPU %u: its reads count", cpu);
	ok(rdmsr(L3_CTR(0)) >= 100, "CPU %u: its L3 misses count", cpu);
	ok(rdmsr(L3_CTR(1)) < 100, "CPU %u: they are not CPU 0's", cpu);
}

static void check_topology(void)
{
	u32 a, b, c, d;

	cpuid(0x8000001d, 3, &a, &b, &c, &d);
	is_u64(a >> 5 & 7, 3, "CPUID.8000_001DH: an L3 cache");
	ok((a >> 14 & 0xfff) + 1 >= nr_cpus, "CPUID.8000_001DH: all CPUs share it");
	cpuid(0x80000008, 0, &a, &b, &c, &d);
	is_u64((c & 0xff) + 1, nr_cpus, "CPUID.8000_0008H: all CPUs are in one socket");
}

/* When the other CPUs are there */
void test_amd_shared(void)
{
	unsigned int cpu;

	check_topology();
	for (cpu = 1; cpu < nr_cpus && has_df && has_l3; cpu++)
		check_shared(cpu);
}

static void test_df(void)
{
	check_registers(DF_CTL(0), NR_DF, "data fabric");
	check_bits(DF_CTL(1), DF_CTL_VALID, "DF_PERF_CTL1");
	check_bits(DF_CTR(1), WIDTH_MASK, "DF_PERF_CTR1");
	wrmsr(DF_CTR(1), 0x123456789001);
}

static void test_l3(void)
{
	check_registers(L3_CTL(0), NR_L3, "L3");
	check_bits(L3_CTL(1), L3_CTL_VALID, "ChL3_PERF_CTL1");
	check_bits(L3_CTR(1), WIDTH_MASK, "ChL3_PERF_CTR1");
	wrmsr(L3_CTR(1), 0x123456789001);
}

void test_amd_uncore(void)
{
	check_absent(DF_CTL(has_df ? NR_DF : 0), "data fabric");
	check_absent(DF_CTR(NR_DF - 1) + (has_df ? 2 : 0), "data fabric");
	check_absent(L3_CTL(has_l3 ? NR_L3 : 0), "L3");
	check_absent(L3_CTR(NR_L3 - 1) + (has_l3 ? 2 : 0), "L3");
	if (has_df)
		test_df();
	if (has_l3)
		test_l3();
	check_rdpmc();
	if (has_l3) {
		check_l3_events();
		check_l3_filters();
		check_overflow(L3_CTL(0), L3_MISSES | L3_ALL, "L3");
	}
	if (has_df) {
		check_df_events();
		check_overflow(DF_CTL(5), DF_LOCAL_READS, "data fabric");
	}
	pmu_reset();
}
