// SPDX-License-Identifier: GPL-2.0
/* Which registers exist, what they hold, which bits are reserved. */
#include "intel.h"

struct control {
	const char *name;
	u32 msr;
	u64 valid;	/* bits that may be written */
	bool reads_back;
};

static void check_reset_values(void)
{
	unsigned int n;
	u64 gp = 0, fixed = 0;

	is_u64(rdmsr(IA32_PERF_GLOBAL_CTRL), GLOBAL_GP,
	       "reset: GLOBAL_CTRL enables all GP counters");
	for (n = 0; n < NR_GP; n++)
		gp |= rdmsr(IA32_PMC0 + n) | rdmsr(IA32_PERFEVTSEL0 + n);
	for_each_fixed(n)
		fixed |= rdmsr(IA32_FIXED_CTR0 + n);
	is_u64(gp, 0, "reset: GP counters and selectors are 0");
	is_u64(fixed | rdmsr(IA32_FIXED_CTR_CTRL), 0,
	       "reset: fixed counters and their control are 0");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "reset: GLOBAL_STATUS is 0");
	if (has_metrics)
		is_u64(rdmsr(IA32_PERF_METRICS), 0, "reset: PERF_METRICS is 0");
	is_u64(rdmsr(IA32_DEBUGCTL), 0, "reset: DEBUGCTL is 0");
}

static void check_cpuid(void)
{
	u32 a, b, c, d;

	cpuid(0xa, 0, &a, &b, &c, &d);
	is_u64(a & 0xff, 5, "CPUID.0AH: version 5");
	is_u64(a >> 8 & 0xff, NR_GP, "CPUID.0AH: GP counters");
	is_u64(a >> 16 & 0xff, 48, "CPUID.0AH: width of GP counters");
	is_u64(a >> 24, 8, "CPUID.0AH: 8 architectural events enumerated");
	is_u64(b, 0, "CPUID.0AH: all of them available");
	is_u64(d & 0x1f, __builtin_ctz(~c), "CPUID.0AH: fixed counters from 0 on without a gap");
	is_u64(d >> 5 & 0xff, 48, "CPUID.0AH: width of fixed counters");
	is_u64(d >> 15 & 1, 1, "CPUID.0AH: AnyThread deprecated");
	cpuid(1, 0, &a, &b, &c, &d);
	is_u64(c >> 15 & 1, 1, "CPUID.1: PDCM");
}

/* Write each bit alone: it sticks or it faults, and a fault changes nothing. */
static void check_control(const struct control *control)
{
	u64 valid = control->valid;
	u64 before, after, wrong_faults = 0, wrong_values = 0, vector;
	unsigned int bit;

	for (bit = 0; bit < 64; bit++) {
		before = rdmsr(control->msr);
		vector = wrmsr_safe(control->msr, BIT(bit));
		if (vector != (valid & BIT(bit) ? 0 : VEC_GP))
			wrong_faults |= BIT(bit);
		after = rdmsr(control->msr);
		if (control->reads_back && after != (vector ? before : BIT(bit)))
			wrong_values |= BIT(bit);
	}
	is_u64(wrong_faults, 0, "%s: #GP for reserved bits and for no other", control->name);
	is_u64(wrong_values, 0, "%s: reads back, #GP changes nothing", control->name);
	if (valid && control->reads_back)
		wrmsr(control->msr, 0);
}

