/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What something costs, counted by the emulator that the tests run in. Apart from
 * emucost.h because the C library's port I/O and that of KVM's selftests don't
 * go together.
 */
#ifndef SELFTEST_COST_H
#define SELFTEST_COST_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct cost - what the host did, outside of guests
 * @insns: instructions that it retired
 * @wrmsr: WRMSRs among them
 * @rdmsr: RDMSRs among them
 * @rdpmc: RDPMCs among them
 * @exits: VM-exits
 */
struct cost {
	uint64_t insns;
	uint64_t wrmsr;
	uint64_t rdmsr;
	uint64_t rdpmc;
	uint64_t exits;
};

/* Are there cost counters? From then on the calling thread may use them. */
bool cost_is_available(void);

/* What CPUs 0 to @nr_cpus - 1 have done up to now. */
struct cost cost_now(int nr_cpus);

/* What was done from @from to @to. */
struct cost cost_between(const struct cost *from, const struct cost *to);

/*
 * Instructions that @cpu retires outside of guests while @call runs, the least
 * of @rounds, so that an interrupt in between doesn't matter. The caller has
 * to run on @cpu.
 */
uint64_t cost_host_insns(int cpu, int rounds, void (*call)(void *), void *arg);

/*
 * Has @cpu raise an interrupt by LVTPC that no counter caused, and set @status in its
 * global status, when it has retired @insns more instructions in guests. How many of
 * these interrupts there were up to now.
 */
void cost_raise_in_guests(int cpu, uint64_t insns, uint64_t status);
uint64_t cost_raised(void);

/* How many instructions, at most, an overflow's interrupt comes late. */
uint64_t cost_pmi_delay(void);

#endif /* SELFTEST_COST_H */
