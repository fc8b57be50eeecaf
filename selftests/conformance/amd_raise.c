// SPDX-License-Identifier: GPL-2.0
/* AMD: interrupts on request in guests. */
#include "raise.h"
#include "svm.h"

/* Once so many instructions have retired in guests: each has 100 of them. */
static void check_in_guests(void)
{
	u64 insns, code, bad = 0, bad_at = 0, runs;

	for (insns = 0; insns < 250; insns += insns < 5 ? 1 : 31) {
		prepare_raise(LVT_NMI);
		emucost_raise(0, EMUCOST_IN_GUESTS, insns, BIT(5));
		delay(5000);
		for (runs = 0; runs < 5; runs++) {
			code = svm_run(amd_guest_100_nops, 0);
			if (code != VMEXIT_VMMCALL)
				break;
		}
		/* What is due with the last instruction comes before the VMMCALL. */
		if (code != VMEXIT_NMI || pmi_count != 1 ||
		    runs * 100 + VMCB64(VMCB_RIP) - (u64)amd_guest_100_nops != insns ||
		    rdmsr(PERF_GLOBAL_STATUS) != BIT(5)) {
			bad++;
			bad_at = insns;
		}
	}
	ok(!bad, "raise: in guests, after so many of their instructions (%lu wrong, last %lu)",
	   bad, bad_at);
}

/* From CLGI on all that the host executes has the interrupt arrive in the guest. */
static void check_entry(void)
{
	unsigned int insns, in_guest = 0, arrived = 0, at_start = 0;

	for (insns = 0; insns < UNTIL_GUEST; insns++) {
		prepare_raise(LVT_NMI);
		emucost_raise(0, EMUCOST_IN_HOST, insns, BIT(0));
		if (svm_run(amd_guest_100_nops, 0) == VMEXIT_NMI) {
			in_guest++;
			at_start += VMCB64(VMCB_RIP) == (u64)amd_guest_100_nops;
		}
		asm volatile(".rept 500; nop; .endr");
		arrived += pmi_count;
	}
	is_u64(arrived, UNTIL_GUEST, "raise: one interrupt each time around VMRUN");
	/* CLGI itself, what follows it in svm_enter(), and VMRUN */
	is_u64(in_guest, 10, "raise: those since CLGI arrive in the guest");
	is_u64(at_start, in_guest, "raise: before its first instruction");
}

void test_amd_raise_guests(void)
{
	if (!ok(svm_init(), "raise: SVM"))
		return;
	VMCB32(VMCB_MISC1) |= MISC1_NMI;
	check_in_guests();
	check_entry();
	svm_exit();
}