static void check_controls(void)
{
	u64 metrics = has_metrics ? GLOBAL_METRICS : 0;
	u64 status = GLOBAL_ALL | metrics | BIT(55) | BIT(58) | BIT(59) | BIT(61) | BIT(62);
	const struct control controls[] = {
		{ "IA32_FIXED_CTR_CTRL", IA32_FIXED_CTR_CTRL, fixed_all(0xb), true },
		{ "IA32_PERF_GLOBAL_CTRL", IA32_PERF_GLOBAL_CTRL, GLOBAL_ALL | metrics, true },
		{ "IA32_PERF_GLOBAL_STATUS", IA32_PERF_GLOBAL_STATUS, 0, true },
		{ "IA32_PERF_GLOBAL_STATUS_RESET", IA32_PERF_GLOBAL_STATUS_RESET,
		  status | BIT(63), false },
		{ "IA32_PERF_GLOBAL_STATUS_SET", IA32_PERF_GLOBAL_STATUS_SET, status, false },
		{ "IA32_PERF_GLOBAL_INUSE", IA32_PERF_GLOBAL_INUSE, 0, true },
		{ "IA32_PERF_CAPABILITIES", IA32_PERF_CAPABILITIES, 0, true },
		{ "IA32_DEBUGCTL", IA32_DEBUGCTL, BIT(0) | BIT(1) | BIT(11) | BIT(12), true },
	};
	unsigned int n;

	for (n = 0; n < ARRAY_SIZE(controls); n++)
		check_control(&controls[n]);
	check_control(&(struct control) { "the first selector", IA32_PERFEVTSEL0, 0xffd7ffff, true });
	check_control(&(struct control) { "the last selector", IA32_PERFEVTSEL0 + NR_GP - 1,
					  0xffd7ffff, true });
	check_control(&(struct control) { "the first counter", IA32_A_PMC0, WIDTH_MASK, true });
	check_control(&(struct control) { "the last counter", IA32_A_PMC0 + NR_GP - 1,
					  WIDTH_MASK, true });
	for_each_fixed(n)
		check_control(&(struct control) { "a fixed counter", IA32_FIXED_CTR0 + n,
						  WIDTH_MASK, true });
}

static void check_absent(u32 msr, const char *name)
{
	u64 value;

	ok(rdmsr_safe(msr, &value) == VEC_GP && wrmsr_safe(msr, 0) == VEC_GP,
	   "%s: no such register", name);
}

static void check_read_only(u32 msr, const char *name)
{
	u64 value = rdmsr(msr);

	ok(wrmsr_safe(msr, value) == VEC_GP, "%s: #GP even if the value stays", name);
	is_u64(rdmsr(msr), value, "%s: unchanged", name);
}

static void check_legacy_counter(unsigned int n)
{
	u32 msr = IA32_PMC0 + n;

	wrmsr(msr, 0x12345678);
	is_u64(rdmsr(IA32_A_PMC0 + n), 0x12345678,
	       "IA32_A_PMC%u is another name of IA32_PMC%u", n, n);
	wrmsr(msr, 0x80000000);
	is_u64(rdmsr(msr), 0xffff80000000,
	       "IA32_PMC%u: bit 31 is extended to the counter's width", n);
	ok(!wrmsr_safe(msr, 0xdeadbeef7fffffff) && rdmsr(msr) == 0x7fffffff,
	   "IA32_PMC%u: the upper half of EDX:EAX is ignored", n);
	wrmsr(IA32_A_PMC0 + n, 0xfedcba987654);
	is_u64(rdmsr(msr), 0xfedcba987654, "IA32_PMC%u: reads all 48 bits", n);
	wrmsr(msr, 0);
}

static void check_misc_enable(void)
{
	u64 ro = BIT(7) | BIT(11) | BIT(12), value = rdmsr(IA32_MISC_ENABLE);

	is_u64(value & ro, ro, "IA32_MISC_ENABLE: perfmon available, no BTS, no PEBS");
	wrmsr(IA32_MISC_ENABLE, value & ~ro);
	is_u64(rdmsr(IA32_MISC_ENABLE), value, "IA32_MISC_ENABLE: these are read only");
	ok(wrmsr_safe(IA32_MISC_ENABLE, value | BIT(63)) == VEC_GP,
	   "IA32_MISC_ENABLE: #GP for a reserved bit");
}

static u64 user_vectors[2];

/* Runs in user mode. */
static void user_msr_access(void)
{
	u64 value;

	user_vectors[0] = rdmsr_safe(IA32_PMC0, &value);
	user_vectors[1] = wrmsr_safe(IA32_PMC0, 0);
	asm volatile("int $" STR(VEC_LEAVE_USER));
}

static void check_user_mode(void)
{
	set_gate(VEC_LEAVE_USER, leave_user);
	enter_user(user_msr_access, user_stack + sizeof(user_stack) - 8);
	ok(user_vectors[0] == VEC_GP && user_vectors[1] == VEC_GP,
	   "user mode: #GP for RDMSR and WRMSR");
}

