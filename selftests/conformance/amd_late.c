// SPDX-License-Identifier: GPL-2.0
/* AMD: interrupts whose counter overflowed on the other side of VMRUN or #VMEXIT. */
#include "late.h"
#include "svm.h"

extern char svm_gif_set[];

GUEST(amd_guest_700_nops, ".rept 700; nop; .endr");
GUEST(amd_guest_short, "nop; nop; vmmcall");

static void prepare(u64 where, u64 count)
{
	prepare_pmi(LVT_NMI);
	setup_pmc(0, AMD_INSNS | SEL_OS | SEL_INT | where);
	preset_pmc(0, count);
}

/* Whatever was on its way is there after this. */
static void wait_for_pmis(void)
{
	asm volatile(".rept 700; nop; .endr");
}

static bool in_guest(u64 rip)
{
	return rip >= (u64)amd_guest_100_nops && rip <= (u64)amd_guest_100_nops + 100;
}

static void check_guest_to_host(void)
{
	u64 delay = delay_of_at_least(1);

	/* VMRUN and 100 NOPs */
	prepare(GUEST_ONLY, 101);
	is_u64(svm_run(amd_guest_100_nops, CORE_ALL), VMEXIT_VMMCALL,
	       "late: the guest's last instruction overflows, and it leaves first");
	wait_for_pmis();
	is_u64(pmi_count, 1, "late: the interrupt arrives in the host");
	if (delay <= SVM_HOST_INSNS)
		is_u64(pmi_rip[0], (u64)svm_gif_set, "late: and waits there for STGI");
	else
		ok(pmi_rip[0] != (u64)svm_gif_set && !in_guest(pmi_rip[0]), "late: behind STGI");
}

static void check_host_to_guest(void)
{
	unsigned int round;
	u64 delay, bad = 0, bad_at = 0;

	VMCB32(VMCB_MISC1) |= MISC1_NMI;
	for (round = 0; round < 20; round++) {
		/* Of the host's instructions one counts before VMRUN. */
		prepare(HOST_ONLY, 1);
		delay = next_delay();
		if (svm_run(amd_guest_700_nops, CORE_ALL) != VMEXIT_NMI || pmi_count != 1 ||
		    VMCB64(VMCB_RIP) != (u64)amd_guest_700_nops + (delay ? delay - 1 : 0)) {
			bad++;
			bad_at = delay;
		}
	}
	VMCB32(VMCB_MISC1) &= ~MISC1_NMI;
	ok(!bad, "late: the host overflows, the interrupt arrives in the guest (%lu wrong, last %lu)",
	   bad, bad_at);
}

/* One interrupt, however often the guest is entered and left until it arrives */
static void check_many_exits(void)
{
	unsigned int exits = 0;

	if (!delay_of_at_least(40))
		return;
	VMCB32(VMCB_MISC1) |= MISC1_NMI;
	prepare(HOST_ONLY, 1);
	for (; !pmi_count && exits < 600; exits++)
		svm_run(amd_guest_short, CORE_ALL);
	VMCB32(VMCB_MISC1) &= ~MISC1_NMI;
	wait_for_pmis();
	is_u64(pmi_count, 1, "late: one interrupt after some #VMEXITs");
	ok(exits > 1 && exits < 600, "late: so many #VMEXITs (%u)", exits);
}

void test_amd_late_guests(void)
{
	if (!ok(svm_init(), "late: SVM"))
		return;
	check_guest_to_host();
	check_host_to_guest();
	check_many_exits();
	svm_exit();
}
