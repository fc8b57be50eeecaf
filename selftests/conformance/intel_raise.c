// SPDX-License-Identifier: GPL-2.0
/* Intel: interrupts on request in guests, and when they freeze. */
#include "raise.h"
#include "vmx.h"

/* Once so many instructions have retired in guests: each has 100 of them. */
static void check_in_guests(void)
{
	u64 insns, reason, bad = 0, bad_at = 0, runs;

	for (insns = 0; insns < 250; insns += insns < 5 ? 1 : 31) {
		prepare_raise(LVT_NMI);
		emucost_raise(0, EMUCOST_IN_GUESTS, insns, STATUS_TOPA_PMI);
		delay(5000);
		for (runs = 0; runs < 5; runs++) {
			reason = vmx_run(guest_100_nops, 0);
			if (reason != EXIT_REASON_VMCALL)
				break;
		}
		unblock_nmis();
		/* What is due with the last instruction comes before the VMCALL. */
		if (reason != EXIT_REASON_NMI || pmi_count ||
		    runs * 100 + vmread(VMCS_GUEST_RIP) - (u64)guest_100_nops != insns ||
		    rdmsr(IA32_PERF_GLOBAL_STATUS) != STATUS_TOPA_PMI) {
			bad++;
			bad_at = insns;
		}
	}
	ok(!bad, "raise: in guests, after so many of their instructions (%lu wrong, last %lu)",
	   bad, bad_at);
}

/* Of all that the host executes only VMRESUME has the interrupt arrive in the guest. */
static void check_entry(void)
{
	unsigned int insns, in_guest = 0, in_host = 0, at_start = 0;

	for (insns = 0; insns < UNTIL_GUEST; insns++) {
		prepare_raise(LVT_NMI);
		emucost_raise(0, EMUCOST_IN_HOST, insns, BIT(0));
		if (vmx_run(guest_100_nops, 0) == EXIT_REASON_NMI) {
			in_guest++;
			at_start += vmread(VMCS_GUEST_RIP) == (u64)guest_100_nops;
			unblock_nmis();
		}
		asm volatile(".rept 500; nop; .endr");
		in_host += pmi_count;
	}
	is_u64(in_guest + in_host, UNTIL_GUEST, "raise: one interrupt each time around VM-entry");
	is_u64(in_guest, 1, "raise: VMRESUME's arrives in the guest");
	is_u64(at_start, 1, "raise: before its first instruction");
}

/* Counters freeze because of counters and of PERF_METRICS, not because of others. */
static u64 count_behind(u64 status)
{
	prepare_raise(VEC_PMI | LVT_MASKED);
	wrmsr(IA32_DEBUGCTL, DEBUGCTL_FREEZE_PERFMON_ON_PMI);
	setup_pmc(0, EV_INSNS | SEL_OS);
	emucost_raise(0, EMUCOST_IN_HOST, 0, status);
	MEASURE(GLOBAL_ALL, ".rept 100; nop; .endr");
	return PMC(0);
}

static void check_freeze(void)
{
	is_u64(count_behind(BIT(3)), 0, "raise: a counter's bit freezes");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), BIT(3) | STATUS_CTR_FRZ, "raise: CTR_FRZ");
	if (has_metrics)
		is_u64(count_behind(GLOBAL_METRICS), 0, "raise: PERF_METRICS freezes");
	is_u64(count_behind(STATUS_TOPA_PMI), 100 + MEASURE_OVERHEAD, "raise: Intel PT does not");
	is_u64(rdmsr(IA32_PERF_GLOBAL_STATUS), STATUS_TOPA_PMI, "raise: no CTR_FRZ");
}

void test_intel_raise_guests(void)
{
	check_freeze();
	if (!ok(vmx_init(), "raise: VMX"))
		return;
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, 0);
	check_in_guests();
	check_entry();
	vmx_exit();
}