static void check_inuse(void)
{
	unsigned int n;
	u64 bad = 0;

	pmu_reset();
	is_u64(rdmsr(IA32_PERF_GLOBAL_INUSE), 0, "INUSE: nothing");
	for (n = 0; n < NR_GP; n++) {
		wrmsr(IA32_PERFEVTSEL0 + n, EV_INSNS);
		if (rdmsr(IA32_PERF_GLOBAL_INUSE) != BIT(n))
			bad |= BIT(n);
		wrmsr(IA32_PERFEVTSEL0 + n, 0);
	}
	for_each_fixed(n) {
		wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(n, FIXED_USR));
		if (rdmsr(IA32_PERF_GLOBAL_INUSE) != BIT(32 + n))
			bad |= BIT(32 + n);
		wrmsr(IA32_FIXED_CTR_CTRL, 0);
	}
	is_u64(bad, 0, "INUSE: each counter by itself");
	wrmsr(IA32_PERFEVTSEL0, SEL_EN | SEL_OS | 0xff00);
	is_u64(rdmsr(IA32_PERF_GLOBAL_INUSE), 0, "INUSE: event select 0 is not in use");
	wrmsr(IA32_PERFEVTSEL0, SEL_INT);
	is_u64(rdmsr(IA32_PERF_GLOBAL_INUSE), BIT(63), "INUSE: PMI, GP counter");
	wrmsr(IA32_PERFEVTSEL0, 0);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(1, FIXED_PMI));
	is_u64(rdmsr(IA32_PERF_GLOBAL_INUSE), BIT(63), "INUSE: PMI, fixed counter");
	pmu_reset();
}

static void check_status(void)
{
	pmu_reset();
	wrmsr(IA32_PERF_GLOBAL_STATUS_SET, GLOBAL_ALL);
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), GLOBAL_ALL, "STATUS_SET sets");
	wrmsr(IA32_PERF_GLOBAL_STATUS_SET, 0);
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), GLOBAL_ALL, "STATUS_SET of 0 clears nothing");
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, BIT(3) | BIT(33));
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), GLOBAL_ALL & ~(BIT(3) | BIT(33)),
	       "STATUS_RESET clears what is asked for");
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, GLOBAL_ALL);
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "STATUS_RESET clears all");
}

static volatile u32 ap_version;

static void ap_read_version(void)
{
	u32 b, c, d;

	cpuid(0xa, 0, (u32 *)&ap_version, &b, &c, &d);
}

void check_intel_cpuid(unsigned int cpu)
{
	run_on(cpu, ap_read_version);
	is_u64(ap_version & 0xff, 5, "CPU %u: PerfMon version", cpu);
}

void test_intel_registers(void)
{
	unsigned int n;

	check_cpuid();
	check_reset_values();
	pmu_reset();
	is_u64(rdmsr(IA32_PERF_CAPABILITIES) & ~PERF_CAP_METRICS, PERF_CAP_FW_WRITES,
	       "PERF_CAPABILITIES: full-width writes, and but for PERF_METRICS nothing else");
	check_controls();
	for (n = 0; n < NR_GP; n++)
		check_legacy_counter(n);
	check_read_only(IA32_PERF_GLOBAL_STATUS, "IA32_PERF_GLOBAL_STATUS");
	check_read_only(IA32_PERF_GLOBAL_INUSE, "IA32_PERF_GLOBAL_INUSE");
	check_read_only(IA32_PERF_CAPABILITIES, "IA32_PERF_CAPABILITIES");
	check_absent(IA32_PMC0 + NR_GP, "IA32_PMC after the last");
	check_absent(IA32_A_PMC0 + NR_GP, "IA32_A_PMC after the last");
	check_absent(IA32_PERFEVTSEL0 + NR_GP, "IA32_PERFEVTSEL after the last");
	for (n = 0; n < MAX_FIXED; n++)
		if (!(pmu->fixed_counters & BIT(n)))
			check_absent(IA32_FIXED_CTR0 + n, "a fixed counter that there is not");
	check_misc_enable();
	check_user_mode();
	check_inuse();
	check_status();
}
