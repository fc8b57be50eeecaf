// SPDX-License-Identifier: GPL-2.0
/* Intel: interrupts whose counter overflowed on the other side of a VM-entry or VM-exit. */
#include "late.h"
#include "vmx.h"

#define HOST	BIT(0)	/* the counter of the host's instructions, in GLOBAL_CTRL */
#define GUEST	BIT(1)	/* and that of the guest's */

extern char vmx_exited[];

/* Let counter n overflow after count instructions of its side. */
static void prepare(unsigned int n, u64 count)
{
	prepare_pmi(LVT_NMI);
	setup_pmc(n, EV_INSNS | SEL_OS | SEL_INT);
	preset_pmc(n, count);
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, GUEST);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, 0);
}

/* Whatever was on its way is there after this. */
static void wait_for_pmis(void)
{
	asm volatile(".rept 700; nop; .endr");
}

static bool in_guest(u64 rip)
{
	return rip >= (u64)guest_100_nops && rip <= (u64)guest_100_nops + 100;
}

static void check_guest_to_host(void)
{
	u64 delay = delay_of_at_least(1);

	prepare(1, 100);
	is_u64(vmx_run(guest_100_nops, 0), EXIT_REASON_VMCALL,
	       "late: the guest's last instruction overflows, and it leaves first");
	wait_for_pmis();
	is_u64(pmi_count, 1, "late: the interrupt arrives in the host");
	ok(!in_guest(pmi_rip[0]), "late: at the host's RIP");
	if (delay == 1)
		is_u64(pmi_rip[0], (u64)vmx_exited + 5, "late: after the host's first instruction");
}

static void check_host_to_guest(void)
{
	unsigned int round;
	u64 delay, bad = 0, bad_at = 0, leaked = 0;

	for (round = 0; round < 20; round++) {
		/* VMRESUME is the host's, and the first that counts. */
		prepare(0, 1);
		delay = next_delay();
		if (vmx_run(guest_5000_nops, HOST) != EXIT_REASON_NMI ||
		    vmread(VMCS_GUEST_RIP) != (u64)guest_5000_nops + delay) {
			bad++;
			bad_at = delay;
		}
		unblock_nmis();
		wait_for_pmis();
		leaked += pmi_count;
	}
	ok(!bad, "late: VMRESUME overflows, the interrupt arrives in the guest (%lu wrong, last %lu)",
	   bad, bad_at);
	is_u64(leaked, 0, "late: and nowhere else");
}

/* One interrupt, however often the guest is entered and left until it arrives */
static void check_many_exits(void)
{
	unsigned int exits = 0, arrived_in_guest = 0;

	if (!delay_of_at_least(40))
		return;
	prepare(0, 1);
	while (!pmi_count && !arrived_in_guest && exits < 600) {
		arrived_in_guest += vmx_run(guest_cpuid, HOST) == EXIT_REASON_NMI;
		exits++;
	}
	if (arrived_in_guest)
		unblock_nmis();
	wait_for_pmis();
	is_u64(pmi_count + arrived_in_guest, 1, "late: one interrupt after some VM-exits");
	ok(exits > 1 && exits < 600, "late: so many VM-exits (%u)", exits);
}

/* The overflow freezes, not the interrupt. */
static void check_freeze(void)
{
	if (!delay_of_at_least(20))
		return;
	prepare_overflow(LVT_NMI, EV_INSNS, 10);
	setup_pmc(1, EV_INSNS | SEL_OS);
	wrmsr(IA32_DEBUGCTL, DEBUGCTL_FREEZE_PERFMON_ON_PMI);
	run_sled();
	is_u64(pmi_count, 1, "late, freeze on PMI: PMI");
	is_u64(seen_in_pmi.status, BIT(0) | STATUS_CTR_FRZ, "late, freeze on PMI: CTR_FRZ");
	is_u64(seen_in_pmi.counter, 0, "late, freeze on PMI: the counter stopped as it overflowed");
	is_u64(PMC(1), 10, "late, freeze on PMI: another one stopped with it");
}

void test_intel_late_guests(void)
{
	check_freeze();
	if (!ok(vmx_init(), "late: VMX"))
		return;
	vmx_controls(PIN_NMI_EXITING, 0, 0, EXIT_LOAD_PERF_GLOBAL_CTRL | EXIT_SAVE_PERF_GLOBAL_CTRL,
		     ENTRY_LOAD_PERF_GLOBAL_CTRL);
	check_guest_to_host();
	check_host_to_guest();
	check_many_exits();
	vmx_exit();
}
