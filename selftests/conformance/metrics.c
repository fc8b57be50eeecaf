// SPDX-License-Identifier: GPL-2.0
/* Performance Metrics: what becomes of the slots that fixed counter 3 counts. */
#include "vmx.h"

#define SLOTS		3	/* the fixed counter */
#define SLOTS_PER_CYCLE	6
#define ENABLE		(BIT(32 + SLOTS) | GLOBAL_METRICS)
#define RDPMC_METRICS	0x20000000
#define WRITTEN		0x123456789abcdef0

/* The emulator's model: the same for all slots. See patches/bochs-3.0/README.md. */
#define MODEL		0x40151515802a2b2a

static void count_slots(u64 ctrl_bits, u64 global_ctrl)
{
	pmu_reset();
	wrmsr(IA32_PERF_METRICS, WRITTEN);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(SLOTS, ctrl_bits));
	MEASURE(global_ctrl, ".rept 100; nop; .endr");
}

static void check_register(void)
{
	u64 value;

	wrmsr(IA32_PERF_METRICS, ~0ull);
	is_u64(rdmsr(IA32_PERF_METRICS), ~0ull, "PERF_METRICS: all bits can be written");
	wrmsr(IA32_PERF_METRICS, WRITTEN);
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN, "PERF_METRICS: reads back");
	is_u64(rdpmc_safe(RDPMC_METRICS, &value), 0, "PERF_METRICS: RDPMC");
	is_u64(value, WRITTEN, "PERF_METRICS: RDPMC reads it");
	is_u64(rdpmc_safe(RDPMC_METRICS | 1, &value), VEC_GP,
	       "PERF_METRICS: RDPMC knows no second one");
}

static void check_counting(void)
{
	unsigned int n;
	u64 sum = 0;

	count_slots(FIXED_OS, ENABLE);
	is_u64(FIXED(SLOTS), (100 + MEASURE_OVERHEAD) * SLOTS_PER_CYCLE, "PERF_METRICS: slots");
	is_u64(rdmsr(IA32_PERF_METRICS), MODEL, "PERF_METRICS: follows fixed counter 3");
	for (n = 0; n < 4; n++)
		sum += MODEL >> (n * 8) & 0xff;
	is_u64(sum, 0xff, "PERF_METRICS: the first four are all there is");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "PERF_METRICS: no overflow");

	count_slots(FIXED_OS, BIT(32 + SLOTS));
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN,
	       "PERF_METRICS: stands still without its bit in GLOBAL_CTRL");
	count_slots(FIXED_OS, GLOBAL_METRICS);
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN,
	       "PERF_METRICS: stands still without fixed counter 3");
	count_slots(FIXED_USR, ENABLE);
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN,
	       "PERF_METRICS: stands still in a mode that is not counted");
	count_slots(0, ENABLE);
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN,
	       "PERF_METRICS: stands still if nothing is counted");
}

static void check_guest(void)
{
	if (!ok(vmx_init(), "PERF_METRICS: VMX"))
		return;
	vmx_controls(PIN_NMI_EXITING, 0, 0, EXIT_LOAD_PERF_GLOBAL_CTRL | EXIT_SAVE_PERF_GLOBAL_CTRL,
		     ENTRY_LOAD_PERF_GLOBAL_CTRL);
	pmu_reset();
	wrmsr(IA32_PERF_METRICS, WRITTEN);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(SLOTS, FIXED_OS));
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, 0);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, 0);
	vmx_run(guest_100_nops, ENABLE & ~GLOBAL_METRICS);
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN, "PERF_METRICS: off on both sides");
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, ENABLE);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMCALL,
	       "PERF_METRICS: entry may load its bit");
	is_u64(vmread(VMCS_GUEST_PERF_GLOBAL_CTRL), ENABLE, "PERF_METRICS: exit saves its bit");
	is_u64(rdmsr(IA32_PERF_METRICS), MODEL, "PERF_METRICS: on in the guest");
	vmx_exit();
	pmu_reset();
	wrmsr(IA32_PERF_METRICS, 0);
}

static void check_absent(void)
{
	u64 value;

	is_u64(rdmsr_safe(IA32_PERF_METRICS, &value), VEC_GP, "without PERF_METRICS: RDMSR");
	is_u64(wrmsr_safe(IA32_PERF_METRICS, 0), VEC_GP, "without PERF_METRICS: WRMSR");
	is_u64(rdpmc_safe(RDPMC_METRICS, &value), VEC_GP, "without PERF_METRICS: RDPMC");
}

void test_metrics(void)
{
	if (!has_metrics) {
		check_absent();
		return;
	}
	check_register();
	check_counting();
	check_guest();
}
