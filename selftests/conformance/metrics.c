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

/* What there was before remains as long as it does not count. */
static void check_frozen(void)
{
	pmu_reset();
	wrmsr(IA32_PERF_METRICS, WRITTEN);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(SLOTS, FIXED_OS));
	wrmsr(IA32_PERF_GLOBAL_STATUS_SET, STATUS_CTR_FRZ);
	MEASURE(ENABLE, ".rept 100; nop; .endr");
	is_u64(FIXED(SLOTS), 0, "PERF_METRICS: frozen, there are no slots");
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN, "PERF_METRICS: stands still while frozen");
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, STATUS_CTR_FRZ);
	wrmsr(IA32_FIXED_CTR0 + SLOTS, 0x1234);
	is_u64(rdmsr(IA32_PERF_METRICS), WRITTEN,
	       "PERF_METRICS: a write to fixed counter 3 leaves it alone");
}

/* It never overflows here, but software may say that it did. */
static void check_status(void)
{
	pmu_reset();
	prepare_pmi(LVT_NMI);
	wrmsr(IA32_PERF_GLOBAL_STATUS_SET, GLOBAL_METRICS);
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), GLOBAL_METRICS,
	       "PERF_METRICS: STATUS_SET sets its overflow");
	asm volatile(".rept 10; nop; .endr");
	is_u64(pmi_count, 0, "PERF_METRICS: which causes no PMI");
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, GLOBAL_ALL);
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), GLOBAL_METRICS,
	       "PERF_METRICS: the counters' bits don't clear it");
	wrmsr(IA32_PERF_GLOBAL_STATUS_RESET, GLOBAL_METRICS);
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), 0, "PERF_METRICS: STATUS_RESET clears it");
	apic_write(APIC_LVTPC, LVT_MASKED);
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
	if (!ok(vmx_init(), "without PERF_METRICS: VMX"))
		return;
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, ENTRY_LOAD_PERF_GLOBAL_CTRL);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, GLOBAL_METRICS);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_BAD_GUEST,
	       "without PERF_METRICS: entry does not load its bit");
	vmx_exit();
}

void test_metrics(void)
{
	if (!has_metrics) {
		check_absent();
		return;
	}
	check_register();
	check_counting();
	check_frozen();
	check_status();
	check_guest();
}
